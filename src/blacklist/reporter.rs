//! From events to commands: one batch on its way at a time, until its outcome is known.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use mxfleet_cluster::{Cluster, Command, ProposeError, RecipientNews, Request, State, random_id};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::backlog::Backlog;
use super::gauges;
use super::news::News;
use super::outbox::{Ask, OutboxError, Writer, find, next_incarnation};
use super::record::{Batch, Event, EventKey, Record};
use crate::config::Limits;
use crate::spool::{EntryId, Spool};
use crate::system::clock;
use crate::telemetry::metrics::METRICS;

/// After a batch found no quorum, or its outcome was not told.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Old files are looked at after so many batches.
const TRIM_BATCHES: u64 = 256;
/// Who reports, for the audit trail.
const ACTOR: &str = "node";

/// The node's reports to the fleet. Clones are handles to the same ones.
#[derive(Clone)]
pub struct Reports {
    shared: Arc<Shared>,
    /// To the writing thread, which ends with the last handle.
    asks: mpsc::Sender<Ask>,
    news: News,
}

/// What the handles and the writing thread share.
pub(super) struct Shared {
    /// Keys of events of earlier lives of the process whose messages are still queued.
    pub(super) keys: HashSet<EventKey>,
    backlog: Mutex<Backlog>,
    backlog_max: usize,
    linger: Duration,
    more: Notify,
    node: u64,
    incarnation: u64,
    /// Of the newest batch of this incarnation.
    sequence: AtomicU64,
    /// The batch that was on its way when the process ended.
    unfinished: Mutex<Option<Batch>>,
}

impl Shared {
    /// Take in what was written; the number of the newest event that had to go for it.
    pub(super) fn add(&self, records: Vec<Record>) -> Option<u64> {
        let mut dropped = None;
        let mut added = false;
        let mut backlog = self.lock();
        for record in records {
            if let Record::Event(number, event) = record {
                dropped = backlog.push(number, event, self.backlog_max).or(dropped);
                added = true;
            }
        }
        drop(backlog);
        if added {
            self.more.notify_one();
        }
        dropped
    }

    fn lock(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reports {
    /// Open the outbox in `dir` of the node with this id. `queued`: the messages in the spool.
    pub fn open(
        dir: &Path,
        node: u64,
        queued: &[EntryId],
        limits: &Limits,
    ) -> Result<Self, OutboxError> {
        let mut found = find(dir)?;
        let incarnation = next_incarnation(dir, clock::wall_ms())?;
        let queued: HashSet<EntryId> = queued.iter().copied().collect();
        let mut keys = std::mem::take(&mut found.keys);
        keys.retain(|(entry, _)| queued.contains(entry));
        let mut backlog = Backlog::default();
        for (number, event) in std::mem::take(&mut found.waiting) {
            backlog.push(number, event, limits.blacklist_backlog_max);
        }
        // So that each series is there before the first event.
        for kind in ["rejected", "accepted"] {
            METRICS.blacklist_events_total.with_label_values(&[kind]);
        }
        let (asks, asked) = mpsc::channel();
        let shared = Arc::new(Shared {
            keys,
            backlog: Mutex::new(backlog),
            backlog_max: limits.blacklist_backlog_max,
            linger: Duration::from_millis(limits.blacklist_linger_ms),
            more: Notify::new(),
            node,
            incarnation,
            sequence: AtomicU64::new(0),
            unfinished: Mutex::new(found.batch.take()),
        });
        let writer = Writer::new(dir, found, Arc::clone(&shared));
        let spawned =
            std::thread::Builder::new().name("outbox".to_owned()).spawn(move || writer.run(&asked));
        spawned.map_err(|source| OutboxError::thread(dir, source))?;
        Ok(Self { shared, asks, news: News::new(limits) })
    }

    fn ask(&self, ask: Ask) {
        // The thread ends only with us; without it the answer is dropped, which is an answer too.
        let _ = self.asks.send(ask);
    }

    /// Whether a message that was taken for `address` is news: the fleet has rejections of it, or
    /// will have. Mail that nothing is known against costs no command.
    pub fn is_suspect(&self, state: &State, address: &str) -> bool {
        state.is_blacklist_tracked(address) || self.shared.lock().has_rejection(address)
    }

    /// Where other parts of the node tell what they learn of recipients.
    pub fn news(&self) -> News {
        self.news.clone()
    }

    /// Mail was taken for an address that is not suspect: the fleet is told, if that is news.
    pub fn taken(&self, state: &State, address: String, at_ms: u64) {
        if state.is_taken_news(&address, at_ms) && self.news.of(&address).is_none() {
            self.news.tell(RecipientNews::Taken { address, at_ms });
        }
    }

    /// Keep events until the fleet has counted them. They are on their way to the disk at once;
    /// when the future is ready they are on stable storage, or, if the disk fails, dropped and
    /// counted as such.
    pub fn record(&self, mut events: Vec<Event>) -> impl Future<Output = ()> + Send + use<> {
        let before = events.len();
        events.retain(|event| !self.shared.keys.contains(&event.key()));
        METRICS.blacklist_replays_total.inc_by((before - events.len()) as u64);
        for event in &events {
            let kind = if event.is_rejection() { "rejected" } else { "accepted" };
            METRICS.blacklist_events_total.with_label_values(&[kind]).inc();
        }
        let written = (!events.is_empty()).then(|| {
            let (answer, written) = oneshot::channel();
            self.ask(Ask::Events(events, answer));
            written
        });
        async move {
            if let Some(written) = written {
                let _ = written.await; // dropped when there is nobody who writes
            }
        }
    }

    /// Wait until all that was asked for is written.
    pub async fn flush(&self) {
        let (answer, written) = oneshot::channel();
        self.ask(Ask::Events(Vec::new(), answer));
        let _ = written.await;
    }

    /// How many events wait for the fleet.
    pub fn waiting(&self) -> usize {
        self.shared.lock().len()
    }

    /// Report to the fleet until `stop`. What is left then is reported by the next life.
    pub async fn run(self, cluster: Cluster, spool: Spool, stop: CancellationToken) {
        tokio::select! {
            () = self.report(&cluster, &spool) => {}
            () = self.news.run(&cluster) => {}
            () = gauges::run(&cluster) => {}
            () = stop.cancelled() => {}
        }
    }

    async fn report(&self, cluster: &Cluster, spool: &Spool) {
        let unfinished = &self.shared.unfinished;
        let mut again = unfinished.lock().unwrap_or_else(PoisonError::into_inner).take();
        loop {
            let batch = match again.take() {
                Some(batch) => batch,
                None => self.next().await,
            };
            let events = self.shared.lock().take(Some(batch.last));
            self.propose(cluster, &batch, &events).await;
            self.shared.lock().decided(batch.last);
            self.ask(Ask::Through(batch.last));
            if batch.sequence.is_multiple_of(TRIM_BATCHES) {
                self.trim(spool).await;
            }
        }
    }

    /// Remove what is no longer needed: not before the spool has synced what it was told after the
    /// events.
    pub(super) async fn trim(&self, spool: &Spool) {
        if spool.flush().await.is_ok() {
            self.ask(Ask::Trim);
        }
    }

    /// Wait for events, and write down that they are a batch.
    async fn next(&self) -> Batch {
        while self.shared.lock().first().is_none() {
            self.shared.more.notified().await;
        }
        tokio::time::sleep(self.shared.linger).await;
        loop {
            let sequence = self.shared.sequence.fetch_add(1, Ordering::Relaxed) + 1;
            let events = self.shared.lock().take(None);
            let numbers = events.first().zip(events.last()).map(|(a, b)| (a.0, b.0));
            let (first, last) = numbers.unwrap_or_default();
            let (incarnation, request) = (self.shared.incarnation, format!("{:032x}", random_id()));
            let batch = Batch { incarnation, sequence, request, first, last };
            let (answer, written) = oneshot::channel();
            self.ask(Ask::Batch(batch.clone(), answer));
            if written.await.unwrap_or(false) {
                return batch;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Propose a batch until its outcome is known.
    async fn propose(&self, cluster: &Cluster, batch: &Batch, events: &[(u64, Event)]) {
        let command = Command::BlacklistReport {
            node: self.shared.node,
            incarnation: batch.incarnation,
            sequence: batch.sequence,
            events: events.iter().map(|(_, event)| event.told()).collect(),
        };
        let id = u128::from_str_radix(&batch.request, 16).unwrap_or_else(|_| random_id());
        loop {
            let request = Request::new(id, ACTOR, clock::wall_ms(), command.clone());
            match cluster.propose(request).await {
                Ok(Ok(_)) => return,
                Ok(Err(refusal)) => {
                    tracing::error!(%refusal, "a report for the blacklist was refused");
                    METRICS.blacklist_events_dropped_total.inc_by(events.len() as u64);
                    return;
                }
                Err(error @ ProposeError::TooLarge { .. }) => {
                    tracing::error!(%error, "a report for the blacklist is dropped");
                    METRICS.blacklist_events_dropped_total.inc_by(events.len() as u64);
                    return;
                }
                Err(error) => {
                    tracing::debug!(%error, "a report for the blacklist waits");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }
}

impl std::fmt::Debug for Reports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reports").finish_non_exhaustive()
    }
}
