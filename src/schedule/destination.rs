//! The queues of one destination, and which of them is served next.

use std::hash::Hash;
use std::sync::Arc;

use super::heap::{Heap, Order};
use super::job::{Lane, Slab};
use super::pace::Pace;

/// Who is served in turn when all lanes have something due: fresh mail goes first, and no lane
/// waits for more than three others.
const TURNS: [Lane; 4] = [Lane::Fresh, Lane::Waiting, Lane::Fresh, Lane::Backlog];

/// One message that is put off again and again may be the cause itself; so many are not.
const PUT_OFF_LEAST: usize = 3;

/// One destination: a recipient domain.
#[derive(Debug)]
pub(super) struct Destination {
    pub(super) name: Arc<str>,
    fresh: Heap,
    backlog: Heap,
    waiting: Heap,
    age: Heap,
    turn: usize,
    pub(super) held: u32,
    pub(super) running: u32,
    pub(super) recipients: u64,
    pub(super) pace: Pace,
    /// When a job of it was last started.
    pub(super) started_ms: u64,
    /// Since when its server answers and takes nothing, whatever it is offered.
    pub(super) put_off_since_ms: Option<u64>,
    /// The earliest time it has asked to be looked at.
    pub(super) alarm_ms: u64,
    /// It stands in the queue for a new connection.
    pub(super) in_line: bool,
    /// It stands in the queue of those with an idle connection and something due.
    pub(super) to_resume: bool,
}

impl Destination {
    pub(super) fn new(name: Arc<str>, pace: Pace) -> Self {
        Self {
            name,
            fresh: Heap::new(Order::Lane(Lane::Fresh)),
            backlog: Heap::new(Order::Lane(Lane::Backlog)),
            waiting: Heap::new(Order::Lane(Lane::Waiting)),
            age: Heap::new(Order::Age),
            turn: 0,
            held: 0,
            running: 0,
            recipients: 0,
            pace,
            started_ms: 0,
            put_off_since_ms: None,
            alarm_ms: u64::MAX,
            in_line: false,
            to_resume: false,
        }
    }

    /// Put a job that is in no lane into `lane`.
    pub(super) fn enter<K: Copy + Ord + Hash>(
        &mut self,
        slab: &mut Slab<K>,
        slot: u32,
        lane: Lane,
    ) {
        match lane {
            Lane::Held => self.held += 1,
            Lane::Running | Lane::RunningToHold => self.running += 1,
            Lane::Vacant => {}
            Lane::Fresh | Lane::Backlog | Lane::Waiting => {
                self.lane(lane).push(slab, slot);
                self.age.push(slab, slot);
                return; // the heap has noted the place
            }
        }
        slab[slot].place = super::job::Place::new(lane, 0);
    }

    /// Take a job out of the lane it is in.
    pub(super) fn leave<K: Copy + Ord + Hash>(&mut self, slab: &mut Slab<K>, slot: u32) {
        match slab[slot].place.lane() {
            Lane::Held => self.held -= 1,
            Lane::Running | Lane::RunningToHold => self.running -= 1,
            Lane::Vacant => {}
            lane => {
                self.lane(lane).remove(slab, slot);
                self.age.remove(slab, slot);
            }
        }
    }

    /// Choose the next job that is due, and take the turn. The job stays where it is.
    pub(super) fn choose<K>(&mut self, slab: &Slab<K>, due_by_ms: u64) -> Option<u32> {
        for step in 0..TURNS.len() {
            let turn = (self.turn + step) % TURNS.len();
            if let Some(slot) = self.head(slab, TURNS[turn], due_by_ms) {
                self.turn = (turn + 1) % TURNS.len();
                return Some(slot);
            }
        }
        None
    }

    pub(super) fn has_due<K>(&self, slab: &Slab<K>, due_by_ms: u64) -> bool {
        !self.fresh.is_empty()
            || !self.backlog.is_empty()
            || self.head(slab, Lane::Waiting, due_by_ms).is_some()
    }

    /// What a new connection may carry must be due by then: while the destination fails, a job
    /// may be tried before its time, because the probe must carry something.
    pub(super) fn due_by_ms(&self, now_ms: u64) -> u64 {
        if self.pace.failing().is_some() { u64::MAX } else { now_ms }
    }

    /// When to look at it again, if nothing else happens before; `None` when there is no need.
    pub(super) fn next_look_ms<K>(&self, slab: &Slab<K>) -> Option<u64> {
        if self.queued() == 0 {
            return None;
        }
        if let Some(failing) = self.pace.failing() {
            return (!failing.is_being_probed()).then_some(failing.probe_ms);
        }
        self.waiting.peek().map(|slot| slab[slot].due_ms)
    }

    /// The job at the head of a lane, if it is due.
    fn head<K>(&self, slab: &Slab<K>, lane: Lane, due_by_ms: u64) -> Option<u32> {
        match lane {
            Lane::Fresh => self.fresh.peek(),
            Lane::Backlog => self.backlog.peek(),
            _ => self.waiting.peek().filter(|slot| slab[*slot].due_ms <= due_by_ms),
        }
    }

    /// Everything that waits is due now.
    pub(super) fn wake_all<K: Copy + Ord + Hash>(&mut self, slab: &mut Slab<K>, now_ms: u64) {
        let mut waiting = Heap::new(Order::Lane(Lane::Waiting));
        std::mem::swap(&mut waiting, &mut self.waiting);
        for slot in waiting.iter() {
            slab[slot].due_ms = slab[slot].due_ms.min(now_ms);
            self.backlog.push(slab, slot);
        }
    }

    /// The oldest job that may expire: anything that waits, and while the destination fails
    /// anything at all. What is due at a working destination gets its attempt first.
    pub(super) fn oldest_to_expire<K>(&self, slab: &Slab<K>) -> Option<u32> {
        let slot = self.age.peek()?;
        let waits = slab[slot].place.lane() == Lane::Waiting;
        (waits || self.pace.failing().is_some()).then_some(slot)
    }

    /// The oldest job that is neither held nor running.
    pub(super) fn oldest(&self) -> Option<u32> {
        self.age.peek()
    }

    /// Jobs that are neither held nor running.
    pub(super) fn queued(&self) -> usize {
        self.age.len()
    }

    /// Jobs that are due whenever the destination can take them.
    pub(super) fn due(&self) -> usize {
        self.fresh.len() + self.backlog.len()
    }

    /// When the first of those that wait is due.
    pub(super) fn next_due_ms<K>(&self, slab: &Slab<K>) -> Option<u64> {
        self.waiting.peek().map(|slot| slab[slot].due_ms)
    }

    /// Since when nothing has moved although its server answers: jobs that are due and not
    /// started, or all put off. In the future while the first is not due yet.
    pub(super) fn stuck_since_ms<K>(&self, slab: &Slab<K>) -> Option<u64> {
        if self.pace.failing().is_some() {
            return None;
        }
        let heads = [&self.fresh, &self.backlog, &self.waiting];
        let due_ms = heads.into_iter().filter_map(Heap::peek).map(|slot| slab[slot].due_ms).min();
        let not_started = due_ms.map(|due_ms| due_ms.max(self.started_ms));
        let is_no_single_message = self.waiting.len() >= PUT_OFF_LEAST;
        let put_off = self.put_off_since_ms.filter(|_| is_no_single_message);
        not_started.into_iter().chain(put_off).min()
    }

    /// Nothing would be forgotten with it.
    pub(super) fn is_empty(&self) -> bool {
        self.queued() == 0 && self.held == 0 && self.running == 0 && self.pace.connections == 0
    }

    #[cfg(test)]
    pub(super) fn octets(&self) -> usize {
        let slots = self.fresh.len() + self.backlog.len() + self.waiting.len() + self.age.len();
        slots * size_of::<u32>()
    }

    fn lane(&mut self, lane: Lane) -> &mut Heap {
        match lane {
            Lane::Fresh => &mut self.fresh,
            Lane::Waiting => &mut self.waiting,
            _ => &mut self.backlog,
        }
    }
}
