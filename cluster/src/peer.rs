//! Calls between what is above consensus on two nodes, such as the hand-over of mail.
//!
//! Each is about a topic, and has somebody who answers it. The bodies are their own affair; who
//! calls is known by its certificate.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::cluster::Cluster;
use crate::raft::NodeId;
use crate::transport::wire::{Answer, Ask};
use crate::transport::{CallError, Rest, Tail};

/// A call, its tail and its answer take no longer.
const CALL: Duration = Duration::from_secs(60);

/// What a call is about. A number, so that a node can refuse a newer one's topic in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Topic(u16);

impl Topic {
    /// The hand-over of a queue.
    pub const HAND_OVER: Self = Self(1);
    /// Looking at customers' servers.
    pub const PROBE: Self = Self(2);
    /// What a node knows of one customer's mail.
    pub const CUSTOMER: Self = Self(3);
}

/// Why a call to another node has no answer.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// It was not sent.
    #[error("{0}")]
    Unreachable(String),
    /// It may have been heard, and done.
    #[error("{0}")]
    Unknown(String),
    /// The other node does not take such calls now.
    #[error("{0}")]
    Refused(String),
}

/// Answers calls of other nodes.
pub trait PeerHandler: Send + Sync + 'static {
    /// Answer a call of node `from`.
    fn answer<'a>(
        &'a self,
        from: u64,
        body: Vec<u8>,
        tail: PeerTail,
    ) -> Pin<Box<dyn Future<Output = Vec<u8>> + Send + 'a>>;
}

/// What follows a call. It may end early: the call must say how much there is.
pub struct PeerTail(Rest);

impl PeerTail {
    /// The next piece of at most 64 KiB, `None` at the end.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        self.0.next().await
    }
}

impl std::fmt::Debug for PeerTail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerTail").finish_non_exhaustive()
    }
}

/// Who answers what, once there is somebody.
#[derive(Default)]
pub(crate) struct Peers {
    handlers: Mutex<BTreeMap<Topic, Weak<dyn PeerHandler>>>,
}

impl Peers {
    pub(crate) async fn answer(
        &self,
        from: NodeId,
        topic: Topic,
        body: Vec<u8>,
        rest: Rest,
    ) -> Answer {
        match self.handler(topic) {
            Some(handler) => {
                Answer::Peer { body: handler.answer(from, body, PeerTail(rest)).await }
            }
            // It is starting or stopping, or of an older version.
            None => Answer::Refused("the node does not answer such calls yet".to_owned()),
        }
    }

    fn handler(&self, topic: Topic) -> Option<Arc<dyn PeerHandler>> {
        let handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        handlers.get(&topic).and_then(Weak::upgrade)
    }

    /// Whether nobody answers calls of this topic yet.
    fn add(&self, topic: Topic, handler: Weak<dyn PeerHandler>) -> bool {
        let mut handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        let is_taken = handlers.get(&topic).is_some_and(|known| known.strong_count() > 0);
        if !is_taken {
            handlers.insert(topic, handler);
        }
        !is_taken
    }
}

impl Cluster {
    /// Let `handler` answer calls of other nodes about `topic` while somebody else holds it, which
    /// itself may hold this cluster. The first one stays.
    pub fn answer_peers(&self, topic: Topic, handler: Weak<dyn PeerHandler>) {
        if let Ok(node) = self.node()
            && !node.peers.add(topic, handler)
        {
            tracing::error!(?topic, "calls of other nodes have somebody who answers them already");
        }
    }

    /// Call node `to` about `topic`; `tail` follows the body.
    pub async fn ask_peer(
        &self,
        to: u64,
        topic: Topic,
        body: Vec<u8>,
        tail: Option<mpsc::Receiver<Bytes>>,
    ) -> Result<Vec<u8>, PeerError> {
        let node = self.node().map_err(|error| PeerError::Unreachable(error.to_string()))?;
        let tail = tail.map_or(Tail::Nothing, Tail::Pieces);
        let call = node.forwarder.ask_with(to, Ask::Peer { topic, body }, tail);
        match timeout(CALL, call).await {
            Ok(Ok(Answer::Peer { body })) => Ok(body),
            Ok(Ok(Answer::Refused(why))) => Err(PeerError::Refused(why)),
            Ok(Ok(_)) => Err(PeerError::Unknown("it answered something else".to_owned())),
            Ok(Err(CallError::Unreachable(why))) => Err(PeerError::Unreachable(why)),
            Ok(Err(CallError::Broken(why))) => Err(PeerError::Unknown(why)),
            Err(_) => Err(PeerError::Unknown("it took too long".to_owned())),
        }
    }
}
