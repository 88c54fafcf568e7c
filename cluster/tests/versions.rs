//! A fleet whose nodes are upgraded one at a time.

mod support;

use mxfleet_cluster::{Cluster, JoinError, StartError};
use support::{Fleet, HOUR_MS, customer};

async fn upgrade(fleet: &mut Fleet, id: u64) {
    fleet.stop(id).await;
    fleet.set_speaks(id, 1);
    fleet.start(id).await;
    let spoken = async |fleet: &Fleet| fleet.view(id).host(id).is_some_and(|host| host.speaks == 1);
    fleet.eventually("the table says so", spoken).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_command_waits_for_the_last_node_and_an_older_node_stays_out() {
    let mut fleet = Fleet::speaking(3, 0).await;
    fleet.eventually_voters(3).await;
    let needs = "this needs cluster version 1: ";
    for (upgraded, still) in [(1, "mx2"), (2, "mx3")] {
        upgrade(&mut fleet, upgraded).await;
        let status = fleet.status(upgraded).await;
        assert_eq!(status.cluster_version, Some(0));
        let spoken: Vec<_> = status.members.iter().map(|member| member.speaks).collect();
        assert_eq!(spoken, [Some(1), Some(u16::from(upgraded == 2)), Some(0)]);
        let why = format!("{needs}{still} still runs version 0; upgrade it first, or remove it");
        let refusal = fleet.node(1).propose(customer("acme")).await.unwrap().unwrap_err();
        assert_eq!(refusal.to_string(), why);
    }
    upgrade(&mut fleet, 3).await;
    for id in 1..=3 {
        let raised = async |fleet: &Fleet| fleet.view(id).cluster_version() == Some(1);
        fleet.eventually("the version is raised", raised).await;
    }
    assert_eq!(fleet.node(3).propose(customer("acme")).await.unwrap(), Ok(1));
    fleet.eventually_equal().await;

    fleet.stop(3).await;
    fleet.set_speaks(3, 0);
    let Err(error) = Cluster::start(fleet.config(3)).await else { panic!("it started") };
    assert!(matches!(error, StartError::TooOld(_)), "{error}");
    let why = "the fleet runs cluster version 1, and this program, mxfleet test, speaks only 0: \
               install mxfleet test, which mx";
    assert!(error.to_string().starts_with(why), "{error}");

    fleet.set_speaks(4, 0);
    let token = fleet.node(1).token("mx4", HOUR_MS, "ops").await.unwrap();
    let (config, peer) = (fleet.config(4), fleet.address(1));
    let error = Cluster::join(&config, "mx4", peer, &token).await.unwrap_err();
    assert!(matches!(&error, JoinError::Refused(text) if text.starts_with(why)), "{error}");
    fleet.set_speaks(3, 1);
    fleet.start(3).await;
    fleet.eventually_equal().await;
}
