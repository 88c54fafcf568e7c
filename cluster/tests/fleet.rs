//! A fleet of real nodes in one process: loopback QUIC, real certificates, real syncs.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mxfleet_cluster::{Cluster, Command, HostCommand, HostState, JoinError, ProposeError, Request};
use support::{Fleet, HOUR_MS, customer, damage, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_is_a_fleet_and_comes_back_with_its_state() {
    let mut fleet = Fleet::of(1).await;
    assert_eq!(fleet.node(1).propose(customer("acme")).await.unwrap(), Ok(1));
    assert!(fleet.node(1).view().customer("acme").is_some());
    fleet.stop(1).await;
    fleet.start(1).await;
    assert!(fleet.node(1).view().customer("acme").is_some(), "there at once, not after a while");
    assert_eq!(fleet.node(1).view().host_named("mx1").unwrap().id, 1);
    assert_eq!(fleet.leader().await, 1);
    assert_eq!(fleet.node(1).propose(customer("bravo")).await.unwrap(), Ok(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_when_the_leader_dies_and_it_catches_up_when_it_is_back() {
    let mut fleet = Fleet::of(3).await;
    fleet.eventually_voters(3).await;
    let leader = fleet.leader().await;
    let other = fleet.others(leader)[0];
    for n in 0..20 {
        let asked = fleet.node(1 + n % 3);
        assert_eq!(asked.propose(customer(&format!("c{n}"))).await.unwrap(), Ok(1), "any node");
        assert!(asked.view().customer(&format!("c{n}")).is_some(), "shown where it was asked");
    }
    fleet.kill(leader);
    // Asked into the gap, the outcome may honestly be unknown; the same request says it later.
    let after = customer("after");
    let decided = async |fleet: &Fleet| fleet.node(other).propose(after.clone()).await == Ok(Ok(1));
    fleet.eventually("changes go on", decided).await;
    fleet.start(leader).await;
    fleet.eventually_equal().await;
    assert!(fleet.node(leader).view().customer("after").is_some());
    assert_eq!(fleet.node(leader).view().customers().count(), 21);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_the_last_state_is_served_and_changes_are_refused_in_time() {
    let mut fleet = Fleet::of(3).await;
    fleet.eventually_voters(3).await;
    fleet.node(1).propose(customer("acme")).await.unwrap().unwrap();
    fleet.eventually_equal().await;
    let leader = fleet.leader().await;
    for gone in fleet.others(leader) {
        fleet.kill(gone);
    }
    // Let the leader notice: a proposal before that is honestly of unknown outcome.
    let noticed = async |fleet: &Fleet| fleet.status(leader).await.leader.is_none();
    fleet.eventually("the leader notices", noticed).await;
    let asked = Instant::now();
    let error = fleet.node(leader).propose(customer("late")).await.unwrap_err();
    assert_eq!(error, ProposeError::NoQuorum);
    assert!(asked.elapsed() < Duration::from_secs(10), "five, and a slow machine");
    assert!(fleet.node(leader).view().customer("acme").is_some());
    // A cold start without a quorum shows the same.
    fleet.stop(leader).await;
    fleet.start(leader).await;
    assert!(fleet.node(leader).view().customer("acme").is_some());
    assert_eq!(fleet.node(leader).status().await.unwrap().leader, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retried_request_is_applied_once_whoever_is_asked() {
    let fleet = Fleet::of(2).await;
    let add = customer("acme");
    assert_eq!(fleet.node(1).propose(add.clone()).await.unwrap(), Ok(1));
    assert_eq!(fleet.node(2).propose(add.clone()).await.unwrap(), Ok(1));
    let mut another = add;
    another.id = mxfleet_cluster::random_id();
    assert!(fleet.node(2).propose(another).await.unwrap().is_err(), "it exists");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_join_under_load_and_a_removed_one_stays_out() {
    let mut fleet = Fleet::of(3).await;
    fleet.eventually_voters(3).await;
    let writer = fleet.node(1).clone();
    let load = tokio::spawn(async move {
        for n in 0..200 {
            writer.propose(customer(&format!("c{n}"))).await.unwrap().unwrap();
        }
    });
    fleet.join(4).await;
    fleet.join(5).await;
    load.await.unwrap();
    fleet.eventually_voters(5).await;
    fleet.eventually_equal().await;

    fleet.node(1).remove("mx5", true, "ops").await.unwrap();
    fleet.eventually("mx5 is out", async |f| f.view(1).host_named("mx5").is_none()).await;
    let why = tokio::time::timeout(Duration::from_secs(20), fleet.node(5).failed()).await.unwrap();
    assert!(why.starts_with("mx5 was removed from the fleet; mail in its queue"), "{why}");
    fleet.eventually_voters(3).await;
    let error = fleet.node(5).propose(request(Command::Tick)).await.unwrap_err();
    assert!(matches!(error, ProposeError::Refused(_)), "{error}");
    assert_eq!(fleet.node(2).propose(customer("after")).await.unwrap(), Ok(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn used_foreign_and_misnamed_tokens_are_refused() {
    let mut fleet = Fleet::of(1).await;
    let stranger = Fleet::of(1).await;
    let peer = fleet.address(1);
    let foreign = stranger.node(1).token("mx2", HOUR_MS, "ops").await.unwrap();
    let error = Cluster::join(&fleet.config(2), "mx2", peer, &foreign).await.unwrap_err();
    assert!(matches!(error, JoinError::Unreachable(_)), "{error}: the authority is another");

    let token = fleet.node(1).token("mx2", HOUR_MS, "ops").await.unwrap();
    let error = Cluster::join(&fleet.config(3), "mx3", peer, &token).await.unwrap_err();
    assert!(matches!(error, JoinError::Refused(_)), "{error}");
    Cluster::join(&fleet.config(2), "mx2", peer, &token).await.unwrap();
    let error = Cluster::join(&fleet.config(4), "mx2", peer, &token).await.unwrap_err();
    assert!(matches!(error, JoinError::Refused(_)), "{error}");
    fleet.start(2).await;
    fleet.node(2).settled().await;
    assert_eq!(fleet.view(2).host_named("mx2").unwrap().id, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_missed_the_answer_to_its_join_asks_again_with_the_same_token() {
    let mut fleet = Fleet::of(1).await;
    let (peer, config) = (fleet.address(1), fleet.config(2));
    let token = fleet.node(1).token("mx2", HOUR_MS, "ops").await.unwrap();
    Cluster::join(&config, "mx2", peer, &token).await.unwrap();
    // All that is left of a join whose answer was lost is the key it was begun with.
    let key = std::fs::read(config.dir.join("node.key")).unwrap();
    std::fs::remove_dir_all(&config.dir).unwrap();
    std::fs::create_dir(&config.dir).unwrap();
    let stranger = Cluster::join(&fleet.config(3), "mx2", peer, &token).await.unwrap_err();
    assert!(matches!(stranger, JoinError::Refused(_)), "{stranger}");
    std::fs::write(config.dir.join("join.key"), key).unwrap();
    Cluster::join(&config, "mx2", peer, &token).await.unwrap();
    fleet.start(2).await;
    fleet.node(2).settled().await;
    assert_eq!(fleet.node(2).node_id(), Some(2), "no second host was made of it");
    assert_eq!(fleet.view(1).hosts().count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_log_is_gone_does_not_start_as_the_same_voter() {
    let mut fleet = Fleet::of(1).await;
    fleet.stop(1).await;
    std::fs::remove_dir_all(fleet.config(1).dir.join("raft")).unwrap();
    let Err(error) = Cluster::start(fleet.config(1)).await else { panic!("it started") };
    let text = error.to_string();
    assert!(text.contains("is gone") && text.contains("join with a new token"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_damaged_log_or_snapshot_does_not_start_and_says_what_to_do() {
    let mut fleet = Fleet::of(1).await;
    for n in 0..30 {
        fleet.node(1).propose(customer(&format!("c{n}"))).await.unwrap().unwrap();
    }
    let file = fleet.config(1).dir.join("backup");
    fleet.node(1).backup(&file).await.unwrap();
    let config = fleet.config(9);
    let restore = move || Cluster::restore(&config, &file, "mx9");
    tokio::task::spawn_blocking(restore).await.unwrap().unwrap();
    fleet.stop(1).await;
    damage(&fleet.config(1).dir.join("raft/db"));
    let snapshots = std::fs::read_dir(fleet.config(9).dir.join("snapshots")).unwrap();
    snapshots.for_each(|file| damage(&file.unwrap().path()));
    for (id, what) in [(1, "Raft log"), (9, "newest snapshot")] {
        let Err(error) = Cluster::start(fleet.config(id)).await else { panic!("mx{id} started") };
        let text = error.to_string();
        for word in [what, "is damaged", "join with a new token"] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_killed_while_it_took_a_snapshot_over_starts_with_it() {
    let mut fleet = Fleet::of(1).await;
    fleet.node(1).propose(customer("acme")).await.unwrap().unwrap();
    let file = fleet.config(1).dir.join("backup");
    fleet.node(1).backup(&file).await.unwrap();
    let config = fleet.config(9);
    let restore = move || Cluster::restore(&config, &file, "mx9");
    tokio::task::spawn_blocking(restore).await.unwrap().unwrap();
    // The log begins after the snapshot, which has arrived and has no final name yet.
    let snapshots = fleet.config(9).dir.join("snapshots");
    let whole = std::fs::read_dir(&snapshots).unwrap().next().unwrap().unwrap().path();
    std::fs::rename(whole, snapshots.join("received-1.partial")).unwrap();
    fleet.start(9).await;
    assert!(fleet.view(9).customer("acme").is_some());
    assert_eq!(fleet.node(9).propose(customer("bravo")).await.unwrap(), Ok(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_catches_up_and_the_status_names_everybody() {
    let mut fleet = Fleet::of(1).await;
    for n in 0..100 {
        fleet.node(1).propose(customer(&format!("c{n}"))).await.unwrap().unwrap();
    }
    fleet.stop(1).await;
    fleet.start(1).await;
    fleet.join(2).await;
    fleet.eventually_equal().await;
    let status = fleet.node(2).status().await.unwrap();
    assert_eq!(status.leader.as_deref(), Some("mx1"));
    assert_eq!(status.members.len(), 2);
    assert!(status.members.iter().all(|member| member.state == "up"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_becomes_a_new_fleet_that_refuses_the_old_hosts() {
    let mut fleet = Fleet::of(2).await;
    fleet.node(1).propose(customer("acme")).await.unwrap().unwrap();
    let file = fleet.config(1).dir.join("backup");
    fleet.node(1).backup(&file).await.unwrap();
    assert!(fleet.node(1).backup(&file).await.is_err(), "nothing is overwritten");
    let config = fleet.config(9);
    let restore = move || Cluster::restore(&config, &file, "mx9");
    tokio::task::spawn_blocking(restore).await.unwrap().unwrap();
    fleet.stop(1).await;
    fleet.stop(2).await;
    fleet.start(9).await;
    assert_eq!(fleet.leader().await, 9);
    assert!(fleet.view(9).customer("acme").is_some());
    assert_eq!(fleet.node(9).node_id(), Some(3), "old ids are not used again");
    assert_eq!(fleet.node(9).propose(customer("bravo")).await.unwrap(), Ok(1));
    fleet.join(10).await;
    fleet.eventually_equal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_goes_on_alone_after_the_quorum_is_lost() {
    let mut fleet = Fleet::of(3).await;
    fleet.eventually_voters(3).await;
    fleet.node(2).propose(customer("acme")).await.unwrap().unwrap();
    fleet.eventually_equal().await;
    for id in 1..=3 {
        fleet.stop(id).await;
    }
    let config = fleet.config(2);
    let who = std::fs::read(config.dir.join("identity.json")).unwrap();
    let who: serde_json::Value = serde_json::from_slice(&who).unwrap();
    let old_fleet = format!("before-{}", who["fleet"].as_str().unwrap());
    let recovered = tokio::task::spawn_blocking(move || Cluster::recover(&config)).await.unwrap();
    let recovered = recovered.unwrap();
    assert_eq!(recovered.lost, ["mx1", "mx3"]);
    let before = std::fs::read_dir(fleet.config(2).dir).unwrap().filter_map(Result::ok);
    let aside = before.map(|entry| entry.path()).find(|path| path.ends_with(&old_fleet));
    assert!(aside.unwrap().join("raft/db").exists(), "what it had is kept");
    fleet.start(2).await;
    assert!(fleet.view(2).customer("acme").is_some());
    assert_eq!(fleet.leader().await, 2);
    assert_eq!(fleet.node(2).propose(customer("bravo")).await.unwrap(), Ok(1));
    // The old fleet's nodes are not let back in, and cannot disturb the new one.
    fleet.start(1).await;
    assert!(fleet.node(1).propose(customer("late")).await.is_err());
    assert_eq!(fleet.node(2).propose(customer("charlie")).await.unwrap(), Ok(1));
    fleet.stop(1).await;
    fleet.join(4).await;
    assert!(fleet.view(4).customer("charlie").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_domains_are_imported_through_a_follower() {
    let fleet = Fleet::of(2).await;
    fleet.node(1).propose(customer("acme")).await.unwrap().unwrap();
    let domain = |n| mxfleet_cluster::Domain {
        name: format!("domain-{n}.example"),
        customer: "acme".to_owned(),
        route: mxfleet_cluster::Route::Mx,
        tls: mxfleet_cluster::TlsPolicy::Opportunistic,
        connections_max: None,
        recipients: mxfleet_cluster::RecipientPolicy::default(),
    };
    let domains: Vec<_> = (0..100_000).map(domain).collect();
    let clock: mxfleet_cluster::Clock = Arc::new(support::now_ms);
    let follower = fleet.others(fleet.leader().await)[0];
    // Broken off and begun again on another node, under the same id.
    for (node, parts) in [(follower, 150), (fleet.leader().await, 200), (follower, 200)] {
        for (part, rows) in (0_u32..).zip(domains.chunks(500)).take(parts) {
            let staged = fleet.node(node).stage_domains(7, part, rows.to_vec(), "ops", &clock);
            assert!(staged.await.unwrap().is_ok());
        }
        if parts < 200 {
            assert_eq!(fleet.view(node).domains().count(), 0);
            continue;
        }
        let commit = Command::DomainCommit { import: 7, parts: 200 };
        let commit = Request::new(7, "ops", support::now_ms(), commit);
        assert_eq!(fleet.node(node).propose(commit).await.unwrap(), Ok(100_000));
    }
    fleet.eventually_equal().await;
    assert_eq!(fleet.view(2).domains().count(), 100_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_drained_hands_over_its_lead_before_it_is_retired() {
    let fleet = Fleet::of(3).await;
    fleet.eventually_voters(3).await;
    let (leader, name) = (fleet.leader().await, |id: u64| format!("mx{id}"));
    let service = |command| request(Command::HostService(command));
    let done = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (1..=3)
        .map(|id| {
            let (writer, done) = (fleet.node(id).clone(), Arc::clone(&done));
            tokio::spawn(async move {
                for n in 0.. {
                    if done.load(Ordering::Relaxed) {
                        return n;
                    }
                    writer.propose(customer(&format!("c{id}x{n}"))).await.unwrap().unwrap();
                }
                0
            })
        })
        .collect();
    let drain = HostCommand::Drain { name: name(leader), deadline_ms: None, moves: Vec::new() };
    fleet.node(leader).propose(service(drain)).await.unwrap().unwrap();
    let empty = HostCommand::MailLeft { id: leader, messages: 0 };
    fleet.node(leader).propose(service(empty)).await.unwrap().unwrap();
    let other = fleet.others(leader)[0];
    let is_retired = async |fleet: &Fleet| {
        let view = fleet.node(other).view();
        let host = view.host(leader).unwrap();
        matches!(host.state, HostState::Retired { .. })
    };
    fleet.eventually("it is retired", is_retired).await;
    let status = fleet.status(other).await;
    assert!(status.leader.is_some_and(|now| now != name(leader)), "another leads by then");
    let follows = async |fleet: &Fleet| {
        let status = fleet.status(other).await;
        let member = status.members.iter().find(|member| member.id == leader).unwrap();
        member.role == "learner" && member.state == "up"
    };
    fleet.eventually("it follows", follows).await;
    done.store(true, Ordering::Relaxed);
    let mut written = 0;
    for writer in load {
        written += writer.await.expect("no change fails because the lead goes to another");
    }
    fleet.eventually_equal().await;
    assert_eq!(fleet.view(other).customers().count(), written);
    let resume = service(HostCommand::Resume { name: name(leader) });
    fleet.node(leader).propose(resume).await.unwrap().unwrap();
    fleet.eventually_voters(3).await;

    // Who leads may also be taken out.
    let next = fleet.leader().await;
    fleet.node(leader).remove(&name(next), true, "ops").await.unwrap();
    let out = fleet.node(next).failed();
    let why = tokio::time::timeout(Duration::from_secs(20), out).await.unwrap();
    assert!(why.starts_with(&format!("{} was removed from the fleet", name(next))), "{why}");
    fleet.node(leader).propose(customer("after")).await.unwrap().unwrap();
    fleet
        .eventually("two are left", async |fleet: &Fleet| {
            fleet.status(leader).await.members.len() == 2
        })
        .await;
}
