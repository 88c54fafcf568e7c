//! A few dozen addresses with the times of their rejections, as one byte string.
//!
//! ```text
//! record: length of the rest u16 | length of the address u16 | address |
//!         oldest time, ms since 1970, u48 | the steps to the next times, as varints
//! ```
//!
//! Numbers are little-endian; records are in order of address. An address rejected once costs its
//! own length and 10 octets, which is how ten million of them fit; copying a leaf is one `memcpy`.
//! **Invariant:** whatever the bytes are, reading them ends and does not panic.

use std::ops::Range;

use bytes::Bytes;

/// How many times are kept for an address; also the largest threshold.
pub(crate) const TIMES_MAX: usize = 10;

/// The times of an address's newest rejections, the oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Times {
    count: usize,
    at_ms: [u64; TIMES_MAX],
}

impl Times {
    /// Only this one.
    pub(crate) fn one(at_ms: u64) -> Self {
        let mut times = Self::default();
        times.push(at_ms);
        times
    }

    /// A newer one; the oldest goes when there are too many.
    pub(crate) fn push(&mut self, at_ms: u64) {
        if self.count == TIMES_MAX {
            self.at_ms.rotate_left(1);
            self.count -= 1;
        }
        if let Some(place) = self.at_ms.get_mut(self.count) {
            *place = at_ms;
            self.count += 1;
        }
    }

    /// The oldest first.
    pub(crate) fn as_slice(&self) -> &[u64] {
        self.at_ms.get(..self.count).unwrap_or_default()
    }

    pub(crate) fn newest(&self) -> Option<u64> {
        self.as_slice().last().copied()
    }

    /// The `nth` newest, counted from 1.
    pub(crate) fn nth_newest(&self, nth: usize) -> Option<u64> {
        let at = self.count.checked_sub(nth)?;
        self.as_slice().get(at).copied()
    }
}

/// One record of a leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) address: &'a str,
    pub(crate) times: Times,
    place: Range<usize>,
}

/// Records in order of address.
pub(crate) fn records(leaf: &[u8]) -> impl Iterator<Item = Record<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(leaf, at)?);
        let place = at..at + 2 + length;
        let body = leaf.get(at + 2..place.end)?;
        at = place.end;
        let address_end = 2 + usize::from(u16_at(body, 0)?);
        let address = std::str::from_utf8(body.get(2..address_end)?).ok()?;
        let times = read_times(body.get(address_end..)?)?;
        Some(Record { address, times, place })
    })
}

/// The times of `address`.
pub(crate) fn find(leaf: &[u8], address: &str) -> Option<Times> {
    let found = records(leaf).find(|record| record.address >= address)?;
    (found.address == address).then_some(found.times)
}

/// The leaf with these times for `address`; with none, without it.
pub(crate) fn replace(leaf: &[u8], address: &str, times: Option<&Times>) -> Bytes {
    let place = records(leaf).find(|record| record.address >= address).map_or(
        leaf.len()..leaf.len(),
        |record| {
            if record.address == address {
                record.place
            } else {
                record.place.start..record.place.start
            }
        },
    );
    let mut bytes = Vec::with_capacity(leaf.len() + address.len() + 64);
    bytes.extend_from_slice(leaf.get(..place.start).unwrap_or_default());
    if let Some(times) = times {
        write(&mut bytes, address, times);
    }
    bytes.extend_from_slice(leaf.get(place.end..).unwrap_or_default());
    bytes.shrink_to_fit();
    bytes.into()
}

fn write(bytes: &mut Vec<u8>, address: &str, times: &Times) {
    let Some((oldest, newer)) = times.as_slice().split_first() else { return };
    let mut body = Vec::with_capacity(address.len() + 60);
    let Ok(length) = u16::try_from(address.len()) else { return };
    body.extend_from_slice(&length.to_le_bytes());
    body.extend_from_slice(address.as_bytes());
    body.extend_from_slice(oldest.to_le_bytes().get(..6).unwrap_or_default());
    let mut before = *oldest;
    for at_ms in newer {
        let mut step = at_ms.saturating_sub(before);
        before = *at_ms;
        while step >= 0x80 {
            body.push((step & 0x7f) as u8 | 0x80);
            step >>= 7;
        }
        body.push((step & 0x7f) as u8);
    }
    let Ok(length) = u16::try_from(body.len()) else { return };
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.append(&mut body);
}

fn read_times(bytes: &[u8]) -> Option<Times> {
    let (oldest, steps) = bytes.split_first_chunk::<6>()?;
    let mut wide = [0; 8];
    wide[..6].copy_from_slice(oldest);
    let mut before = u64::from_le_bytes(wide);
    let mut times = Times::one(before);
    let (mut step, mut shift) = (0_u64, 0_u32);
    for octet in steps {
        step |= u64::from(octet & 0x7f).checked_shl(shift)?;
        if octet & 0x80 == 0 {
            before = before.saturating_add(step);
            times.push(before);
            (step, shift) = (0, 0);
        } else {
            shift += 7;
        }
    }
    Some(times)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_leaf_behaves_as_an_ordered_map(
            steps in proptest::collection::vec(
                ("[a-c]{1,3}@d", proptest::option::of(
                    proptest::collection::vec(0_u64..1 << 40, 1..14)
                )), 1..60)
        ) {
            let mut leaf = Bytes::new();
            let mut model = BTreeMap::new();
            for (address, times) in steps {
                let times = times.map(|mut all| {
                    all.sort_unstable();
                    let mut times = Times::default();
                    all.into_iter().for_each(|at| times.push(at));
                    times
                });
                leaf = replace(&leaf, &address, times.as_ref());
                match times {
                    Some(times) => { model.insert(address, times); }
                    None => { model.remove(&address); }
                }
                let rows = records(&leaf).map(|r| (r.address.to_owned(), r.times));
                let rows: Vec<_> = rows.collect();
                prop_assert_eq!(rows, model.clone().into_iter().collect::<Vec<_>>());
                for (address, times) in &model {
                    prop_assert_eq!(find(&leaf, address), Some(*times));
                }
            }
        }

        #[test]
        fn any_bytes_can_be_read(bytes in proptest::collection::vec(0_u8.., 0..100)) {
            records(&bytes).count();
            replace(&bytes, "a@b", Some(&Times::one(1)));
        }
    }

    #[test]
    fn an_address_rejected_once_costs_its_length_and_ten_octets() {
        let leaf = replace(&[], "someone@example.org", Some(&Times::one(1_700_000_000_000)));
        assert_eq!(leaf.len(), 19 + 10);
    }
}
