//! Planning, pure: the state and loads go in, moves come out.
//!
//! `customers` spreads customers over names, `moves` spreads names over hosts.

mod balance;
mod customers;
mod moves;
#[cfg(test)]
mod tests;

pub(super) use self::customers::Spread;
pub use self::moves::{Fleet, FleetHost, FleetName, Move, Plan};
use super::names::NameStage;
use super::service::HostState;
use super::{Host, State};

/// A customer's mail mostly comes by the first of its names: the parts the first and every other
/// name have in it.
const SHARE_FIRST: u64 = 3;
const SHARE_OTHER: u64 = 1;

/// The part the name in this place of a customer's list has in its load.
const fn share(place: usize, load: u64) -> u64 {
    load.saturating_mul(if place == 0 { SHARE_FIRST } else { SHARE_OTHER })
}

impl State {
    /// Hosts, the names that point at them, and what these bring, as the planner sees it. Loads are
    /// in messages a day, times four.
    pub fn fleet(&self, now_ms: u64) -> Fleet {
        let usable = |host: &Host| host.state == HostState::InService && !host.addresses.is_empty();
        let hosts: Vec<&Host> = self.hosts().collect();
        let place = |id: u64| hosts.iter().position(|host| host.id == id);
        let in_use = |stage| matches!(stage, NameStage::Active | NameStage::Retiring { .. });
        let mut names: Vec<FleetName> = self
            .names()
            .filter(|name| in_use(name.stage))
            .filter_map(|name| Some((name, name.aim()?)))
            .map(|(row, aim)| FleetName { name: row.name.clone(), host: place(aim), load: 0 })
            .collect();
        let mut apart = std::collections::BTreeSet::new();
        for (customer, list) in self.assignments() {
            let load = 1 + self.customer_load(customer, now_ms);
            let found = |name: &String| names.binary_search_by(|row| row.name.cmp(name)).ok();
            let list: Vec<usize> = list.iter().filter_map(found).collect();
            for (at, index) in list.iter().enumerate() {
                if let Some(name) = names.get_mut(*index) {
                    name.load = name.load.saturating_add(share(at, load));
                }
                apart.extend(
                    list.iter().take(at).map(|other| (*other.min(index), *other.max(index))),
                );
            }
        }
        let host = |host: &&Host| FleetHost { name: host.name.clone(), usable: usable(host) };
        Fleet { hosts: hosts.iter().map(host).collect(), names, apart: apart.into_iter().collect() }
    }
}
