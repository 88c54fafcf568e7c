//! Ten million addresses: their memory, and a decision at RCPT.

use std::hint::black_box;
use std::time::Instant;

use mxfleet_cluster::{Cluster, RecipientEvent};

use crate::process::{processor_time, resident_octets};
use crate::support::{now_ms, request};
use crate::writes::report;

const ADDRESSES: usize = 10_000_000;
const PART: usize = 5000;
const LOOKUPS: usize = 1_000_000;

pub(crate) async fn decisions() {
    let cluster = Cluster::detached();
    let (before, used) = (resident_octets(), processor_time());
    for (sequence, first) in (1..).zip((0..ADDRESSES).step_by(PART)) {
        let report = request(report(1, sequence, first, PART));
        cluster.propose(report).await.unwrap().unwrap();
    }
    let used = (processor_time() - used).as_micros() as f64 / ADDRESSES as f64;
    let octets = (resident_octets() - before) as f64 / ADDRESSES as f64;
    println!("{ADDRESSES} addresses: {octets:.0} octets each, counted in {used:.2} us each");

    let view = cluster.view();
    let now_ms = now_ms();
    let addresses: Vec<String> = (0..LOOKUPS)
        .map(|n| match report(1, 0, n * 7919 % ADDRESSES, 1) {
            mxfleet_cluster::Command::BlacklistReport { mut events, .. } => {
                match events.remove(0) {
                    RecipientEvent::Rejected { address, .. } => address,
                    RecipientEvent::Accepted { address } => address,
                }
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let unknown: Vec<String> = addresses.iter().map(|address| format!("x{address}")).collect();
    for (what, addresses) in [("tracked", &addresses), ("unknown", &unknown)] {
        let begun = Instant::now();
        let listed = addresses.iter().filter(|a| black_box(view.is_blacklisted(a, now_ms))).count();
        let each = begun.elapsed() / LOOKUPS as u32;
        println!("decisions on {what} addresses: {each:.0?} each ({listed} listed)");
    }
}
