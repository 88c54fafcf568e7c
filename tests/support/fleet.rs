//! A real fleet: several nodes that began, joined and agree by the same commands an operator uses.

use std::net::SocketAddr;
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::node::{Node, Setup};
use super::process::said;
use super::{SOON, eventually, free_address};

/// How long a fleet may take to agree about its members.
const AGREEMENT: Duration = Duration::from_secs(40);

/// Nodes of one fleet, in the order they joined.
#[derive(Debug)]
pub struct Fleet {
    /// The nodes, running or not.
    pub nodes: Vec<Node>,
}

/// Set-up of a node on loopback that others can join.
pub fn on_loopback(name: &str) -> Setup {
    Setup { name: Some(name.into()), cluster: Some(free_address()), ..Setup::default() }
}

impl Fleet {
    /// So many nodes on loopback, all ready; up to five of them vote.
    pub fn start(count: usize) -> Self {
        let setups: Vec<_> = (1..=count).map(|n| on_loopback(&format!("mx{n}"))).collect();
        Self::with(&setups)
    }

    /// These nodes, all ready; an odd number of up to five of them votes.
    pub fn with(setups: &[Setup]) -> Self {
        let mut first = Node::stopped(&setups[0]);
        succeeded("init", &first.offline(&["cluster", "init"], ""));
        first.begin();
        first.await_ready();
        let mut fleet = Self { nodes: vec![first] };
        for setup in &setups[1..] {
            fleet.join(setup);
        }
        let voters = if setups.len() <= 2 { setups.len() } else { (setups.len() - 1) | 1 };
        fleet.await_voters(voters.min(5));
        fleet
    }

    /// A new node joins through the first one that runs, and is ready.
    pub fn join(&mut self, setup: &Setup) {
        let through = self.nodes.iter_mut().position(|node| node.is_running()).unwrap();
        let node = joined(&self.nodes[through], setup);
        self.nodes.push(node);
    }

    /// What node `index` says about the fleet.
    pub fn status(&self, index: usize) -> Value {
        self.nodes[index].json(&["cluster", "status"])
    }

    /// The node that leads, once those that run agree about it.
    pub fn await_leader(&mut self) -> usize {
        let mut leader = None;
        eventually("a leader", AGREEMENT, || {
            leader = self.leader();
            leader.is_some()
        });
        leader.unwrap()
    }

    fn leader(&mut self) -> Option<usize> {
        let mut named = Vec::new();
        for index in 0..self.nodes.len() {
            if self.nodes[index].is_running() {
                named.push(self.status(index)["leader"].as_str()?.to_owned());
            }
        }
        let agreed = named.windows(2).all(|pair| pair[0] == pair[1]);
        let index = self
            .nodes
            .iter()
            .position(|node| Some(node.name()) == named.first().map(String::as_str))?;
        (agreed && self.nodes[index].is_running()).then_some(index)
    }

    /// Wait until so many nodes vote, as the leader sees it.
    pub fn await_voters(&mut self, count: usize) {
        let leader = self.await_leader();
        let start = Instant::now();
        loop {
            let seen = self.status(leader);
            let members = seen["members"].as_array().unwrap();
            let votes = members.iter().filter(|member| member["role"] == "voter").count();
            if votes == count {
                return;
            }
            assert!(start.elapsed() < AGREEMENT, "not {count} voters: {seen:#}");
            // Polling is the only way to watch another process.
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Wait until all nodes that run show the same state at the same index; the digest.
    pub fn await_same_state(&mut self) -> String {
        let mut digest = String::new();
        let mut last = Vec::new();
        let start = Instant::now();
        loop {
            last.clear();
            for index in 0..self.nodes.len() {
                if self.nodes[index].is_running() {
                    let status = self.status(index);
                    last.push((status["applied_index"].clone(), status["state_digest"].clone()));
                }
            }
            if last.windows(2).all(|pair| pair[0] == pair[1]) {
                digest.push_str(last[0].1.as_str().unwrap());
                return digest;
            }
            for (index, digest) in &last {
                let other = last.iter().find(|other| other.0 == *index && other.1 != *digest);
                assert!(other.is_none(), "two states at one index: {last:?}");
            }
            assert!(start.elapsed() < AGREEMENT, "the nodes do not meet: {last:?}");
        }
    }
}

/// A node that joined through another, and is ready.
pub fn joined(through: &Node, setup: &Setup) -> Node {
    let mut node = Node::stopped(setup);
    let token = token(through, node.name());
    succeeded("join", &join(&node, through.cluster(), &token));
    node.begin();
    node.await_ready();
    node
}

/// A token for a host of this name. A fleet that has just changed may need a moment to decide.
pub fn token(through: &Node, name: &str) -> String {
    let mut token = String::new();
    eventually(&format!("a token for {name}"), SOON, || {
        let done = through.try_admin(&["cluster", "token", name, "--life", "5m"]);
        token = String::from_utf8_lossy(&done.stdout).trim().to_owned();
        done.status.success()
    });
    token
}

/// `mxfleet cluster join` on the node's host, with the token on standard input.
pub fn join(node: &Node, peer: SocketAddr, token: &str) -> Output {
    node.offline(&["cluster", "join", "--peer", &peer.to_string()], token)
}

/// A command must have succeeded.
pub fn succeeded(what: &str, done: &Output) {
    assert!(done.status.success(), "{what}: {}: {}", done.status, said(done));
}

/// A command must have failed, with these words among what it said.
pub fn refused(done: &Output, words: &str) {
    let said = said(done);
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains(words), "{said:?} does not say {words:?}");
}
