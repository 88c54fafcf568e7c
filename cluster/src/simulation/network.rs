//! A network that delays, loses and cuts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::raft::AppendEntriesResponse;
use tokio::time::sleep;

use super::Bug;
use super::runtime::{between, chance, next};
use crate::raft::{Batch, NodeId, Vote};
use crate::state::{Command, Request};
use crate::transport::wire::{Answer, Ask, Call};
use crate::transport::{BoxFuture, CallError, Handler, Rest, Tail, Transport};

/// As `transport::endpoint` has it.
const IDLE: Duration = Duration::from_secs(3);

/// What all nodes share.
#[derive(Default)]
pub(super) struct World {
    pub(super) handlers: BTreeMap<NodeId, (u64, Arc<dyn Handler>)>,
    /// From, to.
    pub(super) cut: BTreeSet<(NodeId, NodeId)>,
    pub(super) loss_percent: u64,
    pub(super) slow: bool,
    pub(super) bug: Option<Bug>,
    /// Term and node of the greatest vote that each node has told another of.
    pub(super) promised: BTreeMap<NodeId, (u64, NodeId)>,
}

impl World {
    /// A node has told another that it goes by this vote. From then on it must have it on its disk,
    /// or a greater one.
    fn promise(&mut self, node: NodeId, vote: &Vote) {
        let leader = vote.leader_id();
        let vote = (leader.term, leader.node_id);
        let greatest = self.promised.entry(node).or_insert(vote);
        *greatest = vote.max(*greatest);
    }
}

/// One incarnation of a node, as the network sees it.
#[derive(Clone)]
pub(super) struct SimTransport {
    pub(super) world: Arc<Mutex<World>>,
    pub(super) node: NodeId,
    pub(super) incarnation: u64,
}

pub(super) fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimTransport {
    fn is_alive(&self) -> bool {
        let world = lock(&self.world);
        world.handlers.get(&self.node).is_some_and(|(now, _)| *now == self.incarnation)
    }

    /// One way from a node to another. Where nothing passes, QUIC gives the connection up.
    async fn way(&self, from: NodeId, to: NodeId) -> Result<(), CallError> {
        let (lost, delay) = {
            let world = lock(&self.world);
            let lost = world.cut.contains(&(from, to)) || chance(world.loss_percent);
            (lost, if world.slow { between(5_000, 90_000) } else { between(100, 3_000) })
        };
        if lost {
            sleep(IDLE).await;
            return Err(CallError::Broken("the connection timed out".to_owned()));
        }
        sleep(delay).await;
        Ok(())
    }

    fn bug(&self) -> Option<Bug> {
        lock(&self.world).bug
    }

    /// What the replanted bugs do to a call on its way.
    fn spoil(&self, to: NodeId, call: &mut Call) -> Option<Answer> {
        match (self.bug(), &mut call.ask) {
            (Some(Bug::AnsweredEarly), Ask::Propose(_)) if chance(20) => {
                Some(Answer::Proposed { index: 0, outcome: Ok(1) })
            }
            (Some(Bug::AppliedTwice), Ask::Propose(request)) => {
                Arc::make_mut(request).id = u128::from(next());
                None
            }
            (Some(Bug::EntryChanged), Ask::Append(append)) if to == 2 && chance(5) => {
                for entry in &mut append.entries {
                    if let openraft::EntryPayload::Normal(batch) = &mut entry.payload {
                        let tick = Request::new(next().into(), "x", 1, Command::Tick);
                        *batch = Batch::new(&[tick]).unwrap();
                    }
                }
                None
            }
            _ => None,
        }
    }
}

impl Transport for SimTransport {
    fn call<'a>(
        &'a self,
        to: NodeId,
        _address: &'a str,
        call: Vec<u8>,
        tail: Tail,
    ) -> BoxFuture<'a, Result<Answer, CallError>> {
        Box::pin(async move {
            if !self.is_alive() {
                return Err(CallError::Unreachable("the machine is off".to_owned()));
            }
            self.way(self.node, to).await?;
            let handler = lock(&self.world).handlers.get(&to).map(|(_, h)| Arc::clone(h));
            let Some(handler) = handler else {
                return Err(CallError::Unreachable("nobody is there".to_owned()));
            };
            let from = self.node;
            let file = match tail {
                Tail::File(file) => Some(file),
                Tail::Nothing | Tail::Pieces(_) => None,
            };
            let mut call = Call::decode(&call).map_err(|e| CallError::Broken(e.to_string()))?;
            if let Some(answer) = self.spoil(to, &mut call) {
                return Ok(answer);
            }
            let propose = matches!(call.ask, Ask::Propose(_));
            let vote = call.vote().copied();
            if let Some(vote) = &vote {
                lock(&self.world).promise(from, vote);
            }
            // The callee goes on when the caller gives up, as over a real network.
            let work =
                tokio::spawn(
                    async move { handler.answer(from, call, Rest::Simulated(file)).await },
                );
            let answer = work.await.map_err(|e| CallError::Broken(e.to_string()))?;
            let agreed = match &answer {
                Answer::Vote(response) => response.vote_granted,
                Answer::Append(response) => {
                    !matches!(response, AppendEntriesResponse::HigherVote(_))
                }
                _ => false,
            };
            if let Some(vote) = vote.filter(|_| agreed) {
                lock(&self.world).promise(to, &vote);
            }
            if propose && self.bug() == Some(Bug::SaidNoToDone) && chance(20) {
                return Ok(Answer::Refused("no".to_owned()));
            }
            self.way(to, self.node).await?;
            let bytes = answer.encode().map_err(|e| CallError::Broken(e.to_string()))?;
            Answer::decode(&bytes).map_err(|e| CallError::Broken(e.to_string()))
        })
    }

    fn silent_ms(&self, _node: NodeId) -> Option<u64> {
        None
    }
}
