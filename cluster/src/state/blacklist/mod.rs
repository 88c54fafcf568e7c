//! Recipients that are refused because of too many rejections.
//!
//! Kept for each address: the times of its newest rejections that counted. Everything else follows
//! from them and from the settings in force, so a changed setting is true at once for what was
//! counted before: with threshold `k`, an address is listed while the `k`-th newest time is less
//! than a window before the newest, and the newest less than a hold ago. A rejection while listed
//! neither counts nor extends; the first one after a hold starts anew.

mod leaf;
mod notes;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use self::leaf::{Record, Times};
use self::notes::Notes;
pub(crate) use self::notes::NotesChunk;
pub use self::notes::RejectionNote;
use super::sharded::{Sharded, mix};
use super::{Outcome, Refusal, Settings};
use crate::octets::Octets;

const BRANCHES: usize = 512;
const LEAVES: usize = 512;
/// Tracked addresses. Above that, one goes for each that comes.
const TRACKED_MAX: u64 = 12_000_000;
/// A leaf holds some 40 addresses; many more only if somebody found a way to choose their leaf.
const LEAF_OCTETS_MAX: usize = 48 << 10;
const ADDRESS_OCTETS_MAX: usize = 320;
const EVENTS_MAX: usize = 5_000;
const EXEMPT_MAX: usize = 100_000;
const FROZEN_MAX: usize = 100_000;
const REASON_OCTETS_MAX: usize = 200;
/// Leaves looked at in one tick of a minute: all of them in about four hours.
const SWEPT_LEAVES: usize = BRANCHES * LEAVES / 240;

/// What a customer's server said of a recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecipientEvent {
    /// Refused for good as unknown, at this time: milliseconds since 1970, UTC.
    Rejected {
        /// Domain as lowercase A-label, local part in NFC and case-folded.
        address: String,
        /// When.
        at_ms: u64,
        /// The start of the reply, for people.
        reply: String,
    },
    /// Accepted: the address exists, whatever was counted.
    Accepted {
        /// As in `Rejected`.
        address: String,
    },
}

/// An address that is never listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exemption {
    /// Why, for people.
    pub reason: String,
    /// Until when: milliseconds since 1970, UTC; `None` is for ever.
    pub until_ms: Option<u64>,
}

/// What is known of an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlacklistEntry {
    /// The times of the newest rejections that counted, the oldest first.
    pub rejections_ms: Vec<u64>,
    /// What was said at the newest of them, the oldest first; as far as it is still known.
    pub notes: Vec<RejectionNote>,
    /// Until when it is listed, if it is or was.
    pub listed_until_ms: Option<u64>,
    /// Why it is never listed, if so.
    pub exemption: Option<Exemption>,
}

/// The newest report taken from a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Report {
    incarnation: u64,
    sequence: u64,
}

/// The small values beside the addresses.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Rules {
    reports: Arc<BTreeMap<u64, Report>>,
    /// Secret of the fleet: who chooses addresses must not be able to choose their leaf too.
    seed: u64,
    /// The leaf the next sweep begins at.
    sweep: u64,
}

type Branch = Arc<Vec<Bytes>>;

/// The table.
#[derive(Debug, Clone)]
pub(crate) struct Blacklist {
    root: Arc<Vec<Branch>>,
    /// The branch all start as, known by its address: most of a small table is skipped by that.
    empty: Branch,
    rules: Rules,
    exempt: Sharded<Box<str>, Exemption>,
    /// Domains in which nothing new is listed, since when.
    frozen: Sharded<Box<str>, u64>,
    notes: Notes,
    len: u64,
    /// Tracked addresses in each domain; follows from the leaves.
    tracked: Sharded<Box<str>, u64>,
}

impl Default for Blacklist {
    fn default() -> Self {
        let empty: Branch = Arc::new(vec![Bytes::new(); LEAVES]);
        let root = Arc::new(vec![Arc::clone(&empty); BRANCHES]);
        Self {
            root,
            empty,
            rules: Rules::default(),
            exempt: Sharded::default(),
            frozen: Sharded::default(),
            notes: Notes::default(),
            len: 0,
            tracked: Sharded::default(),
        }
    }
}

/// The settings the rules need.
#[derive(Debug, Clone, Copy)]
struct Policy {
    threshold: usize,
    window_ms: u64,
    hold_ms: u64,
}

impl Policy {
    fn of(settings: &Settings) -> Self {
        Self {
            threshold: usize::try_from(settings.count("blacklist.threshold")).unwrap_or(usize::MAX),
            window_ms: settings.duration_ms("blacklist.window"),
            hold_ms: settings.duration_ms("blacklist.hold"),
        }
    }

    /// Until when these times list an address, whether that is over or not.
    fn listed_until(&self, times: &Times) -> Option<u64> {
        let (newest, nth) = (times.newest()?, times.nth_newest(self.threshold)?);
        (newest - nth < self.window_ms).then(|| newest.saturating_add(self.hold_ms))
    }
}

impl Blacklist {
    /// Whether a RCPT for this address is to be refused now.
    pub(crate) fn is_listed(&self, settings: &Settings, address: &str, now_ms: u64) -> bool {
        let Some(times) = self.times(address) else { return false };
        let until = Policy::of(settings).listed_until(&times);
        until.is_some_and(|until| now_ms < until)
            && self.exemption(address, now_ms).is_none()
            && !self.is_frozen_for(address, &times)
    }

    pub(crate) fn entry(
        &self,
        settings: &Settings,
        address: &str,
        now_ms: u64,
    ) -> Option<BlacklistEntry> {
        let times = self.times(address);
        let exemption = self.exemption(address, now_ms).cloned();
        if times.is_none() && exemption.is_none() {
            return None;
        }
        let times = times.unwrap_or_default();
        let listed = exemption.is_none() && !self.is_frozen_for(address, &times);
        let until = Policy::of(settings).listed_until(&times);
        Some(BlacklistEntry {
            rejections_ms: times.as_slice().to_vec(),
            notes: self.notes.get(address).to_vec(),
            listed_until_ms: until.filter(|_| listed),
            exemption,
        })
    }

    /// Listed addresses with the end of their listing, in no useful order.
    pub(crate) fn listed(
        &self,
        settings: &Settings,
        now_ms: u64,
    ) -> impl Iterator<Item = (&str, u64)> {
        let policy = Policy::of(settings);
        self.records().filter_map(move |record| {
            let until = policy.listed_until(&record.times).filter(|until| now_ms < *until)?;
            let held = self.exemption(record.address, now_ms).is_some()
                || self.is_frozen_for(record.address, &record.times);
            (!held).then_some((record.address, until))
        })
    }

    pub(crate) fn is_tracked(&self, address: &str) -> bool {
        self.times(address).is_some()
    }

    pub(crate) fn tracked(&self) -> u64 {
        self.len
    }

    pub(crate) fn exempt(&self) -> impl Iterator<Item = (&str, &Exemption)> {
        self.exempt.sorted().into_iter().map(|row| (row.key.as_ref(), &row.value))
    }

    pub(crate) fn frozen(&self) -> impl Iterator<Item = (&str, u64)> {
        self.frozen.sorted().into_iter().map(|row| (row.key.as_ref(), row.value))
    }

    fn records(&self) -> impl Iterator<Item = Record<'_>> {
        self.used_leaves().flat_map(|(_, leaf)| leaf::records(leaf))
    }

    /// Leaves that hold something, with their numbers, in order.
    fn used_leaves(&self) -> impl Iterator<Item = (usize, &Bytes)> {
        let branches = self.root.iter().enumerate();
        branches
            .filter(|(_, branch)| !Arc::ptr_eq(branch, &self.empty))
            .flat_map(|(b, branch)| {
                branch.iter().enumerate().map(move |(l, leaf)| (b * LEAVES + l, leaf))
            })
            .filter(|(_, leaf)| !leaf.is_empty())
    }

    fn exemption(&self, address: &str, now_ms: u64) -> Option<&Exemption> {
        let exemption = &self.exempt.get(address)?.value;
        exemption.until_ms.is_none_or(|until| now_ms < until).then_some(exemption)
    }

    /// Listings of a frozen domain count only if they are older than the freeze.
    fn is_frozen_for(&self, address: &str, times: &Times) -> bool {
        let since = self.frozen.get(domain_of(address));
        since.is_some_and(|since| times.newest().is_some_and(|newest| newest >= since.value))
    }

    fn times(&self, address: &str) -> Option<Times> {
        let (branch, leaf) = self.place(address);
        leaf::find(self.root.get(branch)?.get(leaf)?, address)
    }

    /// Take a node's report once. The outcome is the number of events that counted.
    pub(crate) fn report(
        &mut self,
        settings: &Settings,
        now_ms: u64,
        (node, incarnation, sequence): (u64, u64, u64),
        events: &[RecipientEvent],
    ) -> Outcome {
        let report = Report { incarnation, sequence };
        if self.rules.reports.get(&node).is_some_and(|last| report <= *last) {
            return Ok(0);
        }
        if events.len() > EVENTS_MAX {
            return Err(Refusal::invalid("a report has at most 5000 events"));
        }
        Arc::make_mut(&mut self.rules.reports).insert(node, report);
        let policy = Policy::of(settings);
        let mut counted = 0;
        for event in events {
            counted += u64::from(match event {
                RecipientEvent::Rejected { address, at_ms, reply } => {
                    self.reject(policy, address, *at_ms, now_ms, (node, reply))
                }
                RecipientEvent::Accepted { address } => self.forget(address),
            });
        }
        Ok(counted)
    }

    fn reject(
        &mut self,
        policy: Policy,
        address: &str,
        at_ms: u64,
        now_ms: u64,
        (node, reply): (u64, &str),
    ) -> bool {
        if !is_address(address) || local_of(address) == "postmaster" {
            return false;
        }
        let known = self.times(address);
        let newest = known.and_then(|times| times.newest()).unwrap_or(0);
        let at_ms = at_ms.min(now_ms).max(newest);
        let times = match known {
            None => Times::one(at_ms),
            Some(mut times) => match policy.listed_until(&times) {
                Some(until) if at_ms < until => return false,
                Some(_) => Times::one(at_ms),
                None => {
                    times.push(at_ms);
                    times
                }
            },
        };
        if known.is_none() {
            self.make_room(address);
        }
        self.put(address, Some(&times));
        if times.as_slice().len() == 1 {
            self.notes.forget(address);
        }
        self.notes.add(address, node, at_ms, reply);
        true
    }

    fn forget(&mut self, address: &str) -> bool {
        let known = self.times(address).is_some();
        if known {
            self.put(address, None);
        }
        known
    }

    /// When the table or the leaf is full, one address of the leaf goes for the new one: one that
    /// was rejected once, if there is one, of the domain with the most addresses, the oldest.
    fn make_room(&mut self, address: &str) {
        let (branch, leaf) = self.place(address);
        let Some(bytes) = self.root.get(branch).and_then(|branch| branch.get(leaf)) else { return };
        if self.len < TRACKED_MAX && bytes.len() < LEAF_OCTETS_MAX {
            return;
        }
        let goes = leaf::records(bytes)
            .max_by_key(|record| {
                let single = record.times.as_slice().len() == 1;
                let tracked = self.tracked_in(domain_of(record.address));
                (single, tracked, Reverse(record.times.newest()))
            })
            .map(|record| record.address.to_owned());
        if let Some(goes) = goes {
            self.put(&goes, None);
        }
    }

    fn tracked_in(&self, domain: &str) -> u64 {
        self.tracked.get(domain).map_or(0, |row| row.value)
    }

    /// The only place where a leaf changes: the counts change with it.
    fn put(&mut self, address: &str, times: Option<&Times>) {
        let (branch, leaf) = self.place(address);
        let Some(branch) = Arc::make_mut(&mut self.root).get_mut(branch) else { return };
        let Some(leaf) = Arc::make_mut(branch).get_mut(leaf) else { return };
        let before = leaf::find(leaf, address).is_some();
        *leaf = leaf::replace(leaf, address, times);
        if times.is_none() {
            self.notes.forget(address);
        }
        self.count(address, before, times.is_some());
    }

    fn count(&mut self, address: &str, before: bool, after: bool) {
        let domain = domain_of(address);
        let count = match (before, after) {
            (false, true) => {
                self.len += 1;
                self.tracked_in(domain) + 1
            }
            (true, false) => {
                self.len -= 1;
                self.tracked_in(domain).saturating_sub(1)
            }
            _ => return,
        };
        if count == 0 {
            self.tracked.remove(domain);
        } else {
            self.tracked.put(domain.into(), 0, count);
        }
    }

    /// Which leaf an address is in: 18 bits of a keyed hash.
    #[allow(clippy::cast_possible_truncation, reason = "nine bits each")]
    fn place(&self, address: &str) -> (usize, usize) {
        let mut hash = self.rules.seed;
        for piece in address.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word.iter_mut().zip(piece).for_each(|(to, from)| *to = *from);
            let product = u128::from(hash ^ u64::from_le_bytes(word))
                * u128::from(self.rules.seed.rotate_left(32) | 0x9e37_79b9_7f4a_7c15);
            hash = (product as u64) ^ ((product >> 64) as u64) ^ piece.len() as u64;
        }
        let hash = mix(hash);
        ((hash >> 55) as usize % BRANCHES, (hash >> 46) as usize % LEAVES)
    }

    /// The secret of a new fleet.
    pub(crate) fn set_seed(&mut self, seed: u64) {
        self.rules.seed = seed;
    }

    pub(crate) fn pardon(&mut self, address: &str) -> Outcome {
        check_address(address)?;
        Ok(u64::from(self.forget(address)))
    }

    pub(crate) fn set_exempt(&mut self, address: &str, exemption: Option<&Exemption>) -> Outcome {
        check_address(address)?;
        let Some(exemption) = exemption else {
            return Ok(u64::from(self.exempt.remove(address).is_some()));
        };
        if exemption.reason.len() > REASON_OCTETS_MAX || exemption.reason.contains(char::is_control)
        {
            return Err(Refusal::invalid("a reason is at most 200 octets of plain text"));
        }
        if self.exempt.len() >= EXEMPT_MAX && self.exempt.get(address).is_none() {
            return Err(Refusal::conflict("100000 addresses are exempt; remove some first"));
        }
        self.exempt.put(address.into(), 0, exemption.clone());
        self.forget(address);
        Ok(1)
    }

    pub(crate) fn set_frozen(&mut self, domain: &str, frozen: bool, now_ms: u64) -> Outcome {
        if !frozen {
            return Ok(u64::from(self.frozen.remove(domain).is_some()));
        }
        if self.frozen.get(domain).is_some() {
            return Ok(0);
        }
        let full = self.frozen.len() >= FROZEN_MAX;
        if domain.is_empty() || domain.len() > ADDRESS_OCTETS_MAX || full {
            return Err(Refusal::invalid("this domain cannot be frozen"));
        }
        self.frozen.put(domain.into(), 0, now_ms);
        Ok(1)
    }

    /// Forget what can never matter again, in a slice of the table.
    pub(crate) fn sweep(&mut self, settings: &Settings, now_ms: u64) {
        let policy = Policy::of(settings);
        let keep_ms = policy.window_ms.max(policy.hold_ms);
        let all = BRANCHES * LEAVES;
        let first = usize::try_from(self.rules.sweep).unwrap_or(0);
        for at in (first..first + SWEPT_LEAVES).map(|at| at % all) {
            let leaf = self.root.get(at / LEAVES).and_then(|branch| branch.get(at % LEAVES));
            let Some(leaf) = leaf.filter(|leaf| !leaf.is_empty()).cloned() else { continue };
            for record in leaf::records(&leaf) {
                let newest = record.times.newest().unwrap_or(0);
                if newest.saturating_add(keep_ms) <= now_ms {
                    self.put(record.address, None);
                }
            }
        }
        self.rules.sweep = ((first + SWEPT_LEAVES) % all) as u64;
    }

    /// The small values, as a snapshot holds them.
    pub(crate) fn rules(&self) -> Rules {
        self.rules.clone()
    }

    /// The addresses, as a snapshot holds them.
    pub(crate) fn leaves(&self) -> impl Iterator<Item = (u32, Octets)> {
        let number = |at| u32::try_from(at).unwrap_or(u32::MAX);
        self.used_leaves().map(move |(at, leaf)| (number(at), Octets(leaf.clone())))
    }

    pub(crate) fn notes_chunks(&self) -> impl Iterator<Item = NotesChunk> {
        self.notes.chunks()
    }

    pub(crate) fn absorb_notes(&mut self, chunk: NotesChunk) {
        self.notes.absorb(chunk);
    }

    pub(crate) fn absorb_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    pub(crate) fn absorb_exempt(&mut self, rows: Vec<(String, Exemption)>) {
        for (address, exemption) in rows {
            self.exempt.put(address.into(), 0, exemption);
        }
    }

    pub(crate) fn absorb_frozen(&mut self, rows: Vec<(String, u64)>) {
        for (domain, since_ms) in rows {
            self.frozen.put(domain.into(), 0, since_ms);
        }
    }

    pub(crate) fn absorb_leaves(&mut self, leaves: Vec<(u32, Octets)>) {
        for (at, octets) in leaves {
            let at = at as usize;
            for record in leaf::records(&octets.0) {
                self.count(record.address, false, true);
            }
            let branch = Arc::make_mut(&mut self.root).get_mut(at / LEAVES);
            let Some(leaf) = branch.and_then(|b| Arc::make_mut(b).get_mut(at % LEAVES)) else {
                continue;
            };
            // A copy of its own: what was decoded shares one large buffer.
            *leaf = Bytes::copy_from_slice(&octets.0);
        }
    }
}

fn domain_of(address: &str) -> &str {
    address.rsplit_once('@').map_or("", |(_, domain)| domain)
}

fn local_of(address: &str) -> &str {
    address.rsplit_once('@').map_or("", |(local, _)| local)
}

fn is_address(address: &str) -> bool {
    address.len() <= ADDRESS_OCTETS_MAX
        && !local_of(address).is_empty()
        && !domain_of(address).is_empty()
        && !address.contains(char::is_control)
}

fn check_address(address: &str) -> Result<(), Refusal> {
    if is_address(address) {
        return Ok(());
    }
    Err(Refusal::invalid(format!("{} is not a mail address", address.escape_debug())))
}

#[cfg(test)]
mod tests;
