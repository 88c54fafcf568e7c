//! What nodes learn of recipients by the way: told in memory, at least once, and lost with a node.
//!
//! Nothing here is counted, so that a repetition does no harm; what is counted comes in a
//! `BlacklistReport`.

use serde::{Deserialize, Serialize};

use super::{Outcome, Refusal, State};

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
}

impl RecipientNews {
    /// What it is about.
    pub fn subject(&self) -> &str {
        match self {
            Self::Taken { address, .. } => address,
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
                    let terms = super::Terms { settings: &self.settings, domains: &self.domains };
                    self.blacklist.taken(terms, address, *at_ms, now_ms);
                }
            }
        }
        Ok(news.len() as u64)
    }
}
