//! A receiver whose disk fails at the wrong moment.

use super::words::Reply;
use super::*;
use crate::spool::sim_fs::{EIO, SimFs};
use crate::spool::{Copied, RecipientState};
use crate::worker::tests::{World, envelope, limits, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_delivered_by_its_new_owner_also_if_that_could_not_be_recorded_at_first() {
    let fs = SimFs::new();
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
    let inner = HandOver::new(parts).inner;
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
