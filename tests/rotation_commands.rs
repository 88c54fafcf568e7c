//! What an operator may rely on when moving names and hosts: the commands, their tables, and what
//! is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use serde_json::Value;
use support::fleet::{Fleet, on_loopback, refused};
use support::node::{Node, Setup};
use support::sink::Sink;
use support::smtp::Smtp;
use support::{SOON, eventually, free_address, message};

/// Two hosts with addresses, a zone, and a name on each, published by hand. No name server answers
/// them: what customers' MX records say is not known.
fn fleet() -> Fleet {
    let dns = Some(free_address());
    let setup = |name| Setup { dns, ..on_loopback(name) };
    let fleet = Fleet::with(&[setup("mx1"), setup("mx2")]);
    let node = &fleet.nodes[0];
    node.admin(&["settings", "set", "rotation.zone", "relay.example"]);
    for (host, address, name) in
        [("mx1", "127.0.0.11", "mx-a.relay.example"), ("mx2", "127.0.0.12", "mx-b.relay.example")]
    {
        node.admin(&["host", "set", host, "--address", address]);
        node.admin(&["name", "add", name, "--host", host, "--published"]);
    }
    for customer in ["acme", "bolt", "corp"] {
        let domain = format!("{customer}.test");
        node.admin(&["customer", "add", customer, "--contact", &format!("ops@{domain}")]);
        let words = ["domain", "add", &domain, "--customer", customer, "--route", "127.0.0.1:9"];
        node.admin(&words);
    }
    fleet
}

fn row<'a>(rows: &'a Value, key: &str, value: &str) -> &'a Value {
    let rows = rows.as_array().unwrap();
    rows.iter().find(|row| row[key] == value).unwrap_or_else(|| panic!("{value} in {rows:?}"))
}

#[test]
fn names_point_elsewhere_for_now_or_for_good_and_the_zone_says_so() {
    let fleet = fleet();
    let (one, two) = (&fleet.nodes[0], &fleet.nodes[1]);
    assert_eq!(
        two.admin(&["name", "zone"]),
        "$ORIGIN relay.example.\nmx-a 3600 IN A 127.0.0.11\nmx-b 3600 IN A 127.0.0.12\n"
    );
    assert_eq!(two.json(&["customer", "show", "acme"])["names"].as_array().unwrap().len(), 2);
    let set = one.try_admin(&["host", "set", "mx1", "--address", "127.0.0.11"]);
    let said = String::from_utf8(set.stderr).unwrap();
    assert!(said.contains("DNS is still to say them of mx-a.relay.example"), "{said}");
    let waits_for = || one.json(&["name", "show", "mx-a.relay.example"])["waits_for"].clone();
    assert!(waits_for().is_null(), "they are the same: {}", waits_for());
    one.admin(&["host", "set", "mx1", "--address", "127.0.0.13"]);
    let waits = waits_for();
    let waits = waits.as_str().unwrap();
    assert!(waits.starts_with("DNS to say where mx1 is now: 127.0.0.13: "), "{waits}");
    let (_, say) = waits.split_once("say so: `mxfleet ").unwrap();
    one.admin(&say.trim_end_matches('`').split(' ').collect::<Vec<_>>());
    assert!(waits_for().is_null(), "somebody made sure: {}", waits_for());
    one.admin(&["host", "set", "mx1", "--address", "127.0.0.11"]);
    one.admin(&["name", "point", "mx-a.relay.example", "mx1", "--published"]);
    let point = ["name", "point", "mx-a.relay.example"];
    let says = |rest: &[&str]| {
        let said = two.try_admin(&[&point[..], rest].concat());
        assert!(said.status.success(), "{said:?}");
        String::from_utf8(said.stderr).unwrap()
    };
    assert_eq!(says(&["mx1"]), "mx-a.relay.example points at mx1 already\n");
    let later = says(&["mx2", "--at", "2100-01-01"]);
    assert!(later.contains("will point at mx2 from 2100-01-01T00:00:00Z on"), "{later}");
    assert!(later.contains("warning: 3 customers then have two of their names at mx2"), "{later}");
    let back = says(&["mx1"]);
    assert!(!back.contains("warning"), "{back}");
    one.admin(&["name", "point", "mx-a.relay.example", "mx2"]);
    let names = two.json(&["name", "list"]);
    let name = row(&names, "name", "mx-a.relay.example");
    assert_eq!((&name["points_at"], &name["moves_to"]), (&"mx1".into(), &"mx2".into()));
    let waits = name["waits_for"].as_str().unwrap();
    assert!(waits.contains("rotation.dns_servers is not set"), "{waits}");
    assert!(two.admin(&["name", "list"]).contains("mx1 -> mx2"));
    let now = says(&["mx2", "--published"]);
    assert!(now.starts_with("mx-a.relay.example points at mx2\n"), "{now}");
    let name = one.json(&["name", "show", "mx-a.relay.example"]);
    assert_eq!((&name["state"], &name["home"]), (&"redirected".into(), &"mx1".into()));
    assert!(name["waits_for"].as_str().unwrap().contains("resolvers to forget mx1"), "{name}");
    let zone = two.admin(&["name", "zone"]);
    assert!(zone.contains("mx-a 60 IN A 127.0.0.12\n"), "the time to live is low: {zone}");
    one.admin(&["name", "point", "mx-a.relay.example", "mx1"]);
    one.admin(&["name", "point", "mx-a.relay.example", "--cancel"]);
    one.admin(&["name", "point", "mx-a.relay.example", "mx2", "--home", "--published"]);
    let name = one.json(&["name", "show", "mx-a.relay.example"]);
    assert_eq!((&name["state"], &name["home"]), (&"active".into(), &"mx2".into()), "{name}");
    let left = one.json(&["host", "show", "mx1"]);
    let names = |key: &str| left[key].as_array().unwrap().contains(&"mx-a.relay.example".into());
    assert!(names("former_names") && !names("names"), "resolvers may not have forgotten: {left}");
    assert!(one.admin(&["host", "list"]).contains("(mx-a.relay.example)"));
    let plan = one.json(&["name", "rebalance", "--dry-run"]);
    assert_eq!(plan["moves"].as_array().unwrap().len(), 1, "{plan}");
    assert_eq!(plan["done"], false);
    let table = one.admin(&["name", "rebalance"]);
    assert!(table.contains("LOAD AFTER") && table.contains("moves that were begun"), "{table}");
}

#[test]
fn what_would_lose_mail_is_refused_with_the_reason() {
    let fleet = fleet();
    let node = &fleet.nodes[1];
    let refuse = |words: &[&str], why: &str| refused(&node.try_admin(words), why);
    refuse(&["name", "add", "mx.other.test", "--host", "mx1"], "not below the service's zone");
    refuse(&["name", "add", "mx-a.relay.example", "--host", "mx2"], "is in use");
    refuse(&["name", "add", "mx-c.relay.example", "--host", "mx9"], "there is no host mx9");
    refuse(&["name", "retire", "mx-a.relay.example", "--at", "2010-05-31"], "in the past");
    refuse(&["name", "remove", "mx-a.relay.example"], "was not announced");
    let address = |ip: &str, why: &str| refuse(&["host", "set", "mx1", "--address", ip], why);
    address("0.0.0.0", "it is no host's");
    address("::ffff:192.0.2.1", "write it as 192.0.2.1");
    address("fe80::1", "good on one link only");
    address("127.0.0.12", "is an address of host mx2");
    let twice = ["host", "set", "mx1", "--address", "127.0.0.11", "--address", "127.0.0.11"];
    refuse(&twice, "is given twice");
    refuse(&["host", "retire", "mx1"], "is not drained");
    refuse(&["cluster", "remove", "mx1"], "mail may come to mx1 by mx-a.relay.example");
    refuse(&["settings", "set", "rotation.zone", "other.test"], "there are MX names");
    let two = "192.0.2.53:53,192.0.2.54:53";
    refuse(&["settings", "set", "rotation.dns_primary", two], "one address with its port");
    let plan = ["migration", "plan", "--ends", "30d", "--retire", "mx-a.relay.example"];
    let all = [&plan[..], &["--retire", "mx-b.relay.example"]].concat();
    refuse(&all, "3 customers would have no name left: acme, bolt, corp");
    let past = ["migration", "plan", "--ends", "2010-05-31", "--retire", "mx-a.relay.example"];
    refuse(&past, "in the past");
    refuse(&["migration", "cancel"], "no migration is under way");
    node.admin(&["host", "drain", "mx1", "--deadline", "48h"]);
    refuse(&["name", "point", "mx-b.relay.example", "mx1"], "is being drained");
    refuse(&["host", "drain", "mx2"], "without mx2 the fleet takes no mail");
    let hosts = node.json(&["host", "list"]);
    let drain = &row(&hosts, "name", "mx1")["drain"];
    assert_eq!(drain["step"], "names", "{drain}");
    assert!(node.admin(&["host", "show", "mx1"]).contains("to be empty by"));
    refuse(&["host", "drain", "mx1"], "is being drained already; --watch");
    node.admin(&["host", "drain", "mx1", "--deadline", "2100-01-01"]);
    let hosts = node.json(&["host", "list"]);
    assert_eq!(row(&hosts, "name", "mx1")["drain"]["deadline"], "2100-01-01T00:00:00Z");
    node.admin(&["host", "resume", "mx1"]);
    assert_eq!(row(&node.json(&["host", "list"]), "name", "mx1")["state"], "in service");
}

#[test]
fn a_migration_is_planned_announced_and_cancelled() {
    let fleet = fleet();
    let node = &fleet.nodes[1];
    let names = |customer: &str| node.json(&["customer", "show", customer])["names"].clone();
    let before = names("acme");
    let planned = [
        "migration",
        "plan",
        "--ends",
        "35d",
        "--retire",
        "mx-a.relay.example",
        "--introduce",
        "mx-c.relay.example=mx1",
        "--text",
        "mx1 leaves its data centre.",
    ];
    let plan = node.json(&planned);
    assert_eq!(plan["state"], "planned");
    let step = row(&plan["customers"], "customer", "acme");
    assert_eq!(step["before"], before);
    assert!(step["after"].to_string().contains("mx-c.relay.example"), "{step}");
    assert_eq!(names("acme"), before, "nothing changed yet");
    let dropped = node.try_admin(&["migration", "cancel"]);
    let said = String::from_utf8_lossy(&dropped.stderr).into_owned();
    assert!(said.contains("nobody was told of the plan"), "{said}");
    node.admin(&planned);
    node.admin(&["migration", "announce"]);
    assert_eq!(names("acme"), step["after"]);
    let notices = fleet.nodes[0].json(&["notice", "list"]);
    let notice = &notices.as_array().unwrap()[0];
    assert_eq!(notice["state"], "open");
    assert!(notice["text"].as_str().unwrap().contains("mx1 leaves its data centre."), "{notice}");
    refused(&node.try_admin(&["migration", "finish"]), "the announced date has not come");
    let table = node.admin(&["migration", "status"]);
    assert!(table.contains("3 would lose mail if the old names ended now"), "{table}");
    node.admin(&["migration", "cancel"]);
    assert_eq!(names("acme"), before);
    assert_eq!(node.json(&["notice", "list"])[0]["state"], "resolved");
}

#[test]
fn a_plan_that_leaves_hosts_uneven_says_what_evens_them_out() {
    let fleet = fleet();
    let node = &fleet.nodes[0];
    node.admin(&["name", "add", "mx-e.relay.example", "--host", "mx1", "--published"]);
    let names = "mx-e.relay.example,mx-b.relay.example";
    node.admin(&["customer", "set", "acme", "--names", names]);
    let planned = ["migration", "plan", "--ends", "35d", "--retire", "mx-b.relay.example"];
    let plan = node.json(&planned);
    let moves = plan["rebalance"].as_array().unwrap();
    assert_eq!((moves.len(), &moves[0]["to"]), (1, &"mx2".into()), "{plan}");
    let table = node.admin(&["migration", "status"]);
    let words =
        format!("`mxfleet name rebalance` would move {} to", moves[0]["name"].as_str().unwrap());
    assert!(table.contains(&words), "{table}");
    node.admin(&["migration", "announce"]);
    let status = node.json(&["migration", "status"]);
    assert!(status["rebalance"].as_array().unwrap().is_empty(), "the plan is made: {status}");
}

#[test]
fn a_name_that_customers_use_past_its_end_stays_and_says_who_they_are() {
    let fleet = fleet();
    let node = &fleet.nodes[0];
    node.admin(&["name", "add", "mx-e.relay.example", "--host", "mx1", "--published"]);
    node.admin(&["name", "retire", "mx-a.relay.example", "--at", "1s"]);
    for node in &fleet.nodes {
        eventually("its date has come", SOON, || {
            let row = node.json(&["name", "show", "mx-a.relay.example"]);
            row["waits_for"] == "customers to stop using it: acme, bolt, corp"
        });
        assert_eq!(node.metric("mxfleet_names_overdue"), 1.0);
    }
    assert!(node.admin(&["name", "list"]).contains("to stop using it: acme, bolt, corp"));
    for customer in ["acme", "bolt", "corp"] {
        let names = "mx-e.relay.example,mx-b.relay.example";
        node.admin(&["customer", "set", customer, "--names", names]);
    }
    eventually("nobody is in the way", SOON, || {
        let row = node.json(&["name", "show", "mx-a.relay.example"]);
        row["waits_for"].as_str().is_some_and(|waits| waits.contains("DNS to forget it"))
    });
    assert_eq!(node.metric("mxfleet_names_overdue"), 0.0);
}

#[test]
fn who_publishes_by_hand_is_told_how_to_say_that_a_name_is_gone() {
    let fleet = fleet();
    let node = &fleet.nodes[1];
    let (old, new) = ("mx-a.relay.example", "mx-c.relay.example");
    let says = |name: &str, words: &str| {
        let waits = node.json(&["name", "show", name])["waits_for"].clone();
        let waits = waits.as_str().unwrap();
        assert!(waits.contains(&format!("`mxfleet name {words}`")), "{waits}");
        node.admin(&["name"].into_iter().chain(words.split(' ')).collect::<Vec<_>>());
    };
    let plan = ["migration", "plan", "--ends", "35d", "--introduce", "mx-c.relay.example=mx1"];
    node.admin(&plan);
    node.admin(&["migration", "announce"]);
    says(new, &format!("point {new} mx1 --published"));
    node.admin(&["migration", "cancel"]);
    says(new, &format!("remove {new} --published"));
    refused(&node.try_admin(&["name", "show", new]), "there is no MX name");
    node.admin(&["migration", "plan", "--ends", "35d", "--retire", old]);
    node.admin(&["migration", "announce"]);
    node.admin(&["migration", "finish", "--force"]);
    says(old, &format!("remove {old} --published"));
    assert_eq!(node.json(&["name", "show", old])["state"], "removed");
}

#[test]
fn notices_are_opened_updated_and_resolved_on_any_node() {
    let fleet = Fleet::start(2);
    let (one, two) = (&fleet.nodes[0], &fleet.nodes[1]);
    let opened = one.json(&[
        "notice",
        "open",
        "--title",
        "mx1 moves",
        "--text",
        "Mail may be late.",
        "--component",
        "mx1",
        "--starts",
        "1d",
        "--ends",
        "2d",
    ]);
    let id = opened["id"].to_string();
    assert_eq!(two.json(&["notice", "list"])[0]["state"], "planned");
    two.admin(&["notice", "update", &id, "--text", "It begins later.", "--starts", "36h"]);
    one.admin(&["notice", "resolve", &id, "--text", "It was not needed."]);
    let notice = two.json(&["notice", "list"])[0].clone();
    assert_eq!(notice["state"], "resolved");
    assert_eq!(notice["updates"].as_array().unwrap().len(), 2);
    let late = ["notice", "update", &id, "--text", "again"];
    refused(&two.try_admin(&late), "is resolved");
    let backwards =
        ["notice", "open", "--title", "x", "--text", "y", "--starts", "2d", "--ends", "1d"];
    refused(&two.try_admin(&backwards), "end before it starts");
}

#[test]
fn nodes_tell_the_fleet_how_much_mail_each_customer_gets() {
    let fleet = fleet();
    let sink = Sink::start();
    let (one, two) = (&fleet.nodes[0], &fleet.nodes[1]);
    let route = sink.route();
    one.admin(&["domain", "set", "acme.test", "--route", &route]);
    one.admin(&["settings", "set", "rotation.report_every", "1s"]);
    let load = |host: &str| row(&one.json(&["host", "list"]), "name", host)["load"].as_u64();
    let before = load("mx1").max(load("mx2")).unwrap();
    for node in [one, two] {
        for number in 0..10 {
            let text = message::text(number, 100);
            assert_eq!(
                Smtp::greeted(node.smtp()).deliver("a@b.test", &["u@acme.test"], &text).code,
                250
            );
        }
    }
    // Three parts of it are the first name's.
    eventually("both reports", SOON, || load("mx1").max(load("mx2")).unwrap() >= before + 60);
}

#[test]
fn a_drained_host_takes_no_mail_is_retired_and_can_come_back() {
    let fleet = Fleet::start(3);
    let (node, leaving) = (&fleet.nodes[0], &fleet.nodes[2]);
    let name = leaving.name();
    let banner = || Smtp::open(leaving.smtp()).unwrap().reply();
    let state = |node: &Node| row(&node.json(&["host", "list"]), "name", name)["state"].clone();
    assert!(banner().code == 220);
    let mut waiting = Smtp::greeted(leaving.smtp());
    node.admin(&["host", "drain", name]);
    eventually("no new mail", SOON, || banner().code != 220);
    assert_eq!(waiting.command("MAIL FROM:<a@b.test>").code, 421, "nor in an open session");
    assert!(!leaving.is_ready());
    eventually("the end", SOON, || state(node) == "retired");
    let shown = node.admin(&["host", "show", name]);
    assert!(shown.contains("it was empty, and may be switched off"), "{shown}");
    for again in [["host", "drain", name], ["host", "retire", name]] {
        refused(&node.try_admin(&again), "may be switched off; `mxfleet host resume");
    }
    eventually("a host that says it is gone", SOON, || banner().is(521, "5.3.2"));
    node.admin(&["host", "resume", name]);
    eventually("mail again", SOON, || banner().code == 220);
    node.admin(&["host", "drain", name]);
    eventually("the end again", SOON, || state(leaving) == "retired");
}

#[test]
fn a_host_that_does_not_answer_is_given_no_names() {
    let mut fleet = Fleet::start(4);
    let names = ["mx-a.relay.example", "mx-b.relay.example", "mx-c.relay.example"];
    let leader = fleet.await_leader();
    let others: Vec<usize> = (0..4).filter(|index| *index != leader).collect();
    let (dead, drained, target) = (others[0], others[1], others[2]);
    let name = |index: usize| format!("mx{}", index + 1);
    let node = &fleet.nodes[leader];
    node.admin(&["settings", "set", "rotation.zone", "relay.example"]);
    for index in 0..4 {
        node.admin(&["host", "set", &name(index), "--address", &format!("127.0.0.2{index}")]);
    }
    for (mx_name, index) in names.into_iter().zip([leader, drained, target]) {
        node.admin(&["name", "add", mx_name, "--host", &name(index), "--published"]);
    }
    fleet.nodes[dead].kill();
    let node = &fleet.nodes[leader];
    let host = |index: usize| node.json(&["host", "show", &name(index)]);
    eventually("the leader misses it", SOON, || host(dead)["answers"] == "down");
    assert!(node.admin(&["host", "list"]).contains("in service, down"));
    let why = format!("host {} does not answer", name(dead));
    let refuse = |words: &[&str]| refused(&node.try_admin(words), &why);
    refuse(&["name", "point", names[0], &name(dead)]);
    refuse(&["name", "add", "mx-d.relay.example", "--host", &name(dead)]);
    let introduce = format!("mx-d.relay.example={}", name(dead));
    refuse(&["migration", "plan", "--ends", "30d", "--introduce", &introduce]);
    // It has the least to do, and is not chosen for that.
    let plan = node.json(&["name", "rebalance", "--dry-run"]);
    assert!(plan["moves"].as_array().unwrap().is_empty(), "{plan}");
    node.admin(&["host", "drain", &name(drained)]);
    let moves_to = node.json(&["name", "show", names[1]])["moves_to"].clone();
    assert!(moves_to == name(leader) || moves_to == name(target), "{moves_to}");
    // Nor does a host that is lost get its names back.
    node.admin(&["host", "drain", &name(dead)]);
    refuse(&["host", "resume", &name(dead)]);
    let waits = host(dead)["drain"]["waits_for"].clone();
    assert!(waits.as_str().unwrap().contains("--force"), "{waits}");
    fleet.nodes[dead].begin();
    let node = &fleet.nodes[leader];
    eventually("it is back", SOON, || {
        node.try_admin(&["host", "resume", &name(dead)]).status.success()
    });
}

#[test]
fn a_name_is_not_brought_back_to_a_host_that_does_not_answer() {
    let mut fleet = Fleet::start(3);
    let leader = fleet.await_leader();
    let dead = (leader + 1) % 3;
    let name = |index: usize| format!("mx{}", index + 1);
    let node = &fleet.nodes[leader];
    node.admin(&["settings", "set", "rotation.zone", "relay.example"]);
    for index in [leader, dead] {
        node.admin(&["host", "set", &name(index), "--address", &format!("127.0.0.3{index}")]);
    }
    let mx_name = "mx-a.relay.example";
    node.admin(&["name", "add", mx_name, "--host", &name(dead), "--published"]);
    fleet.nodes[dead].kill();
    let node = &fleet.nodes[leader];
    eventually("the leader misses it", SOON, || {
        node.json(&["host", "show", &name(dead)])["answers"] == "down"
    });
    let cancel = ["name", "point", mx_name, "--cancel"];
    node.admin(&["name", "point", mx_name, &name(leader), "--at", "30d"]);
    node.admin(&cancel); // it stays where it is in any case
    node.admin(&["name", "point", mx_name, &name(leader)]);
    refused(&node.try_admin(&cancel), &format!("host {} does not answer", name(dead)));
    let row = node.json(&["name", "show", mx_name]);
    assert_eq!(row["moves_to"], name(leader), "{row}");
}
