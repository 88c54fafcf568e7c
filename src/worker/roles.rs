//! Handing on mail to those who run the service: a copy to the operators, a page to the webhook, an
//! acknowledgement to the author. Each is a message of ours in the spool before the recipient is
//! done with, and says in its envelope what it is about, so that no crash writes it twice.

use std::sync::Arc;
use std::time::Instant;

use super::Inner;
use super::attempt::{Attempted, Loaded};
use super::connection::{delays, unreached};
use super::core::Work;
use super::ending::Trial;
use crate::client::{Text, TextError};
use crate::roles::acknowledgement::{self, Acknowledgement};
use crate::roles::copy::Copy;
use crate::roles::mail::{Mail, READ_OCTETS_MAX};
use crate::roles::page::{self, Page};
use crate::roles::webhook::NotTaken;
use crate::schedule::Permit;
use crate::smtp::dots::Unstuffer;
use crate::smtp::{
    About, Address, Authentication, Enhanced, Envelope, Reply, Role, RolePart, Written, date,
};
use crate::spool::{Draft, EntryId, Queued, SpoolError};
use crate::system::clock::{timestamp, wall_ms, wall_us};
use crate::system::random::random_u64;
use crate::verdict::{Reason, Scope, Verdict};

/// Where pages go, for the log: their address may be a secret.
const WEBHOOK_RELAY: &str = "webhook";

/// A message that is handed on.
pub(super) struct Handing<'a> {
    pub(super) id: EntryId,
    pub(super) message: &'a Loaded,
    /// Recipients of it that are roles of ours.
    recipients: &'a [u32],
    written_to: Vec<(Role, Address)>,
    operators: Vec<Address>,
    pub(super) mail: Mail,
    pub(super) found: Option<Authentication>,
    diagnostics: String,
}

/// A message of ours that is written and not yet durable.
type Part = (Draft, Envelope);

/// Why a message cannot be handed on now.
#[derive(Debug, thiserror::Error)]
enum HandingError {
    #[error("the spool takes no mail now")]
    Full,
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error("the message cannot be read: {0}")]
    Text(#[from] TextError),
}

impl Inner {
    /// Write what there is to write because of mail to these recipients; it goes to `ours`.
    pub(super) async fn hand_on(
        self: &Arc<Self>,
        id: EntryId,
        message: &Loaded,
        recipients: &[u32],
        ours: &mut Vec<Queued>,
    ) -> Verdict {
        let written_to: Vec<(Role, Address)> = recipients
            .iter()
            .filter_map(|index| message.envelope.recipients.get(*index as usize))
            .filter_map(|to| Some((Role::of(&to.address)?, to.address.clone())))
            .collect();
        let operators = self.operators();
        if operators.is_empty() && !self.pages(&written_to) {
            return later("nobody is set to read this: set service.operators");
        }
        let (mut beginning, mut dots) = (Vec::new(), Unstuffer::default());
        let read = message.read(READ_OCTETS_MAX, |mut piece| {
            while let Some(part) = dots.next(&mut piece) {
                beginning.extend_from_slice(part);
            }
        });
        if let Err(error) = read.await {
            return later(&format!("the message cannot be read: {error}"));
        }
        let mail = Mail::read(&beginning);
        if mail.loops_at(written_to.iter().map(|(_, address)| address)) {
            let text = "mail that was handed on has come back".to_owned();
            return Verdict::Fail { reason: Reason::Loop, dsn: Enhanced(5, 4, 6), text };
        }
        let found = self.authentication(message).await;
        let diagnostics = String::new();
        let mut handing =
            Handing { id, message, recipients, written_to, operators, mail, found, diagnostics };
        handing.diagnostics = self.diagnosed(&handing).await;
        match self.write_parts(&handing, ours).await {
            Ok(()) => {
                self.forget_parts(id);
                let text = match handing.operators.len() {
                    0 => "handed to the webhook".to_owned(),
                    count => format!("handed to operators: {count}"),
                };
                Verdict::Delivered { reply: Reply::new(250, Enhanced(2, 0, 0), text) }
            }
            Err(error) => later(&error.to_string()),
        }
    }

    /// Whom mail can be sent to without coming back.
    fn operators(&self) -> Vec<Address> {
        let view = self.parts.cluster.view();
        let parsed = view.operators().filter_map(|text| Address::parse(text, true).ok());
        parsed.filter(|address| !self.is_local(address.domain())).collect()
    }

    /// Whether the webhook is to be told.
    fn pages(&self, written_to: &[(Role, Address)]) -> bool {
        let is_trouble = written_to.iter().any(|(role, _)| *role == Role::Trouble);
        is_trouble && self.parts.webhook.is_some()
    }

    /// Everything that is not written yet. All of it is drafted before the first part is made
    /// durable, so that a full disk leaves nothing that a crash could write again.
    async fn write_parts(
        &self,
        handing: &Handing<'_>,
        ours: &mut Vec<Queued>,
    ) -> Result<(), HandingError> {
        let mut parts = Vec::new();
        if !handing.operators.is_empty() && !self.is_written(handing, RolePart::Copy) {
            parts.push(self.draft_copy(handing).await?);
        }
        if self.pages(&handing.written_to) && !self.is_written(handing, RolePart::Page) {
            parts.push(self.draft_page(handing).await?);
        }
        if !self.is_written(handing, RolePart::Acknowledgement) {
            parts.extend(self.draft_acknowledgement(handing).await?);
        }
        for (draft, envelope) in parts {
            ours.push(self.commit(draft, handing, envelope).await?);
        }
        Ok(())
    }

    async fn draft_copy(&self, handing: &Handing<'_>) -> Result<Part, HandingError> {
        let mut draft = self.begin(handing.message.stored_octets())?;
        let boundary = format!("=_role_{:016x}{:016x}", random_u64(), random_u64());
        let copy = Copy {
            written_to: &handing.written_to,
            operators: &handing.operators,
            author: handing.mail.author.as_ref(),
            subject: &handing.mail.subject,
            diagnostics: &handing.diagnostics,
            id: &draft.id().to_string(),
            host: &self.parts.hostname,
            date: &date(wall_us()),
            boundary: &boundary,
            smtputf8: handing.message.envelope.smtputf8
                || !handing.operators.iter().all(Address::is_ascii),
        };
        let head = copy.head();
        let mut is_ascii = head.is_ascii();
        draft.push(head.as_bytes()).await?;
        match handing.message.text() {
            Text::Whole(text) => {
                is_ascii &= text.is_ascii();
                draft.push(&text).await?;
            }
            Text::Pieces(mut pieces) => {
                while let Some(piece) = pieces.next_piece().await? {
                    is_ascii &= piece.is_ascii();
                    draft.push(&piece).await?;
                }
            }
        }
        draft.push(copy.tail().as_bytes()).await?;
        let about = handing.about(RolePart::Copy);
        let to = handing.operators.iter();
        let envelope = self.own_envelope(to, about, is_ascii, copy.smtputf8);
        Ok((draft, envelope))
    }

    async fn draft_page(&self, handing: &Handing<'_>) -> Result<Part, HandingError> {
        let to = handing.trouble().map(|(_, address)| address);
        let mut draft = self.begin(0)?;
        let page = Page {
            id: draft.id().to_string(),
            to: to.map(ToString::to_string).unwrap_or_default(),
            from: String::new(),
            authenticated: handing.is_authors(),
            subject: String::new(),
            text: String::new(),
            queue_id: handing.id.to_string(),
            node: self.parts.hostname.clone(),
            time: timestamp(handing.id.micros() / 1000).to_string(),
            diagnostics: handing.diagnostics.clone(),
        };
        let line = page.about(&handing.mail).line();
        draft.push(line.as_bytes()).await?;
        let about = handing.about(RolePart::Page);
        let envelope = self.own_envelope(to, about, line.is_ascii(), false);
        Ok((draft, envelope))
    }

    /// The answer to the author, if there is to be one.
    async fn draft_acknowledgement(
        &self,
        handing: &Handing<'_>,
    ) -> Result<Option<Part>, HandingError> {
        let sender = handing.message.envelope.mail_from.as_ref();
        let found = handing.found.as_ref();
        let facts = acknowledgement::Facts {
            sender,
            mail: &handing.mail,
            is_authentic: sender
                .is_some_and(|sender| found.is_some_and(|found| found.is_of(sender.domain()))),
            is_ours: sender.is_some_and(|sender| self.is_one_of_us(sender, handing)),
        };
        let id = handing.id;
        if let Some(why) = acknowledgement::objection(facts) {
            tracing::debug!(%id, why, "not acknowledged");
            return Ok(None);
        }
        // Whoever wrote to `trouble` as well is to know that it is heard as that.
        let from = handing.trouble().or(handing.written_to.first());
        let (Some(to), Some((role, from))) = (sender, from) else { return Ok(None) };
        // Before it is noted that there is an answer today: without room there is none.
        let mut draft = self.begin(0)?;
        match self.parts.answered.begin(to.as_str(), wall_ms()) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) => {
                tracing::warn!(%id, %error, "not acknowledged: it could not be remembered");
                return Ok(None);
            }
        }
        let view = self.parts.cluster.view();
        let answer = Acknowledgement {
            from: (*role, from),
            to,
            mail: &handing.mail,
            about: &id.to_string(),
            id: &draft.id().to_string(),
            host: &self.parts.hostname,
            date: &date(wall_us()),
            site: view.settings().get("site.url").unwrap_or_default(),
        };
        let (text, smtputf8) = (answer.text(), answer.needs_smtputf8());
        draft.push(text.as_bytes()).await?;
        let about = handing.about(RolePart::Acknowledgement);
        let to = std::iter::once(to);
        let envelope = self.own_envelope(to, about, text.is_ascii(), smtputf8);
        Ok(Some((draft, envelope)))
    }

    /// Whether an answer to this address could come back, or would go to who reads it anyway.
    fn is_one_of_us(&self, sender: &Address, handing: &Handing<'_>) -> bool {
        let is_operator = handing.operators.iter().any(|operator| operator.is_same(sender));
        self.is_local(sender.domain()) || is_operator
    }

    fn begin(&self, octets: u64) -> Result<Draft, HandingError> {
        self.parts.spool.begin(octets).map_err(|_| HandingError::Full)
    }

    /// Make it durable, and know in this life, too, that it is written.
    async fn commit(
        &self,
        draft: Draft,
        handing: &Handing<'_>,
        envelope: Envelope,
    ) -> Result<Queued, HandingError> {
        let queued = draft.commit(envelope).await?;
        if let Some(about) = &queued.envelope.about {
            self.lock().note_told(handing.id, about);
        }
        Ok(queued)
    }

    /// Whether a part is in the queue already, or was.
    fn is_written(&self, handing: &Handing<'_>, part: RolePart) -> bool {
        let core = self.lock();
        let told = core.told.get(&handing.id).map_or(&[][..], Vec::as_slice);
        let is_about = |about: &About, recipient: &u32| {
            about.kind == Written::Role(part) && about.recipients.contains(recipient)
        };
        let is_told = |recipient: &u32| told.iter().any(|about| is_about(about, recipient));
        handing.recipients.iter().all(is_told)
    }

    /// The message is handed on, and is not again.
    fn forget_parts(&self, id: EntryId) {
        let mut core = self.lock();
        if let Some(told) = core.told.get_mut(&id) {
            told.retain(|about| !matches!(about.kind, Written::Role(_)));
            if told.is_empty() {
                core.told.remove(&id);
            }
        }
    }

    /// Tell the webhook one page.
    pub(super) async fn serve_page(self: &Arc<Self>, permit: &Permit, mut work: Work) {
        let Some(message) = self.load(&mut work).await else {
            self.skip(permit, work, None);
            return;
        };
        let posted = self.post(&message).await;
        let delays = delays(&work, Instant::now());
        let relay = Some(WEBHOOK_RELAY);
        let recipients = work.ticket.recipients.as_slice().to_vec();
        let trial = Trial { work, message: &message, relay, offers_dsn: true, delays };
        let verdict = match posted {
            Ok(reply) => Verdict::Delivered { reply },
            Err(Post::Message(text)) => later(&text),
            Err(Post::Webhook(text)) => {
                let verdict = unreached(Enhanced(4, 4, 1), text);
                return self.unreached(permit, trial, &verdict);
            }
        };
        let attempted = Attempted { answered: true, ..Attempted::same(&recipients, &verdict) };
        self.settle(permit, trial, attempted, None).await;
    }

    async fn post(&self, message: &Loaded) -> Result<Reply, Post> {
        let Some(webhook) = &self.parts.webhook else {
            return Err(Post::Message(
                "this host has no webhook (service.webhook_url_file)".into(),
            ));
        };
        let mut line = Vec::new();
        let read = message.read(page::OCTETS_MAX, |piece| line.extend_from_slice(piece));
        read.await.map_err(|error| Post::Message(format!("the page cannot be read: {error}")))?;
        match webhook.post(line.trim_ascii_end().to_vec()).await {
            Ok(status) => Ok(Reply::new(250, Enhanced(2, 0, 0), format!("taken: {status}"))),
            // It works, and does not want this one, or none now.
            Err(error @ NotTaken::Refused(_)) => Err(Post::Message(error.to_string())),
            Err(error) => Err(Post::Webhook(error.to_string())),
        }
    }
}

/// What was in the way of a page.
enum Post {
    /// Something about this one.
    Message(String),
    /// The webhook does not work.
    Webhook(String),
}

impl Handing<'_> {
    fn about(&self, part: RolePart) -> About {
        let recipients = self.recipients.to_vec();
        About { kind: Written::Role(part), id: self.id.to_string(), recipients }
    }

    /// The address of `trouble` that it was written to, if it was.
    fn trouble(&self) -> Option<&(Role, Address)> {
        self.written_to.iter().find(|(role, _)| *role == Role::Trouble)
    }

    /// Whether SPF or DKIM say that the domain of the author sent it.
    pub(super) fn is_authors(&self) -> bool {
        let sender = self.message.envelope.mail_from.as_ref().map_or("", Address::domain);
        let author = self.mail.author.as_ref();
        author.is_some_and(|author| {
            self.found.as_ref().is_some_and(|found| found.is_of_author(author.domain(), sender))
        })
    }
}

fn later(text: &str) -> Verdict {
    Verdict::Retry { dsn: Enhanced(4, 3, 5), text: text.to_owned(), scope: Scope::Message }
}
