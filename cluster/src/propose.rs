//! From a request to its outcome, whichever node was asked.
//!
//! The leader puts what waits into one log entry; everybody else sends the request to the leader.
//! A request keeps its id through all attempts, so it is applied once. What cannot be decided in
//! time is told apart: nothing was changed, or the outcome is unknown.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::ServerState;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use crate::codec;
use crate::machine::View;
use crate::network::Network;
use crate::raft::{Batch, NodeId, QUORUM_SILENCE_MS_MAX, Raft};
use crate::state::{Outcome, Request};
use crate::transport::wire::{Answer, Ask};
use crate::transport::{CallError, Tail};

/// A caller has its answer within this.
const PATIENCE: Duration = Duration::from_millis(4800);
/// One attempt; a leader that just died is not waited for longer.
const ATTEMPT: Duration = Duration::from_millis(1500);
const PAUSE: Duration = Duration::from_millis(50);
/// The largest request. It is sent within one heartbeat.
const REQUEST_OCTETS_MAX: usize = 512 << 10;
const BATCH_OCTETS: usize = 48 << 10;
const BATCH_REQUESTS_MAX: usize = 256;
const WAITING_MAX: usize = 4096;
/// Entries on their way at a time; while they are, the next batch gathers.
const FLIGHTS_MAX: usize = 4;
/// The leader's clock overrules a stamp further off than this.
const STAMP_OFF_MS_MAX: u64 = 300_000;

/// Why a proposal has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// No leader, or none that a quorum hears.
    #[error("no quorum of the fleet can be reached, nothing was changed")]
    NoQuorum,
    /// It was handed over, but nobody said what came of it.
    #[error("the outcome is unknown; retry with the same request id {id:032x}")]
    Unknown {
        /// The id to retry with.
        id: u128,
    },
    /// It does not fit a log entry.
    #[error("the request is too large, nothing was changed: {octets} octets, at most {max}")]
    TooLarge {
        /// Its size.
        octets: usize,
        /// The largest size.
        max: usize,
    },
    /// The leader would not take it.
    #[error("the fleet refused the request, nothing was changed: {0}")]
    Refused(String),
}

/// Gives the time: milliseconds since 1970, UTC.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

struct Pending {
    request: Arc<Request>,
    octets: usize,
    answer: oneshot::Sender<Answer>,
}

/// The leader's side: requests in, log entries out.
#[derive(Clone)]
pub(crate) struct Proposer {
    pub(crate) raft: Raft,
    pub(crate) node: NodeId,
    queue: mpsc::Sender<Pending>,
    /// It gives up the lead: requests are for the next leader.
    stands_aside: Arc<AtomicBool>,
}

impl Proposer {
    pub(crate) fn start(raft: Raft, node: NodeId, clock: Clock) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(gather(raft.clone(), waiting, clock));
        Self { raft, node, queue, stands_aside: Arc::default() }
    }

    /// Take no requests, or take them again.
    pub(crate) fn stand_aside(&self, aside: bool) {
        self.stands_aside.store(aside, Ordering::Relaxed);
    }

    /// Decide a request here, if this node leads.
    pub(crate) async fn submit(&self, request: Arc<Request>) -> Answer {
        if let Some(not_now) = self.not_now() {
            return not_now;
        }
        let octets = match size(&request) {
            Ok(octets) => octets,
            Err(error) => return Answer::Refused(error.to_string()),
        };
        let (answer, wait) = oneshot::channel();
        match self.queue.try_send(Pending { request, octets, answer }) {
            Ok(()) => wait.await.unwrap_or(Answer::Unknown),
            Err(mpsc::error::TrySendError::Full(_)) => Answer::NoQuorum,
            Err(mpsc::error::TrySendError::Closed(_)) => Answer::NotLeader { leader: None },
        }
    }

    /// Why this node cannot decide anything just now, if so.
    pub(crate) fn not_now(&self) -> Option<Answer> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        if metrics.state != ServerState::Leader || metrics.current_leader != Some(self.node) {
            let leader = metrics.current_leader.filter(|leader| *leader != self.node);
            return Some(Answer::NotLeader { leader });
        }
        if self.stands_aside.load(Ordering::Relaxed) {
            return Some(Answer::NotLeader { leader: None });
        }
        // A leader nobody answers would store the request and could never say what came of it.
        let silent = metrics.millis_since_quorum_ack.is_none_or(|ms| ms > QUORUM_SILENCE_MS_MAX);
        silent.then_some(Answer::NoQuorum)
    }
}

fn size(request: &Request) -> Result<usize, ProposeError> {
    let octets = codec::size(request).unwrap_or(usize::MAX);
    if octets > REQUEST_OCTETS_MAX {
        return Err(ProposeError::TooLarge { octets, max: REQUEST_OCTETS_MAX });
    }
    Ok(octets)
}

/// Make log entries of what waits. While some are on their way, more requests share the next.
async fn gather(raft: Raft, mut waiting: mpsc::Receiver<Pending>, clock: Clock) {
    let flights = Arc::new(Semaphore::new(FLIGHTS_MAX));
    let mut next = None;
    loop {
        let Ok(flight) = Arc::clone(&flights).acquire_owned().await else { return };
        let first = match next.take() {
            Some(pending) => pending,
            None => match waiting.recv().await {
                Some(pending) => pending,
                None => return,
            },
        };
        let mut octets = first.octets;
        let mut batch = vec![first];
        while batch.len() < BATCH_REQUESTS_MAX {
            let Ok(pending) = waiting.try_recv() else { break };
            octets += pending.octets;
            if octets > BATCH_OCTETS {
                next = Some(pending);
                break;
            }
            batch.push(pending);
        }
        let now_ms = clock();
        let (mut requests, answers): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|pending| (pending.request, pending.answer)).unzip();
        for request in &mut requests {
            if request.at_ms.abs_diff(now_ms) > STAMP_OFF_MS_MAX {
                Arc::make_mut(request).at_ms = now_ms;
            }
        }
        let Ok(entry) = Batch::new(&requests) else { continue };
        let Ok(written) = raft.client_write_ff(entry).await else { return };
        tokio::spawn(async move {
            let written = written.await;
            drop(flight);
            let (index, outcomes) = match written {
                Ok(Ok(response)) => (response.log_id.index, response.data.0),
                _ => (0, Vec::new()), // lost leadership: another leader may still commit it
            };
            let mut outcomes = outcomes.into_iter();
            for answer in answers {
                let decided = outcomes.next().map(|outcome| Answer::Proposed { index, outcome });
                let _ = answer.send(decided.unwrap_or(Answer::Unknown)); // it may not wait any more
            }
        });
    }
}

/// Any node's side: find the leader, ask it, ask again.
#[derive(Clone)]
pub(crate) struct Forwarder {
    pub(crate) raft: Raft,
    pub(crate) node: NodeId,
    pub(crate) network: Network,
    pub(crate) proposer: Proposer,
    pub(crate) view: Arc<View>,
}

impl Forwarder {
    pub(crate) async fn propose(&self, request: Request) -> Result<Outcome, ProposeError> {
        size(&request)?;
        let request = Arc::new(request);
        if self.view.state().was_removed(self.node) {
            return Err(ProposeError::Refused("this host was removed from the fleet".to_owned()));
        }
        // Not handed over: a leader that cannot read it would take it for an offence.
        if let Err(refusal) = self.view.state().allows(&request.command) {
            return Ok(Err(refusal));
        }
        let deadline = Instant::now() + PATIENCE;
        let mut handed_over = false;
        loop {
            let give_up = deadline.min(Instant::now() + ATTEMPT);
            let attempt = timeout_at(give_up, self.attempt(Arc::clone(&request))).await;
            match attempt {
                Ok(Some(Answer::Proposed { index, outcome })) => {
                    self.see(index, deadline).await;
                    return Ok(outcome);
                }
                // An earlier attempt may have done it, and be the reason.
                Ok(Some(Answer::Refused(_))) if handed_over => {
                    return Err(ProposeError::Unknown { id: request.id });
                }
                Ok(Some(Answer::Refused(why))) => return Err(ProposeError::Refused(why)),
                Ok(Some(Answer::Unknown)) | Err(_) => handed_over = true,
                Ok(_) => {}
            }
            if Instant::now() + PAUSE >= deadline {
                let id = request.id;
                return Err(if handed_over {
                    ProposeError::Unknown { id }
                } else {
                    ProposeError::NoQuorum
                });
            }
            sleep(PAUSE).await;
        }
    }

    /// One attempt; `None` when it was certainly not handed over.
    async fn attempt(&self, request: Arc<Request>) -> Option<Answer> {
        let leader = self.raft.metrics().borrow().current_leader?;
        if leader == self.node {
            return Some(self.proposer.submit(request).await);
        }
        let asked = tokio::select! {
            asked = self.ask(leader, Ask::Propose(request)) => asked,
            () = self.another_leads(leader) => return Some(Answer::Unknown),
        };
        match asked {
            Ok(answer) => Some(answer),
            Err(CallError::Unreachable(_)) => None,
            Err(CallError::Broken(_)) => Some(Answer::Unknown),
        }
    }

    /// Waits until a node other than `leader` leads: the one that was asked may be dead, and its
    /// silence is not waited out.
    async fn another_leads(&self, leader: NodeId) {
        let mut metrics = self.raft.metrics();
        let other = |now: Option<NodeId>| now.is_some_and(|now| now != leader);
        // The consensus that stopped names no other leader; the attempt's own deadline ends it.
        if metrics.wait_for(|metrics| other(metrics.current_leader)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    pub(crate) async fn ask(&self, to: NodeId, ask: Ask) -> Result<Answer, CallError> {
        self.ask_with(to, ask, Tail::Nothing).await
    }

    pub(crate) async fn ask_with(
        &self,
        to: NodeId,
        ask: Ask,
        tail: Tail,
    ) -> Result<Answer, CallError> {
        let fallback = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            let known = metrics.membership_config.membership().get_node(&to);
            known.map(|peer| peer.address.clone()).unwrap_or_default()
        };
        self.network.ask(to, &fallback, ask, tail).await
    }

    /// Wait until this node has applied the entry: who asked here shall see here what came of it.
    async fn see(&self, index: u64, deadline: Instant) {
        // Late is no harm: the outcome is certain, only this node's view is behind.
        let _ = timeout_at(deadline, self.view.reached(index)).await;
    }
}
