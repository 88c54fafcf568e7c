//! Reports through crashes: what is counted is what was recorded, once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mxfleet_cluster::Cluster;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::Limits;
use crate::spool::{EntryId, OsFs, Spool, SpoolConfig};
use crate::system::clock::wall_ms;

struct World {
    dir: tempfile::TempDir,
    cluster: Cluster,
    spool: Spool,
    limits: Limits,
    /// A thread of an earlier life may still write, so what a crash left is looked at elsewhere.
    outbox: PathBuf,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let limits =
            Limits { blacklist_linger_ms: 1, segment_octets: 1 << 20, ..Limits::default() };
        let config = SpoolConfig {
            dir: dir.path().join("spool"),
            node_id: 1,
            limits: Arc::new(limits.clone()),
        };
        let (spool, _) = Spool::open(config, Arc::new(OsFs)).unwrap();
        let outbox = dir.path().join("outbox");
        Self { dir, cluster: Cluster::detached(), spool, limits, outbox }
    }

    fn open(&self, queued: &[EntryId]) -> Reports {
        Reports::open(&self.outbox, 1, queued, &self.limits).unwrap()
    }

    /// Report until nothing waits.
    async fn report(&self, reports: &Reports) {
        let stop = CancellationToken::new();
        let run = reports.clone().run(self.cluster.clone(), self.spool.clone(), stop.clone());
        let run = tokio::spawn(run);
        while reports.waiting() > 0 {
            // Polling: the outcome is seen nowhere else.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stop.cancel();
        run.await.unwrap();
        reports.flush().await;
    }

    fn counted(&self, address: &str) -> usize {
        let entry = self.cluster.view().blacklist_entry(address, wall_ms());
        entry.map_or(0, |entry| entry.rejections_ms.len())
    }
}

fn id(number: u64) -> EntryId {
    EntryId::new(number, 1).unwrap()
}

fn rejection(number: u64, address: &str) -> Event {
    Event::rejected(id(number), 0, address.to_owned(), wall_ms(), "550 5.1.1 unknown")
}

fn copy(from: &Path, to: &Path, octets: usize) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let is_file = path.extension().is_some_and(|e| e == "outbox");
        let cut = if is_file { bytes.len().min(octets) } else { bytes.len() };
        std::fs::write(to.join(path.file_name().unwrap()), &bytes[..cut]).unwrap();
    }
}

#[tokio::test]
async fn events_wait_on_disk_and_are_counted_by_the_next_life() {
    let world = World::new();
    let first = world.open(&[]);
    first.record(vec![rejection(1, "a@x.test"), rejection(2, "a@x.test")]).await;
    drop(first);
    let second = world.open(&[]);
    assert_eq!(second.waiting(), 2);
    world.report(&second).await;
    assert_eq!(world.counted("a@x.test"), 2);
    drop(second);
    assert_eq!(world.open(&[]).waiting(), 0, "what was decided is not reported again");
}

#[tokio::test]
async fn a_refusal_that_comes_again_after_a_crash_is_recognised() {
    let world = World::new();
    let first = world.open(&[]);
    first.record(vec![rejection(1, "a@x.test")]).await;
    world.report(&first).await;
    // Through several lives: the mark may be lost in each of them.
    for _ in 0..3 {
        let next = world.open(&[id(1)]);
        next.record(vec![rejection(1, "a@x.test")]).await;
        next.record(vec![rejection(2, "b@x.test")]).await;
        world.report(&next).await;
    }
    assert_eq!(world.counted("a@x.test"), 1);
}

#[tokio::test]
async fn wherever_a_crash_cuts_the_outbox_what_was_acknowledged_is_counted_once() {
    let mut world = World::new();
    let counted = world.cluster.clone();
    let first = world.open(&[]);
    for number in 0..3 {
        first.record(vec![rejection(number, "a@x.test")]).await;
    }
    let acknowledged = bytes(&world.outbox).len();
    world.report(&first).await;
    drop(first);
    let whole = bytes(&world.outbox);
    let batch_end = end_of_batch(&whole);
    assert!(batch_end > acknowledged, "the batch is written down after its events");
    let image = world.dir.path().join("image");
    copy(&world.outbox, &image, usize::MAX);
    for octets in acknowledged..=whole.len() {
        if octets < batch_end {
            // What is not written down whole has not been proposed yet.
            world.cluster = Cluster::detached();
        } else if octets == batch_end {
            world.cluster = counted.clone();
        }
        world.outbox = world.dir.path().join(octets.to_string());
        copy(&image, &world.outbox, octets);
        let again = world.open(&[]);
        world.report(&again).await;
        assert_eq!(world.counted("a@x.test"), 3, "cut at {octets} of {}", whole.len());
    }
}

fn bytes(dir: &Path) -> Vec<u8> {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files = files.filter(|path| path.extension().is_some_and(|e| e == "outbox"));
    std::fs::read(files.next().unwrap()).unwrap()
}

fn end_of_batch(bytes: &[u8]) -> usize {
    let lines = bytes.split_inclusive(|octet| *octet == b'\n').scan(0, |end, line| {
        *end += line.len();
        Some((*end, line))
    });
    let is_batch = |line: &[u8]| line.windows(8).any(|w| w == b"\"batch\":");
    lines.filter(|(_, line)| is_batch(line)).last().unwrap().0
}

#[tokio::test]
async fn a_full_outbox_drops_the_oldest() {
    let mut world = World::new();
    world.limits.blacklist_backlog_max = 5;
    let reports = world.open(&[]);
    for number in 0..8 {
        reports.record(vec![rejection(number, &format!("u{number}@x.test"))]).await;
    }
    assert_eq!(reports.waiting(), 5);
    world.report(&reports).await;
    let counted: Vec<_> = (0..8).map(|n| world.counted(&format!("u{n}@x.test"))).collect();
    assert_eq!(counted, [0, 0, 0, 1, 1, 1, 1, 1]);
}

#[tokio::test]
async fn mail_that_is_taken_clears_rejections_and_is_no_news_otherwise() {
    let world = World::new();
    let reports = world.open(&[]);
    assert!(!reports.is_suspect(&world.cluster.view(), "a@x.test"));
    reports.record(vec![rejection(1, "a@x.test")]).await;
    assert!(reports.is_suspect(&world.cluster.view(), "a@x.test"), "waits");
    world.report(&reports).await;
    assert!(reports.is_suspect(&world.cluster.view(), "a@x.test"), "is counted");
    reports.record(vec![Event::accepted(id(2), 0, "a@x.test".into())]).await;
    world.report(&reports).await;
    assert_eq!(world.counted("a@x.test"), 0);
}

#[tokio::test]
async fn files_go_when_all_in_them_is_decided() {
    let world = World::new();
    let reports = world.open(&[]);
    let reply = "x".repeat(120);
    for number in 0..40 {
        let event =
            |n: u64| Event::rejected(id(number * 1000 + n), 0, format!("u{n}@x.test"), 1, &reply);
        reports.record((0..200).map(event).collect()).await;
    }
    let files = || std::fs::read_dir(&world.outbox).unwrap().count();
    assert!(files() > 2);
    world.report(&reports).await;
    reports.trim(&world.spool).await;
    reports.flush().await;
    assert_eq!(files(), 2, "the active file and the incarnation");
}

#[tokio::test]
async fn an_event_is_kept_even_if_nobody_waits_for_it() {
    let world = World::new();
    let reports = world.open(&[]);
    drop(reports.record(vec![rejection(1, "a@x.test")]));
    reports.flush().await;
    assert_eq!(reports.waiting(), 1);
}
