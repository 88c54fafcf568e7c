//! Joins stages 4 to 9 for one message after the other.
//!
//! [`Deliveries::accept`] takes what has just been committed, [`Deliveries::recover`] what was
//! found at start, and [`Deliveries::run`] sees to it that each is offered to its customers'
//! servers until each recipient has an outcome. A connection is a task; it lives as long as there
//! is something to carry, and a moment longer.
//!
//! **Invariant:** what happened to a recipient is recorded in the spool before the schedule
//! forgets the job, so that a crash in between repeats an attempt but loses nothing.
//!
//! What the blacklist must know is synced before the spool is told, so that it is counted once;
//! that is waited for by a task of its own, so that the connection carries the next message
//! meanwhile.
//!
//! **Invariant:** the lock is held for no I/O and for no `await`.

mod attempt;
mod connection;
mod core;
mod counters;
mod diagnose;
mod ending;
mod expiry;
mod hand_over;
mod inspect;
mod letters;
mod local;
mod operate;
mod reports;
mod returns;
mod roles;
mod select;
#[cfg(test)]
pub(crate) mod tests;
mod warnings;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mxfleet_cluster::{Cluster, State};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::authentication::Authenticator;
use crate::blacklist::Reports;
use crate::client::Client;
use crate::config::Limits;
use crate::letters::Letters;
use crate::returns::Returns;
use crate::roles::{Answered, Webhook};
use crate::route::Router;
use crate::schedule::{Arrival, Bounds, Due, Permit, Recipients, Schedule};
use crate::smtp::about::domain_of;
use crate::spool::{EntryId, Queued, ReadError, RecoveredEntry, Spool};
use crate::system::clock::wall_us;
use crate::system::random::random_u64;
use crate::telemetry::delivery_log::DeliveryLog;
use crate::telemetry::journal::Journal;
use crate::telemetry::metrics::METRICS;

use self::core::{Core, Work};
pub use hand_over::TakeError;
pub use inspect::{DestinationView, EntryView, QueueGauges, QueueSummary, RecipientView};
pub use operate::{OperateError, WITHDRAWN};

/// What was written because of a message that is still queued, as a crash leaves it, waits so long:
/// that message is done with first, so that another crash does not have it written again.
const EARLY_PAUSE: Duration = Duration::from_secs(5);
/// How often entries that could not be read at start are tried again.
const REREAD_PAUSE: Duration = Duration::from_mins(1);

/// What deliveries are made with.
pub struct Parts {
    /// Where messages are.
    pub spool: Spool,
    /// Finds servers.
    pub router: Router,
    /// Makes connections.
    pub client: Client,
    /// Looks whether a message is its sender's, when that matters and nobody has looked before.
    pub authenticator: Authenticator,
    /// What we call ourselves in reports.
    pub hostname: String,
    /// Every name this host goes by, in lower case.
    pub own_names: Vec<String>,
    /// The tables and settings.
    pub cluster: Cluster,
    /// What the fleet must know of recipients.
    pub reports: Reports,
    /// What is remembered of return paths of ours.
    pub returns: Returns,
    /// What became of letters to customers, until the fleet knows it.
    pub letters: Letters,
    /// Where pages go.
    pub webhook: Option<Webhook>,
    /// Who was answered of those who wrote to the service.
    pub answered: Answered,
    /// What is remembered of mail that was not delivered.
    pub journal: Journal,
    /// What is told of each attempt.
    pub log: DeliveryLog,
    /// Bounds.
    pub limits: Arc<Limits>,
}

/// All deliveries of a node. Clones are handles to the same ones.
#[derive(Clone)]
pub struct Deliveries {
    inner: Arc<Inner>,
}

struct Inner {
    parts: Parts,
    core: Mutex<Core>,
    /// The alarm must be set anew.
    alarm: Notify,
    /// No new attempts.
    stopping: CancellationToken,
    /// No attempts at all.
    aborting: CancellationToken,
    tasks: TaskTracker,
    /// Room for messages whose outcome waits for the outbox.
    settling: Arc<Semaphore>,
    /// Room for one who looks for diagnostics; it is work.
    diagnosing: Arc<Semaphore>,
    runtime: Handle,
    clock: Clock,
}

impl Deliveries {
    /// Must be called inside a tokio runtime. Nothing is delivered before [`Deliveries::run`].
    pub fn new(parts: Parts) -> Self {
        counters::begin();
        let limits = &parts.limits;
        let bounds = Bounds {
            connections_max: limits.outbound_connections_max,
            window_start: limits.window_start,
            probe_pause_min: Duration::from_millis(limits.probe_pause_min_ms),
            probe_pause_max: Duration::from_millis(limits.probe_pause_max_ms),
        };
        let settling_max = limits.settling_max.clamp(1, Semaphore::MAX_PERMITS);
        let schedule = Schedule::new(&bounds, Instant::now(), random_u64());
        let inner = Inner {
            parts,
            core: Mutex::new(Core::new(schedule)),
            alarm: Notify::new(),
            stopping: CancellationToken::new(),
            aborting: CancellationToken::new(),
            tasks: TaskTracker::new(),
            settling: Arc::new(Semaphore::new(settling_max)),
            diagnosing: Arc::new(Semaphore::new(1)),
            runtime: Handle::current(),
            clock: Clock { started: Instant::now(), started_us: wall_us() },
        };
        Self { inner: Arc::new(inner) }
    }

    /// Deliver a message that was just committed. Cheap: an idle connection is woken at once.
    pub fn accept(&self, queued: Queued) {
        self.inner.accept(queued);
    }

    /// Queue what was found in the spool at start. What was being attempted is due at once, since
    /// its time has passed; the rest keeps its time.
    pub fn recover(
        &self,
        entries: impl Iterator<Item = Result<RecoveredEntry, ReadError>>,
    ) -> usize {
        let mut recovered = 0;
        for entry in entries {
            match entry {
                Ok(entry) => {
                    self.inner.recover(&entry);
                    recovered += 1;
                }
                Err(ReadError::Quarantined(id)) => {
                    tracing::error!(%id, "a damaged entry was set aside");
                }
                Err(ReadError::Io { id, source }) => {
                    tracing::error!(%id, %source, "an entry cannot be read; it is tried again");
                    self.inner.lock().unread.push_back(id);
                }
            }
        }
        recovered
    }

    /// Deliver until `stop`; then let running transactions end, within bounds.
    pub async fn run(&self, stop: CancellationToken) {
        let inner = &self.inner;
        inner.update(|core, _| core.running = true);
        let expiry = tokio::spawn(Arc::clone(inner).expire_until(stop.clone()));
        let warnings = tokio::spawn(Arc::clone(inner).warn_until(stop.clone()));
        let mut tables = inner.parts.cluster.watch();
        let mut reread = tokio::time::interval(REREAD_PAUSE);
        loop {
            let alarm = inner.lock().arm().unwrap_or_else(|| Instant::now() + REREAD_PAUSE);
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(alarm.into()) => inner.update(|_, _| ()),
                () = inner.alarm.notified() => {}
                _ = reread.tick() => inner.reread().await,
                Ok(()) = tables.changed() => inner.follow_tables(),
            }
        }
        inner.drain().await;
        let _ = expiry.await;
        let _ = warnings.await;
    }
}

impl std::fmt::Debug for Deliveries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deliveries").finish_non_exhaustive()
    }
}

impl Inner {
    fn accept(self: &Arc<Self>, queued: Queued) {
        self.tell_accepted(&queued);
        self.count_roles(&queued.envelope);
        let view = self.parts.cluster.view();
        let (id, held) = (queued.id, queued.hold.is_operators());
        let envelope = Arc::clone(&queued.envelope);
        let destinations = attempt::by_destination(&envelope, |_| true);
        self.update(|core, now| {
            let mut jobs = 0;
            for (domain, recipients) in &destinations {
                let connections_max = connections_max(&view, domain);
                let due = if held { Due::Held } else { Due::Fresh };
                let recipients = recipients.clone();
                let arrival = Arrival { id, domain, recipients, due, connections_max };
                jobs += u32::from(core.schedule.add(arrival, now));
            }
            core.keep_fresh(queued, jobs, &destinations, now);
        });
    }

    fn recover(self: &Arc<Self>, entry: &RecoveredEntry) {
        if !entry.hold.is_ours() {
            return; // it is on its way between this node and another
        }
        let view = self.parts.cluster.view();
        let now_us = wall_us();
        let longest = setting(&view, "queue.retry_max");
        let about = entry.about.as_ref().and_then(|about| Some((about.id.parse().ok()?, about)));
        let is_early = about.is_some_and(|(id, _)| self.parts.spool.hold_of(id).is_some());
        let least = if is_early { EARLY_PAUSE } else { Duration::ZERO };
        self.update(|core, now| {
            if let Some((id, about)) = about {
                core.note_told(id, about);
            }
            for destination in &entry.destinations {
                let Some(recipients) = Recipients::new(&destination.recipients) else { continue };
                // Bounded, in case the clock has been turned back since.
                let wait = Duration::from_micros(destination.due_us.saturating_sub(now_us));
                let due = match entry.hold.is_operators() {
                    true => Due::Held,
                    false => Due::At(now + wait.min(longest.saturating_mul(2)).max(least)),
                };
                let domain = destination.domain.as_str();
                let connections_max = connections_max(&view, domain);
                let arrival = Arrival { id: entry.id, domain, recipients, due, connections_max };
                core.schedule.add(arrival, now);
            }
        });
    }

    /// Try again to read what could not be read at start.
    async fn reread(self: &Arc<Self>) {
        let ids = std::mem::take(&mut self.lock().unread);
        for id in ids {
            match self.load_entry(id).await {
                Ok(Some(message)) => self.recover(&attempt::recovered(&message)),
                Ok(None) | Err(ReadError::Quarantined(_)) => {}
                Err(ReadError::Io { .. }) => self.lock().unread.push_back(id),
            }
        }
    }

    fn follow_tables(self: &Arc<Self>) {
        let view = self.parts.cluster.view();
        self.update(|core, now| {
            core.schedule.set_limits(|domain| connections_max(&view, domain), now);
        });
    }

    /// Change something under the lock, then start whatever that has made possible.
    fn update<R>(self: &Arc<Self>, change: impl FnOnce(&mut Core, Instant) -> R) -> R {
        let mut core = self.lock();
        let now = Instant::now();
        let result = change(&mut core, now);
        let starts = core.starts(now);
        let must_arm = core.must_arm();
        METRICS.destinations_dead.set(i64::try_from(core.schedule.dead()).unwrap_or(i64::MAX));
        drop(core);
        for (permit, work) in starts {
            self.start(permit, work);
        }
        if must_arm {
            self.alarm.notify_one();
        }
        result
    }

    fn start(self: &Arc<Self>, permit: Permit, work: Work) {
        let inner = Arc::clone(self);
        let connection = async move {
            tokio::select! {
                biased;
                () = inner.aborting.cancelled() => {}
                () = inner.serve(permit, work) => {}
            }
        };
        self.tasks.spawn_on(connection, &self.runtime);
    }

    /// Let connections end what they do, but not longer than the limit.
    async fn drain(self: &Arc<Self>) {
        self.stopping.cancel();
        let dismissed = {
            let mut core = self.lock();
            core.running = false;
            core.dismiss_all()
        };
        tracing::debug!(dismissed, "idle connections are closed");
        self.tasks.close();
        let within = Duration::from_millis(self.parts.limits.drain_timeout_ms);
        if tokio::time::timeout(within, self.tasks.wait()).await.is_err() {
            tracing::warn!("deliveries that did not end in time are cut; their mail stays queued");
            self.aborting.cancel();
            self.tasks.wait().await;
        }
        if let Err(error) = self.parts.spool.flush().await {
            tracing::error!(%error, "outcomes of the last deliveries may be forgotten");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wall time that no one can turn while we run: a jump of the clock neither expires mail nor
/// keeps it for ever.
#[derive(Debug, Clone, Copy)]
struct Clock {
    started: Instant,
    started_us: u64,
}

impl Clock {
    fn now_us(self) -> u64 {
        let elapsed = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.started_us.saturating_add(elapsed)
    }
}

/// Connections for mail of our own to one domain: there is little of it, and it can wait.
const OWN_CONNECTIONS_MAX: u32 = 2;

/// How many connections a destination may have.
fn connections_max(view: &State, destination: &str) -> u32 {
    let (domain, is_ours) = domain_of(destination);
    if is_ours {
        return OWN_CONNECTIONS_MAX;
    }
    let own = view.domain(domain).and_then(|row| row.connections_max);
    own.unwrap_or_else(|| {
        u32::try_from(view.settings().count("delivery.connections_max")).unwrap_or(u32::MAX)
    })
}

/// A setting that is a duration.
fn setting(view: &State, name: &str) -> Duration {
    Duration::from_millis(view.settings().duration_ms(name))
}

/// Ids of entries to look at again.
type Unread = VecDeque<EntryId>;
