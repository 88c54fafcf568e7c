//! Snapshots: plain files, written and read as a stream of small records.
//!
//! A file is a head (whose it is, up to which log entry), the parts of the state, and a tail that
//! says how many parts there were and their digest. It is written beside its final name, synced,
//! renamed, and the folder synced, so a file with a final name is whole. The newest one counts;
//! older ones are deleted after that.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use crate::codec::{self, HEAD_OCTETS, Kind};
use crate::raft::{LogId, SnapshotMeta};
use crate::state::{Hash, Part, State};

const SUFFIX: &str = "snap";
const PARTIAL: &str = "partial";
/// The largest snapshot taken from another node: 10 million blacklist keys are about 0.3 GB.
pub(crate) const FILE_OCTETS_MAX: u64 = 8 << 30;

/// A finished snapshot, or the place where one is being received.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotFile {
    pub(crate) path: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    fleet: u128,
    meta: SnapshotMeta,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Tail {
    parts: u64,
    digest: Hash,
}

/// The folder of a node's snapshots.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotDir {
    dir: PathBuf,
    fleet: u128,
}

impl SnapshotDir {
    /// The folder, made if it is not there. Unfinished files of an earlier life are removed.
    ///
    /// `purged` is the end of what the log has let go of. openraft purges it as soon as it has a
    /// snapshot from another node, which takes its final name later: a crash in between leaves a
    /// whole file, and nothing else has what it holds.
    pub(crate) fn open(dir: PathBuf, fleet: u128, purged: Option<LogId>) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        let this = Self { dir, fleet };
        let newest = this.newest()?.and_then(|file| index_of(&file.path));
        let missing = purged.filter(|purged| newest.is_none_or(|newest| newest < purged.index));
        for entry in fs::read_dir(&this.dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|e| e != PARTIAL) {
                continue;
            }
            match missing {
                Some(missing) if this.adopt(&path, missing)? => {}
                _ => fs::remove_file(path)?,
            }
        }
        Ok(this)
    }

    /// Give a file its final name if it is the whole snapshot that is missing.
    fn adopt(&self, partial: &Path, missing: LogId) -> io::Result<bool> {
        match read_file(partial, self.fleet) {
            Ok((meta, _)) if meta.last_log_id == Some(missing) => {
                self.finish(partial, &meta)?;
                tracing::info!(index = missing.index, "a snapshot that had arrived is taken over");
                Ok(true)
            }
            // A newer program can read it.
            Err(error) if codec::is_newer(&error) => Err(error),
            Err(error) if error.kind() != io::ErrorKind::InvalidData => Err(error),
            Ok(_) | Err(_) => Ok(false),
        }
    }

    /// The newest snapshot's file.
    pub(crate) fn newest(&self) -> io::Result<Option<SnapshotFile>> {
        let mut newest: Option<(u64, PathBuf)> = None;
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if let Some(index) = index_of(&path)
                && newest.as_ref().is_none_or(|(best, _)| *best < index)
            {
                newest = Some((index, path));
            }
        }
        Ok(newest.map(|(_, path)| SnapshotFile { path }))
    }

    /// Write `state` as the snapshot `meta`.
    pub(crate) fn write(&self, meta: &SnapshotMeta, state: &State) -> io::Result<SnapshotFile> {
        let partial = self.partial(&meta.snapshot_id);
        write_to(File::create(&partial)?, self.fleet, meta, state)?;
        self.finish(&partial, meta)
    }

    /// A place to receive a snapshot in.
    pub(crate) fn receiving(&self, id: &str) -> SnapshotFile {
        SnapshotFile { path: self.partial(id) }
    }

    /// Check a received file and read its state; it gets its final name.
    pub(crate) fn install(&self, received: &Path, meta: &SnapshotMeta) -> io::Result<State> {
        let (found, state) = read_file(received, self.fleet)?;
        if found != *meta {
            return Err(damaged("it is not the snapshot it was announced as"));
        }
        if received.parent() != Some(&self.dir) {
            let partial = self.partial(&meta.snapshot_id);
            fs::copy(received, &partial)?;
            self.finish(&partial, meta)?;
        } else if received.extension().is_some_and(|e| e == PARTIAL) {
            self.finish(received, meta)?;
        }
        Ok(state)
    }

    /// Read a snapshot of this fleet.
    pub(crate) fn read(&self, file: &SnapshotFile) -> io::Result<(SnapshotMeta, State)> {
        read_file(&file.path, self.fleet)
    }

    /// Only what a snapshot is, not its content.
    pub(crate) fn meta(&self, file: &SnapshotFile) -> io::Result<SnapshotMeta> {
        let head: Head = read_record(&mut File::open(&file.path)?, Kind::SnapshotHead)?.0;
        Ok(head.meta)
    }

    fn partial(&self, id: &str) -> PathBuf {
        let id: String = id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        self.dir.join(format!("{id}.{PARTIAL}"))
    }

    fn finish(&self, partial: &Path, meta: &SnapshotMeta) -> io::Result<SnapshotFile> {
        let index = meta.last_log_id.map_or(0, |id| id.index);
        let path = self.dir.join(format!("{index:020}.{SUFFIX}"));
        File::open(partial)?.sync_all()?;
        fs::rename(partial, &path)?;
        File::open(&self.dir)?.sync_all()?;
        self.remove_older(index);
        Ok(SnapshotFile { path })
    }

    /// An old file that stays costs space and nothing else.
    fn remove_older(&self, than: u64) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            if index_of(&path).is_some_and(|index| index < than)
                && let Err(error) = fs::remove_file(&path)
            {
                tracing::warn!(path = %path.display(), %error, "an old snapshot stays");
            }
        }
    }
}

fn index_of(path: &Path) -> Option<u64> {
    if path.extension()? != SUFFIX {
        return None;
    }
    path.file_stem()?.to_str()?.parse().ok()
}

/// Write a snapshot to a file and sync it.
pub(crate) fn write_to(
    file: File,
    fleet: u128,
    meta: &SnapshotMeta,
    state: &State,
) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(256 << 10, file);
    out.write_all(&codec::encode(Kind::SnapshotHead, &Head { fleet, meta: meta.clone() })?)?;
    let mut digest = Context::new(&SHA256);
    let mut parts = 0;
    for part in state.parts() {
        let bytes = codec::encode(Kind::SnapshotPart, &part)?;
        digest.update(&bytes);
        out.write_all(&bytes)?;
        parts += 1;
    }
    let tail = Tail { parts, digest: finish(digest) };
    out.write_all(&codec::encode(Kind::SnapshotTail, &tail)?)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

fn read_file(path: &Path, fleet: u128) -> io::Result<(SnapshotMeta, State)> {
    read_from(BufReader::with_capacity(256 << 10, File::open(path)?), Some(fleet))
}

/// Read a snapshot, checking all of it.
pub(crate) fn read_from(
    mut input: impl Read,
    fleet: Option<u128>,
) -> io::Result<(SnapshotMeta, State)> {
    let (head, _): (Head, _) = read_record(&mut input, Kind::SnapshotHead)?;
    if fleet.is_some_and(|fleet| fleet != head.fleet) {
        return Err(damaged("it is another fleet's"));
    }
    let mut state = State::default();
    let mut digest = Context::new(&SHA256);
    let mut parts = 0;
    loop {
        let bytes = read_bytes(&mut input)?;
        if bytes[5] == Kind::SnapshotTail as u8 {
            let tail: Tail = codec::decode(Kind::SnapshotTail, &bytes)?;
            if (tail != Tail { parts, digest: finish(digest) }) || input.read(&mut [0])? != 0 {
                return Err(damaged("its parts are not the ones it was written with"));
            }
            return Ok((head.meta, state));
        }
        digest.update(&bytes);
        parts += 1;
        let part: Part = codec::decode(Kind::SnapshotPart, &bytes)?;
        state.absorb(part);
    }
}

/// SHA-256 over the parts of a state: equal states, equal digests.
pub(crate) fn digest(state: &State) -> io::Result<Hash> {
    let mut digest = Context::new(&SHA256);
    for part in state.parts() {
        digest.update(&codec::encode(Kind::SnapshotPart, &part)?);
    }
    Ok(finish(digest))
}

fn finish(digest: Context) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.finish().as_ref());
    hash
}

fn read_record<T: serde::de::DeserializeOwned>(
    input: &mut impl Read,
    kind: Kind,
) -> io::Result<(T, Vec<u8>)> {
    let bytes = read_bytes(input)?;
    Ok((codec::decode(kind, &bytes)?, bytes))
}

fn read_bytes(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = [0; HEAD_OCTETS];
    input.read_exact(&mut head).map_err(short)?;
    let (_, length) = codec::read_head(&head)?;
    let mut bytes = head.to_vec();
    bytes.resize(HEAD_OCTETS + length, 0);
    input.read_exact(&mut bytes[HEAD_OCTETS..]).map_err(short)?;
    Ok(bytes)
}

fn short(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged("it is cut short"),
        _ => error,
    }
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Command, Request};

    fn sample() -> State {
        let mut state = State::default();
        for n in 0..100 {
            let _ = state.apply(n, &Request::new(n.into(), "ops", n, Command::Tick));
        }
        state
    }

    #[test]
    fn a_snapshot_reads_back_and_a_newer_one_replaces_it() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = SnapshotDir::open(dir.path().join("s"), 7, None).unwrap();
        assert!(snapshots.newest().unwrap().is_none());
        let state = sample();
        let mut meta = SnapshotMeta { snapshot_id: "a".to_owned(), ..Default::default() };
        snapshots.write(&meta, &state).unwrap();
        meta.last_log_id = Some(openraft::testing::log_id(1, 1, 99));
        snapshots.write(&meta, &state).unwrap();
        let newest = snapshots.newest().unwrap().unwrap();
        let (found, read) = snapshots.read(&newest).unwrap();
        assert_eq!(found, meta);
        assert_eq!(digest(&read).unwrap(), digest(&state).unwrap());
        assert_eq!(fs::read_dir(dir.path().join("s")).unwrap().count(), 1);
        let other = SnapshotDir::open(dir.path().join("s"), 8, None).unwrap();
        assert!(other.read(&newest).is_err(), "another fleet's");
    }

    #[test]
    fn a_snapshot_that_arrived_before_a_crash_is_taken_if_the_log_counts_on_it() {
        let dir = tempfile::tempdir().unwrap();
        let arrived = dir.path().join("received-1.partial");
        let last = openraft::testing::log_id(1, 1, 99);
        let meta = SnapshotMeta { last_log_id: Some(last), ..Default::default() };
        let write = || write_to(File::create(&arrived).unwrap(), 7, &meta, &sample()).unwrap();
        let open = |purged| SnapshotDir::open(dir.path().to_owned(), 7, purged).unwrap();
        let cases = [None, Some(openraft::testing::log_id(1, 1, 98)), Some(last)];
        for purged in cases {
            write();
            let found = open(purged).newest().unwrap();
            assert_eq!(found.is_some(), purged == Some(last), "{purged:?}");
            assert!(!arrived.exists());
        }
        assert_eq!(
            open(Some(last)).newest().unwrap().map(|s| open(None).meta(&s).unwrap()),
            Some(meta.clone())
        );
        fs::remove_file(dir.path().join(format!("{:020}.snap", 99))).unwrap();
        write();
        let whole = fs::read(&arrived).unwrap();
        fs::write(&arrived, &whole[..whole.len() - 1]).unwrap();
        assert!(open(Some(last)).newest().unwrap().is_none(), "it is cut short");
    }

    #[test]
    fn every_cut_and_flipped_octet_of_a_snapshot_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        write_to(File::create(&path).unwrap(), 7, &SnapshotMeta::default(), &sample()).unwrap();
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            fs::write(&path, &good[..at]).unwrap();
            assert!(read_file(&path, 7).is_err(), "cut at {at}");
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            fs::write(&path, &bad).unwrap();
            assert!(read_file(&path, 7).is_err(), "octet {at}");
        }
        let longer = [good.as_slice(), b"x"].concat();
        fs::write(&path, longer).unwrap();
        assert!(read_file(&path, 7).is_err(), "something after the end");
    }
}
