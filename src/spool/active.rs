//! The segment that is written to.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::format::{Location, RecordHeader, SEGMENT_HEADER_OCTETS, SegmentHeader};
use super::fs::SpoolFile;
use super::segments::Segment;
use super::shared::Shared;
use crate::system::random::random_u64;
use crate::telemetry::metrics::METRICS;

/// Keep so much of the buffer's memory between rounds.
const BUFFER_KEPT_OCTETS: usize = 1024 * 1024;

/// Zeros are written so far ahead of the records,
const ZEROS_OCTETS: u64 = 1024 * 1024;
/// but only for writes up to this.
///
/// Space that is only reserved turns into written space with the first sync over it, which then
/// waits for the file system's journal as well: here 0.23 ms instead of 0.13. Under load syncs are
/// shared and few, and writing everything twice would cost more than it saves.
const ZEROS_FOR_OCTETS: usize = 32 * 1024;

/// So many at a time, to spend no memory on them.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// An open segment and the records on their way into it.
pub(super) struct Active {
    pub(super) segment: u32,
    salt: u64,
    file: Arc<dyn SpoolFile>,
    capacity: u64,
    /// Up to here it is written.
    written: u32,
    /// Up to here it is synced.
    synced: u32,
    /// Up to here there are zeros, or records by now.
    zeroed: u32,
    buffer: Vec<u8>,
}

impl Active {
    /// Make a new segment, durable with its name, and known to the index.
    pub(super) fn create(shared: &Shared, header: &SegmentHeader) -> io::Result<Self> {
        let path = shared.segment_path(header.segment);
        let file = shared.fs.create(&path)?;
        let capacity = u64::from(shared.segment_octets());
        let made = (|| {
            match file.preallocate(capacity) {
                // It is faster with, and works without; a disk this full has its own alarm.
                Err(error) if is_optional(&error) => {}
                other => other?,
            }
            file.write_at(0, &header.encode())?;
            file.sync_data()?;
            shared.fs.sync_dir(&shared.dir)
        })();
        if let Err(error) = made {
            // If this fails too, a segment without records is left, which recovery removes.
            let _ = shared.fs.remove(&path);
            return Err(error);
        }
        let end = SEGMENT_HEADER_OCTETS;
        let mut index = shared.index();
        let segment = Segment { salt: header.salt, end, ..Segment::default() };
        index.segments.insert(header.segment, segment);
        for cut in &header.cuts {
            index.segments.replaced(cut.segment, header.segment);
        }
        drop(index);
        Ok(Self {
            segment: header.segment,
            salt: header.salt,
            file,
            capacity,
            written: end,
            synced: end,
            zeroed: end,
            buffer: Vec::new(),
        })
    }

    /// The header of a new segment.
    pub(super) fn header(segment: u32, node: u16, id_floor: u64) -> SegmentHeader {
        SegmentHeader { segment, node, salt: random_u64(), id_floor, cuts: Vec::new() }
    }

    /// Where the next record goes.
    pub(super) fn next(&self) -> Location {
        Location { segment: self.segment, offset: self.end() }
    }

    /// Where the records end, those in the buffer included.
    pub(super) fn end(&self) -> u32 {
        self.written + super::codec::count(self.buffer.len())
    }

    pub(super) fn synced_end(&self) -> u32 {
        self.synced
    }

    /// Octets that are not written yet.
    pub(super) fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Whether a record of `octets` fits. One that is larger than a segment goes into an empty one.
    pub(super) fn has_room(&self, octets: u64) -> bool {
        u64::from(self.end()) + octets <= self.capacity || self.end() == SEGMENT_HEADER_OCTETS
    }

    /// Put a record into the buffer.
    pub(super) fn put(&mut self, header: &RecordHeader, meta: &[u8], text: &[u8]) -> Location {
        let at = self.next();
        header.encode(self.salt, at.offset, &mut self.buffer);
        self.buffer.extend_from_slice(meta);
        self.buffer.extend_from_slice(text);
        at
    }

    /// Write the buffer. After an error the segment must be given up.
    pub(super) fn write(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.file.write_at(u64::from(self.written), &self.buffer)?;
        self.written = self.end();
        if self.written > self.zeroed && self.buffer.len() <= ZEROS_FOR_OCTETS {
            self.write_zeros();
        }
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_KEPT_OCTETS);
        Ok(())
    }

    /// Write zeros after the records, for the next syncs to be faster.
    fn write_zeros(&mut self) {
        let end = (u64::from(self.written) + ZEROS_OCTETS).min(self.capacity);
        let mut at = u64::from(self.written);
        while at < end {
            let zeros = usize::try_from(end - at).unwrap_or(usize::MAX).min(ZEROS.len());
            // Nothing depends on it, so a failure needs no answer but not to try again.
            if self.file.write_at(at, &ZEROS[..zeros]).is_err() {
                self.zeroed = u32::MAX;
                return;
            }
            at += zeros as u64;
        }
        self.zeroed = u32::try_from(at).unwrap_or(u32::MAX);
    }

    /// Sync what is written. After an error the segment must be given up.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.synced == self.written {
            return Ok(());
        }
        let start = Instant::now();
        self.file.sync_data()?;
        METRICS.spool_fsync_duration_seconds.observe(start.elapsed().as_secs_f64());
        self.synced = self.written;
        Ok(())
    }

    /// Add no more records. What is not synced is cut off.
    pub(super) fn seal(self, shared: &Shared, suspect: bool) {
        // Only gives space back; recovery stops at the same place without.
        let _ = self.file.truncate(u64::from(self.synced));
        if let Some(segment) = shared.index().segments.get_mut(self.segment) {
            segment.end = self.synced;
            segment.sealed = true;
            segment.suspect = suspect;
        }
        shared.upkeep.ring();
    }
}

fn is_optional(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::Unsupported)
}
