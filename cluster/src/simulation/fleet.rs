//! Simulated nodes: started, crashed, cut off, and asked how they are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use super::Bug;
use super::disk::SimDisk;
use super::network::{SimTransport, World, lock};
use super::runtime::below;
use crate::identity::Home;
use crate::log::{LogDisk, LogStore};
use crate::machine::{Machine, View};
use crate::network::Network;
use crate::propose::{Clock, Forwarder, Proposer};
use crate::raft::{self, NodeId, Peer, Raft};
use crate::service::Service;
use crate::snapshot::{self, SnapshotDir};
use crate::state::Hash;

const FLEET: u128 = 7;
const START_MS: u64 = 1_700_000_000_000;

pub(super) struct Node {
    pub(super) raft: Raft,
    pub(super) view: Arc<View>,
    pub(super) forwarder: Forwarder,
    disk: SimDisk,
    applied: u64,
    /// The index of the newest state that was compared with other nodes'.
    compared: u64,
}

pub(super) struct Fleet {
    dir: tempfile::TempDir,
    pub(super) world: Arc<Mutex<World>>,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) off: BTreeMap<NodeId, SimDisk>,
    incarnation: u64,
    skew_ms: BTreeMap<NodeId, u64>,
    /// Term and node of all who ever led. openraft orders leaders by both: a term may have
    /// several, one after the other.
    leaders: BTreeSet<(u64, NodeId)>,
    digests: BTreeMap<u64, Hash>,
}

impl Fleet {
    pub(super) async fn of(size: u64, bug: Option<Bug>) -> Self {
        let world = Arc::new(Mutex::new(World { bug, ..World::default() }));
        let mut fleet = Self {
            dir: tempfile::tempdir().unwrap(),
            world,
            nodes: BTreeMap::new(),
            off: (1..=size).map(|id| (id, SimDisk::new(bug))).collect(),
            incarnation: 0,
            // One clock is ten days ahead, from some seeds on.
            skew_ms: BTreeMap::from([(1 + below(size), below(2) * 10 * 86_400_000)]),
            leaders: BTreeSet::new(),
            digests: BTreeMap::new(),
        };
        for id in 1..=size {
            fleet.start(id).await.unwrap();
        }
        let peer = |id: u64| Peer { name: format!("mx{id}"), address: String::new() };
        let members: BTreeMap<_, _> = (1..=size).map(|id| (id, peer(id))).collect();
        fleet.nodes[&1].raft.initialize(members).await.unwrap();
        fleet
    }

    /// Start a node from what its disk has kept.
    pub(super) async fn start(&mut self, id: NodeId) -> Result<(), String> {
        let disk = self.off.remove(&id).unwrap();
        self.incarnation += 1;
        let incarnation = self.incarnation;
        let begun = Instant::now();
        let offset = START_MS + self.skew_ms.get(&id).copied().unwrap_or(0);
        let clock: Clock =
            Arc::new(move || offset + u64::try_from(begun.elapsed().as_millis()).unwrap_or(0));
        let log = LogStore::open(Arc::new(disk.clone()) as Arc<dyn LogDisk>, None)
            .map_err(|error| error.to_string())?;
        disk.started();
        let promised = lock(&self.world).promised.get(&id).copied();
        let kept = log.kept_vote().map_err(|error| error.to_string())?;
        let kept = kept.map(|vote| (vote.leader_id().term, vote.leader_id().node_id));
        if kept < promised {
            return Err(format!("node {id} told of the vote {promised:?} and has kept {kept:?}"));
        }
        let home = Home::new(self.dir.path().join(format!("mx{id}")));
        let snapshots = SnapshotDir::open(home.snapshots(), FLEET, None).unwrap();
        let machine = Machine::open(snapshots).map_err(|error| error.to_string())?;
        let view = machine.view();
        let transport = SimTransport { world: Arc::clone(&self.world), node: id, incarnation };
        let transport = Arc::new(transport);
        let network = Network { fleet: FLEET, node: id, transport, view: Arc::clone(&view) };
        let mut config = openraft::Config::clone(&raft::config("simulated").unwrap());
        // Snapshots and purges within a few seconds, or they would never be simulated.
        config.max_in_snapshot_log_to_keep = 5;
        config.replication_lag_threshold = 20;
        config.purge_batch_size = 1;
        config.snapshot_policy = openraft::SnapshotPolicy::LogsSinceLast(40);
        let raft = Raft::new(id, Arc::new(config), network.clone(), log, machine)
            .await
            .map_err(|error| error.to_string())?;
        let proposer = Proposer::start(raft.clone(), id, Arc::clone(&clock));
        let forwarder = Forwarder {
            raft: raft.clone(),
            node: id,
            network: network.clone(),
            proposer: proposer.clone(),
            view: Arc::clone(&view),
        };
        let service = Service {
            raft: raft.clone(),
            view: Arc::clone(&view),
            proposer,
            forwarder: forwarder.clone(),
            network,
            home,
            authority: rustls::pki_types::CertificateDer::from(Vec::new()),
            clock,
            peers: Arc::default(),
        };
        lock(&self.world).handlers.insert(id, (incarnation, Arc::new(service)));
        self.nodes.insert(id, Node { raft, view, forwarder, disk, applied: 0, compared: 0 });
        Ok(())
    }

    /// From one moment to the next: nothing of it is heard, nothing more is written.
    pub(super) fn crash(&mut self, id: NodeId) {
        let Some(node) = self.nodes.remove(&id) else { return };
        lock(&self.world).handlers.remove(&id);
        self.off.insert(id, node.disk.crash());
        tokio::spawn(async move { node.raft.shutdown().await });
    }

    pub(super) fn ids(&self) -> Vec<NodeId> {
        let ids: BTreeSet<_> = self.nodes.keys().chain(self.off.keys()).copied().collect();
        ids.into_iter().collect()
    }

    pub(super) fn heal(&self) {
        let mut world = lock(&self.world);
        world.cut.clear();
        world.loss_percent = 0;
        world.slow = false;
    }

    /// What must hold at every moment.
    pub(super) fn check(&mut self) -> Result<(), String> {
        let newest = self.leaders.last().copied();
        for (id, node) in &mut self.nodes {
            let metrics = node.raft.metrics().borrow().clone();
            if let Err(fatal) = &metrics.running_state {
                return Err(format!("node {id} stopped: {fatal}"));
            }
            if metrics.state == openraft::ServerState::Leader && metrics.vote.is_committed() {
                let leader = (metrics.current_term, *id);
                // A quorum that voted for the newest does not elect an older one any more.
                if self.leaders.insert(leader) && newest.is_some_and(|newest| leader < newest) {
                    return Err(format!("{leader:?} was elected after {newest:?}"));
                }
            }
            let state = node.view.state();
            let index = state.applied_index();
            if index < node.applied {
                return Err(format!("the view of node {id} went back"));
            }
            node.applied = index;
        }
        Ok(())
    }

    /// States of the same index are the same. A state that differs once differs from then on, so
    /// this needs not be asked at every moment; it is most of the work.
    pub(super) fn compare(&mut self) -> Result<(), String> {
        for (id, node) in &mut self.nodes {
            let state = node.view.state();
            let index = state.applied_index();
            if index == node.compared {
                continue;
            }
            node.compared = index;
            let digest = snapshot::digest(&state).map_err(|error| error.to_string())?;
            if *self.digests.entry(index).or_insert(digest) != digest {
                return Err(format!("node {id} has another state at {index}"));
            }
        }
        Ok(())
    }
}
