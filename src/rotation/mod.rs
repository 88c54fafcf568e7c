//! Moving MX names and hosts without losing mail: DNS, drain and hand-over, customer notices.
//!
//! What is to be is in the replicated state; this is what makes it so.

mod dns;
pub mod records;
mod traffic;

pub use dns::DnsPublisher;
pub use traffic::TrafficMeter;
