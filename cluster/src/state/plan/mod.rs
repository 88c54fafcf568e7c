//! Planning, pure: the state and loads go in, moves come out.
//!
//! `customers` spreads customers over names, `moves` spreads names over hosts.

mod balance;
mod customers;
mod moves;
mod seen;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use self::customers::share;
pub(super) use self::customers::{Place, Spread};
pub use self::moves::{Fleet, FleetHost, FleetName, Move, Plan};
use super::names::{MxName, NameStage};
use super::service::HostState;
use super::{Host, State};

/// A customer's mail mostly comes by the first of its names: the parts the first has in it, where
/// every other name has one.
pub(super) const SHARE_FIRST: u64 = 3;

impl State {
    /// Hosts, the names that point at them, and what these bring, as the planner sees it. Loads are
    /// in messages a day of customers, three parts for their first name and one for the others.
    pub fn fleet(&self, now_ms: u64) -> Fleet {
        self.fleet_with(now_ms, &|_| None, self.assignments())
    }

    /// The same with names that are not in DNS yet and are to point at `host`, which leaves.
    pub fn fleet_left_by(&self, host: &str, now_ms: u64) -> Fleet {
        let id = self.host_named(host).map(|host| host.id);
        let is_coming = |row: &MxName| row.stage == NameStage::Planned && row.aim() == id;
        let counts = |row: &MxName| (id.is_some() && is_coming(row)).then_some(true);
        self.fleet_with(now_ms, &counts, self.assignments())
    }

    /// The same as it will be when the newest migration is over.
    pub fn fleet_after(&self, now_ms: u64) -> Fleet {
        let Some(migration) = self.migrations().next() else { return self.fleet(now_ms) };
        let after = |row: &MxName| match () {
            () if migration.retire.contains(&row.name) => Some(false),
            () if migration.introduce.contains(&row.name) => Some(true),
            () => None,
        };
        let lists = self.customers().map(|customer| {
            let step = self.migration_step(&customer.id).map(|step| step.after.as_slice());
            (customer.id.as_str(), step.unwrap_or_else(|| self.names_of(&customer.id)))
        });
        self.fleet_with(now_ms, &after, lists)
    }

    fn fleet_with<'a>(
        &self,
        now_ms: u64,
        counts: &dyn Fn(&MxName) -> Option<bool>,
        lists: impl Iterator<Item = (&'a str, &'a [String])>,
    ) -> Fleet {
        let usable = |host: &Host| host.state == HostState::InService && !host.addresses.is_empty();
        let hosts: Vec<&Host> = self.hosts().collect();
        let place = |id: u64| hosts.iter().position(|host| host.id == id);
        let in_use = |row: &MxName| {
            let stage = matches!(row.stage, NameStage::Active | NameStage::Retiring { .. });
            counts(row).unwrap_or(stage && row.aim().is_some())
        };
        let name = |row: &MxName| {
            let host = place(row.aim().unwrap_or(row.home));
            FleetName { name: row.name.clone(), host, load: 0 }
        };
        let mut names: Vec<FleetName> = self.names().filter(|row| in_use(row)).map(name).collect();
        let mut apart = BTreeSet::new();
        for (customer, list) in lists {
            let load = 1 + self.customer_load(customer, now_ms);
            let found = |name: &String| names.binary_search_by(|row| row.name.cmp(name)).ok();
            let list: Vec<usize> = list.iter().filter_map(found).collect();
            for (at, index) in list.iter().enumerate() {
                if let Some(name) = names.get_mut(*index) {
                    name.load = name.load.saturating_add(share(SHARE_FIRST, at, load));
                }
                let others = list.iter().take(at);
                apart.extend(others.map(|other| (*other.min(index), *other.max(index))));
            }
        }
        let host = |host: &&Host| FleetHost { name: host.name.clone(), usable: usable(host) };
        let hosts = hosts.iter().map(host).collect();
        Fleet { hosts, names, apart: apart.into_iter().collect() }
    }
}
