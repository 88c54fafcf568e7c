//! The hand-over of a host's queue to other hosts.
//!
//! The sender offers a message; the receiver stores it, on hold, and says so. The sender records,
//! durably, that it is the receiver's, and tells it; only then the receiver delivers it, and only
//! then the sender forgets it. Whoever crashes: until the record there is one who delivers, the
//! sender; after it there is one, the receiver. A receiver that was not told asks.
//!
//! **Invariant:** a message is offered with what became of it so far, and while it is on its way
//! its sender does not deliver it.

mod receive;
mod send;
#[cfg(test)]
mod tests;
mod words;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use mxfleet_cluster::{Cluster, Command, HostCommand, HostState, Request, Topic, random_id};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::connection::{Service, ServiceState};
use crate::letters::Letters;
use crate::spool::{EntryId, Hold, Spool};
use crate::system::clock::wall_ms;
use crate::worker::Deliveries;

/// How often it is looked what there is to do.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often the queue of a draining host is counted for the fleet.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// An arriving message that its sender says nothing of is asked about after this, again and again.
const ASK_AFTER: Duration = Duration::from_secs(5);
/// Who reports, for the audit trail.
const ACTOR: &str = "node";

/// Hands over this host's queue when it is drained, and takes over those of others. Clones are
/// handles to the same one.
#[derive(Clone)]
pub(super) struct HandOver {
    inner: Arc<Inner>,
}

/// What it is made of.
pub(super) struct Parts {
    pub(super) cluster: Cluster,
    pub(super) spool: Spool,
    pub(super) deliveries: Deliveries,
    pub(super) service: Service,
    /// This node's id.
    pub(super) node: u64,
    pub(super) letters: Letters,
}

struct Inner {
    parts: Parts,
    /// Messages that are being offered, or taken.
    busy: Mutex<HashSet<EntryId>>,
    /// When an arriving message was last offered or asked about.
    touched: Mutex<HashMap<EntryId, Instant>>,
    /// Messages that have come and are ours, until they are scheduled.
    owned: Mutex<HashSet<EntryId>>,
    receivers: Mutex<send::Receivers>,
}

/// A message nobody else is busy with while this lives.
struct Busy<'a> {
    inner: &'a Inner,
    id: EntryId,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        lock(&self.inner.busy).remove(&self.id);
    }
}

impl HandOver {
    /// `service` follows the fleet's word from now on.
    pub(super) fn new(parts: Parts) -> Self {
        let (busy, touched) = (Mutex::default(), Mutex::default());
        let (owned, receivers) = (Mutex::default(), Mutex::default());
        let inner = Arc::new(Inner { parts, busy, touched, owned, receivers });
        inner.follow();
        Self { inner }
    }

    /// Do what the fleet wants of this host, until `stop`. What was found in the spool at start is
    /// scheduled before: from now on other nodes say what of it is ours.
    pub(super) async fn run(self, stop: CancellationToken) {
        let inner = &self.inner;
        let handler: Weak<Inner> = Arc::downgrade(inner);
        inner.parts.cluster.answer_peers(Topic::HAND_OVER, handler);
        let work = async {
            tokio::join!(inner.follow_fleet(), inner.empty(), inner.settle(), inner.resolve());
        };
        tokio::select! {
            () = work => {}
            () = stop.cancelled() => {}
        }
    }
}

impl Inner {
    /// Take mail, or not, as the fleet says; and say how much is left.
    async fn follow_fleet(&self) {
        let (mut look, mut moved) = (interval(LOOK_EVERY), self.parts.cluster.watch());
        let (mut reported, mut told) = (Instant::now(), None);
        loop {
            tokio::select! {
                _ = look.tick() => {}
                _ = moved.changed() => {}
            }
            self.follow();
            let Some(since_ms) = self.emptying_since_ms() else {
                told = None;
                continue;
            };
            // One that was resumed and drained again in one go is told of again.
            let left = self.left();
            if reported.elapsed() >= REPORT_EVERY && told != Some((since_ms, left)) {
                let report = HostCommand::MailLeft { id: self.parts.node, messages: left };
                let command = Command::HostService(report);
                let request = Request::new(random_id(), ACTOR, wall_ms(), command);
                if matches!(self.parts.cluster.propose(request).await, Ok(Ok(_))) {
                    told = Some((since_ms, left));
                }
                reported = Instant::now();
            }
        }
    }

    fn follow(&self) {
        let (state, now_ms) = (self.parts.cluster.view(), wall_ms());
        let before = self.parts.service.state();
        let now = match state.host(self.parts.node).map(|host| &host.state) {
            Some(HostState::Retired { .. }) => ServiceState::Retired,
            Some(_) if !state.accepts_mail(self.parts.node, now_ms) => ServiceState::Away,
            _ => ServiceState::Serving,
        };
        if now != before {
            tracing::info!("this host is {now:?} from now on");
            self.parts.service.set(now);
        }
    }

    /// Since when this host is drained, once its names lead elsewhere.
    fn emptying_since_ms(&self) -> Option<u64> {
        let state = self.parts.cluster.view();
        match state.host(self.parts.node).map(|host| &host.state) {
            Some(HostState::Draining(drain)) if !self.parts.service.is_serving() => {
                Some(drain.since_ms)
            }
            _ => None,
        }
    }

    /// Messages in the queue, and those that are just coming in.
    fn left(&self) -> u64 {
        let arriving = u64::try_from(self.parts.spool.arriving()).unwrap_or(u64::MAX);
        self.parts.spool.stats().messages.saturating_add(arriving)
    }

    fn begin(&self, id: EntryId) -> Option<Busy<'_>> {
        let is_free = lock(&self.busy).insert(id);
        // Not made before it is known: one that is dropped takes the lock, and frees the message.
        is_free.then(|| Busy { inner: self, id })
    }

    fn is_busy(&self, id: EntryId) -> bool {
        lock(&self.busy).contains(&id)
    }

    /// Entries whose hold is about another node.
    fn on_their_way(&self, wanted: impl Fn(Hold) -> Option<u16>) -> HashMap<u16, Vec<EntryId>> {
        let mut by_node: HashMap<u16, Vec<EntryId>> = HashMap::new();
        for (id, hold) in self.parts.spool.on_their_way() {
            if let Some(node) = wanted(hold).filter(|_| !self.is_busy(id)) {
                by_node.entry(node).or_default().push(id);
            }
        }
        by_node
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for HandOver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandOver").finish_non_exhaustive()
    }
}
