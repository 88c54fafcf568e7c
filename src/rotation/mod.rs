//! Moving MX names and hosts without losing mail: DNS, drain and hand-over, customer notices.
//!
//! What is to be is in the replicated state; this is what makes it so.

mod dns;
mod hand_over;
pub mod records;
mod traffic;

use std::path::PathBuf;

use mxfleet_cluster::Cluster;
use tokio_util::sync::CancellationToken;

use self::dns::DnsPublisher;
use self::hand_over::HandOver;
pub use self::traffic::TrafficMeter;
use crate::connection::Service;
use crate::spool::Spool;
use crate::worker::Deliveries;

/// This node's part in moving names and hosts.
#[derive(Debug, Clone)]
pub struct Rotation {
    traffic: TrafficMeter,
    dns: DnsPublisher,
    hand_over: HandOver,
}

/// What it is made of.
pub struct Parts {
    /// The replicated state.
    pub cluster: Cluster,
    /// The queue on disk.
    pub spool: Spool,
    /// The queue in memory.
    pub deliveries: Deliveries,
    /// Follows what the fleet wants of this host.
    pub service: Service,
    /// This node's id.
    pub node: u64,
    /// The key that changes of DNS are signed with.
    pub tsig_key_file: Option<PathBuf>,
}

impl Rotation {
    /// Put the parts together.
    pub fn new(parts: Parts) -> Self {
        let cluster = parts.cluster;
        Self {
            traffic: TrafficMeter::new(cluster.clone()),
            dns: DnsPublisher::new(cluster.clone(), parts.tsig_key_file),
            hand_over: HandOver::new(
                cluster,
                parts.spool,
                parts.deliveries,
                parts.service,
                parts.node,
            ),
        }
    }

    /// Counts what comes.
    pub fn traffic(&self) -> TrafficMeter {
        self.traffic.clone()
    }

    /// Do this node's part until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        tokio::join!(
            self.traffic.run(stop.clone()),
            self.dns.run(stop.clone()),
            self.hand_over.run(stop),
        );
    }
}
