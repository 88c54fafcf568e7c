//! A second, tiny record of how far the log was, so that a database that silently lost its end is
//! noticed.
//!
//! sled drops everything after the first record it cannot read. For a voter that is worse than not
//! starting: it could vote twice in one term, or lack entries it acknowledged. The guard is a lower
//! bound: it is written after a barrier passed, and lowered before a truncation.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::codec::{self, Kind};
use crate::raft::Vote;

/// Appends are noted so often; it costs a write without a sync.
const NOTE_EVERY: Duration = Duration::from_millis(500);
/// Always the same size, within one sector: a write of it is not torn.
const OCTETS: usize = 128;

/// The least the log must hold.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Least {
    pub(super) vote: Option<Vote>,
    /// The first index that may be missing.
    pub(super) end: u64,
}

#[derive(Debug)]
struct Inner {
    file: File,
    least: Least,
    noted: Option<Instant>,
}

/// The guard's file.
#[derive(Debug)]
pub(crate) struct Guard {
    inner: Mutex<Inner>,
}

impl Guard {
    /// Open or make the guard. One that cannot be read guards nothing, and is written anew.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = [0; OCTETS];
        let length = file.read_at(&mut bytes, 0)?;
        let envelope = bytes.split_first().map(|(size, rest)| rest.get(..usize::from(*size)));
        let least = match envelope {
            Some(Some(envelope)) if length > 0 => codec::decode(Kind::Meta, envelope)
                .inspect_err(|error| tracing::warn!(%error, "the log's guard cannot be read"))
                .unwrap_or_default(),
            _ => Least::default(),
        };
        Ok(Self { inner: Mutex::new(Inner { file, least, noted: None }) })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn least(&self) -> Least {
        self.inner().least.clone()
    }

    /// This vote is durable.
    pub(super) fn voted(&self, vote: Vote) -> io::Result<()> {
        let mut inner = self.inner();
        inner.least.vote = Some(vote);
        inner.write()?;
        inner.file.sync_data()
    }

    /// Entries below `end` are durable, and one of them is so large that a crash while it was
    /// written would have left its start: such a start is told from damage by this note.
    pub(super) fn appended_large(&self, end: u64) -> io::Result<()> {
        let mut inner = self.inner();
        inner.least.end = inner.least.end.max(end);
        inner.write()?;
        inner.file.sync_data()
    }

    /// Entries below `end` are durable. To note that late only makes the guard weaker.
    pub(super) fn appended(&self, end: u64) {
        let mut inner = self.inner();
        inner.least.end = inner.least.end.max(end);
        if inner.noted.is_none_or(|noted| noted.elapsed() >= NOTE_EVERY) {
            inner.noted = Some(Instant::now());
            if let Err(error) = inner.write() {
                tracing::warn!(%error, "the log's guard is not written");
            }
        }
    }

    /// Entries from `end` on are about to go.
    pub(super) fn truncated(&self, end: u64) -> io::Result<()> {
        let mut inner = self.inner();
        inner.least.end = inner.least.end.min(end);
        inner.write()?;
        inner.file.sync_data()
    }
}

impl Drop for Inner {
    /// A node that stops in order notes all that it has, so that no damage done while it is off
    /// goes unnoticed.
    fn drop(&mut self) {
        if let Err(error) = self.write() {
            tracing::warn!(%error, "the log's guard is not written");
        }
    }
}

impl Inner {
    fn write(&self) -> io::Result<()> {
        let envelope = codec::encode(Kind::Meta, &self.least)?;
        let mut bytes = [0; OCTETS];
        let size = u8::try_from(envelope.len()).map_err(io::Error::other)?;
        let end = usize::from(size) + 1;
        let place = bytes.get_mut(1..end).ok_or(io::ErrorKind::InvalidInput)?;
        place.copy_from_slice(&envelope);
        bytes[0] = size;
        self.file.write_all_at(&bytes, 0)
    }
}
