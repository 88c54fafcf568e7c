//! How much room the disk has, without asking it for every message.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::error::Full;
use super::fs::SpoolFs;
use crate::telemetry::metrics::METRICS;

/// So long an answer of the system stands. At a gigabyte a second it is wrong by 100 MB, which
/// the reserve covers.
const FRESH_MS: u64 = 100;

/// The free space of the spool's disk.
pub(super) struct Space {
    fs: Arc<dyn SpoolFs>,
    dir: PathBuf,
    reserve_octets: u64,
    epoch: Instant,
    /// Milliseconds after the epoch when it was last asked, plus one; 0 is never.
    asked_ms: AtomicU64,
    free_octets: AtomicU64,
}

impl Space {
    pub(super) fn new(fs: Arc<dyn SpoolFs>, dir: PathBuf, reserve_octets: u64) -> Self {
        Self {
            fs,
            dir,
            reserve_octets,
            epoch: Instant::now(),
            asked_ms: AtomicU64::new(0),
            free_octets: AtomicU64::new(0),
        }
    }

    /// Whether a message of `octets` may come: half of it again is for what goes with it, and the
    /// reserve stays for marks.
    pub(super) fn check(&self, octets: u64) -> Result<(), Full> {
        let needed = self.reserve_octets.saturating_add(octets.saturating_add(octets / 2));
        match self.free() {
            Ok(free) if free >= needed => Ok(()),
            _ => Err(Full),
        }
    }

    fn free(&self) -> io::Result<u64> {
        let now = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        let asked = self.asked_ms.load(Ordering::Acquire);
        if asked != 0 && now + 1 < asked + FRESH_MS {
            return Ok(self.free_octets.load(Ordering::Relaxed));
        }
        let free = self.fs.free_octets(&self.dir)?;
        METRICS.spool_free_bytes.set(gauge(free));
        self.free_octets.store(free, Ordering::Relaxed);
        self.asked_ms.store(now + 1, Ordering::Release);
        Ok(free)
    }

    /// Ask the disk, and tell the metrics.
    pub(super) fn publish(&self) {
        METRICS.spool_reserve_bytes.set(gauge(self.reserve_octets));
        // What cannot be asked keeps its last value; a failing disk shows itself elsewhere.
        let _ = self.free();
        if let Ok((free, all)) = self.fs.inodes(&self.dir) {
            METRICS.spool_free_inodes.set(gauge(free));
            METRICS.spool_inodes.set(gauge(all));
        }
    }

    /// Ask again next time: something has changed.
    pub(super) fn forget(&self) {
        self.asked_ms.store(0, Ordering::Release);
    }
}

fn gauge(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
