#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| box_service::http::fuzzing::link(input));
