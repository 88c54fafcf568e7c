//! Anything a node keeps or is sent, as the codec meets it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mxfleet_cluster::fuzzing::decode(data));
