//! What an operator sees from outside: metrics and the delivery log.

pub mod delivery_log;
pub mod metrics;
