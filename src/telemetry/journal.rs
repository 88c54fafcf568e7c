//! The journal: what became of mail that was not delivered, kept for 30 days, or for as long as
//! there is room.
//!
//! It answers "what happened to mail from X to Y", above all for failures that nobody was told of.
//! A day has one file, or several parts when there is much to tell; the oldest go first. Lines are
//! JSON; a thread of its own writes them, so that no delivery waits for the disk. They
//! are flushed when the writer has nothing more to write, and not synced one by one.

mod tally;

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, TrySendError};
use std::time::{Duration, Instant};

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan as _};
use serde::{Deserialize, Serialize};

pub use self::tally::Tally;
use super::metrics::METRICS;

/// Days that are kept, today included.
const DAYS_KEPT: i32 = 30;
/// A file is closed when it has this share of all octets, so that a day that fills the journal
/// alone loses its oldest hours and not all of it.
const PARTS_LEAST: u64 = 16;
/// How long a search waits for the lines before it.
const SEARCH_WAIT: Duration = Duration::from_secs(10);
/// Between two tries to get into a full channel.
const FULL_PAUSE: Duration = Duration::from_millis(5);
const SUFFIX: &str = ".jsonl";
/// Who wrote to whom is for the node's user only.
const PRIVATE: u32 = 0o600;

/// What became of one recipient of one message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalLine {
    /// When, RFC 3339.
    pub at: String,
    /// The message's queue id.
    pub id: String,
    /// MAIL FROM; empty is the null reverse-path.
    pub from: String,
    /// RCPT TO.
    pub to: String,
    /// `suppressed`: it failed and nobody was told; `returned`: it failed and the sender was told;
    /// `delayed` and `relayed`: the sender was told of that; `forged`: a report to a return path
    /// of ours that counts for nothing.
    pub outcome: String,
    /// Why nobody was told.
    pub because: Option<String>,
    /// The queue id of the report to the sender.
    #[serde(default)]
    pub report: Option<String>,
    /// Status code.
    pub dsn: String,
    /// The last reply.
    pub reply: String,
}

/// Where lines go. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct Journal {
    lines: mpsc::SyncSender<Ask>,
    dir: PathBuf,
}

#[derive(Debug)]
enum Ask {
    Write(JournalLine),
    Flush(mpsc::Sender<()>),
}

impl Journal {
    /// A journal in `dir`; at most `lines_max` lines wait to be written, and the files have at most
    /// `octets_max` octets.
    pub fn start(dir: &Path, lines_max: usize, octets_max: u64) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let (lines, asked) = mpsc::sync_channel(lines_max.max(1));
        let mut writer = Writer { dir: dir.to_owned(), octets_max, open: None };
        std::thread::Builder::new().name("journal".to_owned()).spawn(move || writer.run(&asked))?;
        Ok(Self { lines, dir: dir.to_owned() })
    }

    /// Write a line; when too many wait, it is lost and counted.
    pub fn write(&self, line: JournalLine) {
        if self.lines.try_send(Ask::Write(line)).is_err() {
            METRICS.journal_dropped_total.inc();
        }
    }

    /// Wait until all lines before are in their files, but not longer than `within`; false when
    /// they are not. Blocks.
    pub fn flush(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        let (done, wait) = mpsc::channel();
        let mut ask = Ask::Flush(done);
        while let Err(refused) = self.lines.try_send(ask) {
            let TrySendError::Full(again) = refused else { return false };
            if Instant::now() >= deadline {
                return false;
            }
            ask = again;
            std::thread::sleep(FULL_PAUSE);
        }
        wait.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok()
    }

    /// The newest `limit` lines about mail from `from` to `to`, the oldest first. Blocks.
    pub fn search(
        &self,
        from: Option<&str>,
        to: Option<&str>,
        limit: usize,
    ) -> io::Result<Vec<JournalLine>> {
        let is = |wanted: Option<&str>, found: &str| {
            wanted.is_none_or(|wanted| wanted.to_lowercase() == found.to_lowercase())
        };
        self.newest(|line| is(from, &line.from) && is(to, &line.to), limit, usize::MAX)
    }

    /// The newest `limit` lines that are wanted, the oldest first, of at most so many files; there
    /// is one for a day. Blocks.
    pub fn newest(
        &self,
        wanted: impl Fn(&JournalLine) -> bool,
        limit: usize,
        files_max: usize,
    ) -> io::Result<Vec<JournalLine>> {
        if !self.flush(SEARCH_WAIT) {
            return Err(io::Error::other("the journal's disk is too slow; try again later"));
        }
        let mut found = Vec::new();
        for path in files(&self.dir)?.into_iter().rev().take(files_max) {
            let file = match File::open(path) {
                Ok(file) => file,
                // It was removed a moment ago, to make room.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let mut here = std::collections::VecDeque::new();
            for line in BufReader::new(file).split(b'\n') {
                // The last line of a day may have been cut by a crash.
                let Ok(line) = serde_json::from_slice::<JournalLine>(&line?) else { continue };
                if wanted(&line) {
                    here.push_back(line);
                    if here.len() > limit - found.len() {
                        here.pop_front();
                    }
                }
            }
            found.extend(here.into_iter().rev());
            if found.len() >= limit {
                break;
            }
        }
        found.reverse();
        Ok(found)
    }
}

/// The files, the oldest first.
fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(SUFFIX) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

struct Writer {
    dir: PathBuf,
    /// All files together have at most so many octets.
    octets_max: u64,
    open: Option<Open>,
}

/// The file that lines go to.
struct Open {
    day: String,
    path: PathBuf,
    file: BufWriter<File>,
    octets: u64,
}

impl Writer {
    fn run(&mut self, asked: &mpsc::Receiver<Ask>) {
        while let Ok(first) = asked.recv() {
            let mut waiting = Vec::new();
            for ask in std::iter::once(first).chain(asked.try_iter()) {
                match ask {
                    Ask::Write(line) => self.count(|writer| writer.write(&line)),
                    Ask::Flush(done) => waiting.push(done),
                }
            }
            self.count(Self::flush);
            for done in waiting {
                // Who asked may have gone meanwhile.
                let _ = done.send(());
            }
        }
    }

    /// A file that failed is left, and the next line tries it anew.
    fn count(&mut self, work: impl FnOnce(&mut Self) -> io::Result<()>) {
        if let Err(error) = work(self) {
            tracing::error!(%error, "the journal cannot be written");
            METRICS.journal_dropped_total.inc();
            self.open = None;
        }
    }

    fn write(&mut self, line: &JournalLine) -> io::Result<()> {
        let day = line.at.get(..10).unwrap_or_default();
        let mut line = serde_json::to_vec(line)?;
        line.push(b'\n');
        let octets = line.len() as u64;
        let room = self.part_octets_max().saturating_sub(octets);
        if self.open.as_ref().is_none_or(|open| open.day != day || open.octets > room) {
            self.open(day, room)?;
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        open.file.write_all(&line)?;
        open.octets += octets;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.open.as_mut().map_or(Ok(()), |open| open.file.flush())
    }

    fn part_octets_max(&self) -> u64 {
        self.octets_max / PARTS_LEAST
    }

    /// Go on in the newest part of the day, or in a new one if that has more than `most` octets.
    fn open(&mut self, day: &str, most: u64) -> io::Result<()> {
        self.flush()?;
        self.open = None;
        self.forget_old(day)?;
        let newest = files(&self.dir)?.into_iter().rev().find_map(|path| {
            let part = path.file_stem()?.to_str()?.strip_prefix(day)?.strip_prefix('-')?;
            part.parse::<u32>().ok()
        });
        let mut part = newest.unwrap_or(0);
        if octets(&self.path(day, part))? > most {
            part = part.saturating_add(1);
        }
        let path = self.path(day, part);
        let mut file = File::options().create(true).append(true).mode(PRIVATE).open(&path)?;
        // After a crash the last line may have no end.
        file.write_all(b"\n")?;
        let octets = file.metadata()?.len();
        self.open = Some(Open { day: day.to_owned(), path, file: BufWriter::new(file), octets });
        self.make_room()
    }

    fn path(&self, day: &str, part: u32) -> PathBuf {
        self.dir.join(format!("{day}-{part:06}{SUFFIX}"))
    }

    fn forget_old(&self, today: &str) -> io::Result<()> {
        let Ok(today) = today.parse::<Date>() else { return Ok(()) };
        let oldest = today.saturating_sub((DAYS_KEPT - 1).days());
        let is_old = |path: &PathBuf| {
            let day = path.file_stem().and_then(|stem| stem.to_str()?.get(..10)?.parse().ok());
            day.is_some_and(|day: Date| day < oldest)
        };
        files(&self.dir)?.iter().filter(|path| is_old(path)).try_for_each(std::fs::remove_file)
    }

    /// Remove the oldest files until the one that is open can be filled.
    fn make_room(&self) -> io::Result<()> {
        let files = files(&self.dir)?;
        let open = self.open.as_ref().map(|open| open.path.as_path());
        let others = files.iter().filter(|path| Some(path.as_path()) != open);
        let others: Vec<_> =
            others.map(|path| Ok((path, octets(path)?))).collect::<io::Result<_>>()?;
        let mut all: u64 = others.iter().map(|(_, octets)| octets).sum();
        for (path, octets) in others {
            if all.saturating_add(self.part_octets_max()) <= self.octets_max {
                break;
            }
            std::fs::remove_file(path)?;
            all -= octets;
            METRICS.journal_files_removed_total.inc();
            tracing::warn!(
                "the journal is full: {} was removed before its time (limits.journal_octets_max)",
                path.display()
            );
        }
        Ok(())
    }
}

/// The size of a file; nothing when it is not there.
fn octets(path: &Path) -> io::Result<u64> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(found.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// A time as lines have it.
pub fn time(at_us: u64) -> String {
    let at_us = i64::try_from(at_us).unwrap_or(i64::MAX);
    Timestamp::from_microsecond(at_us).unwrap_or(Timestamp::MAX).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OCTETS_MAX: u64 = 1 << 20;

    fn line(day: u64, number: u64, from: &str) -> JournalLine {
        JournalLine {
            at: time((day * 86_400 + number) * 1_000_000),
            id: number.to_string(),
            from: from.to_owned(),
            to: "Nobody@acme.test".to_owned(),
            outcome: "suppressed".to_owned(),
            because: Some("not_a_customer".to_owned()),
            report: None,
            dsn: "5.1.1".to_owned(),
            reply: "550 5.1.1 no".to_owned(),
        }
    }

    #[test]
    fn it_finds_the_newest_and_keeps_thirty_days() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::start(dir.path(), 1000, OCTETS_MAX).unwrap();
        for day in 0..40 {
            journal.write(line(day, 1, "a@x.test"));
            journal.write(line(day, 2, "b@x.test"));
        }
        let all = journal.search(None, Some("nobody@ACME.test"), 1000).unwrap();
        assert_eq!(all.len(), 60);
        assert_eq!((&all[0], &all[59]), (&line(10, 1, "a@x.test"), &line(39, 2, "b@x.test")));
        let some = journal.search(Some("b@x.test"), None, 3).unwrap();
        let expected: Vec<_> = (37..40).map(|day| line(day, 2, "b@x.test")).collect();
        assert_eq!(some, expected);
        assert!(journal.search(Some("c@x.test"), None, 3).unwrap().is_empty());
    }

    #[test]
    fn a_line_that_a_crash_cut_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let first = Journal::start(dir.path(), 10, OCTETS_MAX).unwrap();
        first.write(line(1, 1, "a@x.test"));
        assert!(first.flush(SEARCH_WAIT));
        let path = dir.path().join("1970-01-02-000000.jsonl");
        std::fs::write(&path, "{\"at\":\"1970-").unwrap();
        let journal = Journal::start(dir.path(), 10, OCTETS_MAX).unwrap();
        journal.write(line(1, 2, "a@x.test"));
        assert_eq!(journal.search(None, None, 10).unwrap(), [line(1, 2, "a@x.test")]);
    }

    /// Octets of all files.
    fn size(dir: &Path) -> u64 {
        files(dir).unwrap().iter().map(|path| octets(path).unwrap()).sum()
    }

    #[test]
    fn the_oldest_goes_when_it_is_full_also_within_one_day() {
        let dir = tempfile::tempdir().unwrap();
        let octets_max = 64 * 1024;
        let removed = METRICS.journal_files_removed_total.get();
        // Five quiet days, and then two that would each fill it several times.
        for (day, lines) in (1..=7).zip([10, 10, 10, 10, 10, 2000, 2000]) {
            let journal = Journal::start(dir.path(), 10_000, octets_max).unwrap();
            for number in 0..lines {
                journal.write(line(day, number, "a@x.test"));
            }
            assert!(journal.flush(SEARCH_WAIT));
            assert!(size(dir.path()) <= octets_max, "day {day}: {}", size(dir.path()));
            // The newest are there without a gap.
            let mut found = journal.search(None, None, 10_000).unwrap();
            found.retain(|found| found.at >= line(day, 0, "").at);
            let lost = lines - found.len() as u64;
            assert_eq!(lost > 0, lines > 10, "day {day}: {lost} of {lines} lost");
            let newest: Vec<_> = (lost..lines).map(|n| line(day, n, "a@x.test")).collect();
            assert_eq!(found, newest, "day {day}");
        }
        assert!(size(dir.path()) >= octets_max / 2, "{}", size(dir.path()));
        assert!(METRICS.journal_files_removed_total.get() > removed);
    }
}
