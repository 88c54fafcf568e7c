//! A receiver whose disk fails at the wrong moment, and a message that is offered twice at once.

use std::mem::ManuallyDrop;
use std::sync::mpsc;
use std::thread;

use super::words::Reply;
use super::*;
use crate::spool::sim_fs::{EIO, SimFs};
use crate::spool::{Copied, RecipientState};
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

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_delivered_by_its_new_owner_also_if_that_could_not_be_recorded_at_first() {
    let fs = SimFs::new();
    let (inner, world) = node(&fs);
    let id = EntryId::new(wall_ms() * 1000, 9).unwrap();
    let mut draft = world.spool.begin_copy(id, 8).unwrap();
    draft.push(b"hello\r\n").await.unwrap();
    let (envelope, hold) = (envelope(&["a@acme.test"]), Hold::Arriving { from: 9, held: false });
    let states = vec![RecipientState::default()];
    draft.commit_copy(Copied { envelope, states, hold }).await.unwrap();

    fs.fail_syncs(Some(EIO));
    assert!(matches!(inner.own(9, &[id]).await, Reply::Refused { .. }));
    fs.fail_syncs(None);
    wait_until("it is ours", || world.spool.hold_of(id) == Some(Hold::No)).await;
    assert!(matches!(inner.own(9, &[id]).await, Reply::Done));
    assert_eq!(world.deliveries.ids(None), [id]);
    assert!(lock(&inner.owned).is_empty());
}
