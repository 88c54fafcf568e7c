//! Stage 5, pure: what is due. Queues per destination, pacing, dead destinations.
//!
//! A *job* is one message at one destination (a recipient domain). The worker adds jobs, asks
//! [`Schedule::next`] what to start, and tells how it ended. The schedule does no I/O and has no
//! clock: each call that needs the time is given it.
//!
//! **Invariant:** a job is in exactly one lane (fresh, backlog, waiting, held or running), and a
//! [`Ticket`] exists for each running one and for no other.
//!
//! **Invariant:** no destination waits for another, except for its turn when all connections that
//! a node may have are taken; then each gets a fair share.

mod destination;
mod heap;
mod index;
mod job;
mod operate;
mod pace;
pub mod retry;
mod summary;
mod sweep;
mod terms;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use destination::Destination;
use index::Index;
use job::{Lane, Slab};
use pace::{Pace, PaceBounds, Trouble};

pub use job::Recipients;
pub use operate::Removal;
pub use summary::{Census, DestinationSummary, FailingSummary, JobState, JobSummary};
pub use sweep::Swept;
pub use terms::{Arrival, Bounds, Due, Id, Next, Permit, Start, Ticket};

/// Messages a connection may carry while others wait for a connection of their own.
const SHARED_MESSAGES_MAX: u32 = 20;

/// All that is queued, by destination.
#[derive(Debug)]
pub struct Schedule<I> {
    epoch: Instant,
    seed: u64,
    pace: PaceBounds,
    connections_max: usize,
    connections: usize,
    /// Destinations with a connection.
    connected: usize,
    dead: usize,
    serial: u64,
    slab: Slab<I>,
    index: Index,
    destinations: Vec<Option<Destination>>,
    vacant: Vec<u32>,
    by_name: HashMap<Arc<str>, u32>,
    /// Those with something due that may open a connection, in order of asking.
    line: VecDeque<u32>,
    /// Those with something due and an idle connection.
    resumable: VecDeque<u32>,
    alarms: BinaryHeap<Reverse<(u64, u32)>>,
    /// Where the search for expired jobs goes on.
    expiry_cursor: usize,
    /// The slot where [`Schedule::sweep`] goes on.
    sweep_cursor: u32,
}

impl<I: Id> Schedule<I> {
    /// An empty schedule. `epoch` is any time before all others; `seed` sets the jitter.
    pub fn new(bounds: &Bounds, epoch: Instant, seed: u64) -> Self {
        Self {
            epoch,
            seed,
            pace: PaceBounds {
                window_start: bounds.window_start,
                probe_pause_min: bounds.probe_pause_min,
                probe_pause_max: bounds.probe_pause_max,
            },
            connections_max: bounds.connections_max.max(1),
            connections: 0,
            connected: 0,
            dead: 0,
            serial: 0,
            slab: Slab::new(),
            index: Index::new(),
            destinations: Vec::new(),
            vacant: Vec::new(),
            by_name: HashMap::new(),
            line: VecDeque::new(),
            resumable: VecDeque::new(),
            alarms: BinaryHeap::new(),
            expiry_cursor: 0,
            sweep_cursor: 0,
        }
    }

    /// Add a job; `false` if this message is queued for this destination already.
    pub fn add(&mut self, arrival: Arrival<'_, I>, now: Instant) -> bool {
        let Arrival { id, domain, recipients, due, connections_max } = arrival;
        let now_ms = self.floor_ms(now);
        let number = self.intern(domain, connections_max);
        if self.index.find(&self.slab, id, number).is_some() {
            return false;
        }
        let Some(destination) = self.destinations[number as usize].as_mut() else { return false };
        destination.recipients += recipients.as_slice().len() as u64;
        let well = destination.pace.failing().is_none();
        let due_ms = match due {
            Due::At(at) => ceil_ms(at.saturating_duration_since(self.epoch)),
            Due::Fresh | Due::Held => now_ms,
        };
        let lane = match due {
            Due::Held => Lane::Held,
            Due::Fresh if well => Lane::Fresh,
            _ if due_ms > now_ms => Lane::Waiting,
            _ => Lane::Backlog,
        };
        let slot = self.slab.insert(id, number, recipients, due_ms);
        self.index.insert(&self.slab, slot);
        destination.enter(&mut self.slab, slot, lane);
        self.look(number, now_ms);
        true
    }

    /// The next thing to start, if there is one. Call it until there is none after each change.
    pub fn next(&mut self, now: Instant) -> Option<Start<I>> {
        let now_ms = self.floor_ms(now);
        self.ring(now_ms);
        while let Some(number) = self.resumable.pop_front() {
            let Some(destination) = self.destinations[number as usize].as_mut() else { continue };
            destination.to_resume = false;
            if destination.pace.idle == 0 {
                continue;
            }
            if let Some(ticket) = self.start(number, now_ms, now_ms) {
                self.stop_idling(number);
                self.look(number, now_ms);
                return Some(Start::Resume(number, ticket));
            }
        }
        while self.connections < self.connections_max {
            let number = self.line.pop_front()?;
            let Some(destination) = self.destinations[number as usize].as_mut() else { continue };
            destination.in_line = false;
            if !destination.pace.may_open(now_ms) {
                continue;
            }
            let due_by_ms = destination.due_by_ms(now_ms);
            if let Some(ticket) = self.start(number, due_by_ms, now_ms) {
                let permit = self.open(number)?;
                self.look(number, now_ms);
                return Some(Start::Open(permit, ticket));
            }
        }
        None
    }

    /// What an open connection does next, after `carried` messages.
    pub fn take(&mut self, permit: &Permit, carried: u32, now: Instant) -> Next<I> {
        let now_ms = self.floor_ms(now);
        let number = permit.destination;
        let share = self.share();
        let scarce = self.connections >= self.connections_max;
        let Some(destination) = self.destinations[number as usize].as_mut() else {
            return Next::Close;
        };
        let pace = &destination.pace;
        let others_wait = scarce && self.line.len() > usize::from(destination.in_line);
        let has_its_share = pace.connections as usize > share || carried >= SHARED_MESSAGES_MAX;
        if pace.connections > pace.window() || (others_wait && has_its_share) {
            return Next::Close;
        }
        if let Some(ticket) = self.start(number, now_ms, now_ms) {
            return Next::Deliver(ticket);
        }
        if others_wait {
            return Next::Close;
        }
        if let Some(destination) = self.destinations[number as usize].as_mut() {
            destination.pace.idle += 1;
        }
        Next::Idle
    }

    /// A connection that was idle is so no more: it closes, or it was given a job.
    pub fn stop_idling(&mut self, destination: u32) {
        if let Some(destination) = self.destinations[destination as usize].as_mut() {
            destination.pace.idle = destination.pace.idle.saturating_sub(1);
        }
    }

    /// Whether a destination waits for a connection and none may be opened: idle ones should go.
    pub fn is_short_of_connections(&self) -> bool {
        self.connections >= self.connections_max && !self.line.is_empty()
    }

    /// A job is done; or these recipients of it are left, due at that time.
    pub fn finish(&mut self, ticket: Ticket<I>, left: Option<(Recipients, Instant)>, now: Instant) {
        let now_ms = self.floor_ms(now);
        let Ticket { slot, recipients, .. } = ticket;
        let number = self.slab[slot].destination;
        let Some(destination) = self.destinations[number as usize].as_mut() else { return };
        let hold = self.slab[slot].place.lane() == Lane::RunningToHold;
        destination.leave(&mut self.slab, slot);
        destination.recipients -= recipients.as_slice().len() as u64;
        if let Some((recipients, due)) = left {
            let due_ms = ceil_ms(due.saturating_duration_since(self.epoch));
            destination.recipients += recipients.as_slice().len() as u64;
            self.slab.set_recipients(slot, recipients);
            self.slab[slot].due_ms = due_ms;
            let lane = if hold { Lane::Held } else { Lane::Waiting };
            destination.enter(&mut self.slab, slot, lane);
        } else {
            self.index.remove(&self.slab, slot);
            self.slab.remove(slot);
        }
        self.look(number, now_ms);
    }

    /// No attempt was made: the job goes back as it was, and is due.
    #[expect(clippy::needless_pass_by_value, reason = "the ticket is given up")]
    pub fn give_back(&mut self, ticket: Ticket<I>, now: Instant) {
        let now_ms = self.floor_ms(now);
        let slot = ticket.slot;
        let number = self.slab[slot].destination;
        let Some(destination) = self.destinations[number as usize].as_mut() else { return };
        let hold = self.slab[slot].place.lane() == Lane::RunningToHold;
        destination.leave(&mut self.slab, slot);
        let lane = if hold { Lane::Held } else { Lane::Backlog };
        destination.enter(&mut self.slab, slot, lane);
        self.look(number, now_ms);
    }

    /// An attempt ended, and whatever the answer was, the destination works. If it failed before,
    /// all that waits for it is due now.
    pub fn works(&mut self, permit: &Permit, now: Instant) {
        let now_ms = self.floor_ms(now);
        let Some(destination) = self.destinations[permit.destination as usize].as_mut() else {
            return;
        };
        let was_dead = destination.pace.is_dead();
        destination.put_off_since_ms = None;
        if destination.pace.success(&self.pace) {
            self.dead -= usize::from(was_dead);
            destination.wake_all(&mut self.slab, now_ms);
        }
        self.look(permit.destination, now_ms);
    }

    /// The server answered, and put off all it was asked for without a word about any of it.
    pub fn puts_off(&mut self, permit: &Permit, now: Instant) {
        let now_ms = self.floor_ms(now);
        if let Some(destination) = self.destinations[permit.destination as usize].as_mut() {
            destination.put_off_since_ms.get_or_insert(now_ms);
        }
    }

    /// The connection could not be made, or broke, or the server refuses to work.
    pub fn fails(&mut self, permit: &Permit, error: &str, now: Instant) {
        let now_ms = self.floor_ms(now);
        let entropy = self.seed ^ self.serial.rotate_left(32) ^ u64::from(permit.destination);
        let Some(destination) = self.destinations[permit.destination as usize].as_mut() else {
            return;
        };
        let was_dead = destination.pace.is_dead();
        let trouble = Trouble { bounds: &self.pace, error, now_ms, entropy };
        destination.put_off_since_ms = None;
        destination.pace.trouble(permit.serial, self.serial, &trouble);
        self.dead += usize::from(destination.pace.is_dead() && !was_dead);
        self.look(permit.destination, now_ms);
    }

    /// A connection is gone.
    #[expect(clippy::needless_pass_by_value, reason = "the permit is given up")]
    pub fn closed(&mut self, permit: Permit, now: Instant) {
        let now_ms = self.floor_ms(now);
        let number = permit.destination;
        let Some(destination) = self.destinations[number as usize].as_mut() else { return };
        destination.pace.close(permit.serial, now_ms);
        self.connections -= 1;
        self.connected -= usize::from(destination.pace.connections == 0);
        self.look(number, now_ms);
    }

    /// When [`Schedule::next`] may have something to start, if nothing else happens before.
    pub fn next_wake(&self) -> Option<Instant> {
        self.alarms.peek().map(|Reverse((at_ms, _))| self.instant(*at_ms))
    }

    /// Take out jobs that have waited too long, looking at no more than `budget` destinations
    /// or jobs; the next call goes on from there.
    pub fn expired(
        &mut self,
        is_expired: impl Fn(I) -> bool,
        budget: usize,
    ) -> Vec<(Arc<str>, Ticket<I>)> {
        let mut found = Vec::new();
        let mut left = self.destinations.len();
        for _ in 0..budget {
            if left == 0 {
                break;
            }
            if self.expiry_cursor >= self.destinations.len() {
                self.expiry_cursor = 0;
            }
            let number = self.expiry_cursor;
            let oldest = self.destinations[number].as_mut().and_then(|destination| {
                let slot = destination.oldest_to_expire(&self.slab)?;
                is_expired(self.slab[slot].id).then_some((destination, slot))
            });
            if let Some((destination, slot)) = oldest {
                destination.leave(&mut self.slab, slot);
                destination.enter(&mut self.slab, slot, Lane::Running);
                let name = Arc::clone(&destination.name);
                found.push((name, self.ticket(slot)));
            } else {
                self.expiry_cursor += 1;
                left -= 1;
            }
        }
        // One with more of them than that does not keep the others from their turn.
        self.expiry_cursor += usize::from(found.len() == budget);
        found
    }

    /// Move the job that is next at a destination to a worker.
    fn start(&mut self, number: u32, due_by_ms: u64, now_ms: u64) -> Option<Ticket<I>> {
        let destination = self.destinations[number as usize].as_mut()?;
        let slot = destination.choose(&self.slab, due_by_ms)?;
        destination.started_ms = now_ms;
        destination.leave(&mut self.slab, slot);
        destination.enter(&mut self.slab, slot, Lane::Running);
        Some(self.ticket(slot))
    }

    fn ticket(&self, slot: u32) -> Ticket<I> {
        let job = &self.slab[slot];
        let due = self.instant(job.due_ms);
        Ticket { slot, id: job.id, recipients: self.slab.recipients(slot), due }
    }

    fn open(&mut self, number: u32) -> Option<Permit> {
        let destination = self.destinations[number as usize].as_mut()?;
        self.serial += 1;
        self.connections += 1;
        self.connected += usize::from(destination.pace.connections == 0);
        destination.pace.open(self.serial);
        let domain = Arc::clone(&destination.name);
        Some(Permit { destination: number, serial: self.serial, domain })
    }

    /// Connections for each destination when all are in use.
    fn share(&self) -> usize {
        let takers = (self.connected + self.line.len()).max(1);
        (self.connections_max / takers).max(1)
    }

    /// See to it that a destination that can be served stands in line, that one that must wait
    /// has an alarm, and that one with nothing left is forgotten.
    fn look(&mut self, number: u32, now_ms: u64) {
        let Some(destination) = self.destinations[number as usize].as_mut() else { return };
        if destination.is_empty() {
            self.forget(number);
            return;
        }
        let idle = destination.pace.idle > 0 && !destination.to_resume;
        if idle && destination.has_due(&self.slab, now_ms) {
            destination.to_resume = true;
            self.resumable.push_back(number);
        }
        let due_by_ms = destination.due_by_ms(now_ms);
        let may_open = destination.pace.may_open(now_ms) && !destination.in_line;
        if may_open && destination.has_due(&self.slab, due_by_ms) {
            destination.in_line = true;
            self.line.push_back(number);
        }
        if let Some(at_ms) = destination.next_look_ms(&self.slab)
            && at_ms > now_ms
            && at_ms < destination.alarm_ms
        {
            destination.alarm_ms = at_ms;
            self.alarms.push(Reverse((at_ms, number)));
        }
    }

    /// Look at the destinations whose time has come.
    fn ring(&mut self, now_ms: u64) {
        while let Some(Reverse((at_ms, number))) = self.alarms.peek().copied() {
            if at_ms > now_ms {
                break;
            }
            self.alarms.pop();
            // An alarm that was set before an earlier one, or for a destination that is
            // forgotten, means nothing.
            let destination = self.destinations[number as usize].as_mut();
            if let Some(destination) = destination.filter(|d| d.alarm_ms == at_ms) {
                destination.alarm_ms = u64::MAX;
                self.look(number, now_ms);
            }
        }
    }

    fn intern(&mut self, domain: &str, connections_max: u32) -> u32 {
        if let Some(number) = self.by_name.get(domain) {
            return *number;
        }
        let name: Arc<str> = domain.into();
        let pace = Pace::new(&self.pace, connections_max);
        let destination = Some(Destination::new(Arc::clone(&name), pace));
        let number = match self.vacant.pop() {
            Some(number) => {
                self.destinations[number as usize] = destination;
                number
            }
            None => {
                #[expect(clippy::expect_used, reason = "2^32 destinations take a terabyte")]
                let number = u32::try_from(self.destinations.len()).expect("fewer than 2^32");
                self.destinations.push(destination);
                number
            }
        };
        self.by_name.insert(name, number);
        number
    }

    fn forget(&mut self, number: u32) {
        if let Some(destination) = self.destinations[number as usize].take() {
            self.dead -= usize::from(destination.pace.is_dead());
            self.by_name.remove(&destination.name);
            if destination.in_line {
                self.line.retain(|other| *other != number);
            }
            if destination.to_resume {
                self.resumable.retain(|other| *other != number);
            }
            self.vacant.push(number);
        }
    }

    /// Memory that jobs take, without what vectors have reserved and never touched.
    #[cfg(test)]
    fn octets(&self) -> usize {
        let heaps: usize = self.destinations.iter().flatten().map(Destination::octets).sum();
        self.slab.octets() + self.index.octets() + heaps
    }

    fn floor_ms(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.epoch);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn instant(&self, at_ms: u64) -> Instant {
        self.epoch.checked_add(Duration::from_millis(at_ms)).unwrap_or(self.epoch)
    }
}

/// Rounded up, so that nothing is due too early.
fn ceil_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}
