//! What the handles and the two threads of a spool share.

use std::any::Any;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::SpoolConfig;
use super::fresh::FreshCache;
use super::fs::{SpoolFile, SpoolFs};
use super::id::IdSource;
use super::index::Index;
use super::queue::Queue;
use super::space::Space;
use crate::config::Limits;
use crate::telemetry::metrics::METRICS;

/// Offsets are 32 bits wide, and a record may go over the end a little.
const SEGMENT_OCTETS_MAX: u64 = 2 << 30;

/// Everything but the threads' own state.
pub(super) struct Shared {
    pub(super) dir: PathBuf,
    pub(super) fs: Arc<dyn SpoolFs>,
    pub(super) limits: Arc<Limits>,
    pub(super) node_id: u16,
    pub(super) queue: Queue,
    pub(super) ids: IdSource,
    pub(super) space: Space,
    pub(super) fresh: Arc<FreshCache>,
    pub(super) quarantined: AtomicU64,
    pub(super) upkeep: Bell,
    /// Recovered entries are still being handed out, so they must stay where they are.
    pub(super) handing_out: AtomicBool,
    index: Mutex<Index>,
    writable: AtomicBool,
    /// Held by the process; dropped at the end of [`super::Spool::close`].
    pub(super) lock: Mutex<Option<Box<dyn Any + Send + Sync>>>,
}

impl Shared {
    pub(super) fn new(
        config: SpoolConfig,
        fs: Arc<dyn SpoolFs>,
        lock: Box<dyn Any + Send + Sync>,
        recovered: (Index, IdSource, u64),
    ) -> Self {
        let SpoolConfig { dir, node_id, limits } = config;
        let (index, ids, quarantined) = recovered;
        Self {
            node_id,
            queue: Queue::new(limits.spool_queue_octets_max),
            ids,
            space: Space::new(Arc::clone(&fs), dir.clone(), limits.disk_reserve_octets),
            fresh: FreshCache::new(limits.fresh_cache_octets_max),
            quarantined: AtomicU64::new(quarantined),
            upkeep: Bell::default(),
            handing_out: AtomicBool::new(true),
            index: Mutex::new(index),
            writable: AtomicBool::new(false),
            lock: Mutex::new(Some(lock)),
            dir,
            fs,
            limits,
        }
    }

    /// The index, for a moment: never across I/O.
    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Relaxed)
    }

    pub(super) fn set_writable(&self, writable: bool) {
        self.writable.store(writable, Ordering::Relaxed);
        METRICS.spool_writable.set(i64::from(writable));
    }

    pub(super) fn segment_octets(&self) -> u32 {
        let octets = self.limits.segment_octets.min(SEGMENT_OCTETS_MAX);
        u32::try_from(octets).unwrap_or(u32::MAX)
    }

    pub(super) fn segment_path(&self, segment: u32) -> PathBuf {
        segment_path(&self.dir, segment)
    }

    pub(super) fn sidecar_path(&self, segment: u32) -> PathBuf {
        sidecar_path(&self.dir, segment)
    }

    pub(super) fn quarantine_dir(&self) -> PathBuf {
        self.dir.join("quarantine")
    }

    /// Open a segment to read.
    pub(super) fn open_segment(&self, segment: u32) -> io::Result<Arc<dyn SpoolFile>> {
        self.fs.open(&self.segment_path(segment))
    }

    /// Write a whole file so that it is there completely or not at all.
    pub(super) fn write_file(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        write_file(self.fs.as_ref(), path, bytes)
    }
}

pub(super) fn segment_path(dir: &Path, segment: u32) -> PathBuf {
    dir.join(format!("{segment:08x}.seg"))
}

pub(super) fn sidecar_path(dir: &Path, segment: u32) -> PathBuf {
    dir.join(format!("{segment:08x}.idx"))
}

/// Write a whole file so that it is there completely or not at all.
pub(super) fn write_file(fs: &dyn SpoolFs, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    match fs.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = fs.create(&temporary)?;
    file.write_at(0, bytes)?;
    file.sync_data()?;
    fs.rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |dir| fs.sync_dir(dir))
}

/// The whole content of a file.
pub(super) fn read_file(fs: &dyn SpoolFs, path: &Path) -> io::Result<Vec<u8>> {
    let file = fs.open(path)?;
    let octets = usize::try_from(file.octets()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; octets];
    let filled = file.read_at(0, &mut bytes)?;
    bytes.truncate(filled);
    Ok(bytes)
}

/// Wakes a thread that has something to do.
#[derive(Default)]
pub(super) struct Bell {
    rung: Mutex<Rung>,
    wake: Condvar,
}

#[derive(Default, Clone, Copy)]
struct Rung {
    work: bool,
    stop: bool,
}

impl Bell {
    pub(super) fn ring(&self) {
        self.change(|rung| rung.work = true);
    }

    /// The thread is to end.
    pub(super) fn stop(&self) {
        self.change(|rung| rung.stop = true);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner).stop
    }

    /// Wait for a ring, at most so long. False when the thread is to end.
    pub(super) fn wait(&self, timeout: Duration) -> bool {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.wake.wait_timeout_while(rung, timeout, |r| !r.work && !r.stop);
        let (mut rung, _) = waited.unwrap_or_else(PoisonError::into_inner);
        rung.work = false;
        !rung.stop
    }

    /// Sleep, at most so long and not beyond the end of the thread.
    pub(super) fn pause(&self, timeout: Duration) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.wake.wait_timeout_while(rung, timeout, |rung| !rung.stop));
    }

    fn change(&self, change: impl FnOnce(&mut Rung)) {
        change(&mut self.rung.lock().unwrap_or_else(PoisonError::into_inner));
        self.wake.notify_all();
    }
}
