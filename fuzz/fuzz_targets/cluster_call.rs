//! A call from another node, and what its requests do to the state.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    mxfleet_cluster::fuzzing::call(data);
    mxfleet_cluster::fuzzing::requests(data);
});
