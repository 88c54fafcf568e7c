//! Self-help: looking at customers' servers as a sender would see them.
//!
//! **Invariant:** only servers of domains in the table are looked at, at the address that was
//! checked, and nothing is sent to them. For everybody but operators that address is a public one.

mod public_address;
mod turns;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mxfleet_cluster::{Cluster, TlsPolicy};
use tokio::sync::mpsc;

use crate::client::{Client, ClientError, Finding, Grade, Hop, Roots, Step};
use crate::config::Limits;
use crate::route::{Dns, RouteFailure, Router};
use crate::smtp::Address;

pub use turns::{Busy, Turn, Turns};

/// Time for one address of a server, whatever it does.
const EXAMINATION: Duration = Duration::from_secs(10);
/// Of that, for the connection and for each reply.
const CONNECT_MS: u64 = 4_000;
const REPLY_MS: u64 = 6_000;
/// What a server may say in one reply.
const REPLY_OCTETS_MAX: usize = 8 * 1024;
/// Findings of one address that wait to be read; it never has as many.
const FINDINGS_MAX: usize = 32;
/// Servers and addresses in all; delivery tries fewer of them.
const ADDRESSES_MAX: usize = 16;
/// The name below a domain that says who may have it tested.
pub const PROOF_LABEL: &str = "_mxfleet";

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// An operator, who has set the route.
    Operator,
    /// Somebody on the site.
    Visitor,
}

/// One address of a server, and what is found there as it comes.
#[derive(Debug)]
pub struct Examined {
    /// The server's name.
    pub server: String,
    /// `None` when it has none.
    pub address: Option<SocketAddr>,
    /// What is found; closed at the end.
    pub findings: mpsc::Receiver<Finding>,
}

/// Looks at servers. Clones share the turns.
#[derive(Clone)]
pub struct Prober {
    cluster: Cluster,
    router: Router,
    dns: Dns,
    client: Arc<Client>,
    allow_loopback: bool,
    /// Who may look when.
    pub turns: Turns,
}

/// What a prober is made of.
pub struct Parts<'a> {
    /// The fleet's tables.
    pub cluster: Cluster,
    /// Finds servers.
    pub router: Router,
    /// Asks name servers.
    pub dns: Dns,
    /// What this host calls itself.
    pub hostname: &'a str,
    /// Bounds of all connections; those of a probe are tighter.
    pub limits: &'a Limits,
    /// Roots for certificates.
    pub roots: &'a Roots,
    /// Servers may be on this host.
    pub allow_loopback: bool,
}

impl Prober {
    /// A prober with nobody waiting.
    pub fn new(parts: Parts<'_>) -> Result<Self, ClientError> {
        let limits = Limits {
            connect_timeout_ms: parts.limits.connect_timeout_ms.min(CONNECT_MS),
            reply_timeout_ms: parts.limits.reply_timeout_ms.min(REPLY_MS),
            tls_handshake_timeout_ms: parts.limits.tls_handshake_timeout_ms.min(REPLY_MS),
            reply_octets_max: parts.limits.reply_octets_max.min(REPLY_OCTETS_MAX),
            ..parts.limits.clone()
        };
        let client = Client::new(parts.hostname.to_owned(), Arc::new(limits), parts.roots)?;
        Ok(Self {
            cluster: parts.cluster,
            router: parts.router,
            dns: parts.dns,
            client: Arc::new(client),
            allow_loopback: parts.allow_loopback,
            turns: Turns::default(),
        })
    }

    /// Look at all servers of a customer's domain at once. Whoever drops the result ends it.
    pub async fn mx(&self, domain: &str, asker: Asker) -> Result<Vec<Examined>, RouteFailure> {
        let tls = self.cluster.view().domain(domain).map(|row| row.tls.clone());
        let postmaster = Address::parse(&format!("postmaster@{domain}"), false)
            .map_err(|_| RouteFailure::NotServed(domain.to_owned()))?;
        let servers = self.router.servers(domain).await?.into_iter();
        let places = servers.flat_map(|server| match server.addresses {
            Ok(all) => all.into_iter().map(|at| (server.name.clone(), Ok(at))).collect(),
            Err(why) => vec![(server.name, Err(why))],
        });
        let look = |(server, place): (String, Result<SocketAddr, RouteFailure>)| match place {
            Ok(address) if asker == Asker::Operator || self.is_for_visitors(address) => {
                self.examine(server, address, tls.as_ref(), &postmaster)
            }
            // Where it is says something of our own network: that is not for everybody.
            Ok(_) => unreachable(server, "its address is not a public one"),
            Err(why) => unreachable(server, &why.to_string()),
        };
        Ok(places.take(ADDRESSES_MAX).map(look).collect())
    }

    fn is_for_visitors(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        public_address::is_public(ip) || (self.allow_loopback && ip.is_loopback())
    }

    fn examine(
        &self,
        server: String,
        address: SocketAddr,
        tls: Option<&TlsPolicy>,
        postmaster: &Address,
    ) -> Examined {
        let (tell, findings) = mpsc::channel(FINDINGS_MAX);
        let tls = tls.cloned().unwrap_or(TlsPolicy::Opportunistic);
        let hop = Hop { name: server.clone(), address, tls };
        let (client, postmaster) = (Arc::clone(&self.client), postmaster.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = client.examine(&hop, &postmaster, EXAMINATION, &tell) => {}
                () = tell.closed() => {}
            }
        });
        Examined { server, address: Some(address), findings }
    }

    /// Whether a domain's DNS has this code, which whoever controls it was asked to put there.
    pub async fn is_proven(&self, domain: &str, code: &str) -> Result<bool, RouteFailure> {
        let texts = self.dns.texts(&format!("{PROOF_LABEL}.{domain}")).await?;
        Ok(texts.iter().any(|text| text.trim() == proof(code)))
    }

    /// The MX records that a domain has now: preference and name, in order.
    pub async fn records(&self, domain: &str) -> Result<Vec<(u16, String)>, RouteFailure> {
        let mut records = self.dns.exchangers(domain).await?;
        records.iter_mut().for_each(|(_, name)| {
            *name = name.trim_end_matches('.').to_ascii_lowercase();
        });
        records.sort();
        Ok(records)
    }
}

/// What the record that proves control says.
pub fn proof(code: &str) -> String {
    format!("test={code}")
}

fn unreachable(server: String, why: &str) -> Examined {
    let (tell, findings) = mpsc::channel(1);
    // There is room for it.
    let _ = tell.try_send(Finding::new(Step::Resolve, Grade::Bad, why));
    Examined { server, address: None, findings }
}
