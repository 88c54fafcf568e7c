//! The writer thread: the only one that appends, and the only one that changes the index.
//!
//! A round takes every request that waits, puts the records of all of them into one buffer, writes
//! that with one call, syncs once if a message is among them, and then answers. Marks and chunks
//! need no sync of their own; marks get one within a second if no message brings it.
//!
//! **Invariant:** a commit is answered `Ok` only after a sync that covers its records, and entered
//! into the index only then. Records that were not covered when a write or sync failed lie beyond
//! a cut that the next segment's header records, so that they never come back.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::active::Active;
use super::draft::Ticket;
use super::error::SpoolError;
use super::format::{Cut, Kind, Location, RECORD_HEADER_OCTETS, RecordHeader};
use super::index::{Entry, Index};
use super::item::MarkItem;
use super::queue::{Commit, CopyOf, Note, Pace, Request};
use super::record::{self, EntryMeta, Part};
use super::shared::Shared;
use super::state::Mark;
use super::{EntryId, codec};

/// Marks alone are synced after this.
const SYNC_AFTER: Duration = Duration::from_secs(1);
/// A failing disk is tried again after this.
pub(super) const RETRY_AFTER: Duration = Duration::from_millis(500);

/// State of the writer thread.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    /// The segment that is written to; none while the disk fails.
    pub(super) active: Option<Active>,
    pub(super) next_segment: u32,
    /// Where segments end whose last write or sync failed, until a new header says so.
    pub(super) cuts: Vec<Cut>,
    /// What is not yet covered by a sync, in order; empty without an active segment.
    pub(super) unsynced: Vec<Unsynced>,
    /// Small records that a failed segment did not keep.
    pub(super) redo: Vec<Redo>,
    /// Chunks of messages that are still arriving.
    pub(super) drafts: HashMap<EntryId, Vec<Part>>,
    pub(super) retry_at: Option<Instant>,
    /// Why there is no active segment.
    pub(super) failure: SpoolError,
    sync_due: Option<Instant>,
    pub(super) sync_needed: bool,
}

/// A record that is not yet covered by a sync.
pub(super) enum Unsynced {
    Commit {
        id: EntryId,
        entry: Entry,
        parts: Vec<Part>,
        answer: Answer,
    },
    Chunk {
        answer: Option<oneshot::Sender<Result<(), SpoolError>>>,
    },
    Note {
        id: EntryId,
        note: Note,
        at: Location,
        home: u32,
        ends: bool,
    },
    Copy {
        copy: CopyOf,
        moved: Vec<Part>,
        parts: Vec<Part>,
        at: Location,
        answer: mpsc::Sender<bool>,
    },
    Flush(oneshot::Sender<Result<(), SpoolError>>),
}

pub(super) type Answer = oneshot::Sender<Result<Ticket, SpoolError>>;

/// A small record to be written again, or for the first time.
pub(super) enum Redo {
    /// It has not been applied to the index.
    New { id: EntryId, note: Note },
    /// It has been, as a record at `from`.
    Again { id: EntryId, note: Note, from: Location, home: u32, ends: bool },
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, next_segment: u32, cuts: Vec<Cut>) -> Self {
        Self {
            shared,
            active: None,
            next_segment,
            cuts,
            unsynced: Vec::new(),
            redo: Vec::new(),
            drafts: HashMap::new(),
            retry_at: None,
            failure: SpoolError::Closed,
            sync_due: None,
            sync_needed: false,
        }
    }

    /// Serve requests until one says close.
    pub(super) fn run(mut self) {
        let (mut requests, mut pace) = (Vec::new(), Pace::new());
        loop {
            let deadline = [self.sync_due, self.retry_at].into_iter().flatten().min();
            self.shared.queue.take(&mut requests, &mut pace, deadline);
            let mut close = None;
            for request in requests.drain(..) {
                match request {
                    Request::Close(answer) => close = Some(answer),
                    request => self.accept(request),
                }
            }
            self.finish_round(close.is_some());
            if let Some(answer) = close {
                self.shared.set_writable(false);
                self.shared.queue.close();
                if let Some(active) = self.active.take() {
                    active.seal(&self.shared, false);
                }
                let outcome = if self.unsynced.is_empty() && self.redo.is_empty() {
                    Ok(())
                } else {
                    Err(SpoolError::Disk("marks could not be written".into()))
                };
                let _ = answer.send(outcome);
                return;
            }
        }
    }

    /// Write what was accepted; sync if a message needs it, or marks have waited long enough.
    fn finish_round(&mut self, closing: bool) {
        let now = Instant::now();
        if self.retry_at.is_some_and(|at| now >= at) || (closing && self.active.is_none()) {
            self.reopen();
        }
        let due = self.sync_due.is_some_and(|at| now >= at);
        if self.sync_needed || due || closing {
            self.sync();
        } else {
            self.write();
        }
        let waiting = self.unsynced.iter().any(|record| matches!(record, Unsynced::Note { .. }));
        if !waiting {
            self.sync_due = None;
        } else if self.sync_due.is_none() {
            self.sync_due = Some(now + SYNC_AFTER);
        }
    }

    /// Put the record of a request into the buffer.
    fn accept(&mut self, request: Request) {
        match request {
            Request::Chunk { id, text, answer, room: _room } => self.chunk(id, &text, answer),
            Request::Commit(commit) => self.commit(*commit),
            Request::GiveUp(id) => self.give_up(id),
            Request::Note { id, note } => self.note(id, note),
            Request::Copy(copy) => self.copy(*copy),
            Request::Flush(answer) => {
                self.reopen();
                if self.active.is_some() {
                    self.unsynced.push(Unsynced::Flush(answer));
                    self.sync_needed = true;
                } else {
                    let _ = answer.send(Err(self.failure.clone()));
                }
            }
            // The caller takes it out.
            Request::Close(_) => {}
        }
    }

    fn chunk(&mut self, id: EntryId, text: &[u8], answer: oneshot::Sender<Result<(), SpoolError>>) {
        let header = record::header(Kind::Chunk, id, &[], text);
        if let Err(error) = self.place(header.record_octets()) {
            self.give_up(id);
            let _ = answer.send(Err(error));
            return;
        }
        let at = self.put(&header, &[], text);
        let part = Part { segment: at.segment, offset: at.offset, octets: header.text_octets };
        let mut index = self.shared.index();
        index.segments.keep(part.segment, u64::from(part.octets));
        if let Some(segment) = index.segments.get_mut(part.segment) {
            segment.drafts += 1;
        }
        drop(index);
        self.drafts.entry(id).or_default().push(part);
        self.unsynced.push(Unsynced::Chunk { answer: Some(answer) });
    }

    fn commit(&mut self, commit: Commit) {
        let Commit { id, envelope, recipients, text, text_crc, chunks, marks, .. } = commit;
        let (hold, answer, _room) = (commit.hold, commit.answer, commit.room);
        // Room first: making it may fail a segment, and chunks of this message with it.
        let marks_octets: u64 = marks.iter().map(record::mark_octets).sum();
        if let Err(error) = self.place(entry_octets(&envelope, &text, chunks) + marks_octets) {
            self.give_up(id);
            let _ = answer.send(Err(error));
            return;
        }
        let parts = self.drafts.remove(&id).unwrap_or_default();
        if parts.len() != chunks {
            release_draft(&mut self.shared.index(), &parts);
            let _ = answer.send(Err(SpoolError::Incomplete));
            return;
        }
        let meta = EntryMeta { hold, marks, parts, envelope: &envelope };
        let bytes = meta.encode();
        let text_crc = (codec::count(text.len()), text_crc);
        let header = record::header_with(entry_kind(chunks), id, &bytes, text_crc);
        let at = self.put(&header, &bytes, &text);
        let octets = match chunks {
            0 => text.len() as u64,
            _ => meta.parts.iter().map(|part| u64::from(part.octets)).sum(),
        };
        let mut entry = Entry::new(at, octets, recipients);
        entry.fold(hold, &meta.marks.iter().map(MarkItem::from).collect::<Vec<_>>());
        self.unsynced.push(Unsynced::Commit { id, entry, parts: meta.parts, answer });
        self.sync_needed = true;
    }

    /// Chunks of a draft are no longer waited for.
    pub(super) fn give_up(&mut self, id: EntryId) {
        if let Some(parts) = self.drafts.remove(&id) {
            release_draft(&mut self.shared.index(), &parts);
        }
    }

    /// Write a small record, now or as soon as the disk lets us.
    pub(super) fn note(&mut self, id: EntryId, note: Note) {
        // The order of marks of one entry matters, so none overtakes those that wait.
        if !self.redo.is_empty() {
            // Without a retry's record a restart tries again too early, which does no harm; memory
            // without a bound would.
            let harmless = matches!(note, Note::Mark(Mark::Deferred { .. }));
            if !harmless || self.redo.len() < self.shared.limits.spool_waiting_marks_max {
                self.redo.push(Redo::New { id, note });
            }
            return;
        }
        if self.shared.index().get(id).is_none() {
            return;
        }
        let Ok(at) = self.place(record::note_octets(&note)) else {
            self.redo.push(Redo::New { id, note });
            return;
        };
        let applied = match &note {
            Note::Mark(mark) => self
                .shared
                .index()
                .apply(id, MarkItem::from(mark), at)
                .map(|applied| (applied.home, applied.ends)),
            Note::Forget(_) => self.shared.index().finish(id, at.segment).map(|home| (home, true)),
        };
        if let Some((home, ends)) = applied {
            self.put_note(id, note, at, home, ends);
        }
    }

    /// Append the record of a note at the place that was made for it.
    pub(super) fn put_note(
        &mut self,
        id: EntryId,
        note: Note,
        at: Location,
        home: u32,
        ends: bool,
    ) {
        let (kind, meta) = match &note {
            Note::Mark(mark) => (Kind::Mark, record::encode_mark_meta(home, mark)),
            Note::Forget(reason) => (Kind::Forget, record::encode_forget_meta(home, *reason)),
        };
        let header = RecordHeader { ends, ..record::header(kind, id, &meta, &[]) };
        let placed = self.put(&header, &meta, &[]);
        debug_assert_eq!(placed, at, "a record goes where the index says");
        self.unsynced.push(Unsynced::Note { id, note, at, home, ends });
    }

    /// Sync, and answer everybody. This is the one place where a message becomes durable: another
    /// durability sink, such as a copy on another host, would be awaited here as well.
    fn sync(&mut self) {
        self.sync_needed = false;
        // A failed write has answered them already.
        if !self.write() {
            return;
        }
        let Some(active) = self.active.as_mut() else { return };
        match active.sync() {
            Ok(()) => self.synced(),
            Err(error) => self.fail(&error, true),
        }
    }

    /// Write the buffer. False if that failed.
    fn write(&mut self) -> bool {
        let Some(active) = self.active.as_mut() else { return true };
        if active.buffered() == 0 {
            return true;
        }
        if let Err(error) = active.write() {
            self.fail(&error, false);
            return false;
        }
        let (number, end) = (active.segment, active.end());
        if let Some(segment) = self.shared.index().segments.get_mut(number) {
            segment.end = end;
        }
        for record in &mut self.unsynced {
            if let Unsynced::Chunk { answer } = record
                && let Some(answer) = answer.take()
            {
                let _ = answer.send(Ok(()));
            }
        }
        true
    }

    /// Everything written so far is on stable storage.
    fn synced(&mut self) {
        for record in std::mem::take(&mut self.unsynced) {
            match record {
                Unsynced::Commit { id, entry, parts, answer } => {
                    self.drafts.remove(&id);
                    let mut index = self.shared.index();
                    // First in, then out: a segment that is needed is never without a need.
                    index.insert(id, entry, &parts);
                    release_draft(&mut index, &parts);
                    drop(index);
                    let _ = answer.send(Ok(Ticket::new(&self.shared, id)));
                }
                Unsynced::Copy { copy, moved, parts, at, answer } => {
                    self.copied(copy, &moved, &parts, at);
                    let _ = answer.send(true);
                }
                Unsynced::Flush(answer) => {
                    let _ = answer.send(Ok(()));
                }
                Unsynced::Note { .. } | Unsynced::Chunk { .. } => {}
            }
        }
        // What waits to be written again has happened, but is on no disk yet.
        if self.redo.is_empty() {
            self.shared.index().segments.synced();
        }
    }

    /// A place of `octets` in the active segment, after going on to a new one if it is full.
    pub(super) fn place(&mut self, octets: u64) -> Result<Location, SpoolError> {
        let batch_octets_max = self.shared.limits.spool_batch_octets_max;
        if self.active.as_ref().is_some_and(|active| active.buffered() >= batch_octets_max) {
            self.write();
        }
        if self.active.as_ref().is_some_and(|active| !active.has_room(octets)) {
            self.roll();
        }
        if self.active.is_none() {
            self.open_if_due()?;
        }
        self.active.as_ref().map(Active::next).ok_or_else(|| self.failure.clone())
    }

    /// Append a record at the place that was made for it.
    pub(super) fn put(&mut self, header: &RecordHeader, meta: &[u8], text: &[u8]) -> Location {
        match self.active.as_mut() {
            Some(active) => active.put(header, meta, text),
            // Nobody asks before a place was made.
            None => Location::NONE,
        }
    }

    /// The active segment is full: sync it, so that only the newest segment is ever unsynced, and
    /// go on without one.
    fn roll(&mut self) {
        let full = self.active.as_ref().map(|active| active.segment);
        self.sync();
        // If that failed, there may be another one already.
        if let Some(active) = self.active.take_if(|active| Some(active.segment) == full) {
            active.seal(&self.shared, false);
        }
    }
}

/// What the record of an entry is called.
pub(super) fn entry_kind(chunks: usize) -> Kind {
    if chunks == 0 { Kind::Message } else { Kind::Commit }
}

/// At least the octets of the record of an entry without marks.
pub(super) fn entry_octets(envelope: &[u8], text: &[u8], chunks: usize) -> u64 {
    let fixed = u64::from(RECORD_HEADER_OCTETS) + 64;
    fixed + (envelope.len() + text.len() + chunks * 12) as u64
}

/// The parts of a draft are needed by it no more.
pub(super) fn release_draft(index: &mut Index, parts: &[Part]) {
    for part in parts {
        index.segments.release_draft(part.segment, u64::from(part.octets));
    }
}
