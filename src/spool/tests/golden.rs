//! What a version of a format wrote is read for ever, and what we write is still that.

use super::support::*;
use crate::smtp::Envelope;
use crate::spool::format::{Cut, Kind, RecordHeader, SegmentHeader};
use crate::spool::item::{self, Item};
use crate::spool::record::{
    EntryMeta, Forgotten, Part, encode_forget_meta, encode_mark_meta, header,
};
use crate::spool::sidecar::Sidecar;
use crate::spool::{EntryId, Hold, Mark, read_segment};

const SALT: u64 = 0x0123_4567_89ab_cdef;
const SEGMENT: &[u8] = include_bytes!("golden/segment-v1.bin");
const SIDECAR: &[u8] = include_bytes!("golden/sidecar-v2.bin");

fn id(number: u64) -> EntryId {
    EntryId::new(1_780_000_000_000_000 + number, 3).unwrap()
}

/// One record of each kind.
fn segment_and_sidecar() -> (Vec<u8>, Vec<u8>) {
    let cuts = vec![Cut { segment: 6, end: 5000 }];
    let mut bytes =
        SegmentHeader { segment: 7, node: 3, salt: SALT, id_floor: id(0).micros(), cuts }.encode();
    let mut sidecar = Sidecar::new(7, SALT, 0);
    let json = serde_json::to_vec(&envelope(&["a@one.test", "b@two.test"])).unwrap();
    let marks = vec![delivered(0), deferred(1, 4, 9_000_000)];
    let parts = vec![Part { segment: 7, offset: 4096, octets: 5 }];
    let whole = EntryMeta { envelope: &json, ..EntryMeta::default() };
    let large = EntryMeta { hold: Hold::Operator, marks, parts, envelope: &json };
    let mark = |mark: Mark| encode_mark_meta(7, &mark);
    let records: [(_, _, _, _, &[u8]); 7] = [
        (Kind::Chunk, false, 1, Vec::new(), b"chunk"),
        (Kind::Commit, false, 1, large.encode(), b""),
        (Kind::Message, false, 2, whole.encode(), b"Subject: hi\r\n\r\n..text\r\n"),
        (Kind::Mark, false, 2, mark(deferred(0, 1, 5_000_000)), b""),
        (Kind::Mark, false, 2, mark(Mark::Hold(Hold::Operator)), b""),
        (Kind::Mark, true, 3, mark(delivered(0)), b""),
        (Kind::Forget, true, 4, encode_forget_meta(6, Forgotten::Abandoned), b""),
    ];
    for (kind, ends, number, meta, text) in records {
        let at = u32::try_from(bytes.len()).unwrap();
        let header = RecordHeader { ends, ..header(kind, id(number), &meta, text) };
        header.encode(SALT, at, &mut bytes);
        bytes.extend_from_slice(&meta);
        bytes.extend_from_slice(text);
        if let Some(item) = item::read(at, &header, &meta).unwrap() {
            sidecar.push(&item);
        }
    }
    (sidecar.end, sidecar.id_max) = (u32::try_from(bytes.len()).unwrap(), id(4).micros());
    (bytes, sidecar.encode())
}

#[test]
fn the_bytes_of_each_version_are_still_written() {
    let (segment, sidecar) = segment_and_sidecar();
    if std::env::var_os("GOLDEN_WRITE").is_some() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/spool/tests/golden");
        std::fs::write(dir.join("segment-v1.bin"), &segment).unwrap();
        std::fs::write(dir.join("sidecar-v2.bin"), &sidecar).unwrap();
        return;
    }
    assert!(segment == SEGMENT && sidecar == SIDECAR, "the format changed: raise its version");
}

#[test]
fn the_bytes_of_each_version_are_still_read() {
    let content = read_segment(SEGMENT).unwrap();
    assert_eq!((content.records, content.damaged, content.torn), (7, 0, false));
    let expected: Envelope = envelope(&["a@one.test", "b@two.test"]);
    assert_eq!(content.messages, [(id(2), expected, b"Subject: hi\r\n\r\n..text\r\n".to_vec())]);
    let sidecar = Sidecar::decode(SIDECAR.to_vec()).unwrap();
    let mut position = 0;
    let items: Vec<Item> = std::iter::from_fn(|| sidecar.item_at(&mut position)).collect();
    let ids: Vec<EntryId> = items.iter().map(|item| item.id).collect();
    assert_eq!(ids, [1, 2, 2, 2, 3, 4].map(id));
}

#[test]
fn a_sidecar_with_any_octet_changed_is_none() {
    for at in 0..SIDECAR.len() {
        let mut changed = SIDECAR.to_vec();
        changed[at] ^= 4;
        assert_eq!(Sidecar::decode(changed), None, "octet {at}");
        assert_eq!(Sidecar::decode(SIDECAR[..at].to_vec()), None, "cut at {at}");
    }
}
