//! A snapshot that came from another node.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mxfleet_cluster::fuzzing::snapshot(data));
