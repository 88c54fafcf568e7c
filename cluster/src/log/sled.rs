//! The log disk on sled, with a barrier that syncs.
//!
//! sled's `flush()` writes but does not sync: neither metadata nor the drive's cache. So one thread
//! owns the barrier: it drains what waits, flushes sled, calls `sync_data` on its own handle of
//! sled's file, and only then reports. It deletes purged entries when nobody waits.
//! **Invariant:** no value is larger than [`WHOLE_OCTETS_MAX`]; sled would put it in a file of its
//! own that it never syncs.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::disk::{Done, Entries, LogDisk, MetaKey, WHOLE_OCTETS_MAX};

/// Fixed when the database is made. sled moves leaves over a quarter of it to unsynced files.
const SEGMENT_OCTETS: usize = 8 << 20;
const CACHE_OCTETS: u64 = 32 << 20;
/// A process that was just killed may hold the lock a moment longer.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_RETRY: Duration = Duration::from_millis(100);
/// Entries deleted at a time, so that no append waits long behind a purge.
const FORGET_ENTRIES: usize = 64;
/// How long a write nobody waits for (the commit pointer) may stay unsynced.
const IDLE_SYNC: Duration = Duration::from_millis(50);

/// Why the log could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Another process has it open.
    #[error("{0} is in use by another process")]
    Busy(PathBuf),
    /// The file system refused.
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    /// It is there but cannot be trusted.
    #[error("the Raft log in {path} is damaged: {what}")]
    Damaged { path: PathBuf, what: String },
}

/// A log disk on sled.
pub(crate) struct SledDisk {
    entries: sled::Tree,
    meta: sled::Tree,
    worker: Sender<Job>,
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    broken: AtomicBool,
    forget_upto: AtomicU64,
}

enum Job {
    Sync(Done),
    Wrote,
    Forget,
    Stop,
}

impl SledDisk {
    /// Open or make the database in the folder `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(io)?;
        let db = open_patiently(path)?;
        let damaged =
            |e: sled::Error| OpenError::Damaged { path: path.to_owned(), what: e.to_string() };
        let entries = db.open_tree("log").map_err(damaged)?;
        let meta = db.open_tree("meta").map_err(damaged)?;
        let file = File::open(path.join("db")).map_err(io)?;
        db.flush().map_err(damaged)?;
        file.sync_all().map_err(io)?;
        File::open(path).and_then(|dir| dir.sync_all()).map_err(io)?;
        if let Some(parent) = path.parent() {
            File::open(parent).and_then(|dir| dir.sync_all()).map_err(io)?;
        }
        let shared = Arc::new(Shared::default());
        let (worker, jobs) = channel();
        let barrier =
            Barrier { db, file, entries: entries.clone(), shared: Arc::clone(&shared), jobs };
        let thread = thread::Builder::new()
            .name("raft-log".to_owned())
            .spawn(move || barrier.run())
            .map_err(io)?;
        Ok(Self { entries, meta, worker, shared, thread: Some(thread) })
    }

    fn check(&self) -> io::Result<()> {
        if self.shared.broken.load(Ordering::Acquire) {
            return Err(io::Error::other("the log failed to sync before and takes no more"));
        }
        Ok(())
    }

    /// Remember a failure for ever.
    fn kept<T>(&self, result: sled::Result<T>) -> io::Result<T> {
        result.map_err(|error| {
            self.shared.broken.store(true, Ordering::Release);
            into_io(error)
        })
    }

    fn wrote(&self) {
        let _ = self.worker.send(Job::Wrote); // a stopped worker was told to stop
    }
}

impl LogDisk for SledDisk {
    fn read(&self, from: u64, to: u64, octets_max: usize) -> io::Result<Entries> {
        self.check()?;
        let mut found: Entries = Vec::new();
        let mut octets = 0_usize;
        for item in self.entries.range(key(from, 0)..key(to, 0)) {
            let (key, part) = item.map_err(into_io)?;
            let index = index_of(&key)?;
            octets = octets.saturating_add(part.len());
            match found.last_mut() {
                Some((last, bytes)) if *last == index => bytes.extend_from_slice(&part),
                Some(_) if octets > octets_max => break,
                _ => found.push((index, part.to_vec())),
            }
        }
        Ok(found)
    }

    fn last(&self) -> io::Result<Option<(u64, Vec<u8>)>> {
        self.check()?;
        let Some((key, _)) = self.entries.last().map_err(into_io)? else { return Ok(None) };
        let index = index_of(&key)?;
        Ok(self.read(index, index.saturating_add(1), usize::MAX)?.pop())
    }

    fn append(&self, entries: Entries) -> io::Result<()> {
        self.check()?;
        let mut batch = sled::Batch::default();
        for (index, bytes) in entries {
            if bytes.len() <= WHOLE_OCTETS_MAX {
                batch.insert(&key(index, 0), bytes);
                continue;
            }
            // Large entries go in one by one: a batch is one record, and must stay small too.
            self.kept(self.entries.apply_batch(std::mem::take(&mut batch)))?;
            for (part, chunk) in (0_u32..).zip(bytes.chunks(WHOLE_OCTETS_MAX)) {
                self.kept(self.entries.insert(key(index, part), chunk))?;
            }
        }
        self.kept(self.entries.apply_batch(batch))
    }

    fn truncate(&self, from: u64) -> io::Result<()> {
        self.check()?;
        let doomed: Vec<_> = self
            .entries
            .range(key(from, 0)..)
            .keys()
            .collect::<sled::Result<_>>()
            .map_err(into_io)?;
        for key in doomed.into_iter().rev() {
            self.kept(self.entries.remove(key))?;
        }
        self.wrote();
        Ok(())
    }

    fn forget(&self, upto: u64) {
        self.shared.forget_upto.fetch_max(upto.saturating_add(1), Ordering::AcqRel);
        let _ = self.worker.send(Job::Forget); // a stopped worker forgets after the next start
    }

    fn meta(&self, key: MetaKey) -> io::Result<Option<Vec<u8>>> {
        self.check()?;
        Ok(self.meta.get(key.name()).map_err(into_io)?.map(|value| value.to_vec()))
    }

    fn set_meta(&self, key: MetaKey, value: Vec<u8>) -> io::Result<()> {
        self.check()?;
        self.kept(self.meta.insert(key.name(), value))?;
        self.wrote();
        Ok(())
    }

    fn barrier(&self, done: Done) {
        if let Err(error) = self.check() {
            done(Err(error));
        } else if let Err(unsent) = self.worker.send(Job::Sync(done))
            && let Job::Sync(done) = unsent.0
        {
            done(Err(io::Error::other("the log is closed")));
        }
    }
}

impl Drop for SledDisk {
    /// The lock on the folder is free once this returns, so that it can be opened again.
    fn drop(&mut self) {
        let _ = self.worker.send(Job::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the Raft log panicked");
        }
    }
}

/// The thread that makes writes durable.
struct Barrier {
    db: sled::Db,
    file: File,
    entries: sled::Tree,
    shared: Arc<Shared>,
    jobs: Receiver<Job>,
}

impl Barrier {
    fn run(self) {
        let mut unsynced = false;
        let mut forgetting = false;
        let mut waiting: Vec<Done> = Vec::new();
        loop {
            let patience = if forgetting { Duration::ZERO } else { IDLE_SYNC };
            let first = if unsynced || forgetting {
                self.jobs.recv_timeout(patience)
            } else {
                self.jobs.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            let mut stop = matches!(first, Err(RecvTimeoutError::Disconnected));
            let idle = first.is_err();
            for job in first.into_iter().chain(self.jobs.try_iter()) {
                match job {
                    Job::Sync(done) => waiting.push(done),
                    Job::Wrote => unsynced = true,
                    Job::Forget => forgetting = true,
                    Job::Stop => stop = true,
                }
            }
            if !waiting.is_empty() || (unsynced && (idle || stop)) {
                self.sync(std::mem::take(&mut waiting));
                unsynced = false;
            } else if forgetting && idle {
                forgetting = self.forget_some();
                unsynced = true;
            }
            if stop {
                return;
            }
        }
    }

    fn sync(&self, waiting: Vec<Done>) {
        let synced = if self.shared.broken.load(Ordering::Acquire) {
            Err(io::Error::other("the log failed before"))
        } else {
            self.db.flush().map_err(into_io).and_then(|_| self.file.sync_data())
        };
        if let Err(error) = &synced {
            self.shared.broken.store(true, Ordering::Release);
            tracing::error!(%error, "the Raft log cannot be synced; this node must restart");
        }
        for done in waiting {
            done(match &synced {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            });
        }
    }

    /// Delete a few purged entries; whether more are left.
    fn forget_some(&self) -> bool {
        let upto = self.shared.forget_upto.load(Ordering::Acquire);
        let mut doomed = Vec::new();
        for found in self.entries.range(..key(upto, 0)).keys().take(FORGET_ENTRIES) {
            match found {
                Ok(key) => doomed.push(key),
                Err(error) => {
                    tracing::warn!(%error, "purged log entries are not deleted");
                    return false;
                }
            }
        }
        let more = doomed.len() == FORGET_ENTRIES;
        let mut batch = sled::Batch::default();
        for key in doomed {
            batch.remove(key);
        }
        self.entries.apply_batch(batch).is_ok() && more
    }
}

/// Index and part, so that the order of keys is the order of entries.
fn key(index: u64, part: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&index.to_be_bytes());
    key[8..].copy_from_slice(&part.to_be_bytes());
    key
}

fn index_of(key: &[u8]) -> io::Result<u64> {
    let index = key.first_chunk::<8>().map(|index| u64::from_be_bytes(*index));
    index.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a key of the log is short"))
}

fn into_io(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

fn open_patiently(path: &Path) -> Result<sled::Db, OpenError> {
    let give_up = Instant::now() + LOCK_PATIENCE;
    loop {
        let config = sled::Config::new()
            .path(path)
            .segment_size(SEGMENT_OCTETS)
            .cache_capacity(CACHE_OCTETS)
            .flush_every_ms(None);
        // sled panics on some damaged files; a thread of its own turns that into an answer.
        let opened = thread::spawn(move || config.open()).join();
        match opened {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(sled::Error::Io(error))) if is_busy(&error) => {
                if Instant::now() >= give_up {
                    return Err(OpenError::Busy(path.to_owned()));
                }
                thread::sleep(LOCK_RETRY); // nothing tells us when another process lets go
            }
            Ok(Err(sled::Error::Io(source))) if source.kind() != io::ErrorKind::InvalidData => {
                return Err(OpenError::Io { path: path.to_owned(), source });
            }
            Ok(Err(error)) => {
                return Err(OpenError::Damaged { path: path.to_owned(), what: error.to_string() });
            }
            Err(_panic) => {
                let what = "sled cannot read it".to_owned();
                return Err(OpenError::Damaged { path: path.to_owned(), what });
            }
        }
    }
}

fn is_busy(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || error.to_string().contains("could not acquire lock")
}
