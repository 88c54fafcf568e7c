//! Hosts come and go by command; who was not let in, or was put out, stays out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use support::fleet::{Fleet, join, joined, on_loopback, refused, succeeded, token};
use support::load::{Load, Plan, tally};
use support::node::Node;
use support::process::said;
use support::sink::{Act, Sink, Step};
use support::writer::{Writer, customers};
use support::{SOON, eventually};

fn role(fleet: &Fleet, through: usize, name: &str) -> Option<String> {
    let status = fleet.status(through);
    let members = status["members"].as_array().unwrap().clone();
    let member = members.iter().find(|member| member["name"] == name)?;
    Some(member["role"].as_str().unwrap().to_owned())
}

#[test]
fn a_fourth_and_a_fifth_node_join_under_load_and_a_voter_is_removed() {
    let mut fleet = Fleet::start(3);
    let writer = Writer::start(&fleet.nodes, "w");
    eventually("load", SOON, || writer.count() > 5);
    fleet.join(&on_loopback("mx4"));
    fleet.join(&on_loopback("mx5"));
    fleet.await_voters(5);

    let leader = fleet.await_leader();
    let voter = (0..3).find(|&index| index != leader).unwrap();
    let name = fleet.nodes[voter].name().to_owned();
    let remove = ["cluster", "remove", &name];
    refused(&fleet.nodes[leader].try_admin(&remove), "is not retired");
    let forced = fleet.nodes[leader].try_admin(&["cluster", "remove", &name, "--force"]);
    refused(&forced, "answers, so it is not lost");
    fleet.nodes[leader].admin(&["host", "drain", &name]);
    eventually("a retired host", SOON, || {
        fleet.nodes[leader].json(&["host", "show", &name])["state"] == "retired"
    });
    fleet.nodes[leader].admin(&remove);
    eventually("the end of a removed node", SOON, || !fleet.nodes[voter].is_running());
    let status = fleet.nodes[voter].process().wait();
    assert_eq!(status.code(), Some(1));
    let words = fleet.nodes[voter].process().words();
    assert!(words.contains(&format!("{name} was removed from the fleet")), "{words}");
    fleet.await_voters(3);
    assert_eq!(role(&fleet, leader, &name), None);
    let before = writer.count();
    eventually("writes without it", SOON, || writer.count() > before + 5);

    let present = writer.stop();
    fleet.await_same_state();
    assert_eq!(customers(&fleet.nodes[4], "w"), present);

    // Started again it cannot come back, nor disturb those who stayed.
    let term = fleet.status(leader)["term"].as_u64().unwrap();
    fleet.nodes[voter].begin();
    eventually("it ends again", SOON, || !fleet.nodes[voter].is_running());
    let words = fleet.nodes[voter].process().words();
    assert_eq!(words.matches("was removed from the fleet").count(), 2, "{words}");
    // No storm: a heartbeat that comes late on a slow machine may cost an election.
    assert!(fleet.status(leader)["term"].as_u64().unwrap() <= term + 2);
}

#[test]
fn the_certificate_of_a_node_removed_while_it_was_down_no_longer_works() {
    let mut fleet = Fleet::start(3);
    let leader = fleet.await_leader();
    let absent = (leader + 1) % 3;
    let name = fleet.nodes[absent].name().to_owned();
    fleet.nodes[absent].kill();
    refused(&fleet.nodes[leader].try_admin(&["cluster", "remove", &name]), "is not retired");
    let done = fleet.nodes[leader].try_admin(&["cluster", "remove", &name, "--force"]);
    assert!(said(&done).contains("on its disk, and only there"), "{}", said(&done));
    succeeded("remove", &done);
    eventually("a fleet without it", SOON, || role(&fleet, leader, &name).is_none());
    let term = fleet.status(leader)["term"].as_u64().unwrap();
    fleet.nodes[absent].begin();
    eventually("it learns that it was removed, and ends", SOON, || {
        !fleet.nodes[absent].is_running()
    });
    let words = fleet.nodes[absent].process().words();
    assert!(words.contains("was removed from the fleet"), "{words}");
    // No storm: a heartbeat that comes late on a slow machine may cost an election.
    assert!(fleet.status(leader)["term"].as_u64().unwrap() <= term + 2);
}

#[test]
fn only_a_fresh_token_of_this_fleet_and_name_lets_a_host_in() {
    let fleet = Fleet::start(1);
    let member = &fleet.nodes[0];
    let stranger = Node::stopped(&on_loopback("mx2"));
    let try_join = |token: &str| join(&stranger, member.cluster(), token);

    refused(&try_join("mxfleet1.nonsense"), "not a token");
    let for_another = token(member, "mx9");
    refused(&try_join(&for_another), "refused");

    let brief = member.admin(&["cluster", "token", "mx2", "--life", "1s"]);
    // The life of a token is what is tested.
    std::thread::sleep(Duration::from_millis(1200));
    refused(&try_join(&brief), "used or expired");

    let elsewhere = Fleet::start(1);
    let foreign = token(&elsewhere.nodes[0], "mx2");
    let done = try_join(&foreign);
    assert_eq!(done.status.code(), Some(1), "{}", said(&done));

    let good = token(member, "mx2");
    succeeded("a good token", &try_join(&good));
    let other = Node::stopped(&on_loopback("mx2"));
    refused(&join(&other, member.cluster(), &good), "used, expired");
    let done = member.try_admin(&["cluster", "token", "mx3", "--life", "2h"]);
    assert_eq!(done.status.code(), Some(2), "{}", said(&done));

    for token in [for_another.trim(), brief.trim(), foreign.trim(), good.trim()] {
        let secret = token.rsplit('.').next().unwrap();
        for node in [member, &elsewhere.nodes[0]] {
            let log = std::fs::read_to_string(node.log()).unwrap();
            assert!(!log.contains(secret), "a token is in a log");
        }
    }
}

#[test]
fn a_wiped_node_comes_back_only_as_a_new_host() {
    let mut fleet = Fleet::start(3);
    let leader = fleet.await_leader();
    let wiped = (leader + 1) % 3;
    let name = fleet.nodes[wiped].name().to_owned();
    let id = |fleet: &Fleet, name: &str| {
        let status = fleet.status(leader);
        let members = status["members"].as_array().unwrap().clone();
        members.iter().find(|member| member["name"] == name).map(|m| m["id"].as_u64().unwrap())
    };
    let old = id(&fleet, &name).unwrap();
    fleet.nodes[wiped].kill();
    let cluster = fleet.nodes[wiped].folder().join("data/cluster");

    // Its log is gone and its identity is not: it must not vote again, as it may have voted.
    std::fs::rename(cluster.join("raft"), cluster.join("raft.away")).unwrap();
    fleet.nodes[wiped].begin();
    assert_eq!(fleet.nodes[wiped].process().wait().code(), Some(1));
    let words = fleet.nodes[wiped].process().words();
    assert!(words.contains("must not take part again under its old id"), "{words}");

    // All is gone: it is nobody until it joins.
    std::fs::remove_dir_all(&cluster).unwrap();
    fleet.nodes[wiped].begin();
    assert_eq!(fleet.nodes[wiped].process().wait().code(), Some(1));
    let words = fleet.nodes[wiped].process().words();
    assert!(words.contains("belongs to no fleet"), "{words}");
    let done = fleet.nodes[leader].try_admin(&["cluster", "token", &name]);
    refused(&done, &format!("`mxfleet cluster remove {name} --force` first"));

    fleet.nodes[leader].admin(&["cluster", "remove", &name, "--force"]);
    let secret = token(&fleet.nodes[leader], &name);
    let peer = fleet.nodes[leader].cluster();
    succeeded("join again", &join(&fleet.nodes[wiped], peer, &secret));
    fleet.nodes[wiped].restart();
    fleet.await_voters(3);
    assert!(id(&fleet, &name).unwrap() > old);
    fleet.await_same_state();
}

#[test]
fn a_backup_is_restored_as_a_new_fleet_that_others_can_join() {
    let fleet = Fleet::start(1);
    let first = &fleet.nodes[0];
    first.serve("acme.test", "mail.acme.test:25");
    let file = first.folder().join("backup");
    let file = file.to_str().unwrap();
    first.admin(&["cluster", "backup", file]);
    let mode = std::fs::metadata(file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it holds the fleet's secrets");
    let done = first.try_admin(&["cluster", "backup", file]);
    assert_eq!(done.status.code(), Some(1), "a backup is never overwritten");

    let mut restored = Node::stopped(&on_loopback("mx8"));
    succeeded("restore", &restored.offline(&["cluster", "restore", file], ""));
    restored.restart();
    let domain = restored.json(&["domain", "show", "acme.test"]);
    assert_eq!(domain["route"], "mail.acme.test:25");
    let mut fleet = Fleet { nodes: vec![restored] };
    fleet.join(&on_loopback("mx9"));
    fleet.await_voters(2);
    fleet.await_same_state();
    let done = fleet.nodes[0].offline(&["cluster", "restore", file], "");
    refused(&done, "belongs to a fleet already");
}

#[test]
fn a_survivor_of_a_lost_quorum_goes_on_alone_and_grows_again() {
    let mut fleet = Fleet::start(3);
    fleet.nodes[0].serve("acme.test", "mail.acme.test:25");
    fleet.await_same_state();
    let mut survivor = fleet.nodes.pop().unwrap();
    for lost in &mut fleet.nodes {
        lost.kill();
    }
    let done = survivor.offline(&["cluster", "recover", "--yes"], "");
    assert_eq!(done.status.code(), Some(1), "it runs: {}", said(&done));
    survivor.kill();
    let done = survivor.offline(&["cluster", "recover"], "");
    assert_eq!(done.status.code(), Some(2), "a question is asked first: {}", said(&done));
    let done = survivor.offline(&["cluster", "recover", "--yes"], "");
    succeeded("recover", &done);
    let recovered: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(recovered["lost"], serde_json::json!(["mx1", "mx2"]));
    survivor.restart();
    eventually("a change", SOON, || {
        let change = ["domain", "set", "acme.test", "--route", "new.acme.test:25"];
        survivor.try_admin(&change).status.success()
    });
    let newcomer = joined(&survivor, &on_loopback("mx4"));
    // A lost host that comes back after all is no part of the new fleet, and is told so.
    fleet.nodes[0].begin();
    assert_eq!(fleet.nodes[0].process().wait().code(), Some(1));
    let words = fleet.nodes[0].process().words();
    assert!(words.contains("was removed from the fleet"), "{words}");
    let mut fleet = Fleet { nodes: vec![survivor, newcomer] };
    fleet.await_voters(2);
    fleet.await_same_state();
}

#[test]
fn a_host_that_was_given_up_joins_again_with_the_mail_that_it_had() {
    let open = Arc::new(AtomicBool::new(false));
    let is_open = Arc::clone(&open);
    let sink = Sink::scripted(move |step| match step {
        Step::Rcpt(_) if !is_open.load(Ordering::SeqCst) => Act::Say("450 4.2.1 later".into()),
        _ => Act::Usual,
    });
    let mut fleet = Fleet::start(3);
    let leader = fleet.await_leader();
    fleet.nodes[leader].serve("acme.test", &sink.route());
    fleet.await_same_state();
    let lost = (leader + 1) % 3;
    let plan = Plan { end: 20, ..Plan::to("user@acme.test") };
    let acked = Load::start(fleet.nodes[lost].smtp(), &plan).finish();
    fleet.nodes[lost].kill();
    let name = fleet.nodes[lost].name().to_owned();
    fleet.nodes[leader].admin(&["host", "retire", &name, "--force"]);
    fleet.nodes[leader].admin(&["cluster", "remove", &name]);

    // Its disk was whole after all.
    fleet.nodes[lost].begin();
    assert_eq!(fleet.nodes[lost].process().wait().code(), Some(1));
    let words = fleet.nodes[lost].process().words();
    let cluster = fleet.nodes[lost].folder().join("data/cluster");
    assert!(words.contains(&format!("set {} aside", cluster.display())), "{words}");
    std::fs::rename(&cluster, cluster.with_extension("old")).unwrap();
    let secret = token(&fleet.nodes[leader], &name);
    let peer = fleet.nodes[leader].cluster();
    succeeded("join again", &join(&fleet.nodes[lost], peer, &secret));
    fleet.nodes[lost].restart();
    open.store(true, Ordering::SeqCst);
    fleet.nodes[lost].admin(&["queue", "retry", "--all"]);
    fleet.nodes[lost].await_empty_queue(SOON);
    let tally = tally(&acked, &sink, |_| 600);
    assert_eq!((tally.lost.len(), tally.doubled.len()), (0, 0));
}
