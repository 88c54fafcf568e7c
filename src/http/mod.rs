//! HTTP: the admin API on its own socket, health and metrics. Public pages never hold admin calls.

pub mod admin;
mod blacklist;
pub mod call;
pub mod client;
pub mod members;
pub mod public;
pub mod queue;
pub mod tables;
