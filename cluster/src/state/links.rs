//! Links to a customer's own view: whoever holds one sees that customer, for a while.
//!
//! What is kept is SHA-256 of the secret in a link, so that nobody who reads the state can use one.
//! **Invariant:** a link shows, and changes, what is its own customer's, and nothing else. Links go
//! with their customer, and when its contacts change.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::hosts::Hash;
use super::{Command, Customer, CustomerStatus, Outcome, Refusal, State, domain_of};

/// Links of one customer. A further one that an operator makes takes the place of the one that
/// ends first; one that anybody asked for is not made, so that strangers end no link.
const OF_CUSTOMER_MAX: usize = 10;
const OF_FLEET_MAX: usize = 20_000;
/// Letters with a link to one customer within [`PERIOD_MS`]: anybody can ask for one.
const MAILED_MAX: usize = 3;
/// The same to all customers together.
const MAILED_BY_FLEET_MAX: usize = 100;
const PERIOD_MS: u64 = 3_600_000;
/// The setting that says how long a link is good for.
const LIFE: &str = "customer.link_life";

/// What can be done with links.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkCommand {
    /// A new link.
    Issue {
        /// SHA-256 of its secret.
        hash: [u8; 32],
        /// Whose view it leads to.
        customer: String,
        /// It goes to the customer's contacts, because somebody asked for that.
        by_mail: bool,
    },
    /// Whoever holds a link pardons one of that customer's recipients.
    Pardon {
        /// SHA-256 of the link's secret.
        hash: [u8; 32],
        /// As in [`Command::BlacklistPardon`].
        address: String,
    },
    /// Whoever holds a link ends it.
    End {
        /// SHA-256 of its secret.
        hash: [u8; 32],
    },
}

impl LinkCommand {
    pub(super) fn summary(&self) -> String {
        match self {
            Self::Issue { customer, by_mail: true, .. } => {
                format!("customer link {customer}, to its contacts by mail")
            }
            Self::Issue { customer, .. } => format!("customer link {customer}"),
            Self::Pardon { address, .. } => format!("blacklist pardon {address}, by a link"),
            Self::End { .. } => "end of a customer's link".to_owned(),
        }
    }
}

/// A link, as the state has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Link {
    customer: String,
    made_ms: u64,
    /// By the setting at that time.
    ends_ms: u64,
}

/// A piece of the table for a snapshot. Variants are only ever appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LinksPart {
    Links(Vec<(Hash, Link)>),
    Mailed(Vec<(u64, String)>),
}

/// The table.
#[derive(Debug, Clone, Default)]
pub(super) struct Links {
    rows: Arc<BTreeMap<Hash, Link>>,
    /// When which customer was sent one, the oldest first.
    mailed: Arc<Vec<(u64, String)>>,
}

impl Link {
    /// A setting that has become shorter holds for old links, too.
    fn ends_ms(&self, life_ms: u64) -> u64 {
        self.ends_ms.min(self.made_ms.saturating_add(life_ms))
    }
}

impl Links {
    fn good(&self, hash: &Hash, life_ms: u64, now_ms: u64) -> Option<(&Link, u64)> {
        let link = self.rows.get(hash)?;
        let ends_ms = link.ends_ms(life_ms);
        (now_ms < ends_ms).then_some((link, ends_ms))
    }

    fn has_room_to_mail(&self, customer: &str, life_ms: u64, now_ms: u64) -> bool {
        let is_good = |link: &&Link| link.customer == customer && now_ms < link.ends_ms(life_ms);
        if self.rows.values().filter(is_good).count() >= OF_CUSTOMER_MAX {
            return false;
        }
        let lately = || self.mailed.iter().filter(|(at_ms, _)| is_lately(*at_ms, now_ms));
        let to_them = lately().filter(|(_, whom)| whom == customer).count();
        to_them < MAILED_MAX && lately().count() < MAILED_BY_FLEET_MAX
    }

    fn issue(
        &mut self,
        hash: Hash,
        link: Link,
        by_mail: bool,
        (life_ms, now_ms): (u64, u64),
    ) -> Outcome {
        if by_mail && !self.has_room_to_mail(&link.customer, life_ms, now_ms) {
            return Err(Refusal::conflict(
                "enough links were mailed lately, and are still good; ask again later",
            ));
        }
        if self.rows.contains_key(&hash) {
            return Err(Refusal::conflict("there is such a link already"));
        }
        let theirs = || self.rows.iter().filter(|(_, other)| other.customer == link.customer);
        let first = theirs().min_by_key(|(hash, other)| (other.ends_ms, **hash));
        let goes = first.map(|(hash, _)| *hash).filter(|_| theirs().count() >= OF_CUSTOMER_MAX);
        if goes.is_none() && self.rows.len() >= OF_FLEET_MAX {
            return Err(Refusal::conflict(format!("there are {OF_FLEET_MAX} links; let some end")));
        }
        if by_mail {
            let mailed = Arc::make_mut(&mut self.mailed);
            mailed.retain(|(at_ms, _)| is_lately(*at_ms, now_ms));
            mailed.push((now_ms, link.customer.clone()));
        }
        let rows = Arc::make_mut(&mut self.rows);
        if let Some(goes) = goes {
            rows.remove(&goes);
        }
        rows.insert(hash, link);
        Ok(1)
    }

    /// Forget what has ended.
    pub(super) fn sweep(&mut self, life_ms: u64, now_ms: u64) {
        let has_ended = |link: &Link| link.ends_ms(life_ms) <= now_ms;
        if self.rows.values().any(has_ended) {
            Arc::make_mut(&mut self.rows).retain(|_, link| !has_ended(link));
        }
    }

    /// None of a customer's links is good any more. How often it was written to stays.
    pub(super) fn forget(&mut self, customer: &str) {
        if self.rows.values().any(|link| link.customer == customer) {
            Arc::make_mut(&mut self.rows).retain(|_, link| link.customer != customer);
        }
    }

    pub(super) fn parts(&self, rows: usize) -> impl Iterator<Item = LinksPart> {
        use super::parts::in_pieces;
        let links = self.rows.iter().map(|(hash, link)| (*hash, link.clone()));
        let mailed = self.mailed.iter().cloned();
        in_pieces(links, rows)
            .map(LinksPart::Links)
            .chain(in_pieces(mailed, rows).map(LinksPart::Mailed))
    }

    pub(super) fn absorb(&mut self, part: LinksPart) {
        match part {
            LinksPart::Links(rows) => Arc::make_mut(&mut self.rows).extend(rows),
            LinksPart::Mailed(rows) => Arc::make_mut(&mut self.mailed).extend(rows),
        }
    }
}

fn is_lately(at_ms: u64, now_ms: u64) -> bool {
    now_ms < at_ms.saturating_add(PERIOD_MS)
}

impl State {
    /// The customer whose view a link leads to, and until when; `None` if it leads nowhere. `hash`
    /// is SHA-256 of the link's secret.
    pub fn customer_of_link(&self, hash: &[u8; 32], now_ms: u64) -> Option<(&Customer, u64)> {
        let now_ms = now_ms.max(self.clock_ms);
        let (link, ends_ms) = self.links.good(hash, self.link_life_ms(), now_ms)?;
        Some((self.customer(&link.customer)?, ends_ms))
    }

    /// Whether a customer may be sent a link now: not too many went out lately.
    pub fn may_mail_link(&self, customer: &str, now_ms: u64) -> bool {
        let now_ms = now_ms.max(self.clock_ms);
        self.links.has_room_to_mail(customer, self.link_life_ms(), now_ms)
    }

    pub(super) fn change_links(&mut self, command: &LinkCommand) -> Outcome {
        let (now_ms, life_ms) = (self.clock_ms, self.link_life_ms());
        match command {
            LinkCommand::Issue { hash, customer, by_mail } => {
                self.customers.require(customer)?;
                let ends_ms = now_ms.saturating_add(life_ms);
                let link = Link { customer: customer.clone(), made_ms: now_ms, ends_ms };
                self.links.sweep(life_ms, now_ms);
                self.links.issue(*hash, link, *by_mail, (life_ms, now_ms))
            }
            LinkCommand::Pardon { hash, address } => {
                let (customer, _) = self.customer_of_link(hash, now_ms).ok_or_else(no_link)?;
                if self
                    .domain(domain_of(address))
                    .is_none_or(|domain| domain.customer != customer.id)
                {
                    return Err(Refusal::not_found("that recipient is none of this customer's"));
                }
                if customer.status == CustomerStatus::Suspended {
                    let why = "the customer is suspended: it can look, and change nothing";
                    return Err(Refusal::conflict(why));
                }
                let address = address.clone();
                self.change(0, &Command::BlacklistPardon { address })
            }
            LinkCommand::End { hash } => {
                self.links.good(hash, life_ms, now_ms).ok_or_else(no_link)?;
                Arc::make_mut(&mut self.links.rows).remove(hash);
                Ok(1)
            }
        }
    }

    pub(super) fn link_life_ms(&self) -> u64 {
        self.settings.duration_ms(LIFE)
    }
}

fn no_link() -> Refusal {
    Refusal::not_found("there is no such link, or it has ended")
}
