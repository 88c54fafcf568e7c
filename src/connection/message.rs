//! A message on its way from the socket into the spool.

use tokio::time::Instant;

use super::intake::{Draft, Intake};
use crate::session::{Incoming, Site, Text};
use crate::smtp::canned::{self, Canned};
use crate::system::clock;

/// A draft, what is known of its text, and the envelope it gets at the end.
pub(super) struct Message<D> {
    pub(super) text: Text,
    pub(super) incoming: Box<Incoming>,
    /// When its text has to be complete.
    pub(super) due: Instant,
    /// Gone once the message is known to be refused.
    draft: Option<D>,
}

impl<D: Draft> Message<D> {
    /// Open a draft, and write the Received field into it.
    pub(super) async fn open<I: Intake<Draft = D>>(
        intake: &I,
        site: &Site,
        incoming: Box<Incoming>,
        due: Instant,
    ) -> Result<Self, Canned> {
        let draft = intake.begin(incoming.declared_octets()).map_err(|_| canned::SPOOL_FULL)?;
        let trace = incoming.trace(site.hostname(), &draft.id(), clock::wall_us());
        let mut message = Self { text: Text::new(site), incoming, due, draft: Some(draft) };
        message.keep(trace.as_bytes()).await;
        Ok(message)
    }

    /// Keep a piece of text, unless the message will be refused anyway.
    pub(super) async fn keep(&mut self, piece: &[u8]) {
        if self.text.fault().is_some() {
            self.draft = None;
        } else if !piece.is_empty()
            && let Some(draft) = &mut self.draft
            && draft.push(piece).await.is_err()
        {
            self.text.fail(canned::NOT_STORED);
            self.draft = None;
        }
    }

    /// The text has ended: make the message durable, or say why not.
    pub(super) async fn commit(self) -> Result<Stored<D::Queued>, Canned> {
        if let Some(fault) = self.text.fault() {
            return Err(fault);
        }
        let draft = self.draft.ok_or(canned::NOT_STORED)?;
        let (id, octets) = (draft.id().to_string(), self.text.octets());
        let started = self.incoming.started();
        let envelope = self.incoming.into_envelope(clock::wall_us());
        let queued = draft.commit(envelope).await.map_err(|_| canned::NOT_STORED)?;
        Ok(Stored { queued, id, octets, started })
    }
}

/// A message that is safe.
pub(super) struct Stored<Q> {
    pub(super) queued: Q,
    pub(super) id: String,
    pub(super) octets: u64,
    /// When MAIL was accepted.
    pub(super) started: std::time::Instant,
}
