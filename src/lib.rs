//! mxfleet: a fleet of MX hosts that behaves as one mail relay.

pub mod config;
pub mod connection;
pub mod policy;
pub mod session;
pub mod smtp;
pub mod spool;
pub mod system;
pub mod telemetry;
