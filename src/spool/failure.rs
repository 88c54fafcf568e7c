//! What the writer does when the disk fails it: give up the file, never a promise.
//!
//! After an error nothing that was not synced before is acknowledged. The file gets no more
//! records and is never synced again: the kernel drops its dirty pages after a failed sync, so
//! that a second one would lie. A new segment's header says where the old one ends; only when it
//! is durable are the waiting clients told, if a new segment can be made at all.

use std::io;
use std::time::Instant;

use super::active::Active;
use super::error::SpoolError;
use super::format::{CUTS_MAX, Cut};
use super::item::MarkItem;
use super::queue::Note;
use super::record;
use super::writer::{RETRY_AFTER, Redo, Unsynced, Writer, release_draft};
use crate::telemetry::metrics::METRICS;

impl Writer {
    /// The active segment failed.
    pub(super) fn fail(&mut self, error: &io::Error, in_sync: bool) {
        let Some(active) = self.active.take() else { return };
        let cut = Cut { segment: active.segment, end: active.synced_end() };
        if in_sync {
            METRICS.spool_fsync_errors_total.inc();
        }
        tracing::error!(segment = cut.segment, end = cut.end, in_sync, %error,
            "the spool's disk failed; what was not synced is refused, the file is given up");
        self.shared.set_writable(false);
        active.seal(&self.shared, in_sync);
        self.cuts.push(cut);
        self.failure = refusal(error);
        self.drop_cut_drafts(cut);
        let waiting = self.take_back();
        self.reopen();
        for record in waiting {
            match record {
                Unsynced::Commit { answer, .. } => drop(answer.send(Err(refusal(error)))),
                Unsynced::Chunk { answer: Some(answer) } => drop(answer.send(Err(refusal(error)))),
                Unsynced::Copy { answer, .. } => drop(answer.send(false)),
                Unsynced::Flush(answer) => drop(answer.send(Err(refusal(error)))),
                Unsynced::Chunk { answer: None } | Unsynced::Note { .. } => {}
            }
        }
    }

    /// Everything unsynced; notes go to those that are written again.
    fn take_back(&mut self) -> Vec<Unsynced> {
        let mut waiting = Vec::new();
        for record in std::mem::take(&mut self.unsynced) {
            match record {
                Unsynced::Note { id, note, at, home, ends } => {
                    self.redo.push(Redo::Again { id, note, from: at, home, ends });
                }
                Unsynced::Commit { ref parts, .. } | Unsynced::Copy { moved: ref parts, .. } => {
                    release_draft(&mut self.shared.index(), parts);
                    waiting.push(record);
                }
                record => waiting.push(record),
            }
        }
        waiting
    }

    /// Drafts lose their chunks beyond the cut, and so can never be committed.
    fn drop_cut_drafts(&mut self, cut: Cut) {
        let beyond = |segment: u32, offset: u32| segment == cut.segment && offset >= cut.end;
        let lost: Vec<_> = self
            .drafts
            .iter()
            .filter(|(_, parts)| parts.iter().any(|part| beyond(part.segment, part.offset)))
            .map(|(id, _)| *id)
            .collect();
        lost.into_iter().for_each(|id| self.give_up(id));
    }

    /// Make a new segment unless that failed a moment ago.
    pub(super) fn open_if_due(&mut self) -> Result<(), SpoolError> {
        if self.retry_at.is_none_or(|at| Instant::now() >= at) {
            self.reopen();
        }
        if self.active.is_some() { Ok(()) } else { Err(self.failure.clone()) }
    }

    /// Make a new segment, which takes over from those that failed, and write again what they
    /// should have kept.
    pub(super) fn reopen(&mut self) {
        if self.active.is_some() {
            return;
        }
        match self.create() {
            Ok(active) => {
                self.active = Some(active);
                self.cuts.clear();
                if self.retry_at.take().is_some() {
                    tracing::info!("a segment of the spool could be made again; mail is accepted");
                }
                self.shared.space.forget();
                self.shared.set_writable(true);
                self.write_again();
            }
            Err(error) => {
                // Said once: the next tries come twice a second.
                if self.retry_at.is_none() {
                    tracing::error!(%error,
                        "cannot make a segment of the spool; no mail is accepted until that works");
                }
                self.failure = refusal(&error);
                self.retry_at = Some(Instant::now() + RETRY_AFTER);
                self.shared.set_writable(false);
            }
        }
    }

    fn create(&mut self) -> io::Result<Active> {
        if self.cuts.len() > CUTS_MAX {
            return Err(io::Error::other("too many segments have failed in a row"));
        }
        let segment = self.next_segment;
        // A number is used once, even if the file came to nothing and could not be removed.
        self.next_segment = segment
            .checked_add(1)
            .ok_or_else(|| io::Error::other("the segment numbers are used up"))?;
        let mut header = Active::header(segment, self.shared.node_id, self.shared.ids.floor());
        header.cuts.clone_from(&self.cuts);
        Active::create(&self.shared, &header)
    }

    fn write_again(&mut self) {
        let mut waiting = std::mem::take(&mut self.redo).into_iter();
        while let Some(redo) = waiting.next() {
            let octets = match &redo {
                Redo::New { note, .. } | Redo::Again { note, .. } => record::note_octets(note),
            };
            // Making room may fail this segment as well, and then queues what it held before us.
            match (self.place(octets), redo) {
                (Err(_), redo) => {
                    self.redo.push(redo);
                    self.redo.extend(waiting);
                    return;
                }
                (Ok(_), Redo::New { id, note }) => self.note(id, note),
                (Ok(at), Redo::Again { id, note, from, home, ends }) => {
                    let mut index = self.shared.index();
                    match &note {
                        Note::Mark(mark) if !ends => {
                            index.move_mark(id, MarkItem::from(mark), from, at);
                        }
                        _ => index.segments.ended(at.segment, home),
                    }
                    drop(index);
                    self.put_note(id, note, at, home, ends);
                }
            }
        }
    }
}

/// What a client is told.
fn refusal(error: &io::Error) -> SpoolError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SpoolError::Full,
        _ => SpoolError::Disk(error.to_string()),
    }
}
