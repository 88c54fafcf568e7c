//! A new fleet is written beside what a node had, and then takes its place.
//!
//! ```text
//! new-fleet.partial/  being written; worth nothing, deleted when it is begun again
//! new-fleet/          complete: from here on it is what counts, and `finish` only moves things
//! before-<id>/        what the node had; never deleted here
//! ```
//!
//! **Invariant:** interrupted anywhere, it is finished by being called again; nothing the node had
//! is deleted.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::identity::Home;

const PARTIAL: &str = "new-fleet.partial";
const READY: &str = "new-fleet";
/// Goes last: it says which fleet the node is in.
const LAST: &str = "identity.json";
/// What was recovered; stays until all is done.
const REPORT: &str = "report.json";

/// Whether a new fleet is ready and not wholly in place.
pub(crate) fn is_pending(home: &Home) -> bool {
    home.dir().join(READY).exists()
}

/// An empty folder to write the new fleet to. What an interrupted attempt left is removed; it was
/// never in use.
pub(crate) fn begin(home: &Home) -> io::Result<Home> {
    let partial = home.dir().join(PARTIAL);
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir_all(&partial)?;
    Ok(Home::new(partial))
}

/// The new fleet is complete: it counts from now on.
pub(crate) fn commit(home: &Home, report: &[u8]) -> io::Result<()> {
    let partial = home.dir().join(PARTIAL);
    let path = partial.join(REPORT);
    fs::write(&path, report)?;
    File::open(&path)?.sync_all()?;
    File::open(&partial)?.sync_all()?;
    fs::rename(&partial, home.dir().join(READY))?;
    sync(home.dir())
}

/// Give up a new fleet that is ready: only for a node that had nothing.
pub(crate) fn discard(home: &Home) -> io::Result<()> {
    let ready = home.dir().join(READY);
    if ready.exists() { fs::remove_dir_all(ready) } else { Ok(()) }
}

/// Put a new fleet that is ready in place; its report, or `None` when there is none.
pub(crate) fn finish(home: &Home) -> io::Result<Option<Vec<u8>>> {
    if !is_pending(home) {
        return Ok(None);
    }
    for (from, to) in moves(home)? {
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::rename(&from, &to)?;
        sync(to.parent().unwrap_or(home.dir()))?;
        sync(from.parent().unwrap_or(home.dir()))?;
    }
    let ready = home.dir().join(READY);
    let report = fs::read(ready.join(REPORT))?;
    fs::remove_dir_all(ready)?;
    sync(home.dir())?;
    Ok(Some(report))
}

/// What is still to be moved, in this order.
fn moves(home: &Home) -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let (ready, aside) = (home.dir().join(READY), aside(home)?);
    let mut names = Vec::new();
    for entry in fs::read_dir(&ready)? {
        names.push(entry?.file_name());
    }
    names.retain(|name| name != REPORT);
    names.sort_by_key(|name| (name == LAST, name.clone()));
    let mut moves = Vec::new();
    for name in names {
        let place = home.dir().join(&name);
        // The guard belongs to the log, and must not hold the new one to the old one's end.
        for old in [(place == home.log()).then(|| home.guard()), Some(place.clone())] {
            let Some(old) = old.filter(|old| old.exists()) else { continue };
            let to = aside.join(old.file_name().unwrap_or_default());
            if to.exists() {
                let taken = format!("{} is there already; move it away", to.display());
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, taken));
            }
            moves.push((old, to));
        }
        moves.push((ready.join(&name), place));
    }
    Ok(moves)
}

/// Named by the fleet that was given up, or by the new one where there was none.
fn aside(home: &Home) -> io::Result<PathBuf> {
    let old = if home.is_settled() { home } else { &Home::new(home.dir().join(READY)) };
    let fleet = if old.is_settled() { old.who()?.fleet } else { "nothing".to_owned() };
    Ok(home.dir().join(format!("before-{fleet}")))
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Who;

    fn who(fleet: u128) -> Who {
        Who {
            fleet: format!("{fleet:032x}"),
            node: 1,
            name: "mx1".to_owned(),
            founder: true,
            begun: true,
            certified_ms: 0,
        }
    }

    /// A node of fleet 1, with fleet 2 ready to take over.
    fn ready(dir: &Path) -> Home {
        let home = Home::new(dir.join("cluster"));
        let write = |home: &Home, fleet: u128| {
            for folder in [home.log(), home.snapshots()] {
                fs::create_dir_all(&folder).unwrap();
                fs::write(folder.join("content"), fleet.to_string()).unwrap();
            }
            home.set_who(&who(fleet)).unwrap();
        };
        write(&home, 1);
        fs::write(home.guard(), "1").unwrap();
        write(&begin(&home).unwrap(), 2);
        commit(&home, b"report").unwrap();
        home
    }

    #[test]
    fn interrupted_anywhere_it_is_finished_by_the_next_call() {
        let dir = tempfile::tempdir().unwrap();
        let all = moves(&ready(&dir.path().join("count"))).unwrap().len();
        assert_eq!(all, 7);
        for done in 0..=all {
            let home = ready(&dir.path().join(done.to_string()));
            for (from, to) in moves(&home).unwrap().into_iter().take(done) {
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                fs::rename(from, to).unwrap();
            }
            assert!(is_pending(&home));
            assert_eq!(finish(&home).unwrap().as_deref(), Some(&b"report"[..]));
            assert_eq!(finish(&home).unwrap(), None, "and is then done");
            let content = |folder: PathBuf| fs::read_to_string(folder.join("content")).unwrap();
            assert_eq!((content(home.log()), content(home.snapshots())), ("2".into(), "2".into()));
            assert_eq!(home.who().unwrap(), who(2));
            assert!(!home.guard().exists());
            let old = Home::new(home.dir().join(format!("before-{:032x}", 1)));
            assert_eq!((content(old.log()), content(old.snapshots())), ("1".into(), "1".into()));
            assert_eq!(old.who().unwrap(), who(1));
            assert_eq!(fs::read_to_string(old.guard()).unwrap(), "1");
        }
    }

    #[test]
    fn what_was_put_aside_before_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let home = ready(dir.path());
        fs::create_dir_all(home.dir().join(format!("before-{:032x}/raft", 1))).unwrap();
        assert_eq!(finish(&home).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(home.who().unwrap(), who(1));
        assert!(home.log().join("content").exists());
    }
}
