//! The journal: what became of mail that was not delivered, in a file a day, kept for 30 days.
//!
//! It answers "what happened to mail from X to Y", above all for failures that nobody was told of.
//! Lines are JSON; a thread of its own writes them, so that no delivery waits for the disk. They
//! are flushed when the writer has nothing more to write, and not synced one by one.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan as _};
use serde::{Deserialize, Serialize};

use super::metrics::METRICS;

/// Days that are kept, today included.
const DAYS_KEPT: i32 = 30;
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
    /// A journal in `dir`; at most `lines_max` lines wait to be written.
    pub fn start(dir: &Path, lines_max: usize) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let (lines, asked) = mpsc::sync_channel(lines_max.max(1));
        let mut writer = Writer { dir: dir.to_owned(), file: None };
        std::thread::Builder::new().name("journal".to_owned()).spawn(move || writer.run(&asked))?;
        Ok(Self { lines, dir: dir.to_owned() })
    }

    /// Write a line; when too many wait, it is lost and counted.
    pub fn write(&self, line: JournalLine) {
        if self.lines.try_send(Ask::Write(line)).is_err() {
            METRICS.journal_dropped_total.inc();
        }
    }

    /// Wait until all lines before are in their files. Blocks.
    pub fn flush(&self) {
        let (done, wait) = mpsc::channel();
        if self.lines.send(Ask::Flush(done)).is_ok() {
            let _ = wait.recv();
        }
    }

    /// The newest `limit` lines about mail from `from` to `to`, the oldest first. Blocks.
    pub fn search(
        &self,
        from: Option<&str>,
        to: Option<&str>,
        limit: usize,
    ) -> io::Result<Vec<JournalLine>> {
        self.flush();
        let is = |wanted: Option<&str>, found: &str| {
            wanted.is_none_or(|wanted| wanted.to_lowercase() == found.to_lowercase())
        };
        let mut found = Vec::new();
        for path in days(&self.dir)?.into_iter().rev() {
            let mut today = std::collections::VecDeque::new();
            for line in BufReader::new(File::open(path)?).split(b'\n') {
                // The last line of a day may have been cut by a crash.
                let Ok(line) = serde_json::from_slice::<JournalLine>(&line?) else { continue };
                if is(from, &line.from) && is(to, &line.to) {
                    today.push_back(line);
                    if today.len() > limit - found.len() {
                        today.pop_front();
                    }
                }
            }
            found.extend(today.into_iter().rev());
            if found.len() >= limit {
                break;
            }
        }
        found.reverse();
        Ok(found)
    }
}

/// The files, the oldest first.
fn days(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut days = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(SUFFIX) {
            days.push(path);
        }
    }
    days.sort();
    Ok(days)
}

struct Writer {
    dir: PathBuf,
    /// The day and its file.
    file: Option<(String, BufWriter<File>)>,
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
            self.file = None;
        }
    }

    fn write(&mut self, line: &JournalLine) -> io::Result<()> {
        let day = line.at.get(..10).unwrap_or_default();
        if self.file.as_ref().is_none_or(|(current, _)| current != day) {
            self.flush()?;
            let path = self.dir.join(format!("{day}{SUFFIX}"));
            let mut file = File::options().create(true).append(true).mode(PRIVATE).open(path)?;
            // After a crash the last line may have no end.
            file.write_all(b"\n")?;
            self.file = Some((day.to_owned(), BufWriter::new(file)));
            self.forget_old(day)?;
        }
        let Some((_, file)) = &mut self.file else { return Ok(()) };
        serde_json::to_writer(&mut *file, line)?;
        file.write_all(b"\n")
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), |(_, file)| file.flush())
    }

    fn forget_old(&self, today: &str) -> io::Result<()> {
        let Ok(today) = today.parse::<Date>() else { return Ok(()) };
        let oldest = today.saturating_sub((DAYS_KEPT - 1).days());
        let is_old = |path: &PathBuf| {
            let day = path.file_stem().and_then(|stem| stem.to_str()?.parse::<Date>().ok());
            day.is_some_and(|day| day < oldest)
        };
        days(&self.dir)?.iter().filter(|path| is_old(path)).try_for_each(std::fs::remove_file)
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
        let journal = Journal::start(dir.path(), 1000).unwrap();
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
        let first = Journal::start(dir.path(), 10).unwrap();
        first.write(line(1, 1, "a@x.test"));
        first.flush();
        let path = dir.path().join("1970-01-02.jsonl");
        std::fs::write(&path, "{\"at\":\"1970-").unwrap();
        let journal = Journal::start(dir.path(), 10).unwrap();
        journal.write(line(1, 2, "a@x.test"));
        assert_eq!(journal.search(None, None, 10).unwrap(), [line(1, 2, "a@x.test")]);
    }
}
