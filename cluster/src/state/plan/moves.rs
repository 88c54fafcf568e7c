//! The fewest names moved so that no host has much more than it must.

use super::balance::{Item, best, lower_bound};

/// A host is as full as it may be at this part of the best there is, in percent.
const TOLERANCE_PERCENT: u64 = 110;
/// Steps of the search for the fewest moves, times names.
const WORK_MAX: usize = 400_000;

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
        let floor = lower_bound(&items, usable.len());
        let base = if best.proven { best.peak } else { floor };
        let most = best.peak.max(base.saturating_mul(TOLERANCE_PERCENT) / 100);
        let mut search = Search::new(&items, at.clone(), usable.len(), most, best.clashes);
        let bins = search.fewest().unwrap_or_else(|| {
            let bins = relabelled(&items, &at, &best.bins, usable.len());
            let mut search = Search::new(&items, bins, usable.len(), most, best.clashes);
            search.put_back(&at);
            search.bins
        });
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
        let (steps, best) = (0, None);
        Self { items, bins, moved, loads, most, clashes_allowed, steps, steps_max, best }
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

    fn clashes(&self) -> usize {
        let here = |item: usize| {
            let bin = self.bins[item];
            let same =
                |other: &&usize| **other > item && bin.is_some() && self.bins[**other] == bin;
            self.items[item].apart.iter().filter(same).count()
        };
        (0..self.items.len()).map(here).sum()
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
        if settled && self.clashes() <= self.clashes_allowed {
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

    /// Whatever can stay where it was, does; the small ones first.
    fn put_back(&mut self, at: &[Option<usize>]) {
        let mut moved: Vec<usize> =
            (0..at.len()).filter(|i| at[*i].is_some() && self.bins[*i] != at[*i]).collect();
        moved.sort_by_key(|item| self.items[*item].load);
        let mut left = usize::MAX;
        while moved.len() < left {
            left = moved.len();
            moved.retain(|item| {
                let to = self.bins[*item];
                self.shift(*item, at[*item]);
                let fits = self.loads.iter().all(|load| *load <= self.most);
                let stays = fits && self.clashes() <= self.clashes_allowed;
                if !stays {
                    self.shift(*item, to);
                }
                !stays
            });
        }
    }

    fn shift(&mut self, item: usize, to: Option<usize>) {
        let load = self.items[item].load;
        if let Some(from) = self.bins[item] {
            self.loads[from] -= load;
        }
        if let Some(to) = to {
            self.loads[to] += load;
        }
        self.bins[item] = to;
    }
}

/// The best balance with its bins renamed so that much stays where it is.
fn relabelled(
    items: &[Item],
    at: &[Option<usize>],
    best: &[usize],
    hosts: usize,
) -> Vec<Option<usize>> {
    let mut pairs: Vec<(u64, usize, usize)> = Vec::new();
    for bin in 0..hosts {
        for host in 0..hosts {
            let same = (0..items.len()).filter(|i| best[*i] == bin && at[*i] == Some(host));
            pairs.push((same.map(|item| 1 + items[item].load).sum(), bin, host));
        }
    }
    pairs.sort_by_key(|(same, bin, host)| (std::cmp::Reverse(*same), *bin, *host));
    let mut label = vec![None; hosts];
    for (_, bin, host) in pairs {
        if label[bin].is_none() && !label.contains(&Some(host)) {
            label[bin] = Some(host);
        }
    }
    best.iter().map(|bin| label[*bin]).collect()
}
