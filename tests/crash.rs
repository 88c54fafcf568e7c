//! kill -9, at random moments and at every step of the way to the disk: whatever was acknowledged
//! is delivered, and only the window of the final dot doubles a message.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::time::{Duration, Instant};

use support::Dice;
use support::load::{Load, Plan, Stop, tally};
use support::node::{Node, Setup};
use support::process::injected;
use support::sink::Sink;

/// How long the record of a delivery may be in memory only. A crash later than this after the
/// customer's server took a message must not deliver it again.
const FINAL_DOT_WINDOW: Duration = Duration::from_millis(500);
/// Time to deliver what was queued when the last life began.
const DRAIN: Duration = Duration::from_secs(120);

const ROUNDS: usize = 100;

/// A node with a sink behind it.
fn relay() -> (Node, Sink) {
    let sink = Sink::start();
    let setup = Setup {
        // Small segments, so that lives end while one is begun, closed or deleted.
        limits: vec![("segment_octets", "1048576".into()), ("disk_reserve_octets", "1".into())],
        ..Setup::default()
    };
    let node = Node::with(&setup);
    node.serve("acme.test", &sink.route());
    (node, sink)
}

/// A stop that took no time.
fn at_once() -> Stop {
    let now = Instant::now();
    now..=now
}

/// Let the node deliver what it has, then compare.
fn settle(mut node: Node, sink: &Sink, load: Load, stops: &[Stop], octets: fn(u64) -> usize) {
    let acked = load.stop();
    node.await_empty_queue(DRAIN);
    let tally = tally(&acked, sink, octets);
    println!(
        "{} stops, {} acknowledged, {} lost, {} doubled",
        stops.len(),
        acked.len(),
        tally.lost.len(),
        tally.doubled.len()
    );
    assert!(acked.len() > stops.len(), "there was a load");
    tally.assert_only_the_final_dot_doubles(stops, FINAL_DOT_WINDOW);
    assert!(node.terminate().success());
}

#[test]
fn a_hundred_kills_at_random_moments_lose_nothing() {
    let (mut node, sink) = relay();
    let octets = |number| if number % 50 == 0 { 200_000 } else { 600 };
    let plan = Plan { octets, ..Plan::to("user@acme.test") };
    let load = Load::start(node.smtp(), &plan);
    let mut dice = Dice::new(0x6d78);
    let mut stops = Vec::new();
    for _ in 0..ROUNDS {
        // The moment of the kill is the random part of the test.
        std::thread::sleep(Duration::from_millis(50 + dice.roll() % 350));
        node.kill();
        stops.push(at_once());
        node.restart();
    }
    settle(node, &sink, load, &stops, octets);
}

/// The ways to the disk, and how often each is stopped at.
const STEPS: &[(&str, usize)] = &[
    ("fdatasync,fsync", 24),
    ("pwrite64,pwritev,pwritev2", 12),
    ("openat", 12),
    ("rename,renameat,renameat2", 4),
    ("unlink,unlinkat", 4),
    ("fallocate", 6),
    ("ftruncate", 4),
];

#[test]
fn a_kill_at_each_step_to_the_disk_loses_nothing() {
    let (mut node, sink) = relay();
    let octets = |number| if number % 20 == 0 { 100_000 } else { 600 };
    let load = Load::start(node.smtp(), &Plan { octets, ..Plan::to("user@acme.test") });
    let mut stops = Vec::new();
    let mut at_sync = 0;
    for &(calls, times) in STEPS {
        for step in 1..=times {
            node.kill();
            stops.push(at_once());
            // It dies when a thread enters one of these calls for the `step`-th time.
            node.wrapper = injected(calls, &format!("signal=KILL:when={step}"));
            node.begin();
            let died = dies_within(&mut node, Duration::from_millis(2500));
            at_sync += usize::from(died && calls.starts_with("fdatasync"));
            if !died {
                break; // this life has no such step any more, nor will the next
            }
            stops.push(at_once());
        }
    }
    node.kill();
    stops.push(at_once());
    node.wrapper.clear();
    node.restart();
    println!("{at_sync} lives ended at a sync");
    assert!(at_sync >= 12, "the kills hit: {at_sync}");
    settle(node, &sink, load, &stops, octets);
}

fn dies_within(node: &mut Node, patience: Duration) -> bool {
    let start = Instant::now();
    while start.elapsed() < patience {
        if !node.process().is_running() {
            return true;
        }
        // Polling is the only way to watch another process.
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}
