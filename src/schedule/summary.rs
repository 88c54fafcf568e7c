//! What an operator may see of the schedule.

use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::job::Lane;
use super::{Id, Schedule};

/// One destination at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationSummary<I> {
    /// The domain.
    pub domain: Arc<str>,
    /// Messages queued for it, those held and running included.
    pub messages: usize,
    /// Their recipients at this domain.
    pub recipients: u64,
    /// Messages that are due.
    pub due: usize,
    /// Messages that an operator set aside.
    pub held: u32,
    /// Messages being delivered.
    pub running: u32,
    /// The oldest message that is neither held nor running.
    pub oldest: Option<I>,
    /// When the first of those that wait is due.
    pub next_due: Option<Instant>,
    /// Connections now.
    pub connections: u32,
    /// Connections it may have.
    pub window: u32,
    /// Since when nothing has moved although its server answers; it may be to come.
    pub stuck_since: Option<Instant>,
    /// What is known of a destination that fails.
    pub failing: Option<FailingSummary>,
}

/// All destinations in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// Destinations that have jobs or connections.
    pub all: usize,
    /// Of these, those that failed lately.
    pub throttled: usize,
    /// Of those, the ones that do not answer.
    pub dead: usize,
    /// Those whose server answers and whose jobs do not move.
    pub stalled: usize,
}

/// A destination that fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailingSummary {
    /// Since when.
    pub since: Instant,
    /// Several probes failed.
    pub dead: bool,
    /// When it is probed next.
    pub next_probe: Instant,
    /// What went wrong last.
    pub error: String,
}

/// What a job waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// A connection.
    Due,
    /// This time.
    Waiting(Instant),
    /// An operator.
    Held,
    /// Its delivery to end.
    Running,
}

/// One job at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSummary<I> {
    /// The message.
    pub id: I,
    /// The destination.
    pub domain: Arc<str>,
    /// What it waits for.
    pub state: JobState,
}

impl<I: Id> Schedule<I> {
    /// Jobs in all.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Destinations that are dead: several probes have failed.
    pub fn dead(&self) -> usize {
        self.dead
    }

    /// Destinations known, as an upper bound.
    pub fn destinations(&self) -> usize {
        self.destinations.len()
    }

    /// Connections in all.
    pub fn connections(&self) -> usize {
        self.connections
    }

    /// What is wrong with a destination that fails.
    pub fn error_of(&self, domain: &str) -> Option<&str> {
        let number = *self.by_name.get(domain)?;
        let destination = self.destinations.get(number as usize)?.as_ref()?;
        destination.pace.failing().map(|failing| failing.error.as_str())
    }

    /// Every destination, in no order.
    pub fn summary(&self) -> impl Iterator<Item = DestinationSummary<I>> + '_ {
        self.destinations.iter().flatten().map(|destination| {
            let pace = &destination.pace;
            DestinationSummary {
                domain: Arc::clone(&destination.name),
                messages: destination.queued()
                    + destination.held as usize
                    + destination.running as usize,
                recipients: destination.recipients,
                due: destination.due(),
                held: destination.held,
                running: destination.running,
                oldest: destination.oldest().map(|slot| self.slab[slot].id),
                next_due: destination.next_due_ms(&self.slab).map(|ms| self.instant(ms)),
                connections: pace.connections,
                window: pace.window(),
                stuck_since: destination.stuck_since_ms(&self.slab).map(|ms| self.instant(ms)),
                failing: pace.failing().map(|failing| FailingSummary {
                    since: self.instant(failing.since_ms),
                    dead: failing.is_dead(),
                    next_probe: self.instant(failing.probe_ms),
                    error: failing.error.clone(),
                }),
            }
        })
    }

    /// Count the destinations; those that are stuck for `stalled_after` have stalled.
    pub fn census(&self, now: Instant, stalled_after: Duration) -> Census {
        let now_ms = self.floor_ms(now);
        let after_ms = super::ceil_ms(stalled_after);
        let mut census = Census { dead: self.dead, ..Census::default() };
        for destination in self.destinations.iter().flatten() {
            census.all += 1;
            census.throttled += usize::from(destination.pace.failing().is_some());
            let stuck_since_ms = destination.stuck_since_ms(&self.slab);
            let is_stalled = |since_ms: u64| now_ms.saturating_sub(since_ms) >= after_ms;
            census.stalled += usize::from(stuck_since_ms.is_some_and(is_stalled));
        }
        census
    }

    /// The first `limit` jobs after the message `after`, in order of id; of one domain or of all.
    pub fn jobs(&self, domain: Option<&str>, after: Option<I>, limit: usize) -> Vec<JobSummary<I>> {
        let number = match domain {
            Some(domain) => match self.by_name.get(domain) {
                Some(number) => Some(*number),
                None => return Vec::new(),
            },
            None => None,
        };
        // The `limit` least of all, without sorting a million.
        let mut least: BinaryHeap<(I, u32)> = BinaryHeap::new();
        for (slot, job) in self.slab.iter() {
            let wanted = number.is_none_or(|number| job.destination == number)
                && after.is_none_or(|after| job.id > after);
            if wanted && (least.len() < limit || least.peek().is_some_and(|top| job.id < top.0)) {
                least.push((job.id, slot));
                if least.len() > limit {
                    least.pop();
                }
            }
        }
        let found = least.into_sorted_vec();
        found.into_iter().filter_map(|(_, slot)| self.job_summary(slot)).collect()
    }

    /// What the job of this message at this domain waits for.
    pub fn state(&self, id: I, domain: &str) -> Option<JobState> {
        let number = self.by_name.get(domain)?;
        let slot = self.index.find(&self.slab, id, *number)?;
        self.job_summary(slot).map(|summary| summary.state)
    }

    fn job_summary(&self, slot: u32) -> Option<JobSummary<I>> {
        let job = &self.slab[slot];
        let domain = Arc::clone(&self.destinations[job.destination as usize].as_ref()?.name);
        let state = match job.place.lane() {
            Lane::Fresh | Lane::Backlog => JobState::Due,
            Lane::Waiting => JobState::Waiting(self.instant(job.due_ms)),
            Lane::Held => JobState::Held,
            Lane::Running | Lane::RunningToHold | Lane::Vacant => JobState::Running,
        };
        Some(JobSummary { id: job.id, domain, state })
    }
}
