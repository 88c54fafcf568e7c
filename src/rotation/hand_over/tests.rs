//! A message on its way between nodes: failing disks, late answers, lost hosts.

use std::mem::ManuallyDrop;
use std::sync::mpsc;
use std::thread;

use super::words::Reply;
use super::*;
use crate::fleet::tests::new_host;
use crate::spool::sim_fs::{EIO, SimFs};
use crate::spool::{Copied, RecipientState};
use crate::worker::OperateError;
use crate::worker::tests::{World, envelope, limits, wait_until};

/// A node's hand-over on this file system, and what it is a part of.
fn node(fs: &SimFs) -> (Arc<Inner>, World) {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let letters = Letters::open(dir.path()).unwrap();
    let world = World::on(Arc::new(fs.clone()), dir, Cluster::detached(), limits());
    let parts = Parts {
        cluster: world.cluster.clone(),
        spool: world.spool.clone(),
        deliveries: world.deliveries.clone(),
        service: Service::default(),
        node: 1,
        letters,
    };
    (HandOver::new(parts).inner, world)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_busy_stays_so_when_somebody_else_asks_for_it() {
    let (inner, _world) = node(&SimFs::new());
    let id = EntryId::new(wall_ms() * 1000, 9).unwrap();
    // Who waits for itself here waits for ever, and who drops this after that does, too.
    let busy = ManuallyDrop::new(inner.begin(id).unwrap());
    let (asking, (answer, heard)) = (Arc::clone(&inner), mpsc::channel());
    thread::spawn(move || answer.send(asking.begin(id).is_none()));
    assert_eq!(heard.recv_timeout(Duration::from_secs(20)), Ok(true));
    assert!(inner.is_busy(id));
    drop(ManuallyDrop::into_inner(busy));
    assert!(inner.begin(id).is_some());
}

/// A message of another node in the spool.
async fn copy(world: &World, hold: Hold) -> EntryId {
    let id = EntryId::new(wall_ms() * 1000, 9).unwrap();
    let mut draft = world.spool.begin_copy(id, 8).unwrap();
    draft.push(b"hello\r\n").await.unwrap();
    let (envelope, states) = (envelope(&["a@acme.test"]), vec![RecipientState::default()]);
    draft.commit_copy(Copied { envelope, states, hold }).await.unwrap();
    id
}

/// Host 2 is in the fleet, and then `left`.
async fn with_host_2(world: &World, left: &[Command]) {
    let (hash, expires_ms) = ([7; 32], wall_ms() + 60_000);
    let found = [
        Command::HostFound { host: new_host(1), seed: 1 },
        Command::HostToken { hash, name: "mx2".to_owned(), expires_ms },
        Command::HostJoin { token: hash, host: new_host(2) },
    ];
    for command in found.iter().chain(left) {
        let request = Request::new(random_id(), "test", wall_ms(), command.clone());
        world.cluster.propose(request).await.unwrap().unwrap();
    }
}

fn service(command: HostCommand) -> Command {
    Command::HostService(command)
}

/// Host 2 goes when others have its queue.
fn empty() -> [Command; 4] {
    let (name, moves) = ("mx2".to_owned(), Vec::new());
    [
        service(HostCommand::Drain { name: name.clone(), deadline_ms: None, moves: moves.clone() }),
        service(HostCommand::MailLeft { id: 2, messages: 0 }),
        service(HostCommand::Retire { name: name.clone(), force: false, moves }),
        Command::HostRemove { name, force: false },
    ]
}

/// Host 2 is lost with what it had.
fn lost() -> [Command; 2] {
    let name = "mx2".to_owned();
    let retire = HostCommand::Retire { name: name.clone(), force: true, moves: Vec::new() };
    [service(retire), Command::HostRemove { name, force: true }]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_became_ours_is_not_let_go_by_an_answer_from_before() {
    let (inner, world) = node(&SimFs::new());
    let asked_at = Instant::now();
    let id = copy(&world, Hold::Arriving { from: 9, held: false }).await;
    assert!(matches!(inner.own(9, &[id]).await, Reply::Done));
    inner.let_go(9, id, asked_at).await;
    assert_eq!(world.spool.hold_of(id), Some(Hold::No));
    assert_eq!(world.deliveries.ids(None), [id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_does_not_let_go_what_is_busy_or_was_offered_after_it_was_asked() {
    let (inner, world) = node(&SimFs::new());
    let arriving = Hold::Arriving { from: 9, held: false };
    let id = copy(&world, arriving).await;
    let asked_at = Instant::now();
    let busy = inner.begin(id).unwrap();
    inner.let_go(9, id, asked_at).await;
    assert_eq!(world.spool.hold_of(id), Some(arriving), "it is being stored anew");
    drop(busy);
    lock(&inner.touched).insert(id, Instant::now());
    inner.let_go(9, id, asked_at).await;
    assert_eq!(world.spool.hold_of(id), Some(arriving), "it was offered again");
    inner.let_go(8, id, Instant::now()).await;
    assert_eq!(world.spool.hold_of(id), Some(arriving), "it is not this host's to say");
    inner.let_go(9, id, Instant::now()).await;
    assert_eq!(world.spool.hold_of(id), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_says_that_a_message_is_ours_while_it_is_let_go() {
    let (inner, world) = node(&SimFs::new());
    let id = copy(&world, Hold::Arriving { from: 9, held: false }).await;
    let busy = inner.begin(id).unwrap();
    assert!(matches!(inner.own(9, &[id]).await, Reply::Refused { .. }), "it is said again");
    assert_eq!(world.spool.hold_of(id), Some(Hold::Arriving { from: 9, held: false }));
    drop(busy);
    inner.let_go(9, id, Instant::now()).await;
    assert_eq!(world.spool.hold_of(id), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_offered_again_is_stored_as_it_is_by_then() {
    let (inner, world) = node(&SimFs::new());
    for (hold, is_ours) in [
        (Hold::Arriving { from: 9, held: false }, false),
        (Hold::Handed { to: 9, held: false }, false),
        (Hold::Operator, true),
    ] {
        let id = copy(&world, hold).await;
        assert_eq!(inner.make_room(id).await, Ok(is_ours), "{hold:?}");
        assert_eq!(world.spool.hold_of(id).is_some(), is_ours, "{hold:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_host_was_sending_is_ours_and_what_one_has_left_behind_is_not() {
    for (left, expected) in [(&lost()[..], Some(Hold::Operator)), (&empty(), None)] {
        let (inner, world) = node(&SimFs::new());
        with_host_2(&world, left).await;
        let id = copy(&world, Hold::Arriving { from: 2, held: true }).await;
        inner.ask_about(2, &[id]).await;
        assert_eq!(world.spool.hold_of(id), expected, "{left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_host_was_given_is_ours_again_and_what_one_has_passed_on_is_not() {
    for (left, expected) in [(&lost()[..], Some(Hold::No)), (&empty(), None)] {
        let (inner, world) = node(&SimFs::new());
        with_host_2(&world, left).await;
        let id = copy(&world, Hold::Handed { to: 2, held: false }).await;
        inner.settle_with(2, vec![id]).await;
        world.spool.flush().await.unwrap();
        assert_eq!(world.spool.hold_of(id), expected, "{left:?}");
        assert_eq!(world.deliveries.ids(None).contains(&id), expected.is_some(), "{left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_cannot_set_aside_what_is_on_its_way() {
    let (_inner, world) = node(&SimFs::new());
    for hold in [Hold::Arriving { from: 9, held: false }, Hold::Handed { to: 9, held: false }] {
        let id = copy(&world, hold).await;
        for refused in [
            world.deliveries.hold(id, "root at mx1").await,
            world.deliveries.release(id, "root at mx1").await,
        ] {
            assert!(matches!(refused, Err(OperateError::OnItsWay(_))), "{refused:?}");
        }
        assert_eq!(world.spool.hold_of(id), Some(hold));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_delivered_by_its_new_owner_also_if_that_could_not_be_recorded_at_first() {
    let fs = SimFs::new();
    let (inner, world) = node(&fs);
    let id = copy(&world, Hold::Arriving { from: 9, held: false }).await;
    fs.fail_syncs(Some(EIO));
    assert!(matches!(inner.own(9, &[id]).await, Reply::Refused { .. }));
    fs.fail_syncs(None);
    wait_until("it is ours", || world.spool.hold_of(id) == Some(Hold::No)).await;
    assert!(matches!(inner.own(9, &[id]).await, Reply::Done));
    assert_eq!(world.deliveries.ids(None), [id]);
    assert!(lock(&inner.owned).is_empty());
}
