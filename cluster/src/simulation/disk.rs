//! A disk that loses in a crash what was not synced, up to a random point, and tears what is there.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Bug;
use super::runtime::{below, between};
use crate::log::{Done, Entries, LogDisk, MemoryDisk, MetaKey};

#[derive(Debug)]
enum Write {
    Append(Entries),
    Truncate(u64),
    Forget(u64),
    Meta(MetaKey, Vec<u8>),
}

#[derive(Debug, Default)]
struct Inner {
    dead: bool,
    /// Whether the node runs. Until then its one thread waits for the disk, so that writes last at
    /// once.
    started: bool,
    /// What reads see.
    seen: MemoryDisk,
    /// What a crash leaves, with the writes that may be on their way to it.
    durable: MemoryDisk,
    pending: Vec<Write>,
    /// Writes that are durable, counted from the beginning.
    synced: usize,
}

impl Inner {
    /// Make the writes before the `end`-th one ever durable, of those that there are.
    fn settle(&mut self, end: usize) {
        let count = end.saturating_sub(self.synced).min(self.pending.len());
        for write in self.pending.drain(..count) {
            play(&write, &self.durable);
        }
        self.synced += count;
    }
}

/// See the module. Clones are the same disk.
#[derive(Debug, Clone)]
pub(super) struct SimDisk {
    inner: Arc<Mutex<Inner>>,
    bug: Option<Bug>,
}

fn play(write: &Write, on: &MemoryDisk) {
    let _ = match write {
        Write::Append(entries) => on.append(entries.clone()),
        Write::Truncate(from) => on.truncate(*from),
        Write::Forget(upto) => {
            on.forget(*upto);
            Ok(())
        }
        Write::Meta(key, value) => on.set_meta(*key, value.clone()),
    };
}

/// The first of the entries, and maybe the start of one.
fn torn(mut entries: Entries) -> Entries {
    let count = |length: usize| usize::try_from(below(length as u64 + 1)).unwrap_or(0);
    entries.truncate(count(entries.len()));
    if let Some((_, last)) = entries.last_mut() {
        last.truncate(count(last.len()));
    }
    entries
}

impl SimDisk {
    pub(super) fn new(bug: Option<Bug>) -> Self {
        Self { inner: Arc::default(), bug }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine stops: what is left is a new disk; the old one answers nobody any more.
    pub(super) fn crash(&self) -> Self {
        let mut inner = self.inner();
        inner.dead = true;
        let kept = usize::try_from(below(inner.pending.len() as u64 + 1)).unwrap();
        let durable = std::mem::take(&mut inner.durable);
        for write in inner.pending.drain(..kept) {
            play(&write, &durable);
        }
        if let Some(Write::Append(entries)) = inner.pending.drain(..).next() {
            play(&Write::Append(torn(entries)), &durable);
        }
        if self.bug == Some(Bug::SyncedIsLost)
            && let Ok(Some((last, _))) = durable.last()
        {
            let _ = durable.truncate(last.saturating_sub(1)); // a memory disk does not fail
        }
        let seen = durable.copy();
        let inner = Inner { seen, durable, ..Inner::default() };
        Self { inner: Arc::new(Mutex::new(inner)), bug: self.bug }
    }

    /// From now on a write takes its time to become durable.
    pub(super) fn started(&self) {
        self.inner().started = true;
    }

    fn write(&self, write: Write) -> io::Result<()> {
        let mut inner = self.inner();
        if inner.dead {
            return Err(io::Error::other("the machine is off"));
        }
        if self.bug == Some(Bug::TruncateIgnored) && matches!(write, Write::Truncate(_)) {
            return Ok(());
        }
        play(&write, &inner.seen);
        if self.bug == Some(Bug::VoteNotSynced) && matches!(write, Write::Meta(MetaKey::Vote, _)) {
            return Ok(());
        }
        inner.pending.push(write);
        Ok(())
    }
}

impl LogDisk for SimDisk {
    fn read(&self, from: u64, to: u64, octets_max: usize) -> io::Result<Entries> {
        self.inner().seen.read(from, to, octets_max)
    }

    fn last(&self) -> io::Result<Option<(u64, Vec<u8>)>> {
        self.inner().seen.last()
    }

    fn append(&self, entries: Entries) -> io::Result<()> {
        self.write(Write::Append(entries))
    }

    fn truncate(&self, from: u64) -> io::Result<()> {
        self.write(Write::Truncate(from))
    }

    fn forget(&self, upto: u64) {
        let _ = self.write(Write::Forget(upto)); // nobody reads it any more
    }

    fn meta(&self, key: MetaKey) -> io::Result<Option<Vec<u8>>> {
        self.inner().seen.meta(key)
    }

    fn set_meta(&self, key: MetaKey, value: Vec<u8>) -> io::Result<()> {
        self.write(Write::Meta(key, value))
    }

    fn barrier(&self, done: Done) {
        let (end, last_is_vote) = {
            let mut inner = self.inner();
            if !inner.started {
                inner.settle(usize::MAX);
                drop(inner);
                return done(Ok(()));
            }
            let vote = matches!(inner.pending.last(), Some(Write::Meta(MetaKey::Vote, _)));
            (inner.synced + inner.pending.len(), vote)
        };
        if self.bug == Some(Bug::AppendNotSynced) && !last_is_vote {
            return done(Ok(()));
        }
        let disk = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(between(100, 4000)).await;
            let mut inner = disk.inner();
            if inner.dead {
                drop(inner);
                return done(Err(io::Error::other("the machine is off")));
            }
            inner.settle(end);
            drop(inner);
            done(Ok(()));
        });
    }
}
