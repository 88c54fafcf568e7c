//! What an operator may do to the queue.

use std::sync::Arc;
use std::time::Instant;

use super::attempt::{Loaded, by_destination, recovered};
use super::core::Core;
use super::ending::final_mark;
use super::reports::{Case, Ended};
use super::{Deliveries, Inner};
use crate::bounce::policy::Cause;
use crate::letters::News;
use crate::schedule::{JobState, Removal};
use crate::smtp::Enhanced;
use crate::spool::{EntryId, Hold, Mark, Message, Outcome, ReadError, RecoveredEntry, SpoolError};
use crate::system::clock::wall_ms;
use crate::telemetry::delivery_log::{Attempt, Delays, Status};

/// What became of a letter that is withdrawn.
pub const WITHDRAWN: &str = "withdrawn before a server took it";

/// Why an operator's wish cannot be met.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    /// There is no such message.
    #[error("there is no message {0} in the queue")]
    NotFound(EntryId),
    /// It is being delivered at this moment.
    #[error("message {0} is being delivered at this moment; try again when that has ended")]
    Running(EntryId),
    /// It is being handed over.
    #[error("message {0} is on its way between this host and another; try again in a moment")]
    OnItsWay(EntryId),
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(#[from] ReadError),
    /// The report to its sender could not be stored.
    #[error("the report to the sender of {0} could not be stored, so nothing was changed: {1}")]
    NotReported(EntryId, SpoolError),
}

/// How an operator ends a message.
#[derive(Clone, Copy)]
struct End<'a> {
    outcome: Outcome,
    status: Status,
    dsn: Enhanced,
    text: &'static str,
    /// Who asked for it: for the log, and not for the sender.
    by: Option<&'a str>,
}

impl Deliveries {
    /// Everything that waits is due now, as `by` wants it. How many messages that are, once for
    /// each destination, and how many stay held.
    pub fn retry_all(&self, by: &str) -> (usize, usize) {
        self.inner.parts.log.operated(None, "retry of everything", by);
        self.inner.update(|core, now| core.schedule.retry_all(now))
    }

    /// Everything that waits for this domain is due now; counted in the same way.
    pub fn retry_domain(&self, domain: &str, by: &str) -> (usize, usize) {
        self.inner.parts.log.operated(None, &format!("retry of {domain}"), by);
        self.inner.update(|core, now| core.schedule.retry_domain(domain, now))
    }

    /// One message is due now, at all its destinations; `false` if it stays held.
    pub async fn retry(&self, id: EntryId, by: &str) -> Result<bool, OperateError> {
        let each = |core: &mut Core, domain: &str, now| core.schedule.retry(id, domain, now);
        let is_due = self.inner.for_each_domain(id, each).await? > 0;
        if is_due {
            self.inner.tell_operated(id, "made due", by);
        }
        Ok(is_due)
    }

    /// Set a message aside until it is released, also after a restart; `false` if it was already.
    pub async fn hold(&self, id: EntryId, by: &str) -> Result<bool, OperateError> {
        let each = |core: &mut Core, domain: &str, _| {
            core.forget_fresh(id);
            core.schedule.hold(id, domain)
        };
        let has_changed = self.inner.set_aside(id, Hold::Operator, each).await?;
        if has_changed {
            self.inner.tell_operated(id, "held", by);
        }
        Ok(has_changed)
    }

    /// Let a message that was set aside go on; `false` if it was not.
    pub async fn release(&self, id: EntryId, by: &str) -> Result<bool, OperateError> {
        let each = |core: &mut Core, domain: &str, now| core.schedule.release(id, domain, now);
        let has_changed = self.inner.set_aside(id, Hold::No, each).await?;
        if has_changed {
            self.inner.tell_operated(id, "released", by);
        }
        Ok(has_changed)
    }

    /// Remove a message; nobody is told.
    pub async fn delete(&self, id: EntryId, by: &str) -> Result<(), OperateError> {
        let end = End {
            outcome: Outcome::Removed,
            status: Status::Removed,
            dsn: Enhanced(5, 0, 0),
            text: "removed by an operator",
            by: Some(by),
        };
        self.inner.end(id, end).await
    }

    /// Remove a letter of ours that is not to be read any more.
    pub async fn withdraw(&self, id: EntryId) -> Result<(), OperateError> {
        self.inner.withdraw(id).await
    }

    /// Fail a message now, as if its time had expired.
    pub async fn bounce(&self, id: EntryId, by: &str) -> Result<(), OperateError> {
        let end = End {
            outcome: Outcome::Failed,
            status: Status::Bounced,
            dsn: Enhanced(5, 0, 0),
            text: "returned by an operator",
            by: Some(by),
        };
        self.inner.end(id, end).await
    }
}

impl Inner {
    pub(super) async fn withdraw(self: &Arc<Self>, id: EntryId) -> Result<(), OperateError> {
        let end = End {
            outcome: Outcome::Removed,
            status: Status::Removed,
            dsn: Enhanced(5, 0, 0),
            text: WITHDRAWN,
            by: None,
        };
        self.end(id, end).await
    }

    pub(super) async fn find(&self, id: EntryId) -> Result<Message, OperateError> {
        self.load_entry(id).await?.ok_or(OperateError::NotFound(id))
    }

    /// Do something to the message's job at each of its destinations; how often that did
    /// something.
    async fn for_each_domain(
        self: &Arc<Self>,
        id: EntryId,
        each: impl Fn(&mut Core, &str, Instant) -> bool,
    ) -> Result<usize, OperateError> {
        let message = self.find(id).await?;
        let domains = by_destination(&message.envelope, |_| true);
        self.update(|core, now| {
            if domains.iter().all(|(domain, _)| core.schedule.state(id, domain).is_none()) {
                return Err(OperateError::OnItsWay(id));
            }
            Ok(domains.iter().filter(|(domain, _)| each(core, domain, now)).count())
        })
    }

    /// Change whether an operator holds a message back, here and in the spool; `false` if it was
    /// so before.
    ///
    /// **Invariant:** a message that is not in the schedule is not this host's to decide on: it
    /// comes from another one, or is offered to one, or is one's by now.
    async fn set_aside(
        self: &Arc<Self>,
        id: EntryId,
        hold: Hold,
        each: impl Fn(&mut Core, &str, Instant) -> bool,
    ) -> Result<bool, OperateError> {
        let message = self.find(id).await?;
        let domains = by_destination(&message.envelope, |_| true);
        self.update(|core, now| {
            if domains.iter().all(|(domain, _)| core.schedule.state(id, domain).is_none()) {
                return Err(OperateError::OnItsWay(id));
            }
            let changed = domains.iter().filter(|(domain, _)| each(core, domain, now)).count();
            // Under the same lock: who takes it out of the schedule next finds this recorded.
            self.parts.spool.set_hold(id, hold);
            Ok(changed > 0)
        })
    }

    /// End a message for all recipients that are left; all or nothing.
    ///
    /// **Invariant:** a recipient's outcome is recorded by whoever took its job out of the
    /// schedule, and by nobody else. What was read of the message before that may be of the past.
    async fn end(self: &Arc<Self>, id: EntryId, end: End<'_>) -> Result<(), OperateError> {
        let message = self.find(id).await?;
        let domains = by_destination(&message.envelope, |_| true);
        let ended = self.update(|core, now| {
            let states = domains.iter().map(|(domain, _)| core.schedule.state(id, domain));
            if states.flatten().any(|state| state == JobState::Running) {
                return Err(OperateError::Running(id));
            }
            core.forget_fresh(id);
            let mut ended = Vec::new();
            for (domain, _) in &domains {
                if let Removal::Removed(jobs) = core.schedule.remove(id, domain, now) {
                    ended.extend_from_slice(jobs.as_slice());
                }
            }
            Ok(ended)
        })?;
        if ended.is_empty() {
            return Err(OperateError::NotFound(id));
        }
        let loaded = Loaded::from_spool(message.clone());
        let failed: Vec<Ended> = match end.outcome {
            Outcome::Failed => ended.iter().map(|recipient| end.of(*recipient)).collect(),
            _ => Vec::new(),
        };
        let told = match self.tell_sender(Case::of(id, &loaded), &failed).await {
            Ok(told) => told,
            Err(error) => {
                self.recover(&only(recovered(&message), &ended));
                return Err(OperateError::NotReported(id, error));
            }
        };
        if let Some(letter) = message.envelope.migration_letter() {
            let news = News::Failed(end.text.to_owned());
            if let Err(error) = self.parts.letters.keep(letter, news, wall_ms()).await {
                tracing::error!(%error, "what became of a letter is not remembered");
            }
        }
        let marks = ended.into_iter().map(|recipient| {
            self.log_end(&message, recipient, end);
            let outcome = match end.outcome {
                Outcome::Failed => told.outcome(recipient),
                other => other,
            };
            final_mark(recipient, outcome, end.dsn, end.text.to_owned())
        });
        self.parts.spool.record(id, marks.collect::<Vec<Mark>>());
        self.lock().told.remove(&id);
        told.report.into_iter().for_each(|report| self.accept(report));
        self.parts.log.removed(&id.to_string());
        Ok(())
    }

    fn tell_operated(&self, id: EntryId, what: &str, by: &str) {
        self.parts.log.operated(Some(&id.to_string()), what, by);
    }

    fn log_end(&self, message: &Message, recipient: u32, end: End<'_>) {
        let age_us = self.clock.now_us().saturating_sub(message.id.micros());
        let Some(recipient) = message.envelope.recipients.get(recipient as usize) else { return };
        self.parts.log.attempt(&Attempt {
            id: &message.id.to_string(),
            to: recipient.address.as_str(),
            relay: None,
            delays: Delays { due_us: age_us, ..Delays::default() },
            dsn: end.dsn,
            status: end.status,
            reply: &end.by.map_or_else(|| end.text.into(), |by| format!("{}: {by}", end.text)),
        });
    }
}

impl End<'_> {
    fn of(self, recipient: u32) -> Ended {
        Ended {
            recipient,
            cause: Cause::GivenUp,
            dsn: self.dsn,
            text: self.text.to_owned(),
            is_reply: false,
            relay: None,
            attempted_at_us: None,
        }
    }
}

/// What of an entry is to be done for these recipients.
fn only(mut entry: RecoveredEntry, recipients: &[u32]) -> RecoveredEntry {
    for destination in &mut entry.destinations {
        destination.recipients.retain(|recipient| recipients.contains(recipient));
    }
    entry.destinations.retain(|destination| !destination.recipients.is_empty());
    entry
}
