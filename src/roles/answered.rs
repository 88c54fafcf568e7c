//! Who was answered within the last day, so that nobody is answered twice (RFC 3834 section 2).
//!
//! Each node knows whom it has answered itself. It is on disk, a line each, so that a restart
//! answers nobody again; the file is written anew, without old lines, when it is opened or long.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// Nobody is answered twice in this time.
const PAUSE_MS: u64 = 24 * 3_600_000;
/// Senders that are remembered; while there are more, nobody is answered.
const SENDERS_MAX: usize = 20_000;
/// Lines after which the file is written anew.
const LINES_MAX: usize = 2 * SENDERS_MAX;

/// Who was answered. Clones are handles to the same.
#[derive(Debug, Clone)]
pub struct Answered {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    at_ms: HashMap<String, u64>,
    path: PathBuf,
    file: File,
    lines: usize,
}

#[derive(Serialize, Deserialize)]
struct Line {
    to: String,
    at_ms: u64,
}

impl Answered {
    /// What the file at `path` says, which is made if missing.
    pub fn open(path: &Path, now_ms: u64) -> io::Result<Self> {
        let mut at_ms = HashMap::new();
        match std::fs::read(path) {
            Ok(bytes) => {
                let lines = bytes.split(|b| *b == b'\n');
                // A line that a crash has cut is no line.
                let lines = lines.filter_map(|line| serde_json::from_slice::<Line>(line).ok());
                let lines = lines.filter(|line| is_recent(line.at_ms, now_ms));
                at_ms.extend(lines.map(|line| (line.to, line.at_ms)).take(SENDERS_MAX));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let (file, lines) = (write_anew(path, &at_ms)?, at_ms.len());
        let inner = Inner { at_ms, path: path.to_owned(), file, lines };
        Ok(Self { inner: Arc::new(Mutex::new(inner)) })
    }

    /// Whether this sender may be answered now; from then on it has been. It is written before, so
    /// that a crash rather leaves one unanswered.
    pub fn begin(&self, to: &str, now_ms: u64) -> io::Result<bool> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let to = to.to_lowercase();
        if inner.at_ms.get(&to).is_some_and(|at_ms| is_recent(*at_ms, now_ms)) {
            return Ok(false);
        }
        if inner.at_ms.len() >= SENDERS_MAX {
            inner.at_ms.retain(|_, at_ms| is_recent(*at_ms, now_ms));
            if inner.at_ms.len() >= SENDERS_MAX {
                return Ok(false);
            }
        }
        if inner.lines >= LINES_MAX {
            inner.at_ms.retain(|_, at_ms| is_recent(*at_ms, now_ms));
            inner.file = write_anew(&inner.path, &inner.at_ms)?;
            inner.lines = inner.at_ms.len();
        }
        inner.file.write_all(&line(&to, now_ms)?)?;
        inner.lines += 1;
        inner.at_ms.insert(to, now_ms);
        Ok(true)
    }
}

fn is_recent(at_ms: u64, now_ms: u64) -> bool {
    now_ms.saturating_sub(at_ms) < PAUSE_MS
}

fn write_anew(path: &Path, at_ms: &HashMap<String, u64>) -> io::Result<File> {
    let mut lines = Vec::new();
    for (to, at_ms) in at_ms {
        lines.extend(line(to, *at_ms)?);
    }
    let draft = path.with_extension("draft");
    let mut file = File::create(&draft)?;
    file.write_all(&lines)?;
    std::fs::rename(&draft, path)?;
    Ok(file)
}

/// The line end is in front, so that one that a full disk has cut does not spoil the next.
fn line(to: &str, at_ms: u64) -> io::Result<Vec<u8>> {
    let mut line = vec![b'\n'];
    serde_json::to_writer(&mut line, &Line { to: to.to_owned(), at_ms })?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_is_answered_once_a_day_also_by_the_next_life() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answered");
        let answered = Answered::open(&path, 0).unwrap();
        assert!(answered.begin("jane@acme.test", 5).unwrap());
        assert!(!answered.begin("JANE@acme.test", 6).unwrap());
        assert!(answered.begin("bob@acme.test", PAUSE_MS - 10).unwrap());
        // As a full disk does, from which the next one is written again.
        answered.inner.lock().unwrap().file.write_all(b"\n{\"to").unwrap();
        assert!(answered.begin("eve@acme.test", PAUSE_MS - 10).unwrap());
        let answered = Answered::open(&path, PAUSE_MS - 5).unwrap();
        for to in ["jane@acme.test", "eve@acme.test"] {
            assert!(!answered.begin(to, PAUSE_MS - 5).unwrap(), "{to}");
        }
        assert!(answered.begin("jane@acme.test", PAUSE_MS + 5).unwrap());
        Answered::open(&path, PAUSE_MS + 5).unwrap();
        let lines = std::fs::read_to_string(&path).unwrap();
        assert_eq!(lines.trim().lines().count(), 3, "old ones go: {lines}");
    }

    #[test]
    fn its_memory_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let answered = Answered::open(&dir.path().join("answered"), 0).unwrap();
        for n in 0..SENDERS_MAX {
            assert!(answered.begin(&format!("{n}@a.test"), 1).unwrap());
        }
        assert!(!answered.begin("late@a.test", 2).unwrap());
        assert!(answered.begin("late@a.test", PAUSE_MS + 1).unwrap());
    }
}
