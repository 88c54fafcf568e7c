//! Stage 4: the durable local queue.
//!
//! Messages are appended to segment files by one writer thread, which syncs once for all that wait
//! (group commit). State changes are appended too and ride the next sync. Memory has a small index;
//! envelopes and texts stay on disk, and a fresh small message is also handed on in memory. A
//! second thread removes segments whose entries are all done and compacts those that mostly are.
//!
//! **Invariant:** [`Draft::commit`] answers `Ok` only after a sync that covers the whole message,
//! envelope included (design invariant 1), and what it answered `Ok` for is there after any crash,
//! until every recipient has a final mark. What it answered an error for never comes back.

mod active;
mod codec;
mod compact;
mod copying;
mod draft;
mod error;
mod failure;
mod format;
mod fresh;
mod fs;
mod hand_over;
mod hold;
mod id;
mod index;
mod item;
mod message;
mod quarantine;
mod queue;
mod read;
mod reader;
mod record;
mod recover;
mod recovered;
mod scan;
mod segments;
mod shared;
mod sidecar;
pub mod sim_fs;
mod space;
mod state;
mod upkeep;
mod writer;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;

pub use draft::Draft;
pub use error::{Full, OpenError, ReadError, SpoolError};
pub use fs::{OsFs, SpoolFile, SpoolFs};
pub use hand_over::Copied;
pub use hold::Hold;
pub use id::{EntryId, IdError};
pub use message::{Message, TextReader};
pub use reader::{SegmentContent, read_segment};
pub use recover::RecoveryReport;
pub use recovered::Recovered;
pub use state::{
    Mark, Outcome, Queued, RecipientState, RecoveredDestination, RecoveredEntry, Stats,
};

use self::id::IdSource;
use self::queue::{Note, Request};
use self::shared::Shared;
use self::writer::Writer;
use crate::config::Limits;
use crate::system::clock::wall_us;

/// Where a spool is, and its bounds.
#[derive(Debug, Clone)]
pub struct SpoolConfig {
    /// Its directory; made if missing.
    pub dir: PathBuf,
    /// The node's number, which is part of every id.
    pub node_id: u16,
    /// Bounds.
    pub limits: Arc<Limits>,
}

/// A spool. Clones are handles to the same one.
#[derive(Clone)]
pub struct Spool {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Spool {
    /// Open the spool in `config.dir`, after recovering what is there. Blocks for some seconds when
    /// there are very many entries.
    pub fn open(config: SpoolConfig, fs: Arc<dyn SpoolFs>) -> Result<(Self, Recovered), OpenError> {
        let (spool, recovered) = Self::open_quiet(config, fs)?;
        let shared = Arc::clone(&spool.handle.shared);
        spool.start("spool-upkeep", move || upkeep::run(&shared))?;
        Ok((spool, recovered))
    }

    /// Open without the upkeep thread, so that a test decides when upkeep happens.
    fn open_quiet(
        config: SpoolConfig,
        fs: Arc<dyn SpoolFs>,
    ) -> Result<(Self, Recovered), OpenError> {
        let dir = config.dir.clone();
        let quarantine = dir.join("quarantine");
        make_dir(fs.as_ref(), &dir)?;
        make_dir(fs.as_ref(), &quarantine)?;
        let lock = fs.lock(&dir.join("lock")).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => OpenError::InUse(dir.clone()),
            _ => recover::io_error("lock", &dir)(source),
        })?;
        let found = recover::recover(fs.as_ref(), &dir)?;
        let report = found.report;
        tracing::info!(?report, "spool recovered");
        let quarantined = quarantine::count(fs.as_ref(), &quarantine)
            .map_err(recover::io_error("list", &quarantine))?;
        let ids = IdSource::new(config.node_id, found.id_floor);
        let recovered = (found.index, ids, quarantined);
        let shared = Arc::new(Shared::new(config, fs, lock, recovered));
        let entries = Recovered::new(&shared, report);
        let mut writer = Writer::new(Arc::clone(&shared), found.next_segment, found.cuts);
        // On a full disk this fails, and the queue must be delivered all the same.
        writer.reopen();
        let handle = Handle { shared, threads: Mutex::default() };
        let spool = Self { handle: Arc::new(handle) };
        spool.start("spool-writer", move || writer.run())?;
        upkeep::publish(&spool.handle.shared);
        Ok((spool, entries))
    }

    fn start(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), OpenError> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
        let thread = thread.map_err(OpenError::Thread)?;
        self.handle.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    /// Begin a message of `declared_octets` (0 if the client did not say).
    pub fn begin(&self, declared_octets: u64) -> Result<Draft, Full> {
        let shared = &self.handle.shared;
        if !shared.is_writable() {
            return Err(Full);
        }
        shared.space.check(declared_octets)?;
        Ok(Draft::new(shared, shared.ids.next(wall_us())))
    }

    /// Read an entry; `None` if there is none of this id. Blocks for a read or two.
    pub fn load(&self, id: EntryId) -> Result<Option<Message>, ReadError> {
        message::load(&self.handle.shared, id)
    }

    /// Record what happened to an entry's recipients. When all are final the entry is forgotten.
    /// Does not wait: marks ride the next sync, and without one are synced within a second.
    pub fn record(&self, id: EntryId, marks: Vec<Mark>) {
        for mark in marks {
            self.handle.shared.queue.push(Request::Note { id, note: Note::Mark(mark) });
        }
    }

    /// What the spool holds.
    pub fn stats(&self) -> Stats {
        let shared = &self.handle.shared;
        let quarantined = shared.quarantined.load(std::sync::atomic::Ordering::Relaxed);
        Stats { quarantined, ..shared.index().stats() }
    }

    /// All entries, oldest first.
    pub fn ids(&self) -> Vec<EntryId> {
        self.handle.shared.index().ids()
    }

    /// Wait until everything recorded so far is on stable storage.
    pub async fn flush(&self) -> Result<(), SpoolError> {
        self.ask(Request::Flush).await
    }

    /// Whether a message would be taken now, as far as the disk is concerned.
    pub fn is_writable(&self) -> bool {
        let shared = &self.handle.shared;
        shared.is_writable() && shared.space.check(0).is_ok()
    }

    /// Sync, end the threads and give the directory free. Messages that are still arriving fail.
    pub async fn close(&self) -> Result<(), SpoolError> {
        let closed = self.ask(Request::Close).await;
        let shared = &self.handle.shared;
        shared.upkeep.stop();
        let threads = &self.handle.threads;
        let threads = std::mem::take(&mut *threads.lock().unwrap_or_else(PoisonError::into_inner));
        let join = move || threads.into_iter().for_each(|thread| drop(thread.join()));
        let _ = tokio::task::spawn_blocking(join).await;
        drop(shared.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
        closed
    }

    async fn ask(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<(), SpoolError>>) -> Request,
    ) -> Result<(), SpoolError> {
        let (answer, answered) = oneshot::channel();
        self.handle.shared.queue.push(request(answer));
        answered.await.map_err(|_| SpoolError::Closed)?
    }
}

/// Make a directory, durably: a new one that a crash takes away takes the mail in it along.
fn make_dir(fs: &dyn SpoolFs, dir: &Path) -> Result<(), OpenError> {
    match fs.list(dir) {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(recover::io_error("list", dir)(error)),
    }
    fs.create_dir(dir).map_err(recover::io_error("create", dir))?;
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    fs.sync_dir(parent).map_err(recover::io_error("sync", parent))
}

impl Drop for Handle {
    fn drop(&mut self) {
        let (answer, _) = oneshot::channel();
        self.shared.queue.push(Request::Close(answer));
        self.shared.upkeep.stop();
    }
}
