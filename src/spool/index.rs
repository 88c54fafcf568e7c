//! What is kept in memory of each entry: where it is, and where each recipient stands.
//!
//! Envelopes stay on disk. An entry with one recipient costs at most 110 octets, the map's own
//! included; [`super::writer`] is the only one that changes it, so what it says follows the order
//! of the log.

use std::collections::{BTreeMap, HashMap};

use super::EntryId;
use super::format::Location;
use super::hold::{Hold, Small};
use super::item::MarkItem;
use super::record::Part;
use super::segments::{ENTRY_OCTETS, MARK_OCTETS, Segments};
use super::state::{Outcome, Stats};

const SECOND_US: u64 = 1_000_000;

/// One recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Slot {
    /// The record of its newest mark; none if the entry's own record says it all.
    pub(super) mark: Location,
    /// In seconds since 1970, which is exact enough and lasts until 2106.
    due_s: u32,
    attempts: u16,
    pub(super) outcome: Option<Outcome>,
    pub(super) warned: bool,
}

impl Slot {
    pub(super) fn due_us(self) -> u64 {
        u64::from(self.due_s) * SECOND_US
    }

    pub(super) fn attempts(self) -> u32 {
        u32::from(self.attempts)
    }

    fn apply(&mut self, mark: MarkItem) {
        match mark {
            MarkItem::Final { outcome, .. } => {
                (self.outcome, self.due_s, self.attempts) = (Some(outcome), 0, 0);
                self.warned = false;
            }
            MarkItem::Deferred { attempts, due_us, warned, .. } => {
                self.warned = warned;
                self.due_s = u32::try_from(due_us / SECOND_US).unwrap_or(u32::MAX);
                self.attempts = u16::try_from(attempts).unwrap_or(u16::MAX);
            }
            MarkItem::Hold(_) => {}
        }
    }
}

/// The recipients of an entry; nearly always one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Slots {
    One(Slot),
    Many(Box<[Slot]>),
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its `Message` or `Commit` record.
    pub(super) home: Location,
    /// Octets of its text; what cannot be said in 32 bits is not accepted.
    octets: u32,
    hold: Small,
    large: bool,
    slots: Slots,
}

impl Entry {
    /// An entry whose record at `home` says what became of its `recipients` so far in `marks`.
    pub(super) fn new(home: Location, octets: u64, recipients: usize) -> Self {
        let slots = match recipients {
            1 => Slots::One(Slot::default()),
            count => Slots::Many(vec![Slot::default(); count].into()),
        };
        let octets = u32::try_from(octets).unwrap_or(u32::MAX);
        Self { home, octets, hold: Small::default(), large: false, slots }
    }

    pub(super) fn octets(&self) -> u64 {
        u64::from(self.octets)
    }

    /// Why it is not delivered for now.
    pub(super) fn hold(&self) -> Hold {
        self.hold.into()
    }

    pub(super) fn slots(&self) -> &[Slot] {
        match &self.slots {
            Slots::One(slot) => std::slice::from_ref(slot),
            Slots::Many(slots) => slots,
        }
    }

    fn slots_mut(&mut self) -> &mut [Slot] {
        match &mut self.slots {
            Slots::One(slot) => std::slice::from_mut(slot),
            Slots::Many(slots) => slots,
        }
    }

    /// Octets of text in the entry's own record.
    pub(super) fn inline_octets(&self) -> u64 {
        if self.large { 0 } else { self.octets() }
    }

    fn slot_mut(&mut self, recipient: u32) -> Option<&mut Slot> {
        self.slots_mut().get_mut(usize::try_from(recipient).ok()?)
    }

    /// Take over what the entry's own record says.
    pub(super) fn fold(&mut self, hold: Hold, marks: &[MarkItem]) {
        self.hold = hold.into();
        for mark in marks {
            if let Some(slot) = recipient(*mark).and_then(|index| self.slot_mut(index)) {
                slot.apply(*mark);
            }
        }
    }

    fn pending(&self) -> u64 {
        self.slots().iter().filter(|slot| slot.outcome.is_none()).count() as u64
    }
}

fn recipient(mark: MarkItem) -> Option<u32> {
    match mark {
        MarkItem::Final { recipient, .. } | MarkItem::Deferred { recipient, .. } => Some(recipient),
        MarkItem::Hold(_) => None,
    }
}

/// What a mark did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Applied {
    /// The segment of the entry's record.
    pub(super) home: u32,
    /// The entry is done and no longer in the index.
    pub(super) ends: bool,
}

/// All entries and segments.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: BTreeMap<EntryId, Entry>,
    /// The chunks of large messages.
    parts: HashMap<EntryId, Box<[Part]>>,
    /// The newest hold or release of entries that ever had one since their record was written.
    holds: HashMap<EntryId, Location>,
    pub(super) segments: Segments,
    pending_recipients: u64,
    octets: u64,
    held: u64,
}

impl Index {
    pub(super) fn get(&self, id: EntryId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    pub(super) fn parts(&self, id: EntryId) -> &[Part] {
        self.parts.get(&id).map_or(&[], |parts| parts)
    }

    pub(super) fn hold_of(&self, id: EntryId) -> Option<Location> {
        self.holds.get(&id).copied()
    }

    pub(super) fn ids(&self) -> Vec<EntryId> {
        self.entries.keys().copied().collect()
    }

    /// Entries on their way between this node and another.
    pub(super) fn not_ours(&self) -> Vec<(EntryId, Hold)> {
        let away = self.entries.iter().filter(|(_, entry)| !entry.hold().is_ours());
        away.map(|(id, entry)| (*id, entry.hold())).collect()
    }

    /// The entries whose record is in a segment.
    pub(super) fn ids_in(&self, segment: u32) -> Vec<EntryId> {
        let inside = self.entries.iter().filter(|(_, entry)| entry.home.segment == segment);
        inside.map(|(id, _)| *id).collect()
    }

    /// Add an entry. One of the same id is replaced: the newer copy is the true one.
    pub(super) fn insert(&mut self, id: EntryId, mut entry: Entry, parts: &[Part]) {
        let new = entry.home.segment;
        if let Some(old) = self.remove(id) {
            self.segments.replaced(old.home.segment, new);
        }
        self.octets += entry.octets();
        self.pending_recipients += entry.pending();
        self.held += u64::from(entry.hold().is_operators());
        entry.large = !parts.is_empty();
        self.keep_record(&entry, parts);
        if entry.large {
            self.parts.insert(id, parts.into());
        }
        self.entries.insert(id, entry);
    }

    /// Apply a mark whose record is at `at`. `None` if it says nothing new: the entry or the
    /// recipient is done already, or was never there.
    pub(super) fn apply(&mut self, id: EntryId, mark: MarkItem, at: Location) -> Option<Applied> {
        let entry = self.entries.get_mut(&id)?;
        let home = entry.home.segment;
        let before = match recipient(mark) {
            Some(recipient) => {
                let slot = entry.slot_mut(recipient).filter(|slot| slot.outcome.is_none())?;
                slot.apply(mark);
                self.pending_recipients -= u64::from(slot.outcome.is_some());
                std::mem::replace(&mut slot.mark, at)
            }
            None => {
                let MarkItem::Hold(hold) = mark else { return None };
                let was =
                    Hold::from(std::mem::replace(&mut entry.hold, hold.into())).is_operators();
                self.held = self.held + u64::from(hold.is_operators()) - u64::from(was);
                self.holds.insert(id, at).unwrap_or_default()
            }
        };
        self.segments.release(before.segment, MARK_OCTETS);
        self.segments.keep(at.segment, MARK_OCTETS);
        let ends = entry.pending() == 0;
        if ends {
            self.finish(id, at.segment);
        }
        Some(Applied { home, ends })
    }

    /// The entry ended, as a record in segment `at` says. Gives the segment where it was.
    pub(super) fn finish(&mut self, id: EntryId, at: u32) -> Option<u32> {
        let home = self.remove(id)?.home.segment;
        self.segments.ended(at, home);
        Some(home)
    }

    /// An entry was copied to `home` when it was as `snapshot`; marks since then still count.
    pub(super) fn rehome(
        &mut self,
        id: EntryId,
        snapshot: &Entry,
        home: Location,
        parts: &[Part],
    ) -> bool {
        let Some(entry) = self.entries.get(&id).filter(|entry| entry.home == snapshot.home) else {
            return false;
        };
        let (old, mut moved) = (entry.clone(), entry.clone());
        moved.home = home;
        let old_parts = self.parts.remove(&id).unwrap_or_default();
        self.release_record(&old, &old_parts);
        self.segments.replaced(old.home.segment, home.segment);
        for (slot, then) in moved.slots_mut().iter_mut().zip(snapshot.slots()) {
            if slot.mark == then.mark {
                self.segments.release(slot.mark.segment, MARK_OCTETS);
                slot.mark = Location::NONE;
            }
        }
        self.keep_record(&moved, parts);
        if moved.large {
            self.parts.insert(id, parts.into());
        }
        self.entries.insert(id, moved);
        true
    }

    /// The newest hold of an entry is in its record since it was copied there.
    pub(super) fn hold_folded(&mut self, id: EntryId, then: Option<Location>) {
        if then.is_some() && self.holds.get(&id).copied() == then {
            self.holds.remove(&id);
            self.segments.release(then.unwrap_or_default().segment, MARK_OCTETS);
        }
    }

    /// The record of a mark is at `to` as well, and `from` will go.
    pub(super) fn move_mark(
        &mut self,
        id: EntryId,
        mark: MarkItem,
        from: Location,
        to: Location,
    ) -> bool {
        let place = match recipient(mark) {
            Some(recipient) => self
                .entries
                .get_mut(&id)
                .and_then(|entry| entry.slot_mut(recipient))
                .map(|slot| &mut slot.mark),
            None => self.holds.get_mut(&id),
        };
        let Some(place) = place.filter(|place| **place == from) else { return false };
        *place = to;
        self.segments.release(from.segment, MARK_OCTETS);
        self.segments.keep(to.segment, MARK_OCTETS);
        true
    }

    /// Whether the record of a mark at `at` is what says where a recipient stands.
    pub(super) fn needs_mark(&self, id: EntryId, mark: MarkItem, at: Location) -> bool {
        match recipient(mark).map(usize::try_from) {
            Some(Ok(index)) => {
                let slot = self.entries.get(&id).and_then(|entry| entry.slots().get(index));
                slot.is_some_and(|slot| slot.mark == at)
            }
            Some(Err(_)) => false,
            None => self.hold_of(id) == Some(at),
        }
    }

    /// Messages, recipients, octets; the rest is known elsewhere.
    pub(super) fn stats(&self) -> Stats {
        Stats {
            messages: self.entries.len() as u64,
            recipients: self.pending_recipients,
            held: self.held,
            octets: self.octets,
            oldest_us: self.entries.first_key_value().map(|(id, _)| id.micros()),
            segments: self.segments.len() as u64,
            segment_octets: self.segments.iter().map(|(_, s)| u64::from(s.end)).sum(),
            quarantined: 0,
        }
    }

    fn remove(&mut self, id: EntryId) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        self.octets -= entry.octets();
        self.pending_recipients -= entry.pending();
        self.held -= u64::from(entry.hold().is_operators());
        let parts = if entry.large { self.parts.remove(&id) } else { None };
        self.release_record(&entry, &parts.unwrap_or_default());
        for slot in entry.slots() {
            self.segments.release(slot.mark.segment, MARK_OCTETS);
        }
        if let Some(hold) = self.holds.remove(&id) {
            self.segments.release(hold.segment, MARK_OCTETS);
        }
        Some(entry)
    }

    fn keep_record(&mut self, entry: &Entry, parts: &[Part]) {
        self.segments.keep(entry.home.segment, record_octets(entry));
        for part in parts {
            self.segments.keep(part.segment, u64::from(part.octets));
        }
    }

    fn release_record(&mut self, entry: &Entry, parts: &[Part]) {
        self.segments.release(entry.home.segment, record_octets(entry));
        for part in parts {
            self.segments.release(part.segment, u64::from(part.octets));
        }
    }
}

/// What the entry's own record is counted with; chunks are counted where they are.
fn record_octets(entry: &Entry) -> u64 {
    ENTRY_OCTETS + entry.inline_octets()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::segments::Segment;

    fn id(micros: u64) -> EntryId {
        EntryId::new(micros, 1).unwrap()
    }

    fn at(segment: u32, offset: u32) -> Location {
        Location { segment, offset }
    }

    fn index() -> Index {
        let mut index = Index::default();
        for number in 1..=3 {
            index.segments.insert(number, Segment::default());
        }
        index
    }

    fn live(index: &Index) -> Vec<u64> {
        index.segments.iter().map(|(_, segment)| segment.live).collect()
    }

    const FAILED: MarkItem = MarkItem::Final { recipient: 0, outcome: Outcome::Failed };
    const LATER: MarkItem =
        MarkItem::Deferred { recipient: 0, attempts: 2, due_us: 7_900_000, warned: false };

    #[test]
    fn an_entry_with_one_recipient_is_small() {
        assert!(size_of::<EntryId>() + size_of::<Entry>() <= 56);
    }

    #[test]
    fn the_newest_mark_is_needed_and_the_one_before_is_not() {
        let mut index = index();
        index.insert(id(1), Entry::new(at(1, 4096), 100, 1), &[]);
        let entry = ENTRY_OCTETS + 100;
        assert_eq!(live(&index), [entry, 0, 0]);
        index.apply(id(1), LATER, at(2, 1)).unwrap();
        assert_eq!(live(&index), [entry, MARK_OCTETS, 0]);
        index.apply(id(1), LATER, at(3, 1)).unwrap();
        assert_eq!(live(&index), [entry, 0, MARK_OCTETS]);
        let slot = index.get(id(1)).unwrap().slots()[0];
        assert_eq!((slot.due_us(), slot.attempts()), (7_000_000, 2));
        let applied = index.apply(id(1), FAILED, at(3, 2));
        assert_eq!(applied, Some(Applied { home: 1, ends: true }));
        assert_eq!(live(&index), [0, 0, 0]);
        assert_eq!(index.apply(id(1), FAILED, at(3, 3)), None);
        assert_eq!(index.stats().messages, 0);
    }

    #[test]
    fn the_first_outcome_of_a_recipient_stands() {
        let mut index = index();
        index.insert(id(1), Entry::new(at(1, 4096), 100, 2), &[]);
        assert_eq!(index.apply(id(1), FAILED, at(1, 2)).map(|applied| applied.ends), Some(false));
        assert_eq!(index.apply(id(1), LATER, at(1, 3)), None);
        assert_eq!(index.stats().recipients, 1);
        let unknown = MarkItem::Final { recipient: 2, outcome: Outcome::Failed };
        assert_eq!(index.apply(id(1), unknown, at(1, 3)), None);
    }

    #[test]
    fn a_moved_entry_keeps_the_marks_that_came_meanwhile() {
        let mut index = index();
        let part = |segment| Part { segment, offset: 1, octets: 1000 };
        index.insert(id(1), Entry::new(at(1, 4096), 2000, 2), &[part(1), part(2)]);
        index.apply(id(1), LATER, at(1, 9)).unwrap();
        let snapshot = index.get(id(1)).unwrap().clone();
        let second = MarkItem::Deferred { recipient: 1, attempts: 1, due_us: 0, warned: true };
        index.apply(id(1), second, at(3, 9)).unwrap();
        assert!(index.rehome(id(1), &snapshot, at(3, 1), &[part(3), part(2)]));
        assert_eq!(live(&index), [0, 1000, ENTRY_OCTETS + 1000 + MARK_OCTETS]);
        let marks: Vec<Location> =
            index.get(id(1)).unwrap().slots().iter().map(|slot| slot.mark).collect();
        assert_eq!(marks, [Location::NONE, at(3, 9)]);
        assert!(!index.rehome(id(1), &snapshot, at(3, 2), &[]));
    }

    #[test]
    fn holds_are_counted_once() {
        let mut index = index();
        index.insert(id(1), Entry::new(at(1, 4096), 5, 1), &[]);
        let (on, off) = (Hold::Operator, Hold::No);
        let handed = Hold::Handed { to: 2, held: false };
        for (hold, count) in [(on, 1), (on, 1), (off, 0), (on, 1), (handed, 0)] {
            index.apply(id(1), MarkItem::Hold(hold), at(2, 1)).unwrap();
            assert_eq!(index.stats().held, count);
            assert_eq!(live(&index)[1], MARK_OCTETS);
        }
        index.finish(id(1), 3);
        assert_eq!((index.stats().held, live(&index)), (0, vec![0, 0, 0]));
    }
}
