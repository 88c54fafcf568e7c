//! A message on its way from the socket into the spool.

use tokio::time::Instant;

use super::Inbound;
use super::intake::{Draft, Intake};
use crate::authentication::{Authenticator, Client, Evidence};
use crate::session::{ForgedResults, Incoming, Text};
use crate::smtp::Authentication;
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
    forged: ForgedResults,
    /// Collected only if it may matter whose the message is.
    evidence: Option<Evidence>,
}

impl<D: Draft> Message<D> {
    /// Open a draft, and write the Received field into it.
    pub(super) async fn open<I: Intake<Draft = D>>(
        inbound: &Inbound<I>,
        incoming: Box<Incoming>,
        due: Instant,
    ) -> Result<Self, Canned> {
        let site = &inbound.site;
        let declared = incoming.declared_octets();
        let draft = inbound.intake.begin(declared).map_err(|_| canned::SPOOL_FULL)?;
        let trace = incoming.trace(site.hostname(), &draft.id(), clock::wall_us());
        let authenticator = inbound.authenticator.as_ref();
        let mut message = Self {
            text: Text::new(site),
            due,
            draft: Some(draft),
            forged: ForgedResults::new(inbound.policy.own_names()),
            evidence: authenticator
                .and_then(|a| a.arrival(incoming.sender(), incoming.recipients())),
            incoming,
        };
        message.push(trace.as_bytes()).await;
        Ok(message)
    }

    /// Keep a piece of text, unless the message will be refused anyway.
    pub(super) async fn keep(&mut self, piece: &[u8]) {
        if self.text.fault().is_some() {
            self.draft = None;
            return;
        }
        if let Some(evidence) = &mut self.evidence {
            evidence.see(piece);
        }
        let mut header = Vec::new();
        let body = self.forged.pass(piece, &mut header);
        self.push(&header).await;
        self.push(body).await;
    }

    async fn push(&mut self, text: &[u8]) {
        if !text.is_empty()
            && let Some(draft) = &mut self.draft
            && draft.push(text).await.is_err()
        {
            self.text.fail(canned::NOT_STORED);
            self.draft = None;
        }
    }

    /// The text has ended: make the message durable, or say why not.
    pub(super) async fn commit(
        mut self,
        authenticator: Option<&Authenticator>,
    ) -> Result<Stored<D::Queued>, Canned> {
        let held = self.forged.finish().to_vec();
        self.push(&held).await;
        if let Some(fault) = self.text.fault() {
            return Err(fault);
        }
        let authentication = self.authenticate(authenticator).await;
        let draft = self.draft.ok_or(canned::NOT_STORED)?;
        let (id, octets) = (draft.id().to_string(), self.text.octets());
        let started = self.incoming.started();
        let envelope = self.incoming.into_envelope(clock::wall_us(), authentication);
        let queued = draft.commit(envelope).await.map_err(|_| canned::NOT_STORED)?;
        Ok(Stored { queued, id, octets, started })
    }

    async fn authenticate(
        &mut self,
        authenticator: Option<&Authenticator>,
    ) -> Option<Authentication> {
        let evidence = self.evidence.take()?;
        let sender = self.incoming.sender().as_ref()?;
        let client = Client { ip: self.incoming.ip(), helo: self.incoming.helo() };
        Some(authenticator?.check(evidence, client, sender).await)
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
