//! Three nodes with real QUIC, real certificates and real syncs.

use std::time::{Duration, Instant};

use mxfleet_cluster::{Cluster, Command, RecipientEvent};

use crate::support::{Fleet, customer, now_ms, request};

const RUN: Duration = Duration::from_secs(3);
/// Rejections in one report: what a node gathers in some 10 ms at full load.
const EVENTS: usize = 1000;
const REPLY: &str = "550 5.1.1 <user@customer.example>: Recipient address rejected";

pub(crate) async fn single() {
    let fleet = Fleet::of(3).await;
    fleet.eventually_voters(3).await;
    let leader = fleet.leader().await;
    for in_flight in [1, 16, 256] {
        write(fleet.node(leader), in_flight).await;
    }
    let follower = fleet.others(leader)[0];
    println!("through a follower:");
    write(fleet.node(follower), 16).await;
}

async fn write(node: &Cluster, in_flight: usize) {
    let begun = Instant::now();
    let workers: Vec<_> = (0..in_flight)
        .map(|_| {
            let node = node.clone();
            tokio::spawn(async move {
                let mut took = Vec::new();
                while begun.elapsed() < RUN {
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

/// A report of rejections of addresses `first` and following, each another.
pub(crate) fn report(node: u64, sequence: u64, first: usize, events: usize) -> Command {
    let at_ms = now_ms();
    let rejected = |n: usize| RecipientEvent::Rejected {
        address: format!("some.user{n}@customer-{}.example", n % 1000),
        at_ms,
        reply: REPLY.to_owned(),
    };
    let events = (first..first + events).map(rejected).collect();
    Command::BlacklistReport { node, incarnation: 1, sequence, events }
}

/// Each node has one report on its way, as `mxfleet run` does.
pub(crate) async fn counts() {
    let fleet = Fleet::of(3).await;
    fleet.eventually_voters(3).await;
    let begun = Instant::now();
    let reporters: Vec<_> = (1..=3)
        .map(|id| {
            let node = fleet.node(id).clone();
            tokio::spawn(async move {
                let (mut counted, mut sequence) = (0, 0);
                while begun.elapsed() < RUN {
                    sequence += 1;
                    let first = id as usize * 100_000_000 + sequence as usize * EVENTS;
                    let report = request(report(id, sequence, first, EVENTS));
                    counted += node.propose(report).await.unwrap().unwrap();
                }
                counted
            })
        })
        .collect();
    let mut counted = 0;
    for reporter in reporters {
        counted += reporter.await.unwrap();
    }
    let rate = counted as f64 / begun.elapsed().as_secs_f64();
    println!("reports of {EVENTS} rejections from three nodes: {rate:.0} counts/s");
    fleet.eventually_equal().await;
}
