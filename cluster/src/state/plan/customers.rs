//! Which names a customer is given: those whose hosts have the least to do, no two on one host.

use std::collections::BTreeMap;

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
            let share = load.saturating_mul(if place == 0 { self.first } else { 1 });
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

    /// The name with the least to do, on a host that none of these is on.
    fn least(&self, taken: &[Option<String>]) -> Option<String> {
        let host_of = |name: &String| self.names.get(name).map(|offer| offer.host);
        let hosts: Vec<u64> = taken.iter().flatten().filter_map(host_of).collect();
        let free = self.names.iter().filter(|(_, offer)| !hosts.contains(&offer.host));
        let burden = |offer: &Offer| (self.hosts.get(&offer.host).copied(), offer.load);
        free.min_by_key(|(_, offer)| burden(offer)).map(|(name, _)| name.clone())
    }
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
}
