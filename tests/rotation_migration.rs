//! A migration as customers see it: one letter each, a look at their MX records, a reminder for
//! those who have not moved, and an end that breaks nobody.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;

use serde_json::Value;
use support::dns::{NameServer, Software};
use support::fleet::{Fleet, on_loopback};
use support::node::{Node, Setup};
use support::sink::{Act, Sink, Step};
use support::{SOON, eventually};

/// How often a leader is killed while letters go out.
const KILLS: usize = 6;
/// Letters of one node on their way at a time.
const CONNECTIONS: usize = 2;

const OLD: &str = "mx-a.relay.test";

/// Two nodes that ask `dns`, a name on each, published by hand.
fn fleet(dns: &NameServer) -> Fleet {
    let limits = vec![("outbound_connections_max", CONNECTIONS.to_string())];
    let setup =
        |name| Setup { dns: Some(dns.address()), limits: limits.clone(), ..on_loopback(name) };
    let fleet = Fleet::with(&[setup("mx1"), setup("mx2")]);
    let node = &fleet.nodes[0];
    for (setting, value) in [
        ("rotation.zone", "relay.test"),
        ("rotation.survey_every", "1s"),
        ("service.address", "support@relay.test"),
    ] {
        node.admin(&["settings", "set", setting, value]);
    }
    for (host, address, name) in
        [("mx1", "127.0.0.11", OLD), ("mx2", "127.0.0.12", "mx-b.relay.test")]
    {
        node.admin(&["host", "set", host, "--address", address]);
        node.admin(&["name", "add", name, "--host", host, "--published"]);
    }
    fleet
}

/// Customers with a domain and a contact in it.
fn add_customers(node: &Node, sink: &Sink, customers: &[&str]) {
    for customer in customers {
        let domain = format!("{customer}.test");
        let contact = format!("ops@{domain}");
        node.admin(&["customer", "add", customer, "--contact", &contact]);
        let words = ["domain", "add", &domain, "--customer", customer, "--route", &sink.route()];
        node.admin(&words);
    }
}

fn plan(node: &Node, ends: &str) {
    node.admin(&[
        "migration",
        "plan",
        "--retire",
        OLD,
        "--introduce",
        "mx-c.relay.test=mx1",
        "--ends",
        ends,
        "--text",
        "mx1 leaves its data centre.",
    ]);
}

fn announce(node: &Node) {
    node.admin(&["migration", "announce"]);
    let words = ["name", "point", "mx-c.relay.test", "mx1", "--published"];
    node.admin(&words);
}

fn status(node: &Node) -> BTreeMap<String, Value> {
    let status = node.json(&["migration", "status"]);
    let rows = status["customers"].as_array().unwrap();
    rows.iter().map(|row| (row["customer"].as_str().unwrap().to_owned(), row.clone())).collect()
}

fn await_told(node: &Node, customer: &str, told: &str) {
    eventually(&format!("{customer} is {told}"), SOON, || status(node)[customer]["told"] == told);
}

#[test]
fn every_active_customer_gets_one_letter_with_its_own_names() {
    let dns = NameServer::start(Software::Bind, &[("other.test", "")]);
    let sink = Sink::scripted(|step| match step {
        Step::Rcpt(to) if to.contains("broken") => Act::Say("550 5.1.1 no such user".into()),
        _ => Act::Usual,
    });
    let fleet = fleet(&dns);
    let (one, two) = (&fleet.nodes[0], &fleet.nodes[1]);
    add_customers(one, &sink, &["acme", "bolt", "broken", "sleepy"]);
    one.admin(&["customer", "suspend", "sleepy"]);
    plan(two, "35d");
    one.admin(&["migration", "announce"]);
    assert!(sink.received().is_empty(), "not before the new name is in DNS");
    two.admin(&["name", "point", "mx-c.relay.test", "mx1", "--published"]);
    for (customer, told) in [("acme", "accepted"), ("bolt", "accepted"), ("broken", "bounced")] {
        await_told(two, customer, told);
    }
    let rows = status(one);
    assert_eq!(rows["sleepy"]["told"], "not yet");
    assert!(rows["broken"]["why_not_told"].as_str().unwrap().contains("no such user"));
    let letters = sink.received();
    assert_eq!(letters.len(), 2, "one each");
    for letter in letters {
        let text = String::from_utf8(letter.text.clone()).unwrap();
        let customer = letter.to()[0].split(['@', '.']).nth(1).unwrap().to_owned();
        let names = rows[&customer]["after"].as_array().unwrap();
        assert_eq!(letter.from(), "", "no automaton answers it");
        for part in [
            "Auto-Submitted: auto-generated\r\n",
            "From: <support@relay.test>\r\n",
            "mx1 leaves its data centre.\r\n",
            &format!("{customer}.test.  IN MX 10 {}.", names[0].as_str().unwrap()),
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }
}

#[test]
fn who_has_not_moved_is_reminded_and_holds_the_end_up() {
    // bolt has moved before; acme moves when its zone is changed.
    let old = format!("@ MX 10 {OLD}.");
    let new = "@ MX 10 mx-c.relay.test.";
    let mut dns =
        NameServer::start(Software::Bind, &[("acme.test", old.as_str()), ("bolt.test", new)]);
    let sink = Sink::start();
    let fleet = fleet(&dns);
    let node = &fleet.nodes[1];
    add_customers(node, &sink, &["acme", "bolt"]);
    plan(node, "12s");
    announce(node);
    await_told(node, "acme", "accepted");
    await_told(node, "bolt", "accepted");
    eventually("the survey", SOON, || {
        let rows = status(node);
        rows["acme"]["why"] == "its MX records still lead to an old name"
            && rows["bolt"]["would_break"] == false
    });
    node.admin(&["migration", "remind"]);
    eventually("a reminder", SOON, || sink.count() == 3);
    let reminder = String::from_utf8(sink.received()[2].text.clone()).unwrap();
    assert!(reminder.contains("Subject: Reminder: "), "{reminder}");
    assert!(reminder.contains("acme.test.  IN MX 10"), "{reminder}");
    eventually("the date has come", SOON, || {
        let finish = node.try_admin(&["migration", "finish"]);
        String::from_utf8_lossy(&finish.stderr).contains("1 customer would lose mail: acme")
    });
    assert_eq!(node.json(&["name", "show", OLD])["state"], "retiring", "nobody broke");
    eventually("the status page says that the date has come", SOON, || {
        let updates = node.json(&["notice", "list"])[0]["updates"].as_array().unwrap().clone();
        updates.iter().any(|row| row["text"].as_str().unwrap().contains("still use the old names"))
    });
    assert_eq!(node.metric("mxfleet_migration_overdue_customers"), 1.0);
    dns.replace("acme.test", new);
    eventually("the migration ends by itself", SOON, || {
        node.json(&["migration", "status"])["state"] == "finished"
    });
    assert_eq!(node.json(&["notice", "list"])[0]["state"], "resolved");
    assert_eq!(sink.count(), 3, "bolt was not written to again");
}

#[test]
fn who_is_suspended_is_named_at_the_end_and_told_when_it_is_resumed() {
    // acme's records have a name of its own, an alias of ours.
    let alias = format!("@ MX 10 mx\nmx CNAME {OLD}.");
    let relay = "mx-a A 127.0.0.11\nmx-b A 127.0.0.12";
    let zones = [("acme.test", alias.as_str()), ("relay.test", relay)];
    let dns = NameServer::start(Software::Bind, &zones);
    let sink = Sink::start();
    let fleet = fleet(&dns);
    let node = &fleet.nodes[1];
    add_customers(node, &sink, &["acme"]);
    node.admin(&["customer", "suspend", "acme"]);
    plan(node, "35d");
    announce(node);
    eventually("the survey", SOON, || status(node)["acme"]["records"] == "old");
    let row = status(node)["acme"].clone();
    assert_eq!((&row["suspended"], &row["would_break"]), (&true.into(), &false.into()), "{row}");
    let table = node.admin(&["migration", "status"]);
    assert!(table.contains("1 suspended customer would lose mail once resumed"), "{table}");
    assert!(table.contains("once it is resumed: its MX records still lead to"), "{table}");
    let finish = node.try_admin(&["migration", "finish", "--force"]);
    let says = String::from_utf8_lossy(&finish.stderr);
    assert!(says.contains("(acme) lose mail once they are resumed"), "{says}");
    assert_eq!(sink.count(), 0, "nobody tells it while it is suspended");
    node.admin(&["customer", "resume", "acme"]);
    await_told(node, "acme", "accepted");
    let letter = String::from_utf8(sink.received()[0].text.clone()).unwrap();
    assert!(letter.contains("Subject: Change your MX records now"), "{letter}");
    assert!(letter.contains("acme.test.  IN MX 10 mx-"), "{letter}");
}

#[test]
fn who_was_written_to_is_told_of_a_cancellation() {
    // acme has moved already; bolt has no MX records of ours, so the new name lives for acme only.
    let new = "@ MX 10 mx-c.relay.test.";
    let other = "@ MX 10 mail.bolt.test.";
    let dns = NameServer::start(Software::Bind, &[("acme.test", new), ("bolt.test", other)]);
    let sink = Sink::start();
    let fleet = fleet(&dns);
    let node = &fleet.nodes[1];
    add_customers(node, &sink, &["acme", "bolt"]);
    plan(node, "35d");
    node.admin(&["migration", "announce"]);
    let waits = node.admin(&["migration", "status"]);
    assert!(waits.contains("letters wait for mx-c.relay.test, which waits for DNS"), "{waits}");
    node.admin(&["name", "point", "mx-c.relay.test", "mx1", "--published"]);
    await_told(node, "acme", "accepted");
    await_told(node, "bolt", "accepted");
    eventually("the survey", SOON, || {
        let rows = status(node);
        rows["acme"]["records"] == "moved" && rows["bolt"]["records"] == "elsewhere"
    });
    assert_eq!(status(node)["bolt"]["would_break"], false);
    node.admin(&["migration", "cancel"]);
    eventually("two more letters", SOON, || sink.count() == 4);
    for letter in &sink.received()[2..] {
        let text = String::from_utf8(letter.text.clone()).unwrap();
        let customer = letter.to()[0].split(['@', '.']).nth(1).unwrap().to_owned();
        assert!(text.contains("Subject: MX names stay: the change is cancelled\r\n"), "{text}");
        assert!(text.contains(&format!("{customer}.test.  IN MX 10 mx-")), "{text}");
        assert!(!text.contains("mx-c"), "{text}");
    }
    assert_eq!(node.json(&["name", "show", "mx-c.relay.test"])["state"], "active", "acme uses it");
    assert_eq!(node.json(&["name", "show", OLD])["state"], "active");
}

#[test]
fn a_killed_leader_writes_no_letter_twice_and_leaves_none_out() {
    let dns = NameServer::start(Software::Bind, &[("other.test", "")]);
    let sink = Sink::start();
    let mut fleet = fleet(&dns);
    let customers: Vec<String> = (0..150).map(|n| format!("c{n}")).collect();
    let names: Vec<&str> = customers.iter().map(String::as_str).collect();
    add_customers(&fleet.nodes[0], &sink, &names);
    plan(&fleet.nodes[0], "35d");
    announce(&fleet.nodes[0]);
    for round in 0..KILLS {
        let mark = sink.count() + 10;
        eventually("some letters", SOON, || sink.count() >= mark.min(customers.len()));
        let leader = fleet.await_leader();
        fleet.nodes[leader].kill();
        fleet.nodes[leader].restart();
        println!("kill {round}: {} letters so far", sink.count());
    }
    eventually("all letters", SOON, || {
        status(&fleet.nodes[1]).values().all(|row| row["told"] == "accepted")
    });
    let mut counts = BTreeMap::<String, usize>::new();
    for letter in sink.received() {
        *counts.entry(letter.to()[0].to_owned()).or_default() += 1;
    }
    assert_eq!(counts.len(), customers.len(), "none is left out");
    let twice: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
    // A kill between the server's answer to a final dot and its record repeats that one; each of
    // the connections may be there.
    assert!(twice.len() <= KILLS * CONNECTIONS, "{twice:?}");
}
