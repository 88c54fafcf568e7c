//! The outbox on disk: files of [`Record`] lines, written and synced by a thread of its own.
//!
//! Events that come together share one sync. A file that failed is given up and gets no more
//! lines; reading stops at the first damaged line of a file, which is where a crash cut it.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use tokio::sync::oneshot;

use super::record::{Batch, Event, EventKey, Record};
use super::reporter::Shared;
use crate::telemetry::metrics::METRICS;

/// A new file is begun after so many octets.
const FILE_OCTETS: u64 = 1 << 20;
const SUFFIX: &str = ".outbox";
/// Recipients are for the node's user only.
const PRIVATE: u32 = 0o600;
const INCARNATION_FILE: &str = "incarnation";

/// Why the outbox cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {source}")]
pub struct OutboxError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl OutboxError {
    /// The writing thread could not be started.
    pub(super) fn thread(dir: &Path, source: io::Error) -> Self {
        Self { action: "start the thread that writes", path: dir.to_owned(), source }
    }
}

/// What the thread is asked to write. Answers tell whether it is on stable storage.
pub(super) enum Ask {
    /// Events, which go into the backlog as soon as they are safe.
    Events(Vec<Event>, oneshot::Sender<bool>),
    /// What is proposed next.
    Batch(Batch, oneshot::Sender<bool>),
    /// All up to this number are decided or dropped. Needs no sync: proposing again does no harm.
    Through(u64),
    /// The spool has synced all it was told, so old files may go.
    Trim,
}

/// What was found on disk.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Events that are not decided, in order of their numbers.
    pub(super) waiting: Vec<(u64, Event)>,
    /// The batch that was on its way.
    pub(super) batch: Option<Batch>,
    /// Keys of all events on disk.
    pub(super) keys: HashSet<EventKey>,
    through: u64,
    last: u64,
    files: Vec<OldFile>,
}

/// A file that gets no more lines.
#[derive(Debug)]
struct OldFile {
    path: PathBuf,
    events: Held,
}

/// What a file holds, as far as it matters for when it may go.
#[derive(Debug, Default, Clone, Copy)]
struct Held {
    /// The number of its first event; 0 if it has none.
    first: u64,
    /// The number of its last event.
    last: u64,
    /// Whether it says what a batch is.
    batch: bool,
}

impl Held {
    fn add(&mut self, record: &Record) {
        match record {
            Record::Event(number, _) => {
                self.last = self.last.max(*number);
                self.first = if self.first == 0 { *number } else { self.first.min(*number) };
            }
            Record::Batch(_) => self.batch = true,
            Record::Through(_) | Record::Seen(..) => {}
        }
    }
}

/// Read all of `dir`.
pub(super) fn find(dir: &Path) -> Result<Found, OutboxError> {
    let at = |action, path: &Path| {
        let path = path.to_owned();
        move |source| OutboxError { action, path, source }
    };
    std::fs::create_dir_all(dir).map_err(at("make", dir))?;
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(at("list", dir))? {
        let path = entry.map_err(at("list", dir))?.path();
        if path.to_string_lossy().ends_with(SUFFIX) {
            paths.push(path);
        }
    }
    paths.sort();
    let mut found = Found::default();
    for path in paths {
        let bytes = std::fs::read(&path).map_err(at("read", &path))?;
        let events = found.add(&bytes);
        found.files.push(OldFile { path, events });
    }
    let through = found.through;
    found.waiting.retain(|(number, _)| *number > through);
    found.waiting.sort_by_key(|(number, _)| *number);
    found.batch = found.batch.take().filter(|batch| batch.last > through);
    Ok(found)
}

impl Found {
    /// Take in a file.
    fn add(&mut self, bytes: &[u8]) -> Held {
        let mut held = Held::default();
        for line in bytes.split_inclusive(|octet| *octet == b'\n') {
            let record = line.strip_suffix(b"\n").and_then(Record::read);
            if let Some(record) = &record {
                held.add(record);
            }
            match record {
                Some(Record::Event(number, event)) => {
                    self.keys.insert(event.key());
                    self.waiting.push((number, event));
                }
                Some(Record::Batch(batch)) => {
                    let id = |batch: &Batch| (batch.incarnation, batch.sequence);
                    if self.batch.as_ref().is_none_or(|known| id(known) < id(&batch)) {
                        self.batch = Some(batch);
                    }
                }
                Some(Record::Through(number)) => self.through = self.through.max(number),
                Some(Record::Seen(entry, recipient)) => {
                    self.keys.insert((entry, recipient));
                }
                None => {
                    tracing::warn!("a file of the outbox ends in an unfinished line");
                    break;
                }
            }
        }
        self.last = self.last.max(held.last).max(self.through);
        held
    }
}

/// The number of this life of the process: larger than that of any before, and synced. `now_ms`
/// lets it grow even if the file is lost.
pub(super) fn next_incarnation(dir: &Path, now_ms: u64) -> Result<u64, OutboxError> {
    let path = dir.join(INCARNATION_FILE);
    let last = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
    let incarnation = last.map_or(0, |last: u64| last + 1).max(now_ms);
    let write = || {
        let beside = path.with_extension("new");
        let mut file = File::create(&beside)?;
        writeln!(file, "{incarnation}")?;
        file.sync_all()?;
        std::fs::rename(&beside, &path)?;
        File::open(dir)?.sync_all()
    };
    let failed = |source| OutboxError { action: "write", path: path.clone(), source };
    write().map_err(failed)?;
    Ok(incarnation)
}

/// The writing thread's own.
pub(super) struct Writer {
    dir: PathBuf,
    shared: Arc<Shared>,
    active: Option<Active>,
    old: Vec<OldFile>,
    through: u64,
    last: u64,
    /// The last event of the newest batch.
    batch_last: u64,
    /// The newest event that was dropped, because too many wait.
    dropped: u64,
}

struct Active {
    file: File,
    path: PathBuf,
    octets: u64,
    events: Held,
}

impl Writer {
    pub(super) fn new(dir: &Path, found: Found, shared: Arc<Shared>) -> Self {
        let Found { through, last, files, batch, .. } = found;
        let batch_last = batch.map_or(0, |batch| batch.last);
        let (dir, active, dropped) = (dir.to_owned(), None, 0);
        Self { dir, shared, active, old: files, through, last, batch_last, dropped }
    }

    /// Write until nobody can ask any more.
    pub(super) fn run(mut self, asked: &mpsc::Receiver<Ask>) {
        while let Ok(first) = asked.recv() {
            let mut asks = vec![first];
            asks.extend(asked.try_iter());
            self.write(asks);
        }
    }

    /// Write what was asked for together, with one sync, then answer.
    fn write(&mut self, asks: Vec<Ask>) {
        let mut records = Vec::new();
        let mut answers = Vec::new();
        let mut trim = false;
        for ask in asks {
            match ask {
                Ask::Events(events, answer) => {
                    for event in events {
                        self.last += 1;
                        records.push(Record::Event(self.last, event));
                    }
                    answers.push(answer);
                }
                Ask::Batch(batch, answer) => {
                    self.batch_last = batch.last;
                    records.push(Record::Batch(batch));
                    answers.push(answer);
                }
                Ask::Through(number) => {
                    self.through = self.through.max(number);
                    records.push(Record::Through(number));
                }
                Ask::Trim => trim = true,
            }
        }
        let written = self.append(&records, !answers.is_empty());
        match &written {
            Ok(()) => self.dropped = self.shared.add(records).unwrap_or(self.dropped),
            Err(error) => {
                tracing::error!(%error, "the blacklist's outbox cannot be written");
                let events = records.iter().filter(|r| matches!(r, Record::Event(..))).count();
                METRICS.blacklist_events_dropped_total.inc_by(events as u64);
                self.set_aside();
            }
        }
        if trim {
            self.trim();
        }
        for answer in answers {
            // Who asked may have gone meanwhile.
            let _ = answer.send(written.is_ok());
        }
    }

    fn append(&mut self, records: &[Record], must_sync: bool) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        if self.active.as_ref().is_some_and(|active| active.octets >= FILE_OCTETS) {
            self.set_aside();
        }
        let active = match &mut self.active {
            Some(active) => active,
            None => {
                let active = self.begin()?;
                self.active.insert(active)
            }
        };
        let mut lines = Vec::new();
        for record in records {
            record.write_to(&mut lines)?;
            active.events.add(record);
        }
        active.file.write_all(&lines)?;
        active.octets += lines.len() as u64;
        if must_sync { active.file.sync_data() } else { Ok(()) }
    }

    /// A new file, which says what is true of the older ones.
    fn begin(&self) -> io::Result<Active> {
        // Numbers only grow, and a file that has none of its own yet is named by the next.
        let mut name = self.last;
        let (file, path) = loop {
            let path = self.dir.join(format!("{name:016x}{SUFFIX}"));
            match File::options().append(true).create_new(true).mode(PRIVATE).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => name += 1,
                opened => break (opened?, path),
            }
        };
        File::open(&self.dir)?.sync_all()?;
        let mut active = Active { file, path, octets: 0, events: Held::default() };
        let mut lines = Vec::new();
        Record::Through(self.through).write_to(&mut lines)?;
        for (entry, recipient) in self.shared.keys.iter() {
            Record::Seen(*entry, *recipient).write_to(&mut lines)?;
        }
        active.file.write_all(&lines)?;
        active.file.sync_data()?;
        Ok(active)
    }

    /// The active file gets no more lines.
    fn set_aside(&mut self) {
        if let Some(Active { path, events, .. }) = self.active.take() {
            self.old.push(OldFile { path, events });
        }
        // Their refusals may be counted if they come again after a crash: they were not before.
        let (batch_last, dropped) = (self.batch_last, self.dropped);
        self.remove_old(|held| !held.batch && held.first > batch_last && held.last <= dropped);
    }

    /// Remove old files whose events are all decided, in order. There is always one left to say
    /// what was decided.
    fn trim(&mut self) {
        if self.active.is_none() {
            return;
        }
        let through = self.through;
        let mut decided = true;
        self.remove_old(|held| {
            decided &= held.last <= through;
            decided
        });
    }

    fn remove_old(&mut self, mut may_go: impl FnMut(&Held) -> bool) {
        self.old.retain(|file| {
            let goes = may_go(&file.events);
            if goes && let Err(error) = std::fs::remove_file(&file.path) {
                tracing::warn!(path = %file.path.display(), %error, "cannot be removed");
            }
            !goes
        });
    }
}
