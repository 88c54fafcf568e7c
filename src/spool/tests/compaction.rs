//! Segments that go, and entries that move.

use super::support::*;
use crate::spool::sim_fs::{EIO, Fault, SimFs};
use crate::spool::{EntryId, Hold, Outcome, Spool};

/// Some entries to keep among many that are delivered, in several segments.
async fn mostly_done(spool: &Spool) -> Vec<(EntryId, Vec<u8>)> {
    let mut kept = Vec::new();
    for number in 0..40_u64 {
        let octets = if number % 13 == 5 { 50_000 } else { 6000 };
        let text = text(number, octets);
        let queued = put(spool, &["a@one.test", "b@two.test"], &text).await.unwrap();
        if number % 13 == 5 || number % 11 == 7 {
            spool.record(queued.id, vec![delivered(0), deferred(1, 4, 9_000_000)]);
            spool.set_hold(queued.id, Hold::Operator);
            kept.push((queued.id, text));
        } else {
            spool.record(queued.id, vec![delivered(0), delivered(1)]);
        }
    }
    spool.flush().await.unwrap();
    kept
}

async fn check(spool: &Spool, kept: &[(EntryId, Vec<u8>)], context: &str) {
    let ids: Vec<EntryId> = kept.iter().map(|(id, _)| *id).collect();
    assert_eq!(spool.ids(), ids, "{context}");
    for (id, text) in kept {
        let message = spool.load(*id).unwrap().unwrap();
        assert!(message.hold.is_operators(), "{context}");
        assert_eq!(message.states[0].last_reply.as_deref(), Some("250 ok"), "{context}");
        let second = &message.states[1];
        assert_eq!((second.attempts, second.due_us), (4, 9_000_000), "{context}");
        assert_eq!(second.last_reply.as_deref(), Some("450 busy 4"), "{context}");
        assert_eq!(text_of(&message).await, *text, "{context}");
    }
}

#[tokio::test]
async fn a_segment_whose_entries_are_done_is_removed() {
    let fs = SimFs::new();
    let (spool, _) = open(&fs);
    for number in 0..60 {
        let queued = put(&spool, &["a@one.test"], &text(number, 5000)).await.unwrap();
        spool.record(queued.id, vec![delivered(0)]);
    }
    spool.flush().await.unwrap();
    assert!(spool.stats().segments > 4);
    upkeep(&spool);
    assert_eq!(spool.stats().segments, 1);
    let files = fs.names().iter().filter(|path| path.extension().is_some()).count();
    assert_eq!(files, 1, "{:?}", fs.names());
}

#[tokio::test]
async fn a_message_whose_end_was_not_synced_does_not_come_back_without_its_text() {
    let fs = SimFs::new();
    let (spool, _) = open(&fs);
    // The chunks of the second begin in the first segment, its record is in the next one.
    let first = put(&spool, &["a@one.test"], &text(1, 40_000)).await.unwrap();
    spool.record(first.id, vec![delivered(0)]);
    let second = put(&spool, &["a@one.test"], &text(2, 40_000)).await.unwrap();
    spool.record(second.id, vec![delivered(0)]);
    while spool.stats().messages > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(spool.stats().segments, 2);
    upkeep(&spool);
    for seed in 0..20 {
        let (spool, recovered) = open(&fs.crash(seed));
        for id in recovered_ids(recovered) {
            assert_eq!(id, second.id, "the end of the first was synced with the second");
            let message = spool.load(id).unwrap().unwrap();
            assert_eq!(text_of(&message).await, text(2, 40_000), "seed {seed}");
        }
    }
}

#[tokio::test]
async fn no_segment_goes_before_it_is_durable_that_its_marks_are_needless() {
    let fs = SimFs::new();
    let (spool, _) = open(&fs);
    // In the first segment are a message for two and one that another node gets, among others
    // that stay.
    let two = put(&spool, &["a@one.test", "b@two.test"], b"for two").await.unwrap();
    let handed = put(&spool, &["a@one.test"], b"for another node").await.unwrap();
    let full = |spool: &Spool, segments| spool.stats().segments == segments;
    let mut number = 0;
    let mut last = two.id;
    while full(&spool, 1) {
        number += 1;
        last = put(&spool, &["c@three.test"], &text(number, 7000)).await.unwrap().id;
    }
    // In the second is what became of the two so far, and nothing else that is needed.
    spool.record(last, vec![delivered(0)]);
    spool.record(two.id, vec![delivered(0)]);
    spool.set_hold(handed.id, Hold::Handed { to: 9, held: false });
    while full(&spool, 2) {
        number += 1;
        let queued = put(&spool, &["c@three.test"], &text(number, 7000)).await.unwrap();
        spool.record(queued.id, vec![delivered(0)]);
    }
    spool.flush().await.unwrap();
    let messages = spool.stats().messages;
    // In the third is their end, and no sync has followed yet.
    spool.record(two.id, vec![delivered(1)]);
    spool.forget_copy(handed.id);
    while spool.stats().messages > messages - 2 {
        tokio::task::yield_now().await;
    }
    upkeep(&spool);
    for seed in 0..20 {
        let (spool, recovered) = open(&fs.crash(seed));
        drop(recovered);
        if let Some(message) = spool.load(two.id).unwrap() {
            let outcome = message.states[0].outcome;
            assert_eq!(outcome, Some(Outcome::Delivered), "seed {seed}: delivered once more");
        }
        let hold = spool.hold_of(handed.id).unwrap_or(Hold::Handed { to: 9, held: false });
        assert!(!hold.is_ours(), "seed {seed}: delivered by both nodes");
    }
}

#[tokio::test]
async fn what_is_left_of_mostly_done_segments_moves_with_all_its_state() {
    let fs = SimFs::new();
    let (spool, _) = open(&fs);
    let kept = mostly_done(&spool).await;
    let before = spool.stats().segment_octets;
    upkeep(&spool);
    assert!(spool.stats().segment_octets * 10 < before * 9, "{:?}", spool.stats());
    check(&spool, &kept, "moved").await;
    spool.close().await.unwrap();
    let (spool, recovered) = open(&fs.kill());
    assert_eq!(recovered.count(), kept.len());
    check(&spool, &kept, "restarted").await;
}

#[tokio::test]
async fn compaction_waits_until_the_recovered_entries_were_handed_out() {
    let fs = SimFs::new();
    let (spool, _) = open(&fs);
    let kept = mostly_done(&spool).await;
    spool.close().await.unwrap();
    let (spool, mut recovered) = open(&fs.kill());
    let first = recovered.next().unwrap().unwrap();
    let segments = spool.stats().segments;
    upkeep(&spool);
    assert!(spool.stats().segments + 2 >= segments);
    let mut ids: Vec<EntryId> = recovered.by_ref().map(|entry| entry.unwrap().id).collect();
    ids.push(first.id);
    ids.sort();
    assert_eq!(ids, kept.iter().map(|(id, _)| *id).collect::<Vec<_>>());
    drop(recovered);
    upkeep(&spool);
    assert!(spool.stats().segments < segments);
}

#[tokio::test]
async fn the_machine_may_stop_at_any_call_of_compaction() {
    let mut nth = 1;
    loop {
        let fs = SimFs::new();
        let (spool, _) = open(&fs);
        let kept = mostly_done(&spool).await;
        fs.fail_nth(nth, Fault::Stop);
        let finished = loop {
            match upkeep_step(&spool) {
                Ok(true) => {}
                Ok(false) => break !fs.is_stopped(),
                Err(_) => break false,
            }
        };
        for seed in 0..2 {
            let (spool, recovered) = open(&fs.crash(nth * 7 + seed));
            let context = format!("stop at {nth}, seed {seed}");
            assert_eq!(recovered.count(), kept.len(), "{context}");
            check(&spool, &kept, &context).await;
            upkeep(&spool);
            check(&spool, &kept, &context).await;
        }
        if finished {
            break;
        }
        // Calls in the middle of a long compaction are alike.
        nth += if nth < 60 { 1 } else { 7 };
    }
    assert!(nth > 100, "compaction took only {nth} calls");
}

#[tokio::test]
async fn any_call_of_compaction_may_fail_and_it_ends_all_the_same() {
    for nth in (1..60).chain((60..300).step_by(11)) {
        let fs = SimFs::new();
        let (spool, _) = open(&fs);
        let kept = mostly_done(&spool).await;
        fs.fail_nth(nth, Fault::Errno(EIO));
        let mut idle = 0;
        while idle < 3 {
            // After an error the thread waits for its next tick; here that is at once.
            idle += usize::from(!matches!(upkeep_step(&spool), Ok(true)));
        }
        fs.clear_faults();
        let context = format!("EIO at {nth}");
        check(&spool, &kept, &context).await;
        let (spool, recovered) = open(&fs.crash(nth));
        assert_eq!(recovered.count(), kept.len(), "{context}");
        check(&spool, &kept, &context).await;
    }
}
