//! How fast three nodes decide, and how fast a table of a million domains is looked up.
//!
//! `cargo bench -p mxfleet-cluster`. Prints a line each; compare runs on one machine only.

#![allow(clippy::unwrap_used, reason = "a measurement that fails may panic")]
#![allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "for people")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::time::{Duration, Instant};

use mxfleet_cluster::{Cluster, Command, Domain, RecipientPolicy, Route, TlsPolicy};
use support::{Fleet, customer, request};

const DOMAINS: usize = 1_000_000;

#[tokio::main]
async fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        return; // `cargo test` builds and starts benches too
    }
    lookups().await;
    let fleet = Fleet::of(3).await;
    fleet.eventually_voters(3).await;
    let leader = fleet.leader().await;
    for in_flight in [1, 16, 256] {
        writes(fleet.node(leader), in_flight).await;
    }
    let follower = fleet.others(leader)[0];
    println!("through a follower:");
    writes(fleet.node(follower), 16).await;
}

async fn writes(node: &Cluster, in_flight: usize) {
    let (begun, run) = (Instant::now(), Duration::from_secs(3));
    let workers: Vec<_> = (0..in_flight)
        .map(|_| {
            let node = node.clone();
            tokio::spawn(async move {
                let mut took = Vec::new();
                while begun.elapsed() < run {
                    let asked = Instant::now();
                    let id = format!("c{:x}", mxfleet_cluster::random_id());
                    node.propose(customer(&id)).await.unwrap().unwrap();
                    took.push(asked.elapsed());
                }
                took
            })
        })
        .collect();
    let mut took = Vec::new();
    for worker in workers {
        took.extend(worker.await.unwrap());
    }
    took.sort();
    let rate = took.len() as f64 / begun.elapsed().as_secs_f64();
    let at = |share: f64| took[(took.len() as f64 * share) as usize];
    println!(
        "{in_flight:>4} in flight: {rate:>7.0} writes/s, p50 {:.2?}, p99 {:.2?}",
        at(0.5),
        at(0.99)
    );
}

async fn lookups() {
    let cluster = Cluster::detached();
    cluster.propose(customer("acme")).await.unwrap().unwrap();
    let name = |n: usize| format!("customer-{n}.example");
    let begun = Instant::now();
    for first in (0..DOMAINS).step_by(5000) {
        let domain = |n| Domain {
            name: name(n),
            customer: "acme".to_owned(),
            route: Route::Mx,
            tls: TlsPolicy::Opportunistic,
            connections_max: None,
            recipients: RecipientPolicy::default(),
        };
        let domains = (first..first + 5000).map(domain).collect();
        cluster.propose(request(Command::DomainImport { domains })).await.unwrap().unwrap();
    }
    println!("{DOMAINS} domains imported in {:.2?}", begun.elapsed());
    let view = cluster.view();
    let names: Vec<_> = (0..DOMAINS).map(|n| name(n * 7919 % DOMAINS)).collect();
    let begun = Instant::now();
    let found = names.iter().filter(|name| black_box(view.domain(name)).is_some()).count();
    let each = begun.elapsed() / u32::try_from(DOMAINS).unwrap();
    println!("{found} lookups, {each:.0?} each, all over the table");
    let begun = Instant::now();
    let change = Command::DomainRemove { name: name(1) };
    cluster.propose(request(change)).await.unwrap().unwrap();
    println!("one change beside a view in use: {:.1?}", begun.elapsed());
}
