//! What a leader of ten, 25 and fifty nodes costs while all of them report, the same in sum.
//!
//! The leader is this process; the other nodes share one that it starts.

use std::io::{BufRead as _, BufReader};
use std::process::{Command as Program, Stdio};
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use crate::process::processor_time;
use crate::support::{Fleet, request};
use crate::writes::report;

pub(crate) const FOLLOWERS: &str = "followers";
const SIZES: [u64; 3] = [10, 25, 50];
/// Rejections a second in the whole fleet.
const RATE: u64 = 1000;
/// How long a node gathers before it reports.
const LINGER: Duration = Duration::from_millis(50);
const RUN: Duration = Duration::from_secs(20);

/// Node `id` of `nodes` reports its share of the rate.
async fn reporter(node: mxfleet_cluster::Cluster, id: u64, nodes: u64) {
    let mut pace = tokio::time::interval(LINGER);
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (begun, mut sequence, mut reported) = (Instant::now(), 0, 0);
    loop {
        pace.tick().await;
        // All that gathered while the last report was on its way goes into the next one.
        let gathered = (begun.elapsed().as_secs_f64() * RATE as f64 / nodes as f64) as usize;
        if gathered == reported {
            continue;
        }
        sequence += 1;
        let first = id as usize * 1_000_000 + reported;
        let report = report(id, sequence, first, gathered - reported);
        reported = gathered;
        let _ = node.propose(request(report)).await; // counted by the outcome of the whole
    }
}

pub(crate) async fn leader() {
    for nodes in SIZES {
        leader_of(nodes).await;
    }
}

async fn leader_of(nodes: u64) {
    let mut fleet = Fleet::of(1).await;
    let place = fleet.config(1).dir.parent().unwrap().to_owned();
    let tokens = place.join("tokens");
    std::fs::create_dir(&tokens).unwrap();
    for id in 2..=nodes {
        let token = fleet.node(1).token(&format!("mx{id}"), 3_600_000, "ops").await.unwrap();
        std::fs::write(tokens.join(id.to_string()), token.to_string()).unwrap();
    }
    let peer = fleet.address(1).to_string();
    std::fs::write(place.join("peer"), peer).unwrap();
    std::fs::write(place.join("nodes"), nodes.to_string()).unwrap();
    let mut others = Program::new(std::env::current_exe().unwrap())
        .args([FOLLOWERS, place.to_str().unwrap()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(others.stdout.take().unwrap()).lines();
    println!("{}", said.next().unwrap().unwrap());
    let own = tokio::spawn(reporter(fleet.node(1).clone(), 1, nodes));
    tokio::time::sleep(Duration::from_secs(5)).await;
    let counted = fleet.view(1).blacklist_counts().tracked;
    let (begun, used) = (Instant::now(), processor_time());
    let index = fleet.view(1).applied_index();
    tokio::time::sleep(RUN).await;
    let seconds = begun.elapsed().as_secs_f64();
    let used = (processor_time() - used).as_secs_f64() / seconds;
    let counted = (fleet.view(1).blacklist_counts().tracked - counted) as f64 / seconds;
    let entries = (fleet.view(1).applied_index() - index) as f64 / seconds;
    let leads = fleet.status(1).await.leader.as_deref() == Some("mx1");
    println!(
        "{nodes} nodes, {counted:.0} rejections/s in {entries:.0} entries/s: the leader uses \
         {used:.2} of a core, {:.0} us an entry (it led all the time: {leads})",
        used * 1e6 / entries
    );
    own.abort();
    others.kill().unwrap();
    others.wait().unwrap();
}

/// All nodes but the first, joined to the fleet in `place`.
pub(crate) async fn followers(place: String) {
    let place = std::path::PathBuf::from(place);
    let peer = std::fs::read_to_string(place.join("peer")).unwrap().parse().unwrap();
    let nodes: u64 = std::fs::read_to_string(place.join("nodes")).unwrap().parse().unwrap();
    let mut fleet = Fleet::nobody();
    for id in 2..=nodes {
        let token = std::fs::read_to_string(place.join("tokens").join(id.to_string())).unwrap();
        fleet.join_through(id, peer, &token.parse().unwrap()).await;
    }
    println!("{} nodes have joined", nodes - 1);
    for id in 2..=nodes {
        tokio::spawn(reporter(fleet.node(id).clone(), id, nodes));
    }
    std::future::pending().await
}
