//! Recipients that are refused because of too many rejections.
//!
//! Kept for each address: the times of its newest rejections that counted, and when its server last
//! took mail for it. Everything else follows from them and from the settings in force, so a changed
//! setting is true at once for what was counted before: with threshold `k`, an address is listed
//! while the `k`-th newest time is less than a window before the newest, and the newest less than a
//! hold ago. A rejection while listed neither counts nor extends; the first one after a hold starts
//! anew.
//!
//! Mail that is taken clears the rejections of its address. An address without rejections is
//! *trusted* for a window when mail is taken for it, and not listed in that time; `guard` says what
//! else follows when trusted ones are refused.

mod guard;
mod leaf;
mod leaves;
mod notes;
mod policy;
mod rules;

use std::cmp::Reverse;
use std::collections::BTreeSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use self::guard::FrozenDomain;
use self::guard::Guarded;
use self::leaf::{History, Record, Times};
use self::leaves::{LEAVES, Leaves};
use self::notes::Notes;
pub(crate) use self::notes::NotesChunk;
pub use self::notes::RejectionNote;
pub(crate) use self::policy::{Numbers, Terms};
use self::rules::Rules;
pub(crate) use self::rules::RulesPart;
use super::domains::domain_of;
use super::sharded::{Sharded, hash};
use super::{Outcome, Refusal};
use crate::octets::Octets;

/// Addresses with a history. Above that, one goes for each that comes.
const RECORDS_MAX: u64 = 12_000_000;
/// Trusted addresses of one domain: a server that takes mail for any name has no end of them.
const TRUSTED_MAX: u64 = 200_000;
/// A leaf holds some 10 addresses; many more only if somebody found a way to choose their leaf.
const LEAF_OCTETS_MAX: usize = 8 << 10;
const ADDRESS_OCTETS_MAX: usize = 320;
const EVENTS_MAX: usize = 5_000;
/// Leaves looked at in one tick of a minute: all of them in about four hours.
const SWEPT_LEAVES: usize = LEAVES / 240;

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
    /// Until when it is trusted, because mail was taken for it, if it is or was.
    pub trusted_until_ms: Option<u64>,
    /// Why it is never listed, if so.
    pub exemption: Option<Exemption>,
}

/// A recipient that was refused as unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusedRecipient<'a> {
    /// Domain as lowercase A-label, local part in NFC and case-folded.
    pub address: &'a str,
    /// When it was refused last: milliseconds since 1970, UTC.
    pub last_ms: u64,
    /// How many refusals count.
    pub times: usize,
    /// Until when mail for it is refused by us, if it is now.
    pub listed_until_ms: Option<u64>,
}

/// How much is known, and what the guard has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlacklistCounts {
    /// Addresses with rejections that may still count.
    pub tracked: u64,
    /// Addresses that are or were trusted.
    pub trusted: u64,
    /// Addresses that are exempt, or were lately.
    pub exempt: u64,
    /// Times that a domain was frozen because trusted recipients were refused.
    pub freezes: u64,
    /// Rejections that would have listed a recipient, had it not been trusted.
    pub withheld: u64,
}

/// Addresses of a domain, or of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counts {
    records: u32,
    tracked: u32,
    trusted: u32,
}

impl Counts {
    fn of(history: &History) -> Self {
        Self {
            records: u32::from(!history.is_empty()),
            tracked: u32::from(!history.rejected.is_empty()),
            trusted: u32::from(history.taken_ms.is_some()),
        }
    }

    /// With another history in place of one that was counted.
    fn change(&mut self, before: Self, after: Self) {
        self.records = self.records + after.records - before.records;
        self.tracked = self.tracked + after.tracked - before.tracked;
        self.trusted = self.trusted + after.trusted - before.trusted;
    }
}

/// How much the table holds; less in tests.
#[derive(Debug, Clone, Copy)]
struct Room {
    records: u64,
    leaves: usize,
}

/// The table.
#[derive(Debug, Clone)]
pub(crate) struct Blacklist {
    leaves: Leaves,
    rules: Rules,
    notes: Notes,
    room: Room,
    all: Counts,
    /// The same for each domain, by a keyed hash of its name; both follow from the leaves.
    domains: Sharded<u64, Counts>,
}

impl Default for Blacklist {
    fn default() -> Self {
        let (rules, notes, domains) = (Rules::default(), Notes::default(), Sharded::default());
        let room = Room { records: RECORDS_MAX, leaves: LEAVES };
        let (leaves, all) = (Leaves::default(), Counts::default());
        Self { leaves, rules, notes, room, all, domains }
    }
}

impl Blacklist {
    /// Whether a RCPT for this address is to be refused now.
    pub(crate) fn is_listed(&self, terms: Terms<'_>, address: &str, now_ms: u64) -> bool {
        let Some(history) = self.history(address) else { return false };
        let until = terms.policy(domain_of(address)).listed_until(&history);
        until.is_some_and(|until| now_ms < until) && !self.is_exempt(address, now_ms)
    }

    pub(crate) fn entry(
        &self,
        terms: Terms<'_>,
        address: &str,
        now_ms: u64,
    ) -> Option<BlacklistEntry> {
        let history = self.history(address);
        let exemption = self.rules.exemption(address, now_ms).cloned();
        if history.is_none() && exemption.is_none() {
            return None;
        }
        let history = history.unwrap_or_default();
        let policy = terms.policy(domain_of(address));
        Some(BlacklistEntry {
            rejections_ms: history.rejected.as_slice().to_vec(),
            notes: self.notes.get(address, &history.rejected),
            listed_until_ms: policy.listed_until(&history).filter(|_| exemption.is_none()),
            trusted_until_ms: policy.trusted_until(&history),
            exemption,
        })
    }

    /// Listed addresses with the end of their listing, in no useful order.
    pub(crate) fn listed(
        &self,
        terms: Terms<'_>,
        now_ms: u64,
    ) -> impl Iterator<Item = (&str, u64)> {
        self.records().filter_map(move |record| {
            let policy = terms.policy(domain_of(record.address));
            let until = policy.listed_until(&record.history).filter(|until| now_ms < *until)?;
            (!self.is_exempt(record.address, now_ms)).then_some((record.address, until))
        })
    }

    /// Recipients of these domains that were refused, in no useful order.
    pub(crate) fn refused_in<'a>(
        &'a self,
        terms: Terms<'a>,
        domains: &'a BTreeSet<&str>,
        now_ms: u64,
    ) -> impl Iterator<Item = RefusedRecipient<'a>> {
        let is_known = domains.iter().any(|domain| self.counts(domain).tracked > 0);
        let records = is_known.then(|| self.records()).into_iter().flatten();
        records.filter_map(move |Record { address, history }| {
            let last_ms = history.rejected.newest()?;
            let domain = domains.get(domain_of(address))?;
            let until = terms.policy(domain).listed_until(&history);
            let until = until.filter(|until| now_ms < *until && !self.is_exempt(address, now_ms));
            let times = history.rejected.as_slice().len();
            Some(RefusedRecipient { address, last_ms, times, listed_until_ms: until })
        })
    }

    pub(crate) fn is_tracked(&self, address: &str) -> bool {
        self.history(address).is_some_and(|history| !history.rejected.is_empty())
    }

    pub(crate) fn is_exempt(&self, address: &str, now_ms: u64) -> bool {
        self.rules.exemption(address, now_ms).is_some()
    }

    /// Whether mail was taken for an address lately, and nothing refused since.
    pub(crate) fn took_within(&self, address: &str, lately_ms: u64, now_ms: u64) -> bool {
        self.history(address).is_some_and(|history| {
            let taken = history.taken_ms.filter(|_| history.rejected.is_empty());
            taken.is_some_and(|taken| now_ms < taken.saturating_add(lately_ms))
        })
    }

    /// Whether it is worth telling that mail was taken for an address without rejections.
    pub(crate) fn is_taken_news(&self, terms: Terms<'_>, address: &str, now_ms: u64) -> bool {
        let domain = domain_of(address);
        let policy = terms.policy(domain);
        let history = self.history(address).unwrap_or_default();
        let may_be_trusted =
            history.taken_ms.is_some() || u64::from(self.counts(domain).trusted) < TRUSTED_MAX;
        !policy.is_off
            && (policy.is_stale(&history, now_ms) && may_be_trusted
                || self.rules.guard.asks_for(domain, now_ms, terms.thaw_ms()))
    }

    pub(crate) fn counted(&self) -> BlacklistCounts {
        let Counts { tracked, trusted, .. } = self.all;
        let Guarded { freezes, withheld } = self.rules.guard.guarded;
        let (tracked, trusted) = (tracked.into(), trusted.into());
        BlacklistCounts { tracked, trusted, exempt: self.rules.exempt_len(), freezes, withheld }
    }

    pub(crate) fn exempt(&self, now_ms: u64) -> impl Iterator<Item = (&str, &Exemption)> {
        self.rules.exempt(now_ms)
    }

    pub(crate) fn frozen(
        &self,
        terms: Terms<'_>,
        now_ms: u64,
    ) -> impl Iterator<Item = FrozenDomain<'_>> {
        self.rules.guard.frozen(now_ms, terms.thaw_ms())
    }

    fn records(&self) -> impl Iterator<Item = Record<'_>> {
        self.leaves.iter().flat_map(|(_, leaf)| leaf::records(leaf))
    }

    fn history(&self, address: &str) -> Option<History> {
        leaf::find(self.leaves.get(self.place(address)), address)
    }

    /// Take a node's report once. The outcome is the number of events that counted.
    pub(crate) fn report(
        &mut self,
        terms: Terms<'_>,
        now_ms: u64,
        id: (u64, u64, u64),
        events: &[RecipientEvent],
    ) -> Outcome {
        if events.len() > EVENTS_MAX {
            return Err(Refusal::invalid("a report has at most 5000 events"));
        }
        if !self.rules.is_new(id) {
            return Ok(0);
        }
        let mut counted = 0;
        for event in events {
            counted += u64::from(match event {
                RecipientEvent::Rejected { address, at_ms, reply } => {
                    self.reject(terms, address, (*at_ms, now_ms), (id.0, reply))
                }
                RecipientEvent::Accepted { address } => self.accept(terms, address, now_ms),
            });
        }
        Ok(counted)
    }

    fn reject(
        &mut self,
        terms: Terms<'_>,
        address: &str,
        (at_ms, now_ms): (u64, u64),
        (node, reply): (u64, &str),
    ) -> bool {
        let domain = domain_of(address);
        let (policy, thaw_ms) = (terms.policy(domain), terms.thaw_ms());
        if policy.is_off || !is_address(address) || local_of(address) == "postmaster" {
            return false;
        }
        let known = self.history(address).unwrap_or_default();
        let at_ms = at_ms.min(now_ms);
        // What was not counted cannot list it when the exemption ends.
        if self.is_exempt(address, at_ms) {
            return false;
        }
        let mut history = known;
        match policy.listed_until(&known) {
            Some(until) if at_ms < until => return false,
            Some(_) => history.rejected = Times::one(at_ms),
            None => history.rejected.insert(at_ms),
        }
        let is_frozen = self.rules.guard.is_frozen(domain, at_ms, thaw_ms);
        if policy.trusts(&known, at_ms) {
            let is_first = known.rejected.newest() < known.taken_ms;
            let trusted = self.counts(domain).trusted.into();
            self.rules.guard.refused(domain, is_first, trusted, (at_ms, thaw_ms));
            // The first is kept, to be known as the first; more would list it after its trust.
            if is_frozen && !is_first {
                return false;
            }
            let withheld = policy.is_over_threshold(&history.rejected);
            self.rules.guard.guarded.withheld += u64::from(withheld);
        } else if is_frozen {
            return false;
        }
        self.put(address, &known, &history);
        let is_first = history.rejected.as_slice().len() == 1;
        self.notes.add(address, is_first, (node, at_ms, reply));
        true
    }

    /// Mail was taken for an address that had rejections, or was said to have some. It is trusted
    /// from now on only if it was before: one whose server says now this and now that is not.
    fn accept(&mut self, terms: Terms<'_>, address: &str, now_ms: u64) -> bool {
        self.rules.guard.taken(domain_of(address), now_ms, terms.thaw_ms());
        let Some(known) = self.history(address) else { return false };
        let taken_ms = known.taken_ms.map(|_| now_ms);
        self.put(address, &known, &History { rejected: Times::default(), taken_ms });
        !known.rejected.is_empty()
    }

    /// Mail was taken for an address without rejections.
    pub(crate) fn taken(&mut self, terms: Terms<'_>, address: &str, at_ms: u64, now_ms: u64) {
        if !is_address(address) || !self.is_taken_news(terms, address, now_ms) {
            return;
        }
        let (domain, at_ms) = (domain_of(address), at_ms.min(now_ms));
        self.rules.guard.taken(domain, at_ms, terms.thaw_ms());
        let known = self.history(address).unwrap_or_default();
        if known.taken_ms.is_some() || u64::from(self.counts(domain).trusted) < TRUSTED_MAX {
            let taken_ms = known.taken_ms.max(Some(at_ms));
            self.put(address, &known, &History { taken_ms, ..known });
        }
    }

    /// Forget the rejections of an address.
    fn forget(&mut self, address: &str) -> bool {
        let Some(known) = self.history(address) else { return false };
        self.put(address, &known, &History { rejected: Times::default(), ..known });
        !known.rejected.is_empty()
    }

    /// When the table or the leaf is full, one address of the leaf goes for the new one: one that
    /// was rejected at most once, if there is one, of the domain with the most addresses, the
    /// oldest.
    fn make_room(&mut self, address: &str) {
        let bytes = self.leaves.get(self.place(address));
        if u64::from(self.all.records) < self.room.records && bytes.len() < LEAF_OCTETS_MAX {
            return;
        }
        let goes = leaf::records(bytes)
            .max_by_key(|record| {
                let single = record.history.rejected.as_slice().len() <= 1;
                let records = self.counts(domain_of(record.address)).records;
                (single, records, Reverse(record.history.newest()))
            })
            .map(|record| (record.address.to_owned(), record.history));
        if let Some((goes, known)) = goes {
            self.put(&goes, &known, &History::default());
        }
    }

    fn counts(&self, domain: &str) -> Counts {
        let key = self.domain_key(domain);
        self.domains.get(&key).map(|row| row.value).unwrap_or_default()
    }

    /// What a domain is counted by. Who has not got the seed finds no two of the same.
    fn domain_key(&self, domain: &str) -> u64 {
        hash(self.rules.seed, domain.as_bytes())
    }

    /// The only place where a leaf changes: the counts change with it. `before` is what the leaf
    /// says of the address so far.
    fn put(&mut self, address: &str, before: &History, after: &History) {
        if before.is_empty() && !after.is_empty() {
            self.make_room(address);
        }
        let number = self.place(address);
        let changed = leaf::replace(self.leaves.get(number), address, after);
        self.leaves.set(number, &changed);
        self.count(address, before, after);
    }

    fn count(&mut self, address: &str, before: &History, after: &History) {
        let (before, after) = (Counts::of(before), Counts::of(after));
        if before == after {
            return;
        }
        self.all.change(before, after);
        let key = self.domain_key(domain_of(address));
        let mut left = after;
        let is_known = self.domains.change(&key, |counts| {
            counts.change(before, after);
            left = *counts;
        });
        if !is_known {
            self.domains.put(key, 0, after);
        } else if left.records == 0 {
            self.domains.remove(&key);
        }
    }

    /// Which leaf an address is in, by a keyed hash.
    fn place(&self, address: &str) -> usize {
        let hash = hash(self.rules.seed, address.as_bytes());
        (hash >> 40) as usize % self.room.leaves
    }

    /// The secret of a new fleet.
    pub(crate) fn set_seed(&mut self, seed: u64) {
        self.rules.seed = seed;
    }

    pub(crate) fn pardon(&mut self, address: &str) -> Outcome {
        check_address(address)?;
        Ok(u64::from(self.forget(address)))
    }

    pub(crate) fn set_exempt(
        &mut self,
        address: &str,
        exemption: Option<&Exemption>,
        now_ms: u64,
    ) -> Outcome {
        check_address(address)?;
        let changed = self.rules.set_exempt(address, exemption, now_ms)?;
        if exemption.is_some() {
            self.forget(address);
        }
        Ok(changed)
    }

    /// An operator freezes or thaws a domain.
    pub(crate) fn set_frozen(
        &mut self,
        terms: Terms<'_>,
        domain: &str,
        frozen: bool,
        now_ms: u64,
    ) -> Outcome {
        self.rules.guard.set(domain, frozen, (now_ms, terms.thaw_ms()))
    }

    /// Forget what can never matter again, in a slice of the table.
    pub(crate) fn sweep(&mut self, terms: Terms<'_>, now_ms: u64) {
        self.rules.sweep(terms, now_ms);
        let first = usize::try_from(self.rules.sweep).unwrap_or(0);
        for at in (first..first + SWEPT_LEAVES).map(|at| at % LEAVES) {
            let leaf = self.leaves.get(at).to_vec();
            for record in leaf::records(&leaf) {
                let newest = record.history.newest().unwrap_or(0);
                let keep_ms = terms.policy(domain_of(record.address)).keep_ms();
                if newest.saturating_add(keep_ms) <= now_ms {
                    self.put(record.address, &record.history, &History::default());
                }
            }
        }
        self.rules.sweep = ((first + SWEPT_LEAVES) % LEAVES) as u64;
    }

    /// The small values, as a snapshot holds them.
    pub(crate) fn rules(&self, rows: usize) -> impl Iterator<Item = RulesPart> {
        self.rules.parts(rows)
    }

    pub(crate) fn leaves(&self) -> impl Iterator<Item = (u32, Octets)> {
        let number = |at| u32::try_from(at).unwrap_or(u32::MAX);
        let octets = |leaf| Octets(Bytes::copy_from_slice(leaf));
        self.leaves.iter().map(move |(at, leaf)| (number(at), octets(leaf)))
    }

    pub(crate) fn notes_chunks(&self) -> impl Iterator<Item = NotesChunk> {
        self.notes.chunks()
    }

    pub(crate) fn absorb_notes(&mut self, chunk: NotesChunk) {
        self.notes.absorb(chunk);
    }

    pub(crate) fn absorb_rules(&mut self, part: RulesPart) {
        self.rules.absorb(part);
    }

    pub(crate) fn absorb_leaves(&mut self, leaves: Vec<(u32, Octets)>) {
        for (at, octets) in leaves {
            for record in leaf::records(&octets.0) {
                self.count(record.address, &History::default(), &record.history);
            }
            self.leaves.set(at as usize, &octets.0);
        }
    }
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
