//! What is under the lock: the schedule, the texts of fresh messages, and who is idle.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Unread;
use super::attempt::Loaded;
use crate::bounce::budget::Budget;
use crate::schedule::{Next, Permit, Recipients, Schedule, Start, Ticket};
use crate::smtp::About;
use crate::spool::{EntryId, Hold, Queued};

/// A job for a connection.
pub(super) struct Work {
    pub(super) ticket: Ticket<EntryId>,
    /// The message, when it is in memory.
    pub(super) message: Option<Arc<Loaded>>,
    /// When it was given to this connection.
    pub(super) taken: Instant,
    /// The spool has it, but it could not be read.
    pub(super) unreadable: bool,
}

/// What a connection does next.
pub(super) enum After {
    /// Carry this.
    Carry(Work),
    /// Wait for something to carry.
    Wait(Waiting),
    /// End.
    Close,
}

/// A connection that waits for work.
struct Idle {
    number: u64,
    give: oneshot::Sender<Work>,
}

/// The place of a connection among the idle ones.
pub(super) struct Waiting {
    number: u64,
    pub(super) work: oneshot::Receiver<Work>,
}

struct Fresh {
    message: Arc<Loaded>,
    /// Jobs that have not been taken yet.
    jobs: u32,
}

/// A text that has not been asked for by then is not fresh any more. Its destination is slow or
/// fails, and memory is for those that are quick.
const FRESH_FOR: Duration = Duration::from_secs(5);

pub(super) struct Core {
    pub(super) schedule: Schedule<EntryId>,
    /// Connections may be opened and used.
    pub(super) running: bool,
    /// Entries that could not be read at start.
    pub(super) unread: Unread,
    fresh: HashMap<EntryId, Fresh>,
    /// Ids of fresh messages, by arrival; most of them have been delivered since.
    fresh_since: VecDeque<(Instant, EntryId)>,
    idle: HashMap<u32, Vec<Idle>>,
    idle_number: u64,
    /// Of messages that may be in the queue: what is written because of them already.
    pub(super) told: HashMap<EntryId, Vec<About>>,
    /// What each domain has got of reports.
    pub(super) budget: Budget,
    /// When the main loop will wake up by itself.
    armed: Option<Instant>,
}

impl Core {
    pub(super) fn new(schedule: Schedule<EntryId>) -> Self {
        Self {
            schedule,
            running: false,
            unread: Unread::new(),
            fresh: HashMap::new(),
            fresh_since: VecDeque::new(),
            idle: HashMap::new(),
            idle_number: 0,
            told: HashMap::new(),
            budget: Budget::default(),
            armed: None,
        }
    }

    /// Keep the text of a message until each of its `jobs` has been taken once; not for a
    /// destination that fails, because memory for texts is scarce.
    pub(super) fn keep_fresh(
        &mut self,
        queued: Queued,
        jobs: u32,
        destinations: &[(Cow<'_, str>, Recipients)],
        now: Instant,
    ) {
        let Queued { id, octets, envelope, text: Some(text), states, hold: Hold::No } = queued
        else {
            return;
        };
        let failing =
            |(name, _): &(Cow<'_, str>, Recipients)| self.schedule.error_of(name).is_some();
        if jobs > 0 && !destinations.iter().all(failing) {
            let message = Arc::new(Loaded::in_memory(envelope, states, octets, text));
            self.fresh.insert(id, Fresh { message, jobs });
            self.fresh_since.push_back((now, id));
        }
    }

    /// Forget texts that nobody has asked for in time.
    pub(super) fn forget_stale(&mut self, now: Instant) {
        while let Some((since, id)) = self.fresh_since.front().copied() {
            if now.saturating_duration_since(since) < FRESH_FOR {
                break;
            }
            self.fresh_since.pop_front();
            self.fresh.remove(&id);
        }
        self.fresh_since.shrink_to(2 * self.fresh_since.len());
    }

    /// Something that is in the queue was written because of this message.
    pub(super) fn note_told(&mut self, id: EntryId, about: &About) {
        let told = self.told.entry(id).or_default();
        if !told.contains(about) {
            told.push(about.clone());
        }
    }

    /// The message is not fresh any more.
    pub(super) fn forget_fresh(&mut self, id: EntryId) {
        self.fresh.remove(&id);
    }

    pub(super) fn work(&mut self, ticket: Ticket<EntryId>, now: Instant) -> Work {
        let message = match self.fresh.get_mut(&ticket.id) {
            Some(fresh) if fresh.jobs > 1 => {
                fresh.jobs -= 1;
                Some(Arc::clone(&fresh.message))
            }
            Some(_) => self.fresh.remove(&ticket.id).map(|fresh| fresh.message),
            None => None,
        };
        Work { ticket, message, taken: now, unreadable: false }
    }

    /// No attempt was made: another connection will do it. A text that was in memory stays there.
    pub(super) fn give_back(&mut self, work: Work, message: Option<Arc<Loaded>>, now: Instant) {
        let id = work.ticket.id;
        if let Some(message) = message.or(work.message).filter(|message| message.is_in_memory()) {
            let fresh = self.fresh.entry(id).or_insert(Fresh { message, jobs: 0 });
            fresh.jobs += 1;
            self.fresh_since.push_back((now, id));
        }
        self.schedule.give_back(work.ticket, now);
    }

    /// Give work to idle connections, and say which connections are to be opened.
    pub(super) fn starts(&mut self, now: Instant) -> Vec<(Permit, Work)> {
        let mut opened = Vec::new();
        if !self.running {
            return opened;
        }
        while let Some(start) = self.schedule.next(now) {
            match start {
                Start::Open(permit, ticket) => opened.push((permit, self.work(ticket, now))),
                Start::Resume(destination, ticket) => {
                    let work = self.work(ticket, now);
                    let idle = self.idle.get_mut(&destination).and_then(Vec::pop);
                    // The one that waited longest may be closed by its server soonest, hence the
                    // last comes first.
                    let refused = match idle {
                        Some(idle) => idle.give.send(work).err(),
                        None => Some(work),
                    };
                    if let Some(work) = refused {
                        self.give_back(work, None, now);
                    }
                }
            }
        }
        if self.schedule.is_short_of_connections() {
            self.dismiss_one();
        }
        opened
    }

    /// What a connection does after a message; `carried` is how many it has carried, if it can
    /// carry more.
    pub(super) fn after(&mut self, permit: &Permit, carried: Option<u32>, now: Instant) -> After {
        let Some(carried) = carried.filter(|_| self.running) else { return After::Close };
        match self.schedule.take(permit, carried, now) {
            Next::Deliver(ticket) => After::Carry(self.work(ticket, now)),
            Next::Idle => After::Wait(self.wait(permit.destination())),
            Next::Close => After::Close,
        }
    }

    /// Stand among the idle connections; the schedule has been told.
    fn wait(&mut self, destination: u32) -> Waiting {
        let (give, work) = oneshot::channel();
        self.idle_number += 1;
        let number = self.idle_number;
        self.idle.entry(destination).or_default().push(Idle { number, give });
        Waiting { number, work }
    }

    /// Leave the idle ones; `false` if it was given work, or dismissed, a moment ago.
    pub(super) fn leave(&mut self, destination: u32, waiting: &Waiting) -> bool {
        let Some(idle) = self.idle.get_mut(&destination) else { return false };
        let Some(at) = idle.iter().position(|idle| idle.number == waiting.number) else {
            return false;
        };
        idle.remove(at);
        if idle.is_empty() {
            self.idle.remove(&destination);
        }
        self.schedule.stop_idling(destination);
        true
    }

    /// Dismiss every idle connection.
    pub(super) fn dismiss_all(&mut self) -> usize {
        let mut dismissed = 0;
        while self.dismiss_one() {
            dismissed += 1;
        }
        dismissed
    }

    /// Let one idle connection close, for others that wait for one.
    fn dismiss_one(&mut self) -> bool {
        let Some(destination) = self.idle.keys().next().copied() else { return false };
        let idle = self.idle.get_mut(&destination).and_then(Vec::pop);
        if self.idle.get(&destination).is_some_and(Vec::is_empty) {
            self.idle.remove(&destination);
        }
        if idle.is_some() {
            self.schedule.stop_idling(destination);
        }
        true
    }

    /// When the main loop must wake up.
    pub(super) fn arm(&mut self) -> Option<Instant> {
        self.armed = self.schedule.next_wake();
        self.armed
    }

    /// Whether the main loop would wake up too late.
    pub(super) fn must_arm(&self) -> bool {
        match (self.schedule.next_wake(), self.armed) {
            (Some(wake), Some(armed)) => wake < armed,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }
}
