//! From verdicts to what is recorded, logged, counted and scheduled.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::attempt::{Attempted, Loaded, by_domain};
use super::core::{After, Work};
use super::counters;
use super::{Inner, setting};
use crate::blacklist::{self, Event};
use crate::schedule::{Permit, Recipients, retry};
use crate::smtp::{Address, Enhanced};
use crate::spool::{EntryId, Mark, Outcome, Queued};
use crate::system::clock::{wall_ms, wall_us};
use crate::telemetry::delivery_log::{Acceptance, Attempt, Delays, Status};
use crate::verdict::{Reason, Verdict};

/// RFC 3463 section 3.5: delivery time expired.
const EXPIRED: Enhanced = Enhanced(5, 4, 7);
/// So much of a reply is kept for operators and reports.
const REPLY_OCTETS_MAX: usize = 512;

/// A message that was tried.
pub(super) struct Trial<'a> {
    pub(super) work: Work,
    pub(super) message: &'a Loaded,
    pub(super) relay: Option<&'a str>,
    pub(super) delays: Delays,
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
        });
    }

    /// Record, log and count what became of each recipient, and go on: `carried` is how many
    /// messages the connection has carried, if it can carry more.
    ///
    /// What the blacklist must know is safe in its outbox before the spool is told.
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
        let id = trial.work.ticket.id;
        let tried: Vec<u32> = judged.iter().map(|(recipient, _)| *recipient).collect();
        let pause = self.pause(id, trial.message, &tried);
        let expired = self.is_expired(id);
        let events = self.events(id, trial.message, &judged);
        let is_delivered = |verdict: &Verdict| matches!(verdict, Verdict::Delivered { .. });
        let (delivered, judged): (Vec<_>, Vec<_>) =
            judged.into_iter().partition(|(_, verdict)| is_delivered(verdict));
        let mut progress = !delivered.is_empty();
        let mut marks = Vec::with_capacity(tried.len());
        for (recipient, verdict) in delivered {
            self.tell(&trial, recipient, &verdict);
            marks.push(self.mark(&trial, recipient, verdict, &pause));
        }
        if !events.is_empty() {
            // A stop while the outbox is synced must not repeat what was delivered.
            if progress {
                self.parts.spool.record(id, std::mem::take(&mut marks));
            }
            self.parts.reports.record(events).await;
        }
        let mut left = untried;
        let mut due = if left.is_empty() { pause.due } else { Instant::now() };
        for (recipient, verdict) in judged {
            let verdict = if expired { given_up(verdict) } else { verdict };
            if matches!(verdict, Verdict::Retry { .. }) {
                left.push(recipient);
            }
            self.tell(&trial, recipient, &verdict);
            marks.push(self.mark(&trial, recipient, verdict, &pause));
        }
        progress |= marks.iter().any(|mark| matches!(mark, Mark::Final { .. }));
        if !progress {
            // Without progress nothing is tried again at once.
            due = pause.due;
        }
        left.sort_unstable();
        if !marks.is_empty() {
            self.parts.spool.record(id, marks);
        }
        let left = Recipients::new(&left).map(|left| (left, due));
        let gone = left.is_none().then(|| others(trial.message, permit.domain()));
        let (gone, after) = self.update(|core, now| {
            core.schedule.finish(trial.work.ticket, left, now);
            match feedback {
                Feedback::Works => core.schedule.works(permit, now),
                Feedback::Fails(why) => core.schedule.fails(permit, &why, now),
                Feedback::Nothing => core.schedule.puts_off(permit, now),
            }
            let queued = |domain: &String| core.schedule.state(id, domain).is_some();
            let gone = gone.is_some_and(|others| !others.iter().any(queued));
            (gone, core.after(permit, carried, now))
        });
        if gone {
            self.parts.log.removed(&id.to_string());
        }
        after
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

    /// Recipients of jobs that waited too long fail.
    pub(super) fn give_up(
        self: &Arc<Self>,
        trial: Trial<'_>,
        domain: &str,
        why: impl Fn(u32) -> String,
    ) {
        let id = trial.work.ticket.id;
        let mut marks = Vec::new();
        for recipient in trial.work.ticket.recipients.as_slice() {
            let text = expired_text(&why(*recipient));
            let verdict = Verdict::Fail { reason: Reason::Expired, dsn: EXPIRED, text };
            self.tell(&trial, *recipient, &verdict);
            let (envelope, text) = (&trial.message.envelope, verdict.text());
            let outcome = self.failed(id, envelope, *recipient, (EXPIRED, &text));
            marks.push(final_mark(*recipient, outcome, EXPIRED, text));
        }
        self.parts.spool.record(id, marks);
        let others = others(trial.message, domain);
        let gone = self.update(|core, now| {
            core.schedule.finish(trial.work.ticket, None, now);
            !others.iter().any(|domain| core.schedule.state(id, domain).is_some())
        });
        if gone {
            self.parts.log.removed(&id.to_string());
        }
    }

    /// What the fleet must know of these recipients.
    fn events(&self, id: EntryId, message: &Loaded, judged: &[(u32, Verdict)]) -> Vec<Event> {
        let view = self.parts.cluster.view();
        let event = |(recipient, verdict): &(u32, Verdict)| {
            let known = message.envelope.recipients.get(*recipient as usize)?;
            match verdict {
                Verdict::Fail { reason: Reason::UnknownUser, text, .. } => {
                    let address = blacklist::key(&known.address);
                    Some(Event::rejected(id, *recipient, address, wall_ms(), text))
                }
                Verdict::Delivered { .. } => {
                    let address = blacklist::key(&known.address);
                    let is_news = self.parts.reports.is_suspect(&view, &address);
                    is_news.then(|| Event::accepted(id, *recipient, address))
                }
                _ => None,
            }
        };
        judged.iter().filter_map(event).collect()
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

    /// What is recorded of a verdict.
    fn mark(&self, trial: &Trial<'_>, recipient: u32, verdict: Verdict, pause: &Pause) -> Mark {
        let dsn = verdict.dsn();
        match verdict {
            Verdict::Delivered { .. } => {
                final_mark(recipient, Outcome::Delivered, dsn, verdict.text())
            }
            Verdict::Fail { text, .. } => {
                let (id, envelope) = (trial.work.ticket.id, &trial.message.envelope);
                let outcome = self.failed(id, envelope, recipient, (dsn, &text));
                final_mark(recipient, outcome, dsn, text)
            }
            Verdict::Retry { text, .. } => Mark::Deferred {
                recipient,
                attempts: pause.attempts,
                due_us: pause.due_us,
                dsn,
                reply: cut(text),
                at_us: wall_us(),
            },
        }
    }

    /// Log and count how it ended for one recipient.
    fn tell(&self, trial: &Trial<'_>, recipient: u32, verdict: &Verdict) {
        let status = match verdict {
            Verdict::Delivered { .. } => Status::Sent,
            Verdict::Retry { .. } => Status::Deferred,
            Verdict::Fail { .. } => Status::Bounced,
        };
        counters::count(verdict, trial.relay, &trial.delays);
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

pub(super) fn final_mark(recipient: u32, outcome: Outcome, dsn: Enhanced, reply: String) -> Mark {
    Mark::Final { recipient, outcome, dsn, reply: cut(reply), at_us: wall_us() }
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

/// The other domains that the message is for.
fn others(message: &Loaded, domain: &str) -> Vec<String> {
    let recipients = &message.envelope.recipients;
    if recipients.iter().all(|recipient| recipient.address.domain() == domain) {
        return Vec::new();
    }
    let domains = by_domain(&message.envelope, |_| true).into_iter().map(|(other, _)| other);
    domains.filter(|other| *other != domain).map(str::to_owned).collect()
}
