//! The best balance there is: names over hosts so that the busiest host has the least.
//!
//! Names that share a customer are kept apart first, whatever it costs in balance. Exact for small
//! fleets; for large ones a bounded search, then improved step by step.

/// What is to be put somewhere.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) load: u64,
    /// Items that are not to be in the same bin.
    pub(super) apart: Vec<usize>,
}

/// Steps of the exact search, times items.
const WORK_MAX: usize = 400_000;
/// The exact search looks for ways with up to so many clashes.
const CLASHES_MAX: usize = 20;
/// Rounds of improvement.
const ROUNDS_MAX: usize = 2_000;

/// A way to put items into bins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Balance {
    /// For each item, its bin.
    pub(super) bins: Vec<usize>,
    /// Pairs that are not apart.
    pub(super) clashes: usize,
    /// What the fullest bin has.
    pub(super) peak: u64,
    /// Whether nothing better exists.
    pub(super) proven: bool,
}

/// No way to put items into bins can have a lower peak.
pub(super) fn lower_bound(items: &[Item], bins: usize) -> u64 {
    let mut loads: Vec<u64> = items.iter().map(|item| item.load).collect();
    loads.sort_unstable_by(|a, b| b.cmp(a));
    let total: u64 = loads.iter().sum();
    let mean = total.div_ceil(bins.max(1) as u64);
    let largest = loads.first().copied().unwrap_or_default();
    // Of the largest `k * bins + 1` items, `k + 1` share a bin.
    let shared = (1..).map_while(|k| {
        let last = k * bins;
        Some(loads.get(last.checked_sub(k)?..=last)?.iter().sum::<u64>())
    });
    mean.max(largest).max(shared.max().unwrap_or_default())
}

/// The best way to put `items` into `bins` equal bins.
pub(super) fn best(items: &[Item], bins: usize) -> Balance {
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse((items[*i].load, items[*i].apart.len())));
    let floor = lower_bound(items, bins);
    let mut found = None;
    for clashes in 0..=CLASHES_MAX {
        let mut search = Search::new(items, bins, order.clone(), (floor, clashes));
        search.go(0);
        let gave_up = search.steps >= search.steps_max;
        found = search.best;
        if found.is_some() {
            break;
        }
        if gave_up {
            // The heaviest first painted itself into a corner; try the most entangled first.
            order.sort_by_key(|i| std::cmp::Reverse((items[*i].apart.len(), items[*i].load)));
            let mut search = Search::new(items, bins, order.clone(), (floor, clashes));
            search.go(0);
            found = search.best;
            break;
        }
    }
    let mut found = found.unwrap_or_else(|| greedy(items, bins, &order));
    if !found.proven {
        improve(items, bins, &mut found);
        found.proven = found.clashes == 0 && found.peak == floor;
    }
    found
}

/// Depth-first search for a way with few clashes, the emptiest bin first.
struct Search<'a> {
    items: &'a [Item],
    order: Vec<usize>,
    floor: u64,
    clashes_left: usize,
    loads: Vec<u64>,
    bins: Vec<Option<usize>>,
    steps: usize,
    steps_max: usize,
    best: Option<Balance>,
}

impl<'a> Search<'a> {
    fn new(
        items: &'a [Item],
        bins: usize,
        order: Vec<usize>,
        (floor, clashes_left): (u64, usize),
    ) -> Self {
        let (loads, bins) = (vec![0; bins], vec![None; items.len()]);
        let steps_max = WORK_MAX / items.len().max(1);
        let (steps, best) = (0, None);
        Self { items, order, floor, clashes_left, loads, bins, steps, steps_max, best }
    }

    fn peak(&self) -> u64 {
        self.loads.iter().copied().max().unwrap_or_default()
    }

    fn done(&self) -> bool {
        self.steps >= self.steps_max
            || self.best.as_ref().is_some_and(|best| best.peak <= self.floor)
    }

    /// Place what is left from `at` on. Whatever ends without `done` has looked at everything.
    fn go(&mut self, at: usize) {
        let Some(item) = self.order.get(at).copied() else {
            let peak = self.peak();
            let bins: Vec<usize> = self.bins.iter().map(|bin| bin.unwrap_or(0)).collect();
            let clashes = clashes(self.items, &bins);
            self.best = Some(Balance { bins, clashes, peak, proven: false });
            return;
        };
        self.steps += 1;
        let mut bins: Vec<usize> = (0..self.loads.len()).collect();
        bins.sort_by_key(|bin| self.loads[*bin]);
        let mut empty_tried = false;
        for bin in bins {
            let load = self.loads[bin] + self.items[item].load;
            if self.done() || self.best.as_ref().is_some_and(|best| load >= best.peak) {
                break;
            }
            let clash = |other: &&usize| self.bins[**other] == Some(bin);
            let clashes = self.items[item].apart.iter().filter(clash).count();
            let empty = !self.bins.contains(&Some(bin));
            if clashes > self.clashes_left || (empty && empty_tried) {
                continue; // all empty bins are alike
            }
            empty_tried |= empty;
            self.clashes_left -= clashes;
            (self.loads[bin], self.bins[item]) = (load, Some(bin));
            self.go(at + 1);
            (self.loads[bin], self.bins[item]) = (load - self.items[item].load, None);
            self.clashes_left += clashes;
        }
        if at == 0
            && let Some(best) = &mut self.best
        {
            best.proven = self.steps < self.steps_max || best.peak <= self.floor;
        }
    }
}

fn clashes(items: &[Item], bins: &[usize]) -> usize {
    let here = |item: usize| {
        items[item]
            .apart
            .iter()
            .filter(|other| **other > item && bins[**other] == bins[item])
            .count()
    };
    (0..items.len()).map(here).sum()
}

fn greedy(items: &[Item], bins: usize, order: &[usize]) -> Balance {
    let mut loads = vec![0; bins];
    let mut placed: Vec<Option<usize>> = vec![None; items.len()];
    let mut clashes = 0;
    for item in order {
        let clash = |bin: usize| {
            items[*item].apart.iter().filter(|other| placed[**other] == Some(bin)).count()
        };
        let bin = (0..bins).min_by_key(|bin| (clash(*bin), loads[*bin])).unwrap_or_default();
        clashes += clash(bin);
        loads[bin] += items[*item].load;
        placed[*item] = Some(bin);
    }
    let peak = loads.into_iter().max().unwrap_or_default();
    let bins = placed.into_iter().map(|bin| bin.unwrap_or(0)).collect();
    Balance { bins, clashes, peak, proven: false }
}

/// Move an item out of the fullest bin, or swap it with a smaller one, while that helps.
fn improve(items: &[Item], bins: usize, balance: &mut Balance) {
    let mut loads = vec![0; bins];
    for (item, bin) in balance.bins.iter().enumerate() {
        loads[*bin] += items[item].load;
    }
    for _ in 0..ROUNDS_MAX {
        let Some(full) = (0..bins).max_by_key(|bin| loads[*bin]) else { return };
        balance.peak = loads[full];
        let Some((item, other, to)) = improvement(items, &loads, &balance.bins, full) else {
            return;
        };
        let back = other.map_or(0, |other| items[other].load);
        loads[full] = loads[full] - items[item].load + back;
        loads[to] = loads[to] + items[item].load - back;
        balance.bins[item] = to;
        if let Some(other) = other {
            balance.bins[other] = full;
        }
    }
}

/// An item, what comes back for it, and the bin it goes to.
type Exchange = (usize, Option<usize>, usize);

/// The exchange between the fullest bin and another that leaves both the least full.
fn improvement(items: &[Item], loads: &[u64], bins: &[usize], full: usize) -> Option<Exchange> {
    let fits = |item: usize, bin: usize, leaving: Option<usize>| {
        let clash = |other: &usize| bins[*other] == bin && Some(*other) != leaving;
        !items[item].apart.iter().any(clash)
    };
    let mut found: Option<(u64, Exchange)> = None;
    let mut consider = |item: usize, other: Option<usize>, to: usize| {
        let (load, back) = (items[item].load, other.map_or(0, |other| items[other].load));
        let after = (loads[full] - load + back).max(loads[to] + load - back);
        let is_better = found.as_ref().map_or(after < loads[full], |(best, _)| after < *best);
        if is_better
            && fits(item, to, other)
            && other.is_none_or(|other| fits(other, full, Some(item)))
        {
            found = Some((after, (item, other, to)));
        }
    };
    for item in (0..items.len()).filter(|item| bins[*item] == full) {
        for to in (0..loads.len()).filter(|to| *to != full) {
            consider(item, None, to);
        }
        for other in (0..items.len()).filter(|other| bins[*other] != full) {
            if items[other].load < items[item].load {
                consider(item, Some(other), bins[other]);
            }
        }
    }
    found.map(|(_, exchange)| exchange)
}
