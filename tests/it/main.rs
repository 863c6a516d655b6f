mod objects_conformance;
mod objects_s3_faults;
