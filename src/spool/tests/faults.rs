//! Calls that fail: nothing false is acknowledged, nothing acknowledged is lost, and the spool goes
//! on without a restart.

use std::time::{Duration, Instant};

use super::support::*;
use crate::config::Limits;
use crate::spool::sim_fs::{EIO, ENOSPC, Fault, SimFs};
use crate::spool::{EntryId, Full, Spool, SpoolError};

/// What became of the messages of [`script`].
#[derive(Default)]
struct Outcomes {
    acknowledged: Vec<(EntryId, Vec<u8>)>,
    refused: Vec<EntryId>,
    ended: usize,
}

/// A short life that makes every kind of call: small and large messages, marks, a full segment,
/// compaction and removal.
async fn script(spool: &Spool, outcomes: &mut Outcomes) {
    for (number, octets) in [300, 40_000, 7000, 30_000, 500, 6000].into_iter().enumerate() {
        let text = text(number as u64, octets);
        // Refused before anything happened, as while the disk fails.
        let Ok(mut draft) = spool.begin(octets as u64) else { continue };
        let id = draft.id();
        let committed = match draft.push(&text).await {
            Ok(()) => draft.commit(envelope(&["a@one.test", "b@two.test"])).await.is_ok(),
            Err(_) => false,
        };
        match committed {
            true if number < 3 => {
                spool.record(id, vec![delivered(0), delivered(1)]);
                outcomes.ended += 1;
            }
            true => outcomes.acknowledged.push((id, text)),
            false => outcomes.refused.push(id),
        }
    }
    for _ in 0..6 {
        let _ = upkeep_step(spool);
    }
}

async fn check(fs: &SimFs, outcomes: &Outcomes, context: &str) {
    let (spool, recovered) = open(fs);
    let ids = recovered_ids(recovered);
    for (id, text) in &outcomes.acknowledged {
        assert!(ids.contains(id), "{context}: {id} is lost");
        let message = spool.load(*id).unwrap().unwrap();
        assert_eq!(text_of(&message).await, *text, "{context}");
    }
    for id in &outcomes.refused {
        assert!(!ids.contains(id), "{context}: {id} came back");
    }
    upkeep(&spool);
}

#[tokio::test]
async fn any_single_call_may_fail() {
    let whole = SimFs::new();
    let (spool, _) = open(&whole);
    let opened = whole.calls();
    script(&spool, &mut Outcomes::default()).await;
    let calls = whole.calls() - opened;
    assert!(calls > 40, "{calls}");
    for fault in [Fault::Errno(EIO), Fault::Errno(ENOSPC), Fault::Short(EIO)] {
        for nth in 1..=calls {
            let fs = SimFs::new();
            let (spool, _) = open(&fs);
            fs.fail_nth(nth, fault);
            let mut outcomes = Outcomes::default();
            script(&spool, &mut outcomes).await;
            let context = format!("{fault:?} at call {nth}");
            assert_eq!(fs.vain_syncs(), 0, "{context}");
            assert!(outcomes.acknowledged.len() + outcomes.ended >= 1, "{context}");
            check(&fs.crash(nth), &outcomes, &context).await;
        }
    }
}

#[tokio::test]
async fn the_machine_may_stop_at_any_call() {
    for nth in 1..80 {
        let fs = SimFs::new();
        let (spool, _) = open(&fs);
        fs.fail_nth(nth, Fault::Stop);
        let mut outcomes = Outcomes::default();
        script(&spool, &mut outcomes).await;
        // A client whose machine is gone got no answer, so its message may be there or not.
        outcomes.refused.clear();
        for seed in 0..3 {
            check(&fs.crash(nth * 10 + seed), &outcomes, &format!("stop at {nth}")).await;
        }
    }
}

#[tokio::test]
async fn opening_may_fail_at_any_call_and_succeeds_the_next_time() {
    let fs = SimFs::new();
    let (spool, _) = open(&fs);
    let mut outcomes = Outcomes::default();
    script(&spool, &mut outcomes).await;
    for nth in 1..60 {
        let fs = fs.crash(nth);
        fs.fail_nth(nth, Fault::Errno(EIO));
        let opened = Spool::open_quiet(config(limits()), std::sync::Arc::new(fs.clone()));
        drop(opened);
        check(&fs.crash(nth), &outcomes, &format!("open fails at {nth}")).await;
    }
}

#[tokio::test]
async fn what_a_killed_process_has_written_is_durable_once_the_next_one_goes_by_it() {
    let fs = SimFs::new();
    let (spool, _) = open(&fs);
    let queued = put(&spool, &["a@one.test", "b@two.test"], b"text").await.unwrap();
    spool.record(queued.id, vec![delivered(0)]);
    // It is written at once, and synced some time.
    let reply = |spool: &Spool| {
        let message = spool.load(queued.id).unwrap().unwrap();
        message.states[0].last_reply.clone()
    };
    while reply(&spool).as_deref() != Some("250 ok") {
        tokio::task::yield_now().await;
    }
    let fs = fs.kill();
    drop(open(&fs));
    for seed in 0..20 {
        let (spool, _) = open(&fs.crash(seed));
        assert_eq!(reply(&spool).as_deref(), Some("250 ok"), "seed {seed}");
    }
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_and_the_file_is_given_up() {
    let fs = SimFs::new();
    let (spool, _) = open(&fs);
    let before = put(&spool, &["a@one.test"], b"before").await.unwrap();
    spool.record(before.id, vec![deferred(0, 1, 0)]);
    fs.fail_syncs(Some(EIO));
    let mut draft = spool.begin(0).unwrap();
    let refused = draft.id();
    draft.push(b"refused").await.unwrap();
    let error = draft.commit(envelope(&["a@one.test"])).await.unwrap_err();
    assert!(matches!(error, SpoolError::Disk(_)), "{error:?}");
    assert!(!spool.is_writable());
    assert_eq!(spool.begin(0).err(), Some(Full));
    assert_eq!(text_of(&spool.load(before.id).unwrap().unwrap()).await, b"before");

    fs.fail_syncs(None);
    writable_again(&spool).await;
    assert_eq!(fs.vain_syncs(), 0);
    let after = put(&spool, &["a@one.test"], b"after").await.unwrap();
    assert_eq!(spool.ids(), [before.id, after.id]);
    // What the failed file held is copied to a good one, and the file goes.
    assert_eq!(spool.stats().segments, 2);
    upkeep(&spool);
    assert_eq!(spool.stats().segments, 1);
    for seed in 0..20 {
        let (spool, recovered) = open(&fs.crash(seed));
        assert_eq!(recovered_ids(recovered), [before.id, after.id]);
        let message = spool.load(before.id).unwrap().unwrap();
        assert_eq!(message.states[0].last_reply.as_deref(), Some("450 busy 1"));
        assert!(spool.load(refused).unwrap().is_none());
    }
}

/// The writer tries a failing disk again every half second, and only time brings that about.
async fn writable_again(spool: &Spool) {
    let start = Instant::now();
    while !spool.is_writable() {
        assert!(start.elapsed() < Duration::from_secs(20), "never writable again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_a_cut_left_behind_never_comes_back_though_its_successor_goes() {
    for seed in 0..40 {
        let fs = SimFs::new();
        let (spool, _) = open(&fs);
        let kept = put(&spool, &["a@one.test"], b"kept").await.unwrap();
        let mut draft = spool.begin(0).unwrap();
        draft.push(b"refused").await.unwrap();
        // The write succeeds, the sync fails.
        fs.fail_nth(2, Fault::Errno(EIO));
        assert!(draft.commit(envelope(&["a@one.test"])).await.is_err());
        // The new segment's own messages come and go, and so would the segment.
        let filler = put(&spool, &["a@one.test"], &text(1, 50_000)).await.unwrap();
        spool.record(filler.id, vec![delivered(0)]);
        let filler = put(&spool, &["a@one.test"], &text(1, 50_000)).await.unwrap();
        spool.record(filler.id, vec![delivered(0)]);
        spool.flush().await.unwrap();
        for _ in 0..seed % 8 {
            upkeep_step(&spool).unwrap();
        }
        let (_, recovered) = open(&fs.crash(seed));
        assert_eq!(recovered_ids(recovered), [kept.id], "seed {seed}");
    }
}

#[tokio::test]
async fn a_full_disk_refuses_before_it_is_full_and_takes_mail_again_when_there_is_room() {
    let fs = SimFs::new();
    let room = 400 * KIB as u64;
    fs.set_capacity(Some(room));
    let reserve = Limits { disk_reserve_octets: 150 * KIB as u64, ..limits() };
    let (spool, _) = open_with(&fs, reserve);
    let mut queued = Vec::new();
    let full = loop {
        match put(&spool, &["a@one.test"], &text(1, 8000)).await {
            Ok(entry) => queued.push(entry.id),
            Err(error) => break error,
        }
        spool.handle.shared.space.forget();
    };
    assert_eq!(full, SpoolError::Full);
    assert!(queued.len() > 5 && !spool.is_writable());
    // Marks may use the reserve.
    for id in &queued {
        spool.record(*id, vec![deferred(0, 1, 0)]);
    }
    spool.flush().await.unwrap();
    for id in queued {
        spool.record(id, vec![delivered(0)]);
    }
    spool.flush().await.unwrap();
    upkeep(&spool);
    assert!(spool.is_writable());
    put(&spool, &["a@one.test"], &text(1, 8000)).await.unwrap();
}

#[tokio::test]
async fn a_message_larger_than_announced_is_refused_when_there_is_no_room_for_it() {
    let fs = SimFs::new();
    fs.set_capacity(Some(300 * KIB as u64));
    let (spool, _) = open_with(&fs, Limits { disk_reserve_octets: 100_000, ..limits() });
    let mut draft = spool.begin(10).unwrap();
    spool.handle.shared.space.forget();
    let mut pushed = Ok(());
    for _ in 0..50 {
        spool.handle.shared.space.forget();
        pushed = pushed.and(draft.push(&[b'x'; 5000]).await);
    }
    assert_eq!(pushed, Err(SpoolError::Full));
    drop(draft);
    spool.flush().await.unwrap();
    upkeep(&spool);
    assert_eq!(spool.stats().segments, 1);
}

#[tokio::test]
async fn a_disk_that_fills_up_in_the_middle_of_a_write_loses_nothing() {
    for room in (70..200).step_by(7) {
        let fs = SimFs::new();
        fs.set_capacity(Some(room * KIB as u64));
        let (spool, _) = open(&fs);
        let mut outcomes = Outcomes::default();
        for number in 0..40 {
            let text = text(number, 7000);
            let Ok(mut draft) = spool.begin(0) else { break };
            let id = draft.id();
            let pushed = draft.push(&text).await.is_ok();
            if pushed && draft.commit(envelope(&["a@one.test"])).await.is_ok() {
                outcomes.acknowledged.push((id, text));
            } else {
                outcomes.refused.push(id);
            }
        }
        fs.set_capacity(None);
        writable_again(&spool).await;
        let text = text(99, 7000);
        let after = put(&spool, &["a@one.test"], &text).await.unwrap();
        outcomes.acknowledged.push((after.id, text));
        check(&fs.crash(room), &outcomes, &format!("{room} KiB")).await;
    }
}
