//! Entries that come from another node, and those that go to one.

use super::support::*;
use crate::spool::sim_fs::SimFs;
use crate::spool::{Copied, EntryId, Hold, Message, Spool};

fn foreign(number: u64) -> EntryId {
    EntryId::new(1_780_000_000_000_000 + number, 9).unwrap()
}

/// Store a copy of `message` under its id.
async fn copy(spool: &Spool, message: &Message, hold: Hold) {
    let mut draft = spool.begin_copy(message.id, message.octets).unwrap();
    draft.push(&text_of(message).await).await.unwrap();
    let (envelope, states) = (message.envelope.as_ref().clone(), message.states.clone());
    draft.commit_copy(Copied { envelope, states, hold }).await.unwrap();
}

#[tokio::test]
async fn a_copy_keeps_its_id_its_text_and_what_became_of_each_recipient() {
    let (from, to) = (SimFs::new(), SimFs::new());
    let (sender, _) = open(&from);
    for octets in [300, 50_000] {
        let to_three = ["a@one.test", "b@two.test", "c@two.test"];
        let queued = put(&sender, &to_three, &text(octets as u64, octets)).await.unwrap();
        sender.record(queued.id, vec![delivered(0), deferred(1, 4, 9_000_000)]);
    }
    sender.flush().await.unwrap();
    let hold = Hold::Arriving { from: 3, held: false };
    let (receiver, _) = open(&to);
    for id in sender.ids() {
        copy(&receiver, &sender.load(id).unwrap().unwrap(), hold).await;
    }
    let check = async |receiver: &Spool, context: &str| {
        assert_eq!(receiver.ids(), sender.ids(), "{context}");
        for id in sender.ids() {
            let (old, new) =
                (sender.load(id).unwrap().unwrap(), receiver.load(id).unwrap().unwrap());
            assert_eq!((&new.envelope, &new.states), (&old.envelope, &old.states), "{context}");
            assert_eq!(text_of(&new).await, text_of(&old).await, "{context}");
            assert_eq!(receiver.hold_of(id), Some(hold), "{context}");
        }
        assert_eq!(receiver.stats().recipients, 4, "{context}");
        assert_eq!(receiver.on_their_way().len(), 2, "{context}");
    };
    check(&receiver, "at once").await;
    receiver.close().await.unwrap();
    let (receiver, recovered) = open(&to);
    assert!(recovered.map(Result::unwrap).all(|entry| entry.hold == hold));
    check(&receiver, "after a restart").await;
    for number in 0..60 {
        let queued = put(&receiver, &["a@one.test"], &text(number, 5000)).await.unwrap();
        receiver.record(queued.id, vec![delivered(0)]);
    }
    receiver.flush().await.unwrap();
    upkeep(&receiver);
    check(&receiver, "after compaction").await;
}

#[tokio::test]
async fn what_was_handed_over_is_kept_until_it_is_forgotten() {
    let fs = SimFs::new();
    let (spool, _) = open(&fs);
    let id = put(&spool, &["a@one.test"], &text(1, 300)).await.unwrap().id;
    spool.set_hold(id, Hold::Handed { to: 300, held: false });
    spool.flush().await.unwrap();
    spool.close().await.unwrap();
    let (spool, _) = open(&fs);
    assert_eq!(spool.on_their_way(), [(id, Hold::Handed { to: 300, held: false })]);
    spool.forget_copy(id);
    spool.flush().await.unwrap();
    spool.close().await.unwrap();
    assert!(recovered_ids(open(&fs).1).is_empty());
}

#[tokio::test]
async fn an_entry_that_comes_back_outlives_all_traces_of_its_first_stay() {
    for octets in [300, 20_000] {
        let fs = SimFs::new();
        let (spool, _) = open(&fs);
        let (other, _) = open(&SimFs::new());
        let original = put(&other, &["a@one.test"], &text(7, octets)).await.unwrap();
        let message = other.load(original.id).unwrap().unwrap();
        // Something in the first segment stays, so that the segment stays.
        put(&spool, &["stays@one.test"], &text(8, 40_000)).await.unwrap();
        copy(&spool, &message, Hold::No).await;
        fill(&spool).await;
        spool.forget_copy(message.id);
        spool.flush().await.unwrap();
        fill(&spool).await;
        copy(&spool, &message, Hold::No).await;
        fill(&spool).await;
        upkeep(&spool);
        assert!(spool.hold_of(message.id).is_some());
        spool.close().await.unwrap();
        let (spool, recovered) = open(&fs);
        assert!(recovered_ids(recovered).contains(&message.id), "{octets} octets");
        upkeep(&spool);
        spool.close().await.unwrap();
        assert!(recovered_ids(open(&fs).1).contains(&message.id), "{octets} octets");
    }
}

/// Mail that comes and goes, and so ends a segment.
async fn fill(spool: &Spool) {
    for number in 0..14 {
        let queued = put(spool, &["a@one.test"], &text(number, 5000)).await.unwrap();
        spool.record(queued.id, vec![delivered(0)]);
    }
    spool.flush().await.unwrap();
}

#[tokio::test]
async fn a_copy_of_what_is_done_is_no_message() {
    let (spool, _) = open(&SimFs::new());
    let mut draft = spool.begin_copy(foreign(1), 5).unwrap();
    draft.push(b"text\r\n").await.unwrap();
    let (envelope, hold) = (envelope(&["a@one.test"]), Hold::No);
    assert!(draft.commit_copy(Copied { envelope, states: Vec::new(), hold }).await.is_err());
    assert!(spool.ids().is_empty());
}
