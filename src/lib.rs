//! mxfleet: a fleet of MX hosts that behaves as one mail relay.

pub mod bounce;
pub mod cli;
pub mod client;
pub mod config;
pub mod connection;
pub mod dev;
pub mod fleet;
pub mod http;
pub mod node;
pub mod policy;
pub mod route;
pub mod schedule;
pub mod session;
pub mod smtp;
pub mod spool;
pub mod system;
pub mod telemetry;
pub mod verdict;
pub mod worker;
