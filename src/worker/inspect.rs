//! What an operator may see of the queue.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Deliveries, Inner, OperateError};
use crate::schedule::{Census, DestinationSummary, JobState};
use crate::spool::{EntryId, Message, Outcome};

/// The queue at a glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueueSummary {
    /// Messages.
    pub messages: u64,
    /// Recipients that are still to be delivered.
    pub recipients: u64,
    /// Messages that an operator set aside.
    pub held: u64,
    /// Octets of the texts.
    pub bytes: u64,
    /// Age of the oldest message.
    pub oldest_seconds: Option<u64>,
    /// Connections to customers' servers.
    pub connections: usize,
    /// Destinations, those with the most messages first.
    pub destinations: Vec<DestinationView>,
}

/// The queue in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueGauges {
    /// Recipients that are still to be delivered.
    pub recipients: u64,
    /// Age of the oldest message; 0 when there is none.
    pub oldest_seconds: u64,
    /// How the destinations do.
    pub destinations: Census,
}

/// One destination at a glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DestinationView {
    /// The domain.
    pub domain: String,
    /// `ok`, `stalled` (the server answers, and yet nothing moves), `failing` (the last connection
    /// failed) or `dead` (several probes failed).
    pub state: Cow<'static, str>,
    /// Messages, those held and running included.
    pub messages: usize,
    /// Their recipients at this domain.
    pub recipients: u64,
    /// Messages that are due.
    pub due: usize,
    /// Messages being delivered.
    pub running: u32,
    /// Messages that an operator set aside.
    pub held: u32,
    /// Age of the oldest message that is neither held nor running.
    pub oldest_seconds: Option<u64>,
    /// When the first of those that wait for their time is due.
    pub next_due_seconds: Option<u64>,
    /// Connections now.
    pub connections: u32,
    /// Connections it may have now.
    pub window: u32,
    /// How long it has been failing.
    pub failing_seconds: Option<u64>,
    /// When it is probed next.
    pub next_probe_seconds: Option<u64>,
    /// What went wrong last with the destination itself.
    pub error: Option<String>,
    /// What its server last said of the oldest message, where it does not fail itself.
    #[serde(default)]
    pub last_reply: Option<String>,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EntryView {
    /// Its queue id.
    pub id: EntryId,
    /// Microseconds since 1970, when its data had come.
    pub received_at_us: u64,
    /// How long it has been here.
    pub age_seconds: u64,
    /// Octets of its text.
    pub bytes: u64,
    /// MAIL FROM; empty is the null reverse-path.
    pub mail_from: String,
    /// The client that handed it to us.
    pub client: Option<String>,
    /// An operator set it aside.
    pub held: bool,
    /// Its recipients, those done with included.
    pub recipients: Vec<RecipientView>,
}

/// One recipient of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecipientView {
    /// The address.
    pub address: String,
    /// `due`, `waiting`, `held`, `running`, or the outcome: `delivered`, `failed`, `suppressed`,
    /// `removed`.
    pub state: Cow<'static, str>,
    /// Attempts so far.
    pub attempts: u32,
    /// When it is due, if it waits for its time.
    pub due_seconds: Option<u64>,
    /// The last status code.
    pub dsn: Option<String>,
    /// What the server last said; or else what is wrong with its destination.
    pub last_reply: Option<String>,
}

impl Deliveries {
    /// Whether this destination failed at the last attempt.
    pub fn is_failing(&self, domain: &str) -> bool {
        self.inner.lock().schedule.error_of(domain).is_some()
    }

    /// The queue at a glance.
    pub fn summary(&self) -> QueueSummary {
        let inner = &self.inner;
        let stats = inner.parts.spool.stats();
        let now_us = inner.clock.now_us();
        let connections = inner.lock().schedule.connections();
        QueueSummary {
            messages: stats.messages,
            recipients: stats.recipients,
            held: stats.held,
            bytes: stats.octets,
            oldest_seconds: stats.oldest_us.map(|oldest_us| age(oldest_us, now_us)),
            connections,
            destinations: self.destinations(|_| true),
        }
    }

    /// The queue at a glance, with what was said last of the oldest message of each of the first
    /// `replies_max` destinations that do not fail themselves.
    pub async fn summary_with_replies(
        &self,
        replies_max: usize,
    ) -> Result<QueueSummary, OperateError> {
        let mut summary = self.summary();
        let answering = summary.destinations.iter_mut().filter(|found| found.error.is_none());
        for destination in answering.take(replies_max) {
            let oldest = self.list(Some(&destination.domain), None, 1).await?;
            let mut recipients = oldest.into_iter().flat_map(|entry| entry.recipients);
            destination.last_reply = recipients.find_map(|recipient| recipient.last_reply);
        }
        Ok(summary)
    }

    /// The destinations that are wanted, those with the most messages first.
    pub fn destinations(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<DestinationView> {
        self.inner.destinations(is_wanted)
    }

    /// The queue in numbers, for the metrics.
    pub fn gauges(&self) -> QueueGauges {
        let inner = &self.inner;
        let stats = inner.parts.spool.stats();
        let now_us = inner.clock.now_us();
        let destinations = inner.lock().schedule.census(Instant::now(), inner.stalled_after());
        QueueGauges {
            recipients: stats.recipients,
            oldest_seconds: stats.oldest_us.map_or(0, |oldest_us| age(oldest_us, now_us)),
            destinations,
        }
    }

    /// The first `limit` messages after `after`, oldest first; for one domain or for all.
    pub async fn list(
        &self,
        domain: Option<&str>,
        after: Option<EntryId>,
        limit: usize,
    ) -> Result<Vec<EntryView>, OperateError> {
        let jobs = self.inner.lock().schedule.jobs(domain, after, limit);
        let mut ids: Vec<EntryId> = jobs.into_iter().map(|job| job.id).collect();
        ids.dedup();
        let mut entries = Vec::with_capacity(ids.len());
        for id in ids {
            match self.show(id).await {
                Ok(entry) => entries.push(entry),
                // It was delivered meanwhile.
                Err(OperateError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(entries)
    }

    /// One message with its envelope, where each recipient stands, and what was last said.
    pub async fn show(&self, id: EntryId) -> Result<EntryView, OperateError> {
        let message = self.inner.find(id).await?;
        Ok(self.inner.entry(&message))
    }
}

impl Inner {
    pub(super) fn destinations(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<DestinationView> {
        let (now, now_us, after) = (Instant::now(), self.clock.now_us(), self.stalled_after());
        let core = self.lock();
        let wanted = core.schedule.summary().filter(|summary| is_wanted(&summary.domain));
        let mut found: Vec<_> = wanted.map(|summary| view(summary, now, now_us, after)).collect();
        drop(core);
        found.sort_by(|a, b| b.messages.cmp(&a.messages).then_with(|| a.domain.cmp(&b.domain)));
        found
    }

    fn stalled_after(&self) -> Duration {
        Duration::from_millis(self.parts.limits.stalled_after_ms)
    }

    fn entry(self: &Arc<Self>, message: &Message) -> EntryView {
        let envelope = &message.envelope;
        let recipients = (0..message.states.len()).map(|index| self.recipient(message, index));
        EntryView {
            id: message.id,
            received_at_us: message.received_at_us,
            age_seconds: age(message.id.micros(), self.clock.now_us()),
            bytes: message.octets,
            mail_from: envelope.mail_from.as_ref().map(ToString::to_string).unwrap_or_default(),
            client: envelope.origin.ip.map(|ip| format!("{}[{ip}]", envelope.origin.helo)),
            held: message.hold.is_operators(),
            recipients: recipients.flatten().collect(),
        }
    }

    fn recipient(&self, message: &Message, index: usize) -> Option<RecipientView> {
        let recipient = message.envelope.recipients.get(index)?;
        let state = message.states.get(index)?;
        let destination = message.envelope.destination(recipient);
        let (job, error) = {
            let core = self.lock();
            (
                core.schedule.state(message.id, &destination),
                core.schedule.error_of(&destination).map(str::to_owned),
            )
        };
        let name = match (state.outcome, job) {
            (Some(Outcome::Delivered), _) => "delivered",
            (Some(Outcome::Failed), _) => "failed",
            (Some(Outcome::Suppressed), _) => "suppressed",
            (Some(Outcome::Removed), _) => "removed",
            (None, Some(JobState::Waiting(_))) => "waiting",
            (None, Some(JobState::Held)) => "held",
            (None, Some(JobState::Running)) => "running",
            (None, Some(JobState::Due) | None) => "due",
        };
        let due = match job {
            Some(JobState::Waiting(due)) if state.outcome.is_none() => Some(due),
            _ => None,
        };
        Some(RecipientView {
            address: recipient.address.to_string(),
            state: name.into(),
            attempts: state.attempts,
            due_seconds: due.map(|due| until(due, Instant::now())),
            dsn: state.dsn.map(|dsn| dsn.to_string()),
            last_reply: state.last_reply.clone().or(error.filter(|_| state.outcome.is_none())),
        })
    }
}

fn view(
    summary: DestinationSummary<EntryId>,
    now: Instant,
    now_us: u64,
    stalled_after: Duration,
) -> DestinationView {
    let stuck = summary.stuck_since.map(|since| now.saturating_duration_since(since));
    let failing = summary.failing;
    DestinationView {
        domain: summary.domain.to_string(),
        state: match &failing {
            None if stuck.is_some_and(|stuck| stuck >= stalled_after) => "stalled",
            None => "ok",
            Some(failing) if failing.dead => "dead",
            Some(_) => "failing",
        }
        .into(),
        messages: summary.messages,
        recipients: summary.recipients,
        due: summary.due,
        running: summary.running,
        held: summary.held,
        oldest_seconds: summary.oldest.map(|id| age(id.micros(), now_us)),
        next_due_seconds: summary.next_due.map(|due| until(due, now)),
        connections: summary.connections,
        window: summary.window,
        failing_seconds: failing.as_ref().map(|failing| until(now, failing.since)),
        next_probe_seconds: failing.as_ref().map(|failing| until(failing.next_probe, now)),
        error: failing.map(|failing| failing.error),
        last_reply: None,
    }
}

fn age(since_us: u64, now_us: u64) -> u64 {
    now_us.saturating_sub(since_us) / 1_000_000
}

/// Whole seconds from `now` to `then`, none if it is past.
fn until(then: Instant, now: Instant) -> u64 {
    then.saturating_duration_since(now).as_secs()
}
