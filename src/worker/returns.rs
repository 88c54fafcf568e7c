//! Return paths of ours: written at delivery, and taken back with the reports that come to them.

use std::sync::Arc;

use mxfleet_cluster::ReturnKey;

use super::attempt::{Attempted, Loaded, is_answer};
use super::ending::cut;
use super::reports::{Case, Ended};
use super::{Inner, setting};
use crate::blacklist::{self, Event};
use crate::bounce::policy::{Because, Cause, Rule};
use crate::client::{Answer, Connection, Outgoing};
use crate::returns::{Before, Sent, Tag};
use crate::smtp::dots::Unstuffer;
use crate::smtp::{Address, Enhanced, Envelope, Reply};
use crate::spool::{EntryId, Queued};
use crate::system::clock::{wall_ms, wall_us};
use crate::telemetry::journal::{self, JournalLine};
use crate::telemetry::metrics::METRICS;
use crate::verdict::{Class, DsnRecipient, Scope, Verdict, classify_dsn, judge};

/// So much of a header is remembered for a sender who may be told.
const HEADER_OCTETS_MAX: usize = 1024;
/// So much of a report is looked at.
const REPORT_OCTETS_MAX: usize = 512 * 1024;

/// How return paths are signed now.
pub(super) struct Tagging {
    key: ReturnKey,
    expires_s: u32,
}

/// What became of a report.
enum Taken {
    /// It is done with; the word is for the metric, the text for the log.
    Done(&'static str, String),
    /// It must be taken again later.
    Later(String),
}

impl Inner {
    /// How a message's return path is signed; `None` if it stays as it is: the domain wants it so,
    /// or there is none, or the message is ours.
    pub(super) fn tagging(&self, domain: &str, message: &Loaded) -> Option<Tagging> {
        let view = self.parts.cluster.view();
        let envelope = &message.envelope;
        if !view.has_tagged_return_path(domain) || envelope.is_ours() {
            return None;
        }
        envelope.mail_from.as_ref()?;
        let key = view.return_keys().first()?.clone();
        let expires_s = wall_ms() / 1000 + setting(&view, "return_path.lifetime").as_secs();
        Some(Tagging { key, expires_s: u32::try_from(expires_s).unwrap_or(u32::MAX) })
    }

    /// Offer a message to a server, each recipient in a transaction of its own, from a return path
    /// of ours. Ends with the first that is delivered, so that this is recorded before the next.
    pub(super) async fn attempt_tagged(
        &self,
        connection: &mut Connection,
        id: EntryId,
        message: &Loaded,
        recipients: &[u32],
        tagging: Tagging,
    ) -> Attempted {
        let mut attempted =
            Attempted { judged: Vec::new(), untried: recipients.to_vec(), answered: false };
        while let Some(recipient) = attempted.untried.first().copied() {
            let Some(envelope) = self.tagged(id, message, recipient, &tagging).await else { break };
            let envelope = message.labelled_for(connection, &envelope).await;
            let text = message.text();
            let outgoing =
                Outgoing { envelope: &envelope, recipients: &[0], octets: message.octets, text };
            let Some(response) = connection.deliver(outgoing).await.pop() else { break };
            if response.answer == Answer::NotTried {
                break;
            }
            let verdict = judge(&response);
            attempted.answered |= is_answer(&response, &verdict);
            attempted.untried.remove(0);
            let is_delivered = matches!(verdict, Verdict::Delivered { .. });
            attempted.judged.push((recipient, verdict));
            if is_delivered || !connection.is_usable() {
                break;
            }
        }
        attempted
    }

    /// The envelope for one recipient, with a return path of ours. A sender that is told by the
    /// customer's server itself keeps its own: one who asked to hear of success, and whose message
    /// is known to be theirs; and one whom we could not remember.
    async fn tagged(
        &self,
        id: EntryId,
        message: &Loaded,
        index: u32,
        tagging: &Tagging,
    ) -> Option<Envelope> {
        let envelope = &message.envelope;
        let recipient = envelope.recipients.get(index as usize)?;
        let plain = Envelope { recipients: vec![recipient.clone()], ..Envelope::clone(envelope) };
        let untold = self.untold(message, index);
        let wants_success = recipient.notify.is_some_and(|notify| notify.success);
        let Ok(number) = u16::try_from(index) else { return Some(plain) };
        if untold.is_none() && wants_success {
            return Some(plain);
        }
        let address = blacklist::key(&recipient.address);
        let tag = Tag::new(&tagging.key, id, number, &address, untold, tagging.expires_s);
        if untold.is_none() && !self.remember(tag, message, plain.clone()).await {
            return Some(plain);
        }
        let path = format!("{}@{}", tag.seal(&tagging.key), self.parts.hostname);
        match Address::parse(&path, false) {
            Ok(path) => Some(Envelope { mail_from: Some(path), ..plain }),
            Err(error) => {
                tracing::error!(%error, path, "this is no return path");
                Some(plain)
            }
        }
    }

    /// Why the sender is not told of a failure that is reported later, as far as it is known now.
    fn untold(&self, message: &Loaded, recipient: u32) -> Option<Because> {
        let envelope = &message.envelope;
        match self.rule(message, recipient, Cause::Refused) {
            Rule::Nobody(because) => Some(because),
            Rule::Report(_) => None,
            Rule::IfAuthentic(_) => {
                let domain = envelope.mail_from.as_ref().map_or("", |sender| sender.domain());
                let known = envelope.authentication.as_ref();
                let is_authentic = known.is_some_and(|known| known.is_of(domain));
                (!is_authentic).then_some(Because::NotAuthentic)
            }
        }
    }

    async fn remember(&self, tag: Tag, message: &Loaded, envelope: Envelope) -> bool {
        if !self.parts.spool.is_writable() {
            return false;
        }
        let mut header = Vec::new();
        let read = message.read(HEADER_OCTETS_MAX, |piece| header.extend_from_slice(piece));
        if let Err(error) = read.await {
            tracing::warn!(%tag, %error, "a header is not remembered");
        }
        let end = memchr::memmem::find(&header, b"\r\n\r\n").map_or(header.len(), |end| end + 2);
        let header = String::from_utf8_lossy(&header[..end]).into_owned();
        let sent = Sent { id: tag.id, recipient: tag.recipient, envelope, header };
        let returns = self.parts.returns.clone();
        match on_disk(move || returns.keep(&tag, sent)).await {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%tag, %error, "a return path cannot be remembered");
                false
            }
        }
    }

    /// Take a report that came to a return path of ours; what to tell of it goes to `reports`.
    pub(super) async fn take_return(
        &self,
        id: EntryId,
        message: &Loaded,
        recipient: u32,
        reports: &mut Vec<Queued>,
    ) -> Verdict {
        match self.take(id, message, recipient, reports).await {
            Taken::Done(result, text) => {
                METRICS.returns_total.with_label_values(&[result]).inc();
                Verdict::Delivered { reply: Reply::new(250, Enhanced(2, 0, 0), text) }
            }
            Taken::Later(text) => {
                Verdict::Retry { dsn: Enhanced(4, 3, 1), text, scope: Scope::Message }
            }
        }
    }

    async fn take(
        &self,
        id: EntryId,
        message: &Loaded,
        recipient: u32,
        reports: &mut Vec<Queued>,
    ) -> Taken {
        let Some(to) = message.envelope.recipients.get(recipient as usize) else {
            return Taken::Done("wrong_signature", "no such recipient".to_owned());
        };
        let view = self.parts.cluster.view();
        let keys = view.return_keys();
        // It was in time when it was accepted.
        let tag = match Tag::open(keys, to.address.local_part()) {
            Ok(tag) => tag,
            Err(forged) => return self.forged(None, &to.address, None, forged.as_str()),
        };
        let (mut text, mut dots) = (Vec::new(), Unstuffer::default());
        let read = message.read(REPORT_OCTETS_MAX, |mut piece| {
            while let Some(part) = dots.next(&mut piece) {
                text.extend_from_slice(part);
            }
        });
        if let Err(error) = read.await {
            return Taken::Later(format!("the report cannot be read: {error}"));
        }
        let told = classify_dsn(&text);
        let address = |told: &DsnRecipient| {
            let address = Address::parse(&told.recipient, true).ok()?;
            tag.is_for(keys, &blacklist::key(&address)).then_some(address)
        };
        let found = told.iter().find_map(|told| Some((told, address(told)?)));
        let Some((told, address)) = found else {
            let because = if told.is_empty() { "not_a_report" } else { "other_recipient" };
            return self.forged(Some(&tag), &to.address, told.first(), because);
        };
        if !told.is_failure {
            return Taken::Done("no_failure", format!("{address}: {}", told.why));
        }
        let because = match self.parts.returns.before(&tag) {
            Before::New => None,
            Before::Seen => Some("seen_before"),
            Before::Full => Some("too_many_kept"),
        };
        if let Some(because) = because {
            return self.forged(Some(&tag), &to.address, Some(told), because);
        }
        match self.tell_of_return(id, (&tag, &to.address), (told, &address)).await {
            Ok(report) => reports.extend(report),
            Err(taken) => return taken,
        }
        self.count(id, recipient, &tag, (told, &address)).await
    }

    /// Tell the sender, if that was the policy when the message was delivered, and still is.
    async fn tell_of_return(
        &self,
        id: EntryId,
        (tag, path): (&Tag, &Address),
        (told, address): (&DsnRecipient, &Address),
    ) -> Result<Option<Queued>, Taken> {
        if let Some(because) = tag.untold {
            self.note_untold(tag, path, (told, address), because);
            return Ok(None);
        }
        let (returns, of) = (self.parts.returns.clone(), *tag);
        let sent = match on_disk(move || returns.sent(&of)).await {
            Ok(Some(sent)) => sent,
            Ok(None) => return Err(self.forged(Some(tag), path, Some(told), "unknown_message")),
            Err(error) => return Err(Taken::Later(format!("records cannot be read: {error}"))),
        };
        let message = remembered(sent);
        let case = Case { id: tag.id, key: id, message: &message };
        match self.tell_sender(case, &[failed(told)]).await {
            Ok(told) => Ok(told.report),
            Err(error) => Err(Taken::Later(format!("the sender cannot be told: {error}"))),
        }
    }

    /// Count that a recipient has failed, once.
    async fn count(
        &self,
        id: EntryId,
        recipient: u32,
        tag: &Tag,
        (told, address): (&DsnRecipient, &Address),
    ) -> Taken {
        let is_unknown = told.class == Class::UnknownUser;
        let is_served = self.parts.cluster.view().domain(address.domain()).is_some();
        if is_unknown && is_served {
            // Under the report's own id: the message's is in no queue any more.
            let key = blacklist::key(address);
            let event = Event::rejected(id, recipient, key, wall_ms(), &said(told));
            self.parts.reports.record(vec![event]).await;
        }
        let (returns, of) = (self.parts.returns.clone(), *tag);
        if let Err(error) = on_disk(move || returns.note(&of)).await {
            tracing::error!(%tag, %error, "a second report of the same would count again");
        }
        let result = if is_unknown { "unknown_user" } else { "other_permanent" };
        Taken::Done(result, format!("{address} of {}: {}", tag.id, told.why))
    }

    /// A report that counts for nothing.
    fn forged(
        &self,
        tag: Option<&Tag>,
        path: &Address,
        told: Option<&DsnRecipient>,
        because: &'static str,
    ) -> Taken {
        self.parts.journal.write(JournalLine {
            at: journal::time(wall_us()),
            id: tag.map(|tag| tag.id.to_string()).unwrap_or_default(),
            from: path.to_string(),
            to: told.map(|told| told.recipient.clone()).unwrap_or_default(),
            outcome: "forged".to_owned(),
            because: Some(because.to_owned()),
            report: None,
            dsn: told.and_then(|told| told.status).unwrap_or(Enhanced(5, 0, 0)).to_string(),
            reply: cut(told.map(said).unwrap_or_default()),
        });
        Taken::Done(because, format!("counts for nothing: {because}"))
    }

    /// A failure of which the policy has told nobody, when the message was delivered.
    fn note_untold(
        &self,
        tag: &Tag,
        path: &Address,
        (told, address): (&DsnRecipient, &Address),
        because: Because,
    ) {
        let because = because.as_str();
        METRICS.bounces_total.with_label_values(&["failed", "suppressed", because]).inc();
        self.parts.journal.write(JournalLine {
            at: journal::time(wall_us()),
            id: tag.id.to_string(),
            from: path.to_string(),
            to: address.to_string(),
            outcome: "suppressed".to_owned(),
            because: Some(because.to_owned()),
            report: None,
            dsn: told.status.unwrap_or(Enhanced(5, 0, 0)).to_string(),
            reply: cut(said(told)),
        });
    }
}

async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await?
}

/// What the far server said, or else why the report was judged so.
fn said(told: &DsnRecipient) -> String {
    told.said.clone().unwrap_or_else(|| told.why.clone())
}

fn failed(told: &DsnRecipient) -> Ended {
    Ended {
        recipient: 0,
        cause: Cause::Refused,
        dsn: told.status.unwrap_or(Enhanced(5, 0, 0)),
        text: said(told),
        is_reply: told.said.is_some(),
        relay: None,
        attempted_at_us: None,
    }
}

/// As much of a message as was remembered.
fn remembered(sent: Sent) -> Loaded {
    let header = format!("{}\r\n", sent.header);
    let octets = header.len() as u64;
    Loaded::in_memory(Arc::new(sent.envelope), Vec::new(), octets, header.into_bytes().into())
}
