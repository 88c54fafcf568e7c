//! A node with ten million addresses: writes while it takes a snapshot, and a newcomer.

use std::time::{Duration, Instant};

use crate::support::{Fleet, customer, request};
use crate::writes::report;

const ADDRESSES: usize = 10_000_000;
const PART: usize = 4000;

pub(crate) async fn snapshot_and_newcomer() {
    let mut fleet = Fleet::of(1).await;
    let begun = Instant::now();
    for (sequence, first) in (1..).zip((0..ADDRESSES).step_by(PART)) {
        let report = request(report(1, sequence, first, PART));
        fleet.node(1).propose(report).await.unwrap().unwrap();
    }
    println!("{ADDRESSES} addresses counted by one node in {:.1?}", begun.elapsed());
    let snapshots = fleet.config(1).dir.join("snapshots");
    let mut seen = newest(&snapshots);
    // Enough log for a snapshot; the writes that follow are made beside it.
    let mut sequence = 1_000_000;
    let (mut during, mut beside) = (Vec::new(), Vec::new());
    let until = Instant::now() + Duration::from_secs(120);
    while during.len() < 300 && Instant::now() < until {
        sequence += 1;
        let more = request(report(1, sequence, ADDRESSES + sequence as usize * PART, PART));
        if during.is_empty() {
            fleet.node(1).propose(more).await.unwrap().unwrap();
        }
        let asked = Instant::now();
        let id = format!("c{:x}", mxfleet_cluster::random_id());
        fleet.node(1).propose(customer(&id)).await.unwrap().unwrap();
        let took = asked.elapsed();
        if is_being_written(&snapshots) {
            during.push(took)
        } else {
            beside.push(took)
        }
        seen = newest(&snapshots).or(seen);
    }
    during.sort();
    beside.sort();
    let at = |took: &[Duration], share: f64| took[((took.len() - 1) as f64 * share) as usize];
    println!(
        "{} writes while a snapshot is written: p50 {:.2?}, p99 {:.2?}, longest {:.2?}",
        during.len(),
        at(&during, 0.5),
        at(&during, 0.99),
        at(&during, 1.0)
    );
    println!("{} writes else: longest {:.2?}", beside.len(), at(&beside, 1.0));
    if let Some(octets) = seen {
        println!("a snapshot is {:.0} MB", octets as f64 / 1e6);
    }
    let begun = Instant::now();
    fleet.join(2).await;
    while fleet.view(2).blacklist_counts().tracked < ADDRESSES as u64 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("a newcomer has joined and caught up in {:.1?}", begun.elapsed());
}

fn newest(snapshots: &std::path::Path) -> Option<u64> {
    let files = std::fs::read_dir(snapshots).unwrap().flatten();
    let whole = files.filter(|file| file.path().extension().is_some_and(|e| e == "snap"));
    whole.filter_map(|file| Some(file.metadata().ok()?.len())).max()
}

fn is_being_written(snapshots: &std::path::Path) -> bool {
    let mut files = std::fs::read_dir(snapshots).unwrap().flatten();
    files.any(|file| file.path().extension().is_some_and(|e| e == "partial"))
}
