//! How many failures of some domains nobody was told of, and the newest of them.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Journal, JournalLine, files};
use crate::smtp::Address;

/// Lines between two looks at the clock.
const LINES: usize = 1000;

/// What a tally comes to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// By domain, lowercase A-label.
    pub counts: BTreeMap<String, u64>,
    /// The newest, the oldest of them first.
    pub newest: Vec<JournalLine>,
    /// The time of the first line that was looked at, if there was no time for all.
    pub since: Option<String>,
}

impl Journal {
    /// Count the lines that say that nobody was told, in domains that are wanted, from the newest
    /// file to the oldest. What cannot be read `within` that time is left out. Blocks.
    pub fn tally(
        &self,
        is_wanted: impl Fn(&str) -> bool,
        newest_max: usize,
        within: Duration,
    ) -> io::Result<Tally> {
        let deadline = Instant::now() + within;
        if !self.flush(within) {
            return Err(io::Error::other("the journal's disk is too slow; try again later"));
        }
        let mut tally = Tally::default();
        let mut first: Option<String> = None;
        for path in files(&self.dir)?.into_iter().rev() {
            let room = newest_max - tally.newest.len();
            let Some(part) = Part::read(&path, &is_wanted, room, deadline)? else {
                tally.since = first.or_else(|| Some(String::new()));
                break;
            };
            first = part.first.or(first);
            for (domain, count) in part.counts {
                *tally.counts.entry(domain).or_default() += count;
            }
            tally.newest.extend(part.newest.into_iter().rev());
        }
        tally.newest.reverse();
        Ok(tally)
    }
}

/// What one file comes to.
#[derive(Default)]
struct Part {
    counts: BTreeMap<String, u64>,
    newest: VecDeque<JournalLine>,
    first: Option<String>,
}

impl Part {
    /// `None` when there is no time for all of it: what it has is older than what it has not.
    fn read(
        path: &Path,
        is_wanted: impl Fn(&str) -> bool,
        newest_max: usize,
        deadline: Instant,
    ) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            // It was removed a moment ago, to make room.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Some(Self::default()));
            }
            Err(error) => return Err(error),
        };
        let mut part = Self::default();
        for (number, line) in BufReader::new(file).split(b'\n').enumerate() {
            if number % LINES == 0 && Instant::now() >= deadline {
                return Ok(None);
            }
            // The last line of a day may have been cut by a crash.
            let Ok(line) = serde_json::from_slice::<JournalLine>(&line?) else { continue };
            part.first.get_or_insert_with(|| line.at.clone());
            if line.outcome != "suppressed" {
                continue;
            }
            let to = Address::parse(&line.to, true).ok();
            let Some(to) = to.filter(|to| is_wanted(to.domain())) else { continue };
            *part.counts.entry(to.domain().to_owned()).or_default() += 1;
            part.newest.push_back(line);
            if part.newest.len() > newest_max {
                part.newest.pop_front();
            }
        }
        Ok(Some(part))
    }
}

#[cfg(test)]
mod tests {
    use super::super::time;
    use super::*;

    fn line(day: u64, number: u64, to: &str, outcome: &str) -> JournalLine {
        JournalLine {
            at: time((day * 86_400 + number) * 1_000_000),
            id: number.to_string(),
            from: "a@x.test".to_owned(),
            to: to.to_owned(),
            outcome: outcome.to_owned(),
            because: Some("not_a_customer".to_owned()),
            report: None,
            dsn: "5.1.1".to_owned(),
            reply: "550 5.1.1 no".to_owned(),
        }
    }

    #[test]
    fn only_what_is_wanted_is_counted_and_the_newest_shown() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::start(dir.path(), 1000, 1 << 20).unwrap();
        for day in 1..4 {
            for number in 0..5 {
                journal.write(line(day, number, "Gone@ACME.test", "suppressed"));
                journal.write(line(day, number, "gone@bolt.test", "suppressed"));
                journal.write(line(day, number, "told@acme.test", "returned"));
            }
            journal.write(line(day, 9, "gone@acme.org", "suppressed"));
        }
        let wanted = |domain: &str| domain.starts_with("acme.");
        let patience = Duration::from_secs(60);
        let tally = journal.tally(wanted, 7, patience).unwrap();
        let counts = [("acme.org".to_owned(), 3), ("acme.test".to_owned(), 15)];
        assert_eq!((&tally.counts, tally.since), (&counts.into(), None));
        let acme = |day, number| line(day, number, "Gone@ACME.test", "suppressed");
        let org = |day| line(day, 9, "gone@acme.org", "suppressed");
        let last = (0..5).map(|number| acme(3, number));
        let newest: Vec<_> = [org(2)].into_iter().chain(last).chain([org(3)]).collect();
        assert_eq!(tally.newest, newest);
        assert_eq!(journal.tally(|_| false, 7, patience).unwrap(), Tally::default());
    }

    #[test]
    fn what_there_is_no_time_for_is_left_out_and_that_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let text = serde_json::to_string(&line(1, 1, "a@acme.test", "suppressed")).unwrap();
        std::fs::write(&path, text + "\n").unwrap();
        let read = |deadline| Part::read(&path, |_| true, 3, deadline).unwrap();
        assert!(read(Instant::now()).is_none());
        let part = read(Instant::now() + Duration::from_secs(60)).unwrap();
        assert_eq!((part.newest.len(), part.first), (1, Some(line(1, 1, "", "").at)));
    }
}
