//! One question to every node of the fleet, answered side by side as the answers come.
//!
//! The node that was asked answers without the network. Nobody waits for a node that is silent:
//! in its place stands that it did not answer.

#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use mxfleet_cluster::{Cluster, HostState, PeerError, PeerHandler, PeerTail, Topic};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// What a node takes to answer a question of people, at most.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// A question from another node.
const QUESTION_OCTETS_MAX: usize = 16 << 10;
/// An answer to another node.
const ANSWER_OCTETS_MAX: usize = 2 << 20;

/// Answers questions on one node.
pub trait Answers: Send + Sync + 'static {
    /// What its questions are about.
    const TOPIC: Topic;
    /// What can be asked.
    type Question: Serialize + DeserializeOwned + Clone + Send + Sync + 'static;
    /// What is answered.
    type Answer: Serialize + DeserializeOwned + Send + 'static;

    /// Answer as this node sees it, within bounds of its own. An `Err` is why not, in plain words.
    fn answer(
        &self,
        question: Self::Question,
    ) -> impl Future<Output = Result<Self::Answer, String>> + Send;
}

/// What one node answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard<T> {
    /// The node's name.
    pub node: String,
    /// Its answer.
    pub answer: Result<T, NoAnswer>,
}

/// Why a node has no answer; the words follow its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// It cannot be reached, or what it said is not understood.
    #[error("did not answer")]
    Silent,
    /// It takes too long.
    #[error("did not answer within {0} seconds")]
    Late(u64),
    /// It says why.
    #[error("says: {0}")]
    Refused(String),
}

/// A question on its way.
#[derive(Debug)]
pub struct Asked<T> {
    /// The nodes that are asked, in order.
    pub nodes: Vec<String>,
    /// One for each of them, in the order they come. Whoever drops this ends the asking.
    pub answers: mpsc::Receiver<Heard<T>>,
}

/// Asks all nodes, and answers them. Clones are the same.
pub struct FleetWide<A> {
    inner: Arc<Inner<A>>,
}

struct Inner<A> {
    cluster: Cluster,
    /// What this node is called.
    name: String,
    here: A,
}

impl<A> Clone for FleetWide<A> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

/// What one node says to another. JSON, so that a newer one can say more.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "reply", content = "value", rename_all = "snake_case")]
enum Reply<T> {
    Answer(T),
    Refused(String),
}

impl<A: Answers> FleetWide<A> {
    /// While this or a clone lives, other nodes are answered by `here`; `name` is what this node is
    /// called.
    pub fn new(cluster: Cluster, name: &str, here: A) -> Self {
        let inner = Arc::new(Inner { cluster, name: name.to_owned(), here });
        let handler: Weak<Inner<A>> = Arc::downgrade(&inner);
        inner.cluster.answer_peers(A::TOPIC, handler);
        Self { inner }
    }

    /// Who answers on this node.
    pub fn here(&self) -> &A {
        &self.inner.here
    }

    /// Ask every node that is not retired, all at once.
    pub fn ask(&self, question: &A::Question, within: Duration) -> Asked<A::Answer> {
        let inner = &self.inner;
        let state = inner.cluster.view();
        let own = inner.cluster.node_id();
        let is_there = |host: &&mxfleet_cluster::Host| {
            Some(host.id) != own && !matches!(host.state, HostState::Retired { .. })
        };
        let mut nodes = vec![(None, inner.name.clone())];
        nodes.extend(state.hosts().filter(is_there).map(|host| (Some(host.id), host.name.clone())));
        nodes.sort_by(|one, other| one.1.cmp(&other.1));
        let (tell, answers) = mpsc::channel(nodes.len());
        let mut asking = JoinSet::new();
        for (id, node) in nodes.iter().cloned() {
            let (inner, question) = (Arc::clone(inner), question.clone());
            let tell = tell.clone();
            asking.spawn(async move {
                let answering = async {
                    match id {
                        Some(id) => inner.ask_peer(id, &question).await,
                        None => inner.here.answer(question).await.map_err(NoAnswer::Refused),
                    }
                };
                let late = NoAnswer::Late(within.as_secs());
                let answer = timeout(within, answering).await.unwrap_or(Err(late));
                // There is room for each; whoever does not listen has ended it.
                let _ = tell.send(Heard { node, answer }).await;
            });
        }
        tokio::spawn(async move {
            tokio::select! {
                () = async { while asking.join_next().await.is_some() {} } => {}
                () = tell.closed() => {}
            }
        });
        Asked { nodes: nodes.into_iter().map(|(_, name)| name).collect(), answers }
    }
}

impl<A: Answers> Inner<A> {
    async fn ask_peer(&self, id: u64, question: &A::Question) -> Result<A::Answer, NoAnswer> {
        let refused = |error: serde_json::Error| NoAnswer::Refused(error.to_string());
        let body = serde_json::to_vec(question).map_err(refused)?;
        let body = match self.cluster.ask_peer(id, A::TOPIC, body, None).await {
            Ok(body) if body.len() <= ANSWER_OCTETS_MAX => body,
            Ok(body) => {
                tracing::warn!(id, octets = body.len(), "a node's answer is too long");
                return Err(NoAnswer::Silent);
            }
            Err(PeerError::Refused(why)) => return Err(NoAnswer::Refused(why)),
            // Addresses of the fleet are not for everybody.
            Err(error @ (PeerError::Unreachable(_) | PeerError::Unknown(_))) => {
                tracing::debug!(id, %error, "a node does not answer");
                return Err(NoAnswer::Silent);
            }
        };
        match serde_json::from_slice(&body) {
            Ok(Reply::Answer(answer)) => Ok(answer),
            Ok(Reply::Refused(why)) => Err(NoAnswer::Refused(why)),
            Err(error) => {
                tracing::warn!(id, %error, "a node's answer is not understood");
                Err(NoAnswer::Silent)
            }
        }
    }

    async fn reply(&self, body: &[u8]) -> Reply<A::Answer> {
        if body.len() > QUESTION_OCTETS_MAX {
            return Reply::Refused("the question is too long".to_owned());
        }
        let Ok(question) = serde_json::from_slice(body) else {
            return Reply::Refused("this node does not understand the question".to_owned());
        };
        match self.here.answer(question).await {
            Ok(answer) => Reply::Answer(answer),
            Err(why) => Reply::Refused(why),
        }
    }
}

impl<A: Answers> PeerHandler for Inner<A> {
    fn answer<'a>(
        &'a self,
        _from: u64,
        body: Vec<u8>,
        _tail: PeerTail,
    ) -> Pin<Box<dyn Future<Output = Vec<u8>> + Send + 'a>> {
        Box::pin(async move {
            // An empty body is not understood, and taken for silence.
            serde_json::to_vec(&self.reply(&body).await).unwrap_or_default()
        })
    }
}

impl<A> std::fmt::Debug for FleetWide<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FleetWide").field("name", &self.inner.name).finish_non_exhaustive()
    }
}
