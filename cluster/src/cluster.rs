//! [`Cluster`]: a node's handle on the replicated state.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::gauges::{self, Event, Gauges, Observer, Proposed};
use crate::identity::{Home, Who};
use crate::machine::View;
use crate::peer::Peers;
use crate::propose::{Clock, Forwarder, ProposeError};
use crate::raft::Raft;
use crate::state::{Outcome, Request, State};
use crate::status::{self, Member, Status};
use crate::transport::{Credentials, QuicEndpoint};
use crate::vault::VaultKey;

/// How a node takes part in its fleet.
#[derive(Clone)]
pub struct ClusterConfig {
    /// The folder for keys, log and snapshots.
    pub dir: PathBuf,
    /// The UDP address to listen on for other nodes.
    pub listen: SocketAddr,
    /// Where other nodes reach this one; `None` is where it listens.
    pub advertise: Option<SocketAddr>,
    /// The version of the program, shown to operators.
    pub version: String,
    /// The newest cluster version it speaks: [`CLUSTER_VERSION`](crate::CLUSTER_VERSION), but in
    /// tests of fleets that are upgraded.
    pub speaks: u16,
    /// Milliseconds since 1970, UTC. The only source of wall time.
    pub clock: Clock,
    /// Is told of what operators count.
    pub observer: Observer,
    /// Whether UDP segmentation offload is used. Some network cards fail at it.
    pub segmentation_offload: bool,
}

/// A node's handle on the replicated state. Cloning gives another handle on the same state.
#[derive(Clone)]
pub struct Cluster {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) view: Arc<View>,
    pub(crate) part: Part,
}

/// Where changes are decided.
pub(crate) enum Part {
    /// By the fleet this node is in.
    Node(Box<Node>),
    /// Here, in memory.
    Detached(Mutex<()>),
}

/// A running node.
pub(crate) struct Node {
    pub(crate) home: Home,
    pub(crate) who: Who,
    pub(crate) raft: Raft,
    pub(crate) endpoint: Arc<QuicEndpoint>,
    pub(crate) forwarder: Forwarder,
    pub(crate) config: ClusterConfig,
    pub(crate) address: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) digest: Mutex<Option<(u64, String)>>,
    pub(crate) peers: Arc<Peers>,
    /// The key for replicated secrets, once it is here.
    pub(crate) vault: OnceLock<VaultKey>,
    /// Since when it leads, if it does.
    pub(crate) led: Mutex<Option<Instant>>,
    /// Up to which entry the two newest snapshots reach, the older one first.
    pub(crate) saved: Mutex<[u64; 2]>,
    pub(crate) credentials: Arc<Credentials>,
    /// When the certificate it shows was made: milliseconds since 1970, UTC.
    pub(crate) certified_ms: AtomicU64,
}

/// What only a node in a fleet can do was asked of a state that is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this state is not part of a fleet")]
pub struct Detached;

impl Cluster {
    /// A state of its own in memory, that decides at once and is gone with the process: for tests
    /// and for trying out changes.
    pub fn detached() -> Self {
        let view = Arc::new(View::new(State::default()));
        Self { shared: Arc::new(Shared { view, part: Part::Detached(Mutex::new(())) }) }
    }

    /// The last applied state. Cheap; never waits.
    pub fn view(&self) -> Arc<State> {
        self.shared.view.state()
    }

    /// Sees the applied index each time it moves.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.shared.view.watch()
    }

    /// Propose a change; when this returns `Ok`, the outcome is durable on a majority, and this
    /// node's view shows it unless it is far behind. Answers within five seconds.
    pub async fn propose(&self, request: Request) -> Result<Outcome, ProposeError> {
        match &self.shared.part {
            Part::Node(node) => {
                let asked = std::time::Instant::now();
                let answer = node.forwarder.propose(request).await;
                let came = match &answer {
                    Ok(Ok(_)) => Proposed::Done,
                    Err(ProposeError::NoQuorum) => Proposed::NoQuorum,
                    Err(ProposeError::Unknown { .. }) => Proposed::Unknown,
                    Ok(Err(_)) | Err(_) => Proposed::Refused,
                };
                (node.config.observer)(Event::Proposed(came, asked.elapsed()));
                answer
            }
            Part::Detached(one_at_a_time) => {
                let _one = one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
                let mut state = State::clone(&self.view());
                let outcome = state.apply(state.applied_index() + 1, &request);
                self.shared.view.publish(state);
                Ok(outcome)
            }
        }
    }

    /// Who leads, who is there, who is behind. Never waits for a quorum.
    pub async fn status(&self) -> Result<Status, Detached> {
        Ok(status::of(self.node()?, self.view()).await)
    }

    /// Everybody in the fleet, and who answers. Never waits for a quorum; a second at most.
    pub async fn members(&self) -> Result<Vec<Member>, Detached> {
        Ok(status::members(self.node()?, &self.view()).await)
    }

    /// How this node's part in the fleet stands, as far as it knows by itself. Cheap.
    pub fn gauges(&self) -> Result<Gauges, Detached> {
        Ok(gauges::of(self.node()?, &self.view()))
    }

    /// Waits until this node cannot go on: its log failed, or it was removed from the fleet. The
    /// process must then exit; the text says why.
    pub async fn failed(&self) -> String {
        let Ok(node) = self.node() else { return std::future::pending().await };
        let (mut metrics, mut applied) = (node.raft.metrics(), self.watch());
        loop {
            if let Err(fatal) = &metrics.borrow_and_update().running_state {
                let halted = self.shared.view.halted();
                return halted.unwrap_or_else(|| format!("the consensus stopped: {fatal}"));
            }
            if let Some(why) = self.view().too_old(&node.config.version, node.config.speaks) {
                return why;
            }
            if self.view().was_removed(node.who.node) {
                return removed(node);
            }
            let moved = tokio::select! {
                moved = metrics.changed() => moved,
                moved = applied.changed() => moved,
                () = node.endpoint.removed() => return removed(node),
            };
            if moved.is_err() {
                return "the consensus stopped".to_owned();
            }
        }
    }

    /// Waits until this node has caught up so far that it knows itself as a host of the fleet.
    pub async fn settled(&self) {
        let Ok(node) = self.node() else { return };
        let mut applied = self.watch();
        while self.view().host(node.who.node).is_none() {
            if applied.changed().await.is_err() {
                return;
            }
        }
    }

    /// How many peers were refused on the cluster port since the start, by reason; every reason
    /// there is.
    pub fn peers_refused(&self) -> Vec<(&'static str, u64)> {
        self.node().map_or_else(|_| Vec::new(), |node| node.endpoint.refusals().counts().collect())
    }

    /// Whether this node leads, and a quorum hears it: what one node is to do for the fleet is this
    /// node's to do. A detached state always leads.
    pub fn leads(&self) -> bool {
        self.node().map_or(true, |node| node.forwarder.proposer.not_now().is_none())
    }

    /// Where this node listens for others.
    pub fn address(&self) -> Option<SocketAddr> {
        self.node().ok().map(|node| node.address)
    }

    /// This node's id; unique in the fleet for ever.
    pub fn node_id(&self) -> Option<u64> {
        self.node().ok().map(|node| node.who.node)
    }

    /// Stop taking part. Other nodes carry on; `Cluster::start` takes part again.
    pub async fn shutdown(&self) {
        let Ok(node) = self.node() else { return };
        node.stop.cancel();
        if let Err(error) = node.raft.shutdown().await {
            tracing::warn!(%error, "the consensus did not stop cleanly");
        }
        node.endpoint.close().await;
    }

    pub(crate) fn node(&self) -> Result<&Node, Detached> {
        match &self.shared.part {
            Part::Node(node) => Ok(node),
            Part::Detached(_) => Err(Detached),
        }
    }
}

/// That the fleet has no place for this node any more, and what is to be done for its mail.
fn removed(node: &Node) -> String {
    let (name, dir) = (&node.who.name, node.home.dir().display());
    format!(
        "{name} was removed from the fleet; mail in its queue is still on its disk: set {dir} aside \
         and let it join with a new token, and the queue goes on"
    )
}
