//! What we take from the operating system: wall time and entropy. The only place that asks for it.

pub mod clock;
pub mod pid_file;
pub mod random;
