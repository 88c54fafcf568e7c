//! Writing again what a mostly dead segment still has that is needed, so that it can go.

use std::io;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::format::{Kind, Location, RecordHeader};
use super::item::MarkItem;
use super::queue::{Copy, CopyOf, Request};
use super::read::{Care, Fault, Reader, Snapshot};
use super::record::{self, Part};
use super::scan::{Depth, Found, Scan};
use super::shared::Shared;
use super::{EntryId, quarantine};

/// So many octets are on their way to the writer at a time.
const WINDOW_OCTETS: u64 = 1024 * 1024;
/// At least so much is counted for each record.
const RECORD_OCTETS: u64 = 256;

/// Copy all that is needed out of segment `number`. True if nothing is needed there any more.
pub(super) fn compact(shared: &Arc<Shared>, number: u32) -> io::Result<bool> {
    let found = shared.index().segments.get(number).cloned();
    let Some(segment) = found else { return Ok(true) };
    let file = shared.open_segment(number)?;
    let mut scan = Scan::new(file, segment.salt, u64::from(segment.end), Depth::Meta);
    let mut run = Run::new(shared, number);
    while let Some(found) = scan.next()? {
        if shared.upkeep.is_stopped() {
            return Ok(false);
        }
        match found {
            Found::Record { at, header, meta } => run.record(at, &header, meta)?,
            // With its header it is either an entry, which can be set aside by its id, or a mark,
            // whose content memory still has. Without, nobody knows what it was.
            Found::Bad(bad) => match bad.header {
                Some(header) => {
                    run.damaged(Location { segment: number, offset: bad.at }, &header)?
                }
                None => run.failed = true,
            },
        }
    }
    run.settle();
    let mut index = shared.index();
    let Some(segment) = index.segments.get_mut(number) else { return Ok(true) };
    if run.failed {
        return Ok(false);
    }
    // What ended entries elsewhere has been written again.
    segment.ends.clear();
    Ok(segment.live == 0)
}

/// One pass over a segment.
struct Run<'a> {
    shared: &'a Arc<Shared>,
    number: u32,
    /// Answers that are due, and the octets they stand for.
    waiting: Vec<mpsc::Receiver<bool>>,
    window: u64,
    start: Instant,
    octets: u64,
    /// Something could not be copied.
    failed: bool,
}

impl<'a> Run<'a> {
    fn new(shared: &'a Arc<Shared>, number: u32) -> Self {
        Self {
            shared,
            number,
            waiting: Vec::new(),
            window: 0,
            start: Instant::now(),
            octets: 0,
            failed: false,
        }
    }

    fn record(&mut self, at: u32, header: &RecordHeader, meta: Vec<u8>) -> io::Result<()> {
        let here = Location { segment: self.number, offset: at };
        let id = header.id;
        match header.kind {
            Kind::Message | Kind::Commit => {
                if self.shared.index().get(id).is_some_and(|entry| entry.home == here) {
                    self.entry(id)?;
                }
            }
            Kind::Chunk => {
                let of_entry = self
                    .shared
                    .index()
                    .parts(id)
                    .iter()
                    .any(|part| part.segment == self.number && part.offset == at);
                if of_entry {
                    self.entry(id)?;
                }
            }
            Kind::Mark if !header.ends => {
                if let Some((_, mark)) = record::decode_mark_meta(&meta) {
                    let item = MarkItem::from(&mark);
                    if self.shared.index().needs_mark(id, item, here) {
                        self.send(CopyOf::Mark { id, mark, from: here }, RECORD_OCTETS);
                    }
                }
            }
            Kind::Mark | Kind::Forget => {
                let home = super::codec::Input(&meta).u32().unwrap_or_default();
                let exists = self.shared.index().segments.get(home).is_some();
                if exists && home != self.number {
                    // The writer refuses it while a later copy of the same id is in the queue.
                    self.send(CopyOf::Ending { kind: header.kind, id, meta, home }, RECORD_OCTETS);
                }
            }
        }
        Ok(())
    }

    /// A record with a good header and a bad body.
    fn damaged(&mut self, here: Location, header: &RecordHeader) -> io::Result<()> {
        let is_home = self.shared.index().get(header.id).is_some_and(|entry| entry.home == here);
        if is_home {
            quarantine::set_aside(self.shared, header.id)?;
        } else if matches!(header.kind, Kind::Mark | Kind::Forget) {
            self.failed = true;
        }
        Ok(())
    }

    /// Copy an entry with its marks folded in. Of a large one only the chunks in this segment: with
    /// the others, a message over two segments would be moved for ever, its ends ever in new ones.
    fn entry(&mut self, id: EntryId) -> io::Result<()> {
        let Some(snapshot) = Snapshot::of(self.shared, id) else { return Ok(()) };
        let mut reader = Reader::new(self.shared);
        let copied = match reader.stored(&snapshot, Care::Exact) {
            Ok(stored) => {
                let here = |part: &&Part| part.segment == self.number;
                let moving: Vec<Part> = stored.parts.iter().filter(here).copied().collect();
                let sent = moving.iter().try_for_each(|part| {
                    let text = reader.segment(part.segment)?.chunk(id, *part)?;
                    self.chunk(id, text.into());
                    Ok(())
                });
                sent.map(|()| CopyOf::Entry {
                    id,
                    hold: snapshot.hold,
                    marks: stored.marks,
                    envelope: stored.envelope.into(),
                    text: stored.text.into(),
                    parts: stored.parts,
                    from: self.number,
                    snapshot: snapshot.entry,
                })
            }
            Err(fault) => Err(fault),
        };
        match copied {
            Ok(copy) => {
                let CopyOf::Entry { text, parts, .. } = &copy else { return Ok(()) };
                let (octets, large) = (text.len() as u64, !parts.is_empty());
                self.send(copy, octets + RECORD_OCTETS);
                // Its other chunks in this segment are then seen not to be needed.
                if large {
                    self.settle();
                }
                Ok(())
            }
            Err(fault) => {
                self.shared.queue.push(Request::GiveUp(id));
                match fault {
                    Fault::Io(error) => Err(error),
                    // It has just ended, or its other segment is lost.
                    Fault::Gone => {
                        self.failed = true;
                        Ok(())
                    }
                    Fault::Damaged => quarantine::set_aside(self.shared, id),
                }
            }
        }
    }

    fn chunk(&mut self, id: EntryId, text: Vec<u8>) {
        self.pace(text.len() as u64);
        let (answer, answered) = oneshot::channel();
        self.shared.queue.push(Request::Chunk { id, text, answer, room: None });
        // A chunk that failed is missed by the copy that follows it.
        let _ = answered.blocking_recv();
    }

    fn send(&mut self, what: CopyOf, octets: u64) {
        self.pace(octets);
        let (answer, answered) = mpsc::channel();
        self.shared.queue.push(Request::Copy(Box::new(Copy { what, answer })));
        self.waiting.push(answered);
        self.window += octets;
        if self.window >= WINDOW_OCTETS {
            self.settle();
        }
    }

    /// Wait for all answers.
    fn settle(&mut self) {
        for answered in self.waiting.drain(..) {
            if answered.recv() != Ok(true) {
                self.failed = true;
            }
        }
        self.window = 0;
    }

    /// Not faster than the limit.
    fn pace(&mut self, octets: u64) {
        self.octets += octets;
        let rate = self.shared.limits.compact_octets_per_second.max(1);
        let due = Duration::from_millis(self.octets.saturating_mul(1000) / rate);
        let ahead = due.saturating_sub(self.start.elapsed());
        // Small steps are taken together: the writer should not be woken for each.
        if ahead > Duration::from_millis(20) {
            self.shared.upkeep.pause(ahead);
        }
    }
}
