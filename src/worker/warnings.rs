//! Telling a sender that a message is late: once, when it has waited for `queue.warn_after`.
//!
//! The queue is looked through all the time, a part of it each second. A pass is for the messages
//! that have become old enough since the pass before, so each is considered once in a life of the
//! process; what was told is noted in the spool, so that the next life does not tell it again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::attempt::Loaded;
use super::core::Work;
use super::ending::cut;
use super::reports::{Case, Ended};
use super::{Inner, setting};
use crate::bounce::policy::Cause;
use crate::schedule::Recipients;
use crate::smtp::Enhanced;
use crate::spool::{EntryId, Mark, ReadError};
use crate::system::clock::wall_us;

/// How often a part of the queue is looked at.
const EVERY: Duration = Duration::from_secs(1);
/// Jobs looked at under one lock.
const ROWS: usize = 4096;
/// Looks each time.
const LOOKS_MAX: usize = 64;
/// Messages considered each time; each costs a read.
const MESSAGES_MAX: usize = 200;

/// One pass through the queue.
#[derive(Debug, Default)]
struct Pass {
    /// Messages that began later than this,
    after_us: u64,
    /// and not later than this.
    up_to_us: u64,
    /// Those of earlier passes that were with a worker, or could not be told.
    missed: HashSet<EntryId>,
}

impl Pass {
    fn wants(&self, id: EntryId) -> bool {
        (id.micros() > self.after_us && id.micros() <= self.up_to_us) || self.missed.contains(&id)
    }

    /// Go on to the messages that are old enough by now.
    fn begin(&mut self, newest_us: u64) {
        self.after_us = self.up_to_us;
        self.up_to_us = self.up_to_us.max(newest_us);
    }
}

impl Inner {
    pub(super) async fn warn_until(self: Arc<Self>, stop: CancellationToken) {
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut pass = Pass::default();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = every.tick() => self.warn(&mut pass, &stop).await,
            }
        }
    }

    /// Look at a part of the queue.
    async fn warn(self: &Arc<Self>, pass: &mut Pass, stop: &CancellationToken) {
        let warn_after = setting(&self.parts.cluster.view(), "queue.warn_after");
        let warn_after_us = u64::try_from(warn_after.as_micros()).unwrap_or(u64::MAX);
        let newest_us = self.clock.now_us().saturating_sub(warn_after_us);
        let mut left = MESSAGES_MAX;
        for _ in 0..LOOKS_MAX {
            if left == 0 || stop.is_cancelled() {
                return;
            }
            let (work, running, is_end) = self.update(|core, now| {
                let swept = core.schedule.sweep(|id| pass.wants(id), ROWS, left);
                let work = swept.taken.into_iter().map(|(name, ticket)| {
                    let why = core.schedule.error_of(&name).map(str::to_owned);
                    (core.work(ticket, now), why)
                });
                (work.collect::<Vec<_>>(), swept.running, swept.is_end)
            });
            left = left.saturating_sub(work.len());
            for (work, why) in work {
                let id = work.ticket.id;
                pass.missed.remove(&id);
                if !self.warn_of(work, why).await {
                    pass.missed.insert(id);
                }
            }
            pass.missed.extend(running);
            if is_end {
                return pass.begin(newest_us);
            }
        }
    }

    /// Tell the sender of one message, if the policy is for it, and let it wait on. `false` if that
    /// must be tried again.
    async fn warn_of(self: &Arc<Self>, mut work: Work, why: Option<String>) -> bool {
        let id = work.ticket.id;
        let message = match work.message.take() {
            Some(message) => message,
            None => match self.load_entry(id).await {
                Ok(Some(message)) => Arc::new(Loaded::from_spool(message)),
                Ok(None) | Err(ReadError::Quarantined(_)) => {
                    self.update(|core, now| core.schedule.finish(work.ticket, None, now));
                    return true;
                }
                Err(error @ ReadError::Io { .. }) => {
                    tracing::error!(%id, %error, "a late message cannot be read");
                    self.wait_on(work);
                    return false;
                }
            },
        };
        let recipients = work.ticket.recipients.as_slice();
        let late = recipients.iter().filter_map(|recipient| late(&message, *recipient, &why));
        let late: Vec<Ended> = late.collect();
        let told = self.tell_sender(Case::of(id, &message), &late).await;
        if let Ok(told) = &told {
            let due_us = due_us(work.ticket.due);
            let told = late.iter().filter(|late| told.is_told(late.recipient));
            let marks: Vec<Mark> = told.map(|late| warned(&message, late, due_us)).collect();
            self.parts.spool.record(id, marks);
        }
        self.wait_on(work);
        match told {
            Ok(told) => {
                told.report.into_iter().for_each(|report| self.accept(report));
                true
            }
            Err(error) => {
                tracing::warn!(%id, %error, "a report of a delay could not be stored");
                false
            }
        }
    }

    /// The job goes on waiting for its time.
    fn wait_on(self: &Arc<Self>, work: Work) {
        let left = Recipients::new(work.ticket.recipients.as_slice());
        let left = left.map(|recipients| (recipients, work.ticket.due));
        self.update(|core, now| core.schedule.finish(work.ticket, left, now));
    }
}

/// What there is to tell of a recipient that is late; nothing if it was told before.
fn late(message: &Loaded, recipient: u32, why: &Option<String>) -> Option<Ended> {
    let state = message.state(recipient)?;
    if state.warned || state.outcome.is_some() {
        return None;
    }
    let said = state.last_reply.clone().or_else(|| why.clone());
    let text = said.unwrap_or_else(|| "it was not tried yet".to_owned());
    Some(Ended {
        recipient,
        cause: Cause::Late,
        // RFC 3463 section 3.5: no answer from the host.
        dsn: state.dsn.unwrap_or(Enhanced(4, 4, 1)),
        is_reply: state.last_reply.is_some() && text.starts_with('4'),
        text,
        relay: None,
        attempted_at_us: state.at_us,
    })
}

/// The recipient stands where it stood, and the sender knows.
fn warned(message: &Loaded, late: &Ended, due_us: u64) -> Mark {
    let recipient = late.recipient;
    Mark::Deferred {
        recipient,
        attempts: message.attempts(recipient),
        due_us,
        dsn: late.dsn,
        reply: cut(late.text.clone()),
        at_us: late.attempted_at_us.unwrap_or_else(wall_us),
        warned: true,
    }
}

fn due_us(due: Instant) -> u64 {
    let wait = due.saturating_duration_since(Instant::now());
    wall_us().saturating_add(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX))
}
