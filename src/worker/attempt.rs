//! One attempt: a message, a connection, and what became of each recipient.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use super::Inner;
use super::connection::unreached;
use crate::client::{Answer, Connection, Outgoing, Response, Text, TextError, TextSource};
use crate::schedule::Recipients;
use crate::smtp::{BodyType, Enhanced, Envelope};
use crate::spool::{
    EntryId, Message, ReadError, RecipientState, RecoveredDestination, RecoveredEntry, TextReader,
};
use crate::verdict::{Scope, Verdict, judge};

/// A message that can be offered.
pub(super) struct Loaded {
    pub(super) envelope: Arc<Envelope>,
    pub(super) states: Vec<RecipientState>,
    pub(super) octets: u64,
    /// What goes above the text.
    above: Bytes,
    body: Body,
}

enum Body {
    Memory(Bytes),
    Spool(Box<Message>),
}

impl Loaded {
    pub(super) fn in_memory(
        envelope: Arc<Envelope>,
        states: Vec<RecipientState>,
        octets: u64,
        text: Bytes,
    ) -> Self {
        let above = Bytes::from(envelope.results_field().unwrap_or_default());
        let octets = octets + above.len() as u64;
        Self { envelope, states, octets, above, body: Body::Memory(text) }
    }

    pub(super) fn from_spool(message: Message) -> Self {
        let above = Bytes::from(message.envelope.results_field().unwrap_or_default());
        Self {
            envelope: Arc::clone(&message.envelope),
            states: message.states.clone(),
            octets: message.octets + above.len() as u64,
            above,
            body: Body::Spool(Box::new(message)),
        }
    }

    pub(super) fn is_in_memory(&self) -> bool {
        matches!(self.body, Body::Memory(_))
    }

    /// Give the text as it is in the spool to `see`, piece by piece, until `most` octets are seen.
    pub(super) async fn read(
        &self,
        most: usize,
        mut see: impl FnMut(&[u8]),
    ) -> Result<(), ReadError> {
        let mut reader = match &self.body {
            Body::Memory(text) => {
                see(&text[..most.min(text.len())]);
                return Ok(());
            }
            Body::Spool(message) => message.text(),
        };
        let mut left = most;
        while left > 0
            && let Some(piece) = reader.next_chunk().await?
        {
            let piece = &piece[..left.min(piece.len())];
            see(piece);
            left -= piece.len();
        }
        Ok(())
    }

    /// Octets of the text in the spool.
    pub(super) fn stored_octets(&self) -> u64 {
        self.octets - self.above.len() as u64
    }

    /// Where a recipient stands, as it was when the message was read.
    pub(super) fn state(&self, recipient: u32) -> Option<&RecipientState> {
        self.states.get(recipient as usize)
    }

    /// The envelope as a server can take it. A label that says that there may be characters outside
    /// of ASCII is no reason to fail a message that has none (RFC 6152 section 3 and RFC 6531
    /// section 3.2 are about those that have).
    pub(super) async fn labelled_for<'a>(
        &self,
        connection: &Connection,
        envelope: &'a Envelope,
    ) -> Cow<'a, Envelope> {
        if connection.takes(envelope) || !self.is_ascii().await {
            return Cow::Borrowed(envelope);
        }
        let body = BodyType::SevenBit;
        Cow::Owned(Envelope { body, smtputf8: false, ..envelope.clone() })
    }

    async fn is_ascii(&self) -> bool {
        let mut is_ascii = self.above.is_ascii();
        let read = self.read(usize::MAX, |piece| is_ascii &= piece.is_ascii());
        // What cannot be read is not known, and the attempt says why.
        read.await.is_ok() && is_ascii
    }

    pub(super) fn text(&self) -> Text {
        let above = &self.above;
        match &self.body {
            Body::Memory(text) if above.is_empty() => Text::Whole(text.clone()),
            Body::Memory(text) => Text::Whole([&above[..], text].concat().into()),
            Body::Spool(message) => {
                Text::Pieces(Box::new(SpoolText { above: above.clone(), rest: message.text() }))
            }
        }
    }

    /// The recipient's address; empty for an index that no envelope has.
    pub(super) fn address(&self, recipient: u32) -> &str {
        let recipient = self.envelope.recipients.get(recipient as usize);
        recipient.map_or("", |recipient| recipient.address.as_str())
    }

    /// Attempts made for a recipient.
    pub(super) fn attempts(&self, recipient: u32) -> u32 {
        self.states.get(recipient as usize).map_or(0, |state| state.attempts)
    }
}

struct SpoolText {
    above: Bytes,
    rest: TextReader,
}

impl TextSource for SpoolText {
    fn next_piece(
        &mut self,
    ) -> Pin<Box<dyn Future<Output = Result<Option<Bytes>, TextError>> + Send + '_>> {
        Box::pin(async {
            if !self.above.is_empty() {
                return Ok(Some(std::mem::take(&mut self.above)));
            }
            self.rest.next_chunk().await.map_err(|error| TextError(error.to_string()))
        })
    }
}

/// What became of an attempt.
pub(super) struct Attempted {
    /// The recipients that the server was asked about, with what it means.
    pub(super) judged: Vec<(u32, Verdict)>,
    /// Those that it was not asked about.
    pub(super) untried: Vec<u32>,
    /// The server gave an answer that says it works, whatever it was. To put off a whole message
    /// says nothing: the message may be the cause, or the server have trouble with all.
    pub(super) answered: bool,
}

impl Attempted {
    /// The same verdict for all.
    pub(super) fn same(recipients: &[u32], verdict: &Verdict) -> Self {
        let judged = recipients.iter().map(|recipient| (*recipient, verdict.clone())).collect();
        Self { judged, untried: Vec::new(), answered: false }
    }

    /// Whoever the server was not asked about shares its refusal of the others.
    pub(super) fn untried_as_refused(mut self) -> Self {
        if let Some(why) = self.refusal() {
            let verdict = unreached(Enhanced(4, 4, 2), why);
            let untried = std::mem::take(&mut self.untried);
            self.judged.extend(untried.into_iter().map(|recipient| (recipient, verdict.clone())));
        }
        self
    }

    /// The server takes nothing now, from anyone: why.
    pub(super) fn refusal(&self) -> Option<String> {
        let mut words = None;
        for (_, verdict) in &self.judged {
            let Verdict::Retry { scope: Scope::Destination, text, .. } = verdict else {
                return None;
            };
            words.get_or_insert(text);
        }
        match words {
            Some(words) => Some(words.clone()),
            None if self.judged.is_empty() => Some("the server closed the connection".to_owned()),
            None => None,
        }
    }

    /// The server said of some recipient that it has enough for now.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.judged.iter().find_map(|(_, verdict)| match verdict {
            Verdict::Retry { scope: Scope::Destination, text, .. } => Some(text.as_str()),
            _ => None,
        })
    }
}

/// Offer a message to a server. Recipients that the server was not asked about, because it wants
/// no more in one transaction, go into the next one at once; but what was delivered is recorded
/// before that, so that a stop in between repeats nothing.
pub(super) async fn attempt(
    connection: &mut Connection,
    message: &Loaded,
    recipients: &[u32],
) -> Attempted {
    let mut untried = recipients.to_vec();
    let mut judged = Vec::with_capacity(untried.len());
    let mut answered = false;
    let envelope = message.labelled_for(connection, &message.envelope).await;
    loop {
        let outgoing = Outgoing {
            envelope: &envelope,
            recipients: &untried,
            octets: message.octets,
            text: message.text(),
        };
        let responses = connection.deliver(outgoing).await;
        let asked = untried.len();
        let mut left = Vec::new();
        for (recipient, response) in untried.into_iter().zip(&responses) {
            if response.answer == Answer::NotTried {
                left.push(recipient);
            } else {
                let verdict = judge(response);
                answered |= is_answer(response, &verdict);
                judged.push((recipient, verdict));
            }
        }
        untried = left;
        let delivered =
            judged.iter().any(|(_, verdict)| matches!(verdict, Verdict::Delivered { .. }));
        let stuck = untried.is_empty() || untried.len() == asked || !connection.is_usable();
        if delivered || stuck {
            return Attempted { judged, untried, answered };
        }
    }
}

pub(super) fn is_answer(response: &Response, verdict: &Verdict) -> bool {
    let vague =
        matches!(verdict, Verdict::Retry { scope: Scope::Destination | Scope::Message, .. });
    matches!(response.answer, Answer::Reply(_)) && !vague
}

impl Inner {
    /// Read an entry from the spool, on a thread that may block.
    pub(super) async fn load_entry(&self, id: EntryId) -> Result<Option<Message>, ReadError> {
        let spool = self.parts.spool.clone();
        let load = tokio::task::spawn_blocking(move || spool.load(id)).await;
        load.unwrap_or_else(|error| Err(ReadError::Io { id, source: error.into() }))
    }
}

/// The recipients that are still to be delivered, as recovery gives them.
pub(super) fn recovered(message: &Message) -> RecoveredEntry {
    let state = |index: u32| message.states.get(index as usize);
    let pending = |index: u32| state(index).is_some_and(|state| state.outcome.is_none());
    let destinations = by_destination(&message.envelope, pending)
        .into_iter()
        .map(|(destination, recipients)| {
            let recipients = recipients.as_slice().to_vec();
            let due_us = recipients.iter().filter_map(|r| state(*r)).map(|s| s.due_us).min();
            let due_us = due_us.unwrap_or(0);
            RecoveredDestination { domain: destination.into_owned(), recipients, due_us }
        })
        .collect();
    RecoveredEntry {
        id: message.id,
        hold: message.hold,
        about: message.envelope.about.clone(),
        destinations,
    }
}

/// The recipients that `wanted` picks, by destination.
pub(super) fn by_destination(
    envelope: &Envelope,
    wanted: impl Fn(u32) -> bool,
) -> Vec<(Cow<'_, str>, Recipients)> {
    let recipients = (0_u32..).zip(&envelope.recipients).filter(|(index, _)| wanted(*index));
    let mut pairs: Vec<(Cow<'_, str>, u32)> =
        recipients.map(|(index, recipient)| (envelope.destination(recipient), index)).collect();
    // Stable, so the order of the envelope stays within a destination.
    pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
    let runs = pairs.chunk_by(|(a, _), (b, _)| a == b);
    runs.filter_map(|run| {
        let indexes: Vec<u32> = run.iter().map(|(_, index)| *index).collect();
        Some((run.first()?.0.clone(), Recipients::new(&indexes)?))
    })
    .collect()
}
