//! Self-help: looking at customers' servers as a sender would see them, from every node.
//!
//! **Invariant:** only servers of domains in the table are looked at, at the address that was
//! checked, and nothing is sent to them. For everybody but operators that address is a public one.
//! Each node sees to that itself, whoever asks.

mod ping;
mod public_address;
mod report;
mod side_by_side;
#[cfg(test)]
mod tests;
mod traceroute;
mod turns;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mxfleet_cluster::{Cluster, TlsPolicy, Topic};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client::{Client, ClientError, Hop, Roots};
use crate::config::Limits;
use crate::fleet_wide::{Answers, FleetWide, PATIENCE};
use crate::route::{Dns, RouteFailure, Router};
use crate::smtp::Address;

pub use report::{Asker, Finding, Question, Report, Seen, Tool, What};
pub use side_by_side::SideBySide;
pub use turns::{Busy, Turn, Turns};

/// Time for one address of a server, whatever it does: less than a node is waited for.
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
/// Domains that this node looks at at a time for visitors, its own and those of other nodes.
const LOOKS_MAX: usize = 60;
/// The name below a domain that says who may have it tested.
pub const PROOF_LABEL: &str = "_mxfleet";

/// Looks from every node.
pub type Probes = FleetWide<Prober>;

/// Looks at servers from this node. Clones share the turns.
#[derive(Clone)]
pub struct Prober {
    cluster: Cluster,
    router: Router,
    dns: Dns,
    client: Arc<Client>,
    allow_loopback: bool,
    looks: Arc<Semaphore>,
    /// Who may look when.
    pub turns: Turns,
}

/// What is looked for at each address.
struct Look {
    question: Question,
    postmaster: Address,
    tls: TlsPolicy,
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
            looks: Arc::new(Semaphore::new(LOOKS_MAX)),
            turns: Turns::default(),
        })
    }

    /// Look at all servers of a customer's domain at once. Whoever drops the future ends it.
    async fn look(&self, question: Question) -> Result<Report, RouteFailure> {
        let domain = &question.domain;
        let servers = self.router.servers(domain).await?.into_iter();
        let postmaster = Address::parse(&format!("postmaster@{domain}"), false)
            .map_err(|_| RouteFailure::NotServed(domain.clone()))?;
        let tls = self.cluster.view().domain(domain).map(|row| row.tls.clone());
        let tls = tls.unwrap_or(TlsPolicy::Opportunistic);
        let look = Arc::new(Look { question, postmaster, tls });
        let places = servers.flat_map(|server| match server.addresses {
            Ok(all) => all.into_iter().map(|at| (server.name.clone(), Ok(at))).collect(),
            Err(why) => vec![(server.name, Err(why))],
        });
        let mut looks = JoinSet::new();
        for (place, (server, address)) in places.take(ADDRESSES_MAX).enumerate() {
            let (prober, look) = (self.clone(), Arc::clone(&look));
            looks.spawn(async move { (place, prober.look_at(server, address, &look).await) });
        }
        let mut seen = looks.join_all().await;
        seen.sort_by_key(|(place, _)| *place);
        Ok(Report { servers: seen.into_iter().map(|(_, seen)| seen).collect() })
    }

    async fn look_at(
        &self,
        server: String,
        address: Result<SocketAddr, RouteFailure>,
        look: &Look,
    ) -> Seen {
        let asker = look.question.asker;
        let address = match address {
            Ok(address) if self.may_be_seen(address.ip(), asker) => address,
            // Where it is says something of our own network: that is not for everybody.
            Ok(_) => return Seen::nowhere(server, "its address is not a public one"),
            Err(why) => return Seen::nowhere(server, &why.to_string()),
        };
        let hop = Hop { name: server.clone(), address, tls: look.tls.clone() };
        let findings = match look.question.tool {
            Tool::Mx => self.examine(&hop, &look.postmaster).await,
            Tool::Smtp => {
                let said = self.client.converse(&hop, &look.postmaster, EXAMINATION).await;
                said.into_iter().map(Finding::from).collect()
            }
            Tool::Ping => ping::ping(address).await,
            Tool::Traceroute => traceroute::trace(address, |ip| self.may_be_seen(ip, asker)).await,
        };
        Seen { server, address: Some(address), findings }
    }

    /// Visitors are shown public addresses only.
    fn may_be_seen(&self, ip: IpAddr, asker: Asker) -> bool {
        let ip = ip.to_canonical();
        asker == Asker::Operator
            || public_address::is_public(ip)
            || (self.allow_loopback && ip.is_loopback())
    }

    async fn examine(&self, hop: &Hop, postmaster: &Address) -> Vec<Finding> {
        let (tell, mut told) = mpsc::channel(FINDINGS_MAX);
        self.client.examine(hop, postmaster, EXAMINATION, &tell).await;
        drop(tell);
        let mut findings = Vec::new();
        while let Some(finding) = told.recv().await {
            findings.push(finding.into());
        }
        findings
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

impl Answers for Prober {
    const TOPIC: Topic = Topic::PROBE;
    type Question = Question;
    type Answer = Report;

    async fn answer(&self, question: Question) -> Result<Report, String> {
        let _look = match question.asker {
            Asker::Operator => None,
            Asker::Visitor => match self.looks.try_acquire() {
                Ok(look) => Some(look),
                Err(_) => {
                    return Err("many tests are running here, please wait a minute".to_owned());
                }
            },
        };
        // By then nobody waits for it any more.
        match timeout(PATIENCE, self.look(question)).await {
            Ok(looked) => looked.map_err(|error| error.to_string()),
            Err(_) => Err(format!("it took longer than {} seconds", PATIENCE.as_secs())),
        }
    }
}

/// What the record that proves control says.
pub fn proof(code: &str) -> String {
    format!("test={code}")
}
