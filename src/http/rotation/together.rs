//! Customers who have two names at one host: when it fails, their mail waits.

use std::collections::BTreeMap;

use mxfleet_cluster::{MxName, State};

/// By name: how many customers have another of their names where this one leads, or will.
pub(super) fn together(state: &State) -> BTreeMap<String, u64> {
    let host = |name: &String| state.name(name).and_then(MxName::aim);
    let mut counts = BTreeMap::new();
    for (_, names) in state.assignments() {
        for name in names {
            let Some(here) = host(name) else { continue };
            let mut others = names.iter().filter(|other| *other != name);
            if others.any(|other| host(other) == Some(here)) {
                *counts.entry(name.clone()).or_default() += 1;
            }
        }
    }
    counts
}
