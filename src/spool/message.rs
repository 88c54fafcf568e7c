//! An entry read back for delivery.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::draft::CHUNK_OCTETS;
use super::error::ReadError;
use super::read::{Care, Fault, OpenSegment, Reader, Snapshot, Stored};
use super::record::{self, Part};
use super::shared::Shared;
use super::state::RecipientState;
use super::{EntryId, Hold, quarantine};
use crate::smtp::Envelope;

/// An entry can be moved by compaction while it is read, and then read again at its new place.
const TRIES: usize = 4;

/// A message of the spool, with its envelope and where each recipient stands.
#[derive(Clone)]
pub struct Message {
    /// Its id.
    pub id: EntryId,
    /// Its envelope.
    pub envelope: Arc<Envelope>,
    /// One per recipient.
    pub states: Vec<RecipientState>,
    /// Octets of its text.
    pub octets: u64,
    /// When the end of its data was reached, microseconds since 1970.
    pub received_at_us: u64,
    /// Why it is not delivered for now.
    pub hold: Hold,
    body: Body,
    shared: Arc<Shared>,
}

#[derive(Clone)]
enum Body {
    Whole(Bytes),
    Parts(Arc<[(OpenSegment, Part)]>),
}

impl Message {
    /// A new reader of the text, from its start.
    pub fn text(&self) -> TextReader {
        TextReader {
            id: self.id,
            body: self.body.clone(),
            next_part: 0,
            shared: Arc::clone(&self.shared),
        }
    }
}

/// Reads a message's text in pieces of at most 64 KiB. What it gives is what was written.
pub struct TextReader {
    id: EntryId,
    body: Body,
    next_part: usize,
    shared: Arc<Shared>,
}

impl TextReader {
    /// The next piece, `None` at the end. After an error the text is not complete and must not be
    /// ended as if it were.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, ReadError> {
        let (segment, part) = match &mut self.body {
            Body::Whole(text) if text.is_empty() => return Ok(None),
            Body::Whole(text) => return Ok(Some(text.split_to(CHUNK_OCTETS.min(text.len())))),
            Body::Parts(parts) => match parts.get(self.next_part) {
                Some(next) => next.clone(),
                None => return Ok(None),
            },
        };
        let (id, shared) = (self.id, Arc::clone(&self.shared));
        let read = tokio::task::spawn_blocking(move || match segment.chunk(id, part) {
            Ok(text) => Ok(text),
            Err(fault) => Err(report(&shared, id, fault)),
        });
        let text = read.await.map_err(|error| ReadError::Io { id, source: error.into() })??;
        self.next_part += 1;
        Ok(Some(text))
    }
}

/// Read an entry; `None` if there is none of this id.
pub(super) fn load(shared: &Arc<Shared>, id: EntryId) -> Result<Option<Message>, ReadError> {
    for _ in 0..TRIES {
        let Some(snapshot) = Snapshot::of(shared, id) else { return Ok(None) };
        let mut reader = Reader::new(shared);
        let made = reader
            .stored(&snapshot, Care::Now)
            .and_then(|s| assemble(shared, &mut reader, &snapshot, s));
        match made {
            Ok(message) => return Ok(Some(message)),
            Err(_) if moved(shared, &snapshot) => {}
            Err(fault) => return Err(report(shared, id, fault)),
        }
    }
    Err(ReadError::Io { id, source: io::ErrorKind::ResourceBusy.into() })
}

/// Whether anything of it is elsewhere by now: its record, or a mark that a newer one replaced and
/// whose segment may be gone.
fn moved(shared: &Shared, snapshot: &Snapshot) -> bool {
    Snapshot::of(shared, snapshot.id).is_none_or(|now| now != *snapshot)
}

fn assemble(
    shared: &Arc<Shared>,
    reader: &mut Reader<'_>,
    snapshot: &Snapshot,
    stored: Stored,
) -> Result<Message, Fault> {
    let envelope: Envelope =
        serde_json::from_slice(&stored.envelope).map_err(|_| Fault::Damaged)?;
    let body = if stored.parts.is_empty() {
        Body::Whole(stored.text)
    } else {
        let open = |part: Part| Ok((reader.segment(part.segment)?, part));
        Body::Parts(stored.parts.into_iter().map(open).collect::<Result<_, Fault>>()?)
    };
    Ok(Message {
        id: snapshot.id,
        states: record::states_after(envelope.recipients.len(), &stored.marks),
        octets: snapshot.entry.octets(),
        received_at_us: envelope.origin.received_at_us,
        hold: snapshot.entry.hold(),
        envelope: Arc::new(envelope),
        body,
        shared: Arc::clone(shared),
    })
}

/// What the caller is told of a fault. A damaged entry goes to the quarantine, so that it is
/// neither delivered nor tried for ever.
fn report(shared: &Shared, id: EntryId, fault: Fault) -> ReadError {
    let source = match fault {
        Fault::Io(source) => source,
        Fault::Gone => io::ErrorKind::NotFound.into(),
        Fault::Damaged => match quarantine::set_aside(shared, id) {
            Ok(()) => return ReadError::Quarantined(id),
            Err(source) => source,
        },
    };
    ReadError::Io { id, source }
}
