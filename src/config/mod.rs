//! The host's own settings: addresses, paths and limits. What the fleet shares is in the cluster.

pub mod limits;

pub use limits::Limits;
