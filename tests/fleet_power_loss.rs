//! All hosts of a fleet lose power at once: what was acknowledged to an operator is on the disks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::time::Instant;

use support::disk::Disk;
use support::fleet::{Fleet, on_loopback};
use support::node::Setup;
use support::writer::{Writer, customers};
use support::{SOON, eventually};

const ROUNDS: usize = 4;
/// Acknowledged writes in a round before the lights go out.
const WRITES: usize = 15;
const PREFIXES: [&str; ROUNDS] = ["p", "q", "r", "s"];

#[test]
fn no_acknowledged_write_is_lost_when_all_hosts_lose_power_at_once() {
    let disks: Vec<Disk> = (0..3).map(|_| Disk::ext4(400)).collect();
    let setup = |(number, disk): (usize, &Disk)| Setup {
        data_dir: Some(disk.path().join("data")),
        limits: vec![("disk_reserve_octets", "16777216".into())],
        ..on_loopback(&format!("mx{number}"))
    };
    let setups: Vec<_> = (1..).zip(&disks).map(setup).collect();
    let mut fleet = Fleet::with(&setups);
    for prefix in PREFIXES {
        let writer = Writer::start(&fleet.nodes, prefix);
        eventually("writes", SOON, || writer.count() >= WRITES);
        let before = Instant::now();
        // The three disks within a few milliseconds of each other.
        std::thread::scope(|scope| {
            for disk in &disks {
                scope.spawn(|| disk.cut_power());
            }
        });
        for node in &mut fleet.nodes {
            node.kill();
        }
        let cut = Instant::now();
        for (disk, node) in disks.iter().zip(&mut fleet.nodes) {
            disk.power_on();
            node.begin();
        }
        for node in &mut fleet.nodes {
            node.await_ready();
        }
        // It retries what was not acknowledged, under the same id, and goes on.
        eventually("writes after the cut", SOON, || writer.resumed_after(cut).is_some());
        println!("writes again {:?} after the cut", writer.resumed_after(cut).unwrap());
        // A sync that returns while a disk goes down may not have reached it: what was acknowledged
        // in those milliseconds does not count.
        let doubtful = writer.touched(before, cut);
        println!("{} writes acknowledged while the disks went down", doubtful.len());
        let mut present = writer.stop();
        present.retain(|id| !doubtful.contains(id));
        fleet.await_same_state();
        for node in &fleet.nodes {
            let mut known = customers(node, prefix);
            known.retain(|id| !doubtful.contains(id));
            assert_eq!(known, present, "{}", node.name());
        }
    }
}
