//! Domains whose server refuses those it took mail for a short while ago.
//!
//! A directory that breaks says `550 5.1.1` of everybody, in the best form. So says a good one in a
//! dictionary attack, which is most of the traffic; the difference is that an attack's recipients
//! never had any mail taken. A domain is *frozen* when several recipients that are trusted are
//! refused within `blacklist.thaw_after`: nothing in it is counted, so nothing new is listed, until
//! there was no sign of trouble for that long. A trusted recipient is a sign when it is refused for
//! the first time since mail was taken for it, so that a mailbox that was removed is one sign and
//! not one with each message; but while a frozen domain takes no mail at all, each refusal is.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ADDRESS_OCTETS_MAX;
use crate::state::{Outcome, Refusal};

const DOMAINS_MAX: usize = 100_000;
/// Signs that freeze a domain however large it is.
const SIGNS_MAX: u64 = 10;
/// Signs that freeze a domain with a few trusted recipients; one with fewer, more than half.
const SIGNS_FEW: u64 = 3;
/// In a larger one, one sign for so many trusted recipients: some mailboxes go every day.
const TRUSTED_PER_SIGN: u64 = 100;

/// A domain in which nothing is counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Freeze {
    since_ms: u64,
    /// What froze it; `None` is an operator, who also has to thaw it.
    signs: Option<Signs>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Signs {
    count: u64,
    newest_ms: u64,
    /// When the server last took mail for anybody in the domain, if it did since it was frozen.
    taken_ms: Option<u64>,
}

/// A domain in which nothing new is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrozenDomain<'a> {
    /// Its name.
    pub domain: &'a str,
    /// Since when: milliseconds since 1970, UTC.
    pub since_ms: u64,
    /// Until when, if nothing else happens; `None` is until an operator says so.
    pub until_ms: Option<u64>,
    /// How often a recipient was refused that mail had been taken for; 0 if an operator froze it.
    pub signs: u64,
}

/// The frozen domains, and those that may be soon.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Guard {
    pub(super) frozen: Arc<BTreeMap<String, Freeze>>,
    /// The times of the newest signs in domains that are not frozen.
    pub(super) doubts: Arc<BTreeMap<String, Vec<u64>>>,
    pub(super) guarded: Guarded,
}

/// What the guard has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Guarded {
    /// Times that it froze a domain.
    pub(super) freezes: u64,
    /// Rejections that would have listed a recipient, had it not been trusted.
    pub(super) withheld: u64,
}

impl Freeze {
    fn until_ms(&self, thaw_ms: u64) -> Option<u64> {
        self.signs.as_ref().map(|signs| signs.newest_ms.saturating_add(thaw_ms))
    }

    fn holds(&self, at_ms: u64, thaw_ms: u64) -> bool {
        self.until_ms(thaw_ms).is_none_or(|until| at_ms < until)
    }
}

impl Guard {
    pub(super) fn is_frozen(&self, domain: &str, at_ms: u64, thaw_ms: u64) -> bool {
        self.frozen.get(domain).is_some_and(|freeze| freeze.holds(at_ms, thaw_ms))
    }

    pub(super) fn frozen(
        &self,
        now_ms: u64,
        thaw_ms: u64,
    ) -> impl Iterator<Item = FrozenDomain<'_>> {
        let frozen = self.frozen.iter().filter(move |(_, freeze)| freeze.holds(now_ms, thaw_ms));
        frozen.map(move |(domain, freeze)| FrozenDomain {
            domain,
            since_ms: freeze.since_ms,
            until_ms: freeze.until_ms(thaw_ms),
            signs: freeze.signs.as_ref().map_or(0, |signs| signs.count),
        })
    }

    /// A trusted recipient was refused; `is_first`: for the first time since mail was taken for
    /// it. `trusted`: how many the domain has.
    pub(super) fn refused(
        &mut self,
        domain: &str,
        is_first: bool,
        trusted: u64,
        (at_ms, thaw_ms): (u64, u64),
    ) {
        if self.is_frozen(domain, at_ms, thaw_ms) {
            let freeze = Arc::make_mut(&mut self.frozen).get_mut(domain);
            if let Some(signs) = freeze.and_then(|freeze| freeze.signs.as_mut())
                && (is_first || signs.taken_ms.is_none_or(|taken| taken < signs.newest_ms))
            {
                signs.count += 1;
                signs.newest_ms = signs.newest_ms.max(at_ms);
            }
        } else if is_first {
            self.doubt(domain, trusted, at_ms, thaw_ms);
        }
    }

    fn doubt(&mut self, domain: &str, trusted: u64, at_ms: u64, thaw_ms: u64) {
        let doubts = Arc::make_mut(&mut self.doubts);
        if doubts.len() >= DOMAINS_MAX && !doubts.contains_key(domain) {
            return;
        }
        let times = doubts.entry(domain.to_owned()).or_default();
        times.retain(|time| at_ms < time.saturating_add(thaw_ms));
        times.push(at_ms);
        let count = times.len() as u64;
        if count < signs_needed(trusted) {
            return;
        }
        doubts.remove(domain);
        let signs = Signs { count, newest_ms: at_ms, taken_ms: None };
        let freeze = Freeze { since_ms: at_ms, signs: Some(signs) };
        Arc::make_mut(&mut self.frozen).insert(domain.to_owned(), freeze);
        self.guarded.freezes += 1;
    }

    /// Whether it matters now that mail was taken for anybody in the domain.
    pub(super) fn asks_for(&self, domain: &str, now_ms: u64, thaw_ms: u64) -> bool {
        let freeze = self.frozen.get(domain).filter(|freeze| freeze.holds(now_ms, thaw_ms));
        let signs = freeze.and_then(|freeze| freeze.signs.as_ref());
        signs.is_some_and(|signs| signs.taken_ms.is_none_or(|taken| taken < signs.newest_ms))
    }

    /// Mail was taken for somebody in the domain.
    pub(super) fn taken(&mut self, domain: &str, at_ms: u64, thaw_ms: u64) {
        if self.asks_for(domain, at_ms, thaw_ms) {
            let freeze = Arc::make_mut(&mut self.frozen).get_mut(domain);
            if let Some(signs) = freeze.and_then(|freeze| freeze.signs.as_mut()) {
                signs.taken_ms = signs.taken_ms.max(Some(at_ms));
            }
        }
    }

    /// An operator freezes a domain, until they thaw it; or thaws it, whatever froze it.
    pub(super) fn set(
        &mut self,
        domain: &str,
        frozen: bool,
        (now_ms, thaw_ms): (u64, u64),
    ) -> Outcome {
        let was_frozen = self.is_frozen(domain, now_ms, thaw_ms);
        let since_ms = self.frozen.get(domain).filter(|_| was_frozen).map(|f| f.since_ms);
        let table = Arc::make_mut(&mut self.frozen);
        if !frozen {
            table.remove(domain);
            Arc::make_mut(&mut self.doubts).remove(domain);
            return Ok(u64::from(was_frozen));
        }
        if domain.is_empty() || domain.len() > ADDRESS_OCTETS_MAX || table.len() >= DOMAINS_MAX {
            return Err(Refusal::invalid("this domain cannot be frozen"));
        }
        let freeze = Freeze { since_ms: since_ms.unwrap_or(now_ms), signs: None };
        let before = table.insert(domain.to_owned(), freeze.clone());
        Ok(u64::from(before != Some(freeze)))
    }

    /// Forget what is over.
    pub(super) fn sweep(&mut self, now_ms: u64, thaw_ms: u64) {
        if self.frozen.values().any(|freeze| !freeze.holds(now_ms, thaw_ms)) {
            Arc::make_mut(&mut self.frozen).retain(|_, freeze| freeze.holds(now_ms, thaw_ms));
        }
        let is_over = |times: &Vec<u64>| {
            times.last().is_none_or(|newest| newest.saturating_add(thaw_ms) <= now_ms)
        };
        if self.doubts.values().any(is_over) {
            Arc::make_mut(&mut self.doubts).retain(|_, times| !is_over(times));
        }
    }
}

/// How many signs freeze a domain with so many trusted recipients.
fn signs_needed(trusted: u64) -> u64 {
    let share = (trusted / TRUSTED_PER_SIGN).clamp(SIGNS_FEW, SIGNS_MAX);
    share.min(trusted / 2 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_domains_need_more_than_half_and_large_ones_a_share() {
        let needed = [1, 2, 3, 4, 50, 399, 400, 999, 1000, 1_000_000].map(signs_needed);
        assert_eq!(needed, [1, 2, 2, 3, 3, 3, 4, 9, 10, 10]);
    }
}
