//! What nodes say to each other.
//!
//! Each call has a stream of its own: one [`Call`], then for a snapshot its file, then the end;
//! back comes one [`Answer`]. Enums are only ever appended to, and what was appended is sent only
//! once the fleet's cluster version says that everybody knows it.

use std::sync::Arc;

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse};
use openraft::raft::{VoteRequest, VoteResponse};
use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError, Kind};
use crate::peer::Topic;
use crate::raft::{NodeId, SnapshotMeta, Types, Vote};
use crate::state::{NewHost, Outcome, Request};

/// A call from one node to another.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Call {
    pub(crate) fleet: u128,
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) ask: Ask,
}

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<NodeId>),
    /// The snapshot's file follows in the same stream.
    Snapshot {
        vote: Vote,
        meta: SnapshotMeta,
    },
    /// To the leader: do this.
    Propose(Arc<Request>),
    /// To the leader: how is everybody?
    Members,
    /// To a node that shall vote: keep the authority's key.
    KeepKey {
        pem: String,
    },
    /// To the leader: a new certificate for the node that asks.
    Renew {
        csr: Vec<u8>,
    },
    /// To the leader, from the node a newcomer spoke to.
    Join(Joining),
    /// From what is above consensus to its like; its tail follows in the same stream.
    Peer {
        topic: Topic,
        body: Vec<u8>,
    },
    /// To the leader: the key for replicated secrets.
    Vault,
}

/// A node that wants to join, with the hash of its token's secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Joining {
    pub(crate) token: [u8; 32],
    pub(crate) host: NewHost,
    pub(crate) csr: Vec<u8>,
}

/// What a node that joined must know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Joined {
    pub(crate) fleet: u128,
    pub(crate) node: NodeId,
    pub(crate) authority: Vec<u8>,
    pub(crate) certificate: Vec<u8>,
}

/// The answer to an [`Ask`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Append(AppendEntriesResponse<NodeId>),
    Vote(VoteResponse<NodeId>),
    Snapshot(SnapshotResponse<NodeId>),
    /// The log index it was decided at, and what came of it.
    Proposed {
        index: u64,
        outcome: Outcome,
    },
    Members(Vec<Progress>),
    Done,
    Signed {
        certificate: Vec<u8>,
    },
    Joined(Joined),
    /// Nothing was done. For callers that may try again elsewhere.
    NotLeader {
        leader: Option<NodeId>,
    },
    /// Nothing was done: this leader is not heard by a quorum.
    NoQuorum,
    /// It may or may not have been done.
    Unknown,
    /// Nothing was done, and trying again will not help.
    Refused(String),
    Peer {
        body: Vec<u8>,
    },
    Vault {
        key: [u8; 32],
    },
}

/// How far the leader knows a member to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub(crate) node: NodeId,
    pub(crate) lag_entries: u64,
    pub(crate) silent_ms: Option<u64>,
}

impl Call {
    /// Whether a call for a candidate or by a leader comes from that node itself.
    pub(super) fn is_its_senders(&self) -> bool {
        self.vote().is_none_or(|vote| vote.leader_id().voted_for() == Some(self.from))
    }

    /// The vote by which a candidate or leader speaks.
    pub(crate) fn vote(&self) -> Option<&Vote> {
        match &self.ask {
            Ask::Append(rpc) => Some(&rpc.vote),
            Ask::Vote(rpc) => Some(&rpc.vote),
            Ask::Snapshot { vote, .. } => Some(vote),
            _ => None,
        }
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode(Kind::Call, self)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(Kind::Call, bytes)
    }
}

impl Answer {
    pub(crate) fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode(Kind::Answer, self)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(Kind::Answer, bytes)
    }
}
