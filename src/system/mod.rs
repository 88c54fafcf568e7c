//! What we take from the operating system: wall time, entropy, and what a supervisor gives. The
//! only place that asks for it.

pub mod client_network;
pub mod clock;
pub mod pid_file;
pub mod random;
pub mod supervisor;
