//! A host is emptied: its queue goes to the others with all that is known of it, whoever is killed
//! meanwhile; nothing is lost and nothing doubled.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::fleet::{Fleet, refused};
use support::load::{Load, Plan, tally};
use support::node::Node;
use support::sink::{Act, Sink, Step};
use support::smtp::Smtp;
use support::{SOON, eventually};

/// How long a drain may take here.
const DRAIN: Duration = Duration::from_secs(600);

/// Messages queued on the host; 100,000 are asked for before a release.
fn messages() -> u64 {
    std::env::var("MXFLEET_DRAIN_MESSAGES").map_or(3000, |count| count.parse().unwrap())
}

/// A customer's server that takes mail once it is open.
fn customer() -> (Sink, Arc<AtomicBool>) {
    let open = Arc::new(AtomicBool::new(false));
    let is_open = Arc::clone(&open);
    let sink = Sink::scripted(move |step| match step {
        Step::Rcpt(_) if !is_open.load(Ordering::SeqCst) => Act::Say("450 4.2.1 later".into()),
        _ => Act::Usual,
    });
    (sink, open)
}

fn octets(number: u64) -> usize {
    if number.is_multiple_of(97) { 300_000 } else { 600 }
}

fn host(node: &Node, name: &str) -> Value {
    node.json(&["host", "show", name])
}

/// A node of the fleet that runs, and is not the first.
fn other(fleet: &mut Fleet) -> usize {
    (1..fleet.nodes.len()).find(|index| fleet.nodes[*index].is_running()).unwrap()
}

fn left(fleet: &mut Fleet) -> Option<u64> {
    let index = other(fleet);
    host(&fleet.nodes[index], "mx1")["drain"]["mail_left"].as_u64()
}

/// Wait until so many percent of the queue are handed over.
fn await_share(fleet: &mut Fleet, percent: u64) {
    let mark = messages() - messages() * percent / 100;
    let start = Instant::now();
    while left(fleet).is_none_or(|left| left > mark) {
        assert!(start.elapsed() < DRAIN, "{percent}%: {:?} left", left(fleet));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_drain_survives_the_death_of_the_drained_node_and_of_the_leader() {
    let (sink, open) = customer();
    let mut fleet = Fleet::start(4);
    for name in ["queue.retry_min", "queue.retry_max"] {
        fleet.nodes[1].admin(&["settings", "set", name, "1h"]);
    }
    fleet.nodes[1].serve("acme.test", &sink.route());
    let plan = Plan { octets, end: messages(), ..Plan::to("user@acme.test") };
    let acked = Load::start(fleet.nodes[0].smtp(), &plan).finish();
    assert_eq!(fleet.nodes[0].queued(), messages());
    let start = Instant::now();
    fleet.nodes[1].admin(&["host", "drain", "mx1", "--deadline", "1h"]);
    await_share(&mut fleet, 10);
    let greeting = Smtp::open(fleet.nodes[0].smtp()).unwrap().reply();
    assert!(greeting.is(421, "4.3.2"), "{greeting:?}");
    fleet.nodes[0].kill();
    fleet.nodes[0].begin();
    await_share(&mut fleet, 40);
    let leader = fleet.await_leader();
    fleet.nodes[leader].kill();
    fleet.nodes[leader].begin();
    await_share(&mut fleet, 60);
    fleet.nodes[0].kill();
    fleet.nodes[0].begin();
    eventually("the host is retired", DRAIN, || {
        let index = other(&mut fleet);
        host(&fleet.nodes[index], "mx1")["state"] == "retired"
    });
    println!("{} messages in {:?}", messages(), start.elapsed());
    assert_eq!(fleet.nodes[0].queued(), 0);
    let greeting = Smtp::open(fleet.nodes[0].smtp()).unwrap().reply();
    assert!(greeting.is(521, "5.3.2"), "{greeting:?}");
    let status = fleet.status(1);
    let members = status["members"].as_array().unwrap();
    let mx1 = members.iter().find(|member| member["name"] == "mx1").unwrap();
    assert_eq!(mx1["role"], "learner", "it votes no more: {status:#}");
    // What was about to be handed over when somebody died is decided a moment later.
    eventually("all messages are somebody's", SOON, || {
        fleet.nodes[1..].iter().map(Node::queued).sum::<u64>() == messages()
    });
    let shares: Vec<u64> = fleet.nodes[1..].iter().map(Node::queued).collect();
    assert!(shares.iter().all(|share| *share > messages() / 6), "spread by load: {shares:?}");
    open.store(true, Ordering::SeqCst);
    for node in &fleet.nodes[1..] {
        node.admin(&["queue", "retry", "--all"]);
        node.await_empty_queue(DRAIN);
    }
    let tally = tally(&acked, &sink, octets);
    assert_eq!((tally.lost.len(), tally.doubled.len()), (0, 0));
}

#[test]
fn attempts_and_times_go_along_and_a_cancelled_drain_goes_on_later() {
    let (sink, open) = customer();
    let fleet = Fleet::start(2);
    let (one, two) = (&fleet.nodes[0], &fleet.nodes[1]);
    two.serve("acme.test", &sink.route());
    let plan = Plan { connections: 1, end: 3, ..Plan::to("user@acme.test") };
    let acked = Load::start(one.smtp(), &plan).finish();
    let entries = |node: &Node| node.json(&["queue", "list"]);
    eventually("an attempt of each", SOON, || {
        let entries = entries(one);
        let tried = |entry: &Value| entry["recipients"][0]["attempts"] == 1;
        entries.as_array().unwrap().len() == 3 && entries.as_array().unwrap().iter().all(tried)
    });
    let held = entries(one)[1]["id"].as_str().unwrap().to_owned();
    one.admin(&["queue", "hold", &held]);
    let before = entries(one);
    two.admin(&["host", "drain", "mx1"]);
    eventually("all messages at the other host", SOON, || {
        entries(two).as_array().unwrap().len() == 3
    });
    let after = entries(two);
    for (old, new) in before.as_array().unwrap().iter().zip(after.as_array().unwrap()) {
        for key in ["id", "received_at_us", "mail_from", "client", "bytes"] {
            assert_eq!(old[key], new[key], "{key}");
        }
        for key in ["attempts", "dsn", "last_reply"] {
            assert_eq!(old["recipients"][0][key], new["recipients"][0][key], "{key}");
        }
        assert_eq!(new["held"], new["id"] == held.as_str(), "a hold goes along");
    }
    // Back again, and out again: at any point.
    two.admin(&["host", "resume", "mx1"]);
    eventually("mx1 takes mail again", SOON, || one.is_ready());
    let more = Plan { first: 3, end: 5, ..plan };
    let mut acked = [acked, Load::start(one.smtp(), &more).finish()].concat();
    acked.sort_by_key(|acked| acked.number);
    two.admin(&["host", "drain", "mx1"]);
    // Whoever lost sight of it sees it again, whether it is under way or done by then.
    let shown = two.try_admin(&["host", "drain", "mx1", "--watch"]);
    let words = support::process::said(&shown);
    assert!(shown.status.success() || words.contains("is retired since"), "{words}");
    eventually("mx1 is retired", SOON, || host(two, "mx1")["state"] == "retired");
    assert_eq!(two.queued(), 5);
    open.store(true, Ordering::SeqCst);
    two.admin(&["queue", "release", &held]);
    two.admin(&["queue", "retry", "--all"]);
    two.await_empty_queue(SOON);
    let tally = tally(&acked, &sink, |_| 600);
    assert_eq!((tally.lost.len(), tally.doubled.len()), (0, 0));
}

#[test]
fn a_drained_leader_leads_no_more_and_its_bar_says_how_far_it_is() {
    let mut fleet = Fleet::start(3);
    let leader = fleet.await_leader();
    let (name, other) = (format!("mx{}", leader + 1), (leader + 1) % 3);
    let node = &fleet.nodes[other];
    // A terminal for standard error: the bar is for people.
    let command = format!(
        "{} --admin {} host drain {name} --deadline 1h",
        env!("CARGO_BIN_EXE_mxfleet"),
        node.socket().display()
    );
    let shown = support::process::output("script", &["-qec", &command, "/dev/null"]);
    assert!(shown.contains(&format!("{name} [")), "{shown}");
    assert!(shown.contains(&format!("{name} is empty and retired")), "{shown}");
    let status = fleet.status(other);
    assert_ne!(status["leader"], name.as_str(), "it leads no more: {status:#}");
    assert!(status["leader"].is_string(), "{status:#}");
    assert_eq!(status["members"][leader]["role"], "learner", "its vote was taken: {status:#}");
    // Through the host that led: it knows who leads now.
    fleet.nodes[leader].admin(&["customer", "add", "later", "--contact", "a@later.test"]);
}

#[test]
fn a_drain_that_would_break_the_quorum_is_refused() {
    let mut fleet = Fleet::start(3);
    let leader = fleet.await_leader();
    let (victim, drained) = ((leader + 1) % 3, (leader + 2) % 3);
    fleet.nodes[victim].kill();
    let (name, down) = (format!("mx{}", drained + 1), format!("mx{} is down", victim + 1));
    let start = Instant::now();
    while fleet.status(leader)["members"][victim]["state"] != "down" {
        assert!(start.elapsed() < SOON, "the leader misses the dead node");
        std::thread::sleep(Duration::from_millis(50));
    }
    refused(&fleet.nodes[leader].try_admin(&["host", "drain", &name]), &down);
    refused(&fleet.nodes[leader].try_admin(&["host", "retire", &name, "--force"]), &down);
    assert_eq!(host(&fleet.nodes[leader], &name)["state"], "in service");
}

#[test]
fn a_vote_stays_until_the_fleet_can_do_without_it() {
    let mut fleet = Fleet::start(3);
    // mx1 is emptied once mx2 is lost, which was up when that was asked for.
    fleet.nodes[0].kill();
    eventually("a leader without mx1", SOON, || {
        fleet.nodes[2].try_admin(&["host", "drain", "mx1", "--deadline", "2s"]).status.success()
    });
    fleet.nodes[1].kill();
    fleet.nodes[0].begin();
    let three = &fleet.nodes[2];
    let waits_for = |name: &str| {
        let done = three.try_admin(&["host", "show", name, "--output", "json"]);
        let row: Value = serde_json::from_slice(&done.stdout).unwrap_or_default();
        let drain = &row["drain"];
        let is_empty = drain["step"] == "votes" && drain["mail_left"] == 0;
        if is_empty { drain["waits_for"].as_str().unwrap().to_owned() } else { String::new() }
    };
    eventually("mx1 is empty, and its vote waits for mx2", SOON, || {
        waits_for("mx1").starts_with("mx2 to answer")
    });
    refused(&three.try_admin(&["host", "retire", "mx1"]), "still votes");
    // Long enough for the leader to have taken its vote many times.
    std::thread::sleep(Duration::from_secs(3));
    let table = three.admin(&["host", "show", "mx1"]);
    assert!(table.contains("mxfleet host retire mx2 --force"), "{table}");
    assert!(table.contains("LATE, it was to be empty by"), "{table}");
    assert_eq!(host(three, "mx1")["drain"]["late"], true);
    assert_eq!(three.metric("mxfleet_drains_late"), 1.0);
    three.admin(&["customer", "add", "later", "--contact", "a@later.test"]);
    fleet.nodes[1].begin();
    let three = &fleet.nodes[2];
    eventually("it goes on by itself", SOON, || host(three, "mx1")["state"] == "retired");
    assert_eq!(host(three, "mx1")["vote_waits_for"], Value::Null);
    assert_eq!(three.metric("mxfleet_drains_late"), 0.0);
    three.admin(&["customer", "add", "last", "--contact", "a@last.test"]);
}
