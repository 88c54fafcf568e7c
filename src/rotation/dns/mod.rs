//! DNS follows the replicated state: the leader publishes what MX names point at, and what it then
//! reads from every authority is what the fleet believes.
//!
//! One round: read what the primary says; if that differs from what shall be, send one update
//! (RFC 2136) that takes effect as a whole and only on what was read; then read from every server.
//! A name has moved when all of them say so. Whatever stands in the way is told to the fleet, so
//! that an operator sees it on any node.

mod claims;
mod exchange;
mod key;
mod keys;
mod primary;
mod sets;
mod update;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::rr::RecordType;
use mxfleet_cluster::{Cluster, Command, MxName, NameCommand, Request, State, random_id};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::claims::Claims;
use self::exchange::{ExchangeError, read_sets};
use self::key::KeyError;
use self::primary::{Brought, Primary};
use self::sets::{Data, Set, SetName, Sets, differences, wanted};
use crate::system::clock::wall_ms;
use crate::telemetry::metrics::METRICS;

/// How often it is looked whether there is something to do.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often a change that has not come about is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(2);
/// How often it is looked whether somebody else changed something.
const DRIFT_EVERY: Duration = Duration::from_mins(1);
/// Time to live of a text that is there for a moment only, in seconds.
const TEXT_TTL_S: u32 = 1;
/// How long all authorities may take to show it.
const TEXT_PATIENCE: Duration = Duration::from_mins(5);
/// Who publishes, for the audit trail.
const ACTOR: &str = "dns";

/// Publishes on behalf of the fleet while this node leads.
#[derive(Clone)]
pub(super) struct DnsPublisher {
    cluster: Cluster,
    key_file: Option<PathBuf>,
}

/// What the last round was about, and when the next is due at the latest.
struct Round {
    wanted: Sets,
    /// Every server said so.
    agreed: bool,
    next: Instant,
}

/// Why DNS is not as wanted.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    #[error("there is no rotation.dns_primary to send changes to")]
    NoPrimary,
    #[error("{server} says other than it shall: {what}")]
    Differs { server: SocketAddr, what: String },
}

/// All that is in the way.
#[derive(Debug, Default)]
struct Faults {
    /// Of every name.
    all: Option<Fault>,
    /// Of one; where nothing can be changed at all, no name says so for itself.
    names: BTreeMap<String, Fault>,
}

impl Faults {
    fn is_empty(&self) -> bool {
        self.all.is_none() && self.names.is_empty()
    }

    /// Note the first thing that is the matter with a name.
    fn of(&mut self, name: &str, fault: impl Into<Fault>) {
        if self.all.is_none() {
            self.names.entry(name.to_owned()).or_insert_with(|| fault.into());
        }
    }
}

/// Whether there is a key in this file.
pub(super) fn check_key(file: &Path) -> Result<(), KeyError> {
    key::read(file).map(drop)
}

impl DnsPublisher {
    /// Publishes for `cluster`, signing with the key in `key_file`.
    pub(super) fn new(cluster: Cluster, key_file: Option<PathBuf>) -> Self {
        Self { cluster, key_file }
    }

    /// Publish whenever this node leads, until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut last = None;
        loop {
            tokio::select! {
                () = self.look(&mut last) => {}
                () = stop.cancelled() => return,
            }
            tokio::select! {
                () = sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn look(&self, last: &mut Option<Round>) {
        if !self.cluster.leads() {
            *last = None;
            METRICS.dns_stale.set(0);
            return;
        }
        let (state, now_ms) = (self.cluster.view(), wall_ms());
        if !self.tell_ttls(&state, now_ms).await {
            return;
        }
        let servers = servers(&state);
        let wanted = wanted(&state, now_ms);
        if servers.is_empty() || wanted.is_empty() {
            *last = None;
            METRICS.dns_stale.set(0);
            self.tell(&state, &Faults::default()).await;
            return;
        }
        let is_new = last.as_ref().is_none_or(|last| last.wanted != wanted);
        if !is_new && last.as_ref().is_some_and(|last| Instant::now() < last.next) {
            return;
        }
        let settled = last.as_ref().is_some_and(|last| last.wanted == wanted && last.agreed);
        let faults = self.round(&state, &servers, &wanted, (now_ms, settled)).await;
        let agreed = faults.is_empty();
        let pause = if agreed { DRIFT_EVERY } else { RETRY_EVERY };
        METRICS.dns_stale.set(i64::from(!agreed));
        self.tell(&state, &faults).await;
        *last = Some(Round { wanted, agreed, next: Instant::now() + pause });
    }

    async fn round(
        &self,
        state: &Arc<State>,
        servers: &[SocketAddr],
        wanted: &Sets,
        (now_ms, settled): (u64, bool),
    ) -> Faults {
        let zone = state.settings().get("rotation.zone").unwrap_or_default();
        let primary = state.settings().servers("rotation.dns_primary").first().copied();
        let (claims, mut faults) = (Claims::of(state), Faults::default());
        if let Some(primary) = primary {
            match self.publish(zone, primary, wanted, &claims).await {
                Ok(brought) => {
                    if brought.is_changed && brought.faults.is_empty() && settled {
                        METRICS.dns_drift_total.inc();
                        tracing::warn!(%primary, "DNS was changed by others; it is put right");
                    }
                    brought.faults.into_iter().for_each(|(name, fault)| faults.of(&name, fault));
                }
                Err(error) => faults.all = Some(error),
            }
        }
        let mut agreed = wanted.clone();
        let watched = keys::watched(state, now_ms);
        let mut said = Vec::new();
        for server in servers {
            match read_sets(*server, wanted.keys().chain(&watched)).await {
                Ok(mut found) => {
                    claims.leave_others(wanted, &mut found.sets);
                    agreed.retain(|set, _| found.sets.contains_key(set));
                    for (set, what) in differences(wanted, &found.sets) {
                        agreed.remove(&set);
                        faults.of(set.mx_name(), Fault::Differs { server: *server, what });
                    }
                    for (set, error) in found.untold {
                        faults.of(set.mx_name(), error);
                    }
                    said.push(found.sets);
                }
                Err(error) => {
                    agreed.clear();
                    faults.all.get_or_insert(error.into());
                }
            }
        }
        self.confirm(state, &agreed, wanted, now_ms).await;
        if said.len() == servers.len() {
            for news in keys::news(state, &said, now_ms) {
                self.propose(Command::Certificate(news)).await;
            }
        }
        faults
    }

    /// Have every authority say this one text of `owner`, which is below the service's zone, or
    /// none.
    pub(super) async fn publish_text(
        &self,
        owner: String,
        text: Option<String>,
    ) -> Result<(), Fault> {
        let state = self.cluster.view();
        let zone = state.settings().get("rotation.zone").unwrap_or_default();
        let primary = state.settings().servers("rotation.dns_primary").first().copied();
        let data = text.into_iter().map(Data::Text).collect();
        let name = SetName { name: owner, kind: RecordType::TXT };
        let wanted = Sets::from([(name, Set { ttl_s: TEXT_TTL_S, data })]);
        let claims = Claims::default();
        let primary = primary.ok_or(Fault::NoPrimary)?;
        let brought = self.publish(zone, primary, &wanted, &claims).await?;
        if let Some(fault) = brought.faults.into_values().next() {
            return Err(fault.into());
        }
        let until = Instant::now() + TEXT_PATIENCE;
        loop {
            match first_difference(&servers(&state), &wanted).await {
                Some(_) if Instant::now() < until => sleep(RETRY_EVERY).await,
                Some(fault) => return Err(fault),
                None => return Ok(()),
            }
        }
    }

    /// Bring the primary to what shall be.
    async fn publish(
        &self,
        zone: &str,
        server: SocketAddr,
        wanted: &Sets,
        claims: &Claims,
    ) -> Result<Brought, Fault> {
        let key = self.key_file.as_deref().map(key::read).transpose()?;
        Ok(Primary { server, zone, key: key.as_ref(), claims }.bring(wanted).await?)
    }

    /// Tell the fleet which names are in DNS as they shall be, where that is news.
    async fn confirm(&self, state: &State, agreed: &Sets, wanted: &Sets, now_ms: u64) {
        let all_of = |name: &str| {
            let sets = wanted.keys().filter(|set| set.name == name);
            sets.clone().count() > 0 && sets.clone().all(|set| agreed.contains_key(set))
        };
        for row in state.names() {
            let shall = row.wanted(now_ms, state.ttl());
            let is_news = is_news(row, shall, now_ms) || state.readdressed(row).is_some();
            if is_news && all_of(&row.name) {
                let (host, ttl_s) =
                    (shall.map(|(host, _)| host), shall.map_or(0, |(_, ttl_s)| ttl_s));
                let name = row.name.clone();
                let addresses = host.and_then(|host| state.host(host));
                let addresses = addresses.map(|row| row.addresses.clone()).unwrap_or_default();
                let published = NameCommand::Published { name, host, ttl_s, addresses };
                self.propose(Command::Name(published)).await;
            }
        }
    }

    /// Tell the fleet why DNS is not as wanted, if that is news.
    async fn tell(&self, state: &State, faults: &Faults) {
        let all = faults.all.as_ref().map(ToString::to_string);
        let names = faults.names.iter().map(|(name, fault)| (name.clone(), fault.to_string()));
        let names: BTreeMap<String, String> = names.collect();
        if !state.knows_dns_faults(all.as_deref(), &names) {
            // Said when it begins, changes or ends, however often it is tried meanwhile.
            for fault in all.iter().chain(names.values()) {
                tracing::warn!("DNS is not as it shall be: {fault}");
            }
            if faults.is_empty() {
                tracing::info!("DNS is as it shall be again");
            }
            let names = names.into_iter().collect();
            self.propose(Command::Name(NameCommand::DnsFaults { all, names })).await;
        }
    }

    /// Before a server gives a longer time to live than was known, the fleet knows of it: resolvers
    /// may hold it, whether or not all servers are ever seen to give it. False if it does not.
    async fn tell_ttls(&self, state: &State, now_ms: u64) -> bool {
        let longer = |row: &MxName| {
            let (_, ttl_s) = row.wanted(now_ms, state.ttl())?;
            (ttl_s > row.longest_ttl_s()).then(|| (row.name.clone(), ttl_s))
        };
        let ttls: Vec<_> = state.names().filter_map(longer).collect();
        ttls.is_empty() || self.propose(Command::Name(NameCommand::Telling { ttls })).await
    }

    /// Whether the fleet took it.
    async fn propose(&self, command: Command) -> bool {
        let request = Request::new(random_id(), ACTOR, wall_ms(), command);
        match self.cluster.propose(request).await {
            Ok(Ok(_)) => return true,
            // It is looked at again in the next round.
            Ok(Err(refusal)) => tracing::debug!(%refusal, "what DNS says is no longer wanted"),
            Err(error) => tracing::debug!(%error, "what DNS says could not be told"),
        }
        false
    }
}

impl std::fmt::Debug for DnsPublisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DnsPublisher").finish_non_exhaustive()
    }
}

/// What a server says otherwise, if one does.
async fn first_difference(servers: &[SocketAddr], wanted: &Sets) -> Option<Fault> {
    for server in servers {
        match read_sets(*server, wanted.keys()).await {
            Ok(found) => {
                if let Some((_, what)) = differences(wanted, &found.sets).pop() {
                    return Some(Fault::Differs { server: *server, what });
                }
                if let Some(error) = found.untold.into_values().next() {
                    return Some(error.into());
                }
            }
            Err(error) => return Some(error.into()),
        }
    }
    None
}

/// Every server that must show a change.
fn servers(state: &State) -> Vec<SocketAddr> {
    let settings = state.settings();
    let listed = settings.servers("rotation.dns_servers");
    if listed.is_empty() { settings.servers("rotation.dns_primary") } else { listed }
}

/// Whether the fleet does not know yet that this is in DNS.
fn is_news(row: &MxName, shall: Option<(u64, u32)>, now_ms: u64) -> bool {
    row.is_moving(now_ms) || shall.is_some_and(|(_, ttl_s)| !row.is_known_to_give(ttl_s))
}
