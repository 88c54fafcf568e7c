//! A few addresses with their histories, as one byte string.
//!
//! ```text
//! record: length of the rest u16 | length of the address, and its top bit, u16 | address |
//!         if the top bit is set: when mail was taken for it u48 |
//!         if it was rejected: oldest time u48 | the steps to the next times, as varints
//! ```
//!
//! Times are ms since 1970; numbers are little-endian; records are in order of address. An address
//! rejected once costs its own length and 10 octets, which is how ten million of them fit; copying
//! a leaf is one `memcpy`.
//! **Invariant:** whatever the bytes are, reading them ends and does not panic.

use std::ops::Range;

/// How many times are kept for an address; also the largest threshold.
pub(crate) const TIMES_MAX: usize = 10;
/// In the length of the address: the time at which mail was taken follows.
const TAKEN_BIT: u16 = 1 << 15;

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

    /// One that may be older than others, in its place; of too many the oldest goes.
    pub(crate) fn insert(&mut self, at_ms: u64) {
        let mut all = self.as_slice().to_vec();
        all.insert(all.partition_point(|known| *known <= at_ms), at_ms);
        *self = Self::default();
        all.into_iter().for_each(|at_ms| self.push(at_ms));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
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

/// What became of mail for an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct History {
    /// The rejections that counted.
    pub(crate) rejected: Times,
    /// When its server last took mail while there was nothing against the address, give or take a
    /// part of the window.
    pub(crate) taken_ms: Option<u64>,
}

impl History {
    pub(crate) fn is_empty(&self) -> bool {
        self.rejected.is_empty() && self.taken_ms.is_none()
    }

    /// The newest of all it holds.
    pub(crate) fn newest(&self) -> Option<u64> {
        self.rejected.newest().max(self.taken_ms)
    }
}

/// One record of a leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) address: &'a str,
    pub(crate) history: History,
}

/// Records in order of address.
pub(crate) fn records(leaf: &[u8]) -> impl Iterator<Item = Record<'_>> {
    raw_records(leaf).map_while(|raw| {
        let address = std::str::from_utf8(raw.address).ok()?;
        Some(Record { address, history: raw.history()? })
    })
}

/// The history of `address`.
pub(crate) fn find(leaf: &[u8], address: &str) -> Option<History> {
    // Most lookups pass by several records, so these are not read.
    let found = raw_records(leaf).find(|raw| raw.address >= address.as_bytes())?;
    if found.address == address.as_bytes() { found.history() } else { None }
}

/// A record whose place is known and whose content is not.
struct Raw<'a> {
    address: &'a [u8],
    is_taken: bool,
    rest: &'a [u8],
    place: Range<usize>,
}

impl Raw<'_> {
    fn history(&self) -> Option<History> {
        read(self.rest, self.is_taken)
    }
}

fn raw_records(leaf: &[u8]) -> impl Iterator<Item = Raw<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(leaf, at)?);
        let place = at..at + 2 + length;
        let body = leaf.get(at + 2..place.end)?;
        at = place.end;
        let head = u16_at(body, 0)?;
        let (address, rest) = body.get(2..)?.split_at_checked(usize::from(head & !TAKEN_BIT))?;
        Some(Raw { address, is_taken: head & TAKEN_BIT != 0, rest, place })
    })
}

/// The leaf with this history for `address`; with an empty one, without it.
pub(crate) fn replace(leaf: &[u8], address: &str, history: &History) -> Vec<u8> {
    let place = raw_records(leaf).find(|raw| raw.address >= address.as_bytes()).map_or(
        leaf.len()..leaf.len(),
        |raw| {
            if raw.address == address.as_bytes() {
                raw.place
            } else {
                raw.place.start..raw.place.start
            }
        },
    );
    let mut bytes = Vec::with_capacity(leaf.len() + address.len() + 64);
    bytes.extend_from_slice(leaf.get(..place.start).unwrap_or_default());
    if !history.is_empty() {
        write(&mut bytes, address, history);
    }
    bytes.extend_from_slice(leaf.get(place.end..).unwrap_or_default());
    bytes
}

fn write(bytes: &mut Vec<u8>, address: &str, history: &History) {
    let Ok(length) = u16::try_from(address.len()) else { return };
    let taken_bit = if history.taken_ms.is_some() { TAKEN_BIT } else { 0 };
    let start = bytes.len();
    bytes.extend_from_slice(&[0; 2]); // the length, once it is known
    bytes.extend_from_slice(&(length | taken_bit).to_le_bytes());
    bytes.extend_from_slice(address.as_bytes());
    if let Some(taken_ms) = history.taken_ms {
        write_time(bytes, taken_ms);
    }
    let mut before = None;
    for at_ms in history.rejected.as_slice() {
        let Some(before) = before.replace(*at_ms) else {
            write_time(bytes, *at_ms);
            continue;
        };
        let mut step = at_ms.saturating_sub(before);
        while step >= 0x80 {
            bytes.push((step & 0x7f) as u8 | 0x80);
            step >>= 7;
        }
        bytes.push((step & 0x7f) as u8);
    }
    match (u16::try_from(bytes.len() - start - 2), bytes.get_mut(start..start + 2)) {
        (Ok(length), Some(place)) => place.copy_from_slice(&length.to_le_bytes()),
        _ => bytes.truncate(start),
    }
}

fn read(mut bytes: &[u8], is_taken: bool) -> Option<History> {
    let mut history = History::default();
    if is_taken {
        history.taken_ms = Some(read_time(&mut bytes)?);
    }
    if !bytes.is_empty() {
        let mut before = read_time(&mut bytes)?;
        history.rejected.push(before);
        let (mut step, mut shift) = (0_u64, 0_u32);
        for octet in bytes {
            step |= u64::from(octet & 0x7f).checked_shl(shift)?;
            if octet & 0x80 == 0 {
                before = before.saturating_add(step);
                history.rejected.push(before);
                (step, shift) = (0, 0);
            } else {
                shift += 7;
            }
        }
    }
    Some(history)
}

fn write_time(bytes: &mut Vec<u8>, at_ms: u64) {
    bytes.extend_from_slice(at_ms.to_le_bytes().get(..6).unwrap_or_default());
}

fn read_time(bytes: &mut &[u8]) -> Option<u64> {
    let (time, rest) = bytes.split_first_chunk::<6>()?;
    *bytes = rest;
    let mut wide = [0; 8];
    wide[..6].copy_from_slice(time);
    Some(u64::from_le_bytes(wide))
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
                ("[a-c]{1,3}@d", proptest::collection::vec(0_u64..1 << 40, 0..14),
                proptest::option::of(0_u64..1 << 40)), 1..60)
        ) {
            let mut leaf = Vec::new();
            let mut model = BTreeMap::new();
            for (address, mut times, taken_ms) in steps {
                times.sort_unstable();
                let mut history = History { taken_ms, ..History::default() };
                times.into_iter().for_each(|at| history.rejected.push(at));
                leaf = replace(&leaf, &address, &history);
                match history.is_empty() {
                    false => { model.insert(address, history); }
                    true => { model.remove(&address); }
                }
                let rows = records(&leaf).map(|r| (r.address.to_owned(), r.history));
                let rows: Vec<_> = rows.collect();
                prop_assert_eq!(rows, model.clone().into_iter().collect::<Vec<_>>());
                for (address, history) in &model {
                    prop_assert_eq!(find(&leaf, address), Some(*history));
                }
            }
        }

        #[test]
        fn any_bytes_can_be_read(bytes in proptest::collection::vec(0_u8.., 0..100)) {
            records(&bytes).count();
            replace(&bytes, "a@b", &History { taken_ms: Some(1), ..History::default() });
        }
    }

    #[test]
    fn an_address_rejected_once_costs_its_length_and_ten_octets() {
        let rejected = Times::one(1_700_000_000_000);
        let leaf = replace(&[], "someone@example.org", &History { rejected, taken_ms: None });
        assert_eq!(leaf.len(), 19 + 10);
    }
}
