//! The fewest names moved so that no host has much more than it must.

use super::balance::{Balance, Item, best, lower_bound};

/// A host is as full as it may be at this part of the best there is, in percent.
pub(super) const TOLERANCE_PERCENT: u64 = 110;
/// Steps of the search for the fewest moves, times names.
const WORK_MAX: usize = 400_000;
/// Names looked at when moves are taken back; those that are left then stay in the plan.
const PUT_BACK_MAX: usize = 4_000_000;

/// A fleet as the planner sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fleet {
    /// Its hosts.
    pub hosts: Vec<FleetHost>,
    /// The names that are in use.
    pub names: Vec<FleetName>,
    /// Pairs of names, as places in `names`, that some customer has both of.
    pub apart: Vec<(usize, usize)>,
}

/// A host as the planner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetHost {
    /// Its name.
    pub name: String,
    /// Whether names may point at it.
    pub usable: bool,
}

/// A name as the planner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetName {
    /// Its name.
    pub name: String,
    /// The place of its host in [`Fleet::hosts`].
    pub host: Option<usize>,
    /// What it brings.
    pub load: u64,
}

/// A name that is to move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// Which.
    pub name: String,
    /// The host it is on.
    pub from: Option<String>,
    /// The host it goes to.
    pub to: String,
}

/// What the planner proposes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Names that move.
    pub moves: Vec<Move>,
    /// For each host: what it has before and after.
    pub loads: Vec<(String, u64, u64)>,
    /// Pairs of names of one customer that are on one host afterwards.
    pub clashes: usize,
}

impl Fleet {
    /// The fewest moves after which no host has more than a tenth above the best there is, and no
    /// customer two names on one host, if that can be. `None` without a usable host.
    pub fn rebalance(&self) -> Option<Plan> {
        let usable: Vec<usize> = self.usable();
        let items = self.items();
        let at: Vec<Option<usize>> =
            self.names.iter().map(|name| self.bin(name, &usable)).collect();
        if usable.is_empty() {
            return None;
        }
        let best = best(&items, usable.len());
        let most = most(&items, &best, usable.len());
        let mut search = Search::new(&items, at.clone(), usable.len(), most, best.clashes);
        let bins = search.fewest();
        let bins = bins.unwrap_or_else(|| nearest(&items, &at, &best, usable.len()).bins);
        Some(self.plan(&usable, &bins))
    }

    /// Where the names on `host` go when it leaves; nothing else moves. `None` without another.
    pub fn evacuate(&self, host: &str) -> Option<Plan> {
        let mut rest = self.clone();
        for row in rest.hosts.iter_mut().filter(|row| row.name == host) {
            row.usable = false;
        }
        let usable = rest.usable();
        let leaves = |name: &FleetName| {
            name.host.and_then(|at| self.hosts.get(at)).is_some_and(|row| row.name == host)
        };
        let items = rest.items();
        let mut bins: Vec<Option<usize>> =
            rest.names.iter().map(|name| rest.bin(name, &usable)).collect();
        let mut loads = vec![0; usable.len()];
        for (item, bin) in items.iter().zip(&bins) {
            bin.map(|bin| loads[bin] += item.load);
        }
        let mut leaving: Vec<usize> =
            (0..items.len()).filter(|i| leaves(&self.names[*i])).collect();
        leaving.sort_by_key(|item| std::cmp::Reverse(items[*item].load));
        for item in leaving {
            let clashes = |bin: usize| {
                items[item].apart.iter().filter(|other| bins[**other] == Some(bin)).count()
            };
            let bin = (0..usable.len()).min_by_key(|bin| (clashes(*bin), loads[*bin]))?;
            loads[bin] += items[item].load;
            bins[item] = Some(bin);
        }
        Some(rest.plan(&usable, &bins))
    }

    fn usable(&self) -> Vec<usize> {
        (0..self.hosts.len()).filter(|at| self.hosts[*at].usable).collect()
    }

    fn bin(&self, name: &FleetName, usable: &[usize]) -> Option<usize> {
        usable.iter().position(|host| name.host == Some(*host))
    }

    pub(super) fn items(&self) -> Vec<Item> {
        let mut items: Vec<Item> =
            self.names.iter().map(|name| Item { load: name.load, apart: Vec::new() }).collect();
        for (a, b) in self.apart.iter().filter(|(a, b)| a != b) {
            items[*a].apart.push(*b);
            items[*b].apart.push(*a);
        }
        items
    }

    /// `bins` are places in `usable`; `None` leaves a name where it is.
    fn plan(&self, usable: &[usize], bins: &[Option<usize>]) -> Plan {
        let after: Vec<Option<usize>> = self
            .names
            .iter()
            .zip(bins)
            .map(|(name, bin)| bin.and_then(|bin| usable.get(bin).copied()).or(name.host))
            .collect();
        let host_name = |at: usize| self.hosts[at].name.clone();
        let moves = self.names.iter().zip(&after).filter(|(name, to)| name.host != **to);
        let moves = moves.filter_map(|(name, to)| {
            let (name, from) = (name.name.clone(), name.host.map(host_name));
            Some(Move { name, from, to: host_name((*to)?) })
        });
        let load = |on: &dyn Fn(usize) -> Option<usize>, host: usize| -> u64 {
            let here = (0..self.names.len()).filter(|name| on(*name) == Some(host));
            here.map(|name| self.names[name].load).sum()
        };
        let loads = (0..self.hosts.len()).map(|host| {
            let before = load(&|name| self.names[name].host, host);
            (host_name(host), before, load(&|name| after[name], host))
        });
        let clashes =
            self.apart.iter().filter(|(a, b)| after[*a].is_some() && after[*a] == after[*b]);
        Plan { moves: moves.collect(), loads: loads.collect(), clashes: clashes.count() }
    }
}

/// Search for the fewest moves, by deepening: first with one move, then with two, and so on.
struct Search<'a> {
    items: &'a [Item],
    bins: Vec<Option<usize>>,
    moved: Vec<bool>,
    loads: Vec<u64>,
    most: u64,
    /// Pairs that are on one host, and how many may be.
    clashes: usize,
    clashes_allowed: usize,
    steps: usize,
    steps_max: usize,
    best: Option<(u64, Vec<Option<usize>>)>,
}

impl<'a> Search<'a> {
    fn new(
        items: &'a [Item],
        bins: Vec<Option<usize>>,
        hosts: usize,
        most: u64,
        clashes_allowed: usize,
    ) -> Self {
        let mut loads = vec![0; hosts];
        for (item, bin) in items.iter().zip(&bins) {
            if let Some(bin) = bin {
                loads[*bin] += item.load;
            }
        }
        let moved = vec![false; items.len()];
        let steps_max = WORK_MAX / items.len().max(1);
        let (steps, best, clashes) = (0, None, 0);
        let mut search = Self {
            items,
            bins,
            moved,
            loads,
            most,
            clashes,
            clashes_allowed,
            steps,
            steps_max,
            best,
        };
        let twice: usize = (0..items.len()).map(|item| search.clashes_of(item)).sum();
        search.clashes = twice / 2;
        search
    }

    fn fewest(&mut self) -> Option<Vec<Option<usize>>> {
        for moves in 0..=self.items.len() {
            self.go(moves);
            if self.best.is_some() || self.steps >= self.steps_max {
                break;
            }
        }
        self.best.take().map(|(_, bins)| bins)
    }

    /// Names on the same host that are not to be on one with this.
    fn clashes_of(&self, item: usize) -> usize {
        let Some(bin) = self.bins[item] else { return 0 };
        self.items[item].apart.iter().filter(|other| self.bins[**other] == Some(bin)).count()
    }

    /// At least so many moves are still needed.
    fn needed(&self) -> usize {
        let homeless = self.bins.iter().filter(|bin| bin.is_none()).count();
        let shed = |bin: usize| {
            let Some(mut excess) = self.loads[bin].checked_sub(self.most).filter(|e| *e > 0) else {
                return 0;
            };
            let here =
                (0..self.items.len()).filter(|i| self.bins[*i] == Some(bin) && !self.moved[*i]);
            let mut loads: Vec<u64> = here.map(|item| self.items[item].load).collect();
            loads.sort_unstable_by(|a, b| b.cmp(a));
            for (count, load) in loads.into_iter().enumerate() {
                excess = excess.saturating_sub(load);
                if excess == 0 {
                    return count + 1;
                }
            }
            usize::MAX / 4 // what was moved here does not fit
        };
        homeless + (0..self.loads.len()).map(shed).sum::<usize>()
    }

    fn go(&mut self, moves: usize) {
        self.steps += 1;
        if self.steps > self.steps_max || self.needed() > moves {
            return;
        }
        let peak = self.loads.iter().copied().max().unwrap_or_default();
        let settled = self.bins.iter().all(Option::is_some) && peak <= self.most;
        if settled && self.clashes <= self.clashes_allowed {
            if self.best.as_ref().is_none_or(|(best, _)| peak < *best) {
                self.best = Some((peak, self.bins.clone()));
            }
            return;
        }
        if moves == 0 {
            return;
        }
        for item in self.candidates() {
            let from = self.bins[item];
            let mut targets: Vec<usize> =
                (0..self.loads.len()).filter(|b| Some(*b) != from).collect();
            targets.sort_by_key(|bin| self.loads[*bin]);
            for to in targets {
                self.shift(item, Some(to));
                self.moved[item] = true;
                self.go(moves - 1);
                self.moved[item] = false;
                self.shift(item, from);
            }
        }
    }

    /// One of these must move: what has no place; else what clashes; else what is on a host that
    /// has too much.
    fn candidates(&self) -> Vec<usize> {
        let free = |item: &usize| !self.moved[*item];
        if let Some(item) = self.bins.iter().position(Option::is_none) {
            return vec![item];
        }
        let over = (0..self.loads.len()).filter(|bin| self.loads[*bin] > self.most);
        if let Some(bin) = over.max_by_key(|bin| self.loads[*bin]) {
            let here = (0..self.items.len()).filter(|item| self.bins[*item] == Some(bin));
            let mut here: Vec<usize> = here.filter(free).collect();
            here.sort_by_key(|item| std::cmp::Reverse(self.items[*item].load));
            return here;
        }
        for item in 0..self.items.len() {
            let clash = |other: &&usize| self.bins[**other] == self.bins[item];
            if let Some(other) = self.items[item].apart.iter().find(clash)
                && (free(&item) || free(other))
            {
                return [item, *other].into_iter().filter(free).collect();
            }
        }
        Vec::new()
    }

    /// Whatever can stay where it was, does; the small ones first. No host has too much before
    /// that, so only the one that a name goes back to can.
    fn put_back(&mut self, at: &[Option<usize>]) {
        let mut moved: Vec<usize> =
            (0..at.len()).filter(|i| at[*i].is_some() && self.bins[*i] != at[*i]).collect();
        moved.sort_by_key(|item| self.items[*item].load);
        let mut left = usize::MAX;
        while moved.len() < left {
            left = moved.len();
            moved.retain(|item| {
                let (item, to, home) = (*item, self.bins[*item], at[*item]);
                if self.steps >= PUT_BACK_MAX {
                    return true;
                }
                self.steps += 1 + self.items[item].apart.len();
                self.shift(item, home);
                let fits = home.is_none_or(|home| self.loads[home] <= self.most);
                let stays = fits && self.clashes <= self.clashes_allowed;
                if !stays {
                    self.shift(item, to);
                }
                !stays
            });
        }
    }

    fn shift(&mut self, item: usize, to: Option<usize>) {
        let load = self.items[item].load;
        self.clashes -= self.clashes_of(item);
        if let Some(from) = self.bins[item] {
            self.loads[from] -= load;
        }
        if let Some(to) = to {
            self.loads[to] += load;
        }
        self.bins[item] = to;
        self.clashes += self.clashes_of(item);
    }
}

/// What a host may have.
fn most(items: &[Item], best: &Balance, hosts: usize) -> u64 {
    let base = if best.proven { best.peak } else { lower_bound(items, hosts) };
    best.peak.max(base.saturating_mul(TOLERANCE_PERCENT) / 100)
}

/// The best balance, but with as much as possible where it is.
fn nearest<'a>(
    items: &'a [Item],
    at: &[Option<usize>],
    best: &Balance,
    hosts: usize,
) -> Search<'a> {
    let bins = relabelled(items, at, &best.bins, hosts);
    let mut search = Search::new(items, bins, hosts, most(items, best, hosts), best.clashes);
    search.put_back(at);
    search
}

/// The best balance with its bins renamed so that much stays where it is.
fn relabelled(
    items: &[Item],
    at: &[Option<usize>],
    best: &[usize],
    hosts: usize,
) -> Vec<Option<usize>> {
    let pairs = (0..hosts).flat_map(|bin| (0..hosts).map(move |host| (0, bin, host)));
    let mut pairs: Vec<(u64, usize, usize)> = pairs.collect();
    for (item, host) in at.iter().enumerate() {
        if let Some(host) = host {
            pairs[best[item] * hosts + host].0 += 1 + items[item].load;
        }
    }
    pairs.sort_by_key(|(same, bin, host)| (std::cmp::Reverse(*same), *bin, *host));
    let (mut label, mut taken) = (vec![None; hosts], vec![false; hosts]);
    for (_, bin, host) in pairs {
        if label[bin].is_none() && !taken[host] {
            (label[bin], taken[host]) = (Some(host), true);
        }
    }
    best.iter().map(|bin| label[*bin]).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::state::mix;

    /// Customers with three names each, all of them on hosts that chance has chosen.
    fn large(hosts: usize, names: usize, customers: u64) -> Fleet {
        let below = |seed, end: usize| usize::try_from(mix(seed) % end as u64).unwrap();
        let mut loads = vec![0; names];
        let mut apart = BTreeSet::new();
        for customer in 0..customers {
            let list = [1, 2, 3].map(|n| below(customer << 2 | n, names));
            for (at, name) in list.into_iter().enumerate() {
                loads[name] += mix(customer) % 100;
                let others = list[..at].iter().filter(|other| **other != name);
                apart.extend(others.map(|other| (name.min(*other), name.max(*other))));
            }
        }
        let host = |n| FleetHost { name: format!("mx{n}"), usable: true };
        let name = |(n, load): (usize, u64)| FleetName {
            name: format!("n{n}"),
            host: Some(below(1 << 40 | n as u64, hosts)),
            load,
        };
        Fleet {
            hosts: (0..hosts).map(host).collect(),
            names: loads.into_iter().enumerate().map(name).collect(),
            apart: apart.into_iter().collect(),
        }
    }

    #[test]
    fn in_a_large_fleet_all_moves_that_need_not_be_are_taken_back_within_the_bound() {
        let fleet = large(200, 400, 20_000);
        let (items, usable) = (fleet.items(), fleet.usable());
        let at: Vec<_> = fleet.names.iter().map(|name| fleet.bin(name, &usable)).collect();
        let best = best(&items, usable.len());
        let mut search = nearest(&items, &at, &best, usable.len());
        assert!(search.steps > 0 && search.steps < PUT_BACK_MAX, "{}", search.steps);
        let (peak, clashes) = (search.loads.iter().copied().max(), search.clashes);
        assert!(peak <= Some(search.most) && clashes <= best.clashes);
        for (item, to) in search.bins.clone().into_iter().enumerate() {
            if to == at[item] {
                continue;
            }
            search.shift(item, at[item]);
            let peak = search.loads.iter().copied().max();
            assert!(peak > Some(search.most) || search.clashes > best.clashes, "name {item}");
            search.shift(item, to);
        }
        assert_eq!(search.clashes, clashes, "what is counted step by step stays right");
        let plan = fleet.rebalance().unwrap();
        assert_eq!(plan.clashes, clashes);
        assert_eq!(plan.loads.iter().map(|(_, _, after)| *after).max(), peak);
    }
}
