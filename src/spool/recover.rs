//! Opening a spool: what is on the disk becomes the index.
//!
//! Segments are replayed in the order they were written. A sealed one has a sidecar that says all
//! that matters; one without is scanned and given a sidecar. Afterwards every old segment is
//! sealed, and the writer starts a new one.
//!
//! Bad octets at the very end of the last segment are an unfinished write, and are cut. Bad octets
//! with a good record after them are damage, and go to the quarantine. After a loss of power the
//! disk may have kept a later part of the last write and not an earlier one; that looks like damage
//! and is treated so, since a false alarm is better than a message that vanished.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::EntryId;
use super::error::OpenError;
use super::format::{Cut, HeaderError, Kind, Location, SEGMENT_HEADER_OCTETS, SegmentHeader};
use super::fs::{SpoolFile, SpoolFs};
use super::index::{Entry, Index};
use super::item::{self, EntryItem, Item, What};
use super::quarantine;
use super::scan::{Bad, Depth, Found, Scan, Tail};
use super::segments::Segment;
use super::shared::{read_file, segment_path, sidecar_path, write_file};
use super::sidecar::Sidecar;
use crate::telemetry::metrics::METRICS;

/// What was found on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecoveryReport {
    /// Entries in the queue.
    pub entries: u64,
    /// Segment files.
    pub segments: u64,
    /// Segments that had to be scanned for want of a sidecar.
    pub scanned: u64,
    /// Segments that ended in an unfinished write, which was cut.
    pub torn_tails: u64,
    /// Damaged records that were set aside now.
    pub quarantined: u64,
}

/// A spool as it was found.
pub(super) struct Replayed {
    pub(super) index: Index,
    pub(super) report: RecoveryReport,
    /// No id on the disk is later.
    pub(super) id_floor: u64,
    pub(super) next_segment: u32,
    /// Torn tails, for the header of the next segment.
    pub(super) cuts: Vec<Cut>,
}

/// Read all of the spool in `dir`, which is locked.
pub(super) fn recover(fs: &dyn SpoolFs, dir: &Path) -> Result<Replayed, OpenError> {
    let mut recovery = Recovery {
        fs,
        dir,
        quarantine: dir.join("quarantine"),
        index: Index::default(),
        report: RecoveryReport::default(),
        id_floor: 0,
        cuts: Vec::new(),
        damaged: HashMap::new(),
        headless: BTreeSet::new(),
    };
    let numbers = recovery.tidy_up()?;
    let headers = recovery.headers(&numbers)?;
    recovery.headless = recovery.headless()?;
    let mut ends: BTreeMap<u32, u32> = BTreeMap::new();
    for (number, (header, octets)) in &headers {
        let segment = Segment {
            salt: header.salt,
            end: u32::try_from(*octets).unwrap_or(u32::MAX),
            sealed: true,
            ..Segment::default()
        };
        recovery.index.segments.insert(*number, segment);
        for cut in &header.cuts {
            let end = ends.entry(cut.segment).or_insert(cut.end);
            *end = cut.end.min(*end);
        }
    }
    let last = headers.last_key_value().map(|(number, _)| *number);
    for (number, (header, octets)) in &headers {
        for cut in &header.cuts {
            recovery.index.segments.replaced(cut.segment, *number);
        }
        let end = ends.get(number).map_or(*octets, |end| u64::from(*end).min(*octets));
        let depth = if last == Some(*number) { Depth::Text } else { Depth::Meta };
        let sidecar = recovery.sidecar(header, end, depth)?;
        recovery.replay(&sidecar);
    }
    recovery.settle()?;
    recovery.index.segments.synced();
    let next_segment = numbers.last().map_or(1, |last| last + 1);
    recovery.report.entries = recovery.index.stats().messages;
    recovery.report.segments = headers.len() as u64;
    Ok(Replayed {
        index: recovery.index,
        report: recovery.report,
        id_floor: recovery.id_floor,
        next_segment,
        cuts: recovery.cuts,
    })
}

struct Recovery<'a> {
    fs: &'a dyn SpoolFs,
    dir: &'a Path,
    quarantine: PathBuf,
    index: Index,
    report: RecoveryReport,
    id_floor: u64,
    cuts: Vec<Cut>,
    /// Damaged records of entries that no other record has ended or replaced yet.
    damaged: HashMap<EntryId, (u32, Bad)>,
    /// Segments that went to the quarantine because their header is damaged.
    headless: BTreeSet<u32>,
}

impl Recovery<'_> {
    /// Remove what a crash left half-done; give the numbers of the segments, in order.
    fn tidy_up(&self) -> Result<Vec<u32>, OpenError> {
        let names = self.fs.list(self.dir).map_err(io_error("list", self.dir))?;
        let number = |name: &str, suffix: &str| {
            let digits = name.strip_suffix(suffix).filter(|digits| digits.len() == 8)?;
            u32::from_str_radix(digits, 16).ok().filter(|number| *number != 0)
        };
        let mut numbers: Vec<u32> = names.iter().filter_map(|name| number(name, ".seg")).collect();
        numbers.sort_unstable();
        for name in &names {
            let orphan = number(name, ".idx").is_some_and(|n| numbers.binary_search(&n).is_err());
            if orphan || name.ends_with(".tmp") {
                // It says nothing, so it does no harm if it stays.
                let _ = self.fs.remove(&self.dir.join(name));
            }
        }
        Ok(numbers)
    }

    /// The headers and lengths of all segments.
    fn headers(
        &mut self,
        numbers: &[u32],
    ) -> Result<BTreeMap<u32, (SegmentHeader, u64)>, OpenError> {
        let mut headers = BTreeMap::new();
        for number in numbers {
            let path = segment_path(self.dir, *number);
            let mut bytes = vec![0; SEGMENT_HEADER_OCTETS as usize];
            let read = self.fs.open(&path).and_then(|file| {
                let filled = file.read_at(0, &mut bytes)?;
                bytes.truncate(filled);
                file.octets()
            });
            let octets = read.map_err(io_error("read", &path))?;
            match SegmentHeader::decode(&bytes) {
                Ok(header) if header.segment == *number => {
                    self.id_floor = self.id_floor.max(header.id_floor);
                    headers.insert(*number, (header, octets));
                }
                Err(HeaderError::Version(version)) => {
                    return Err(OpenError::Newer { path, version });
                }
                Ok(_) | Err(HeaderError::Damaged) => self.without_header(&path)?,
            }
        }
        Ok(headers)
    }

    /// A segment whose header cannot be read. Nothing is written to a segment before its header is
    /// synced, so an empty one was never used; any other goes to the quarantine as it is.
    fn without_header(&mut self, path: &Path) -> Result<(), OpenError> {
        let file = self.fs.open(path).map_err(io_error("open", path))?;
        // A scan with a salt that fits nothing finds nothing but whether all is zero.
        let octets = file.octets().map_err(io_error("read", path))?;
        let mut scan = Scan::new(file, 0, octets, Depth::Meta);
        let empty = match scan.next().map_err(io_error("read", path))? {
            None => !scan.tail().garbage,
            Some(_) => false,
        };
        if empty {
            return self.fs.remove(path).map_err(io_error("remove", path));
        }
        let name = path.file_name().unwrap_or_default();
        tracing::error!(?path, "the header of a segment is damaged; it goes to the quarantine");
        let mut kept = self.quarantine.join(name);
        kept.set_extension("seg.rec");
        self.fs.rename(path, &kept).map_err(io_error("quarantine", path))?;
        self.fs.sync_dir(&self.quarantine).map_err(io_error("sync", &self.quarantine))?;
        self.fs.sync_dir(self.dir).map_err(io_error("sync", self.dir))?;
        self.count_quarantined();
        Ok(())
    }

    /// The segments without a header that are in the quarantine, now and from earlier starts.
    fn headless(&self) -> Result<BTreeSet<u32>, OpenError> {
        let names = self.fs.list(&self.quarantine).map_err(io_error("list", &self.quarantine))?;
        let digits = names.iter().filter_map(|name| name.strip_suffix(".seg.rec"));
        Ok(digits.filter_map(|digits| u32::from_str_radix(digits, 16).ok()).collect())
    }

    /// Whether a record is of the past although it is there: a segment with chunks of the entry
    /// has gone, which it does only when nothing in it is needed, and that is durable. So an entry
    /// looks that has ended, and an older copy of one that was moved.
    fn has_ended(&self, entry: &EntryItem) -> bool {
        let gone = |number: u32| {
            self.index.segments.get(number).is_none() && !self.headless.contains(&number)
        };
        entry.parts.iter().any(|part| gone(part.segment))
    }

    /// The sidecar of a segment: the one on disk, or a new one.
    fn sidecar(
        &mut self,
        header: &SegmentHeader,
        end: u64,
        depth: Depth,
    ) -> Result<Sidecar, OpenError> {
        let number = header.segment;
        let sidecar = match stored_sidecar(self.fs, self.dir, number, header.salt) {
            Some(sidecar) if u64::from(sidecar.end) <= end => sidecar,
            _ => self.scan(header, end, depth)?,
        };
        self.id_floor = self.id_floor.max(sidecar.id_max);
        if let Some(segment) = self.index.segments.get_mut(number) {
            segment.end = sidecar.end;
            segment.has_sidecar = true;
        }
        Ok(sidecar)
    }

    fn scan(
        &mut self,
        header: &SegmentHeader,
        end: u64,
        depth: Depth,
    ) -> Result<Sidecar, OpenError> {
        let number = header.segment;
        let path = segment_path(self.dir, number);
        self.report.scanned += 1;
        let file = self.fs.open(&path).map_err(io_error("open", &path))?;
        let mut scan = Scan::new(Arc::clone(&file), header.salt, end, depth);
        let mut sidecar = Sidecar::new(number, header.salt, 0);
        let mut chunks = HashSet::new();
        while let Some(found) = scan.next().map_err(io_error("read", &path))? {
            match found {
                Found::Record { at, header, meta } => {
                    sidecar.id_max = sidecar.id_max.max(header.id.micros());
                    match item::read(at, &header, &meta) {
                        Ok(None) => drop(chunks.insert(at)),
                        Ok(Some(item)) if item.is_complete(number, &chunks) => sidecar.push(&item),
                        Ok(Some(_)) | Err(item::Unclear) => {
                            let octets = u32::try_from(header.record_octets()).unwrap_or(u32::MAX);
                            self.bad(
                                &file,
                                number,
                                Bad { at, octets, header: Some(header) },
                                &mut sidecar,
                            )?;
                        }
                    }
                }
                Found::Bad(bad) => self.bad(&file, number, bad, &mut sidecar)?,
            }
        }
        let tail = scan.tail().clone();
        sidecar.end = tail.end;
        self.cut_tail(&file, number, &tail)?;
        if u64::from(tail.end) < end
            && let Ok(file) = self.fs.open_write(&path)
        {
            // Only gives space back: the header of the next segment says where this one ends.
            let _ = file.truncate(u64::from(tail.end));
        }
        // A process that was killed may have left it in the kernel's memory alone. From here on it
        // counts: older records go because of it, and the sidecar tells of it.
        match file.sync_data() {
            // Without a sidecar the segment is scanned again next time.
            Ok(()) => {
                let path = sidecar_path(self.dir, number);
                drop(write_file(self.fs, &path, &sidecar.encode()));
            }
            Err(error) => tracing::warn!(?path, %error, "what was found cannot be synced"),
        }
        Ok(sidecar)
    }

    /// A place that is no good record, with good ones after it, so no crash did that.
    fn bad(
        &mut self,
        file: &Arc<dyn SpoolFile>,
        segment: u32,
        bad: Bad,
        sidecar: &mut Sidecar,
    ) -> Result<(), OpenError> {
        tracing::error!(segment, ?bad, "damaged record in the spool");
        match bad.header {
            // What it says is in the header, which is good.
            Some(header) if header.ends => {
                let what = What::Forget { home: 0 };
                sidecar.push(&Item { id: header.id, at: bad.at, what });
            }
            // It is not known yet whether the entry has ended since.
            Some(header) if matches!(header.kind, Kind::Message | Kind::Commit) => {
                self.damaged.insert(header.id, (segment, bad));
            }
            // The message that it is part of goes to the quarantine when it is read.
            Some(header) if header.kind == Kind::Chunk => {}
            _ => self.set_aside(file, segment, bad)?,
        }
        Ok(())
    }

    fn cut_tail(
        &mut self,
        file: &Arc<dyn SpoolFile>,
        segment: u32,
        tail: &Tail,
    ) -> Result<(), OpenError> {
        if !tail.is_torn() {
            return Ok(());
        }
        tracing::warn!(segment, end = tail.end, "an unfinished write at the end was cut");
        self.report.torn_tails += 1;
        METRICS.spool_torn_tails_total.inc();
        self.cuts.push(Cut { segment, end: tail.end });
        // Most likely it was never acknowledged. In case it was, and what looks torn is damage, the
        // operator finds it here.
        for bad in &tail.unfinished {
            let bytes = place(file, *bad).map_err(io_error("read", self.dir))?;
            let name = format!("{segment:08x}-{:08x}.torn", bad.at);
            let path = self.quarantine.join(name);
            write_file(self.fs, &path, &bytes).map_err(io_error("write", &path))?;
        }
        Ok(())
    }

    fn replay(&mut self, sidecar: &Sidecar) {
        let (number, mut position) = (sidecar.segment, 0);
        while let Some(Item { id, at, what }) = sidecar.item_at(&mut position) {
            let here = Location { segment: number, offset: at };
            match what {
                What::Entry(entry) if self.has_ended(&entry) => {
                    tracing::info!(%id, "its text is gone, for it had ended before the last stop");
                }
                What::Entry(entry) => {
                    self.damaged.remove(&id);
                    self.index.insert(id, indexed(&entry, here), &entry.parts);
                }
                What::Mark { home, ends, mark } => {
                    let applied = self.index.apply(id, mark, here);
                    if ends && !applied.is_some_and(|applied| applied.ends) {
                        self.ended(id, number, home);
                    }
                }
                What::Forget { home } => self.ended(id, number, home),
            }
        }
    }

    /// A record in segment `at` ended an entry that was in `home`.
    fn ended(&mut self, id: EntryId, at: u32, home: u32) {
        self.damaged.remove(&id);
        // If the entry is not there, its segment may still be, with a damaged or older record.
        if self.index.finish(id, at).is_none() {
            self.index.segments.ended(at, home);
        }
    }

    /// Damaged records of entries that are still wanted.
    fn settle(&mut self) -> Result<(), OpenError> {
        for (id, (segment, bad)) in std::mem::take(&mut self.damaged) {
            // A copy that compaction had not finished; the original is there.
            if self.index.get(id).is_some() {
                continue;
            }
            let path = segment_path(self.dir, segment);
            let file = self.fs.open(&path).map_err(io_error("open", &path))?;
            self.set_aside(&file, segment, bad)?;
        }
        Ok(())
    }

    fn set_aside(
        &mut self,
        file: &Arc<dyn SpoolFile>,
        segment: u32,
        bad: Bad,
    ) -> Result<(), OpenError> {
        let id = bad.header.map(|header| format!("{}-", header.id)).unwrap_or_default();
        let name = format!("{id}{segment:08x}-{:08x}", bad.at);
        let kept = place(file, bad)
            .and_then(|bytes| quarantine::keep(self.fs, &self.quarantine, &name, &bytes));
        if let Err(error) = kept {
            tracing::error!(segment, %error, "cannot copy to the quarantine; the segment stays");
            if let Some(segment) = self.index.segments.get_mut(segment) {
                segment.kept = true;
            }
        }
        self.count_quarantined();
        Ok(())
    }

    fn count_quarantined(&mut self) {
        self.report.quarantined += 1;
        METRICS.spool_quarantined_total.inc();
    }
}

/// The sidecar on disk if it is good and belongs to this segment.
pub(super) fn stored_sidecar(
    fs: &dyn SpoolFs,
    dir: &Path,
    segment: u32,
    salt: u64,
) -> Option<Sidecar> {
    let bytes = read_file(fs, &sidecar_path(dir, segment)).ok()?;
    Sidecar::decode(bytes).filter(|sidecar| sidecar.segment == segment && sidecar.salt == salt)
}

fn indexed(item: &EntryItem, home: Location) -> Entry {
    let mut entry = Entry::new(home, item.octets, item.recipients());
    entry.fold(item.hold, &item.marks);
    entry
}

/// The octets of a bad place.
fn place(file: &Arc<dyn SpoolFile>, bad: Bad) -> io::Result<Vec<u8>> {
    let octets = match bad.header {
        Some(_) => bad.octets,
        None => bad.octets.min(quarantine::PLACE_OCTETS_MAX),
    };
    let mut bytes = vec![0; octets as usize];
    let filled = file.read_at(u64::from(bad.at), &mut bytes)?;
    bytes.truncate(filled);
    Ok(bytes)
}

pub(super) fn io_error(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> OpenError + use<> {
    let path = path.to_owned();
    move |source| OpenError::Io { action, path, source }
}
