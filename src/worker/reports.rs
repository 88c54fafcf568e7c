//! Telling a sender what became of a message (stage 9a): the policy is asked, and a report goes
//! into the spool and from there as any other message. What nobody is told is journaled.
//!
//! # Told once
//!
//! 1. A report is on stable storage before the spool is told that its recipients are done with. If
//!    it cannot be stored they are not done with, and are tried again.
//! 2. Its envelope says what it is about ([`About`]). A crash before the spool was told makes the
//!    failure come again; then the report is found in the queue, and no second one is written.
//! 3. It is delivered only after the spool was told; after a crash it waits a moment for that. The
//!    spool's log keeps that order, so a report that has gone leaves no recipient behind that could
//!    fail again.

use std::collections::HashMap;

use super::attempt::Loaded;
use super::ending::cut;
use super::{Inner, setting};
use crate::authentication::Client;
use crate::bounce::FULL_OCTETS_MAX;
use crate::bounce::dsn::{self, Report, Reported};
use crate::bounce::policy::{self, Because, Cause, Facts, Rule, Strangers, Terms};
use crate::smtp::{About, Address, Authentication, Enhanced, Envelope, ReportKind, Written};
use crate::spool::{EntryId, Outcome, Queued, SpoolError};
use crate::system::clock::{wall_ms, wall_us};
use crate::telemetry::journal::{self, JournalLine};
use crate::telemetry::metrics::METRICS;

/// A recipient about whom there is something to tell. In one call all of one kind of report.
pub(super) struct Ended {
    pub(super) recipient: u32,
    pub(super) cause: Cause,
    pub(super) dsn: Enhanced,
    pub(super) text: String,
    /// `text` is what a far server said.
    pub(super) is_reply: bool,
    /// The far server, as the log has it.
    pub(super) relay: Option<String>,
    pub(super) attempted_at_us: Option<u64>,
}

/// A message about which there is something to tell.
#[derive(Clone, Copy)]
pub(super) struct Case<'a> {
    /// Its queue id.
    pub(super) id: EntryId,
    /// The queue id under which it is told, so that it is told once: its own, or that of a report
    /// that has come back about it.
    pub(super) key: EntryId,
    pub(super) message: &'a Loaded,
}

/// Who was told of what.
#[derive(Default)]
pub(super) struct Told {
    /// For each recipient: whether the sender is told of it.
    pub(super) is_told: HashMap<u32, bool>,
    /// The report, to be queued when the spool knows the recipients' outcomes.
    pub(super) report: Option<Queued>,
}

/// Whether the sender is told of one recipient.
#[derive(Clone, Copy)]
enum Telling {
    /// In a report on these terms.
    Now(Terms),
    /// In a report that is in the queue already.
    Before,
    Nobody(Because),
}

impl Inner {
    /// Tell the sender of a message what has happened to these recipients, if the policy is for
    /// it. Nothing is told when the report cannot be stored.
    pub(super) async fn tell_sender(
        &self,
        case: Case<'_>,
        ended: &[Ended],
    ) -> Result<Told, SpoolError> {
        let Case { id, message, .. } = case;
        let Some(kind) = ended.first().map(|ended| ended.cause.kind()) else {
            return Ok(Told::default());
        };
        let mut tellings = self.tellings(case, ended).await;
        let terms = tellings.iter().filter_map(|telling| match telling {
            Telling::Now(terms) => Some(*terms),
            Telling::Before | Telling::Nobody(_) => None,
        });
        let terms = terms.reduce(|a, b| Terms {
            headers_only: a.headers_only || b.headers_only,
            budgeted: a.budgeted || b.budgeted,
        });
        let mut report = None;
        if let Some(terms) = terms {
            if terms.budgeted && !self.spend(&message.envelope) {
                for telling in &mut tellings {
                    if let Telling::Now(_) = telling {
                        *telling = Telling::Nobody(Because::BudgetSpent);
                    }
                }
            } else {
                let told = ended.iter().zip(&tellings);
                let told = told.filter(|(_, telling)| matches!(telling, Telling::Now(_)));
                let told: Vec<&Ended> = told.map(|(ended, _)| ended).collect();
                report = Some(self.store_report(case, &told, terms).await?);
            }
        }
        let report_id = report.as_ref().map(|queued| queued.id.to_string());
        for (ended, telling) in ended.iter().zip(&tellings) {
            self.note(id, &message.envelope, ended, *telling, report_id.as_deref());
        }
        let is_told = |telling: &Telling| !matches!(telling, Telling::Nobody(_));
        let recipients = ended.iter().map(|ended| ended.recipient);
        let is_told = recipients.zip(tellings.iter().map(is_told)).collect();
        tracing::debug!(%id, kind = kind.as_str(), report = report_id, "sender told");
        Ok(Told { is_told, report })
    }

    /// A report of deliveries could not be stored. They cannot be taken back, so nobody is told.
    pub(super) fn could_not_tell(&self, case: Case<'_>, ended: &[Ended], error: &SpoolError) {
        let Case { id, message, .. } = case;
        tracing::error!(%id, %error, "a report of a delivery could not be stored, and is lost");
        for ended in ended {
            let telling = Telling::Nobody(Because::NotStored);
            self.note(id, &message.envelope, ended, telling, None);
        }
    }

    /// What the policy says of each.
    async fn tellings(&self, case: Case<'_>, ended: &[Ended]) -> Vec<Telling> {
        let message = case.message;
        let rules: Vec<Rule> =
            ended.iter().map(|ended| self.rule(message, ended.recipient, ended.cause)).collect();
        let matters = rules.iter().any(|rule| matches!(rule, Rule::IfAuthentic(_)));
        let found = if matters { self.authentication(message).await } else { None };
        let domain = message.envelope.mail_from.as_ref().map_or("", |sender| sender.domain());
        let core = self.lock();
        let told = core.told.get(&case.key).map_or(&[][..], Vec::as_slice);
        let telling = |(rule, ended): (&Rule, &Ended)| match *rule {
            Rule::Nobody(because) => Telling::Nobody(because),
            _ if is_told(told, ended) => Telling::Before,
            Rule::Report(terms) => Telling::Now(terms),
            Rule::IfAuthentic(terms) => match found.as_ref().filter(|found| found.is_of(domain)) {
                None => Telling::Nobody(Because::NotAuthentic),
                Some(found) => {
                    let budgeted = terms.budgeted || !found.is_by_spf();
                    Telling::Now(Terms { budgeted, ..terms })
                }
            },
        };
        rules.iter().zip(ended).map(telling).collect()
    }

    /// What the policy says of one recipient, before anybody has asked whose the message is.
    pub(super) fn rule(&self, message: &Loaded, recipient: u32, cause: Cause) -> Rule {
        let view = self.parts.cluster.view();
        let sender = &message.envelope.mail_from;
        let domain = sender.as_ref().map_or("", |sender| sender.domain());
        let is_own = self.is_own_name(domain);
        let is_customer = view.domain(domain).is_some();
        let strangers = Strangers::of(view.settings());
        match message.envelope.recipients.get(recipient as usize) {
            None => Rule::Nobody(Because::NotAsked),
            Some(recipient) => {
                policy::rule(Facts { cause, sender, recipient, is_own, is_customer, strangers })
            }
        }
    }

    /// Whether this is a name of this very host.
    pub(super) fn is_own_name(&self, name: &str) -> bool {
        self.parts.own_names.iter().any(|own| own == name)
    }

    /// What is known of who sent the message; looked at now if nobody could before.
    pub(super) async fn authentication(&self, message: &Loaded) -> Option<Authentication> {
        let envelope = &message.envelope;
        let sender = envelope.mail_from.as_ref()?;
        let known = envelope.authentication.as_ref();
        if let Some(known) = known
            && (known.is_of(sender.domain()) || !known.is_temporary())
        {
            return Some(known.clone());
        }
        let client = Client { ip: envelope.origin.ip?, helo: &envelope.origin.helo };
        let mut evidence = self.parts.authenticator.later(sender)?;
        if let Err(error) = message.read(usize::MAX, |piece| evidence.see(piece)).await {
            tracing::warn!(%error, "a message cannot be read, so its signatures count for nothing");
            return None;
        }
        Some(self.parts.authenticator.check(evidence, client, sender).await)
    }

    fn spend(&self, envelope: &Envelope) -> bool {
        let rate = self.parts.cluster.view().settings().rate("bounce.budget");
        let domain = envelope.mail_from.as_ref().map_or("", |sender| sender.domain());
        self.lock().budget.spend(domain, rate, wall_ms())
    }

    /// Compose a report and make it durable.
    async fn store_report(
        &self,
        case: Case<'_>,
        told: &[&Ended],
        terms: Terms,
    ) -> Result<Queued, SpoolError> {
        let Case { id, key, message } = case;
        let mut beginning = Vec::new();
        // One octet more than is ever returned shows that there is more.
        let read = message.read(FULL_OCTETS_MAX + 1, |piece| beginning.extend_from_slice(piece));
        if let Err(error) = read.await {
            tracing::warn!(%id, %error, "a report goes without the message's header");
        }
        let kind = told.first().map_or(ReportKind::Failed, |ended| ended.cause.kind());
        let lifetime = setting(&self.parts.cluster.view(), "queue.lifetime");
        let lifetime_us = u64::try_from(lifetime.as_micros()).unwrap_or(u64::MAX);
        let mut draft = self.parts.spool.begin(beginning.len() as u64).map_err(|_| {
            SpoolError::Disk("the spool takes no mail now, and so no reports".into())
        })?;
        let recipients: Vec<Reported> = told.iter().map(|ended| ended.reported()).collect();
        let report = Report {
            kind,
            host: &self.parts.hostname,
            id: &draft.id().to_string(),
            about: &id.to_string(),
            now_us: wall_us(),
            retry_until_us: Some(id.micros().saturating_add(lifetime_us)),
            envelope: &message.envelope,
            recipients: &recipients,
            headers_only: terms.headers_only,
            text: &beginning,
            octets: message.stored_octets(),
        };
        let text = dsn::compose(&report);
        let recipients = told.iter().map(|ended| ended.recipient).collect();
        let kind = Written::Report(kind);
        let about = About { kind, id: key.to_string(), recipients };
        let smtputf8 = report.needs_smtputf8();
        let to = message.envelope.mail_from.iter();
        let envelope = self.own_envelope(to, about, text.is_ascii(), smtputf8);
        draft.push(&text).await?;
        draft.commit(envelope).await
    }

    /// The envelope of a message of ours.
    pub(super) fn own_envelope<'a>(
        &self,
        to: impl IntoIterator<Item = &'a Address>,
        about: About,
        is_ascii: bool,
        smtputf8: bool,
    ) -> Envelope {
        let own = Envelope::own(to, &self.parts.hostname, wall_us(), is_ascii, smtputf8);
        Envelope { about: Some(about), ..own }
    }

    /// Count and journal what the sender is told of one recipient, or why nothing.
    fn note(
        &self,
        id: EntryId,
        envelope: &Envelope,
        ended: &Ended,
        telling: Telling,
        report: Option<&str>,
    ) {
        let kind = ended.cause.kind();
        let because = match telling {
            Telling::Now(_) | Telling::Before => None,
            Telling::Nobody(because) => Some(because),
        };
        let outcome = if because.is_some() { "suppressed" } else { "sent" };
        let words = [kind.as_str(), outcome, because.map_or("", Because::as_str)];
        // A warning that nobody is to get is not worth a word.
        if kind != ReportKind::Delayed || because.is_none() {
            METRICS.bounces_total.with_label_values(&words).inc();
        }
        // The journal is about mail that failed, and about what we have written.
        if kind != ReportKind::Failed && because.is_some() {
            return;
        }
        let outcome = match (kind, because) {
            (ReportKind::Failed, Some(_)) => "suppressed",
            (ReportKind::Failed, None) => "returned",
            (kind, _) => kind.as_str(),
        };
        let to = envelope.recipients.get(ended.recipient as usize);
        self.parts.journal.write(JournalLine {
            at: journal::time(wall_us()),
            id: id.to_string(),
            from: envelope.mail_from.as_ref().map(ToString::to_string).unwrap_or_default(),
            to: to.map(|recipient| recipient.address.to_string()).unwrap_or_default(),
            outcome: outcome.to_owned(),
            because: because.map(|because| because.as_str().to_owned()),
            report: report.filter(|_| because.is_none()).map(str::to_owned),
            dsn: ended.dsn.to_string(),
            reply: cut(ended.text.clone()),
        });
    }
}

impl<'a> Case<'a> {
    /// A message that is still queued.
    pub(super) fn of(id: EntryId, message: &'a Loaded) -> Self {
        Self { id, key: id, message }
    }
}

impl Told {
    /// Whether the sender is told of this recipient.
    pub(super) fn is_told(&self, recipient: u32) -> bool {
        self.is_told.get(&recipient).copied().unwrap_or_default()
    }

    /// How a recipient that has failed ended.
    pub(super) fn outcome(&self, recipient: u32) -> Outcome {
        if self.is_told(recipient) { Outcome::Failed } else { Outcome::Suppressed }
    }
}

impl Ended {
    fn reported(&self) -> Reported {
        let name = |relay: &String| relay.split('[').next().unwrap_or_default().to_owned();
        Reported {
            recipient: self.recipient,
            status: self.dsn,
            remote: self.relay.as_ref().map(name),
            diagnostic: self.text.clone(),
            is_reply: self.is_reply,
            attempted_at_us: self.attempted_at_us,
        }
    }
}

/// Whether a report that is in the queue is about this.
fn is_told(told: &[About], ended: &Ended) -> bool {
    let is_about = |about: &About| {
        about.kind == Written::Report(ended.cause.kind())
            && about.recipients.contains(&ended.recipient)
    };
    told.iter().any(is_about)
}
