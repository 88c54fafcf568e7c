//! Names in real DNS: BIND and Knot take signed updates, and a name has moved only when every
//! authority says so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::time::Duration;

use serde_json::Value;
use support::dns::{Duties, NameServer, Software, tsig_key};
use support::fleet::{Fleet, on_loopback};
use support::node::Node;
use support::{SOON, eventually};

const ZONE: &str = "relay.test";
const NAME: &str = "mx-a.relay.test";
/// Looks at DNS go by every two seconds while something is wrong.
const A_FEW_LOOKS: Duration = Duration::from_secs(5);

fn primary(software: Software, key: &str) -> NameServer {
    let duties = Duties { key: Some(key.to_owned()), copies: None };
    NameServer::with(software, &[(ZONE, "@ MX 10 other\nother A 127.0.0.99")], &duties)
}

/// Two nodes that hold `key`, hosts with addresses, and a zone whose servers are these.
fn fleet(key: &str, servers: &[&NameServer]) -> Fleet {
    let setup = |name| support::node::Setup { tsig_key: Some(key.to_owned()), ..on_loopback(name) };
    let fleet = Fleet::with(&[setup("mx1"), setup("mx2")]);
    let listed: Vec<String> = servers.iter().map(|server| server.address().to_string()).collect();
    let node = &fleet.nodes[0];
    node.admin(&["settings", "set", "rotation.zone", ZONE]);
    node.admin(&["settings", "set", "rotation.dns_primary", &listed[0]]);
    node.admin(&["settings", "set", "rotation.dns_servers", &listed.join(",")]);
    node.admin(&["settings", "set", "rotation.ttl", "3s"]);
    node.admin(&["settings", "set", "rotation.ttl_low", "1s"]);
    node.admin(&["host", "set", "mx1", "--address", "127.0.0.11", "--address", "::1"]);
    node.admin(&["host", "set", "mx2", "--address", "127.0.0.12"]);
    fleet
}

fn name(node: &Node) -> Value {
    node.json(&["name", "show", NAME])
}

fn await_state(node: &Node, state: &str, host: &str) {
    eventually(&format!("{NAME} {state} at {host}"), SOON, || {
        let row = name(node);
        row["state"] == state && row["points_at"] == host && row["moves_to"].is_null()
    });
}

fn life_of_a_name(software: Software) {
    let key = tsig_key("mxfleet");
    let server = primary(software, &key);
    let fleet = fleet(&key, &[&server]);
    let node = &fleet.nodes[1];
    node.admin(&["name", "add", NAME, "--host", "mx1"]);
    await_state(node, "active", "mx1");
    assert_eq!(
        (server.ask(NAME, "A"), server.ask(NAME, "AAAA")),
        ("127.0.0.11".into(), "::1".into())
    );
    eventually("the usual time to live", SOON, || server.ttl(NAME) == Some(3));
    node.admin(&["name", "point", NAME, "mx2"]);
    await_state(node, "redirected", "mx2");
    assert_eq!(
        (server.ask(NAME, "A"), server.ask(NAME, "AAAA")),
        ("127.0.0.12".into(), String::new())
    );
    assert_eq!(server.ttl(NAME), Some(1), "low while resolvers may know the old host");
    eventually("raised after", SOON, || server.ttl(NAME) == Some(3));
    node.admin(&["name", "point", NAME, "mx1", "--at", "8s"]);
    eventually("lowered ahead", SOON, || server.ttl(NAME) == Some(1));
    assert_eq!(server.ask(NAME, "A"), "127.0.0.12");
    await_state(node, "active", "mx1");
    assert_eq!(server.ask(NAME, "A"), "127.0.0.11");
    node.admin(&["host", "set", "mx1", "--address", "127.0.0.13"]);
    eventually("the new address", SOON, || name(node)["waits_for"].is_null());
    assert_eq!(
        (server.ask(NAME, "A"), server.ask(NAME, "AAAA")),
        ("127.0.0.13".into(), String::new())
    );
    node.admin(&["name", "remove", NAME, "--force"]);
    eventually("the name is gone", SOON, || name(node)["state"] == "removed");
    assert_eq!((server.ask(NAME, "A"), server.ask(NAME, "AAAA")), (String::new(), String::new()));
    assert_eq!(server.ask("other.relay.test", "A"), "127.0.0.99", "nothing else is touched");
}

#[test]
fn a_name_lives_and_moves_in_bind() {
    life_of_a_name(Software::Bind);
}

#[test]
fn a_name_lives_and_moves_in_knot() {
    life_of_a_name(Software::Knot);
}

/// What the operator sees is in the way, on any node.
fn await_reason(node: &Node, words: &str) {
    eventually(&format!("the reason: {words}"), SOON, || {
        name(node)["waits_for"].as_str().is_some_and(|waits| waits.contains(words))
    });
}

#[test]
fn while_the_server_is_down_nothing_is_repointed_and_the_operator_sees_why() {
    let key = tsig_key("mxfleet");
    let mut server = primary(Software::Bind, &key);
    let fleet = fleet(&key, &[&server]);
    let (one, two) = (&fleet.nodes[0], &fleet.nodes[1]);
    one.admin(&["name", "add", NAME, "--host", "mx1"]);
    await_state(one, "active", "mx1");
    server.stop();
    one.admin(&["name", "point", NAME, "mx2"]);
    for node in [one, two] {
        await_reason(node, "cannot be reached");
        assert_eq!(name(node)["points_at"], "mx1");
    }
    assert_eq!(one.metric("mxfleet_dns_stale") + two.metric("mxfleet_dns_stale"), 1.0);
    server.restart();
    await_state(two, "redirected", "mx2");
    assert_eq!(one.metric("mxfleet_dns_stale") + two.metric("mxfleet_dns_stale"), 0.0);
}

#[test]
fn while_the_key_is_refused_nothing_is_repointed_and_the_operator_sees_why() {
    let (key, other) = (tsig_key("mxfleet"), tsig_key("mxfleet"));
    let server = primary(Software::Bind, &key);
    let fleet = fleet(&other, &[&server]);
    let node = &fleet.nodes[0];
    node.admin(&["name", "add", NAME, "--host", "mx1"]);
    await_reason(node, "another secret for the key mxfleet");
    std::thread::sleep(A_FEW_LOOKS);
    assert_eq!(name(node)["state"], "planned", "still");
    for node in &fleet.nodes {
        std::fs::write(node.tsig_key(), &key).unwrap();
    }
    await_state(node, "active", "mx1");
}

#[test]
fn servers_that_are_no_longer_set_are_not_stale() {
    let (key, other) = (tsig_key("mxfleet"), tsig_key("mxfleet"));
    let server = primary(Software::Bind, &key);
    let fleet = fleet(&other, &[&server]);
    let node = &fleet.nodes[0];
    let stale = || -> f64 { fleet.nodes.iter().map(|n| n.metric("mxfleet_dns_stale")).sum() };
    node.admin(&["name", "add", NAME, "--host", "mx1"]);
    eventually("it is refused", SOON, || stale() > 0.0);
    for setting in ["rotation.dns_primary", "rotation.dns_servers"] {
        node.admin(&["settings", "set", setting, ""]);
    }
    eventually("there is nothing to be stale", SOON, || stale() == 0.0);
}

#[test]
fn while_a_secondary_lags_nothing_is_repointed_and_the_operator_sees_which() {
    let key = tsig_key("mxfleet");
    let server = primary(Software::Bind, &key);
    let copies = Duties { key: None, copies: Some(server.address()) };
    let mut secondary = NameServer::with(Software::Bind, &[(ZONE, "")], &copies);
    let fleet = fleet(&key, &[&server, &secondary]);
    let node = &fleet.nodes[0];
    node.admin(&["name", "add", NAME, "--host", "mx1"]);
    let lags = format!("{} says other than it shall", secondary.address());
    await_reason(node, &lags);
    assert_eq!(
        (server.ask(NAME, "A"), name(node)["state"].clone()),
        ("127.0.0.11".into(), "planned".into())
    );
    secondary.restart();
    await_state(node, "active", "mx1");
}

/// Records of others: a wildcard, an alias, and a name that is delegated.
fn names_among_records_of_others(software: Software) {
    let key = tsig_key("mxfleet");
    let duties = Duties { key: Some(key.clone()), copies: None };
    let records = "other A 127.0.0.99\n* A 127.0.0.66\nmx-b CNAME other\nmx-c NS ns.else.test.\n\
                   site A 127.0.0.97\nns1 A 127.0.0.98";
    let server = NameServer::with(software, &[(ZONE, records)], &duties);
    let fleet = fleet(&key, &[&server]);
    let node = &fleet.nodes[0];
    let (alias, delegated) = ("mx-b.relay.test", "mx-c.relay.test");
    assert_eq!(server.ask(NAME, "A"), "127.0.0.66", "the wildcard");
    let (site, unwanted) = ("site.relay.test", "ns1.relay.test");
    for name in [delegated, NAME, alias, site, unwanted] {
        node.admin(&["name", "add", name, "--host", "mx1"]);
    }
    let waits_for = |name: &str| {
        node.json(&["name", "show", name])["waits_for"].as_str().unwrap_or_default().to_owned()
    };
    eventually("each name says what is in its way", SOON, || {
        [alias, site, unwanted].iter().all(|name| {
            waits_for(name).contains(&format!("has records of {name} that are not the fleet's"))
        }) && waits_for(delegated).contains("no authority for mx-c.relay.test")
    });
    eventually("and one that is well says nothing", SOON, || {
        name(node)["state"] == "active" && name(node)["dns_fault"].is_null()
    });
    assert_eq!(server.ask(site, "A"), "127.0.0.97", "they are left alone");
    assert_eq!(server.ask(alias, "CNAME"), "other.relay.test.");
    node.admin(&["name", "remove", unwanted]);
    eventually("it is forgotten", SOON, || {
        let names = node.json(&["name", "list"]);
        !names.as_array().unwrap().iter().any(|row| row["name"] == unwanted)
    });
    assert_eq!(server.ask(unwanted, "A"), "127.0.0.98", "which is none of the fleet's");
    nsupdate(&server, &key, &format!("update delete {site}\nupdate delete {alias}"));
    for name in [NAME, alias, site] {
        let is_active = || node.json(&["name", "show", name])["state"] == "active";
        eventually(&format!("{name} is in DNS"), SOON, is_active);
        assert_eq!(server.ask(name, "A"), "127.0.0.11");
        assert_eq!(server.ask(name, "AAAA"), "::1");
    }
    let row = node.json(&["name", "show", delegated]);
    let waits = row["waits_for"].as_str().unwrap();
    assert_eq!(row["state"], "planned");
    assert!(waits.contains("no authority for mx-c.relay.test"), "{waits}");
    assert_eq!(server.ask("other.relay.test", "A"), "127.0.0.99");
    assert_eq!(server.ask("any.relay.test", "A"), "127.0.0.66", "nothing else is touched");
}

#[test]
fn names_go_into_bind_among_records_of_others() {
    names_among_records_of_others(Software::Bind);
}

#[test]
fn names_go_into_knot_among_records_of_others() {
    names_among_records_of_others(Software::Knot);
}

#[test]
fn resolvers_may_hold_the_longest_time_that_any_server_gave_seen_on_all_or_not() {
    let key = tsig_key("mxfleet");
    let server = primary(Software::Bind, &key);
    let copies = Duties { key: None, copies: Some(server.address()) };
    let mut secondary = NameServer::with(Software::Bind, &[(ZONE, "")], &copies);
    let fleet = fleet(&key, &[&server, &secondary]);
    let node = &fleet.nodes[0];
    node.admin(&["name", "add", NAME, "--host", "mx1"]);
    eventually("it is on the primary", SOON, || server.ask(NAME, "A") == "127.0.0.11");
    secondary.restart();
    await_state(node, "active", "mx1");
    node.admin(&["settings", "set", "rotation.ttl", "10m"]);
    eventually("raised on the primary", SOON, || server.ttl(NAME) == Some(600));
    assert!(secondary.ttl(NAME).unwrap() < 600, "which the other server does not know");
    node.admin(&["name", "point", NAME, "mx2"]);
    eventually("moved on the primary", SOON, || server.ask(NAME, "A") == "127.0.0.12");
    secondary.restart();
    await_state(node, "redirected", "mx2");
    let waits = name(node)["waits_for"].as_str().unwrap_or_default().to_owned();
    let until = waits.strip_prefix("resolvers to forget mx1, until ").expect(&waits);
    let until: jiff::Timestamp = until.parse().unwrap();
    let left_s = until.as_second() - jiff::Timestamp::now().as_second();
    assert!(left_s > 300, "some remember it for ten minutes: {waits}");
}

/// Somebody else, with a key of his own to the same zone.
fn nsupdate(server: &NameServer, key: &str, change: &str) {
    let folder = support::scratch();
    let file = folder.path().join("key");
    std::fs::write(&file, key).unwrap();
    let (ip, port) = (server.address().ip(), server.address().port());
    let script = format!("server {ip} {port}\nzone {ZONE}\n{change}\nsend\n");
    let words = ["nsupdate".to_owned(), "-k".to_owned(), file.display().to_string()];
    assert!(support::process::attempt_with(&words, &script).status.success());
}

#[test]
fn what_somebody_else_changes_is_put_right() {
    let key = tsig_key("mxfleet");
    let server = primary(Software::Bind, &key);
    let fleet = fleet(&key, &[&server]);
    let node = &fleet.nodes[0];
    node.admin(&["name", "add", NAME, "--host", "mx1"]);
    await_state(node, "active", "mx1");
    eventually("nothing is to change any more", SOON, || server.ttl(NAME) == Some(3));
    let change = format!("update delete {NAME} A\nupdate add {NAME} 5 A 127.0.0.66");
    nsupdate(&server, &key, &change);
    assert_eq!(server.ask(NAME, "A"), "127.0.0.66");
    let drift = || -> f64 {
        let count = |node: &Node| node.metric("mxfleet_dns_drift_total");
        fleet.nodes.iter().map(count).sum()
    };
    // It is looked for once a minute.
    let within = SOON + Duration::from_secs(60);
    eventually("the record is ours again", within, || server.ask(NAME, "A") == "127.0.0.11");
    eventually("an operator can see it", SOON, || drift() >= 1.0);
}

/// Name `mx-a` is at mx1, and `mx-b` at mx2, in DNS.
fn two_names(fleet: &Fleet) {
    fleet.nodes[0].admin(&["name", "add", NAME, "--host", "mx1"]);
    fleet.nodes[0].admin(&["name", "add", "mx-b.relay.test", "--host", "mx2"]);
    await_state(&fleet.nodes[0], "active", "mx1");
    eventually("the other name", SOON, || {
        fleet.nodes[0].json(&["name", "show", "mx-b.relay.test"])["points_at"] == "mx2"
    });
}

fn addresses(server: &NameServer) -> [String; 2] {
    [server.ask(NAME, "A"), server.ask("mx-b.relay.test", "A")]
}

#[test]
fn dns_keeps_what_it_says_of_hosts_that_a_restored_or_recovered_fleet_lost() {
    let key = tsig_key("mxfleet");
    let server = primary(Software::Bind, &key);
    let mut fleet = fleet(&key, &[&server]);
    two_names(&fleet);
    let file = fleet.nodes[0].folder().join("backup").to_str().unwrap().to_owned();
    fleet.nodes[0].admin(&["cluster", "backup", &file]);
    let before = ["127.0.0.11".to_owned(), "127.0.0.12".to_owned()];

    // A rehearsal, under an old name, beside the fleet that lives.
    let setup = support::node::Setup { tsig_key: Some(key.clone()), ..on_loopback("mx1") };
    let mut restored = Node::stopped(&setup);
    let done = restored.offline(&["cluster", "restore", &file], "");
    let said = support::process::said(&done);
    assert!(said.contains("2 MX names lead to hosts that are not in this fleet"), "{said}");
    restored.restart();
    await_reason(&restored, "not in the fleet");
    std::thread::sleep(A_FEW_LOOKS);
    assert_eq!(addresses(&server), before);
    assert_eq!(restored.metric("mxfleet_names_orphaned"), 2.0);
    restored.kill();

    let mut survivor = fleet.nodes.remove(0);
    fleet.nodes[0].kill();
    survivor.kill();
    let done = survivor.offline(&["cluster", "recover", "--yes"], "");
    let recovered: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(recovered["orphaned"], serde_json::json!(["mx-b.relay.test"]));
    survivor.restart();
    eventually("the lost name is known", SOON, || survivor.metric("mxfleet_names_orphaned") == 1.0);
    std::thread::sleep(A_FEW_LOOKS);
    assert_eq!(addresses(&server), before);
    // Nobody but the operator knows where its mail is to go.
    eventually("a change", SOON, || survivor.try_admin(&["name", "rebalance"]).status.success());
    eventually("both names at the survivor", SOON, || {
        addresses(&server) == ["127.0.0.11", "127.0.0.11"]
            && survivor.metric("mxfleet_names_orphaned") == 0.0
    });
}
