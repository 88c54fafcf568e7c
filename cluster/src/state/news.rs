//! What nodes learn of recipients by the way: told in memory, at least once, and lost with a node.
//!
//! Nothing here is counted, so that a repetition does no harm; what is counted comes in a
//! `BlacklistReport`.

use serde::{Deserialize, Serialize};

use super::answers::Answer;
use super::domains::domain_of;
use super::{Outcome, Refusal, State, Terms, Verify};

const NEWS_MAX: usize = 5_000;

/// One thing that a node learnt. Variants are only ever appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecipientNews {
    /// The customer's server took mail for an address that had no rejections.
    Taken {
        /// Domain as lowercase A-label, local part in NFC and case-folded.
        address: String,
        /// When: milliseconds since 1970, UTC.
        at_ms: u64,
    },
    /// The customer's server was asked whether it knows a recipient.
    Answered {
        /// As in `Taken`.
        address: String,
        /// What it said.
        is_known: bool,
        /// The version of the domain by which it was asked.
        version: u64,
        /// When: milliseconds since 1970, UTC.
        at_ms: u64,
    },
    /// The customer's server was asked for a name that nobody has.
    CatchAll {
        /// The domain, as lowercase A-label.
        domain: String,
        /// Whether it knows that one, too.
        is_catch_all: bool,
        /// The version of the domain by which it was asked.
        version: u64,
        /// When: milliseconds since 1970, UTC.
        at_ms: u64,
    },
}

/// What is known of a recipient without asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verification {
    /// Nobody has to be asked.
    Passes,
    /// Its server said lately that it does not know it.
    Unknown,
    /// Its server is to be asked.
    Ask,
}

impl RecipientNews {
    /// What it is about.
    pub fn subject(&self) -> &str {
        match self {
            Self::Taken { address, .. } | Self::Answered { address, .. } => address,
            Self::CatchAll { domain, .. } => domain,
        }
    }
}

impl State {
    pub(super) fn learn(&mut self, news: &[RecipientNews]) -> Outcome {
        if news.len() > NEWS_MAX {
            return Err(Refusal::invalid("a command has at most 5000 news"));
        }
        let now_ms = self.clock_ms;
        for each in news {
            match each {
                RecipientNews::Taken { address, at_ms } => {
                    let terms = Terms { numbers: self.numbers, domains: &self.domains };
                    self.blacklist.taken(terms, address, *at_ms, now_ms);
                }
                RecipientNews::Answered { address, is_known, version, at_ms } => {
                    let answer = Answer::new(*is_known, *version, (*at_ms).min(now_ms));
                    if self.is_current(domain_of(address), *version) {
                        self.answers.put(address, answer);
                    }
                }
                RecipientNews::CatchAll { domain, is_catch_all, version, at_ms } => {
                    let answer = Answer::new(*is_catch_all, *version, (*at_ms).min(now_ms));
                    if self.is_current(domain, *version) {
                        self.answers.put_domain(domain, answer);
                    }
                }
            }
        }
        Ok(news.len() as u64)
    }

    /// Whether nothing was changed in the domain since; a change may be why it was asked wrongly.
    fn is_current(&self, domain: &str, version: u64) -> bool {
        version != 0 && self.domains.version(domain) == version
    }

    /// What is known of a recipient of a domain whose server is asked. The address as everywhere:
    /// domain as lowercase A-label, local part in NFC and case-folded.
    pub fn verification(&self, address: &str, now_ms: u64) -> Verification {
        let domain = domain_of(address);
        let verify = self.domain(domain).map(|row| row.recipients.verify);
        if verify != Some(Verify::Callout) || self.is_catch_all(domain, now_ms) == Some(true) {
            return Verification::Passes;
        }
        let answer = self.answers.get(address).filter(|a| self.is_current(domain, a.version));
        let lasts = |setting| self.settings.duration_ms(setting);
        let answered = answer.and_then(|answer| {
            let (verification, lasts_ms) = match answer.is_known {
                true => (Verification::Passes, lasts("callout.known_for")),
                false => (Verification::Unknown, lasts("callout.unknown_for")),
            };
            (now_ms < answer.at_ms.saturating_add(lasts_ms)).then_some(verification)
        });
        match answered {
            Some(verification) => verification,
            None if self.blacklist.is_exempt(address, now_ms) => Verification::Passes,
            // Mail that was taken is an answer, too.
            None if self.blacklist.took_within(address, lasts("callout.known_for"), now_ms) => {
                Verification::Passes
            }
            None => Verification::Ask,
        }
    }

    /// Whether a domain's server knows any name, if that was found out lately.
    pub fn is_catch_all(&self, domain: &str, now_ms: u64) -> Option<bool> {
        let answer = self.answers.of_domain(domain)?;
        let lasts_ms = self.settings.duration_ms("callout.known_for");
        let holds = self.is_current(domain, answer.version)
            && now_ms < answer.at_ms.saturating_add(lasts_ms);
        holds.then_some(answer.is_known)
    }
}
