//! Who has which names: customers of each, and those with two names at one host, whose mail waits
//! when that fails.

use std::collections::BTreeMap;

use mxfleet_cluster::{MxName, State};

/// Who has a name.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Holders {
    /// Customers who are to have it, or are not seen to have left it.
    pub(super) all: u64,
    /// Those of them who have another of their names where it leads, or will.
    pub(super) on_one_host: u64,
}

/// Who has each name.
pub(super) fn holders(state: &State) -> BTreeMap<&str, Holders> {
    let host = |name: &String| state.name(name).and_then(MxName::aim);
    let mut holders: BTreeMap<&str, Holders> = BTreeMap::new();
    for (customer, seen) in state.names_as_seen() {
        let names = state.names_of(customer);
        let left = seen.iter().filter(|name| !names.contains(name));
        for name in names.iter().chain(left) {
            holders.entry(name).or_default().all += 1;
        }
        for name in names {
            let Some(here) = host(name) else { continue };
            let mut others = names.iter().filter(|other| *other != name);
            if others.any(|other| host(other) == Some(here)) {
                holders.entry(name).or_default().on_one_host += 1;
            }
        }
    }
    holders
}
