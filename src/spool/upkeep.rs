//! The second thread: removes segments that are done, writes sidecars, compacts.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::compact;
use super::item;
use super::scan::{Depth, Found, Scan};
use super::shared::Shared;
use super::sidecar::Sidecar;
use crate::telemetry::metrics::METRICS;

/// How often it looks for work that nobody announced.
const TICK: Duration = Duration::from_secs(1);

/// Keep the spool tidy until it is closed.
pub(super) fn run(shared: &Arc<Shared>) {
    while shared.upkeep.wait(TICK) {
        publish(shared);
        loop {
            match step(shared) {
                Ok(true) => {}
                Ok(false) => break,
                // The next tick tries again.
                Err(error) => {
                    tracing::warn!(%error, "upkeep of the spool failed");
                    break;
                }
            }
        }
    }
}

/// Do one thing that is to be done. False if there is nothing.
pub(super) fn step(shared: &Arc<Shared>) -> io::Result<bool> {
    let done = shared.index().segments.done();
    if let Some(number) = done {
        remove(shared, number)?;
        return Ok(true);
    }
    let bare = shared.index().segments.without_sidecar();
    if let Some(number) = bare {
        write_sidecar(shared, number)?;
        return Ok(true);
    }
    if shared.handing_out.load(Ordering::Acquire) {
        return Ok(false);
    }
    let wasteful = shared.index().segments.wasteful(shared.limits.compact_live_percent);
    match wasteful {
        Some(number) => {
            let compacted = compact::compact(shared, number);
            if !matches!(compacted, Ok(true))
                && let Some(segment) = shared.index().segments.get_mut(number)
            {
                segment.failures = segment.failures.saturating_add(1);
            }
            compacted
        }
        None => Ok(false),
    }
}

/// Remove a segment that is done. What depends on its absence waits until that is durable.
fn remove(shared: &Shared, number: u32) -> io::Result<()> {
    let removed = shared.fs.remove(&shared.segment_path(number));
    ignore_missing(removed)?;
    ignore_missing(shared.fs.remove(&shared.sidecar_path(number)))?;
    shared.fs.sync_dir(&shared.dir)?;
    shared.index().segments.remove(number);
    shared.space.forget();
    Ok(())
}

fn ignore_missing(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Write the sidecar of a sealed segment. With anything wrong in it there is none, so that the next
/// start looks at the segment itself.
fn write_sidecar(shared: &Shared, number: u32) -> io::Result<()> {
    let (salt, end) = {
        let mut index = shared.index();
        let Some(segment) = index.segments.get_mut(number) else { return Ok(()) };
        // Tried once: without, the next start takes a little longer.
        segment.has_sidecar = true;
        (segment.salt, segment.end)
    };
    let file = shared.open_segment(number)?;
    let mut scan = Scan::new(file, salt, u64::from(end), Depth::Meta);
    let mut sidecar = Sidecar::new(number, salt, end);
    while let Some(found) = scan.next()? {
        let Found::Record { at, header, meta } = found else { return Ok(()) };
        sidecar.id_max = sidecar.id_max.max(header.id.micros());
        match item::read(at, &header, &meta) {
            Ok(Some(item)) => sidecar.push(&item),
            Ok(None) => {}
            Err(item::Unclear) => return Ok(()),
        }
    }
    if scan.tail().end != end || scan.tail().is_torn() {
        return Ok(());
    }
    shared.write_file(&shared.sidecar_path(number), &sidecar.encode())
}

/// Tell the metrics.
pub(super) fn publish(shared: &Shared) {
    let stats = shared.index().stats();
    let quarantined = shared.quarantined.load(Ordering::Relaxed);
    let states = [
        ("queued", stats.messages - stats.held),
        ("held", stats.held),
        ("quarantined", quarantined),
    ];
    for (state, count) in states {
        METRICS.spool_messages.with_label_values(&[state]).set(gauge(count));
    }
    METRICS.spool_bytes.set(gauge(stats.segment_octets));
    shared.space.publish();
}

fn gauge(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
