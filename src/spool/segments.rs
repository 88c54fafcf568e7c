//! Accounts of the segment files: what in them is still needed, and when one may go.

use std::collections::{BTreeMap, BTreeSet};

/// Octets that an entry is counted with besides its text, and a mark. Live octets only steer
/// compaction, so what matters is that the same is added and taken away.
pub(super) const ENTRY_OCTETS: u64 = 512;
/// See [`ENTRY_OCTETS`].
pub(super) const MARK_OCTETS: u64 = 128;

/// One segment file.
#[derive(Debug, Clone, Default)]
pub(super) struct Segment {
    pub(super) salt: u64,
    /// Where its good records end.
    pub(super) end: u32,
    /// Octets of records that are needed for entries still here.
    pub(super) live: u64,
    /// Chunks of messages that are still arriving.
    pub(super) drafts: u32,
    /// No record is added any more.
    pub(super) sealed: bool,
    /// A sync failed: what it holds may not be on the disk, and is copied elsewhere soon.
    pub(super) suspect: bool,
    /// Something in it could not be saved elsewhere, so it stays for the operator.
    pub(super) kept: bool,
    /// The sync with which all is durable that made something in it needless.
    pub(super) released: u64,
    /// Attempts to compact it that failed.
    pub(super) failures: u32,
    /// Its sidecar is written, or was tried.
    pub(super) has_sidecar: bool,
    /// Marks in it that ended an entry.
    pub(super) endings: u32,
    /// Segments that hold an entry which a mark in here ended. While one exists the mark must.
    pub(super) ends: BTreeSet<u32>,
    /// Segments whose entries were copied here, or whose tail is cut by the header here. They
    /// must go first.
    pub(super) replaces: BTreeSet<u32>,
}

impl Segment {
    /// Octets that would have to be written again to do without this file.
    pub(super) fn needed(&self) -> u64 {
        let endings = if self.ends.is_empty() { 0 } else { u64::from(self.endings) };
        self.live + endings * MARK_OCTETS
    }

    /// Nothing in it is needed.
    pub(super) fn is_done(&self) -> bool {
        self.sealed
            && !self.kept
            && self.live == 0
            && self.drafts == 0
            && self.ends.is_empty()
            && self.replaces.is_empty()
    }
}

/// All segment files by number, which is also the order in which they were written.
#[derive(Debug, Default)]
pub(super) struct Segments {
    all: BTreeMap<u32, Segment>,
    /// Syncs so far after which all that had happened was durable.
    syncs: u64,
}

impl Segments {
    pub(super) fn insert(&mut self, number: u32, segment: Segment) {
        self.all.insert(number, segment);
    }

    pub(super) fn get(&self, number: u32) -> Option<&Segment> {
        self.all.get(&number)
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut Segment> {
        self.all.get_mut(&number)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Segment)> {
        self.all.iter().map(|(number, segment)| (*number, segment))
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Count octets as needed.
    pub(super) fn keep(&mut self, number: u32, octets: u64) {
        if let Some(segment) = self.all.get_mut(&number) {
            segment.live += octets;
        }
    }

    /// Count octets as needed no more, because of a record that the next sync makes durable.
    pub(super) fn release(&mut self, number: u32, octets: u64) {
        let released = self.syncs + 1;
        if let Some(segment) = self.all.get_mut(&number) {
            debug_assert!(segment.live >= octets, "released from {number} what it did not hold");
            segment.live = segment.live.saturating_sub(octets);
            segment.released = released;
        }
    }

    /// Count a chunk of a message that never was, or is counted as a message's by now.
    pub(super) fn release_draft(&mut self, number: u32, octets: u64) {
        if let Some(segment) = self.all.get_mut(&number) {
            debug_assert!(segment.live >= octets, "released from {number} what it did not hold");
            segment.live = segment.live.saturating_sub(octets);
            segment.drafts = segment.drafts.saturating_sub(1);
        }
    }

    /// All that has happened is on stable storage.
    pub(super) fn synced(&mut self) {
        self.syncs += 1;
    }

    /// A record in segment `at` ended an entry that is in `home`.
    pub(super) fn ended(&mut self, at: u32, home: u32) {
        let exists = home != at && self.all.contains_key(&home);
        if let Some(segment) = self.all.get_mut(&at) {
            segment.endings += 1;
            if exists {
                segment.ends.insert(home);
            }
        }
    }

    /// An entry that is in `old` was copied to `new`, or `new` says where `old` ends.
    pub(super) fn replaced(&mut self, old: u32, new: u32) {
        if old != new
            && self.all.contains_key(&old)
            && let Some(segment) = self.all.get_mut(&new)
        {
            segment.replaces.insert(old);
        }
    }

    /// The file is gone, and its name, from stable storage.
    pub(super) fn remove(&mut self, number: u32) {
        self.all.remove(&number);
        for segment in self.all.values_mut() {
            segment.ends.remove(&number);
            segment.replaces.remove(&number);
        }
    }

    /// The oldest segment that may go. What made it needless must not be forgotten once it has
    /// gone: of a message for two, it may hold the only record that one has it already.
    pub(super) fn done(&self) -> Option<u32> {
        let may_go = |segment: &Segment| segment.is_done() && segment.released <= self.syncs;
        self.iter().find(|(_, segment)| may_go(segment)).map(|(number, _)| number)
    }

    /// A sealed segment that has no sidecar yet.
    pub(super) fn without_sidecar(&self) -> Option<u32> {
        self.iter().find(|(_, segment)| segment.sealed && !segment.has_sidecar).map(|(n, _)| n)
    }

    /// The sealed segment that most deserves to be written again: one whose sync failed, or the one
    /// with the smallest share still needed, if that is below `percent`. Those where it failed
    /// before come last, so that one bad block does not keep all others from it.
    pub(super) fn wasteful(&self, percent: u64) -> Option<u32> {
        let candidates = self.iter().filter(|(_, segment)| {
            segment.sealed
                && !segment.kept
                && segment.drafts == 0
                && segment.replaces.is_empty()
                && !segment.is_done()
        });
        let shares = candidates.map(|(number, segment)| {
            let share = segment.needed() * 100 / u64::from(segment.end.max(1));
            (segment.failures, if segment.suspect { 0 } else { share }, number, segment.suspect)
        });
        let wasteful = shares.filter(|(_, share, _, suspect)| *suspect || *share < percent);
        wasteful.min().map(|(_, _, number, _)| number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(live: u64) -> Segment {
        Segment { end: 10_000, sealed: true, live, ..Segment::default() }
    }

    fn three(first: Segment, second: Segment, third: Segment) -> Segments {
        let mut segments = Segments::default();
        for (number, segment) in [(1, first), (2, second), (3, third)] {
            segments.insert(number, segment);
        }
        segments
    }

    #[test]
    fn a_segment_goes_only_after_those_whose_entries_it_ended() {
        let mut segments = three(sealed(100), sealed(0), Segment::default());
        segments.ended(2, 1);
        assert_eq!(segments.done(), None);
        segments.release(1, 100);
        assert_eq!(segments.done(), None, "what released it may be forgotten");
        segments.synced();
        assert_eq!(segments.done(), Some(1));
        segments.remove(1);
        assert_eq!(segments.done(), Some(2));
    }

    #[test]
    fn a_segment_goes_only_after_those_it_replaces() {
        let mut segments = three(sealed(1), sealed(0), Segment::default());
        segments.replaced(1, 2);
        assert_eq!(segments.done(), None);
        segments.remove(1);
        assert_eq!(segments.done(), Some(2));
    }

    #[test]
    fn the_smallest_share_is_compacted_first_and_a_suspect_before_all() {
        let mut segments = three(sealed(4000), sealed(3000), sealed(9000));
        assert_eq!(segments.wasteful(50), Some(2));
        segments.get_mut(3).unwrap().suspect = true;
        assert_eq!(segments.wasteful(50), Some(3));
        // Where it failed, the others have their turn.
        segments.get_mut(3).unwrap().failures = 1;
        assert_eq!(segments.wasteful(50), Some(2));
        assert_eq!(three(sealed(5000), sealed(6000), sealed(1)).wasteful(50), Some(3));
        assert_eq!(three(sealed(5000), sealed(6000), Segment::default()).wasteful(50), None);
    }

    #[test]
    fn marks_that_end_entries_elsewhere_count_as_needed() {
        let mut segments = three(sealed(1), sealed(0), Segment::default());
        for _ in 0..50 {
            segments.ended(2, 1);
        }
        assert_eq!(segments.get(2).unwrap().needed(), 50 * MARK_OCTETS);
        assert_eq!(segments.wasteful(50), Some(1));
        segments.remove(1);
        assert_eq!(segments.get(2).unwrap().needed(), 0);
    }
}
