//! What became of the letters that this fleet writes to customers, kept on disk until the fleet
//! knows it.
//!
//! A letter is claimed in the replicated state before it is queued, and its outcome is in a file
//! here before the spool forgets it. So a claim without a message in the spool and without a file
//! was never queued; and a letter is written exactly once, whoever crashes. Files of the newest
//! migration stay: after a start a node's state may be older than they are.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::smtp::MigrationLetter;

const SUFFIX: &str = "json";
/// Where those are that the fleet knows of.
const TOLD: &str = "told";
/// The number of the newest migration, once what is known of those before is forgotten.
const NEWEST: &str = "newest";

/// The outcomes that wait for the fleet. Clones are handles to the same ones.
#[derive(Debug, Clone)]
pub struct Letters {
    dir: Arc<Path>,
    one_at_a_time: Arc<Mutex<()>>,
}

/// What is known of one letter.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Known {
    /// When a server took it for one of its recipients: milliseconds since 1970, UTC.
    #[serde(default)]
    pub accepted_ms: Option<u64>,
    /// When, and with which words, one of them refused it for good.
    #[serde(default)]
    pub failed: Option<(u64, String)>,
    /// It is in the queue of another host.
    #[serde(default)]
    pub moved: bool,
}

/// News of a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A server took it.
    Accepted,
    /// A server refused it for good, or it was given up: in these words.
    Failed(String),
    /// Another host has it now.
    Moved,
}

impl Letters {
    /// Outcomes are kept in `dir`, which is made if missing.
    pub fn open(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir.join(TOLD))?;
        Ok(Self { dir: dir.into(), one_at_a_time: Arc::default() })
    }

    /// Keep news of a letter. When this returns `Ok` they outlive this process; that it moved is
    /// on stable storage by then, anything else soon. A disk would be waited for between a server's
    /// answer and the spool's record of it, and whoever is killed there repeats the letter.
    pub async fn keep(&self, letter: &MigrationLetter, news: News, now_ms: u64) -> io::Result<()> {
        let (this, letter, moves) = (self.clone(), letter.clone(), news == News::Moved);
        let work = move || this.keep_now(&letter, news, now_ms);
        let kept = tokio::task::spawn_blocking(work).await?;
        let (file, dir) = (kept?, Arc::clone(&self.dir));
        let sync = tokio::task::spawn_blocking(move || {
            file.sync_all().and_then(|()| File::open(dir)?.sync_all())
        });
        if moves { sync.await? } else { Ok(()) }
    }

    fn keep_now(&self, letter: &MigrationLetter, news: News, now_ms: u64) -> io::Result<File> {
        let _one = self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = self.known(letter)?.unwrap_or_default();
        match news {
            News::Accepted => known.accepted_ms = known.accepted_ms.or(Some(now_ms)),
            News::Failed(words) => known.failed = Some((now_ms, words)),
            News::Moved => known.moved = true,
        }
        let (path, draft) = (self.path(letter), self.dir.join("draft"));
        let mut file = File::create(&draft)?;
        file.write_all(&serde_json::to_vec(&known)?)?;
        std::fs::rename(&draft, &path)?;
        Ok(file)
    }

    /// What is known of a letter; `None` is nothing.
    pub fn known(&self, letter: &MigrationLetter) -> io::Result<Option<Known>> {
        let path = self.path(letter);
        match read(&path)? {
            Some(known) => Ok(Some(known)),
            None => read(&self.told_path(letter)),
        }
    }

    /// All letters of which something is known that the fleet may not know.
    pub fn all(&self) -> io::Result<Vec<(MigrationLetter, Known)>> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let letter = name.to_str().and_then(|name| name.strip_suffix(".json")).and_then(letter);
            let Some(letter) = letter else { continue };
            if let Some(known) = self.known(&letter)? {
                all.push((letter, known));
            }
        }
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(all)
    }

    /// The fleet knows it.
    pub fn told(&self, letter: &MigrationLetter) -> io::Result<()> {
        match std::fs::rename(self.path(letter), self.told_path(letter)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Forget what the fleet knows of letters of migrations before this one. `false` when a newer
    /// one was here before: then whoever asks looks at the past, and what was forgotten was known.
    pub fn forget_before(&self, migration: u64) -> io::Result<bool> {
        let newest = self.newest()?;
        if migration <= newest {
            return Ok(migration == newest);
        }
        let draft = self.dir.join("newest.draft");
        let mut file = File::create(&draft)?;
        file.write_all(migration.to_string().as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&draft, self.dir.join(NEWEST))?;
        File::open(&*self.dir)?.sync_all()?;
        for entry in std::fs::read_dir(self.dir.join(TOLD))? {
            let entry = entry?;
            let name = entry.file_name();
            let letter = name.to_str().and_then(|name| name.strip_suffix(".json")).and_then(letter);
            if letter.is_some_and(|letter| letter.migration < migration) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(true)
    }

    fn newest(&self) -> io::Result<u64> {
        match std::fs::read_to_string(self.dir.join(NEWEST)) {
            Ok(text) => {
                text.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn told_path(&self, letter: &MigrationLetter) -> PathBuf {
        self.dir.join(TOLD).join(self.path(letter).file_name().unwrap_or_default())
    }

    /// Ids of customers are letters, digits and hyphens (the state holds that).
    fn path(&self, letter: &MigrationLetter) -> PathBuf {
        let MigrationLetter { migration, round, customer } = letter;
        self.dir.join(format!("{migration}.{round}.{customer}.{SUFFIX}"))
    }
}

fn read(path: &Path) -> io::Result<Option<Known>> {
    match std::fs::read(path) {
        // A loss of power may leave an empty file. Then the spool has forgotten the outcome, too.
        Ok(bytes) if bytes.is_empty() => Ok(None),
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn letter(name: &str) -> Option<MigrationLetter> {
    let mut parts = name.splitn(3, '.');
    let (migration, round) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some(MigrationLetter { migration, round, customer: parts.next()?.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn news_add_up_and_stay_until_they_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let letters = Letters::open(dir.path()).unwrap();
        let acme = MigrationLetter { migration: 1, round: 2, customer: "acme-1".to_owned() };
        assert_eq!(letters.known(&acme).unwrap(), None);
        letters.keep(&acme, News::Failed("550 no".to_owned()), 5).await.unwrap();
        letters.keep(&acme, News::Accepted, 7).await.unwrap();
        let letters = Letters::open(dir.path()).unwrap();
        let known =
            Known { accepted_ms: Some(7), failed: Some((5, "550 no".to_owned())), moved: false };
        assert_eq!(letters.all().unwrap(), [(acme.clone(), known.clone())]);
        letters.told(&acme).unwrap();
        letters.told(&acme).unwrap();
        assert!(letters.all().unwrap().is_empty());
        assert!(letters.forget_before(1).unwrap());
        assert_eq!(letters.known(&acme).unwrap(), Some(known));
        assert!(letters.forget_before(2).unwrap());
        assert_eq!(letters.known(&acme).unwrap(), None);
        assert!(!letters.forget_before(1).unwrap(), "it is the past");
        assert!(letters.forget_before(2).unwrap());
    }

    #[tokio::test]
    async fn a_file_that_lost_its_content_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let letters = Letters::open(dir.path()).unwrap();
        let letter = |customer: &str| {
            let customer = customer.to_owned();
            MigrationLetter { migration: 1, round: 1, customer }
        };
        File::create(letters.path(&letter("acme"))).unwrap();
        letters.keep(&letter("bravo"), News::Accepted, 7).await.unwrap();
        assert_eq!(letters.all().unwrap().len(), 1);
        letters.keep(&letter("acme"), News::Accepted, 8).await.unwrap();
        assert_eq!(letters.all().unwrap().len(), 2);
    }
}
