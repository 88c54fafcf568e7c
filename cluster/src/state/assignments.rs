//! Which names each customer is to put in its MX records, in order.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::sharded::Sharded;

/// A customer's names, as a snapshot holds them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Assigned {
    customer: String,
    names: Vec<String>,
}

/// The table of assignments, with a count for each name.
#[derive(Debug, Clone, Default)]
pub(super) struct Assignments {
    rows: Sharded<Arc<str>, Arc<[String]>>,
    counts: Arc<BTreeMap<String, Count>>,
}

/// How many customers have a name, and how many of them as their first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Count {
    all: u64,
    first: u64,
}

impl Assignments {
    /// A customer's names; none when it has none.
    pub(super) fn of(&self, customer: &str) -> &[String] {
        self.rows.get(customer).map_or(&[], |row| &row.value)
    }

    /// How many customers have this name.
    pub(super) fn count(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or_default().all
    }

    /// How many customers have this name as their first.
    pub(super) fn count_first(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or_default().first
    }

    /// All customers that have names, in order of id.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.rows.sorted().into_iter().map(|row| (row.key.as_ref(), row.value.as_ref()))
    }

    /// Give a customer these names, and no others.
    pub(super) fn put(&mut self, customer: &str, names: Vec<String>) {
        let old = if names.is_empty() {
            self.rows.remove(customer)
        } else {
            self.rows.put(customer.into(), 0, names.as_slice().into())
        };
        let counts = Arc::make_mut(&mut self.counts);
        for (place, name) in names.into_iter().enumerate() {
            let count = counts.entry(name).or_default();
            count.all += 1;
            count.first += u64::from(place == 0);
        }
        for (place, name) in old.iter().flat_map(|row| row.value.iter()).enumerate() {
            if let Some(count) = counts.get_mut(name) {
                count.all -= 1;
                count.first -= u64::from(place == 0);
            }
        }
        counts.retain(|_, count| count.all > 0);
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = Assigned> {
        self.iter()
            .map(|(customer, names)| Assigned { customer: customer.into(), names: names.into() })
    }

    pub(super) fn absorb(&mut self, rows: Vec<Assigned>) {
        for row in rows {
            self.put(&row.customer, row.names);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_follow_the_lists() {
        let mut table = Assignments::default();
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        table.put("acme", names(&["a", "b"]));
        table.put("bolt", names(&["b", "c"]));
        table.put("acme", names(&["c", "b"]));
        assert_eq!(["a", "b", "c"].map(|name| table.count(name)), [0, 2, 2]);
        assert_eq!(["a", "b", "c"].map(|name| table.count_first(name)), [0, 1, 1]);
        table.put("acme", Vec::new());
        assert_eq!(["a", "b", "c"].map(|name| table.count(name)), [0, 1, 1]);
        let mut copy = Assignments::default();
        copy.absorb(table.rows().collect());
        assert_eq!((copy.of("acme"), copy.of("bolt")), (table.of("acme"), table.of("bolt")));
        assert_eq!(copy.counts, table.counts);
    }
}
