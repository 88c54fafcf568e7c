//! What an operator sees from outside: metrics, the delivery log, the node's own log.

pub mod cluster;
pub mod delivery_log;
pub mod journal;
pub mod metrics;
pub mod tracing;
