//! Moving MX names and hosts without losing mail: DNS, drain, traffic.
//!
//! What is to be is in the replicated state; this is what makes it so.

mod dns;
mod leaving;
pub mod records;
mod traffic;

pub use dns::DnsPublisher;
pub use leaving::Leaving;
pub use traffic::TrafficMeter;
