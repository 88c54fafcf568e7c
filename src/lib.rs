//! mxfleet: a fleet of MX hosts that behaves as one mail relay.

pub mod bounce;
pub mod client;
pub mod config;
pub mod route;
pub mod schedule;
pub mod smtp;
pub mod spool;
pub mod system;
pub mod telemetry;
pub mod verdict;
pub mod worker;
