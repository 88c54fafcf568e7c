//! Return paths of our own: the domains whose mail leaves with one, and the keys that sign them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::parts::in_pieces;
use super::{Outcome, Refusal};

/// A key is needed for as long as what it signed is good: the newest, and two before it.
const KEYS_MAX: usize = 3;

/// Key material. It is not shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret([u8; 32]);

/// A key that signs return paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnKey {
    /// Counted from 1.
    pub number: u32,
    /// Since when it is used: milliseconds since 1970, UTC.
    pub since_ms: u64,
    /// The key itself.
    pub secret: Secret,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct ReturnPaths {
    /// Domains as lowercase A-labels.
    tagged: Arc<BTreeSet<String>>,
    /// The newest first.
    keys: Arc<Vec<ReturnKey>>,
}

impl Secret {
    /// From random octets.
    pub fn new(octets: [u8; 32]) -> Self {
        Self(octets)
    }

    /// The octets, for whoever signs.
    pub fn octets(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl ReturnPaths {
    pub(super) fn is_tagged(&self, domain: &str) -> bool {
        self.tagged.contains(domain)
    }

    pub(super) fn any_tagged(&self) -> bool {
        !self.tagged.is_empty()
    }

    pub(super) fn keys(&self) -> &[ReturnKey] {
        &self.keys
    }

    /// In pieces of at most so many domains, the first with the keys; none when there is nothing.
    pub(super) fn pieces(&self, rows: usize) -> impl Iterator<Item = Self> {
        let mut domains = in_pieces(self.tagged.iter().cloned(), rows);
        let keys = Arc::clone(&self.keys);
        let first = domains.next().unwrap_or_default();
        let is_empty = first.is_empty() && keys.is_empty();
        let piece = |keys, domains: Vec<String>| Self {
            tagged: Arc::new(domains.into_iter().collect()),
            keys,
        };
        let first = (!is_empty).then(|| piece(keys, first));
        first.into_iter().chain(domains.map(move |domains| piece(Arc::default(), domains)))
    }

    /// Add a piece.
    pub(super) fn absorb(&mut self, piece: Self) {
        Arc::make_mut(&mut self.tagged).extend(piece.tagged.iter().cloned());
        if !piece.keys.is_empty() {
            self.keys = piece.keys;
        }
    }

    /// Whether mail for a domain, which must exist, leaves with a return path of ours.
    pub(super) fn set(&mut self, domain: &str, tagged: bool) -> Outcome {
        if tagged && self.keys.is_empty() {
            return Err(Refusal::conflict("there is no key yet that signs return paths"));
        }
        if tagged == self.is_tagged(domain) {
            return Ok(0);
        }
        let domains = Arc::make_mut(&mut self.tagged);
        if tagged {
            domains.insert(domain.to_owned());
        } else {
            domains.remove(domain);
        }
        Ok(1)
    }

    /// The next key, from now on; two nodes may have the same idea at one time.
    pub(super) fn add_key(&mut self, number: u32, secret: &Secret, now_ms: u64) -> Outcome {
        let newest = self.keys.first().map_or(0, |key| key.number);
        if newest.checked_add(1) != Some(number) {
            return Err(Refusal::conflict(format!(
                "the newest key that signs return paths is {newest}, so {number} is not the next"
            )));
        }
        let keys = Arc::make_mut(&mut self.keys);
        keys.insert(0, ReturnKey { number, since_ms: now_ms, secret: secret.clone() });
        keys.truncate(KEYS_MAX);
        Ok(1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::parts::Part;
    use super::*;
    use crate::codec::{self, Kind};

    fn secret(octet: u8) -> Secret {
        Secret::new([octet; 32])
    }

    #[test]
    fn keys_follow_each_other_and_the_oldest_goes() {
        let mut paths = ReturnPaths::default();
        assert!(paths.set("acme.test", true).is_err(), "without a key nothing can be signed");
        for number in 1..=5 {
            paths.add_key(u32::from(number), &secret(number), u64::from(number)).unwrap();
            paths.add_key(u32::from(number), &secret(9), 0).unwrap_err();
        }
        let kept: Vec<(u32, u64)> = paths.keys().iter().map(|k| (k.number, k.since_ms)).collect();
        assert_eq!(kept, [(5, 5), (4, 4), (3, 3)]);
        assert_eq!(paths.keys()[0].secret, secret(5));
        assert!(!format!("{paths:?}").contains("[5"), "{paths:?}");
    }

    #[test]
    fn any_number_of_domains_fits_a_snapshot() {
        let mut paths = ReturnPaths::default();
        assert_eq!(paths.pieces(256).count(), 0);
        paths.add_key(1, &secret(1), 0).unwrap();
        assert_eq!(paths.pieces(256).collect::<Vec<_>>(), [paths.clone()]);
        for n in 0..200_000 {
            paths.set(&format!("customer-{n}.example.test"), true).unwrap();
        }
        let mut copy = ReturnPaths::default();
        for piece in paths.pieces(256) {
            let part = Part::ReturnPaths(piece.clone());
            codec::encode(Kind::SnapshotPart, &part).unwrap();
            copy.absorb(piece);
        }
        assert_eq!(copy, paths);
    }

    #[test]
    fn a_domain_is_switched_on_and_off() {
        let mut paths = ReturnPaths::default();
        paths.add_key(1, &secret(1), 0).unwrap();
        for (tagged, changed) in [(false, 0), (true, 1), (true, 0), (false, 1), (false, 0)] {
            assert_eq!(paths.set("acme.test", tagged), Ok(changed));
            assert_eq!((paths.is_tagged("acme.test"), paths.any_tagged()), (tagged, tagged));
        }
    }
}
