//! Octets that are not what was written: found, counted, set aside, and nothing else is lost.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::support::*;
use crate::spool::sim_fs::{Random, SimFs};
use crate::spool::{EntryId, OpenError, ReadError, Spool, read_segment};

fn segments(fs: &SimFs) -> Vec<PathBuf> {
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|end| end == "seg");
    fs.names().into_iter().filter(is_segment).collect()
}

fn find(content: &[u8], needle: &[u8]) -> usize {
    content.windows(needle.len()).position(|window| window == needle).unwrap()
}

/// Three entries, each text recognisable, after a clean end.
async fn three() -> (SimFs, Vec<EntryId>) {
    let fs = SimFs::new();
    let (spool, _) = open(&fs);
    let mut ids = Vec::new();
    for text in [&b"first text"[..], b"second text", b"third text"] {
        ids.push(put(&spool, &["a@one.test"], text).await.unwrap().id);
    }
    spool.close().await.unwrap();
    (fs.kill(), ids)
}

#[tokio::test]
async fn a_flipped_text_is_set_aside_at_the_start_and_its_neighbours_are_not() {
    let (fs, ids) = three().await;
    fs.damage(&segments(&fs)[0], |content| {
        let at = find(content, b"second text");
        content[at] ^= 1;
    });
    let (spool, recovered) = open(&fs);
    assert_eq!(recovered.report().quarantined, 1);
    assert_eq!(recovered_ids(recovered), [ids[0], ids[2]]);
    assert_eq!(spool.stats().quarantined, 1);
    let kept = fs.names().into_iter().find(|path| path.starts_with("/spool/quarantine")).unwrap();
    assert!(kept.to_str().unwrap().contains(&ids[1].to_string()));
    find(&fs.content(&kept).unwrap(), b"recond text".as_slice());
    spool.close().await.unwrap();
    let (spool, recovered) = open(&fs);
    assert_eq!((recovered.report().quarantined, spool.stats().quarantined), (0, 1));
    assert_eq!(recovered_ids(recovered), [ids[0], ids[2]]);
}

#[tokio::test]
async fn a_flipped_record_header_does_not_lose_what_follows() {
    let (fs, ids) = three().await;
    fs.damage(&segments(&fs)[0], |content| {
        let at = find(content, b"first text") + b"first text".len();
        content[at + 9] ^= 0x40;
    });
    let (spool, recovered) = open(&fs);
    assert_eq!(recovered.report().quarantined, 1);
    assert_eq!(recovered_ids(recovered), [ids[0], ids[2]]);
    assert_eq!(spool.stats().quarantined, 1);
}

#[tokio::test]
async fn a_text_that_goes_bad_later_is_set_aside_when_it_is_read() {
    let fs = SimFs::new();
    let (spool, _) = open(&fs);
    let small = put(&spool, &["a@one.test"], b"small text").await.unwrap();
    let large = put(&spool, &["a@one.test"], &text(8, 30_000)).await.unwrap();
    let good = put(&spool, &["a@one.test"], b"good text").await.unwrap();
    let needle = text(8, 30_000)[20_000..20_016].to_vec();
    fs.damage(&segments(&fs)[0], |content| {
        for at in [find(content, b"small text"), find(content, &needle)] {
            content[at] ^= 1;
        }
    });
    let error = spool.load(small.id).err();
    assert!(matches!(error, Some(ReadError::Quarantined(id)) if id == small.id), "{error:?}");
    let mut reader = spool.load(large.id).unwrap().unwrap().text();
    let mut read = 0;
    let error = loop {
        match reader.next_chunk().await {
            Ok(piece) => read += piece.unwrap().len(),
            Err(error) => break error,
        }
    };
    assert!(read <= 20_000 && matches!(error, ReadError::Quarantined(id) if id == large.id));
    spool.flush().await.unwrap();
    assert_eq!(spool.ids(), [good.id]);
    assert_eq!(spool.stats().quarantined, 2);
    spool.close().await.unwrap();
    let (_, recovered) = open(&fs.kill());
    assert_eq!(recovered_ids(recovered), [good.id]);
}

#[tokio::test]
async fn a_damaged_record_of_an_entry_that_has_ended_is_nobodys_loss() {
    let fs = SimFs::new();
    let (spool, _) = open(&fs);
    let gone = put(&spool, &["a@one.test"], b"gone text").await.unwrap();
    let kept = put(&spool, &["a@one.test"], b"kept text").await.unwrap();
    spool.record(gone.id, vec![delivered(0)]);
    spool.close().await.unwrap();
    fs.damage(&segments(&fs)[0], |content| {
        let at = find(content, b"gone text");
        content[at] ^= 1;
    });
    let (spool, recovered) = open(&fs.kill());
    assert_eq!(recovered.report().quarantined, 0);
    assert_eq!(recovered_ids(recovered), [kept.id]);
    assert_eq!(spool.stats().quarantined, 0);
}

#[tokio::test]
async fn a_tail_torn_at_any_octet_is_cut_and_counted() {
    let (fs, ids) = three().await;
    let path = segments(&fs)[0].clone();
    let whole = fs.content(&path).unwrap();
    let start = find(&whole, b"second text") + b"second text".len();
    for end in start..whole.len() {
        // Torn with the file, and with zeros after it as in reserved space.
        for zeros in [0, 5000] {
            fs.damage(&path, |content| {
                *content = whole[..end].to_vec();
                content.resize(end + zeros, 0);
            });
            let fs = fs.kill();
            let (spool, recovered) = open(&fs);
            let report = recovered.report();
            assert_eq!(report.torn_tails, u64::from(end > start), "at {end}");
            assert_eq!(report.quarantined, 0);
            assert_eq!(recovered_ids(recovered), ids[..2]);
            spool.close().await.unwrap();
            let (_, recovered) = open(&fs.kill());
            assert_eq!(recovered.report().torn_tails, 0);
            assert_eq!(recovered_ids(recovered), ids[..2]);
        }
    }
}

#[tokio::test]
async fn a_segment_without_a_readable_header_goes_to_the_quarantine_whole() {
    let (fs, _) = three().await;
    fs.damage(&segments(&fs)[0], |content| content[..4096].fill(0));
    let (spool, recovered) = open(&fs);
    assert_eq!(recovered.report().quarantined, 1);
    assert_eq!(recovered_ids(recovered), []);
    assert_eq!(spool.stats().quarantined, 1);
    put(&spool, &["a@one.test"], b"new").await.unwrap();
}

#[tokio::test]
async fn a_spool_of_a_newer_version_is_refused() {
    let (fs, _) = three().await;
    fs.damage(&segments(&fs)[0], |content| (content[8], content[8 + 2048]) = (9, 9));
    let opened = Spool::open_quiet(config(limits()), Arc::new(fs));
    assert!(matches!(opened, Err(OpenError::Newer { version: 9, .. })));
}

#[tokio::test]
async fn a_missing_or_damaged_sidecar_is_made_again() {
    let fs = SimFs::new();
    let (spool, _) = open(&fs);
    for number in 0..40 {
        put(&spool, &["a@one.test"], &text(number, 6000)).await.unwrap();
    }
    upkeep(&spool);
    spool.close().await.unwrap();
    let (_, recovered) = open(&fs.kill());
    // The last segment was sealed by the end of the writer, and upkeep had no time for it.
    assert_eq!(recovered.report().scanned, 1);
    drop(recovered);
    let fs = fs.kill();
    for path in fs.names().iter().filter(|path| path.extension().is_some_and(|e| e == "idx")) {
        let middle = fs.content(path).unwrap().len() / 2;
        fs.damage(path, |content| content[middle] ^= 1);
    }
    let (_, recovered) = open(&fs);
    assert!(recovered.report().scanned > 3);
    assert_eq!(recovered_ids(recovered).len(), 40);
}

#[test]
fn any_bytes_can_be_read_as_a_segment_and_yield_nothing_that_was_not_written() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bytes = runtime.block_on(async {
        let fs = SimFs::new();
        let (spool, _) = open(&fs);
        for number in 0..5_u64 {
            // Text that looks like records, which it is not without the salt.
            let text = b"\x8dMR\n\x01\0".repeat(20 * usize::try_from(number).unwrap());
            let queued = put(&spool, &["a@one.test"], &text).await.unwrap();
            spool.record(queued.id, vec![deferred(0, 1, 5)]);
        }
        put(&spool, &["a@one.test"], &text(1, 9000)).await.unwrap();
        spool.flush().await.unwrap();
        fs.content(Path::new("/spool/00000001.seg")).unwrap()
    });
    let whole = read_segment(&bytes).unwrap();
    assert_eq!((whole.messages.len(), whole.damaged, whole.torn), (5, 0, false));
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let check = |bytes: &[u8]| {
        let Some(read) = read_segment(bytes) else { return };
        for message in &read.messages {
            assert!(whole.messages.contains(message));
        }
    };
    for cut in (0..end).step_by(7) {
        check(&bytes[..cut]);
    }
    let mut random = Random(7);
    for at in (0..end).step_by(3) {
        let mut flipped = bytes[..end].to_vec();
        flipped[at] ^= 1 << random.below(8);
        check(&flipped);
    }
    for _ in 0..500 {
        let mut mixed = bytes[..end].to_vec();
        for _ in 0..=random.below(4) {
            let (from, to) = (random.below(end), random.below(end));
            let octets = random.below(300).min(end - from.max(to));
            mixed.copy_within(from..from + octets, to);
        }
        check(&mixed);
        check(&text(random.next_u64(), random.below(9000)));
    }
}
