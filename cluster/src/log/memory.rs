//! A log disk in memory: as fast as it gets, gone with the process. For tests and simulation.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::disk::{Done, Entries, LogDisk, MetaKey};

/// A log disk in memory.
#[derive(Debug, Default)]
pub(crate) struct MemoryDisk {
    content: Mutex<Content>,
}

#[derive(Debug, Clone, Default)]
struct Content {
    entries: BTreeMap<u64, Vec<u8>>,
    meta: BTreeMap<MetaKey, Vec<u8>>,
}

impl MemoryDisk {
    /// Another disk with the same content.
    pub(crate) fn copy(&self) -> Self {
        Self { content: Mutex::new(self.content().clone()) }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogDisk for MemoryDisk {
    fn read(&self, from: u64, to: u64, octets_max: usize) -> io::Result<Entries> {
        let content = self.content();
        let mut octets = 0_usize;
        let mut found = Vec::new();
        for (index, bytes) in content.entries.range(from..to) {
            octets = octets.saturating_add(bytes.len());
            if octets > octets_max && !found.is_empty() {
                break;
            }
            found.push((*index, bytes.clone()));
        }
        Ok(found)
    }

    fn last(&self) -> io::Result<Option<(u64, Vec<u8>)>> {
        Ok(self.content().entries.last_key_value().map(|(i, b)| (*i, b.clone())))
    }

    fn append(&self, entries: Entries) -> io::Result<()> {
        self.content().entries.extend(entries);
        Ok(())
    }

    fn truncate(&self, from: u64) -> io::Result<()> {
        self.content().entries.split_off(&from);
        Ok(())
    }

    fn forget(&self, upto: u64) {
        let mut content = self.content();
        content.entries = content.entries.split_off(&upto.saturating_add(1));
    }

    fn meta(&self, key: MetaKey) -> io::Result<Option<Vec<u8>>> {
        Ok(self.content().meta.get(&key).cloned())
    }

    fn set_meta(&self, key: MetaKey, value: Vec<u8>) -> io::Result<()> {
        self.content().meta.insert(key, value);
        Ok(())
    }

    fn barrier(&self, done: Done) {
        done(Ok(()));
    }
}
