//! The `mxfleet` program.
fn main() {}
