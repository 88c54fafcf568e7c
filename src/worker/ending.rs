//! From verdicts to what is recorded, logged, counted and scheduled.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::attempt::{Attempted, Loaded, by_destination};
use super::core::{After, Core, Work};
use super::counters;
use super::reports::{Case, Ended};
use super::{Inner, setting};
use crate::blacklist::{self, Event};
use crate::bounce::policy::Cause;
use crate::letters::News;
use crate::schedule::{Permit, Recipients, retry};
use crate::smtp::{Address, Enhanced};
use crate::spool::{EntryId, Mark, Outcome, Queued};
use crate::system::clock::{wall_ms, wall_us};
use crate::telemetry::delivery_log::{Acceptance, Attempt, Delays, Status};
use crate::verdict::{Reason, Scope, Verdict};

/// RFC 3463 section 3.5: delivery time expired.
const EXPIRED: Enhanced = Enhanced(5, 4, 7);
/// RFC 3463 section 3.4: mail system full.
const NOT_STORED: Enhanced = Enhanced(4, 3, 1);
/// So much of a reply is kept for operators and reports.
const REPLY_OCTETS_MAX: usize = 512;

/// A message that was tried.
pub(super) struct Trial<'a> {
    pub(super) work: Work,
    pub(super) message: &'a Arc<Loaded>,
    pub(super) relay: Option<&'a str>,
    /// The server sends reports of its own (RFC 3461).
    pub(super) offers_dsn: bool,
    pub(super) delays: Delays,
}

/// What is left to do for a message that was tried.
struct Rest {
    settled: Vec<Settled>,
    /// So many of them are recorded.
    recorded: usize,
    reports: Vec<Queued>,
    untried: Vec<u32>,
    pause: Pause,
}

/// What an attempt has come to for one recipient, when the sender has been told what there was to
/// tell.
struct Settled {
    recipient: u32,
    verdict: Verdict,
    /// `None` when it is tried again.
    outcome: Option<Outcome>,
}

/// What the attempt says of the destination.
enum Feedback {
    Works,
    Fails(String),
    Nothing,
}

/// When those that are to be tried again are due.
struct Pause {
    attempts: u32,
    due: Instant,
    due_us: u64,
}

impl Inner {
    /// Log that a message is ours now.
    pub(super) fn tell_accepted(&self, queued: &Queued) {
        let envelope = &queued.envelope;
        self.parts.log.accepted(&Acceptance {
            id: &queued.id.to_string(),
            from: envelope.mail_from.as_ref().map(Address::as_str).unwrap_or_default(),
            octets: queued.octets,
            recipients: envelope.recipients.len(),
            client: envelope.origin.ip,
            helo: &envelope.origin.helo,
        });
    }

    /// Record, log and count what became of each recipient, and go on: `carried` is how many
    /// messages the connection has carried, if it can carry more.
    ///
    /// What was delivered is recorded before anything is waited for, so that a stop repeats
    /// nothing; unless a report of that very delivery is owed, which must not be lost. Reports are
    /// stored, and what the blacklist must know is safe in its outbox, before the spool is told
    /// that recipients have failed. The connection does not wait for the outbox, unless very many
    /// messages do already.
    pub(super) async fn settle(
        self: &Arc<Self>,
        permit: &Permit,
        trial: Trial<'_>,
        attempted: Attempted,
        carried: Option<u32>,
    ) -> After {
        let feedback = match attempted.trouble() {
            Some(why) => Feedback::Fails(why.to_owned()),
            None if attempted.answered => Feedback::Works,
            None => Feedback::Nothing,
        };
        let Attempted { judged, untried, .. } = attempted;
        let (id, message) = (trial.work.ticket.id, trial.message);
        let tried: Vec<u32> = judged.iter().map(|(recipient, _)| *recipient).collect();
        let pause = self.pause(id, message, &tried);
        let expired = self.is_expired(id);
        let judged = judged.into_iter().map(|(recipient, verdict)| {
            (recipient, if expired { given_up(verdict) } else { verdict })
        });
        let (done, rest): (Vec<_>, Vec<_>) = judged.partition(|(recipient, verdict)| {
            let owes =
                message.envelope.migration_letter().is_some() || owes_success(&trial, *recipient);
            matches!(verdict, Verdict::Delivered { .. }) && !owes
        });
        let outcome = Some(Outcome::Delivered);
        let mut settled: Vec<Settled> = done
            .into_iter()
            .map(|(recipient, verdict)| Settled { recipient, verdict, outcome })
            .collect();
        self.record(&trial, &settled, &pause);
        let recorded = settled.len();
        let mut reports = Vec::new();
        if !rest.is_empty() {
            settled.extend(self.tell_of(&trial, rest, &mut reports).await);
            self.note_letter(message, &settled).await;
        }
        let events = self.events(id, message, &settled);
        let rest = Rest { settled, recorded, reports, untried, pause };
        let go_on = |core: &mut Core, now: Instant| {
            match feedback {
                Feedback::Works => core.schedule.works(permit, now),
                Feedback::Fails(why) => core.schedule.fails(permit, &why, now),
                Feedback::Nothing => core.schedule.puts_off(permit, now),
            }
            core.after(permit, carried, now)
        };
        if events.is_empty() {
            return self.conclude(permit.domain(), trial, rest, go_on);
        }
        let safe = self.parts.reports.record(events);
        self.conclude_when(safe, permit.domain(), trial, rest).await;
        self.update(go_on)
    }

    /// Conclude as soon as the blacklist's outbox is `safe`, while the connection goes on.
    async fn conclude_when(
        self: &Arc<Self>,
        safe: impl Future<Output = ()> + Send + 'static,
        domain: &str,
        trial: Trial<'_>,
        rest: Rest,
    ) {
        let domain = domain.to_owned();
        let (message, relay) = (Arc::clone(trial.message), trial.relay.map(str::to_owned));
        let Trial { work, offers_dsn, delays, .. } = trial;
        let turn = Arc::clone(&self.settling).acquire_owned().await;
        let inner = Arc::clone(self);
        let conclude = async move {
            tokio::select! {
                biased;
                // As if it had not been tried; the refusal will be recognised when it comes again.
                () = inner.aborting.cancelled() => return,
                () = safe => {}
            }
            let relay = relay.as_deref();
            let trial = Trial { work, message: &message, relay, offers_dsn, delays };
            inner.conclude(&domain, trial, rest, |_, _| ());
            drop(turn);
        };
        self.tasks.spawn_on(conclude, &self.runtime);
    }

    /// Record, log and count the rest, and tell the schedule what is left of the message; `and` is
    /// done under the same lock.
    fn conclude<R>(
        self: &Arc<Self>,
        domain: &str,
        trial: Trial<'_>,
        rest: Rest,
        and: impl FnOnce(&mut Core, Instant) -> R,
    ) -> R {
        let id = trial.work.ticket.id;
        let Rest { settled, recorded, reports, mut untried, pause } = rest;
        self.record(&trial, &settled[recorded..], &pause);
        reports.into_iter().for_each(|report| self.accept(report));
        // Without progress nothing is tried again at once.
        let progress = settled.iter().any(|settled| settled.outcome.is_some());
        let again = settled.iter().filter(|settled| settled.outcome.is_none());
        let due = match untried.is_empty() || !progress {
            true => pause.due,
            false => Instant::now(),
        };
        untried.extend(again.map(|settled| settled.recipient));
        untried.sort_unstable();
        let left = Recipients::new(&untried).map(|left| (left, due));
        let gone = left.is_none().then(|| others(trial.message, domain));
        let orphan = self.orphan(trial.message);
        let (gone, result) = self.update(|core, now| {
            core.schedule.finish(trial.work.ticket, left, now);
            let queued = |name: &String| core.schedule.state(id, name).is_some();
            let gone = gone.is_some_and(|others| !others.iter().any(queued));
            if gone {
                core.told.remove(&id);
                orphan.map(|about| core.told.remove(&about));
            }
            (gone, and(core, now))
        });
        if gone {
            self.parts.log.removed(&id.to_string());
        }
        result
    }

    /// The message that this was written because of, if it has left the queue: nothing is written
    /// because of it again.
    fn orphan(&self, message: &Loaded) -> Option<EntryId> {
        let about = message.envelope.about.as_ref()?.id.parse().ok()?;
        self.parts.spool.hold_of(about).is_none().then_some(about)
    }

    /// Tell the sender of those that have failed, and of deliveries it wants to hear of; what is to
    /// be delivered of that goes to `reports`. A failure that cannot be reported because the spool
    /// takes nothing now is none yet.
    async fn tell_of(
        &self,
        trial: &Trial<'_>,
        judged: Vec<(u32, Verdict)>,
        reports: &mut Vec<Queued>,
    ) -> Vec<Settled> {
        let case = Case::of(trial.work.ticket.id, trial.message);
        let ended = |wanted: fn(&Verdict) -> bool| {
            let judged = judged.iter().filter(move |(_, verdict)| wanted(verdict));
            judged.filter_map(|(recipient, verdict)| ended(trial, *recipient, verdict)).collect()
        };
        let failed: Vec<Ended> = ended(|verdict| matches!(verdict, Verdict::Fail { .. }));
        let relayed: Vec<Ended> = ended(|verdict| matches!(verdict, Verdict::Delivered { .. }));
        let mut told = self.tell_sender(case, &failed).await;
        if let Ok(told) = &mut told {
            reports.extend(told.report.take());
        }
        match self.tell_sender(case, &relayed).await {
            Ok(told) => reports.extend(told.report),
            Err(error) => self.could_not_tell(case, &relayed, &error),
        }
        let settle = |(recipient, verdict)| match (verdict, &told) {
            (Verdict::Fail { text, .. }, Err(error)) => {
                let text = format!("{text} (not ended yet: the report of it: {error})");
                let (dsn, scope) = (NOT_STORED, Scope::Message);
                let verdict = Verdict::Retry { dsn, text, scope };
                Settled { recipient, verdict, outcome: None }
            }
            (verdict @ Verdict::Fail { .. }, Ok(told)) => {
                let outcome = Some(told.outcome(recipient));
                Settled { recipient, verdict, outcome }
            }
            (verdict @ Verdict::Retry { .. }, _) => Settled { recipient, verdict, outcome: None },
            (verdict @ Verdict::Delivered { .. }, _) => {
                Settled { recipient, verdict, outcome: Some(Outcome::Delivered) }
            }
        };
        judged.into_iter().map(settle).collect()
    }

    /// Of a letter of ours the fleet is to know what became of it, before the spool forgets it.
    async fn note_letter(&self, message: &Loaded, settled: &[Settled]) {
        let Some(letter) = message.envelope.migration_letter() else { return };
        for settled in settled {
            let news = match settled.outcome {
                None => continue,
                Some(Outcome::Delivered) => News::Accepted,
                Some(_) => News::Failed(settled.verdict.text()),
            };
            if let Err(error) = self.parts.letters.keep(letter, news, wall_ms()).await {
                let customer = &letter.customer;
                tracing::error!(%error, customer, "what became of a letter is not remembered");
            }
        }
    }

    /// Log, count and record what became of these.
    fn record(&self, trial: &Trial<'_>, settled: &[Settled], pause: &Pause) {
        if settled.is_empty() {
            return;
        }
        let marks = settled.iter().map(|settled| {
            self.tell(trial, settled.recipient, &settled.verdict);
            mark(trial, settled, pause)
        });
        self.parts.spool.record(trial.work.ticket.id, marks.collect());
    }

    /// No server was reached. The message was not tried, so its own retries are not used up: it
    /// waits for the destination.
    pub(super) fn unreached(
        self: &Arc<Self>,
        permit: &Permit,
        trial: Trial<'_>,
        verdict: &Verdict,
    ) {
        for recipient in trial.work.ticket.recipients.as_slice() {
            self.tell(&trial, *recipient, verdict);
        }
        let text = verdict.text();
        let why = trial.relay.map_or_else(|| text.clone(), |relay| format!("{relay}: {text}"));
        self.update(|core, now| {
            core.schedule.fails(permit, &why, now);
            core.schedule.give_back(trial.work.ticket, now);
        });
    }

    /// The message cannot be offered: it has left the queue, or cannot be read now. `carried` as
    /// in [`Inner::settle`].
    pub(super) fn skip(
        self: &Arc<Self>,
        permit: &Permit,
        work: Work,
        carried: Option<u32>,
    ) -> After {
        let pause = setting(&self.parts.cluster.view(), "queue.retry_min");
        self.update(|core, now| {
            let recipients = work.ticket.recipients.clone();
            let left = work.unreadable.then_some((recipients, now + pause));
            core.schedule.finish(work.ticket, left, now);
            core.after(permit, carried, now)
        })
    }

    /// Recipients of jobs that waited too long fail; `why` is what was last said of each. `false`
    /// if that must be tried again for some of them.
    pub(super) async fn give_up(
        self: &Arc<Self>,
        trial: Trial<'_>,
        destination: &str,
        why: impl Fn(u32) -> String,
    ) -> bool {
        let id = trial.work.ticket.id;
        let expired = |recipient: &u32| {
            let text = expired_text(&why(*recipient));
            (*recipient, Verdict::Fail { reason: Reason::Expired, dsn: EXPIRED, text })
        };
        let recipients = trial.work.ticket.recipients.as_slice();
        let mut reports = Vec::new();
        let expired = recipients.iter().map(expired).collect();
        let settled = self.tell_of(&trial, expired, &mut reports).await;
        self.note_letter(trial.message, &settled).await;
        let pause = self.pause(id, trial.message, recipients);
        self.record(&trial, &settled, &pause);
        reports.into_iter().for_each(|report| self.accept(report));
        let again = settled.iter().filter(|settled| settled.outcome.is_none());
        let again: Vec<u32> = again.map(|settled| settled.recipient).collect();
        let left = Recipients::new(&again).map(|left| (left, pause.due));
        let others = others(trial.message, destination);
        let ended = left.is_none();
        let gone = self.update(|core, now| {
            core.schedule.finish(trial.work.ticket, left, now);
            ended && !others.iter().any(|name| core.schedule.state(id, name).is_some())
        });
        if gone {
            self.parts.log.removed(&id.to_string());
        }
        ended
    }

    /// What the fleet must know of these recipients. Mail of our own tells nothing: it goes to
    /// senders, and not only to customers.
    fn events(&self, id: EntryId, message: &Loaded, settled: &[Settled]) -> Vec<Event> {
        if message.envelope.is_ours() {
            return Vec::new();
        }
        let view = self.parts.cluster.view();
        let event = |settled: &Settled| {
            let recipient = settled.recipient;
            let known = message.envelope.recipients.get(recipient as usize)?;
            if self.is_local(known.address.domain()) {
                return None;
            }
            match &settled.verdict {
                Verdict::Fail { reason: Reason::UnknownUser, text, .. } => {
                    let address = blacklist::key(&known.address);
                    Some(Event::rejected(id, recipient, address, wall_ms(), text))
                }
                // Where reports come later, that it was taken says nothing.
                Verdict::Delivered { .. }
                    if !view.has_tagged_return_path(known.address.domain()) =>
                {
                    let address = blacklist::key(&known.address);
                    let reports = &self.parts.reports;
                    if reports.is_suspect(&view, &address) {
                        return Some(Event::accepted(id, recipient, address));
                    }
                    reports.taken(&view, address, wall_ms());
                    None
                }
                _ => None,
            }
        };
        settled.iter().filter_map(event).collect()
    }

    pub(super) fn is_expired(&self, id: EntryId) -> bool {
        let lifetime = setting(&self.parts.cluster.view(), "queue.lifetime");
        let age = Duration::from_micros(self.clock.now_us().saturating_sub(id.micros()));
        age >= lifetime
    }

    fn pause(&self, id: EntryId, message: &Loaded, tried: &[u32]) -> Pause {
        let view = self.parts.cluster.view();
        let made = tried.iter().map(|recipient| message.attempts(*recipient)).max().unwrap_or(0);
        let attempts = made.saturating_add(1);
        let least = setting(&view, "queue.retry_min");
        let most = setting(&view, "queue.retry_max");
        let pause = retry::pause(attempts, least, most, id.micros() ^ u64::from(attempts));
        let pause_us = u64::try_from(pause.as_micros()).unwrap_or(u64::MAX);
        Pause { attempts, due: Instant::now() + pause, due_us: wall_us().saturating_add(pause_us) }
    }

    /// Log and count how it ended for one recipient.
    fn tell(&self, trial: &Trial<'_>, recipient: u32, verdict: &Verdict) {
        let status = match verdict {
            Verdict::Delivered { .. } => Status::Sent,
            Verdict::Retry { .. } => Status::Deferred,
            Verdict::Fail { .. } => Status::Bounced,
        };
        counters::count(verdict, trial.relay, &trial.delays);
        if let Some(part) = trial.message.envelope.role_part() {
            let id = trial.work.ticket.id;
            counters::count_role_part(part, verdict);
            if let (Verdict::Fail { text, .. }, true) = (verdict, part.is_for_operators()) {
                tracing::error!(%id, text, "mail for the operators does not reach them");
            }
        }
        self.parts.log.attempt(&Attempt {
            id: &trial.work.ticket.id.to_string(),
            to: trial.message.address(recipient),
            relay: trial.relay,
            delays: trial.delays,
            dsn: verdict.dsn(),
            status,
            reply: &verdict.text(),
        });
    }
}

/// What is recorded of a recipient.
fn mark(trial: &Trial<'_>, settled: &Settled, pause: &Pause) -> Mark {
    let Settled { recipient, verdict, outcome } = settled;
    let (dsn, text) = (verdict.dsn(), verdict.text());
    match outcome {
        Some(outcome) => final_mark(*recipient, *outcome, dsn, text),
        None => Mark::Deferred {
            recipient: *recipient,
            attempts: pause.attempts,
            due_us: pause.due_us,
            dsn,
            reply: cut(text),
            at_us: wall_us(),
            warned: trial.message.state(*recipient).is_some_and(|state| state.warned),
        },
    }
}

pub(super) fn final_mark(recipient: u32, outcome: Outcome, dsn: Enhanced, reply: String) -> Mark {
    Mark::Final { recipient, outcome, dsn, reply: cut(reply), at_us: wall_us() }
}

/// Whether the sender wants to hear that it was delivered, and the server will not say so
/// (RFC 3461 section 5.2.2).
fn owes_success(trial: &Trial<'_>, recipient: u32) -> bool {
    let recipient = trial.message.envelope.recipients.get(recipient as usize);
    let notify = recipient.and_then(|recipient| recipient.notify);
    !trial.offers_dsn && notify.is_some_and(|notify| notify.success)
}

/// What there is to tell of a recipient that is done with.
fn ended(trial: &Trial<'_>, recipient: u32, verdict: &Verdict) -> Option<Ended> {
    let (cause, is_reply) = match verdict {
        Verdict::Delivered { .. } => (Cause::Relayed, true),
        Verdict::Fail { reason: Reason::UnknownUser | Reason::OtherPermanent, .. } => {
            (Cause::Refused, true)
        }
        Verdict::Fail { reason: Reason::Expired | Reason::Operator, .. } => (Cause::GivenUp, false),
        Verdict::Fail { .. } => (Cause::Refused, false),
        Verdict::Retry { .. } => return None,
    };
    Some(Ended {
        recipient,
        cause,
        dsn: verdict.dsn(),
        text: verdict.text(),
        is_reply,
        relay: trial.relay.map(str::to_owned),
        attempted_at_us: trial.relay.map(|_| wall_us()),
    })
}

/// The last try of a message has failed.
fn given_up(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Retry { text, .. } => {
            Verdict::Fail { reason: Reason::Expired, dsn: EXPIRED, text: expired_text(&text) }
        }
        other => other,
    }
}

fn expired_text(why: &str) -> String {
    format!("delivery time expired: {why}")
}

pub(super) fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(REPLY_OCTETS_MAX));
    text
}

/// The other destinations of the message.
fn others(message: &Loaded, destination: &str) -> Vec<String> {
    let envelope = &message.envelope;
    let mut recipients = envelope.recipients.iter();
    if recipients.all(|recipient| envelope.destination(recipient) == destination) {
        return Vec::new();
    }
    let names = by_destination(envelope, |_| true).into_iter().map(|(name, _)| name);
    names.filter(|name| *name != destination).map(Cow::into_owned).collect()
}
