//! A customer's directory breaks and its server refuses everybody, in the best form: nobody that
//! got mail lately is listed, and the operators are told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use support::fleet::Fleet;
use support::node::Node;
use support::sink::{Act, Sink, Step};
use support::{SOON, eventually};

const TEXT: &[u8] = b"Subject: hello\r\n\r\nhello\r\n";
const USERS: usize = 6;
const FROZEN: &str = "mxfleet_blacklist_frozen_domains";

/// A customer's server that knows all but `guess*`, until its directory breaks.
fn server() -> (Sink, Arc<AtomicBool>) {
    let broken = Arc::new(AtomicBool::new(false));
    let is_broken = Arc::clone(&broken);
    let sink = Sink::scripted(move |step| match step {
        Step::Rcpt(to) if is_broken.load(Ordering::SeqCst) || to.starts_with("<guess") => {
            Act::Say("550 5.1.1 User unknown in virtual mailbox table".to_owned())
        }
        _ => Act::Usual,
    });
    (sink, broken)
}

fn user(n: usize) -> String {
    format!("user{n}@acme.test")
}

/// Messages to one recipient, from node to node, and what became of them is known everywhere.
fn send(fleet: &Fleet, to: &str, times: usize) {
    for n in 0..times {
        let node = &fleet.nodes[n % 3];
        let reply = node.client().deliver(&format!("s{n}@sender.test"), &[to], TEXT);
        assert_eq!(reply.code, 250, "{reply:?}");
    }
    settle(fleet);
}

fn settle(fleet: &Fleet) {
    for node in &fleet.nodes {
        node.await_empty_queue(SOON);
        eventually("events that are counted", SOON, || {
            node.json(&["blacklist", "stats"])["waiting"] == 0
        });
    }
}

fn listed(node: &Node) -> Vec<String> {
    let rows = node.json(&["blacklist", "list"]);
    rows.as_array().unwrap().iter().map(|row| row["address"].as_str().unwrap().into()).collect()
}

fn await_listed(fleet: &Fleet, expected: &[&str]) {
    for node in &fleet.nodes {
        eventually(&format!("{expected:?} listed"), SOON, || listed(node) == expected);
    }
}

#[test]
fn a_broken_directory_lists_nobody_that_got_mail_lately_and_raises_the_alarm() {
    let (sink, broken) = server();
    let fleet = Fleet::start(3);
    let [first, second, third] = &fleet.nodes[..] else { panic!("three nodes") };
    first.serve("acme.test", &sink.route());
    for node in &fleet.nodes {
        let is_served =
            || node.client().envelope("a@sender.test", &["any@acme.test"])[1].code == 250;
        eventually("the domain at every node", SOON, is_served);
    }
    // A usual day: an attack, and mail for the users.
    send(&fleet, "guess-old@acme.test", 10);
    await_listed(&fleet, &["guess-old@acme.test"]);
    for n in 0..USERS {
        send(&fleet, &user(n), 2);
        let is_trusted =
            |node: &Node| node.json(&["blacklist", "show", &user(n)])["trusted_until"].is_string();
        eventually("a trusted user", SOON, || fleet.nodes.iter().all(is_trusted));
    }
    assert_eq!(second.metric(FROZEN), 0.0, "an attack is no broken directory");

    broken.store(true, Ordering::SeqCst);
    for n in 0..USERS {
        send(&fleet, &user(n), 12);
    }
    send(&fleet, "seldom@acme.test", 12);
    await_listed(&fleet, &["guess-old@acme.test"]);
    for node in &fleet.nodes {
        eventually("an alarm", SOON, || node.metric(FROZEN) == 1.0);
        assert!(node.metric("mxfleet_blacklist_freezes_total") >= 1.0);
        assert!(node.metric("mxfleet_blacklist_withheld_total") >= 1.0);
    }
    let frozen = &third.json(&["blacklist", "stats"])["frozen_domains"][0];
    assert_eq!(frozen["domain"], "acme.test");
    let why = frozen["why"].as_str().unwrap();
    assert!(why.contains("refused recipients it had taken mail for"), "{why}");
    assert_eq!(
        first.json(&["blacklist", "show", "seldom@acme.test"])["rejections"],
        serde_json::json!([])
    );

    // Repaired: it thaws by itself, and an attack is learnt again; the users get their mail.
    broken.store(false, Ordering::SeqCst);
    second.admin(&["settings", "set", "blacklist.thaw_after", "1s"]);
    for node in &fleet.nodes {
        eventually("the end of the frost", SOON, || node.metric(FROZEN) == 0.0);
    }
    send(&fleet, "guess-new@acme.test", 10);
    await_listed(&fleet, &["guess-new@acme.test", "guess-old@acme.test"]);
    let before = sink.count();
    (0..USERS).for_each(|n| send(&fleet, &user(n), 1));
    assert_eq!(sink.count(), before + USERS);
}

#[test]
fn operators_freeze_and_thaw_a_domain() {
    let (sink, _) = server();
    let fleet = Fleet::start(3);
    let [first, second, _] = &fleet.nodes[..] else { panic!("three nodes") };
    first.serve("acme.test", &sink.route());
    first.admin(&["blacklist", "freeze", "Acme.Test"]);
    send(&fleet, "guess@acme.test", 10);
    assert_eq!(
        second.json(&["blacklist", "show", "guess@acme.test"])["rejections"],
        serde_json::json!([])
    );
    let stats = second.admin(&["blacklist", "stats"]);
    assert!(stats.contains("acme.test") && stats.contains("an operator froze it"), "{stats}");
    second.admin(&["blacklist", "thaw", "acme.test"]);
    send(&fleet, "guess@acme.test", 10);
    await_listed(&fleet, &["guess@acme.test"]);
}
