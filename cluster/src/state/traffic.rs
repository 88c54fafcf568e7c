//! How much mail each customer gets, and by which names: what rebalancing is planned from, and how
//! it is seen who still uses an old name.
//!
//! Nodes report what they took in a while, the largest counts first and bounded. A day's sum is
//! kept, and that of the day before; older sums are of no use.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::sharded::Sharded;

const DAY_MS: u64 = 86_400_000;
/// Names one customer is seen to use, those that were used last.
const NAMES_MAX: usize = 32;

/// Mail for a customer's domains that one node took, since it last reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficCount {
    /// The customer.
    pub customer: String,
    /// The name the client asked for (TLS server name); `None` when it gave none.
    pub name: Option<String>,
    /// How many messages.
    pub messages: u64,
}

/// Messages of this day (UTC) and of the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Days {
    day: u64,
    messages: u64,
    before: u64,
}

impl Days {
    fn add(&mut self, messages: u64, now_ms: u64) {
        let day = now_ms / DAY_MS;
        if day > self.day {
            self.before = if day == self.day + 1 { self.messages } else { 0 };
            (self.day, self.messages) = (day, 0);
        }
        self.messages = self.messages.saturating_add(messages);
    }

    fn a_day(&self, now_ms: u64) -> u64 {
        match (now_ms / DAY_MS).saturating_sub(self.day) {
            0 => self.messages.max(self.before),
            1 => self.messages,
            _ => 0,
        }
    }
}

/// What is known of one customer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Seen {
    all: Days,
    /// By name: when it was last used.
    names: Vec<(String, u64)>,
}

/// The table of traffic.
#[derive(Debug, Clone, Default)]
pub(super) struct Traffic {
    rows: Sharded<Arc<str>, Arc<Seen>>,
}

impl Traffic {
    /// Messages a day for this customer.
    pub(super) fn a_day(&self, customer: &str, now_ms: u64) -> u64 {
        self.rows.get(customer).map_or(0, |row| row.value.all.a_day(now_ms))
    }

    /// When mail for the customer last came by this name.
    pub(super) fn last_by(&self, customer: &str, name: &str) -> Option<u64> {
        self.names_of(customer).find(|(known, _)| *known == name).map(|(_, at_ms)| at_ms)
    }

    /// Names by which mail for the customer came, and when it last did.
    pub(super) fn names_of(&self, customer: &str) -> impl Iterator<Item = (&str, u64)> {
        let names = self.rows.get(customer).map(|row| row.value.names.as_slice());
        names.unwrap_or_default().iter().map(|(name, at_ms)| (name.as_str(), *at_ms))
    }

    pub(super) fn add(&mut self, count: &TrafficCount, now_ms: u64) {
        let mut seen = self.rows.get(count.customer.as_str()).map_or_else(Seen::default, |row| {
            Seen::clone(&row.value) // a row is small
        });
        seen.all.add(count.messages, now_ms);
        if let Some(name) = &count.name {
            let room = seen.names.len() < NAMES_MAX;
            match seen.names.iter_mut().find(|(known, _)| known == name) {
                Some((_, at_ms)) => *at_ms = now_ms,
                None if room => seen.names.push((name.clone(), now_ms)),
                None => {
                    let oldest = seen.names.iter_mut().min_by_key(|(_, at_ms)| *at_ms);
                    if let Some(oldest) = oldest {
                        *oldest = (name.clone(), now_ms);
                    }
                }
            }
        }
        self.rows.put(count.customer.as_str().into(), 0, Arc::new(seen));
    }

    pub(super) fn forget(&mut self, customer: &str) {
        self.rows.remove(customer);
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = (String, Seen)> {
        self.rows.sorted().into_iter().map(|row| (row.key.to_string(), Seen::clone(&row.value)))
    }

    pub(super) fn absorb(&mut self, rows: Vec<(String, Seen)>) {
        for (customer, seen) in rows {
            self.rows.put(customer.into(), 0, Arc::new(seen));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(name: Option<&str>, messages: u64) -> TrafficCount {
        TrafficCount { customer: "acme".to_owned(), name: name.map(Into::into), messages }
    }

    #[test]
    fn a_days_sum_counts_until_the_next_day_is_over() {
        let mut traffic = Traffic::default();
        traffic.add(&count(None, 70), DAY_MS);
        traffic.add(&count(None, 30), DAY_MS + 1);
        assert_eq!(traffic.a_day("acme", DAY_MS + 2), 100);
        assert_eq!(traffic.a_day("acme", 2 * DAY_MS), 100);
        traffic.add(&count(None, 5), 2 * DAY_MS);
        assert_eq!(traffic.a_day("acme", 2 * DAY_MS), 100);
        assert_eq!(traffic.a_day("acme", 3 * DAY_MS), 5);
        assert_eq!(traffic.a_day("acme", 9 * DAY_MS), 0);
    }

    #[test]
    fn the_last_use_of_a_name_is_known_and_names_are_few() {
        let mut traffic = Traffic::default();
        traffic.add(&count(Some("mx-a.test"), 1), 5);
        traffic.add(&count(Some("mx-a.test"), 1), 9);
        assert_eq!(traffic.last_by("acme", "mx-a.test"), Some(9));
        assert_eq!(traffic.last_by("acme", "mx-b.test"), None);
        for n in 0..100 {
            traffic.add(&count(Some(&format!("n{n}.test")), 1), 10 + n);
        }
        assert_eq!(traffic.last_by("acme", "n99.test"), Some(109), "the oldest made room");
        assert_eq!(traffic.last_by("acme", "mx-a.test"), None);
        assert_eq!(traffic.rows().next().unwrap().1.names.len(), NAMES_MAX);
    }
}
