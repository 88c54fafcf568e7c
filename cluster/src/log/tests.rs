//! openraft's own conformance suite on both disks, and what it does not ask.

use std::sync::Arc;
use std::time::Duration;

use openraft::storage::RaftLogStorageExt;
use openraft::testing::{StoreBuilder, Suite, blank_ent, log_id};
use openraft::{EntryPayload, RaftLogReader};

use super::*;
use crate::machine::Machine;
use crate::raft::Batch;
use crate::snapshot::SnapshotDir;
use crate::state::{Command, Request, mix};

struct InMemory;
struct OnSled;

fn machine(dir: &tempfile::TempDir) -> Machine {
    Machine::open(SnapshotDir::open(dir.path().join("snapshots"), 1, None).unwrap()).unwrap()
}

fn sled_at(dir: &std::path::Path) -> LogStore {
    let disk = Arc::new(SledDisk::open(dir).unwrap());
    LogStore::open(disk, Some(Guard::open(&dir.join("guard")).unwrap())).unwrap()
}

impl StoreBuilder<Types, LogStore, Machine, tempfile::TempDir> for InMemory {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, Machine), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let machine = machine(&dir);
        Ok((dir, LogStore::open(Arc::new(MemoryDisk::default()), None).unwrap(), machine))
    }
}

impl StoreBuilder<Types, LogStore, Machine, tempfile::TempDir> for OnSled {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, Machine), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let machine = machine(&dir);
        let log = sled_at(&dir.path().join("log"));
        Ok((dir, log, machine))
    }
}

#[test]
fn the_memory_disk_passes_openrafts_suite() {
    Suite::test_all(InMemory).unwrap();
}

#[test]
fn the_sled_disk_passes_openrafts_suite() {
    Suite::test_all(OnSled).unwrap();
}

fn entry(index: u64, octets: usize) -> Entry {
    // Text that cannot be packed.
    let actor = (0..octets as u64).map(|n| char::from(b' ' + mix(n).to_le_bytes()[0] % 94));
    let actor = actor.collect::<String>();
    let request = Request::new(index.into(), actor, 0, Command::Tick);
    let payload = EntryPayload::Normal(Batch::new(&[request]).unwrap());
    Entry { log_id: log_id(1, 1, index), payload }
}

#[tokio::test]
async fn acknowledged_entries_and_the_vote_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = sled_at(dir.path());
    log.blocking_append((0..50).map(|n| blank_ent::<Types>(1, 1, n))).await.unwrap();
    log.blocking_append([entry(50, 300_000), entry(51, 10)]).await.unwrap();
    log.save_vote(&Vote::new_committed(3, 2)).await.unwrap();
    log.purge(log_id(1, 1, 9)).await.unwrap();
    drop(log);

    let mut log = sled_at(dir.path());
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new_committed(3, 2)));
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(1, 1, 9)));
    assert_eq!(state.last_log_id, Some(log_id(1, 1, 51)));
    let all = log.try_get_log_entries(0..100).await.unwrap();
    assert_eq!(all.len(), 42, "purged entries are hidden");
    assert_eq!(all[40], entry(50, 300_000), "a large entry comes back in one piece");
}

async fn assert_only_the_newer_are_read(mut log: LogStore) {
    let newer = |n| blank_ent::<Types>(2, 2, n);
    log.blocking_append((0..8).map(|n| entry(n, 100))).await.unwrap();
    let mut reader = log.get_log_reader().await;
    log.truncate(log_id(1, 1, 3)).await.unwrap();
    let kept: Vec<Entry> = (0..3).map(|n| entry(n, 100)).collect();
    assert_eq!(reader.try_get_log_entries(..).await.unwrap(), kept);
    assert!(reader.try_get_log_entries(3..8).await.unwrap().is_empty());
    log.blocking_append((3..6).map(newer)).await.unwrap();
    let after: Vec<Entry> = (3..6).map(newer).collect();
    for log in [&mut log, &mut reader] {
        assert_eq!(log.try_get_log_entries(..).await.unwrap(), [&kept[..], &after].concat());
        assert_eq!(log.limited_get_log_entries(3, 8).await.unwrap(), after);
    }
    let last = log.get_log_state().await.unwrap().last_log_id;
    assert_eq!(last, Some(log_id(2, 2, 5)));
}

#[tokio::test]
async fn what_was_replaced_is_read_by_nobody() {
    let disk = Arc::new(MemoryDisk::default());
    let open = || LogStore::open(Arc::clone(&disk) as Arc<dyn LogDisk>, None).unwrap();
    assert_only_the_newer_are_read(open()).await;
    let from_disk = open().try_get_log_entries(3..).await.unwrap();
    assert_eq!(from_disk, (3..6).map(|n| blank_ent(2, 2, n)).collect::<Vec<_>>());

    let dir = tempfile::tempdir().unwrap();
    assert_only_the_newer_are_read(sled_at(dir.path())).await;
    let from_disk = sled_at(dir.path()).try_get_log_entries(3..).await.unwrap();
    assert_eq!(from_disk, (3..6).map(|n| blank_ent(2, 2, n)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_read_for_sending_is_bounded_but_never_empty() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = sled_at(dir.path());
    log.blocking_append((0..20).map(|n| entry(n, 100_000))).await.unwrap();
    let some = log.limited_get_log_entries(0, 20).await.unwrap();
    assert!((2..=6).contains(&some.len()), "{}", some.len());
    log.blocking_append([entry(20, 900_000)]).await.unwrap();
    assert_eq!(log.limited_get_log_entries(20, 21).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_hole_or_a_missing_tail_is_refused_at_opening() {
    let disk = Arc::new(MemoryDisk::default());
    let mut log = LogStore::open(Arc::clone(&disk) as Arc<dyn LogDisk>, None).unwrap();
    log.blocking_append((0..10).map(|n| entry(n, 1))).await.unwrap();
    log.save_committed(Some(log_id(1, 1, 8))).await.unwrap();
    assert!(LogStore::open(Arc::clone(&disk) as Arc<dyn LogDisk>, None).is_ok());
    disk.truncate(8).unwrap();
    let error = LogStore::open(Arc::clone(&disk) as Arc<dyn LogDisk>, None).unwrap_err();
    assert_eq!(error.to_string(), "entries 8 to 8 are missing");
    disk.append(vec![(9, codec::encode(Kind::Entry, &entry(9, 1)).unwrap())]).unwrap();
    let error = LogStore::open(Arc::clone(&disk) as Arc<dyn LogDisk>, None).unwrap_err();
    assert_eq!(error.to_string(), "entry 9 is not where it belongs");
}

/// A log of ten entries with the start of an eleventh, large one, as a crash leaves it.
async fn torn(place: &std::path::Path) -> Vec<u8> {
    let mut log = sled_at(place);
    log.blocking_append((0..10).map(|n| entry(n, 10))).await.unwrap();
    let bytes = codec::encode(Kind::Entry, &entry(10, 200_000)).unwrap();
    log.disk.append(vec![(10, bytes[..2 * WHOLE_OCTETS_MAX].to_vec())]).unwrap();
    log.barrier().await.unwrap();
    bytes
}

#[tokio::test]
async fn the_start_of_an_entry_that_was_never_acknowledged_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    torn(dir.path()).await;
    for _ in 0..2 {
        let mut log = sled_at(dir.path());
        let last = log.get_log_state().await.unwrap().last_log_id;
        assert_eq!(last, Some(log_id(1, 1, 9)), "gone for good");
    }
    let mut log = sled_at(dir.path());
    log.blocking_append([entry(10, 100_000)]).await.unwrap();
    drop(log);
    let all = sled_at(dir.path()).try_get_log_entries(..).await.unwrap();
    assert_eq!(all.last(), Some(&entry(10, 100_000)));
}

#[tokio::test]
async fn an_entry_cut_short_that_was_acknowledged_or_is_not_the_last_is_refused() {
    let open = |place: &std::path::Path| {
        let disk = Arc::new(SledDisk::open(place).unwrap());
        LogStore::open(disk, Some(Guard::open(&place.join("guard")).unwrap()))
    };
    let short = "entry 10: it is cut short";
    let dir = tempfile::tempdir().unwrap();
    torn(dir.path()).await;
    Guard::open(&dir.path().join("guard")).unwrap().appended_large(11).unwrap();
    assert_eq!(open(dir.path()).unwrap_err().to_string(), short, "it was acknowledged");

    let dir = tempfile::tempdir().unwrap();
    let bytes = torn(dir.path()).await;
    let disk = SledDisk::open(dir.path()).unwrap();
    disk.append(vec![(11, bytes)]).unwrap();
    drop(disk);
    assert_eq!(open(dir.path()).unwrap_err().to_string(), short, "something follows it");

    let dir = tempfile::tempdir().unwrap();
    torn(dir.path()).await;
    let disk = SledDisk::open(dir.path()).unwrap();
    disk.set_meta(MetaKey::Committed, codec::encode(Kind::Meta, &log_id::<u64>(1, 1, 10)).unwrap())
        .unwrap();
    drop(disk);
    assert_eq!(open(dir.path()).unwrap_err().to_string(), short, "it was committed");
}

#[tokio::test]
async fn a_large_entry_is_noted_before_it_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = sled_at(dir.path());
    log.blocking_append([entry(0, 10)]).await.unwrap();
    log.blocking_append([entry(1, 100_000)]).await.unwrap();
    assert_eq!(Guard::open(&dir.path().join("guard")).unwrap().least().end, 2);
}

#[tokio::test]
async fn purged_entries_are_deleted_from_the_disk_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(SledDisk::open(dir.path()).unwrap());
    let mut log = LogStore::open(Arc::clone(&disk) as Arc<dyn LogDisk>, None).unwrap();
    log.blocking_append((0..1000).map(|n| entry(n, 100))).await.unwrap();
    log.purge(log_id(1, 1, 989)).await.unwrap();
    for _ in 0..100 {
        if disk.read(0, 1000, usize::MAX).unwrap().len() == 10 {
            return;
        }
        // The deletion has no event to wait for: nobody but this test cares when it happens.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("still there");
}

#[tokio::test]
async fn whatever_octet_of_the_database_is_damaged_nothing_acknowledged_is_silently_gone() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("raft");
    let mut log = sled_at(&place);
    log.blocking_append((0..40).map(|n| entry(n, 2000))).await.unwrap();
    log.save_vote(&Vote::new(7, 2)).await.unwrap();
    drop(log);
    let good = std::fs::read(place.join("db")).unwrap();
    let used = good.iter().rposition(|octet| *octet != 0).unwrap();
    let mut refused = 0;
    for at in (0..used).step_by(used / 60) {
        let mut bad = good.clone();
        bad[at] ^= 0xff;
        std::fs::write(place.join("db"), &bad).unwrap();
        let opened = SledDisk::open(&place).map_err(|_| ()).and_then(|disk| {
            let guard = Guard::open(&place.join("guard")).unwrap();
            LogStore::open(Arc::new(disk), Some(guard)).map_err(|_| ())
        });
        let Ok(mut log) = opened else {
            refused += 1;
            continue;
        };
        assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(7, 2)), "octet {at}");
        let all = log.try_get_log_entries(0..100).await.unwrap();
        assert_eq!(all, (0..40).map(|n| entry(n, 2000)).collect::<Vec<_>>(), "octet {at}");
    }
    assert!(refused > 30, "{refused} of 60");
}

#[test]
fn a_log_is_never_opened_as_another_nodes() {
    let disk = MemoryDisk::default();
    assert_eq!(claim(&disk, 7, 1).unwrap(), Claim::New);
    assert_eq!(claim(&disk, 7, 1).unwrap(), Claim::Known);
    assert!(claim(&disk, 7, 2).is_err());
}
