//! What a node tells its operators of its part in the fleet: events as they happen, and how it
//! stands at a moment. Cheap, and never asks another node.

use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use tokio::sync::watch;

use crate::authority::NODE_LIFE_MS;
use crate::cluster::Node;
use crate::raft::{NodeId, Peer, QUORUM_SILENCE_MS_MAX};
use crate::service::progress;
use crate::state::State;

/// Something an operator may want to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// An append to the log became durable, so long after it was handed to the disk.
    LogSynced(Duration),
    /// A snapshot was written.
    SnapshotSaved(Duration),
    /// A change was proposed here, and this came of it.
    Proposed(Proposed, Duration),
    /// Another node leads now.
    LeaderChanged,
}

/// What came of a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proposed {
    /// It was decided, and done.
    Done,
    /// It was decided, or looked at, and refused.
    Refused,
    /// No quorum could be reached; nothing was changed.
    NoQuorum,
    /// Nobody said what came of it.
    Unknown,
}

/// Is told of events, on whatever thread they happen; it must be quick.
pub type Observer = Arc<dyn Fn(Event) + Send + Sync>;

/// How a node's part in the fleet stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gauges {
    /// It knows a leader; a leader that no quorum hears does not count.
    pub has_leader: bool,
    /// It leads.
    pub is_leader: bool,
    /// The term of the consensus.
    pub term: u64,
    /// The newest entry of its log.
    pub last_log_index: u64,
    /// The newest entry that its state shows.
    pub applied_index: u64,
    /// Members that vote.
    pub voters: usize,
    /// Members that do not.
    pub learners: usize,
    /// How long ago a quorum was last known to agree with what this node shows; `None` before it
    /// ever was.
    pub agreed_ago: Option<Duration>,
    /// Octets of the log on disk.
    pub log_octets: u64,
    /// When the certificate that other nodes ask for ends: milliseconds since 1970, UTC.
    pub certificate_ends_ms: Option<u64>,
    /// The other members.
    pub peers: Vec<PeerGauges>,
}

/// How another member stands, as this node sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerGauges {
    /// Its name.
    pub name: String,
    /// How many entries it is behind; only the leader knows.
    pub lag_entries: Option<u64>,
    /// There and back, if there is a connection.
    pub round_trip: Option<Duration>,
}

pub(crate) fn of(node: &Node, state: &State) -> Gauges {
    let metrics = node.raft.metrics().borrow().clone();
    let is_leader = metrics.state == ServerState::Leader;
    let acknowledged = metrics.millis_since_quorum_ack;
    let unheard = acknowledged.is_none_or(|ms| ms > QUORUM_SILENCE_MS_MAX);
    let membership = metrics.membership_config.membership();
    let voters = membership.voter_ids().count();
    let leads = is_leader && !unheard;
    let known = if leads { progress(&node.raft, &node.forwarder.network) } else { Vec::new() };
    let peer = |(id, peer): (&NodeId, &Peer)| PeerGauges {
        name: state.host(*id).map_or_else(|| peer.name.clone(), |host| host.name.clone()),
        lag_entries: known.iter().find(|known| known.node == *id).map(|known| known.lag_entries),
        round_trip: node.endpoint.round_trip(*id),
    };
    let log = std::fs::metadata(node.home.log().join("db"));
    Gauges {
        has_leader: metrics.current_leader.is_some_and(|id| id != node.who.node || !unheard),
        is_leader: leads,
        term: metrics.current_term,
        last_log_index: metrics.last_log_index.unwrap_or(0),
        applied_index: state.applied_index(),
        voters,
        learners: membership.learner_ids().count(),
        agreed_ago: match is_leader {
            true => acknowledged.map(Duration::from_millis),
            false => node.forwarder.view.since_heard(),
        },
        log_octets: log.map_or(0, |log| log.len()),
        certificate_ends_ms: node.home.certified_ms().map(|ms| ms.saturating_add(NODE_LIFE_MS)),
        peers: membership.nodes().filter(|(id, _)| **id != node.who.node).map(peer).collect(),
    }
}

/// Tell of every change of the leader until the consensus ends.
pub(crate) async fn follow_leader(
    mut metrics: watch::Receiver<openraft::RaftMetrics<NodeId, Peer>>,
    observer: Observer,
) {
    let mut last = metrics.borrow_and_update().current_leader;
    while metrics.changed().await.is_ok() {
        let now = metrics.borrow_and_update().current_leader;
        if now.is_some() && now != last {
            observer(Event::LeaderChanged);
            last = now;
        }
    }
}
