//! What the fuzz targets check of bytes that come from disks and other nodes. The tests below run
//! the same on damaged copies of the golden files.
//!
//! Each body is given octets as they are, and again in an envelope whose checksum is right, so that
//! they come as far as the decoder of the content.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{self, Kind};
use crate::raft::{Entry, Replies, Vote};
use crate::snapshot;
use crate::state::{Command, NewHost, Part, Request, State};
use crate::transport::wire::{Answer, Ask, Call};

/// More log than this is not applied from one input.
const REQUESTS_MAX: usize = 64;

/// Everything that is decoded is either refused, or written again as what it is.
pub fn decode(data: &[u8]) {
    kept::<Entry>(Kind::Entry, data);
    kept::<Vote>(Kind::Meta, data);
    kept::<Vec<Request>>(Kind::Batch, data);
    kept::<Call>(Kind::Call, data);
    kept::<Answer>(Kind::Answer, data);
    kept::<Replies>(Kind::Answer, data);
    kept::<Part>(Kind::SnapshotPart, data);
    kept::<(NewHost, Vec<u8>)>(Kind::Join, data);
}

fn kept<T: Serialize + DeserializeOwned>(kind: Kind, data: &[u8]) {
    for bytes in [data.to_vec(), codec::seal(kind, data)] {
        let Ok(value) = codec::decode::<T>(kind, &bytes) else { continue };
        let Ok(once) = codec::encode(kind, &value) else { continue };
        let again: Result<T, _> = codec::decode(kind, &once);
        let twice = again.and_then(|value| codec::encode(kind, &value));
        assert_eq!(Ok(once), twice, "it is not what was written");
    }
}

/// A call from another node, and what its requests do to a state: that is total, and the state can
/// be taken apart and put together again.
pub fn call(data: &[u8]) {
    let Ok(call) = Call::decode(&codec::seal(Kind::Call, data)) else { return };
    let requests = match call.ask {
        Ask::Propose(request) => vec![Request::clone(&request)],
        Ask::Append(append) => append
            .entries
            .into_iter()
            .filter_map(|entry| match entry.payload {
                openraft::EntryPayload::Normal(batch) => {
                    batch.read().ok().map(|(requests, _)| requests)
                }
                _ => None,
            })
            .flatten()
            .collect(),
        _ => return,
    };
    apply(&requests);
}

/// Requests that share a log entry, as in [`call`].
pub fn requests(data: &[u8]) {
    if let Ok(requests) =
        codec::decode::<Vec<Request>>(Kind::Batch, &codec::seal(Kind::Batch, data))
    {
        apply(&requests);
    }
}

fn apply(requests: &[Request]) {
    let mut state = State::default();
    for (index, request) in (1..).zip(requests.iter().take(REQUESTS_MAX)) {
        let (first, again) = (state.apply(index, request), state.apply(index, request));
        assert_eq!(first, again, "a request is done once");
    }
    let mut copy = State::default();
    for part in state.parts() {
        assert!(codec::encode(Kind::SnapshotPart, &part).is_ok(), "a part is too large");
        copy.absorb(part);
    }
    assert!(snapshot::digest(&copy).ok() == snapshot::digest(&state).ok());
}

/// A snapshot's file, and a part of one whose checksums are right: what a state put together from
/// it does is bounded, and it goes on.
pub fn snapshot(data: &[u8]) {
    if let Ok((_, state)) = snapshot::read_from(data, None) {
        assert!(snapshot::digest(&state).is_ok());
    }
    let kind = Kind::SnapshotPart;
    let Ok(part) = codec::decode::<Part>(kind, &codec::seal(kind, data)) else { return };
    let mut state = State::default();
    state.absorb(part);
    assert!(snapshot::digest(&state).is_ok());
    let tick = Request {
        id: 1,
        actor: "fleet".to_owned(),
        at_ms: 1_800_000_000_000,
        expected_version: None,
        command: Command::Tick,
    };
    let _ = state.apply(state.applied_index().saturating_add(1), &tick); // ends, whatever it says
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hex;
    use crate::state::mix;

    /// The bodies of all golden files.
    fn corpus() -> Vec<Vec<u8>> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let read = |path| {
            let text = std::fs::read_to_string(path).unwrap();
            hex::decode(text.trim_end()).unwrap().split_off(codec::HEAD_OCTETS)
        };
        let mut all: Vec<Vec<u8>> = files.map(read).collect();
        all.sort();
        all
    }

    /// Copies of `data` with some octets changed, taken out, put in, and cut.
    fn damaged(data: &[u8], seed: u64) -> Vec<u8> {
        let mut next = seed;
        let mut below = |end: usize| {
            next = mix(next.wrapping_add(1));
            usize::try_from(next % (end as u64).max(1)).unwrap()
        };
        let mut copy = data.to_vec();
        for _ in 0..=below(4) {
            let at = below(copy.len());
            match below(4) {
                0 if at < copy.len() => copy[at] ^= 1 << below(8),
                1 if at < copy.len() => copy[at] = [0, 1, 0x7f, 0xfb, 0xfc, 0xfd, 0xff][below(7)],
                2 => copy.insert(at, [0, 253, 255][below(3)]),
                _ => copy.truncate(copy.len() - below(copy.len().min(8) + 1)),
            }
        }
        copy
    }

    #[test]
    fn damaged_golden_files_are_read_or_refused() {
        for (number, data) in (0_u64..).zip(corpus()) {
            for seed in 0..60 {
                let bytes = damaged(&data, number << 32 | seed);
                decode(&bytes);
                snapshot(&bytes);
                call(&bytes);
                requests(&bytes);
            }
        }
    }

    #[test]
    fn a_damaged_snapshot_is_read_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut state = State::default();
        let requests = corpus().into_iter().filter_map(|data| {
            codec::decode::<Vec<Request>>(Kind::Batch, &codec::seal(Kind::Batch, &data)).ok()
        });
        for (index, request) in (1..).zip(requests.flatten()) {
            let _ = state.apply(index, &request); // refusals are part of the state too
        }
        let file = std::fs::File::create(&path).unwrap();
        snapshot::write_to(file, 7, &Default::default(), &state).unwrap();
        let good = std::fs::read(path).unwrap();
        assert!(snapshot::read_from(good.as_slice(), None).is_ok());
        for seed in 0..2000 {
            snapshot(&damaged(&good, seed));
        }
    }
}
