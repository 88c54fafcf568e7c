//! Requests on their way to the writer thread.
//!
//! At low load a request wakes the writer at once. Under load many commits should share one sync,
//! so the writer lingers a moment, but only while commits come in fast and messages that are not
//! here yet are on their way; see [`Queue::take`].

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::draft::Ticket;
use super::error::SpoolError;
use super::format::{Kind, Location};
use super::index::Entry;
use super::record::{Forgotten, Part};
use super::state::Mark;
use super::{EntryId, Hold};

/// Lingering ends with so many commits,
const COMMITS_ENOUGH: usize = 32;
/// or when none came for so long,
const GAP: Duration = Duration::from_millis(1);
/// and after this in any case.
const LINGER_MAX: Duration = Duration::from_millis(5);
/// Commits that follow each other faster than this, on average, are worth lingering for.
const FAST: Duration = Duration::from_millis(1);
/// With so many commits a round there are many clients, and while none of them has a message on
/// its way, one that is about to begin is waited for
const MANY: usize = 4;
/// for so long.
const GRACE: Duration = Duration::from_micros(400);

/// What the writer is asked to append.
pub(super) enum Request {
    /// A piece of a large message.
    Chunk {
        id: EntryId,
        text: Vec<u8>,
        answer: oneshot::Sender<Result<(), SpoolError>>,
        room: Room,
    },
    /// A message, or the end of a large one that has `chunks` chunks.
    Commit(Box<Commit>),
    /// A draft with chunks was given up.
    GiveUp(EntryId),
    /// What happened to an entry.
    Note { id: EntryId, note: Note },
    /// Something that compaction copies.
    Copy(Box<Copy>),
    /// Answer when all before is on stable storage.
    Flush(oneshot::Sender<Result<(), SpoolError>>),
    /// Flush, then end the thread.
    Close(oneshot::Sender<Result<(), SpoolError>>),
}

/// Octets of the queue's bound, given back when dropped.
pub(super) type Room = Option<OwnedSemaphorePermit>;

/// A message to be committed.
pub(super) struct Commit {
    pub(super) id: EntryId,
    pub(super) envelope: Vec<u8>,
    pub(super) recipients: usize,
    /// The whole text; empty for a large message.
    pub(super) text: Bytes,
    pub(super) text_crc: u32,
    pub(super) chunks: usize,
    /// What became of recipients before, at another node.
    pub(super) marks: Vec<Mark>,
    pub(super) hold: Hold,
    pub(super) answer: oneshot::Sender<Result<Ticket, SpoolError>>,
    pub(super) room: Room,
}

/// A small record that must be written some time and needs no sync of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Note {
    Mark(Mark),
    Forget(Forgotten),
}

/// A record that compaction writes again.
pub(super) struct Copy {
    pub(super) what: CopyOf,
    /// Told whether it is on stable storage.
    pub(super) answer: mpsc::Sender<bool>,
}

/// See [`Copy`].
pub(super) enum CopyOf {
    /// An entry as it was in `snapshot`, with its marks folded in. Those of its `parts` that are
    /// in segment `from` have been sent before, as chunks under the same id.
    Entry {
        id: EntryId,
        snapshot: Entry,
        hold: Option<Location>,
        marks: Vec<Mark>,
        envelope: Vec<u8>,
        text: Vec<u8>,
        parts: Vec<Part>,
        from: u32,
    },
    /// A mark of an entry that is still there.
    Mark { id: EntryId, mark: Mark, from: Location },
    /// What ended an entry whose record still exists in segment `home`.
    Ending { kind: Kind, id: EntryId, meta: Vec<u8>, home: u32 },
}

/// The queue.
pub(super) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    /// Messages begun and not yet committed or given up.
    drafts: AtomicUsize,
    room: Arc<Semaphore>,
    /// Permits there are in all: a larger request waits for all of them, not for ever.
    room_max: u32,
}

#[derive(Default)]
struct State {
    requests: Vec<Request>,
    commits: usize,
    /// The writer sleeps until there are so many commits; 0 is when it is awake.
    wake_at: usize,
    closed: bool,
}

impl Queue {
    /// A queue that holds texts of `octets_max` in all.
    pub(super) fn new(octets_max: usize) -> Self {
        let all = kib(octets_max).clamp(1, Semaphore::MAX_PERMITS);
        let room_max = u32::try_from(all).unwrap_or(u32::MAX);
        Self {
            state: Mutex::default(),
            wake: Condvar::new(),
            drafts: AtomicUsize::new(0),
            room: Arc::new(Semaphore::new(room_max as usize)),
            room_max,
        }
    }

    /// Wait for room for a text of `octets`.
    pub(super) async fn room(&self, octets: usize) -> Result<Room, SpoolError> {
        let permits = u32::try_from(kib(octets)).unwrap_or(u32::MAX).min(self.room_max);
        let room = Arc::clone(&self.room).acquire_many_owned(permits).await;
        room.map(Some).map_err(|_| SpoolError::Closed)
    }

    /// Hand a request to the writer. After the end of the writer it is dropped, and so answered.
    pub(super) fn push(&self, request: Request) {
        let commit = matches!(request, Request::Commit(_));
        let urgent = matches!(request, Request::Flush(_) | Request::Close(_));
        let mut state = self.lock();
        if state.closed {
            return;
        }
        state.requests.push(request);
        state.commits += usize::from(commit);
        // One commit or any other request ends a plain sleep; only commits end a lingering one.
        let wake = match state.wake_at {
            0 => false,
            1 => true,
            enough => urgent || state.commits >= enough,
        };
        if wake {
            state.wake_at = 0;
            drop(state);
            self.wake.notify_one();
        }
    }

    pub(super) fn draft_begun(&self) {
        self.drafts.fetch_add(1, Ordering::Relaxed);
    }

    /// Messages begun and not yet committed or given up.
    pub(super) fn drafts(&self) -> usize {
        self.drafts.load(Ordering::Relaxed)
    }

    pub(super) fn draft_ended(&self) {
        self.drafts.fetch_sub(1, Ordering::Relaxed);
    }

    /// All requests, when there are any, or nothing at `deadline`. Swaps with `taken`, so that the
    /// memory is used again.
    pub(super) fn take(
        &self,
        taken: &mut Vec<Request>,
        pace: &mut Pace,
        deadline: Option<Instant>,
    ) {
        taken.clear();
        let mut state = self.lock();
        while state.requests.is_empty() {
            let now = Instant::now();
            let left = deadline.map(|deadline| deadline.saturating_duration_since(now));
            if left.is_some_and(|left| left.is_zero()) {
                return;
            }
            state = self.sleep(state, 1, left);
        }
        if state.commits > 0 && pace.is_fast() {
            state = self.linger(state, pace.is_crowded());
        }
        pace.note(state.commits, Instant::now());
        state.commits = 0;
        std::mem::swap(&mut state.requests, taken);
    }

    /// Wait for the commits that are to be expected soon.
    fn linger<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        crowded: bool,
    ) -> MutexGuard<'a, State> {
        let start = Instant::now();
        loop {
            let before = state.commits;
            // A draft counts until its commit is answered, so these are all that have begun.
            let begun = self.drafts.load(Ordering::Relaxed);
            let all_here = before >= begun;
            if before >= COMMITS_ENOUGH || (all_here && !crowded) || start.elapsed() >= LINGER_MAX {
                return state;
            }
            let (enough, pause) =
                if all_here { (before + 1, GRACE) } else { (begun.min(COMMITS_ENOUGH), GAP) };
            state = self.sleep(state, enough.max(2), Some(pause));
            if state.commits == before
                && (!all_here || self.drafts.load(Ordering::Relaxed) <= begun)
            {
                return state;
            }
        }
    }

    fn sleep<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        wake_at: usize,
        timeout: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        state.wake_at = wake_at;
        let mut state = match timeout {
            Some(timeout) => {
                let woken = self.wake.wait_timeout(state, timeout);
                woken.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
        };
        state.wake_at = 0;
        state
    }

    /// Take no more requests, and drop those that wait.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let dropped = std::mem::take(&mut state.requests);
        drop(state);
        drop(dropped);
        self.room.close();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kib(octets: usize) -> usize {
    octets.div_ceil(1024)
}

/// How fast commits come.
#[derive(Debug)]
pub(super) struct Pace {
    last: Option<Instant>,
    /// Running average of the time between commits; slow until proven otherwise.
    between: Duration,
    /// Running average of the commits in a round, in sixteenths.
    round: usize,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { last: None, between: Duration::from_secs(1), round: 0 }
    }

    fn is_fast(&self) -> bool {
        self.between < FAST
    }

    fn is_crowded(&self) -> bool {
        self.round >= MANY * 16
    }

    fn note(&mut self, commits: usize, now: Instant) {
        if commits > 0 {
            self.round = self.round - self.round / 16 + commits;
        }
        let Some(commits) = u32::try_from(commits).ok().filter(|commits| *commits > 0) else {
            return;
        };
        if let Some(last) = self.last.replace(now) {
            // A pause counts for little more than slow, so that a burst after it is fast soon.
            let between = (now - last).min(Duration::from_millis(20)) / commits;
            let weight = commits.min(8);
            self.between = (self.between.min(Duration::from_millis(20)) * (16 - weight)
                + between * weight)
                / 16;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(between: Duration, commits: usize, rounds: u32) -> Pace {
        let mut pace = Pace::new();
        let start = Instant::now();
        for round in 0..rounds {
            pace.note(commits, start + between * round);
        }
        pace
    }

    #[test]
    fn lingering_is_for_commits_that_follow_each_other_fast() {
        assert!(!pace(Duration::from_millis(10), 1, 1000).is_fast());
        assert!(!pace(Duration::from_millis(1), 1, 1000).is_fast());
        assert!(pace(Duration::from_micros(150), 1, 100).is_fast());
        assert!(pace(Duration::from_millis(2), 20, 100).is_fast());
        assert!(!Pace::new().is_fast());
    }

    #[test]
    fn a_pause_makes_it_slow_and_a_burst_fast_again() {
        let mut pace = pace(Duration::from_micros(150), 1, 100);
        let mut now = Instant::now() + Duration::from_secs(60);
        pace.note(1, now);
        assert!(!pace.is_fast());
        for _ in 0..40 {
            now += Duration::from_micros(150);
            pace.note(1, now);
        }
        assert!(pace.is_fast());
    }

    #[tokio::test]
    async fn a_text_larger_than_the_room_waits_for_all_of_it_and_not_for_ever() {
        let queue = Queue::new(64 * 1024);
        let all = queue.room(1024 * 1024).await.unwrap();
        assert_eq!(queue.room.available_permits(), 0);
        drop(all);
        assert_eq!(queue.room.available_permits(), 64);
    }
}
