//! The newest entries, in memory. What is appended is soon sent to other nodes and applied: it need
//! not be read back and decoded for each of them.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use openraft::EntryPayload;

use crate::raft::Entry;

const ENTRIES_MAX: usize = 4096;
const OCTETS_MAX: usize = 8 << 20;

/// The end of the log: entries without gaps, as the disk has them.
#[derive(Debug, Default)]
pub(super) struct Newest {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    entries: VecDeque<Entry>,
    octets: usize,
}

/// What an entry takes. One that is no batch is small.
fn octets(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(batch) => batch.octets(),
        _ => 0,
    }
}

impl Kept {
    fn first(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.log_id.index)
    }

    fn last(&self) -> Option<u64> {
        self.entries.back().map(|entry| entry.log_id.index)
    }

    fn drop_first(&mut self) {
        self.octets -= self.entries.pop_front().as_ref().map_or(0, octets);
    }
}

impl Newest {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These were appended.
    pub(super) fn append(&self, entries: Vec<Entry>) {
        let mut kept = self.kept();
        for entry in entries {
            if kept.last().is_some_and(|last| last + 1 != entry.log_id.index) {
                *kept = Kept::default();
            }
            kept.octets += octets(&entry);
            kept.entries.push_back(entry);
        }
        while kept.octets > OCTETS_MAX || kept.entries.len() > ENTRIES_MAX {
            kept.drop_first();
        }
    }

    /// The entry `from` and all after it are about to go.
    pub(super) fn truncate(&self, from: u64) {
        let mut kept = self.kept();
        while kept.last().is_some_and(|last| last >= from) {
            kept.octets -= kept.entries.pop_back().as_ref().map_or(0, octets);
        }
    }

    /// Entries up to `upto` are not read any more.
    pub(super) fn forget(&self, upto: u64) {
        let mut kept = self.kept();
        while kept.first().is_some_and(|first| first <= upto) {
            kept.drop_first();
        }
    }

    /// Entries `from..to`, as many as fit in `octets_max` but at least one; `None` when the first
    /// of them is not here.
    pub(super) fn read(&self, from: u64, to: u64, octets_max: usize) -> Option<Vec<Entry>> {
        let kept = self.kept();
        let skipped = usize::try_from(from.checked_sub(kept.first()?)?).ok()?;
        let mut room = Some(octets_max);
        let mut found: Vec<Entry> = Vec::new();
        for entry in kept.entries.iter().skip(skipped) {
            room = room.and_then(|room| room.checked_sub(octets(entry)));
            if entry.log_id.index >= to || (room.is_none() && !found.is_empty()) {
                break;
            }
            found.push(entry.clone());
        }
        (!found.is_empty()).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use openraft::testing::{blank_ent, log_id};

    use super::*;
    use crate::raft::Batch;
    use crate::state::{Command, Request};

    fn batch(index: u64, octets: usize) -> Entry {
        let request = Request::new(1, "x".repeat(octets), 0, Command::Tick);
        let payload = EntryPayload::Normal(Batch::new(&[request]).unwrap());
        Entry { log_id: log_id(1, 1, index), payload }
    }

    fn indexes(newest: &Newest, from: u64, to: u64, octets_max: usize) -> Vec<u64> {
        let found = newest.read(from, to, octets_max).unwrap_or_default();
        found.iter().map(|entry| entry.log_id.index).collect()
    }

    #[test]
    fn it_gives_what_it_has_from_the_first_on_and_no_more_than_fits() {
        let newest = Newest::default();
        newest.append((5..9).map(|index| batch(index, 1000)).collect());
        assert!(newest.read(4, 9, usize::MAX).is_none());
        assert!(newest.read(9, 10, usize::MAX).is_none());
        assert_eq!(indexes(&newest, 6, 8, usize::MAX), [6, 7]);
        assert_eq!(indexes(&newest, 5, u64::MAX, 2500), [5, 6]);
        assert_eq!(indexes(&newest, 5, u64::MAX, 0), [5]);
    }

    #[test]
    fn what_is_truncated_purged_or_too_much_is_gone() {
        let newest = Newest::default();
        newest.append((5..9).map(|index| batch(index, 10)).collect());
        newest.truncate(8);
        newest.forget(5);
        assert_eq!(indexes(&newest, 6, 100, usize::MAX), [6, 7]);
        newest.append(vec![blank_ent(1, 1, 20)]);
        assert!(newest.read(6, 7, usize::MAX).is_none(), "after a gap it begins anew");
        assert_eq!(indexes(&newest, 20, 21, usize::MAX), [20]);
        newest.append((21..1500).map(|index| batch(index, 7000)).collect());
        assert!(newest.kept().octets <= OCTETS_MAX);
        newest.append((1500..10_000).map(|index| blank_ent(1, 1, index)).collect());
        assert_eq!(newest.kept().entries.len(), ENTRIES_MAX);
        newest.truncate(0);
        assert_eq!(newest.kept().octets, 0);
    }
}
