//! Which names a customer is given: those whose hosts have the least to do, no two on one host.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::moves::TOLERANCE_PERCENT;

#[derive(Debug)]
struct Offer {
    host: u64,
    load: u64,
}

/// Names on offer, and what they carry so far.
#[derive(Debug)]
pub(in crate::state) struct Spread {
    names: BTreeMap<String, Offer>,
    hosts: BTreeMap<u64, u64>,
    /// What a customer's first name carries of its load, where every other one carries it once.
    first: u64,
}

/// A customer's load, and the names it comes by.
#[derive(Debug)]
pub(in crate::state) struct Place {
    pub(in crate::state) names: Vec<String>,
    pub(in crate::state) load: u64,
}

impl Spread {
    /// From names, their hosts, and what they carry already.
    pub(in crate::state) fn new(
        names: impl Iterator<Item = (String, u64, u64)>,
        first: u64,
    ) -> Self {
        let mut spread = Self { names: BTreeMap::new(), hosts: BTreeMap::new(), first };
        for (name, host, load) in names {
            *spread.hosts.entry(host).or_default() += load;
            spread.names.insert(name, Offer { host, load });
        }
        spread
    }

    pub(in crate::state) fn offers(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// A customer of this load has these names.
    pub(in crate::state) fn take(&mut self, names: &[String], load: u64) {
        for (place, name) in names.iter().enumerate() {
            let Some(offer) = self.names.get_mut(name) else { continue };
            let share = share(self.first, place, load);
            offer.load = offer.load.saturating_add(share);
            let host = self.hosts.entry(offer.host).or_default();
            *host = host.saturating_add(share);
        }
    }

    /// At most `want` names for a customer of this load. What it has and is still on offer stays
    /// in its place; the others are replaced. It gets fewer when there are not so many hosts.
    pub(in crate::state) fn choose(
        &mut self,
        before: &[String],
        want: usize,
        load: u64,
    ) -> Vec<String> {
        let stays = |name: &String| self.names.contains_key(name).then(|| name.clone());
        let mut places: Vec<Option<String>> = before.iter().map(stays).collect();
        places.resize(places.len().max(want), None);
        for at in 0..places.len() {
            if places.get(at).is_some_and(Option::is_none) {
                let found = self.least(&places);
                if let Some(place) = places.get_mut(at) {
                    *place = found;
                }
            }
        }
        let chosen: Vec<String> = places.into_iter().flatten().collect();
        self.take(&chosen, load);
        chosen
    }

    /// Give customers some of the names in `new` for others, until no host has much more than its
    /// part. Whoever brings the most comes first, so that few have to change.
    pub(in crate::state) fn even_out(&mut self, new: &[String], mut customers: Vec<&mut Place>) {
        let total = self.hosts.values().fold(0_u64, |sum, load| sum.saturating_add(*load));
        let part = total.div_ceil(u64::try_from(self.hosts.len()).unwrap_or(u64::MAX).max(1));
        let most = part.saturating_mul(TOLERANCE_PERCENT) / 100;
        let mut shares: Vec<(Reverse<u64>, usize, usize)> = Vec::new();
        for (at, customer) in customers.iter().enumerate() {
            let places = 0..customer.names.len();
            shares.extend(places.map(|n| (Reverse(share(self.first, n, customer.load)), at, n)));
        }
        shares.sort_unstable();
        for (Reverse(share), at, place) in shares {
            let Some(customer) = customers.get_mut(at) else { continue };
            let Some(name) = customer.names.get_mut(place).map(std::mem::take) else { continue };
            let to = self.relief(&name, new, &customer.names, (share, most));
            if let Some(to) = &to {
                self.carry(&name, to, share);
            }
            if let Some(slot) = customer.names.get_mut(place) {
                *slot = to.unwrap_or(name);
            }
        }
    }

    /// The name in `new` that this share of what comes by `name` is better off with, if its host
    /// has more than `most` and another one has room; `others` are the customer's other names.
    fn relief(
        &self,
        name: &str,
        new: &[String],
        others: &[String],
        (share, most): (u64, u64),
    ) -> Option<String> {
        let load = |host: u64| self.hosts.get(&host).copied().unwrap_or_default();
        let from = self.names.get(name)?.host;
        if load(from) <= most {
            return None;
        }
        let taken: Vec<u64> =
            others.iter().filter_map(|other| Some(self.names.get(other)?.host)).collect();
        let fits = |offer: &Offer| {
            let after = load(offer.host).saturating_add(share);
            offer.host != from && !taken.contains(&offer.host) && after <= most
        };
        let offers = new.iter().filter_map(|name| Some((name, self.names.get(name)?)));
        let offers = offers.filter(|(_, offer)| fits(offer));
        offers.min_by_key(|(_, offer)| (load(offer.host), offer.load)).map(|(name, _)| name.clone())
    }

    /// A share that came by one name comes by another.
    fn carry(&mut self, from: &str, to: &str, share: u64) {
        if let Some(offer) = self.names.get_mut(from) {
            offer.load = offer.load.saturating_sub(share);
            let host = self.hosts.entry(offer.host).or_default();
            *host = host.saturating_sub(share);
        }
        if let Some(offer) = self.names.get_mut(to) {
            offer.load = offer.load.saturating_add(share);
            let host = self.hosts.entry(offer.host).or_default();
            *host = host.saturating_add(share);
        }
    }

    /// The name with the least to do, on a host that none of these is on.
    fn least(&self, taken: &[Option<String>]) -> Option<String> {
        let host_of = |name: &String| self.names.get(name).map(|offer| offer.host);
        let hosts: Vec<u64> = taken.iter().flatten().filter_map(host_of).collect();
        let free = self.names.iter().filter(|(_, offer)| !hosts.contains(&offer.host));
        let burden = |offer: &Offer| (self.hosts.get(&offer.host).copied(), offer.load);
        free.min_by_key(|(_, offer)| burden(offer)).map(|(name, _)| name.clone())
    }
}

/// What a customer of this load brings by the name in this place, if by the first it brings `first`
/// parts and by every other one.
pub(super) fn share(first: u64, place: usize, load: u64) -> u64 {
    load.saturating_mul(if place == 0 { first } else { 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(names: &[(&str, u64)]) -> Spread {
        Spread::new(names.iter().map(|(name, host)| ((*name).to_owned(), *host, 0)), 3)
    }

    #[test]
    fn customers_are_spread_evenly_and_never_twice_on_one_host() {
        let mut spread = spread(&[("a", 1), ("b", 1), ("c", 2), ("d", 3)]);
        for _ in 0..300 {
            let names = spread.choose(&[], 2, 1);
            assert_eq!(names.len(), 2);
            assert!(!(names.contains(&"a".to_owned()) && names.contains(&"b".to_owned())));
        }
        let (least, most) = (spread.hosts.values().min(), spread.hosts.values().max());
        assert!(most.unwrap() - least.unwrap() <= 3, "{:?}", spread.hosts);
    }

    #[test]
    fn what_can_stay_stays_in_its_place() {
        let mut spread = spread(&[("b", 2), ("c", 3), ("d", 4)]);
        let before = ["a".to_owned(), "b".to_owned()];
        assert_eq!(spread.choose(&before, 2, 10), ["c", "b"]);
        assert_eq!(spread.choose(&before, 2, 10), ["d", "b"]);
    }

    #[test]
    fn fewer_hosts_give_fewer_names() {
        assert_eq!(spread(&[("a", 1), ("b", 1)]).choose(&[], 2, 1), ["a"]);
        assert!(spread(&[]).choose(&["x".to_owned()], 2, 1).is_empty());
    }

    #[test]
    fn new_names_relieve_hosts_that_have_too_much_by_moving_few_customers() {
        let mut spread = spread(&[("a", 1), ("b", 2), ("new", 3)]);
        let mut places: Vec<Place> = (0..100)
            .map(|n| {
                let load = if n == 0 { 60 } else { 1 };
                let first = if n % 2 == 0 { ["a", "b"] } else { ["b", "a"] };
                Place { names: first.map(str::to_owned).to_vec(), load }
            })
            .collect();
        places.iter().for_each(|place| spread.take(&place.names, place.load));
        let before: u64 = spread.hosts.values().sum();
        spread.even_out(&["new".to_owned()], places.iter_mut().collect());
        let loads: Vec<u64> = spread.hosts.values().copied().collect();
        assert_eq!(loads.iter().sum::<u64>(), before, "nothing is lost");
        let most = before.div_ceil(3) * TOLERANCE_PERCENT / 100;
        assert!(loads.iter().all(|load| *load <= most), "{loads:?} above {most}");
        let moved = places.iter().filter(|place| place.names.contains(&"new".to_owned())).count();
        assert!(places[0].names[0] == "new" && moved <= 25, "{moved} customers: {loads:?}");
        for place in &places {
            assert!(place.names.len() == 2 && place.names[0] != place.names[1], "{place:?}");
        }
        spread.even_out(&["new".to_owned()], places.iter_mut().collect());
        assert_eq!(loads, spread.hosts.values().copied().collect::<Vec<_>>(), "that was all");
    }

    #[test]
    fn new_names_on_hosts_that_have_their_part_move_nobody() {
        let mut spread = spread(&[("a", 1), ("b", 2), ("new", 1)]);
        let names = ["a".to_owned(), "b".to_owned()].to_vec();
        let mut place = Place { names: names.clone(), load: 1 };
        let mut other = Place { names: vec![names[1].clone(), names[0].clone()], load: 1 };
        spread.take(&place.names, 1);
        spread.take(&other.names, 1);
        spread.even_out(&["new".to_owned()], vec![&mut place, &mut other]);
        assert_eq!(place.names, names);
    }
}
