//! Records that are not what was written: kept for the operator, out of the queue.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;

use super::EntryId;
use super::format::{Location, RECORD_HEADER_OCTETS, RecordHeader};
use super::fs::SpoolFs;
use super::queue::{Note, Request};
use super::record::Forgotten;
use super::shared::{Shared, write_file};
use crate::telemetry::metrics::METRICS;

/// Most of a damaged place that is kept, when nothing says how long it is.
pub(super) const PLACE_OCTETS_MAX: u32 = 1024 * 1024;

/// Copy what there is of a damaged entry into the quarantine and end it.
pub(super) fn set_aside(shared: &Shared, id: EntryId) -> io::Result<()> {
    let (home, octets, parts) = {
        let index = shared.index();
        let Some(entry) = index.get(id) else { return Ok(()) };
        (entry.home, entry.octets(), index.parts(id).to_vec())
    };
    let mut kept = Vec::new();
    let mut segments = BTreeSet::from([home.segment]);
    let guess = u32::try_from(octets).unwrap_or(PLACE_OCTETS_MAX).min(PLACE_OCTETS_MAX);
    kept.extend(raw(shared, home, guess)?);
    for part in &parts {
        // Message texts are bounded, and so is this; damage is rare enough to hold one in memory.
        let at = Location { segment: part.segment, offset: part.offset };
        kept.extend(raw(shared, at, part.octets)?);
        segments.insert(part.segment);
    }
    keep(shared.fs.as_ref(), &shared.quarantine_dir(), &id.to_string(), &kept)?;
    let count = count(shared.fs.as_ref(), &shared.quarantine_dir())?;
    shared.quarantined.store(count, Ordering::Relaxed);
    METRICS.spool_quarantined_total.inc();
    tracing::error!(%id, ?segments, offset = home.offset,
        "entry is damaged on disk; it was set aside in the quarantine");
    let note = Note::Forget(Forgotten::Quarantined);
    shared.queue.push(Request::Note { id, note });
    Ok(())
}

/// The record at a place as it is; `guess` octets if its header does not say how long it is.
fn raw(shared: &Shared, at: Location, guess: u32) -> io::Result<Vec<u8>> {
    let salt = shared.index().segments.get(at.segment).map_or(0, |segment| segment.salt);
    let file = match shared.open_segment(at.segment) {
        // That it is missing is the damage.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    let mut head = vec![0; RECORD_HEADER_OCTETS as usize];
    file.read_at(u64::from(at.offset), &mut head)?;
    let octets = match RecordHeader::decode(&head, salt, at.offset) {
        Some(header) => header.record_octets(),
        None => u64::from(guess) + u64::from(RECORD_HEADER_OCTETS),
    };
    let mut bytes = vec![0; usize::try_from(octets).map_err(io::Error::other)?];
    let filled = file.read_at(u64::from(at.offset), &mut bytes)?;
    bytes.truncate(filled);
    Ok(bytes)
}

/// Put bytes into the quarantine, durably.
pub(super) fn keep(fs: &dyn SpoolFs, dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    write_file(fs, &dir.join(format!("{name}.rec")), bytes)
}

/// How many damaged records are in the quarantine.
pub(super) fn count(fs: &dyn SpoolFs, dir: &Path) -> io::Result<u64> {
    Ok(fs.list(dir)?.iter().filter(|name| name.ends_with(".rec")).count() as u64)
}
