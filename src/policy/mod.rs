//! Stage 3: may this recipient pass? An ordered list of checks, each pure given the facts; the
//! first that objects decides, and says which it was, so that `explain rcpt` can repeat it.
//!
//! **Invariant:** mail is accepted only for domains in the table (and `postmaster` where RFC 5321
//! section 4.5.1 wants it), and for return paths that we have given out; no spelling of an address
//! makes us relay elsewhere.

mod checks;
mod forged;

use mxfleet_cluster::{Cluster, State};
use prometheus::IntCounter;

use crate::returns::{Forged, Tag};
use crate::smtp::{Address, Enhanced, Reply, ReversePath};
use crate::telemetry::journal::Journal;
use crate::telemetry::metrics::METRICS;
use checks::{BLACKLIST, CHECKS, Facts, RETURN_PATH};
use forged::ForgedReturns;

/// What stage 3 decided about one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// No check objects.
    Accept,
    /// This check objects.
    Refuse {
        /// What the client is told.
        reply: Reply,
        /// The name of the check.
        check: &'static str,
    },
}

/// The checks with what they need to know.
pub struct Policy {
    cluster: Cluster,
    hostnames: Vec<String>,
    postmaster: Option<Address>,
    counted: Counted,
    forged: Option<ForgedReturns>,
}

/// A counter per check, and one for what passed them all.
struct Counted {
    accepted: IntCounter,
    refused: Vec<IntCounter>,
}

impl Policy {
    /// `hostnames`: every name this node goes by. `postmaster`: who gets mail for its own
    /// postmaster; without one it goes to the postmaster of the first domain in the table.
    pub fn new(cluster: Cluster, hostnames: Vec<String>, postmaster: Option<Address>) -> Self {
        let counter = |check: &str, decision: &str| {
            METRICS.policy_decisions_total.with_label_values(&[check, decision])
        };
        let counted = Counted {
            accepted: counter("all", "accept"),
            refused: CHECKS.iter().map(|check| counter(check.name, "refuse")).collect(),
        };
        Self { cluster, hostnames, postmaster, counted, forged: None }
    }

    /// Write down which return paths were forged.
    #[must_use]
    pub fn with_journal(mut self, journal: Journal) -> Self {
        self.forged = Some(ForgedReturns::new(journal));
        self
    }

    /// Decide about one recipient, and count it. For customers' domains nothing depends on the
    /// sender: a relay asks where mail goes, and anybody may write to them.
    /// `now_ms`: milliseconds since 1970, UTC.
    pub fn rcpt(&self, sender: &ReversePath, recipient: &Address, now_ms: u64) -> Decision {
        match self.first_objection(sender, recipient, now_ms) {
            Some((index, reply)) => {
                if CHECKS[index].name == BLACKLIST {
                    METRICS.blacklist_hits_total.inc();
                }
                if CHECKS[index].name == RETURN_PATH
                    && let Some(forged) = &self.forged
                {
                    let opened = self.opened(recipient, now_ms);
                    forged.note(sender, recipient, opened, now_ms);
                }
                self.counted.refused[index].inc();
                Decision::Refuse { reply, check: CHECKS[index].name }
            }
            None => {
                self.counted.accepted.inc();
                Decision::Accept
            }
        }
    }

    /// What [`Policy::rcpt`] would decide, for somebody who only asks.
    pub fn explain(&self, sender: &ReversePath, recipient: &Address, now_ms: u64) -> Decision {
        match self.first_objection(sender, recipient, now_ms) {
            Some((index, reply)) => Decision::Refuse { reply, check: CHECKS[index].name },
            None => Decision::Accept,
        }
    }

    fn first_objection(
        &self,
        sender: &ReversePath,
        recipient: &Address,
        now_ms: u64,
    ) -> Option<(usize, Reply)> {
        let state = self.cluster.view();
        let own_names = &self.hostnames;
        let facts = Facts { state: &state, own_names, sender, recipient, now_ms };
        CHECKS
            .iter()
            .enumerate()
            .find_map(|(index, check)| Some((index, (check.objection)(&facts)?)))
    }

    fn opened(&self, recipient: &Address, now_ms: u64) -> Result<Tag, Forged> {
        Tag::open_at(self.cluster.view().return_keys(), recipient.local_part(), now_ms / 1000)
    }

    /// Whom a recipient means: `<Postmaster>` without a domain (`None`) and the postmaster at our
    /// own names are people of ours.
    pub fn target(&self, given: Option<Address>) -> Result<Address, Reply> {
        match given {
            Some(address) if !self.is_own_postmaster(&address) => Ok(address),
            _ => self
                .postmaster
                .clone()
                .or_else(|| first_postmaster(&self.cluster.view()))
                .ok_or_else(|| Reply::new(550, Enhanced(5, 1, 1), "No postmaster here yet")),
        }
    }

    /// Every name this node goes by, in lower case.
    pub fn own_names(&self) -> &[String] {
        &self.hostnames
    }

    fn is_own_postmaster(&self, address: &Address) -> bool {
        address.is_postmaster() && self.hostnames.iter().any(|name| name == address.domain())
    }
}

fn first_postmaster(state: &State) -> Option<Address> {
    let domain = state.domains().next()?;
    Address::parse(&format!("postmaster@{}", domain.name), false).ok()
}

#[cfg(test)]
mod tests;
