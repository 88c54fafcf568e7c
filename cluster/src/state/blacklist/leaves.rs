//! A million short byte strings by number, cheap to share and cheap to change.
//!
//! Readers hold a clone of the table while the next changes are applied to another. Were every leaf
//! an allocation with a count of its owners, each change would have to touch the counts of the
//! leaves beside it, scattered over hundreds of megabytes. So the table holds plain numbers, which
//! are copied as octets are, and the leaves lie in large segments that are owned as a whole:
//!
//! ```text
//! segment: records, one after the other
//! record: number u32 | length u32 | the leaf's octets | none to seven, so that the next is aligned
//! ```
//!
//! A changed leaf is written anew to the newest segment, and what it was becomes garbage. When
//! there is too much of that, the leaves of the oldest segment are written again and the segment
//! goes.

use std::collections::VecDeque;
use std::sync::Arc;

const ROOT_BITS: u32 = 6;
const MIDDLE_BITS: u32 = 6;
const LOW_BITS: u32 = 8;
/// How many leaves there are.
pub(super) const LEAVES: usize = 1 << (ROOT_BITS + MIDDLE_BITS + LOW_BITS);

const HEAD_OCTETS: usize = 8;
/// The newest segment is copied when it is written to beside a reader, so it is not too large.
const SEGMENT_OCTETS: usize = 512 << 10;
/// Room that segments take beyond half as much again as the leaves in use.
const SLACK_OCTETS: usize = 4 * SEGMENT_OCTETS;

/// Records begin at multiples of this, so that their places are short: some are copied for each
/// change.
const ALIGN: usize = 8;
/// A segment has so many places.
const SEGMENT_PLACES: usize = SEGMENT_OCTETS / ALIGN;

/// Where a leaf's record is, counted over all slots in units of [`ALIGN`]. An empty leaf is
/// nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place(u32);

const NOWHERE: Place = Place(u32::MAX);

impl Place {
    fn new(slot: u32, at: usize) -> Self {
        let place = slot as usize * SEGMENT_PLACES + at / ALIGN;
        u32::try_from(place).map_or(NOWHERE, Self)
    }

    fn slot(self) -> usize {
        self.0 as usize / SEGMENT_PLACES
    }

    fn at(self) -> usize {
        self.0 as usize % SEGMENT_PLACES * ALIGN
    }
}

type Low = Arc<[Place; 1 << LOW_BITS]>;
type Middle = Arc<[Low; 1 << MIDDLE_BITS]>;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Leaves {
    root: Arc<[Middle; 1 << ROOT_BITS]>,
    /// What all nodes start as, known by their address: most of a small table is skipped by that.
    empty: (Low, Middle),
    segments: Arc<Segments>,
    /// Octets of the records of all leaves.
    used: usize,
}

#[derive(Debug, Clone, Default)]
struct Segments {
    slots: Vec<Arc<Vec<u8>>>,
    /// Slots that hold a segment, the oldest first; the last one is written to.
    order: VecDeque<u32>,
    free: Vec<u32>,
}

impl Default for Leaves {
    fn default() -> Self {
        let low: Low = Arc::new([NOWHERE; 1 << LOW_BITS]);
        let middle: Middle = Arc::new(std::array::from_fn(|_| Arc::clone(&low)));
        let root = Arc::new(std::array::from_fn(|_| Arc::clone(&middle)));
        Self { root, empty: (low, middle), segments: Arc::default(), used: 0 }
    }
}

/// The way from the root to a leaf.
fn steps(number: usize) -> [usize; 3] {
    let step = |shift: u32, bits: u32| (number >> shift) % (1 << bits);
    [step(LOW_BITS + MIDDLE_BITS, ROOT_BITS), step(LOW_BITS, MIDDLE_BITS), step(0, LOW_BITS)]
}

impl Leaves {
    /// A leaf's octets; none when nothing is in it, or there is no such leaf.
    pub(super) fn get(&self, number: usize) -> &[u8] {
        self.segments.read(self.place(number))
    }

    /// Put other octets in place of a leaf's.
    pub(super) fn set(&mut self, number: usize, leaf: &[u8]) {
        let Ok(name) = u32::try_from(number % LEAVES) else { return };
        self.used -= size(self.get(number).len());
        self.used += size(leaf.len());
        let place = if leaf.is_empty() {
            NOWHERE
        } else {
            Arc::make_mut(&mut self.segments).append(name, leaf)
        };
        self.put(number, place);
        // Each segment that goes makes more room than its leaves take again, sooner or later.
        for _ in 0..self.segments.order.len() {
            if self.segments.room() <= self.used + self.used / 2 + SLACK_OCTETS {
                break;
            }
            self.move_oldest();
        }
    }

    /// Leaves that hold something, with their numbers, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let (low, middle) = &self.empty;
        let number = |a: usize, b: usize, c: usize| (((a << MIDDLE_BITS) + b) << LOW_BITS) + c;
        let middles = self.root.iter().enumerate().filter(|(_, each)| !Arc::ptr_eq(each, middle));
        middles.flat_map(move |(a, each)| {
            let lows = each.iter().enumerate().filter(|(_, each)| !Arc::ptr_eq(each, low));
            lows.flat_map(move |(b, each)| {
                let places = each.iter().enumerate().filter(|(_, place)| **place != NOWHERE);
                places.map(move |(c, place)| (number(a, b, c), self.segments.read(*place)))
            })
        })
    }

    fn place(&self, number: usize) -> Place {
        let [a, b, c] = steps(number);
        self.root[a][b][c]
    }

    fn put(&mut self, number: usize, place: Place) {
        let [a, b, c] = steps(number);
        let middle = &mut Arc::make_mut(&mut self.root)[a];
        let low = &mut Arc::make_mut(middle)[b];
        Arc::make_mut(low)[c] = place;
    }

    /// Write the leaves of the oldest segment again, and drop it.
    fn move_oldest(&mut self) {
        let segments = Arc::make_mut(&mut self.segments);
        let Some((slot, segment)) = segments.take_oldest() else { return };
        let mut rest = segment.as_slice();
        while let Some((name, length, more)) = head(rest) {
            let at = segment.len() - rest.len();
            let Some(leaf) = more.get(..length) else { return };
            rest = rest.get(size(length)..).unwrap_or_default();
            if self.place(name as usize) == Place::new(slot, at) {
                let place = Arc::make_mut(&mut self.segments).append(name, leaf);
                self.put(name as usize, place);
            }
        }
        Arc::make_mut(&mut self.segments).free.push(slot);
    }
}

impl Segments {
    fn read(&self, place: Place) -> &[u8] {
        let segment = self.slots.get(place.slot());
        let record = segment.and_then(|segment| segment.get(place.at()..));
        let leaf = record.and_then(head).and_then(|(_, length, leaf)| leaf.get(..length));
        leaf.unwrap_or_default()
    }

    /// Octets that all segments take.
    fn room(&self) -> usize {
        self.order.len() * SEGMENT_OCTETS
    }

    fn append(&mut self, name: u32, leaf: &[u8]) -> Place {
        let fits = |slot: &u32| {
            let segment = self.slots.get(*slot as usize);
            segment.is_some_and(|segment| segment.len() + size(leaf.len()) <= SEGMENT_OCTETS)
        };
        let slot = match self.order.back().copied().filter(fits) {
            Some(slot) => slot,
            None => self.begin(),
        };
        let Some(segment) = self.slots.get_mut(slot as usize) else { return NOWHERE };
        if Arc::get_mut(segment).is_none() {
            // A reader has it. The copy has room for all of a segment from the beginning.
            let mut copy = Vec::with_capacity(SEGMENT_OCTETS);
            copy.extend_from_slice(segment);
            *segment = Arc::new(copy);
        }
        let segment = Arc::make_mut(segment);
        let Ok(length) = u32::try_from(leaf.len()) else { return NOWHERE };
        let at = segment.len();
        segment.extend_from_slice(&name.to_le_bytes());
        segment.extend_from_slice(&length.to_le_bytes());
        segment.extend_from_slice(leaf);
        segment.resize(at + size(leaf.len()), 0);
        Place::new(slot, at)
    }

    fn begin(&mut self) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Arc::default());
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = Arc::new(Vec::with_capacity(SEGMENT_OCTETS));
        }
        self.order.push_back(slot);
        slot
    }

    fn take_oldest(&mut self) -> Option<(u32, Arc<Vec<u8>>)> {
        let slot = self.order.pop_front()?;
        let segment = std::mem::take(self.slots.get_mut(slot as usize)?);
        Some((slot, segment))
    }
}

/// What a leaf of this length takes in a segment.
fn size(length: usize) -> usize {
    if length == 0 { 0 } else { (HEAD_OCTETS + length).next_multiple_of(ALIGN) }
}

/// Name and length of the first record, and what follows its head.
fn head(records: &[u8]) -> Option<(u32, usize, &[u8])> {
    let (name, rest) = records.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    Some((u32::from_le_bytes(*name), u32::from_le_bytes(*length) as usize, rest))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::state::mix;

    fn number(of: u64) -> usize {
        usize::try_from(mix(of % 700)).unwrap_or(0) % LEAVES
    }

    fn content(leaves: &Leaves) -> BTreeMap<usize, Vec<u8>> {
        leaves.iter().map(|(number, leaf)| (number, leaf.to_vec())).collect()
    }

    #[test]
    fn it_behaves_as_a_map_and_a_clone_stays_as_it_was_while_segments_come_and_go() {
        let mut leaves = Leaves::default();
        let mut model: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        let mut past = Vec::new();
        for n in 0..30_000_u64 {
            let at = number(mix(n));
            let length = usize::try_from(mix(n + 1) % 4000).unwrap();
            let leaf = vec![n.to_le_bytes()[0]; length];
            leaves.set(at, &leaf);
            match leaf.is_empty() {
                true => model.remove(&at),
                false => model.insert(at, leaf),
            };
            if n % 3000 == 0 {
                past.push((leaves.clone(), model.clone()));
            }
            assert_eq!(leaves.get(at), model.get(&at).map_or(&[][..], Vec::as_slice));
        }
        let used: usize = model.values().map(|leaf| size(leaf.len())).sum();
        assert_eq!(leaves.used, used);
        assert!(leaves.segments.room() <= used + used / 2 + SLACK_OCTETS);
        assert!(leaves.segments.slots.len() < 20, "slots are used again");
        past.push((leaves, model));
        for (leaves, model) in past {
            assert_eq!(content(&leaves), model);
        }
    }

    #[test]
    fn what_was_never_set_is_empty_and_an_emptied_table_takes_no_room() {
        let mut leaves = Leaves::default();
        assert!(leaves.get(5).is_empty() && leaves.iter().next().is_none());
        (0..5000).for_each(|n| leaves.set(n, &[1; 2000]));
        (0..5000).for_each(|n| leaves.set(n, &[]));
        assert!(leaves.iter().next().is_none());
        assert_eq!(leaves.used, 0);
        leaves.set(5, b"x");
        assert!(leaves.segments.room() <= SLACK_OCTETS);
        assert_eq!(content(&leaves), BTreeMap::from([(5, b"x".to_vec())]));
    }
}
