//! A dictionary attack through a fleet on a real Postfix with a real recipient table and its usual
//! ways with clients that ask for unknown users: valid mail arrives, unknown ones are learnt, and
//! nobody gets a bounce.
//!
//! `MXFLEET_DICTIONARY=100000 cargo test --release --test dictionary` tries so many addresses; a
//! tenth of that otherwise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::fleet::{Fleet, on_loopback};
use support::node::{Node, Setup};
use support::postfix::Postfix;
use support::smtp::Smtp;
use support::{SOON, eventually};

/// One recipient in so many exists.
const ONE_IN: usize = 20;
/// Rejections that list.
const THRESHOLD: usize = 2;
const CLIENTS: usize = 6;
const SENDER: &str = "spammer@elsewhere.test";
const TEXT: &[u8] = b"From: spammer@elsewhere.test\r\nSubject: cheap\r\n\r\nbuy\r\n";
/// For all that takes as long as there are addresses.
const PATIENCE: Duration = Duration::from_secs(900);

fn addresses() -> usize {
    let given = std::env::var("MXFLEET_DICTIONARY").ok().map(|text| text.parse().unwrap());
    given.unwrap_or(10_000)
}

/// Every twentieth is a user, the others are guesses.
fn address(n: usize) -> String {
    match n % ONE_IN {
        0 => format!("user{n}@acme.test"),
        _ => format!("guess{n}@acme.test"),
    }
}

/// A message for each twenty addresses, to node after node.
fn attack(fleet: &Fleet, count: usize) {
    let next = AtomicUsize::new(0);
    let servers: Vec<_> = fleet.nodes.iter().map(Node::smtp).collect();
    std::thread::scope(|scope| {
        for first in 0..CLIENTS {
            let (next, server) = (&next, servers[first % servers.len()]);
            scope.spawn(move || {
                let mut client = Smtp::greeted(server);
                loop {
                    let from = next.fetch_add(ONE_IN, Ordering::SeqCst);
                    if from >= count {
                        return;
                    }
                    let to: Vec<String> = (from..from + ONE_IN).map(address).collect();
                    let to: Vec<&str> = to.iter().map(String::as_str).collect();
                    let reply = client.deliver(SENDER, &to, TEXT);
                    assert_eq!(reply.code, 250, "{reply:?}");
                }
            });
        }
    });
}

fn settle(fleet: &Fleet) {
    for node in &fleet.nodes {
        node.await_empty_queue(PATIENCE);
        eventually("events that are counted", PATIENCE, || {
            node.json(&["blacklist", "stats"])["waiting"] == 0
        });
    }
}

/// What the node answers to each RCPT, without a message.
fn answers(node: &Node, count: usize) -> Vec<u16> {
    let mut client = node.client();
    assert_eq!(client.command(&format!("MAIL FROM:<{SENDER}>")).code, 250);
    let mut codes = Vec::with_capacity(count);
    for first in (0..count).step_by(100) {
        let batch = first..(first + 100).min(count);
        let lines = batch.clone().map(|n| format!("RCPT TO:<{}>\r\n", address(n)));
        client.send(lines.collect::<String>().as_bytes());
        codes.extend(batch.map(|_| client.reply().code));
    }
    codes
}

#[test]
fn valid_mail_arrives_unknown_ones_are_listed_and_nobody_is_told() {
    let count = addresses() / ONE_IN * ONE_IN;
    let (users, guesses) = (count / ONE_IN, count - count / ONE_IN);
    let known: Vec<String> = (0..count).step_by(ONE_IN).map(|n| format!("user{n}")).collect();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let postfix = Postfix::start("acme.test", &known);
    let limits = ["session_errors_max", "recipients_max"].map(|name| (name, "1000000".to_owned()));
    let setup = |name| Setup { limits: limits.to_vec(), ..on_loopback(name) };
    let fleet = Fleet::with(&[setup("mx1"), setup("mx2"), setup("mx3")]);
    let first = &fleet.nodes[0];
    first.serve("acme.test", &postfix.address().to_string());
    let threshold = THRESHOLD.to_string();
    first.admin(&["domain", "set", "acme.test", "--blacklist-threshold", &threshold]);
    for node in &fleet.nodes {
        eventually("the domain everywhere", SOON, || {
            node.json(&["domain", "list"])[0]["blacklist_threshold"] == THRESHOLD
        });
    }
    let start = Instant::now();
    for round in 0..THRESHOLD {
        let before = start.elapsed();
        attack(&fleet, count);
        println!("round {round}: {count} recipients accepted in {:?}", start.elapsed() - before);
        settle(&fleet);
        println!("round {round}: delivered or refused in {:?}", start.elapsed() - before);
    }
    for node in &fleet.nodes {
        eventually("all unknown ones listed", SOON, || {
            node.json(&["blacklist", "stats"])["listed"] == guesses
        });
        assert_eq!(node.metric("mxfleet_blacklist_freezes_total"), 0.0);
    }
    let codes = answers(first, count);
    let wrong = (0..count).filter(|n| (codes[*n] == 250) != (n % ONE_IN == 0));
    assert_eq!(wrong.count(), 0, "each user is accepted, and no other");
    eventually("the users' mail", PATIENCE, || postfix.mailbox().count() >= users * THRESHOLD);
    assert_eq!(postfix.mailbox().count(), users * THRESHOLD, "once each");

    // All failures were suppressed, and can be looked up.
    let mut suppressed = 0;
    for node in &fleet.nodes {
        let lines = node.json(&["journal", "search", "--from", SENDER, "--limit", "10000000"]);
        let lines = lines.as_array().unwrap();
        assert!(lines.iter().all(|line| line["outcome"] == "suppressed"), "{:?}", lines.first());
        suppressed += lines.len();
        assert_eq!(node.metric("mxfleet_journal_dropped_total"), 0.0);
        assert_eq!(node.queued(), 0, "no report waits either");
    }
    assert_eq!(suppressed, guesses * THRESHOLD);
    assert!(!postfix.log().contains("too many errors"), "Postfix was not annoyed");
}
