//! Records that compaction writes again, and what the index learns of that.
//!
//! **Invariant:** the index keeps the old place until the new one is synced, and the new record
//! comes in the log after every mark that is folded into it. So at any moment a crash leaves the
//! entry once or twice, never half, and of two the newer one is as good.

use super::EntryId;
use super::codec;
use super::format::{Kind, Location, RECORD_HEADER_OCTETS, RecordHeader};
use super::item::MarkItem;
use super::queue::{Copy, CopyOf};
use super::record::{self, EntryMeta, Part};
use super::writer::{Unsynced, Writer, entry_kind, entry_octets, release_draft};

/// A record ready to be put.
struct Ready {
    header: RecordHeader,
    meta: Vec<u8>,
    /// The new chunks.
    moved: Vec<Part>,
    /// All chunks of the entry, new and old.
    parts: Vec<Part>,
}

impl Writer {
    /// Write a record again for compaction, unless it is no longer what it was.
    pub(super) fn copy(&mut self, copy: Copy) {
        let Copy { what, answer } = copy;
        let id = what.id();
        // Room first: making it may fail a segment, and change what is true.
        if self.place(octets_of(&what)).is_err() {
            self.give_up(id);
            let _ = answer.send(false);
            return;
        }
        let ready = match self.ready(&what) {
            Ok(ready) => ready,
            Err(as_good) => {
                self.give_up(id);
                let _ = answer.send(as_good);
                return;
            }
        };
        let text = what.text();
        let at = self.put(&ready.header, &ready.meta, text);
        let (moved, parts) = (ready.moved, ready.parts);
        self.unsynced.push(Unsynced::Copy { copy: what, moved, parts, at, answer });
        self.sync_needed = true;
    }

    /// The record to write. `Err(true)` if there is no need any more, `Err(false)` if the entry has
    /// changed since it was read.
    fn ready(&mut self, what: &CopyOf) -> Result<Ready, bool> {
        match what {
            CopyOf::Entry { id, snapshot, hold, marks, envelope, text, parts, from } => {
                let index = self.shared.index();
                let same = index.get(*id) == Some(snapshot) && index.hold_of(*id) == *hold;
                drop(index);
                let moving = parts.iter().filter(|part| part.segment == *from).count();
                if !same || self.drafts.get(id).map_or(0, Vec::len) != moving {
                    return Err(false);
                }
                let moved = self.drafts.remove(id).unwrap_or_default();
                let (mut parts, mut new) = (parts.clone(), moved.iter());
                for part in parts.iter_mut().filter(|part| part.segment == *from) {
                    new.next().into_iter().for_each(|new| *part = *new);
                }
                let (hold, marks) = (snapshot.hold(), marks.clone());
                let meta = EntryMeta { hold, marks, parts, envelope };
                let bytes = meta.encode();
                let header = record::header(entry_kind(meta.parts.len()), *id, &bytes, text);
                Ok(Ready { header, meta: bytes, moved, parts: meta.parts })
            }
            CopyOf::Mark { id, mark, from } => {
                let index = self.shared.index();
                let needed = index.needs_mark(*id, MarkItem::from(mark), *from);
                let home = index.get(*id).filter(|_| needed).map(|entry| entry.home.segment);
                drop(index);
                let meta = record::encode_mark_meta(home.ok_or(true)?, mark);
                let header = record::header(Kind::Mark, *id, &meta, &[]);
                Ok(Ready { header, meta, moved: Vec::new(), parts: Vec::new() })
            }
            // An entry may have come back from another node since. Behind its new record this one
            // would end it, so the segment with the old record has to go first.
            CopyOf::Ending { id, .. } if self.has(*id) => Err(false),
            CopyOf::Ending { kind, id, meta, .. } => {
                let header = RecordHeader { ends: true, ..record::header(*kind, *id, meta, &[]) };
                Ok(Ready { header, meta: meta.clone(), moved: Vec::new(), parts: Vec::new() })
            }
        }
    }

    /// Whether an entry of this id is in the queue, or will be with the next sync.
    fn has(&self, id: EntryId) -> bool {
        let coming =
            |record: &Unsynced| matches!(record, Unsynced::Commit { id: of, .. } if *of == id);
        self.shared.index().get(id).is_some() || self.unsynced.iter().any(coming)
    }

    /// A copy is on stable storage.
    pub(super) fn copied(&mut self, copy: CopyOf, moved: &[Part], parts: &[Part], at: Location) {
        let mut index = self.shared.index();
        match copy {
            CopyOf::Entry { id, snapshot, hold, .. } => {
                if index.rehome(id, &snapshot, at, parts) {
                    index.hold_folded(id, hold);
                }
                release_draft(&mut index, moved);
            }
            CopyOf::Mark { id, mark, from } => {
                index.move_mark(id, MarkItem::from(&mark), from, at);
            }
            CopyOf::Ending { home, .. } => index.segments.ended(at.segment, home),
        }
    }
}

impl CopyOf {
    fn id(&self) -> EntryId {
        match self {
            Self::Entry { id, .. } | Self::Mark { id, .. } | Self::Ending { id, .. } => *id,
        }
    }

    fn text(&self) -> &[u8] {
        match self {
            Self::Entry { text, .. } => text,
            Self::Mark { .. } | Self::Ending { .. } => &[],
        }
    }
}

/// At least the octets of the record.
fn octets_of(what: &CopyOf) -> u64 {
    match what {
        CopyOf::Entry { marks, envelope, text, parts, .. } => {
            let marks: u64 = marks.iter().map(|mark| record::mark_octets(mark) + 4).sum();
            marks + entry_octets(envelope, text, parts.len())
        }
        CopyOf::Mark { mark, .. } => record::mark_octets(mark),
        CopyOf::Ending { meta, .. } => {
            u64::from(RECORD_HEADER_OCTETS) + u64::from(codec::count(meta.len()))
        }
    }
}
