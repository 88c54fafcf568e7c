//! openraft's log storage, on any [`LogDisk`].
//!
//! What Raft was told is durable is durable: a vote is returned from, and an append is reported,
//! only after the disk's barrier has passed. Reads hide what is purged; the disk deletes it later.

mod disk;
mod guard;
#[cfg(test)]
mod memory;
mod newest;
mod sled;
#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::disk::WHOLE_OCTETS_MAX;
#[cfg(test)]
pub(crate) use self::disk::{Done, Entries};
pub(crate) use self::disk::{LogDisk, MetaKey};
pub(crate) use self::guard::Guard;
#[cfg(test)]
pub(crate) use self::memory::MemoryDisk;
use self::newest::Newest;
pub(crate) use self::sled::{OpenError, SledDisk};
use crate::codec::{self, CodecError, Kind};
use crate::gauges::{Event, Observer};
use crate::raft::{Entry, LogId, NodeId, StorageError, StorageIOError, Types, Vote};

/// Octets of log entries read for one append. The deadline of an append is one heartbeat, so what
/// is sent in it must fit a slow line.
pub(crate) const READ_OCTETS_MAX: usize = 512 << 10;

/// The first index that is not purged, shared by the store and its readers.
#[derive(Debug, Default)]
struct Purged(AtomicU64);

impl Purged {
    fn first_kept(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn raise(&self, first_kept: u64) {
        self.0.fetch_max(first_kept, Ordering::AcqRel);
    }
}

/// The Raft log and vote of this node.
#[derive(Clone)]
pub(crate) struct LogStore {
    disk: Arc<dyn LogDisk>,
    purged: Arc<Purged>,
    newest: Arc<Newest>,
    guard: Option<Arc<Guard>>,
    observer: Observer,
}

impl LogStore {
    /// The log kept on `disk`, checked from end to end: a hole or a damaged entry is an error. What
    /// a crash left of a last entry that nobody was told is durable is removed.
    pub(crate) fn open(disk: Arc<dyn LogDisk>, guard: Option<Guard>) -> io::Result<Self> {
        let (guard, observer) = (guard.map(Arc::new), Arc::new(|_| ()));
        let (purged, newest) = Default::default();
        let store = Self { disk, purged, newest, guard, observer };
        let purged: Option<LogId> = store.meta(MetaKey::Purged)?;
        store.purged.raise(purged.map_or(0, |id| id.index + 1));
        store.check()?;
        Ok(store)
    }

    /// Tell how long every append takes to become durable.
    pub(crate) fn observed(self, observer: &Observer) -> Self {
        Self { observer: Arc::clone(observer), ..self }
    }

    fn check(&self) -> io::Result<()> {
        let least = self.guard.as_ref().map(|guard| guard.least()).unwrap_or_default();
        let committed: Option<LogId> = self.meta(MetaKey::Committed)?;
        let mut next = None;
        let mut from = self.purged.first_kept();
        loop {
            let batch = self.disk.read(from, u64::MAX, READ_OCTETS_MAX)?;
            let Some((last, _)) = batch.last() else { break };
            from = last.saturating_add(1);
            for (index, bytes) in &batch {
                let entry: Entry = match codec::decode(Kind::Entry, bytes) {
                    Err(CodecError::Short)
                        if *index >= least.end
                            && committed.is_none_or(|id| id.index < *index)
                            && self.disk.read(index + 1, u64::MAX, 0)?.is_empty() =>
                    {
                        tracing::warn!(index, "a crash cut the last log entry short; removed");
                        self.disk.truncate(*index)?;
                        synced(&*self.disk)?;
                        break;
                    }
                    decoded => decoded.map_err(|error| error.at(format!("entry {index}")))?,
                };
                if entry.log_id.index != *index || next.is_some_and(|next| next != *index) {
                    return Err(damaged(format!("entry {index} is not where it belongs")));
                }
                next = Some(index + 1);
            }
        }
        let end = next.unwrap_or_else(|| self.purged.first_kept());
        match committed {
            Some(id) if id.index >= end => {
                return Err(damaged(format!("entries {end} to {} are missing", id.index)));
            }
            _ => {}
        }
        let vote = self.vote()?;
        if end < least.end {
            return Err(damaged(format!("entries {end} to {} are missing", least.end - 1)));
        }
        if vote < least.vote {
            return Err(damaged("the last vote is missing".to_owned()));
        }
        Ok(())
    }

    fn meta<T: DeserializeOwned>(&self, key: MetaKey) -> io::Result<Option<T>> {
        let Some(bytes) = self.disk.meta(key)? else { return Ok(None) };
        let value = codec::decode(Kind::Meta, &bytes).map_err(|error| error.at(key.name()))?;
        Ok(Some(value))
    }

    fn set_meta<T: Serialize>(&self, key: MetaKey, value: &T) -> io::Result<()> {
        self.disk.set_meta(key, codec::encode(Kind::Meta, value)?)
    }

    /// Wait until everything written so far is durable.
    pub(crate) async fn barrier(&self) -> io::Result<()> {
        let (done, wait) = tokio::sync::oneshot::channel();
        self.disk.barrier(Box::new(move |result| {
            let _ = done.send(result); // whoever asked may be gone
        }));
        wait.await.unwrap_or_else(|_| Err(io::Error::other("the log is closed")))
    }

    fn read(&self, from: u64, to: u64, octets_max: usize) -> io::Result<Vec<Entry>> {
        let from = from.max(self.purged.first_kept());
        if from >= to {
            return Ok(Vec::new());
        }
        if let Some(found) = self.newest.read(from, to, octets_max) {
            return Ok(found);
        }
        let found = self.disk.read(from, to, octets_max)?;
        found.iter().map(|(index, bytes)| decode_entry(*index, bytes)).collect()
    }

    /// The last entry that is purged.
    pub(crate) fn purged(&self) -> io::Result<Option<LogId>> {
        self.meta(MetaKey::Purged)
    }

    /// The first index that is not purged.
    pub(crate) fn first_kept(&self) -> u64 {
        self.purged.first_kept()
    }

    /// The vote on the disk.
    #[cfg(test)]
    pub(crate) fn kept_vote(&self) -> io::Result<Option<Vote>> {
        self.vote()
    }

    fn vote(&self) -> io::Result<Option<Vote>> {
        self.meta(MetaKey::Vote)
    }
}

fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn decode_entry(index: u64, bytes: &[u8]) -> io::Result<Entry> {
    codec::decode(Kind::Entry, bytes).map_err(|error| error.at(format!("entry {index}")))
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        Ok(self.read(from, to, usize::MAX).map_err(|e| StorageIOError::read_logs(&e))?)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        // The disk always gives at least one entry: openraft must never get an empty range.
        Ok(self.read(start, end, READ_OCTETS_MAX).map_err(|e| StorageIOError::read_logs(&e))?)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let read = || {
            let purged: Option<LogId> = self.meta(MetaKey::Purged)?;
            let last = match self.disk.last()? {
                Some((index, bytes)) if index >= self.purged.first_kept() => {
                    Some(decode_entry(index, &bytes)?.log_id)
                }
                _ => purged,
            };
            Ok(LogState { last_purged_log_id: purged, last_log_id: last })
        };
        Ok(read().map_err(|e: io::Error| StorageIOError::read_logs(&e))?)
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let saved = match self.set_meta(MetaKey::Vote, vote) {
            Ok(()) => self.barrier().await,
            Err(error) => Err(error),
        };
        let saved = match &self.guard {
            Some(guard) => saved.and_then(|()| guard.voted(*vote)),
            None => saved,
        };
        Ok(saved.map_err(|e| StorageIOError::write_vote(&e))?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.vote().map_err(|e| StorageIOError::read_vote(&e))?)
    }

    /// Not waited for: an older pointer only makes a cold start show a slightly older state.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let Some(committed) = committed else { return Ok(()) };
        let saved = self.set_meta(MetaKey::Committed, &committed);
        Ok(saved.map_err(|e| StorageIOError::write_logs(&e))?)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.meta(MetaKey::Committed).map_err(|e| StorageIOError::read_logs(&e))?)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        flushed: LogFlushed<Types>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let encode = |entry: &Entry| {
            codec::encode(Kind::Entry, entry).map(|bytes| (entry.log_id.index, bytes))
        };
        let (mut end, mut large) = (0, false);
        let entries: Vec<Entry> = entries.into_iter().collect();
        let written = entries
            .iter()
            .map(encode)
            .collect::<Result<Vec<_>, _>>()
            .map_err(io::Error::from)
            .and_then(|batch| {
                end = batch.last().map_or(0, |(index, _)| index + 1);
                large = batch.iter().any(|(_, bytes)| bytes.len() > WHOLE_OCTETS_MAX);
                self.disk.append(batch)
            });
        written.map_err(|e| StorageIOError::write_logs(&e))?;
        self.newest.append(entries);
        let (guard, observer) = (self.guard.clone(), Arc::clone(&self.observer));
        let begun = tokio::time::Instant::now();
        self.disk.barrier(Box::new(move |result| {
            let noted = match (guard, result) {
                (Some(guard), Ok(())) if large => guard.appended_large(end),
                (Some(guard), Ok(())) => {
                    guard.appended(end);
                    Ok(())
                }
                (_, result) => result,
            };
            observer(Event::LogSynced(begun.elapsed()));
            flushed.log_io_completed(noted);
        }));
        Ok(())
    }

    async fn truncate(&mut self, since: LogId) -> Result<(), StorageError> {
        self.newest.truncate(since.index);
        let lowered = self.guard.as_ref().map_or(Ok(()), |guard| guard.truncated(since.index));
        let truncated = lowered.and_then(|()| self.disk.truncate(since.index));
        Ok(truncated.map_err(|e| StorageIOError::write_logs(&e))?)
    }

    /// Writes the marker and returns; the disk deletes in the background.
    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        let written = self.set_meta(MetaKey::Purged, &upto);
        written.map_err(|e| StorageIOError::write_logs(&e))?;
        self.purged.raise(upto.index + 1);
        self.newest.forget(upto.index);
        self.disk.forget(upto.index);
        Ok(())
    }
}

impl Debug for LogStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LogStore(from {})", self.purged.first_kept())
    }
}

/// Who the disk belongs to, so that a log is never opened as another node's.
pub(crate) fn claim(disk: &dyn LogDisk, fleet: u128, node: NodeId) -> io::Result<Claim> {
    let mine = codec::encode(Kind::Meta, &(fleet, node))?;
    match disk.meta(MetaKey::Owner)? {
        Some(bytes) if bytes == mine => Ok(Claim::Known),
        Some(bytes) => {
            let (_, other): (u128, NodeId) = codec::decode(Kind::Meta, &bytes)?;
            Err(damaged(format!("it belongs to node {other} of this or another fleet")))
        }
        None => {
            disk.set_meta(MetaKey::Owner, mine)?;
            // A node that has noted that it began must find its log claimed after any crash.
            synced(disk)?;
            Ok(Claim::New)
        }
    }
}

/// Block until everything written so far is durable.
fn synced(disk: &dyn LogDisk) -> io::Result<()> {
    let (done, synced) = std::sync::mpsc::sync_channel(1);
    disk.barrier(Box::new(move |result| {
        // Nobody waits any more only when this call is gone.
        let _ = done.send(result);
    }));
    synced.recv().map_err(io::Error::other)?
}

/// Whether a disk was seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It was empty and is now this node's.
    New,
    /// It has always been this node's.
    Known,
}
