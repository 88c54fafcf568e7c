//! How the fleet is, as this node sees it.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;

use crate::cluster::Node;
use crate::hex;
use crate::raft::{NodeId, Peer, QUORUM_SILENCE_MS_MAX};
use crate::service::progress;
use crate::snapshot;
use crate::state::{Host, State};
use crate::transport::wire::{Answer, Ask, Progress};

/// The leader knows more than we do; it is not waited for longer.
const ASK: Duration = Duration::from_secs(1);
/// A member that answered this lately is up.
const UP_MS: u64 = 3_000;

/// How the fleet is, as this node sees it.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// This node's name.
    pub node: String,
    /// The leader's name, if there is one.
    pub leader: Option<String>,
    /// The term of the consensus; it grows with every election.
    pub term: u64,
    /// The log index up to which this node's state is.
    pub applied_index: u64,
    /// SHA-256 of this node's state at that index, in hexadecimal.
    pub state_digest: String,
    /// The cluster version the fleet runs: the newest one that all its hosts speak.
    pub cluster_version: Option<u16>,
    /// Everybody in the fleet, in order of id.
    pub members: Vec<Member>,
}

/// A node of the fleet.
#[derive(Debug, Clone, Serialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: u64,
    /// Where other nodes reach it.
    pub address: String,
    /// `voter`, `learner`, `joining` or `leaving`.
    pub role: &'static str,
    /// `up`, `down`, or `unknown` where only the leader would know and there is none.
    pub state: &'static str,
    /// How many log entries it is behind the leader.
    pub lag_entries: Option<u64>,
    /// When the leader last heard from it.
    pub last_contact_seconds: Option<f64>,
    /// The version of the program it runs.
    pub version: String,
    /// The newest cluster version it speaks; `None` of one that is leaving.
    pub speaks: Option<u16>,
}

pub(crate) async fn of(node: &Node, state: Arc<State>) -> Status {
    let (leader, members) = look(node, &state).await;
    let term = node.raft.metrics().borrow().current_term;
    Status {
        node: node.who.name.clone(),
        leader,
        term,
        applied_index: state.applied_index(),
        cluster_version: state.cluster_version(),
        state_digest: digest(node, state).await,
        members,
    }
}

/// Everybody in the fleet, in order of id; without the digest this is cheap.
pub(crate) async fn members(node: &Node, state: &State) -> Vec<Member> {
    look(node, state).await.1
}

/// The leader's name, and everybody.
async fn look(node: &Node, state: &State) -> (Option<String>, Vec<Member>) {
    let metrics = node.raft.metrics().borrow().clone();
    // A leader that no quorum hears, or that has just come back alone, leads nobody.
    let unheard = metrics.millis_since_quorum_ack.is_none_or(|ms| ms > QUORUM_SILENCE_MS_MAX);
    let leader = metrics.current_leader.filter(|id| *id != node.who.node || !unheard);
    let progress = everybody(node, leader).await;
    let membership = metrics.membership_config.membership();
    let is_voter = |id: NodeId| membership.voter_ids().any(|voter| voter == id);
    let named = |id: NodeId| {
        let host = state.host(id).map(|host| host.name.clone());
        host.or_else(|| membership.get_node(&id).map(|peer| peer.name.clone()))
    };
    let member = |id: NodeId, host: Option<&Host>, peer: Option<&Peer>| {
        let known = progress.iter().flatten().find(|progress| progress.node == id);
        let silent_ms = known.and_then(|progress| progress.silent_ms);
        let role = match (host, peer, is_voter(id)) {
            (None, ..) => "leaving",
            (Some(_), None, _) => "joining",
            (Some(_), Some(_), true) => "voter",
            (Some(_), Some(_), false) => "learner",
        };
        let state = match (&progress, silent_ms) {
            (None, _) if id == node.who.node => "up",
            (None, _) => "unknown",
            (Some(_), Some(ms)) if ms <= UP_MS => "up",
            (Some(_), _) => "down",
        };
        let name = host.map(|h| h.name.clone()).or_else(|| peer.map(|p| p.name.clone()));
        let address = host.map(|h| h.address.clone()).or_else(|| peer.map(|p| p.address.clone()));
        Member {
            name: name.unwrap_or_default(),
            id,
            address: address.unwrap_or_default(),
            role,
            state,
            lag_entries: known.map(|progress| progress.lag_entries),
            last_contact_seconds: silent_ms.map(seconds),
            version: host.map(|host| host.version.clone()).unwrap_or_default(),
            speaks: host.map(|host| host.speaks),
        }
    };
    let mut members: Vec<Member> =
        state.hosts().map(|h| member(h.id, Some(h), membership.get_node(&h.id))).collect();
    let leaving = membership.nodes().filter(|(id, _)| state.was_removed(**id));
    members.extend(leaving.map(|(id, peer)| member(*id, None, Some(peer))));
    members.sort_by_key(|member| member.id);
    (leader.and_then(named), members)
}

/// What the leader knows of everybody; `None` when it cannot be asked.
async fn everybody(node: &Node, leader: Option<NodeId>) -> Option<Vec<Progress>> {
    let leader = leader?;
    if leader == node.who.node {
        return Some(progress(&node.raft, &node.forwarder.network));
    }
    match timeout(ASK, node.forwarder.ask(leader, Ask::Members)).await {
        Ok(Ok(Answer::Members(progress))) => Some(progress),
        _ => None,
    }
}

/// The digest of a state, remembered until the next one is asked for.
async fn digest(node: &Node, state: Arc<State>) -> String {
    let index = state.applied_index();
    {
        let known = node.digest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, digest)) = &*known
            && *at == index
        {
            return digest.clone();
        }
    }
    let work = tokio::task::spawn_blocking(move || snapshot::digest(&state));
    let digest = match work.await {
        Ok(Ok(digest)) => hex::encode(&digest),
        Ok(Err(error)) => return format!("failed: {error}"),
        Err(error) => return format!("failed: {error}"),
    };
    let mut known = node.digest.lock().unwrap_or_else(PoisonError::into_inner);
    *known = Some((index, digest.clone()));
    digest
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}
