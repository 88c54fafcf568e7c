//! Handing out what was recovered, one entry at a time, without keeping envelopes in memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::EntryId;
use super::error::ReadError;
use super::format::Location;
use super::index::Slot;
use super::item::{Item, What};
use super::message;
use super::recover::{RecoveryReport, stored_sidecar};
use super::shared::Shared;
use super::sidecar::Sidecar;
use super::state::{RecoveredDestination, RecoveredEntry};

/// Iterator over the entries that were found at start, oldest segment first. Drop it when done:
/// compaction waits for that.
///
/// An `Err` is an entry that could not be read: it is still in the spool (unless it was set aside
/// in the quarantine), and [`super::Spool::load`] may succeed later.
pub struct Recovered {
    shared: Arc<Shared>,
    report: RecoveryReport,
    segments: VecDeque<u32>,
    current: Option<(Sidecar, usize)>,
    /// Entries of a segment whose sidecar is missing.
    one_by_one: VecDeque<EntryId>,
}

impl Recovered {
    pub(super) fn new(shared: &Arc<Shared>, report: RecoveryReport) -> Self {
        let segments = shared.index().segments.iter().map(|(number, _)| number).collect();
        Self {
            shared: Arc::clone(shared),
            report,
            segments,
            current: None,
            one_by_one: VecDeque::new(),
        }
    }

    /// What was found on the disk.
    pub fn report(&self) -> RecoveryReport {
        self.report
    }

    /// Go on to the next segment. False after the last one.
    fn next_segment(&mut self) -> bool {
        let Some(number) = self.segments.pop_front() else { return false };
        let salt = self.shared.index().segments.get(number).map(|segment| segment.salt);
        // Without a salt it was removed meanwhile, since all in it had ended.
        let Some(salt) = salt else { return true };
        match stored_sidecar(self.shared.fs.as_ref(), &self.shared.dir, number, salt) {
            Some(sidecar) => self.current = Some((sidecar, 0)),
            None => self.one_by_one = self.shared.index().ids_in(number).into(),
        }
        true
    }

    /// The entry of an item, if that is its true place and it has not ended.
    fn entry(&self, segment: u32, item: Item) -> Option<RecoveredEntry> {
        let What::Entry(found) = item.what else { return None };
        let index = self.shared.index();
        let home = Location { segment, offset: item.at };
        let entry = index.get(item.id).filter(|entry| entry.home == home)?;
        Some(RecoveredEntry {
            id: item.id,
            hold: entry.hold(),
            about: found.about,
            destinations: destinations(found.destinations, entry.slots()),
        })
    }

    fn load(&self, id: EntryId) -> Option<Result<RecoveredEntry, ReadError>> {
        let message = match message::load(&self.shared, id) {
            Ok(message) => message?,
            Err(error) => return Some(Err(error)),
        };
        let slots = self.shared.index().get(id)?.slots().to_vec();
        let by_destination = super::item::by_destination(&message.envelope);
        Some(Ok(RecoveredEntry {
            id,
            hold: message.hold,
            about: message.envelope.about.clone(),
            destinations: destinations(by_destination, &slots),
        }))
    }
}

impl Iterator for Recovered {
    type Item = Result<RecoveredEntry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(id) = self.one_by_one.pop_front() {
                match self.load(id) {
                    Some(entry) => return Some(entry),
                    None => continue,
                }
            }
            let item = self.current.as_mut().and_then(|(sidecar, position)| {
                sidecar.item_at(position).map(|item| (sidecar.segment, item))
            });
            match item {
                Some((segment, item)) => {
                    if let Some(entry) = self.entry(segment, item) {
                        return Some(Ok(entry));
                    }
                }
                None => {
                    self.current = None;
                    if !self.next_segment() {
                        return None;
                    }
                }
            }
        }
    }
}

impl Drop for Recovered {
    fn drop(&mut self) {
        self.shared.handing_out.store(false, Ordering::Release);
        self.shared.upkeep.ring();
    }
}

/// The recipients that are still to be delivered, by destination.
fn destinations(
    by_destination: Vec<(String, Vec<u32>)>,
    slots: &[Slot],
) -> Vec<RecoveredDestination> {
    let slot = |index: &u32| usize::try_from(*index).ok().and_then(|index| slots.get(index));
    let pending = |index: &u32| slot(index).is_some_and(|slot| slot.outcome.is_none());
    let mut destinations = Vec::with_capacity(by_destination.len());
    for (domain, mut recipients) in by_destination {
        recipients.retain(pending);
        let due = recipients.iter().filter_map(slot).map(|slot| slot.due_us());
        let Some(due_us) = due.min() else { continue };
        destinations.push(RecoveredDestination { domain, recipients, due_us });
    }
    destinations
}
