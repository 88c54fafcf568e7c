//! What the log needs of a disk. Everything that knows sled is on the other side of this trait.

use std::io;

/// An entry up to this size is written whole or not at all; a crash may leave the start of a larger
/// one.
pub(crate) const WHOLE_OCTETS_MAX: usize = 60 << 10;

/// Called once, when what was written before it is durable or can never be.
pub(crate) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Entries with their indexes, in order, without gaps.
pub(crate) type Entries = Vec<(u64, Vec<u8>)>;

/// A value that is kept beside the entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum MetaKey {
    Owner,
    Vote,
    Committed,
    Purged,
}

impl MetaKey {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Vote => "vote",
            Self::Committed => "committed",
            Self::Purged => "purged",
        }
    }
}

/// An ordered store of entries and a few values.
///
/// Writes are seen by reads at once and become durable in the order they were made, at the latest
/// when the next [`LogDisk::barrier`] reports success. After any failed write or sync every later
/// call fails too: what an operating system dropped once, a second sync does not bring back.
pub(crate) trait LogDisk: Send + Sync + 'static {
    /// Entries `from..to`, as many as fit in `octets_max` but at least one if there is one.
    fn read(&self, from: u64, to: u64, octets_max: usize) -> io::Result<Entries>;

    /// The entry with the greatest index.
    fn last(&self) -> io::Result<Option<(u64, Vec<u8>)>>;

    /// Add entries at the end.
    fn append(&self, entries: Entries) -> io::Result<()>;

    /// Remove the entry `from` and all after it, the last one first.
    fn truncate(&self, from: u64) -> io::Result<()>;

    /// Remove the entries up to and including `upto` some time soon. Nobody reads them any more.
    fn forget(&self, upto: u64);

    /// A value beside the entries.
    fn meta(&self, key: MetaKey) -> io::Result<Option<Vec<u8>>>;

    /// Replace a value beside the entries.
    fn set_meta(&self, key: MetaKey, value: Vec<u8>) -> io::Result<()>;

    /// Report to `done` once all writes so far are durable. Returns at once.
    fn barrier(&self, done: Done);
}
