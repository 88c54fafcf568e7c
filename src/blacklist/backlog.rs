//! Events that wait for their outcome, in memory as they are on disk.

use std::collections::{HashMap, VecDeque};

use super::record::Event;
use crate::telemetry::metrics::METRICS;

/// A batch has at most so many events,
const BATCH_EVENTS_MAX: usize = 1000;
/// and so many octets: with the frame around it, it fits a log entry of 64 KiB.
const BATCH_OCTETS_MAX: usize = 44 << 10;

/// Events in order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    waiting: VecDeque<(u64, Event)>,
    /// How many rejections wait for each address: a message that is taken must clear them too.
    rejected: HashMap<String, u32>,
    /// The first so many belong to the batch that is on its way, and stay.
    in_flight: usize,
}

impl Backlog {
    /// Add the newest; when there are more than `most`, the oldest goes, and its number is given.
    pub(super) fn push(&mut self, number: u64, event: Event, most: usize) -> Option<u64> {
        if event.is_rejection() {
            *self.rejected.entry(event.address.clone()).or_default() += 1;
        }
        self.waiting.push_back((number, event));
        let full = self.waiting.len() > most.max(1) && self.waiting.len() > self.in_flight;
        let dropped = if full { self.waiting.remove(self.in_flight) } else { None };
        self.measure();
        let (number, event) = dropped?;
        self.forget(&event);
        METRICS.blacklist_events_dropped_total.inc();
        Some(number)
    }

    /// Whether a rejection of this address waits.
    pub(super) fn has_rejection(&self, address: &str) -> bool {
        self.rejected.contains_key(address)
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The number of the oldest event that waits.
    pub(super) fn first(&self) -> Option<u64> {
        self.waiting.front().map(|(number, _)| *number)
    }

    /// The events of the next batch, which stay until [`Self::decided`]: up to `last`, if that is
    /// given, or as many as fit.
    pub(super) fn take(&mut self, last: Option<u64>) -> Vec<(u64, Event)> {
        let mut octets = 0;
        let fits = |(number, event): &&(u64, Event)| match last {
            Some(last) => *number <= last,
            None => {
                octets += event.octets();
                octets <= BATCH_OCTETS_MAX
            }
        };
        let most = if last.is_some() { usize::MAX } else { BATCH_EVENTS_MAX };
        let taken: Vec<_> = self.waiting.iter().take(most).take_while(fits).cloned().collect();
        self.in_flight = taken.len();
        taken
    }

    /// Everything up to `number` has its outcome.
    pub(super) fn decided(&mut self, number: u64) {
        while let Some((_, event)) = self.waiting.pop_front_if(|(first, _)| *first <= number) {
            self.forget(&event);
        }
        self.in_flight = 0;
        self.measure();
    }

    fn forget(&mut self, event: &Event) {
        if !event.is_rejection() {
            return;
        }
        if let Some(count) = self.rejected.get_mut(&event.address) {
            *count -= 1;
            if *count == 0 {
                self.rejected.remove(&event.address);
            }
        }
    }

    fn measure(&self) {
        let waiting = i64::try_from(self.waiting.len()).unwrap_or(i64::MAX);
        METRICS.blacklist_events_waiting.set(waiting);
    }
}
