//! What a node remembers of return paths that it has given out: who the sender is, where that may
//! matter, and which reports have come back.
//!
//! A line of JSON each, synced, in a file for the day on which the tag expires; the file goes when
//! that day is over. What has come back is also in memory, to be asked for each report.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::Tag;
use crate::smtp::Envelope;
use crate::spool::EntryId;
use crate::system::clock::wall_ms;

const DAY_S: u64 = 86_400;
const SUFFIX: &str = ".returns";
/// Who wrote to whom is for the node's user only.
const PRIVATE: u32 = 0o600;

/// A delivery whose sender is told if its report comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// The message.
    pub id: EntryId,
    /// Which of its recipients.
    pub recipient: u16,
    /// Its envelope, for that recipient only.
    pub envelope: Envelope,
    /// The beginning of its header, to be shown to the sender.
    pub header: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Record {
    Sent(Box<Sent>),
    Came { id: EntryId, recipient: u16 },
}

/// The records of a node. Clones are handles to the same ones.
#[derive(Debug, Clone)]
pub struct Returns {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    files: Mutex<Files>,
    /// What has come back, with the day of its file. Never locked while a file is written.
    came: Mutex<HashMap<(EntryId, u16), u64>>,
    came_max: usize,
}

#[derive(Debug)]
struct Files {
    dir: PathBuf,
    /// The day and its file, the last one that was written to.
    open: Option<(u64, File)>,
}

/// Whether a report about a recipient has come before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// It has not.
    New,
    /// It has.
    Seen,
    /// Too many are remembered to say: `returns_kept_max`.
    Full,
}

impl Returns {
    /// The records in `dir`; made if missing. Those of days that are over are removed, and of what
    /// has come back at most `came_max` are remembered.
    pub fn open(dir: &Path, came_max: usize) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let files = Files { dir: dir.to_owned(), open: None };
        files.remove_before(today())?;
        let mut came = HashMap::new();
        for (day, path) in files.days()? {
            read(&path, |record| {
                if let Record::Came { id, recipient } = record {
                    came.insert((id, recipient), day);
                }
            })?;
        }
        let shared = Shared { files: Mutex::new(files), came: Mutex::new(came), came_max };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Remember a delivery under this tag. Blocks for a sync.
    pub fn keep(&self, tag: &Tag, sent: Sent) -> io::Result<()> {
        self.write(day(tag), &Record::Sent(Box::new(sent)))
    }

    /// The delivery under this tag; `None` if this node knows of none. Blocks.
    pub fn sent(&self, tag: &Tag) -> io::Result<Option<Sent>> {
        let path = self.files().path(day(tag));
        let mut found = None;
        read(&path, |record| {
            if let Record::Sent(sent) = record
                && (sent.id, sent.recipient) == (tag.id, tag.recipient)
            {
                found = Some(*sent);
            }
        })?;
        Ok(found)
    }

    /// Whether a report about this recipient has come before.
    pub fn before(&self, tag: &Tag) -> Before {
        let came = self.came();
        match came.contains_key(&(tag.id, tag.recipient)) {
            true => Before::Seen,
            false if came.len() >= self.shared.came_max => Before::Full,
            false => Before::New,
        }
    }

    /// A report about this recipient has come. Blocks for a sync.
    pub fn note(&self, tag: &Tag) -> io::Result<()> {
        let (id, recipient) = (tag.id, tag.recipient);
        self.write(day(tag), &Record::Came { id, recipient })?;
        self.came().insert((id, recipient), day(tag));
        Ok(())
    }

    fn write(&self, day: u64, record: &Record) -> io::Result<()> {
        let is_new_day = self.files().write(day, record)?;
        if is_new_day {
            let today = today();
            self.files().remove_before(today)?;
            self.came().retain(|_, day| *day >= today);
        }
        Ok(())
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.shared.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn came(&self) -> MutexGuard<'_, HashMap<(EntryId, u16), u64>> {
        self.shared.came.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files {
    fn path(&self, day: u64) -> PathBuf {
        self.dir.join(format!("{day:06}{SUFFIX}"))
    }

    /// Files by day.
    fn days(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let mut days = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let day = name.and_then(|name| name.strip_suffix(SUFFIX)?.parse().ok());
            days.extend(day.map(|day| (day, path)));
        }
        Ok(days)
    }

    /// Append and sync; whether it is the first record of its day.
    fn write(&mut self, day: u64, record: &Record) -> io::Result<bool> {
        let mut is_new = false;
        if self.open.as_ref().is_none_or(|(open, _)| *open != day) {
            let path = self.path(day);
            is_new = !path.exists();
            let mut file = File::options().create(true).append(true).mode(PRIVATE).open(&path)?;
            // After a crash the last line may have no end.
            file.write_all(b"\n")?;
            if is_new {
                File::open(&self.dir)?.sync_all()?;
            }
            self.open = Some((day, file));
        }
        let Some((_, file)) = &mut self.open else { return Ok(false) };
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        let written = file.write_all(&line).and_then(|()| file.sync_data());
        if written.is_err() {
            self.open = None;
        }
        written.map(|()| is_new)
    }

    fn remove_before(&self, today: u64) -> io::Result<()> {
        let old = self.days()?.into_iter().filter(|(day, _)| *day < today);
        old.map(|(_, path)| path).try_for_each(std::fs::remove_file)
    }
}

/// Read a file, line by line; what a crash has cut is passed over.
fn read(path: &Path, mut see: impl FnMut(Record)) -> io::Result<()> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for line in BufReader::new(file).split(b'\n') {
        if let Ok(record) = serde_json::from_slice(&line?) {
            see(record);
        }
    }
    Ok(())
}

fn today() -> u64 {
    wall_ms() / 1000 / DAY_S
}

fn day(tag: &Tag) -> u64 {
    u64::from(tag.expires_s) / DAY_S
}

#[cfg(test)]
mod tests {
    use mxfleet_cluster::{ReturnKey, Secret};

    use super::*;
    use crate::client::testing::envelope;

    fn tag(micros: u64, recipient: u16, in_days: i64) -> Tag {
        let key = ReturnKey { number: 1, since_ms: 0, secret: Secret::new([1; 32]) };
        let now_s = i64::try_from(wall_ms() / 1000).unwrap();
        let expires_s = u32::try_from(now_s + in_days * 86_400).unwrap();
        let id = EntryId::new(micros, 1).unwrap();
        Tag::new(&key, id, recipient, "a@acme.test", None, expires_s)
    }

    fn sent(tag: &Tag) -> Sent {
        let (envelope, header) = (envelope(&["a@acme.test"]), "Subject: x\r\n".to_owned());
        Sent { id: tag.id, recipient: tag.recipient, envelope, header }
    }

    fn open(dir: &tempfile::TempDir) -> Returns {
        Returns::open(dir.path(), 3).unwrap()
    }

    #[test]
    fn what_was_sent_and_what_came_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let returns = open(&dir);
        let (one, two, far) = (tag(1, 0, 5), tag(1, 1, 5), tag(2, 0, 9));
        for tag in [&one, &two, &far] {
            returns.keep(tag, sent(tag)).unwrap();
        }
        returns.note(&one).unwrap();
        returns.note(&far).unwrap();
        for returns in [returns, open(&dir)] {
            let before = [&one, &two, &far].map(|tag| returns.before(tag));
            assert_eq!(before, [Before::Seen, Before::New, Before::Seen]);
            for tag in [&one, &two, &far] {
                assert_eq!(returns.sent(tag).unwrap(), Some(sent(tag)));
            }
            assert_eq!(returns.sent(&tag(3, 0, 5)).unwrap(), None);
            assert_eq!(returns.sent(&tag(1, 0, 7)).unwrap(), None);
        }
    }

    #[test]
    fn a_day_that_is_over_is_forgotten_and_so_much_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let returns = open(&dir);
        let old = tag(1, 0, -1);
        returns.note(&old).unwrap();
        assert_eq!(returns.before(&old), Before::Seen);
        for recipient in 0..3 {
            assert_eq!(returns.before(&tag(2, recipient, 1)), Before::New);
            returns.note(&tag(2, recipient, 1)).unwrap();
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(returns.before(&old), Before::Full);
        assert_eq!(returns.before(&tag(2, 2, 1)), Before::Seen);
    }

    #[test]
    fn a_line_that_a_crash_cut_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (tag(1, 0, 5), tag(2, 0, 5));
        open(&dir).note(&one).unwrap();
        let path = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"{\"came\":{\"id\":").unwrap();
        open(&dir).note(&two).unwrap();
        let returns = open(&dir);
        assert_eq!([one, two].map(|tag| returns.before(&tag)), [Before::Seen; 2]);
    }
}
