//! A fleet on loopback that tests can stop, kill and grow.
#![allow(dead_code, reason = "each test binary uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, which is its job")]

mod port;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use mxfleet_cluster::{
    CLUSTER_VERSION, Cluster, ClusterConfig, Command, Customer, CustomerStatus, Request, State,
    Status, Token, random_id,
};
use tempfile::TempDir;

use self::port::Port;

pub(crate) const HOUR_MS: u64 = 3_600_000;
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn now_ms() -> u64 {
    // A test may ask the system; the crate gets its clock handed in.
    #[expect(clippy::disallowed_methods, reason = "this is the clock that is handed in")]
    let now = std::time::SystemTime::now();
    u64::try_from(now.duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

pub(crate) fn request(command: Command) -> Request {
    Request::new(random_id(), "ops", now_ms(), command)
}

pub(crate) fn customer(id: &str) -> Request {
    request(Command::CustomerAdd(Customer {
        id: id.to_owned(),
        name: id.to_owned(),
        contacts: vec![format!("ops@{id}.test")],
        status: CustomerStatus::Active,
    }))
}

/// Change many octets in the middle of what a file holds.
pub(crate) fn damage(file: &std::path::Path) {
    let mut octets = std::fs::read(file).unwrap();
    let used = octets.iter().rposition(|octet| *octet != 0).unwrap();
    octets[used / 4..used * 3 / 4].iter_mut().for_each(|octet| *octet ^= 0xff);
    std::fs::write(file, octets).unwrap();
}

pub(crate) struct Fleet {
    dir: TempDir,
    ports: BTreeMap<u64, Port>,
    nodes: BTreeMap<u64, Cluster>,
    /// Nodes that speak another cluster version than this program.
    speaks: BTreeMap<u64, u16>,
}

impl Fleet {
    /// Nodes `mx1` to `mx<size>`, all of them caught up.
    pub(crate) async fn of(size: u64) -> Self {
        Self::speaking(size, CLUSTER_VERSION).await
    }

    /// Room for nodes of a fleet that is elsewhere.
    pub(crate) fn nobody() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (ports, nodes, speaks) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { dir, ports, nodes, speaks }
    }

    /// The same of nodes that speak this cluster version.
    pub(crate) async fn speaking(size: u64, version: u16) -> Self {
        let mut fleet = Self::nobody();
        fleet.speaks = (1..=size).map(|id| (id, version)).collect();
        Cluster::init(&fleet.config(1), "mx1").unwrap();
        fleet.start(1).await;
        for id in 2..=size {
            fleet.join(id).await;
        }
        fleet
    }

    pub(crate) fn config(&mut self, id: u64) -> ClusterConfig {
        let listen = self.ports.entry(id).or_insert_with(Port::reserve).address;
        ClusterConfig {
            dir: self.dir.path().join(format!("mx{id}")),
            listen,
            advertise: None,
            version: "test".to_owned(),
            speaks: self.speaks.get(&id).copied().unwrap_or(CLUSTER_VERSION),
            clock: Arc::new(now_ms),
            observer: Arc::new(|_| ()),
            segmentation_offload: true,
        }
    }

    pub(crate) fn address(&self, id: u64) -> SocketAddr {
        self.ports[&id].address
    }

    pub(crate) fn node(&self, id: u64) -> &Cluster {
        &self.nodes[&id]
    }

    pub(crate) fn view(&self, id: u64) -> Arc<State> {
        self.node(id).view()
    }

    pub(crate) async fn start(&mut self, id: u64) {
        let config = self.config(id);
        self.nodes.insert(id, Cluster::start(config).await.unwrap());
    }

    /// Another program runs from the next start on.
    pub(crate) fn set_speaks(&mut self, id: u64, version: u16) {
        self.speaks.insert(id, version);
    }

    pub(crate) async fn stop(&mut self, id: u64) {
        self.nodes.remove(&id).unwrap().shutdown().await;
    }

    /// Gone from one moment to the next, as far as others can see.
    pub(crate) fn kill(&mut self, id: u64) {
        let node = self.nodes.remove(&id).unwrap();
        tokio::spawn(async move { node.shutdown().await });
    }

    /// Let `mx<id>` join through any running node, and wait until it has caught up.
    pub(crate) async fn join(&mut self, id: u64) {
        let name = format!("mx{id}");
        let through = *self.nodes.keys().next_back().unwrap();
        let token = self.node(through).token(&name, HOUR_MS, "ops").await.unwrap();
        self.join_through(id, self.address(through), &token).await;
    }

    /// The same through the node at `peer`, which may be of another process.
    pub(crate) async fn join_through(&mut self, id: u64, peer: SocketAddr, token: &Token) {
        let (config, name) = (self.config(id), format!("mx{id}"));
        Cluster::join(&config, &name, peer, token).await.unwrap();
        self.start(id).await;
        tokio::time::timeout(PATIENCE, self.node(id).settled()).await.unwrap();
    }

    pub(crate) async fn status(&self, id: u64) -> Status {
        self.node(id).status().await.unwrap()
    }

    /// The id of the node that leads.
    pub(crate) async fn leader(&self) -> u64 {
        let give_up = tokio::time::Instant::now() + PATIENCE;
        loop {
            for id in self.nodes.keys() {
                if let Some(name) = self.status(*id).await.leader
                    && let Some((id, _)) =
                        self.nodes.iter().find(|(id, _)| name == format!("mx{id}"))
                {
                    return *id;
                }
            }
            assert!(tokio::time::Instant::now() < give_up, "no leader");
            pause().await;
        }
    }

    pub(crate) fn others(&self, than: u64) -> Vec<u64> {
        self.nodes.keys().copied().filter(|id| *id != than).collect()
    }

    pub(crate) async fn eventually(&self, what: &str, mut holds: impl AsyncFnMut(&Self) -> bool) {
        let give_up = tokio::time::Instant::now() + PATIENCE;
        while !holds(self).await {
            assert!(tokio::time::Instant::now() < give_up, "it never came true that {what}");
            pause().await;
        }
    }

    pub(crate) async fn eventually_voters(&self, count: usize) {
        self.eventually("so many vote", async |fleet| {
            let leader = fleet.leader().await;
            let members = fleet.status(leader).await.members;
            members.iter().filter(|m| m.role == "voter").count() == count
                && members.iter().all(|m| m.role != "joining" && m.role != "leaving")
        })
        .await;
    }

    /// All running nodes get to the same index, and then have the same digest.
    pub(crate) async fn eventually_equal(&self) {
        self.eventually("all are equal", async |fleet| {
            let mut seen = Vec::new();
            for id in fleet.nodes.keys() {
                let status = fleet.status(*id).await;
                seen.push((status.applied_index, status.state_digest));
            }
            for (index, digest) in &seen {
                let same = seen.iter().filter(|(other, _)| other == index);
                assert!(same.clone().all(|(_, other)| other == digest), "{seen:?}");
            }
            seen.windows(2).all(|pair| pair[0] == pair[1])
        })
        .await;
    }
}

/// Polling, because what is waited for is in other nodes and has no event here.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}
