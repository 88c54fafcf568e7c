//! Stage 3: may this recipient pass? An ordered list of checks, each pure given the facts; the
//! first that objects decides, and says which it was, so that `explain rcpt` can repeat it.
//!
//! **Invariant:** mail is accepted only for domains in the table, for those who run the service
//! ([`Role`], `postmaster` among them, as RFC 5321 section 4.5.1 wants it), and for return paths
//! that we have given out; no spelling of an address makes us relay elsewhere.

mod checks;
mod forged;
pub mod list;
mod watch;

use std::cell::OnceCell;
use std::time::{Duration, Instant};

use mxfleet_cluster::{Cluster, Verification};
use prometheus::IntCounter;

use crate::callout::Callout;
use crate::config::Limits;
use crate::returns::{Forged, Tag};
use crate::smtp::{Address, Enhanced, Reply, ReversePath, Role};
use crate::telemetry::journal::Journal;
use crate::telemetry::metrics::METRICS;
use checks::{BLACKLIST, CALLOUT, CHECKS, CUSTOMER_ACTIVE, Facts, RETURN_PATH, ROLE};
use forged::ForgedReturns;
pub use watch::{Change, Watch};

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
    /// No check objects, and the customer's server is to be asked: [`Policy::verify`].
    Ask,
    /// It is for those who run the service, and they get it.
    Operators,
}

/// The checks with what they need to know.
pub struct Policy {
    cluster: Cluster,
    hostnames: Vec<String>,
    has_webhook: bool,
    callout: Option<Callout>,
    counted: Counted,
    watch: Watch,
    forged: Option<ForgedReturns>,
}

/// What the checks say of a recipient.
enum Found {
    /// This check objects, so.
    Objection(usize, Reply),
    /// Nothing, but the customer's server is to be asked.
    Question,
    /// Nothing, and it is a role address of ours.
    Role,
    /// Nothing.
    Nothing,
}

/// A counter per check, and one for what passed them all.
struct Counted {
    accepted: IntCounter,
    refused: Vec<IntCounter>,
}

impl Policy {
    /// `hostnames`: every name this node goes by.
    pub fn new(cluster: Cluster, hostnames: Vec<String>) -> Self {
        let counter = |check: &str, decision: &str| {
            METRICS.policy_decisions_total.with_label_values(&[check, decision])
        };
        let counted = Counted {
            accepted: counter("all", "accept"),
            refused: CHECKS.iter().map(|check| counter(check.name, "refuse")).collect(),
        };
        let window = Duration::from_millis(Limits::default().refusals_window_ms);
        let watch = Watch::new(window, Instant::now());
        Self { cluster, hostnames, has_webhook: false, callout: None, counted, watch, forged: None }
    }

    /// Ask customers' servers where domains want that. Without it nobody is asked.
    #[must_use]
    pub fn with_callout(self, callout: Callout) -> Self {
        Self { callout: Some(callout), ..self }
    }

    /// There is a webhook that is told of what comes to `trouble`.
    #[must_use]
    pub fn with_webhook(self, has_webhook: bool) -> Self {
        Self { has_webhook, ..self }
    }

    /// With another watch for domains whose mail is suddenly refused.
    pub fn watched_by(self, watch: Watch) -> Self {
        Self { watch, ..self }
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
        match self.look(sender, recipient, now_ms) {
            Found::Objection(index, reply) => {
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
                // That a customer is suspended was somebody's decision.
                if ![CUSTOMER_ACTIVE, ROLE].contains(&CHECKS[index].name) {
                    self.watch.count(recipient.domain(), false);
                }
                Decision::Refuse { reply, check: CHECKS[index].name }
            }
            Found::Role => {
                self.counted.accepted.inc();
                Decision::Operators
            }
            // Counted when there is an answer.
            Found::Question if self.callout.is_some() => Decision::Ask,
            Found::Question | Found::Nothing => {
                self.counted.accepted.inc();
                self.watch.count(recipient.domain(), true);
                Decision::Accept
            }
        }
    }

    /// What finds out that a domain's mail is suddenly refused.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// What [`Policy::rcpt`] would decide, for somebody who only asks.
    pub fn explain(&self, sender: &ReversePath, recipient: &Address, now_ms: u64) -> Decision {
        match self.look(sender, recipient, now_ms) {
            Found::Objection(index, reply) => Decision::Refuse { reply, check: CHECKS[index].name },
            Found::Question => Decision::Ask,
            Found::Role => Decision::Operators,
            Found::Nothing => Decision::Accept,
        }
    }

    fn look(&self, sender: &ReversePath, recipient: &Address, now_ms: u64) -> Found {
        let state = self.cluster.view();
        let facts = Facts {
            state: &state,
            own_names: &self.hostnames,
            has_webhook: self.has_webhook,
            sender,
            recipient,
            row: state.domain(recipient.domain()),
            key: OnceCell::new(),
            now_ms,
        };
        let mut checks = CHECKS.iter().enumerate();
        match checks.find_map(|(index, check)| Some((index, (check.objection)(&facts)?))) {
            Some((index, reply)) => Found::Objection(index, reply),
            None if checks::role(&facts).is_some() => Found::Role,
            None if checks::verification(&facts) == Verification::Ask => Found::Question,
            None => Found::Nothing,
        }
    }

    fn opened(&self, recipient: &Address, now_ms: u64) -> Result<Tag, Forged> {
        Tag::open_at(self.cluster.view().return_keys(), recipient.local_part(), now_ms / 1000)
    }

    /// Ask the customer's server, and count what came of it. Never [`Decision::Ask`]; bounded by
    /// `callout_timeout_ms`.
    pub async fn verify(&self, recipient: &Address) -> Decision {
        let passes = match &self.callout {
            Some(callout) => callout.passes(recipient).await,
            None => true,
        };
        if passes {
            self.counted.accepted.inc();
            self.watch.count(recipient.domain(), true);
            return Decision::Accept;
        }
        let check = CHECKS.iter().position(|check| check.name == CALLOUT);
        if let Some(counter) = check.and_then(|index| self.counted.refused.get(index)) {
            counter.inc();
        }
        self.watch.count(recipient.domain(), false);
        Decision::Refuse { reply: checks::unknown(recipient), check: CALLOUT }
    }

    /// Whom a recipient means. `<Postmaster>` without a domain (`None`) is the one at this host. A
    /// role at a host or MX name is the same at the service's domain, so that any host can hand it
    /// on. It is never a customer's: with nobody to read it, it waits here or at the sender's.
    pub fn target(&self, given: Option<Address>) -> Result<Address, Reply> {
        let view = self.cluster.view();
        let role = match &given {
            None => Role::Postmaster,
            Some(address) => match Role::of(address) {
                Some(role) if checks::is_host(&view, &self.hostnames, address.domain()) => role,
                _ => return given.ok_or_else(no_postmaster),
            },
        };
        let domain = view.service_domain().or(self.hostnames.first().map(String::as_str));
        let ours = domain.and_then(|domain| role_at(role, domain));
        let target = match checks::reads(&view, &self.hostnames, self.has_webhook, role) {
            true => ours.or(given),
            false => given.or(ours),
        };
        target.ok_or_else(no_postmaster)
    }

    /// Every name this node goes by, in lower case.
    pub fn own_names(&self) -> &[String] {
        &self.hostnames
    }
}

fn role_at(role: Role, domain: &str) -> Option<Address> {
    Address::parse(&format!("{}@{domain}", role.as_str()), false).ok()
}

fn no_postmaster() -> Reply {
    Reply::new(550, Enhanced(5, 1, 1), "No postmaster here yet")
}

#[cfg(test)]
mod tests;
