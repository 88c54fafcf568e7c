//! What an operator sees from outside: metrics, the delivery log, the node's own log.

pub mod delivery_log;
pub mod journal;
pub mod metrics;
mod peers;
pub mod tracing;
