//! Glue from openraft's state machine to [`State`]: apply, publish, snapshot.
//!
//! After each batch of entries the new state is published as the view everybody reads. Snapshots
//! are built from such a view, so applying goes on meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::codec;
use crate::gauges::{Event, Observer};
use crate::raft::{
    Entry, LogId, Membership, Replies, SnapshotMeta, StorageError, StorageIOError, Types,
};
use crate::snapshot::{SnapshotDir, SnapshotFile};
use crate::state::State;

/// What readers see: shared by the machine and every handle on the cluster.
#[derive(Debug)]
pub(crate) struct View {
    state: ArcSwap<State>,
    applied: watch::Sender<u64>,
    /// Wakes who waits for an index, in the order they came (a watch wakes them in any order).
    moved: Notify,
    /// Octets of entries applied since the last snapshot.
    unsaved_octets: AtomicU64,
    /// Octets of the last snapshot.
    saved_octets: AtomicU64,
    saved: Mutex<Instant>,
    /// When a leader of the fleet last wrote to this node.
    heard: Mutex<Option<Instant>>,
    /// Why this node cannot apply what the fleet decided, and what to do.
    halted: OnceLock<String>,
}

impl View {
    pub(crate) fn new(state: State) -> Self {
        let (applied, _) = watch::channel(state.applied_index());
        Self {
            state: ArcSwap::from_pointee(state),
            applied,
            moved: Notify::new(),
            unsaved_octets: AtomicU64::new(0),
            saved_octets: AtomicU64::new(0),
            saved: Mutex::new(Instant::now()),
            heard: Mutex::default(),
            halted: OnceLock::new(),
        }
    }

    pub(crate) fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    pub(crate) fn publish(&self, state: State) {
        let index = state.applied_index();
        self.state.store(Arc::new(state));
        self.applied.send_replace(index);
        self.moved.notify_waiters();
    }

    /// Wait until the entry at `index` is applied.
    pub(crate) async fn reached(&self, index: u64) {
        loop {
            let moved = self.moved.notified(); // from here on nothing is missed
            if *self.applied.borrow() >= index {
                return;
            }
            moved.await;
        }
    }

    /// A snapshot is begun.
    pub(crate) fn saving(&self) {
        *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How long ago the last snapshot was begun here.
    pub(crate) fn since_saved(&self) -> Duration {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// A leader of the fleet has written to this node.
    pub(crate) fn hears_leader(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// How long ago a leader of the fleet last wrote to this node.
    pub(crate) fn since_heard(&self) -> Option<Duration> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).map(|heard| heard.elapsed())
    }

    /// Why applying has ended, if it was for something an operator can mend.
    pub(crate) fn halted(&self) -> Option<String> {
        self.halted.get().cloned()
    }

    /// Applying ends: a newer version wrote `what`. To skip it would let this node's state differ
    /// from the others'.
    fn halt(&self, what: &str) {
        let remedy = self.state().remedy();
        let why = format!("{what} is of a newer version and is not understood here: {remedy}");
        tracing::error!("{why}");
        let _ = self.halted.set(why); // the first reason is the one that counts
    }

    pub(crate) fn unsaved_octets(&self) -> u64 {
        self.unsaved_octets.load(Ordering::Relaxed)
    }

    /// How large the last snapshot is.
    pub(crate) fn saved_octets(&self) -> u64 {
        self.saved_octets.load(Ordering::Relaxed)
    }

    /// What was applied before the last `octets` is in this file.
    fn set_saved(&self, file: &SnapshotFile, octets: u64) {
        let rest = |unsaved: u64| Some(unsaved.saturating_sub(octets));
        let _ = self.unsaved_octets.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest);
        // A file that is not there any more was replaced by a newer one of about the same size.
        let size = std::fs::metadata(&file.path).map_or(self.saved_octets(), |file| file.len());
        self.saved_octets.store(size, Ordering::Relaxed);
    }
}

/// The replicated state machine.
pub(crate) struct Machine {
    state: State,
    last: Option<LogId>,
    membership: Membership,
    view: Arc<View>,
    snapshots: SnapshotDir,
    received: u64,
    observer: Observer,
}

impl Machine {
    /// The machine as its newest snapshot left it.
    pub(crate) fn open(snapshots: SnapshotDir) -> std::io::Result<Self> {
        let newest = snapshots.newest()?;
        let (meta, state) = match &newest {
            Some(file) => snapshots.read(file)?,
            None => Default::default(),
        };
        let view = Arc::new(View::new(state.clone()));
        if let Some(file) = &newest {
            view.set_saved(file, 0);
        }
        let (last, membership) = (meta.last_log_id, meta.last_membership);
        let observer: Observer = Arc::new(|_| ());
        Ok(Self { state, last, membership, view, snapshots, received: 0, observer })
    }

    /// Tell of every snapshot that is written.
    pub(crate) fn observed(self, observer: &Observer) -> Self {
        Self { observer: Arc::clone(observer), ..self }
    }

    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view)
    }

    /// The log index that is applied next.
    pub(crate) fn next_index(&self) -> u64 {
        self.last.map_or(0, |id| id.index + 1)
    }

    fn apply_one(&mut self, entry: Entry) -> Result<Replies, Box<StorageError>> {
        let id = entry.log_id;
        let replies = match entry.payload {
            EntryPayload::Blank => Replies::default(),
            EntryPayload::Membership(membership) => {
                self.membership = Membership::new(Some(id), membership);
                Replies::default()
            }
            EntryPayload::Normal(batch) => {
                let (requests, octets) = batch.read().map_err(|error| {
                    if error.is_newer() {
                        self.view.publish(self.state.clone()); // the remedy is in the newest state
                        self.view.halt(&format!("log entry {}", id.index));
                    }
                    StorageError::from(StorageIOError::apply(id, &error))
                })?;
                // What it takes to apply them again is what matters, and not how well they pack.
                let octets = u64::try_from(octets).unwrap_or(u64::MAX);
                self.view.unsaved_octets.fetch_add(octets, Ordering::Relaxed);
                Replies(requests.iter().map(|r| self.state.apply(id.index, r)).collect())
            }
        };
        self.state.skip_to(id.index);
        self.last = Some(id);
        Ok(replies)
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), StorageError> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Replies>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let applied: Result<_, _> = entries.into_iter().map(|e| self.apply_one(e)).collect();
        self.view.publish(self.state.clone());
        applied.map_err(|error| *error)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let index = self.last.map_or(0, |id| id.index);
        let term = self.last.map_or(0, |id| id.leader_id.term);
        let meta = SnapshotMeta {
            last_log_id: self.last,
            last_membership: self.membership.clone(),
            snapshot_id: format!("{term}-{index}"),
        };
        let (snapshots, view) = (self.snapshots.clone(), self.view());
        let observer = Arc::clone(&self.observer);
        Builder { meta, state: self.state.clone(), snapshots, view, observer }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotFile>, StorageError> {
        self.received += 1;
        Ok(Box::new(self.snapshots.receiving(&format!("received-{}", self.received))))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<SnapshotFile>,
    ) -> Result<(), StorageError> {
        let (snapshots, announced) = (self.snapshots.clone(), meta.clone());
        let state = blocking(move || snapshots.install(&snapshot.path, &announced)).await;
        let state = state.map_err(|error| {
            if codec::is_newer(&error) {
                self.view.halt("a snapshot from another host");
            }
            StorageIOError::read_snapshot(Some(meta.signature()), &error)
        })?;
        self.state = state;
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.view.publish(self.state.clone());
        if let Ok(Some(file)) = self.snapshots.newest() {
            self.view.set_saved(&file, u64::MAX);
        }
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        let read = || {
            let Some(file) = self.snapshots.newest()? else { return Ok(None) };
            let meta = self.snapshots.meta(&file)?;
            Ok(Some(Snapshot { meta, snapshot: Box::new(file) }))
        };
        Ok(read().map_err(|e: std::io::Error| StorageIOError::read_snapshot(None, &e))?)
    }
}

/// Writes a snapshot of the state at one moment.
pub(crate) struct Builder {
    meta: SnapshotMeta,
    state: State,
    snapshots: SnapshotDir,
    view: Arc<View>,
    observer: Observer,
}

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        let (snapshots, meta, state) =
            (self.snapshots.clone(), self.meta.clone(), self.state.clone());
        let (before, begun) = (self.view.unsaved_octets(), Instant::now());
        let file = blocking(move || snapshots.write(&meta, &state)).await;
        let signature = Some(self.meta.signature());
        let file = file.map_err(|e| StorageIOError::write_snapshot(signature, &e))?;
        (self.observer)(Event::SnapshotSaved(begun.elapsed()));
        self.view.set_saved(&file, before);
        Ok(Snapshot { meta: self.meta.clone(), snapshot: Box::new(file) })
    }
}

/// File work, away from the threads that serve mail. On a runtime with a single thread there is
/// nothing to give way to, and a simulation stays repeatable.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return work();
    }
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(std::io::Error::other(e)))
}

#[cfg(test)]
mod tests {
    use openraft::testing::log_id;

    use super::*;
    use crate::raft::Batch;
    use crate::state::{Command, NewHost, Request};

    #[tokio::test]
    async fn an_entry_of_a_newer_version_stops_the_node_and_says_what_to_install() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = SnapshotDir::open(dir.path().to_owned(), 1, None).unwrap();
        let mut machine = Machine::open(snapshots).unwrap();
        let host = NewHost {
            name: "mx1".to_owned(),
            address: "192.0.2.1:4190".to_owned(),
            version: "0.9.0".to_owned(),
            key: [0; 32],
            speaks: 9,
        };
        let found = Request::new(1, "fleet", 1, Command::HostFound { host, seed: 1 });
        let normal = |index, batch| {
            let payload = EntryPayload::Normal(batch);
            Entry { log_id: log_id(1, 1, index), payload }
        };
        let known = normal(1, Batch::new(&[found]).unwrap());
        let unknown = normal(2, Batch::of_a_newer_version());
        assert!(machine.apply([known, unknown]).await.is_err());
        let view = machine.view();
        assert_eq!(view.state().applied_index(), 1, "what came before it counts");
        assert_eq!(
            view.halted().as_deref(),
            Some(
                "log entry 2 is of a newer version and is not understood here: install mxfleet \
                 0.9.0, which mx1 runs"
            )
        );
    }
}
