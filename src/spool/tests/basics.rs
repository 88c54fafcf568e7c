//! Commit, load, mark, restart, as they are meant to go.

use super::support::*;
use crate::smtp::{About, Envelope, ReportKind, Written};
use crate::spool::sim_fs::SimFs;
use crate::spool::{Hold, OpenError, OsFs, Outcome, RecoveredDestination, Spool, SpoolConfig};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[tokio::test]
async fn what_was_committed_is_loaded_with_its_exact_text_and_envelope() {
    let (spool, _) = open(&SimFs::new());
    for octets in [0, 1, 4096, 8192, 8193, 65_536, 65_537, 300_000] {
        let text = text(octets as u64, octets);
        let queued = put(&spool, &["a@one.test", "b@two.test"], &text).await.unwrap();
        assert_eq!(queued.octets, octets as u64);
        assert_eq!(queued.text.is_some(), octets <= 8192);
        let message = spool.load(queued.id).unwrap().unwrap();
        assert_eq!(message.envelope, queued.envelope);
        assert_eq!(message.states, queued.states);
        assert_eq!(text_of(&message).await, text, "{octets}");
    }
    assert_eq!(spool.stats().messages, 8);
    assert_eq!(spool.stats().recipients, 16);
}

#[tokio::test]
async fn entries_survive_a_restart_with_their_marks() {
    let fs = SimFs::new();
    let (spool, _) = open(&fs);
    let one = put(&spool, &["a@one.test", "b@two.test", "c@one.test"], b"one").await.unwrap();
    let two = put(&spool, &["d@one.test"], &text(1, 200_000)).await.unwrap();
    let gone = put(&spool, &["e@one.test"], b"gone").await.unwrap();
    let about = About {
        kind: Written::Report(ReportKind::Failed),
        id: one.id.to_string(),
        recipients: vec![1, 3],
    };
    let report = Envelope { about: Some(about.clone()), ..envelope(&["f@one.test"]) };
    let mut draft = spool.begin(0).unwrap();
    draft.push(b"report").await.unwrap();
    draft.commit(report).await.unwrap();
    spool.record(one.id, vec![delivered(0), deferred(2, 3, 77_000_000)]);
    spool.record(gone.id, vec![delivered(0)]);
    spool.set_hold(two.id, Hold::Operator);
    spool.close().await.unwrap();

    let (spool, recovered) = open(&fs.kill());
    assert_eq!(recovered.report().entries, 3);
    assert_eq!((recovered.report().torn_tails, recovered.report().quarantined), (0, 0));
    let entries: Vec<_> = recovered.map(Result::unwrap).collect();
    assert_eq!(entries[0].id, one.id);
    let destination = |domain: &str, recipient, due_us| RecoveredDestination {
        domain: domain.into(),
        recipients: vec![recipient],
        due_us,
    };
    assert_eq!(
        entries[0].destinations,
        [destination("one.test", 2, 77_000_000), destination("two.test", 1, 0)]
    );
    assert!(entries[1].hold.is_operators() && !entries[0].hold.is_operators());
    assert_eq!((&entries[0].about, &entries[2].about), (&None, &Some(about.clone())));
    assert_eq!(entries[2].destinations, [destination("own:one.test", 0, 0)]);
    let message = spool.load(one.id).unwrap().unwrap();
    assert_eq!(message.states[0].outcome, Some(Outcome::Delivered));
    assert_eq!(message.states[0].last_reply.as_deref(), Some("250 ok"));
    assert_eq!(message.states[2].last_reply.as_deref(), Some("450 busy 3"));
    let large = spool.load(two.id).unwrap().unwrap();
    assert_eq!(text_of(&large).await, text(1, 200_000));
    assert!(spool.load(gone.id).unwrap().is_none());
}

#[tokio::test]
async fn one_message_on_one_connection_costs_exactly_one_sync() {
    let fs = SimFs::new();
    let (spool, _) = open_with(&fs, crate::config::Limits::default());
    let before = fs.syncs();
    for number in 0..20 {
        let queued = put(&spool, &["a@one.test"], b"text").await.unwrap();
        spool.record(queued.id, vec![delivered(0)]);
        assert_eq!(fs.syncs() - before, number + 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_come_together_share_a_sync() {
    let fs = SimFs::new();
    let (spool, _) = open_with(&fs, crate::config::Limits::default());
    let before = fs.syncs();
    let writers: Vec<_> = (0..50)
        .map(|_| {
            let spool = spool.clone();
            tokio::spawn(async move {
                for _ in 0..40 {
                    put(&spool, &["a@one.test"], &[7; 4096]).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let syncs = fs.syncs() - before;
    assert_eq!(spool.stats().messages, 2000);
    assert!(syncs < 400, "{syncs} syncs for 2000 messages");
}

#[tokio::test]
async fn marks_without_a_message_to_ride_with_are_synced_within_a_second() {
    let fs = SimFs::new();
    let (spool, _) = open(&fs);
    let queued = put(&spool, &["a@one.test"], b"text").await.unwrap();
    let before = fs.syncs();
    spool.record(queued.id, vec![delivered(0)]);
    let start = Instant::now();
    // It is the passing of time that is tested.
    while fs.syncs() == before {
        assert!(start.elapsed() < Duration::from_secs(20), "never synced");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for seed in 0..10 {
        let (_, recovered) = open(&fs.crash(seed));
        assert_eq!(recovered_ids(recovered), []);
    }
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let fs = SimFs::new();
    let (spool, _) = open(&fs);
    let again = Spool::open_quiet(config(limits()), Arc::new(fs.clone()));
    assert!(matches!(again, Err(OpenError::InUse(_))));
    spool.close().await.unwrap();
    assert!(Spool::open_quiet(config(limits()), Arc::new(fs)).is_ok());
}

#[tokio::test]
async fn a_dropped_draft_leaves_nothing() {
    let fs = SimFs::new();
    let (spool, _) = open(&fs);
    let mut draft = spool.begin(0).unwrap();
    draft.push(&text(1, 200_000)).await.unwrap();
    drop(draft);
    let mut draft = spool.begin(0).unwrap();
    draft.push(b"small").await.unwrap();
    drop(draft);
    spool.flush().await.unwrap();
    upkeep(&spool);
    assert_eq!(spool.stats().messages, 0);
    assert_eq!(spool.stats().segments, 1);
    spool.close().await.unwrap();
    let (_, recovered) = open(&fs.kill());
    assert_eq!(recovered_ids(recovered), []);
}

#[tokio::test]
async fn a_commit_whose_caller_went_away_is_forgotten() {
    let fs = SimFs::new();
    let (spool, _) = open(&fs);
    for _ in 0..50 {
        let draft = spool.begin(0).unwrap();
        let mut commit = Box::pin(draft.commit(envelope(&["a@one.test"])));
        // Polled once, the request is with the writer.
        if let Some(queued) = poll_once(commit.as_mut()).await {
            // The writer was faster.
            spool.record(queued.unwrap().id, vec![delivered(0)]);
        }
    }
    spool.flush().await.unwrap();
    spool.flush().await.unwrap();
    assert_eq!(spool.stats().messages, 0);
    spool.close().await.unwrap();
    let (_, recovered) = open(&fs.kill());
    assert_eq!(recovered_ids(recovered), []);
}

#[tokio::test]
async fn a_real_directory_holds_what_a_simulated_one_does() {
    let dir = tempfile::tempdir().unwrap();
    let config = || SpoolConfig { dir: dir.path().join("deep/spool"), ..config(limits()) };
    let (spool, recovered) = Spool::open(config(), Arc::new(OsFs)).unwrap();
    drop(recovered);
    let mut kept = Vec::new();
    for number in 0..60 {
        let text = text(number, if number % 20 == 7 { 100_000 } else { 5000 });
        let queued = put(&spool, &["a@one.test"], &text).await.unwrap();
        if number % 20 == 7 {
            kept.push((queued.id, text));
        } else {
            spool.record(queued.id, vec![delivered(0)]);
        }
    }
    assert!(matches!(Spool::open(config(), Arc::new(OsFs)), Err(OpenError::InUse(_))));
    spool.close().await.unwrap();
    let (spool, recovered) = Spool::open(config(), Arc::new(OsFs)).unwrap();
    assert_eq!(recovered_ids(recovered), kept.iter().map(|(id, _)| *id).collect::<Vec<_>>());
    for (id, text) in kept {
        assert_eq!(text_of(&spool.load(id).unwrap().unwrap()).await, text);
    }
    spool.close().await.unwrap();
}

async fn poll_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    std::future::poll_fn(|context| match std::pin::Pin::new(&mut future).poll(context) {
        std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}

#[tokio::test]
async fn ids_increase_though_the_clock_went_back_over_a_restart() {
    let fs = SimFs::new();
    let (spool, _) = open(&fs);
    // As if the clock had been a year ahead.
    let ahead = crate::system::clock::wall_us() + 365 * 86_400 * 1_000_000;
    let last = spool.handle.shared.ids.next(ahead);
    let kept = put(&spool, &["a@one.test"], b"x").await.unwrap();
    assert!(kept.id > last);
    spool.record(kept.id, vec![delivered(0)]);
    spool.close().await.unwrap();
    for _ in 0..3 {
        let (spool, _) = open(&fs);
        upkeep(&spool);
        assert!(spool.begin(0).unwrap().id() > kept.id);
        spool.close().await.unwrap();
    }
}
