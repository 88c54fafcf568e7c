//! What can go wrong in the spool, by what a caller can do about it.

use std::io;
use std::path::PathBuf;

/// Why the spool cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the spool {0} is in use by another process")]
    InUse(PathBuf),
    /// A segment of a newer version.
    #[error("{path} was written by a newer version (format {version}); run that version")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format version.
        version: u16,
    },
    /// The file system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start a thread of the spool: {0}")]
    Thread(io::Error),
}

/// There is no room for a message now: 452 4.3.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no room for another message")]
pub struct Full;

/// Why a message was not taken. Nothing of it will be delivered, now or after a restart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpoolError {
    /// No room now: 452 4.3.1.
    #[error("no room for another message")]
    Full,
    /// The disk failed to write or to sync: 451 4.3.0.
    #[error("the disk failed: {0}")]
    Disk(String),
    /// A message, or its envelope, of a size that cannot be stored: 552 5.3.4.
    #[error("too large to be stored")]
    TooLarge,
    /// The node is stopping: 421 4.3.2.
    #[error("the spool is closed")]
    Closed,
    /// An earlier call on this draft failed or was given up half-way: 451 4.3.0.
    #[error("the message is incomplete")]
    Incomplete,
}

impl From<Full> for SpoolError {
    fn from(_: Full) -> Self {
        Self::Full
    }
}

/// Why an entry could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk failed, perhaps for now.
    #[error("cannot read entry {id}: {source}")]
    Io {
        /// The entry.
        id: super::EntryId,
        /// What the system said.
        source: io::Error,
    },
    /// A checksum is wrong. The entry is in the quarantine and no longer in the queue.
    #[error("entry {0} is damaged and was set aside in the quarantine")]
    Quarantined(super::EntryId),
}
