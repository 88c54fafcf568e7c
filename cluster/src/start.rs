//! Starting a node: everything is checked before it takes part.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};

use tokio_util::sync::CancellationToken;

use crate::authority;
use crate::cluster::{Cluster, ClusterConfig, Node, Part, Shared};
use crate::codec;
use crate::gauges::follow_leader;
use crate::identity::{Home, Identity, Who};
use crate::join::random_id;
use crate::log::{self, Claim, Guard, LogDisk, LogStore, SledDisk};
use crate::machine::Machine;
use crate::network::Network;
use crate::peer::Peers;
use crate::propose::{Forwarder, ProposeError, Proposer};
use crate::raft::{self, Peer, Raft};
use crate::service::Service;
use crate::snapshot::SnapshotDir;
use crate::state::{Command, NewHost, Request};
use crate::takeover;
use crate::transport::{Credentials, EndpointError, QuicEndpoint};
use crate::upkeep;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It is in no fleet.
    #[error(
        "{0} belongs to no fleet: begin one with `mxfleet cluster init`, or join one with \
         `mxfleet cluster join`"
    )]
    NoFleet(PathBuf),
    /// `recover` or `restore` was interrupted.
    #[error(
        "a recovery or restore of {0} was interrupted: finish it with the same `mxfleet cluster` \
         command"
    )]
    Unfinished(PathBuf),
    /// Another process runs this node.
    #[error("{0} is in use by another process")]
    Busy(PathBuf),
    /// What it must never forget is damaged or gone.
    #[error(
        "{what}. This node must not take part again under its old id, or the fleet could lose \
         what it agreed on. Move {dir} away, `mxfleet cluster remove {name} --force` on another \
         node, and join with a new token; if no quorum is left, see `mxfleet cluster recover`"
    )]
    Damaged {
        /// What is wrong.
        what: String,
        /// The node's folder.
        dir: PathBuf,
        /// The node's name.
        name: String,
    },
    /// Its fleet, or its own disk, is newer than this program.
    #[error("{0}")]
    TooOld(String),
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The port for other nodes cannot be used.
    #[error("{0}")]
    Network(String),
    /// The consensus did not start.
    #[error("the consensus does not start: {0}")]
    Raft(String),
    /// The fleet could not be begun.
    #[error("the fleet could not be begun: {0}")]
    Begin(ProposeError),
}

impl From<EndpointError> for StartError {
    fn from(error: EndpointError) -> Self {
        Self::Network(error.to_string())
    }
}

/// What is kept on disk, opened and checked.
struct Kept {
    home: Home,
    identity: Identity,
    log: LogStore,
    machine: Machine,
}

impl Cluster {
    /// Take part in the fleet this node's folder belongs to. The last applied state is there at
    /// once, whether a quorum can be reached or not.
    pub async fn start(config: ClusterConfig) -> Result<Self, StartError> {
        let home = Home::new(config.dir.clone());
        let kept = tokio::task::spawn_blocking(move || open(home))
            .await
            .map_err(|error| StartError::Raft(error.to_string()))??;
        let Kept { home, identity, log, machine } = kept;
        let (log, machine) = (log.observed(&config.observer), machine.observed(&config.observer));
        let (fleet, mut who) = (identity.fleet, identity.who);

        let reset_secret = authority::hash(identity.key.secret_der());
        let authority = identity.authority.clone();
        let credentials = Credentials::new(identity.authority, identity.certificate, identity.key)
            .map_err(|error| StartError::Network(error.to_string()))?;
        let offload = config.segmentation_offload;
        let endpoint =
            Arc::new(QuicEndpoint::bind(config.listen, &credentials, &reset_secret, offload)?);
        let address = advertised(&config, &endpoint)?;
        let view = machine.view();
        let transport = Arc::clone(&endpoint) as Arc<dyn crate::transport::Transport>;
        let network = Network { fleet, node: who.node, transport, view: Arc::clone(&view) };
        let raft = consensus(&config, &who, network.clone(), log, machine).await?;
        tokio::spawn(follow_leader(raft.metrics(), Arc::clone(&config.observer)));
        let proposer = Proposer::start(raft.clone(), who.node, Arc::clone(&config.clock));
        let forwarder = Forwarder {
            raft: raft.clone(),
            node: who.node,
            network: network.clone(),
            proposer: proposer.clone(),
            view: Arc::clone(&view),
        };
        let peers = Arc::new(Peers::default());
        let service = Arc::new(Service {
            raft: raft.clone(),
            view: Arc::clone(&view),
            proposer,
            forwarder: forwarder.clone(),
            network,
            home: home.clone(),
            authority,
            clock: Arc::clone(&config.clock),
            peers: Arc::clone(&peers),
        });
        let serving = Arc::clone(&endpoint);
        let node = who.node;
        tokio::spawn(async move { serving.serve(fleet, node, service).await });

        begin(&raft, &home, &mut who, address.to_string()).await?;
        let node = Box::new(Node {
            home,
            certified_ms: AtomicU64::new(who.certified_ms),
            credentials,
            who,
            raft,
            endpoint,
            forwarder,
            config,
            address,
            stop: CancellationToken::new(),
            digest: Mutex::default(),
            led: Mutex::default(),
            saved: Mutex::default(),
            peers,
            vault: OnceLock::new(),
        });
        let cluster = Self { shared: Arc::new(Shared { view, part: Part::Node(node) }) };
        cluster.found().await?;
        upkeep::start(&cluster);
        Ok(cluster)
    }

    /// The first host of a new fleet puts itself into the table.
    async fn found(&self) -> Result<(), StartError> {
        let Ok(node) = self.node() else { return Ok(()) };
        if !node.who.founder || self.view().hosts().next().is_some() {
            return Ok(());
        }
        let io = |source| StartError::Io { path: node.home.dir().to_owned(), source };
        let pem = node.home.node_key_pem().map_err(io)?;
        let key = authority::public_hash(&pem).map_err(|e| StartError::Raft(e.to_string()))?;
        let host = NewHost {
            name: node.who.name.clone(),
            address: node.address.to_string(),
            version: node.config.version.clone(),
            key,
            speaks: node.config.speaks,
        };
        let seed = u64::from_be_bytes(*random_id().to_be_bytes().first_chunk().unwrap_or(&[0; 8]));
        let id = node.who.fleet_id().unwrap_or_default();
        let now_ms = (node.config.clock)();
        let request = Request::new(id, "fleet", now_ms, Command::HostFound { host, seed });
        match self.propose(request).await.map_err(StartError::Begin)? {
            Ok(_) => Ok(()),
            Err(refusal) => Err(StartError::Raft(refusal.to_string())),
        }
    }
}

/// Where other nodes reach this one: what the operator says, or what is listened on.
fn advertised(config: &ClusterConfig, bound: &QuicEndpoint) -> Result<SocketAddr, StartError> {
    match config.advertise {
        Some(address) => Ok(address),
        None => bound.local_address().map_err(|error| StartError::Network(error.to_string())),
    }
}

/// The consensus with all this node knows to be committed applied, unless it is too old for that.
async fn consensus(
    config: &ClusterConfig,
    who: &Who,
    network: Network,
    log: LogStore,
    machine: Machine,
) -> Result<Raft, StartError> {
    let raft_error = |error: &dyn std::fmt::Display| StartError::Raft(error.to_string());
    let view = machine.view();
    let timings = raft::config(&who.fleet).map_err(|error| raft_error(&error))?;
    let raft = Raft::new(who.node, timings, network, log, machine).await;
    let raft = raft.map_err(|error| match view.halted() {
        Some(why) => StartError::TooOld(why),
        None => raft_error(&error),
    })?;
    if let Some(why) = view.state().too_old(&config.version, config.speaks) {
        let _ = raft.shutdown().await; // it was never heard of
        return Err(StartError::TooOld(why));
    }
    Ok(raft)
}

/// The first start of a node. The founder's log gets its first entry; from then on every node's
/// log must be there.
async fn begin(raft: &Raft, home: &Home, who: &mut Who, address: String) -> Result<(), StartError> {
    if who.begun {
        return Ok(());
    }
    let raft_error = |error: &dyn std::fmt::Display| StartError::Raft(error.to_string());
    if who.founder && !raft.is_initialized().await.map_err(|e| raft_error(&e))? {
        let me = Peer { name: who.name.clone(), address };
        let members = BTreeMap::from([(who.node, me)]);
        raft.initialize(members).await.map_err(|e| raft_error(&e))?;
    }
    who.begun = true;
    home.set_who(who).map_err(|source| StartError::Io { path: home.dir().to_owned(), source })
}

fn open(home: Home) -> Result<Kept, StartError> {
    let dir = home.dir().to_owned();
    if takeover::is_pending(&home) {
        return Err(StartError::Unfinished(dir));
    }
    if !home.is_settled() {
        return Err(StartError::NoFleet(dir));
    }
    let identity = home.load().map_err(|source| StartError::Io { path: dir.clone(), source })?;
    let name = identity.who.name.clone();
    let damaged = |what: String| StartError::Damaged { what, dir: dir.clone(), name: name.clone() };
    let newer = |what: &dyn std::fmt::Display| {
        StartError::TooOld(format!(
            "{what}: a newer mxfleet wrote it, install the version that ran here or on other hosts"
        ))
    };
    let disk = SledDisk::open(&home.log()).map_err(|error| match error {
        log::OpenError::Busy(path) => StartError::Busy(path),
        log::OpenError::Io { path, source } => StartError::Io { path, source },
        error @ log::OpenError::Damaged { .. } => damaged(error.to_string()),
    })?;
    let of_log = |source: io::Error| match source.kind() {
        _ if codec::is_newer(&source) => {
            newer(&format!("the Raft log in {}, {source}", home.log().display()))
        }
        io::ErrorKind::InvalidData => {
            damaged(format!("the Raft log in {} is damaged: {source}", home.log().display()))
        }
        _ => StartError::Io { path: home.log(), source },
    };
    let claim = log::claim(&disk, identity.fleet, identity.who.node).map_err(of_log)?;
    if claim == Claim::New && identity.who.begun {
        return Err(damaged(format!("the Raft log in {} is gone", home.log().display())));
    }
    let disk: Arc<dyn LogDisk> = Arc::new(disk);
    let guard = Guard::open(&home.guard()).map_err(of_log)?;
    let log = LogStore::open(disk, Some(guard)).map_err(of_log)?;
    let of_snapshot = |source: io::Error| match source.kind() {
        _ if codec::is_newer(&source) => {
            newer(&format!("the newest snapshot in {}, {source}", home.snapshots().display()))
        }
        io::ErrorKind::InvalidData => {
            let place = home.snapshots();
            damaged(format!("the newest snapshot in {} is damaged: {source}", place.display()))
        }
        _ => StartError::Io { path: home.snapshots(), source },
    };
    let purged = log.purged().map_err(of_log)?;
    let snapshots = SnapshotDir::open(home.snapshots(), identity.fleet, purged);
    let snapshots = snapshots.map_err(of_snapshot)?;
    let machine = Machine::open(snapshots).map_err(of_snapshot)?;
    if log.first_kept() > machine.next_index() {
        let place = home.snapshots();
        return Err(damaged(format!("the newest snapshot in {} is gone", place.display())));
    }
    Ok(Kept { home, identity, log, machine })
}
