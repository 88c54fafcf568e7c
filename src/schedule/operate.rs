//! What an operator may do to what is queued.

use std::time::Instant;

use super::job::{Lane, Place, Recipients};
use super::{Id, Schedule};

/// What became of a removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// It was queued, and is no more: whoever removed it answers for these recipients.
    Removed(Recipients),
    /// It is being delivered at this moment; nothing was changed.
    Running,
    /// There is no such job.
    Absent,
}

impl<I: Id> Schedule<I> {
    /// All that waits for `domain` is due now, and if the domain fails it is probed now. How many
    /// jobs that are, and how many stay held.
    pub fn retry_domain(&mut self, domain: &str, now: Instant) -> (usize, usize) {
        let now_ms = self.floor_ms(now);
        let Some(number) = self.by_name.get(domain).copied() else { return (0, 0) };
        let Some(destination) = self.destinations[number as usize].as_mut() else { return (0, 0) };
        destination.wake_all(&mut self.slab, now_ms);
        destination.pace.probe_now(now_ms);
        let counts = (destination.queued(), destination.held as usize);
        self.look(number, now_ms);
        counts
    }

    /// Everything is due now, but for what is held; how many jobs are the one and the other.
    pub fn retry_all(&mut self, now: Instant) -> (usize, usize) {
        let names: Vec<_> = self.by_name.keys().cloned().collect();
        names
            .iter()
            .map(|name| self.retry_domain(name, now))
            .fold((0, 0), |all, counts| (all.0 + counts.0, all.1 + counts.1))
    }

    /// One job is due now; `false` if there is none, or it is held.
    pub fn retry(&mut self, id: I, domain: &str, now: Instant) -> bool {
        let now_ms = self.floor_ms(now);
        let Some(slot) = self.find(id, domain) else { return false };
        let number = self.slab[slot].destination;
        let Some(destination) = self.destinations[number as usize].as_mut() else { return false };
        match self.slab[slot].place.lane() {
            Lane::Held | Lane::RunningToHold => return false,
            Lane::Waiting => {
                destination.leave(&mut self.slab, slot);
                self.slab[slot].due_ms = now_ms;
                destination.enter(&mut self.slab, slot, Lane::Backlog);
            }
            _ => {}
        }
        destination.pace.probe_now(now_ms);
        self.look(number, now_ms);
        true
    }

    /// Set a job aside until it is released; one that is running, when it comes back. `false` if
    /// there is none, or it is held already.
    pub fn hold(&mut self, id: I, domain: &str) -> bool {
        let Some(slot) = self.find(id, domain) else { return false };
        let number = self.slab[slot].destination;
        let Some(destination) = self.destinations[number as usize].as_mut() else { return false };
        match self.slab[slot].place.lane() {
            Lane::Running => self.slab[slot].place = Place::new(Lane::RunningToHold, 0),
            Lane::RunningToHold | Lane::Held => return false,
            _ => {
                destination.leave(&mut self.slab, slot);
                destination.enter(&mut self.slab, slot, Lane::Held);
            }
        }
        true
    }

    /// A held job is due now; `false` if there is none, or it is not held.
    pub fn release(&mut self, id: I, domain: &str, now: Instant) -> bool {
        let now_ms = self.floor_ms(now);
        let Some(slot) = self.find(id, domain) else { return false };
        let number = self.slab[slot].destination;
        let Some(destination) = self.destinations[number as usize].as_mut() else { return false };
        match self.slab[slot].place.lane() {
            Lane::Held => {
                destination.leave(&mut self.slab, slot);
                self.slab[slot].due_ms = now_ms;
                destination.enter(&mut self.slab, slot, Lane::Backlog);
            }
            Lane::RunningToHold => self.slab[slot].place = Place::new(Lane::Running, 0),
            _ => return false,
        }
        self.look(number, now_ms);
        true
    }

    /// Take a job out, unless it is running.
    pub fn remove(&mut self, id: I, domain: &str, now: Instant) -> Removal {
        let Some(slot) = self.find(id, domain) else { return Removal::Absent };
        let number = self.slab[slot].destination;
        let Some(destination) = self.destinations[number as usize].as_mut() else {
            return Removal::Absent;
        };
        if matches!(self.slab[slot].place.lane(), Lane::Running | Lane::RunningToHold) {
            return Removal::Running;
        }
        let recipients = self.slab.recipients(slot);
        destination.leave(&mut self.slab, slot);
        destination.recipients -= self.slab.recipient_count(slot);
        self.index.remove(&self.slab, slot);
        self.slab.remove(slot);
        self.look(number, self.floor_ms(now));
        Removal::Removed(recipients)
    }

    /// New limits of connections for all destinations.
    pub fn set_limits(&mut self, limit: impl Fn(&str) -> u32, now: Instant) {
        let now_ms = self.floor_ms(now);
        for number in 0..self.destinations.len() {
            if let Some(destination) = self.destinations[number].as_mut() {
                destination.pace.set_limit(limit(&destination.name));
                #[expect(clippy::cast_possible_truncation, reason = "numbers are u32")]
                self.look(number as u32, now_ms);
            }
        }
    }

    fn find(&self, id: I, domain: &str) -> Option<u32> {
        let number = self.by_name.get(domain)?;
        self.index.find(&self.slab, id, *number)
    }
}
