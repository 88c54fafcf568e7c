//! Giving up what has waited for longer than `queue.lifetime`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::attempt::Loaded;
use super::core::Work;
use super::ending::Trial;
use super::{Inner, setting};
use crate::spool::{EntryId, ReadError};
use crate::telemetry::delivery_log::Delays;

/// How often the queue is searched.
const EVERY: Duration = Duration::from_secs(1);
/// Destinations and jobs looked at under one lock.
const LOOKED_AT: usize = 256;
/// Messages that are ended at one time: some must be looked at first, which takes name servers'
/// time.
const AT_ONCE: usize = 16;
/// Looks in one search; a node with more destinations takes several searches to see all.
const LOOKS_MAX: usize = 64;

impl Inner {
    pub(super) async fn expire_until(self: Arc<Self>, stop: CancellationToken) {
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = every.tick() => self.expire(&stop).await,
            }
        }
    }

    /// Search once.
    async fn expire(self: &Arc<Self>, stop: &CancellationToken) {
        let lifetime = setting(&self.parts.cluster.view(), "queue.lifetime");
        let lifetime_us = u64::try_from(lifetime.as_micros()).unwrap_or(u64::MAX);
        let newest_us = self.clock.now_us().saturating_sub(lifetime_us);
        self.update(|core, now| core.forget_stale(now));
        let mut looks = self.lock().schedule.destinations().div_ceil(LOOKED_AT).min(LOOKS_MAX);
        while looks > 0 {
            looks -= 1;
            let is_expired = |id: EntryId| id.micros() <= newest_us;
            let expired = self.update(|core, now| {
                let expired = core.schedule.expired(is_expired, LOOKED_AT);
                let work = expired.into_iter().map(|(domain, ticket)| {
                    let why = core.schedule.error_of(&domain).map(str::to_owned);
                    (domain, core.work(ticket, now), why)
                });
                work.collect::<Vec<_>>()
            });
            let mut ending = JoinSet::new();
            let mut ended = 0;
            for (domain, work, why) in expired {
                if ending.len() >= AT_ONCE {
                    ended += usize::from(matches!(ending.join_next().await, Some(Ok(true))));
                }
                let inner = Arc::clone(self);
                ending.spawn(async move { inner.expire_one(&domain, work, why).await });
            }
            ended += ending.join_all().await.into_iter().filter(|ended| *ended).count();
            // Where there was one there may be more. What could not be ended would only be found
            // again, at once and for ever: its turn is in the next search.
            looks += usize::from(ended > 0);
            if stop.is_cancelled() {
                break;
            }
        }
    }

    /// End one message; `false` if that must be tried again.
    async fn expire_one(
        self: &Arc<Self>,
        domain: &str,
        mut work: Work,
        why: Option<String>,
    ) -> bool {
        let id = work.ticket.id;
        let message = match work.message.take() {
            Some(message) => message,
            None => match self.load_entry(id).await {
                Ok(Some(message)) => Arc::new(Loaded::from_spool(message)),
                Ok(None) | Err(ReadError::Quarantined(_)) => {
                    self.update(|core, now| core.schedule.finish(work.ticket, None, now));
                    return true;
                }
                Err(ReadError::Io { source, .. }) => {
                    tracing::error!(%id, %source, "an expired message cannot be read");
                    let left = Some((work.ticket.recipients.clone(), Instant::now() + EVERY * 60));
                    self.update(|core, now| core.schedule.finish(work.ticket, left, now));
                    return false;
                }
            },
        };
        let age_us = self.clock.now_us().saturating_sub(id.micros());
        let delays = Delays { due_us: age_us, ..Delays::default() };
        // What the server last said of the recipient tells more than that it is unreachable now.
        let last = |recipient: u32| {
            let state = message.states.get(recipient as usize);
            let said = state.and_then(|state| state.last_reply.clone());
            said.or_else(|| why.clone()).unwrap_or_else(|| "it was never tried".to_owned())
        };
        let trial = Trial { work, message: &message, relay: None, offers_dsn: false, delays };
        self.give_up(trial, domain, last).await
    }
}
