//! A message on its way into the spool.
//!
//! Small ones stay in memory and become one record. Beyond that the text streams to the writer in
//! chunks, one on its way while the next is filled, so a message costs two chunks of memory
//! whatever its size.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::error::SpoolError;
use super::hand_over::{self, Copied};
use super::queue::{Commit, Note, Request};
use super::record::Forgotten;
use super::shared::Shared;
use super::state::{Queued, RecipientState};
use super::{EntryId, Hold};
use crate::smtp::Envelope;

/// The largest chunk of a large message.
pub(super) const CHUNK_OCTETS: usize = 64 * 1024;
/// Smaller chunks would be mostly headers.
const CHUNK_OCTETS_MIN: usize = 4 * 1024;
/// An envelope as JSON; a thousand recipients of the greatest length stay far below.
const ENVELOPE_OCTETS_MAX: usize = 16 * 1024 * 1024;

/// A message that is arriving. Dropped without [`Draft::commit`], nothing has happened.
pub struct Draft {
    shared: Arc<Shared>,
    id: EntryId,
    /// The whole text so far, or the chunk that is being filled.
    buffer: Vec<u8>,
    octets: u64,
    chunks: usize,
    in_flight: Option<oneshot::Receiver<Result<(), SpoolError>>>,
    /// A call failed, or was dropped half-way, so that text is missing.
    broken: bool,
    /// The writer has all of it, or was told that nothing more comes.
    ended: bool,
}

impl Draft {
    pub(super) fn new(shared: &Arc<Shared>, id: EntryId) -> Self {
        shared.queue.draft_begun();
        Self {
            shared: Arc::clone(shared),
            id,
            buffer: Vec::new(),
            octets: 0,
            chunks: 0,
            in_flight: None,
            broken: false,
            ended: false,
        }
    }

    /// The id that the message will have.
    pub fn id(&self) -> EntryId {
        self.id
    }

    /// Add text as it was on the wire: dot-stuffed, CRLF, without the final dot line. Waits while
    /// the disk is slower than the client.
    pub async fn push(&mut self, text: &[u8]) -> Result<(), SpoolError> {
        if self.broken {
            return Err(SpoolError::Incomplete);
        }
        let octets = self.octets + text.len() as u64;
        // The index has 32 bits for it.
        if octets > u64::from(u32::MAX) {
            return Err(SpoolError::TooLarge);
        }
        self.octets = octets;
        let inline_max = self.shared.limits.inline_message_octets_max;
        if self.chunks == 0 && octets <= inline_max as u64 {
            self.buffer.extend_from_slice(text);
            return Ok(());
        }
        let chunk_octets = inline_max.clamp(CHUNK_OCTETS_MIN, CHUNK_OCTETS);
        // If this future is dropped while it waits, the rest of `text` is lost.
        self.broken = true;
        let mut text = text;
        loop {
            let room = chunk_octets.saturating_sub(self.buffer.len());
            let (now, later) = text.split_at(room.min(text.len()));
            self.buffer.extend_from_slice(now);
            text = later;
            if self.buffer.len() < chunk_octets {
                break;
            }
            let rest = self.buffer.split_off(chunk_octets);
            let chunk = std::mem::replace(&mut self.buffer, rest);
            self.send_chunk(chunk).await?;
        }
        self.broken = false;
        Ok(())
    }

    /// The message is complete. `Ok` says that it is on stable storage, envelope included; after
    /// an error, or if this future is dropped, nothing of it will ever be delivered.
    pub async fn commit(self, envelope: Envelope) -> Result<Queued, SpoolError> {
        let states = vec![RecipientState::default(); envelope.recipients.len()];
        self.commit_copy(Copied { envelope, states, hold: Hold::No }).await
    }

    /// The same for a message that comes from another node, with what it did about it. A copy
    /// without a recipient that is still to be delivered is no message.
    pub async fn commit_copy(mut self, copied: Copied) -> Result<Queued, SpoolError> {
        let Copied { envelope, states, hold } = copied;
        let pending = states.iter().filter(|state| state.outcome.is_none()).count();
        if self.broken || pending == 0 || states.len() != envelope.recipients.len() {
            return Err(SpoolError::Incomplete);
        }
        let json = serde_json::to_vec(&envelope).map_err(|_| SpoolError::Incomplete)?;
        if json.len() > ENVELOPE_OCTETS_MAX {
            return Err(SpoolError::TooLarge);
        }
        let mut whole = std::mem::take(&mut self.buffer);
        if self.chunks > 0 {
            if !whole.is_empty() {
                self.send_chunk(std::mem::take(&mut whole)).await?;
            }
            self.landed().await?;
        }
        let room = self.shared.queue.room(whole.len() + json.len()).await?;
        let text_crc = crc32fast::hash(&whole);
        let (text, kept) = self.shared.fresh.wrap(whole);
        let (answer, answered) = oneshot::channel();
        let recipients = envelope.recipients.len();
        self.ended = true;
        self.shared.queue.push(Request::Commit(Box::new(Commit {
            id: self.id,
            envelope: json,
            recipients,
            text: text.clone(),
            text_crc,
            chunks: self.chunks,
            marks: hand_over::marks(&states),
            hold,
            answer,
            room,
        })));
        answered.await.map_err(|_| SpoolError::Closed)??.claim();
        Ok(Queued {
            id: self.id,
            octets: self.octets,
            envelope: Arc::new(envelope),
            text: (kept && self.chunks == 0).then_some(text),
            states,
            hold,
        })
    }

    async fn send_chunk(&mut self, text: Vec<u8>) -> Result<(), SpoolError> {
        self.landed().await?;
        self.shared.space.check(self.octets)?;
        let room = self.shared.queue.room(text.len()).await?;
        let (answer, answered) = oneshot::channel();
        self.in_flight = Some(answered);
        self.chunks += 1;
        self.shared.queue.push(Request::Chunk { id: self.id, text, answer, room });
        Ok(())
    }

    /// Wait for the chunk that is on its way.
    async fn landed(&mut self) -> Result<(), SpoolError> {
        match self.in_flight.take() {
            Some(answered) => answered.await.map_err(|_| SpoolError::Closed)?,
            None => Ok(()),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        self.shared.queue.draft_ended();
        if self.chunks > 0 && !self.ended {
            self.shared.queue.push(Request::GiveUp(self.id));
        }
    }
}

/// The answer to a commit. If the one who asked is gone and never claims it, the client was not
/// told 250 and will send the message again, so ours is forgotten.
pub(super) struct Ticket {
    unclaimed: Option<(Arc<Shared>, EntryId)>,
}

impl Ticket {
    pub(super) fn new(shared: &Arc<Shared>, id: EntryId) -> Self {
        Self { unclaimed: Some((Arc::clone(shared), id)) }
    }

    fn claim(mut self) {
        self.unclaimed = None;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some((shared, id)) = self.unclaimed.take() {
            shared.queue.push(Request::Note { id, note: Note::Forget(Forgotten::Abandoned) });
        }
    }
}
