//! Moving MX names and hosts without losing mail: DNS, drain, traffic.
//!
//! What is to be is in the replicated state; this is what makes it so.

mod acme;
pub mod certificates;
mod dns;
mod hand_over;
mod migration;
pub mod records;
mod traffic;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mxfleet_cluster::Cluster;
use tokio_util::sync::CancellationToken;

pub use self::acme::Acme;
use self::acme::CertificateIssuer;
use self::certificates::CertificateKeeper;
use self::dns::DnsPublisher;
use self::hand_over::HandOver;
use self::migration::Mailer;
pub use self::migration::Surveyor;
pub use self::traffic::TrafficMeter;
use crate::connection::{Service, TlsIdentity};
use crate::letters::Letters;
use crate::post::Post;
use crate::route::Dns;

/// Whether there is a key for changes of DNS in this file.
///
/// # Errors
///
/// What is wrong with it.
pub fn check_tsig_key(file: &Path) -> Result<(), impl std::fmt::Display + use<>> {
    dns::check_key(file)
}

/// This node's part in moving names and hosts.
#[derive(Clone)]
pub struct Rotation {
    traffic: TrafficMeter,
    dns: DnsPublisher,
    hand_over: HandOver,
    mailer: Mailer,
    surveyor: Surveyor,
    certificates: CertificateKeeper,
    issuer: CertificateIssuer,
}

/// What it is made of.
pub struct Parts {
    /// The replicated state.
    pub cluster: Cluster,
    /// The queue, and how a letter gets into it.
    pub post: Post,
    /// Follows what the fleet wants of this host.
    pub service: Service,
    /// This node's id.
    pub node: u64,
    /// The key that changes of DNS are signed with.
    pub tsig_key_file: Option<PathBuf>,
    /// How an ACME server is asked for certificates.
    pub acme: Acme,
    /// What became of letters to customers.
    pub letters: Letters,
    /// Asks what customers' MX records say now.
    pub dns: Dns,
    /// The certificates that are shown.
    pub tls: Arc<TlsIdentity>,
}

impl Rotation {
    /// Put the parts together.
    pub fn new(parts: Parts) -> Self {
        let Parts { cluster, post, service, node, letters, dns, .. } = parts;
        let hand_over = HandOver::new(hand_over::Parts {
            cluster: cluster.clone(),
            spool: post.spool.clone(),
            deliveries: post.deliveries.clone(),
            service,
            node,
            letters: letters.clone(),
        });
        let mailer = Mailer { cluster: cluster.clone(), post, letters, node };
        let publisher = DnsPublisher::new(cluster.clone(), parts.tsig_key_file);
        Self {
            traffic: TrafficMeter::new(cluster.clone()),
            issuer: CertificateIssuer::new(cluster.clone(), publisher.clone(), parts.acme),
            dns: publisher,
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

    /// Asks what customers' MX records say.
    pub fn surveyor(&self) -> Surveyor {
        self.surveyor.clone()
    }

    /// Do this node's part until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let work = async {
            tokio::join!(
                self.mailer.run(),
                self.surveyor.run(),
                self.certificates.run(),
                self.issuer.run()
            )
        };
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
