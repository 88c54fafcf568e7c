//! The power fails under load: what was acknowledged before that is on the disk.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::disk::Disk;
use support::eventually;
use support::load::{Load, Plan, tally};
use support::node::{Node, Setup};
use support::sink::{Act, Sink};

const ROUNDS: u64 = 6;
/// Long enough for anything that takes no time.
const LONG: Duration = Duration::from_secs(30);
/// See `crash.rs`; marks of delivery ride the next sync, of which a loaded node has many.
const FINAL_DOT_WINDOW: Duration = Duration::from_millis(500);

#[test]
fn no_power_cut_takes_what_was_acknowledged_before_it() {
    let stuck = Arc::new(AtomicBool::new(false));
    let sink = stuck_while(&stuck);
    let disk = Disk::ext4(400);
    let setup = Setup {
        data_dir: Some(disk.path().join("data")),
        limits: vec![
            ("disk_reserve_octets", "16777216".into()),
            ("segment_octets", "4194304".into()),
        ],
        ..Setup::default()
    };
    let mut node = Node::with(&setup);
    node.serve("acme.test", &sink.route());
    let mut before_cut = Vec::new();
    let mut cuts = Vec::new();
    for round in 0..ROUNDS {
        // In every other round the customer's server is stuck, so that all is in the spool.
        stuck.store(round % 2 == 1, Ordering::SeqCst);
        let plan = Plan { first: round * 1_000_000, ..Plan::to("user@acme.test") };
        let load = Load::start(node.smtp(), &plan);
        // The load's own time: long enough for hundreds of messages.
        std::thread::sleep(Duration::from_millis(1500));
        let cut = disk.cut_power();
        node.kill();
        // What the dead node had sent to the end, the stuck server takes nevertheless.
        stuck.store(false, Ordering::SeqCst);
        eventually("the dead node's mail is taken", LONG, || sink.open() == 0);
        cuts.push(cut..=Instant::now());
        let mut acked = load.stop();
        acked.retain(|acked| acked.at < cut);
        println!("round {round}: {} acknowledged before the cut", acked.len());
        assert!(acked.len() > 20, "there was a load");
        before_cut.extend(acked);
        disk.power_on();
        node.restart();
    }
    node.await_empty_queue(Duration::from_secs(120));
    let tally = tally(&before_cut, &sink, |_| 600);
    println!(
        "{} acknowledged, {} lost, {} doubled",
        before_cut.len(),
        tally.lost.len(),
        tally.doubled.len()
    );
    tally.assert_only_the_final_dot_doubles(&cuts, FINAL_DOT_WINDOW);
    node.terminate();
}

/// A sink that does not go on while told so.
fn stuck_while(stuck: &Arc<AtomicBool>) -> Sink {
    let stuck = Arc::clone(stuck);
    Sink::scripted(move |_| {
        while stuck.load(Ordering::SeqCst) {
            // It is what a stuck server does.
            std::thread::sleep(Duration::from_millis(5));
        }
        Act::Usual
    })
}
