//! MX names: the hostnames customers put in their MX records, and the hosts they point at.
//!
//! A name outlives hosts. Where it points is where DNS has been seen to say so: a change is first
//! only wanted ([`Pointing`]) and takes place when every authority says it. Until the time to live
//! of what DNS said before has passed, resolvers may still send mail to the hosts before.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::certificates::Fault;

/// A hostname that customers put in their MX records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MxName {
    /// Lowercase A-label without a trailing dot, below the service's zone.
    pub name: String,
    /// The id of the host it belongs to, even while it points at another.
    pub home: u64,
    /// The id of the host DNS says; `None` while DNS does not have the name.
    pub target: Option<u64>,
    /// How far its life has gone.
    pub stage: NameStage,
    /// What DNS shall say and has not been seen to say.
    pub pointing: Option<Pointing>,
    /// The time to live DNS was last seen to give, in seconds.
    pub ttl_s: u32,
    /// Until when resolvers may have what DNS said before: milliseconds since 1970, UTC.
    pub caches_until_ms: u64,
    /// Hosts that resolvers may still be told or remember; see [`MxName::hosts`].
    pub former: Vec<FormerHost>,
    /// The longest time to live that a server may have been told since then, in seconds: some may
    /// give it while others do not.
    pub told_s: u32,
    /// Until when resolvers may have TLSA records of it, since the fleet publishes no more: in
    /// milliseconds since 1970, UTC. The end of time while they may be in DNS.
    pub keys_until_ms: u64,
    /// The longest time to live of those records, in seconds.
    pub keys_ttl_s: u32,
    /// The addresses DNS was last seen to say.
    pub addresses: Vec<IpAddr>,
    /// Why DNS is not as wanted about this name, if so.
    pub dns_fault: Option<Fault>,
}

/// A host that a name led to, or was about to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerHost {
    /// The id of the host.
    pub host: u64,
    /// Until when resolvers may remember it: milliseconds since 1970, UTC. The end of time while
    /// some server may say it.
    pub until_ms: u64,
}

/// How far the life of a name has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NameStage {
    /// Not in DNS yet.
    Planned,
    /// For customers to use.
    Active,
    /// It ends at this time: milliseconds since 1970, UTC.
    Retiring {
        /// When.
        at_ms: u64,
    },
    /// It is out of DNS, and never used again.
    Removed {
        /// Since when: milliseconds since 1970, UTC.
        at_ms: u64,
    },
}

/// A change of what DNS says of a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointing {
    /// The id of the host; `None` takes the name out of DNS.
    pub to: Option<u64>,
    /// Not before this time: milliseconds since 1970, UTC.
    pub from_ms: u64,
    /// Whether the host becomes its home.
    pub rehome: bool,
    /// The id of the host DNS shall say until then, while it has not been seen to.
    pub meanwhile: Option<u64>,
}

/// How a name is, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NameStatus {
    /// Not in DNS yet.
    Planned,
    /// It points at its home.
    Active,
    /// It points at another host for now.
    Redirected,
    /// Its end is announced.
    Retiring,
    /// It is out of DNS, and never used again.
    Removed,
}

/// Times to live of a name's records, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ttl {
    /// As a rule.
    pub normal_s: u32,
    /// While a change is near.
    pub low_s: u32,
}

impl MxName {
    pub(super) fn new(name: &str, home: u64) -> Self {
        Self {
            name: name.to_owned(),
            home,
            target: None,
            stage: NameStage::Planned,
            pointing: None,
            ttl_s: 0,
            caches_until_ms: 0,
            former: Vec::new(),
            told_s: 0,
            keys_until_ms: 0,
            keys_ttl_s: 0,
            addresses: Vec::new(),
            dns_fault: None,
        }
    }

    /// How it is, in one word.
    pub fn status(&self) -> NameStatus {
        match self.stage {
            NameStage::Planned => NameStatus::Planned,
            NameStage::Removed { .. } => NameStatus::Removed,
            NameStage::Retiring { .. } => NameStatus::Retiring,
            NameStage::Active if self.target == Some(self.home) => NameStatus::Active,
            NameStage::Active => NameStatus::Redirected,
        }
    }

    /// The host it points at when all that is wanted has come about.
    pub fn aim(&self) -> Option<u64> {
        self.pointing.as_ref().map_or(self.target, |pointing| pointing.to)
    }

    /// The host it stays at if the change that is wanted is taken back at `now_ms`.
    pub fn stays_at(&self, now_ms: u64) -> Option<u64> {
        match &self.pointing {
            Some(pointing) if pointing.from_ms > now_ms => pointing.meanwhile.or(self.target),
            _ => self.target,
        }
    }

    /// The host DNS shall say at `now_ms`; `None` when it shall not have the name.
    pub(super) fn host_at(&self, now_ms: u64) -> Option<u64> {
        match &self.pointing {
            Some(pointing) if pointing.from_ms <= now_ms => pointing.to,
            Some(pointing) => pointing.meanwhile.or(self.target),
            None => self.target,
        }
    }

    /// Whether DNS shall say something at `now_ms` that it has not been seen to say.
    pub fn is_moving(&self, now_ms: u64) -> bool {
        let moves =
            |pointing: &Pointing| pointing.from_ms <= now_ms || pointing.meanwhile.is_some();
        self.pointing.as_ref().is_some_and(moves)
    }

    /// The hosts that may get mail by this name at `now_ms`: where DNS says, shall say, or said.
    pub fn hosts(&self, now_ms: u64) -> impl Iterator<Item = u64> {
        let pending = self.pointing.iter().flat_map(|pointing| [pointing.to, pointing.meanwhile]);
        let pending = pending.flatten();
        let former = self.remembered(now_ms).map(|former| former.host);
        self.target.into_iter().chain(pending).chain(former)
    }

    /// Hosts that DNS is not to say any more, and resolvers may still be told or remember.
    pub fn remembered(&self, now_ms: u64) -> impl Iterator<Item = FormerHost> {
        self.former.iter().copied().filter(move |former| now_ms < former.until_ms)
    }

    /// Whether resolvers may have TLSA records of it, which the fleet `publishes` or has published.
    pub(super) fn may_have_keys(&self, publishes: bool, now_ms: u64) -> bool {
        let is_known =
            self.target.is_some() || self.is_moving(now_ms) || now_ms < self.caches_until_ms;
        is_known && (publishes || now_ms < self.keys_until_ms)
    }

    /// When resolvers have forgotten the TLSA records that are in DNS at `now_ms`, with so many
    /// times to live.
    pub(super) fn keys_forgotten_ms(&self, now_ms: u64, ttls: u64) -> u64 {
        let ttl_ms = 1000 * u64::from(self.longest_ttl_s().max(self.keys_ttl_s));
        self.caches_until_ms.max(now_ms.saturating_add(ttls * ttl_ms))
    }

    /// What DNS shall say at `now_ms`: the host and the time to live. Ahead of a change that has a
    /// date the time to live is lowered, early enough for resolvers to have forgotten the old one.
    pub fn wanted(&self, now_ms: u64, ttl: Ttl) -> Option<(u64, u32)> {
        let host = self.host_at(now_ms)?;
        let ahead_ms = 2 * 1000 * u64::from(ttl.normal_s);
        let is_near = match &self.pointing {
            Some(pointing) => {
                self.is_moving(now_ms) || pointing.from_ms <= now_ms.saturating_add(ahead_ms)
            }
            None => self.remembered(now_ms).next().is_some(),
        };
        Some((host, if is_near { ttl.low_s } else { ttl.normal_s }))
    }

    /// Want DNS to say something else from `from_ms` on, and until then what it shall say now.
    pub(super) fn point(&mut self, to: Option<u64>, from_ms: u64, rehome: bool, now_ms: u64) {
        let is_ahead = from_ms > now_ms && self.is_moving(now_ms);
        let meanwhile = self.host_at(now_ms).filter(|_| is_ahead);
        self.former.retain(|former| now_ms < former.until_ms);
        if let Some(before) = self.pointing.take() {
            // It may be in DNS already, on some of the servers.
            let told = [before.to.filter(|_| before.from_ms <= now_ms), before.meanwhile];
            told.into_iter().flatten().for_each(|host| self.remember(host));
        }
        self.pointing = Some(Pointing { to, from_ms, rehome, meanwhile });
    }

    /// Want DNS to say `host` until the date of `later`, and then what that says.
    pub(super) fn point_until(&mut self, host: Option<u64>, later: &Pointing, now_ms: u64) {
        let says_so = self.target == host && !self.is_moving(now_ms);
        if !says_so {
            self.point(host, now_ms, false, now_ms);
        }
        let meanwhile = host.filter(|_| !says_so);
        self.pointing = Some(Pointing { meanwhile, ..later.clone() });
    }

    /// Want DNS to say what it was last seen to say, or shall say before the next date.
    pub(super) fn stay(&mut self, now_ms: u64) {
        match &self.pointing {
            None => {}
            Some(pointing) if pointing.from_ms > now_ms => match pointing.meanwhile {
                None => self.pointing = None,
                Some(host) => self.point(Some(host), now_ms, false, now_ms),
            },
            Some(_) => self.point(self.target, now_ms, false, now_ms),
        }
    }

    /// A server is about to be told this time to live.
    pub(super) fn telling(&mut self, ttl_s: u32) {
        self.told_s = self.told_s.max(ttl_s);
    }

    /// The longest time that a resolver may be told to remember what DNS says, in seconds.
    pub fn longest_ttl_s(&self) -> u32 {
        self.ttl_s.max(self.told_s)
    }

    /// Whether DNS was last seen to say these addresses, in whatever order.
    pub fn is_known_to_say(&self, addresses: &[IpAddr]) -> bool {
        self.addresses.len() == addresses.len()
            && self.addresses.iter().all(|known| addresses.contains(known))
    }

    /// Whether every authority is known to give this time to live, and no other.
    pub fn is_known_to_give(&self, ttl_s: u32) -> bool {
        (self.ttl_s, self.longest_ttl_s()) == (ttl_s, ttl_s)
    }

    /// Every authority says `host`, with this time to live, at `now_ms`.
    pub(super) fn seen(&mut self, host: Option<u64>, ttl_s: u32, now_ms: u64) {
        self.former.retain(|former| now_ms < former.until_ms);
        let done = self.pointing.take_if(|p| p.from_ms <= now_ms && p.to == host);
        let until = self.pointing.as_mut().filter(|p| p.from_ms > now_ms);
        let until = until.and_then(|p| p.meanwhile.take_if(|known| Some(*known) == host));
        let moved = done.is_some() || until.is_some();
        if moved || !self.is_known_to_give(ttl_s) {
            let old_ms = 1000 * u64::from(self.longest_ttl_s().max(ttl_s));
            self.caches_until_ms = self.caches_until_ms.max(now_ms.saturating_add(old_ms));
        }
        (self.ttl_s, self.told_s) = (ttl_s, ttl_s);
        if !moved {
            return;
        }
        if let Some(before) = self.target
            && self.target != host
        {
            self.remember(before);
        }
        self.former.retain(|former| Some(former.host) != host);
        for former in self.former.iter_mut().filter(|former| former.until_ms == u64::MAX) {
            former.until_ms = self.caches_until_ms; // no server says it any more
        }
        self.target = host;
        match (host, self.stage) {
            (None, _) => self.stage = NameStage::Removed { at_ms: now_ms },
            (Some(_), NameStage::Planned) => self.stage = NameStage::Active,
            (Some(_), _) => {}
        }
        if let Some(host) = host.filter(|_| done.is_some_and(|done| done.rehome)) {
            self.home = host;
        }
    }

    /// Some server may say this host.
    fn remember(&mut self, host: u64) {
        self.former.retain(|former| former.host != host);
        self.former.push(FormerHost { host, until_ms: u64::MAX });
    }
}

/// The table of names. Removed ones stay for long, so that none is used for something else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Names {
    rows: Arc<BTreeMap<String, MxName>>,
}

impl Names {
    pub(super) fn get(&self, name: &str) -> Option<&MxName> {
        self.rows.get(name)
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut MxName> {
        Arc::make_mut(&mut self.rows).get_mut(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &MxName> {
        self.rows.values()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut MxName> {
        Arc::make_mut(&mut self.rows).values_mut()
    }

    pub(super) fn put(&mut self, name: MxName) {
        Arc::make_mut(&mut self.rows).insert(name.name.clone(), name);
    }

    /// Forget removed names beyond this many, those first that were removed first.
    pub(super) fn forget_removed(&mut self, keep: usize) {
        let removed = self.rows.values().filter_map(|row| match row.stage {
            NameStage::Removed { at_ms } => Some((at_ms, row.name.clone())),
            _ => None,
        });
        let mut removed: Vec<(u64, String)> = removed.collect();
        let Some(more) = removed.len().checked_sub(keep).filter(|more| *more > 0) else { return };
        removed.sort_unstable();
        for (_, name) in removed.iter().take(more) {
            self.forget(name);
        }
    }

    pub(super) fn forget(&mut self, name: &str) {
        Arc::make_mut(&mut self.rows).remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Ttl = Ttl { normal_s: 3600, low_s: 60 };
    const HOUR_MS: u64 = 3_600_000;

    fn active() -> MxName {
        let mut name = MxName::new("mx-a.relay.example", 1);
        name.point(Some(1), 0, false, 0);
        name.seen(Some(1), 3600, 0);
        assert_eq!((name.status(), name.target), (NameStatus::Active, Some(1)));
        name
    }

    #[test]
    fn it_points_elsewhere_only_once_dns_says_so_and_the_old_host_counts_until_caches_end() {
        let mut name = active();
        let now = 10 * HOUR_MS;
        name.point(Some(2), now, false, now);
        assert_eq!(name.wanted(now, TTL), Some((2, 60)));
        assert_eq!(name.target, Some(1), "nobody has seen it in DNS");
        name.seen(Some(1), 3600, now);
        assert_eq!(name.target, Some(1), "DNS still says the old host");
        name.seen(Some(2), 60, now + 5);
        assert_eq!((name.status(), name.target), (NameStatus::Redirected, Some(2)));
        let carried = |name: &MxName, now| name.hosts(now).collect::<Vec<_>>();
        assert_eq!(carried(&name, now + HOUR_MS), [2, 1], "the old time to live was an hour");
        assert_eq!(carried(&name, now + 5 + HOUR_MS), [2]);
        assert_eq!(name.wanted(now + 5 + HOUR_MS, TTL), Some((2, 3600)), "raised after");
        name.seen(Some(2), 3600, now + 6 + HOUR_MS);
        assert_eq!(carried(&name, now + 7 + HOUR_MS), [2], "which brings nothing back");
    }

    #[test]
    fn a_time_to_live_that_only_some_servers_gave_counts_as_one_that_all_gave() {
        let mut name = active();
        name.seen(Some(1), 60, HOUR_MS);
        let now = 10 * HOUR_MS;
        assert_eq!(name.wanted(now, TTL), Some((1, 3600)), "as a rule");
        name.telling(3600);
        name.telling(60);
        assert!(!name.is_known_to_give(3600) && !name.is_known_to_give(60));
        // The other server was down, until the name had moved.
        name.point(Some(2), now, false, now);
        name.seen(Some(2), 60, now + 5);
        assert_eq!(name.hosts(now + HOUR_MS).collect::<Vec<_>>(), [2, 1], "some know it so long");
        assert_eq!(name.hosts(now + 5 + HOUR_MS).collect::<Vec<_>>(), [2]);
        assert!(name.is_known_to_give(60));
    }

    #[test]
    fn the_time_to_live_is_lowered_ahead_of_a_date() {
        let mut name = active();
        let date = 100 * HOUR_MS;
        name.point(Some(2), date, false, HOUR_MS);
        assert_eq!(name.wanted(97 * HOUR_MS, TTL), Some((1, 3600)));
        assert_eq!(name.wanted(98 * HOUR_MS, TTL), Some((1, 60)));
        name.seen(Some(1), 60, 98 * HOUR_MS);
        assert_eq!(name.caches_until_ms, 99 * HOUR_MS);
        assert_eq!(name.wanted(date, TTL), Some((2, 60)));
        name.seen(Some(2), 60, date);
        assert_eq!(name.hosts(date + 59_000).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(name.hosts(date + 60_000).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn a_change_taken_back_half_way_counts_both_hosts_until_dns_is_as_before() {
        let mut name = active();
        let now = 10 * HOUR_MS;
        name.point(Some(2), now, false, now);
        name.stay(now + 1);
        assert_eq!(name.aim(), Some(1));
        assert!(name.hosts(now + 1).any(|host| host == 2), "DNS may say 2 somewhere");
        name.seen(Some(1), 60, now + 2);
        assert!(name.hosts(now + 3).any(|host| host == 2), "and resolvers remember it");
        assert_eq!(name.hosts(now + 2 + HOUR_MS).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn it_is_elsewhere_until_a_date_and_then_moves_on() {
        let mut name = active();
        let (now, date) = (10 * HOUR_MS, 100 * HOUR_MS);
        let later = Pointing { to: Some(2), from_ms: date, rehome: true, meanwhile: None };
        name.point_until(Some(1), &later, now);
        assert_eq!(name.pointing, Some(later.clone()), "DNS says 1 already");
        name.point(Some(2), now, true, now);
        name.seen(Some(2), 60, now);
        name.point_until(Some(1), &later, now + 1);
        assert_eq!(name.wanted(now + 1, TTL), Some((1, 60)));
        assert_eq!((name.aim(), name.is_moving(now + 1)), (Some(2), true));
        name.seen(Some(1), 60, now + 2);
        assert_eq!(name.pointing, Some(later));
        assert_eq!((name.target, name.is_moving(now + 2)), (Some(1), false));
        assert_eq!(name.wanted(now + 2, TTL), Some((1, 3600)));
        name.seen(Some(2), 60, date);
        assert_eq!((name.status(), name.target), (NameStatus::Active, Some(2)));
    }

    #[test]
    fn a_host_before_the_last_is_not_remembered_because_of_a_date_ahead() {
        let mut name = active();
        let (now, date) = (10 * HOUR_MS, 100 * HOUR_MS);
        name.point(Some(2), now, false, now);
        name.seen(Some(2), 60, now);
        name.point(Some(3), date, false, now + 1);
        let carried = |name: &MxName, now| name.hosts(now).collect::<Vec<_>>();
        assert_eq!(carried(&name, now + HOUR_MS - 1), [2, 3, 1], "the old time to live");
        assert_eq!(carried(&name, now + HOUR_MS), [2, 3], "and no longer");
        assert_eq!(carried(&name, date), [2, 3], "nor again at the date");
        name.point(Some(4), date, false, date);
        assert_eq!(carried(&name, date + 1), [2, 4, 3], "some server may say 3");
    }

    #[test]
    fn a_change_that_has_begun_goes_on_until_the_date_of_the_next() {
        let mut name = active();
        let (now, date) = (10 * HOUR_MS, 100 * HOUR_MS);
        name.point(Some(2), now, false, now);
        name.point(Some(3), date, false, now + 1);
        assert_eq!(name.wanted(now + 1, TTL), Some((2, 60)));
        assert!(name.hosts(date - 1).any(|host| host == 2), "some server may say 2");
        name.seen(Some(2), 60, now + 2);
        assert_eq!((name.target, name.aim()), (Some(2), Some(3)));
        let carried = |name: &MxName, now| name.hosts(now).collect::<Vec<_>>();
        assert_eq!(carried(&name, now + 2 + HOUR_MS), [2, 3]);
    }

    #[test]
    fn a_change_with_a_date_ahead_is_taken_back_without_a_trace() {
        let mut name = active();
        let before = name.clone();
        name.point(Some(2), 100 * HOUR_MS, true, 10 * HOUR_MS);
        name.stay(11 * HOUR_MS);
        assert_eq!(name, before);
    }
}
