//! Reading records back by their place, every checksum verified.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::EntryId;
use super::format::{Kind, Location, RECORD_HEADER_OCTETS, RecordHeader};
use super::fs::SpoolFile;
use super::index::{Entry, Slot};
use super::record::{self, EntryMeta, Part};
use super::shared::Shared;
use super::state::Mark;
use crate::smtp::Enhanced;

/// Read so much beyond the expected text at first: the envelope is nearly always within.
const META_GUESS_OCTETS: u64 = 2048;

/// Why a record could not be read.
#[derive(Debug)]
pub(super) enum Fault {
    /// The file is no more: the entry was moved or has ended.
    Gone,
    /// It is not what was written.
    Damaged,
    Io(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Gone,
            _ => Self::Io(error),
        }
    }
}

/// What memory knows of an entry at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) id: EntryId,
    pub(super) entry: Entry,
    pub(super) hold: Option<Location>,
}

impl Snapshot {
    pub(super) fn of(shared: &Shared, id: EntryId) -> Option<Self> {
        let index = shared.index();
        let entry = index.get(id)?.clone();
        Some(Self { id, entry, hold: index.hold_of(id) })
    }
}

/// A record as it is on disk.
pub(super) struct Record {
    pub(super) header: RecordHeader,
    pub(super) meta: Bytes,
    pub(super) text: Bytes,
}

/// An entry as it is on disk, with the marks since.
pub(super) struct Stored {
    /// The newest mark of each recipient that has one.
    pub(super) marks: Vec<Mark>,
    pub(super) envelope: Bytes,
    /// The whole text, unless it is in parts.
    pub(super) text: Bytes,
    pub(super) parts: Vec<Part>,
}

/// Open segments, each opened once.
pub(super) struct Reader<'a> {
    shared: &'a Shared,
    files: HashMap<u32, OpenSegment>,
}

/// A segment to read from. The file stays readable though its name may go.
#[derive(Clone)]
pub(super) struct OpenSegment {
    pub(super) file: Arc<dyn SpoolFile>,
    pub(super) salt: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self { shared, files: HashMap::new() }
    }

    pub(super) fn segment(&mut self, number: u32) -> Result<OpenSegment, Fault> {
        if let Some(open) = self.files.get(&number) {
            return Ok(open.clone());
        }
        let salt = self.shared.index().segments.get(number).map(|segment| segment.salt);
        let salt = salt.ok_or(Fault::Gone)?;
        let open = OpenSegment { file: self.shared.open_segment(number)?, salt };
        self.files.insert(number, open.clone());
        Ok(open)
    }

    /// The entry of `snapshot`, as it is on disk.
    pub(super) fn stored(&mut self, snapshot: &Snapshot, care: Care) -> Result<Stored, Fault> {
        let home = snapshot.entry.home;
        let guess = META_GUESS_OCTETS + snapshot.entry.inline_octets();
        let record = self.segment(home.segment)?.record(home.offset, guess)?;
        let kind_ok = matches!(record.header.kind, Kind::Message | Kind::Commit);
        if record.header.id != snapshot.id || !kind_ok {
            return Err(Fault::Damaged);
        }
        let meta = EntryMeta::decode(&record.meta).ok_or(Fault::Damaged)?;
        let mut marks = meta.marks;
        for (recipient, slot) in (0_u32..).zip(snapshot.entry.slots()) {
            if slot.mark == Location::NONE {
                continue;
            }
            let newest = match self.mark(snapshot.id, slot.mark) {
                Ok(mark) => mark,
                Err(fault) if care == Care::Exact && !self.is_lost(slot.mark, &fault) => {
                    return Err(Fault::Gone);
                }
                Err(_) => without_reply(recipient, *slot),
            };
            let older = |mark: &Mark| record::recipient_of(mark) != record::recipient_of(&newest);
            marks.retain(older);
            marks.push(newest);
        }
        let envelope = record.meta.slice_ref(meta.envelope);
        Ok(Stored { marks, envelope, text: record.text, parts: meta.parts })
    }

    fn mark(&mut self, id: EntryId, at: Location) -> Result<Mark, Fault> {
        let record = self.segment(at.segment)?.record(at.offset, 0)?;
        let ours = record.header.id == id && record.header.kind == Kind::Mark;
        let mark = ours.then(|| record::decode_mark_meta(&record.meta)).flatten();
        mark.map(|(_, mark)| mark).ok_or(Fault::Damaged)
    }

    /// Whether a mark will never be readable. In the segment that is written to, it may just not
    /// be written yet.
    fn is_lost(&self, at: Location, fault: &Fault) -> bool {
        let index = self.shared.index();
        let sealed = index.segments.get(at.segment).is_some_and(|segment| segment.sealed);
        matches!(fault, Fault::Damaged) && sealed
    }
}

/// How good the marks of an entry must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Care {
    /// A mark that cannot be read now is made up from memory, without its reply.
    Now,
    /// They are to be kept, so only one that is lost for good is made up.
    Exact,
}

/// What memory knows of a mark.
fn without_reply(recipient: u32, slot: Slot) -> Mark {
    let (reply, at_us) = (String::new(), 0);
    match slot.outcome {
        Some(outcome) => Mark::Final { recipient, outcome, dsn: Enhanced(2, 0, 0), reply, at_us },
        None => {
            let (attempts, due_us, warned) = (slot.attempts(), slot.due_us(), slot.warned);
            let dsn = Enhanced(4, 0, 0);
            Mark::Deferred { recipient, attempts, due_us, dsn, reply, at_us, warned }
        }
    }
}

impl OpenSegment {
    /// The record at `offset`; `guess` is how many octets its body may have.
    pub(super) fn record(&self, offset: u32, guess: u64) -> Result<Record, Fault> {
        const HEADER: usize = RECORD_HEADER_OCTETS as usize;
        let guess = usize::try_from(guess).unwrap_or(0).min(1 << 20);
        let mut bytes = vec![0; HEADER + guess];
        let filled = self.file.read_at(u64::from(offset), &mut bytes)?;
        bytes.truncate(filled);
        let head = bytes.get(..HEADER).ok_or(Fault::Damaged)?;
        let header = RecordHeader::decode(head, self.salt, offset).ok_or(Fault::Damaged)?;
        let octets = usize::try_from(header.record_octets()).map_err(|_| Fault::Damaged)?;
        if bytes.len() < octets {
            let missing = bytes.len();
            bytes.resize(octets, 0);
            let at = u64::from(offset) + missing as u64;
            if self.file.read_at(at, &mut bytes[missing..])? < octets - missing {
                return Err(Fault::Damaged);
            }
        }
        bytes.truncate(octets);
        let body = Bytes::from(bytes).slice(HEADER..);
        let meta = body.slice(..header.meta_octets as usize);
        let text = body.slice(header.meta_octets as usize..);
        let good =
            crc32fast::hash(&meta) == header.meta_crc && crc32fast::hash(&text) == header.text_crc;
        if good { Ok(Record { header, meta, text }) } else { Err(Fault::Damaged) }
    }

    /// The text of one chunk of a large message.
    pub(super) fn chunk(&self, id: EntryId, part: Part) -> Result<Bytes, Fault> {
        let record = self.record(part.offset, u64::from(part.octets))?;
        let ours = record.header.id == id && record.header.kind == Kind::Chunk;
        if ours && record.header.text_octets == part.octets {
            Ok(record.text)
        } else {
            Err(Fault::Damaged)
        }
    }
}
