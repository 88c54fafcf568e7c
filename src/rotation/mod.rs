//! Moving MX names and hosts without losing mail: DNS, drain, traffic.
//!
//! What is to be is in the replicated state; this is what makes it so.

mod certificates;
mod dns;
mod hand_over;
mod migration;
pub mod records;
mod traffic;

use std::path::PathBuf;
use std::sync::Arc;

use mxfleet_cluster::Cluster;
use tokio_util::sync::CancellationToken;

use self::certificates::CertificateKeeper;
use self::dns::DnsPublisher;
use self::hand_over::HandOver;
use self::migration::{Mailer, Surveyor};
pub use self::traffic::TrafficMeter;
use crate::connection::{Service, TlsIdentity};
use crate::letters::Letters;
use crate::route::Dns;
use crate::spool::Spool;
use crate::worker::Deliveries;

/// This node's part in moving names and hosts.
#[derive(Clone)]
pub struct Rotation {
    traffic: TrafficMeter,
    dns: DnsPublisher,
    hand_over: HandOver,
    mailer: Mailer,
    surveyor: Surveyor,
    certificates: CertificateKeeper,
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
    /// What became of letters to customers.
    pub letters: Letters,
    /// Asks what customers' MX records say.
    pub dns: Dns,
    /// What this host calls itself.
    pub hostname: String,
    /// The certificates that are shown.
    pub tls: Arc<TlsIdentity>,
}

impl Rotation {
    /// Put the parts together.
    pub fn new(parts: Parts) -> Self {
        let Parts { cluster, spool, deliveries, service, node, letters, dns, hostname, .. } = parts;
        let hand_over = HandOver::new(hand_over::Parts {
            cluster: cluster.clone(),
            spool: spool.clone(),
            deliveries: deliveries.clone(),
            service,
            node,
            letters: letters.clone(),
        });
        let mailer =
            Mailer { cluster: cluster.clone(), spool, deliveries, letters, node, hostname };
        Self {
            traffic: TrafficMeter::new(cluster.clone()),
            dns: DnsPublisher::new(cluster.clone(), parts.tsig_key_file),
            hand_over,
            mailer,
            certificates: CertificateKeeper { cluster: cluster.clone(), tls: parts.tls, node },
            surveyor: Surveyor { cluster, dns },
        }
    }

    /// Counts what comes.
    pub fn traffic(&self) -> TrafficMeter {
        self.traffic.clone()
    }

    /// Do this node's part until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let work =
            async { tokio::join!(self.mailer.run(), self.surveyor.run(), self.certificates.run()) };
        tokio::join!(
            self.traffic.run(stop.clone()),
            self.dns.run(stop.clone()),
            self.hand_over.run(stop.clone()),
            stop.run_until_cancelled(work),
        );
    }
}

impl std::fmt::Debug for Rotation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rotation").finish_non_exhaustive()
    }
}
