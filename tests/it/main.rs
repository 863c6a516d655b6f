mod objects_conformance;
