//! The small tables beside the addresses: who is exempt, what was reported, which domains are
//! frozen.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::guard::{Freeze, Guard, Guarded};
use super::policy::Terms;
use super::{Exemption, domain_of};
use crate::state::parts::in_pieces;
use crate::state::{Outcome, Refusal};

const EXEMPT_MAX: usize = 100_000;
const REASON_OCTETS_MAX: usize = 200;

/// The newest report taken from a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Report {
    incarnation: u64,
    sequence: u64,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Rules {
    exempt: Arc<BTreeMap<String, Exemption>>,
    reports: Arc<BTreeMap<u64, Report>>,
    pub(super) guard: Guard,
    /// Secret of the fleet: who chooses addresses must not be able to choose their leaf too.
    pub(super) seed: u64,
    /// The leaf the next sweep begins at.
    pub(super) sweep: u64,
}

/// A piece of the rules in a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum RulesPart {
    Core { reports: Arc<BTreeMap<u64, Report>>, seed: u64, sweep: u64, guarded: Guarded },
    Exempt(Vec<(String, Exemption)>),
    Frozen(Vec<(String, Freeze)>),
    Doubts(Vec<(String, Vec<u64>)>),
}

impl Exemption {
    fn holds(&self, at_ms: u64) -> bool {
        self.until_ms.is_none_or(|until| at_ms < until)
    }
}

impl Rules {
    /// Whether this report is news; from then on it is not.
    pub(super) fn is_new(&mut self, (node, incarnation, sequence): (u64, u64, u64)) -> bool {
        let report = Report { incarnation, sequence };
        let is_new = self.reports.get(&node).is_none_or(|last| report > *last);
        if is_new {
            Arc::make_mut(&mut self.reports).insert(node, report);
        }
        is_new
    }

    pub(super) fn exemption(&self, address: &str, now_ms: u64) -> Option<&Exemption> {
        self.exempt.get(address).filter(|exemption| exemption.holds(now_ms))
    }

    pub(super) fn exempt(&self, now_ms: u64) -> impl Iterator<Item = (&str, &Exemption)> {
        let exempt = self.exempt.iter().filter(move |(_, exemption)| exemption.holds(now_ms));
        exempt.map(|(address, exemption)| (address.as_str(), exemption))
    }

    pub(super) fn exempt_len(&self) -> u64 {
        self.exempt.len() as u64
    }

    pub(super) fn set_exempt(
        &mut self,
        address: &str,
        exemption: Option<&Exemption>,
        now_ms: u64,
    ) -> Outcome {
        let exempt = Arc::make_mut(&mut self.exempt);
        let Some(exemption) = exemption else {
            // It stays for a while as one that is over: what happened before may come late.
            let ended = exempt.get_mut(address).filter(|exemption| exemption.holds(now_ms));
            return Ok(ended.map_or(0, |exemption| {
                exemption.until_ms = Some(now_ms);
                1
            }));
        };
        if exemption.reason.len() > REASON_OCTETS_MAX || exemption.reason.contains(char::is_control)
        {
            return Err(Refusal::invalid("a reason is at most 200 octets of plain text"));
        }
        if exempt.len() >= EXEMPT_MAX && !exempt.contains_key(address) {
            return Err(Refusal::conflict("100000 addresses are exempt; remove some first"));
        }
        exempt.insert(address.to_owned(), exemption.clone());
        Ok(1)
    }

    /// All of it, at most so many `rows` in a part.
    pub(super) fn parts(&self, rows: usize) -> impl Iterator<Item = RulesPart> {
        let core = RulesPart::Core {
            reports: Arc::clone(&self.reports),
            seed: self.seed,
            sweep: self.sweep,
            guarded: self.guard.guarded,
        };
        std::iter::once(core)
            .chain(in_pieces(owned(&self.exempt), rows).map(RulesPart::Exempt))
            .chain(in_pieces(owned(&self.guard.frozen), rows).map(RulesPart::Frozen))
            .chain(in_pieces(owned(&self.guard.doubts), rows).map(RulesPart::Doubts))
    }

    pub(super) fn absorb(&mut self, part: RulesPart) {
        match part {
            RulesPart::Core { reports, seed, sweep, guarded } => {
                (self.reports, self.seed, self.sweep) = (reports, seed, sweep);
                self.guard.guarded = guarded;
            }
            RulesPart::Exempt(rows) => Arc::make_mut(&mut self.exempt).extend(rows),
            RulesPart::Frozen(rows) => Arc::make_mut(&mut self.guard.frozen).extend(rows),
            RulesPart::Doubts(rows) => Arc::make_mut(&mut self.guard.doubts).extend(rows),
        }
    }

    /// Forget what is over.
    pub(super) fn sweep(&mut self, terms: Terms<'_>, now_ms: u64) {
        self.guard.sweep(now_ms, terms.thaw_ms());
        let is_over = |address: &String, exemption: &Exemption| {
            let keep_ms = terms.policy(domain_of(address)).keep_ms();
            exemption.until_ms.is_some_and(|until| until.saturating_add(keep_ms) <= now_ms)
        };
        if self.exempt.iter().any(|(address, exemption)| is_over(address, exemption)) {
            let exempt = Arc::make_mut(&mut self.exempt);
            exempt.retain(|address, exemption| !is_over(address, exemption));
        }
    }
}

fn owned<V: Clone>(table: &BTreeMap<String, V>) -> impl Iterator<Item = (String, V)> {
    table.iter().map(|(key, value)| (key.clone(), value.clone()))
}
