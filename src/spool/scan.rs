//! Walking the records of a segment, whatever state it is in.
//!
//! **Invariant:** any bytes give an answer: no panic, memory bounded by one record's meta, and
//! time linear in the length. What comes out as a record was written as one.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::format::{RECORD_HEADER_OCTETS, RECORD_MAGIC, RecordHeader, SEGMENT_HEADER_OCTETS};
use super::fs::SpoolFile;

/// Read at least so much at a time.
const WINDOW_OCTETS: usize = 256 * 1024;

/// Bytes that can be read at any offset: a segment file, or a slice of memory.
pub(super) trait ReadAt {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
}

impl ReadAt for Arc<dyn SpoolFile> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.as_ref().read_at(offset, buffer)
    }
}

impl ReadAt for &[u8] {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|start| self.get(start..)).unwrap_or(&[]);
        let octets = rest.len().min(buffer.len());
        buffer[..octets].copy_from_slice(&rest[..octets]);
        Ok(octets)
    }
}

/// How much of a record is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Header and meta; texts are hopped over.
    Meta,
    /// The text, too.
    Text,
}

/// What lies at a place of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// A good record.
    Record { at: u32, header: RecordHeader, meta: Vec<u8> },
    /// Octets that are no good record.
    Bad(Bad),
}

/// Octets that are no good record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bad {
    pub(super) at: u32,
    pub(super) octets: u32,
    /// The record's header if that much of it is good.
    pub(super) header: Option<RecordHeader>,
}

/// What follows the last good record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Tail {
    /// Where the last good record ends.
    pub(super) end: u32,
    /// Records with a good header and a bad body; with nothing good after them they are what a
    /// crash leaves of an unfinished write.
    pub(super) unfinished: Vec<Bad>,
    /// Octets other than zero after all of that.
    pub(super) garbage: bool,
}

impl Tail {
    /// Whether anything was there that is now cut.
    pub(super) fn is_torn(&self) -> bool {
        self.garbage || !self.unfinished.is_empty()
    }
}

/// A walk through the records of one segment.
pub(super) struct Scan<R> {
    window: Window<R>,
    salt: u64,
    depth: Depth,
    offset: u64,
    end: u64,
    /// Bad records that wait for a good one after them.
    doubtful: VecDeque<Bad>,
    ready: VecDeque<Found>,
    tail: Tail,
}

impl<R: ReadAt> Scan<R> {
    /// Walk through the segment with `salt`, up to the offset `end`.
    pub(super) fn new(source: R, salt: u64, end: u64, depth: Depth) -> Self {
        Self {
            window: Window { source, start: 0, data: Vec::new() },
            salt,
            depth,
            offset: u64::from(SEGMENT_HEADER_OCTETS),
            // Offsets are 32 bits wide; nothing beyond was ever written.
            end: end.min(u64::from(u32::MAX)),
            doubtful: VecDeque::new(),
            ready: VecDeque::new(),
            tail: Tail { end: SEGMENT_HEADER_OCTETS, ..Tail::default() },
        }
    }

    /// The next record or bad place; `None` at the end, when [`Scan::tail`] is known.
    pub(super) fn next(&mut self) -> io::Result<Option<Found>> {
        loop {
            if let Some(found) = self.ready.pop_front() {
                return Ok(Some(found));
            }
            let Some((at, header)) = self.header_here()? else {
                match self.next_header()? {
                    Some(offset) => {
                        let octets = narrow(offset - self.offset);
                        let bad = Bad { at: narrow(self.offset), octets, header: None };
                        self.doubtful.push_back(bad);
                        self.offset = offset;
                        continue;
                    }
                    None => return self.finish(),
                }
            };
            let meta = self.good_meta(&header)?;
            self.offset += header.record_octets();
            match meta {
                Some(meta) => {
                    self.tail.end = narrow(self.offset);
                    self.ready.extend(self.doubtful.drain(..).map(Found::Bad));
                    self.ready.push_back(Found::Record { at, header, meta });
                }
                None => self.doubtful.push_back(Bad {
                    at,
                    octets: narrow(header.record_octets()),
                    header: Some(header),
                }),
            }
        }
    }

    /// What follows the last good record; known after [`Scan::next`] answered `None`.
    pub(super) fn tail(&self) -> &Tail {
        &self.tail
    }

    /// The header at the current offset, if one is there whose record fits.
    fn header_here(&mut self) -> io::Result<Option<(u32, RecordHeader)>> {
        let at = narrow(self.offset);
        let room = self.end.saturating_sub(self.offset);
        let bytes = self.window.get(self.offset, RECORD_HEADER_OCTETS as usize)?;
        let header = RecordHeader::decode(bytes, self.salt, at);
        Ok(header.filter(|header| header.record_octets() <= room).map(|header| (at, header)))
    }

    /// The meta of the record here if all that is to be verified is good.
    fn good_meta(&mut self, header: &RecordHeader) -> io::Result<Option<Vec<u8>>> {
        let start = self.offset + u64::from(RECORD_HEADER_OCTETS);
        let octets = header.meta_octets as usize;
        let meta = self.window.get(start, octets)?;
        if meta.len() < octets || crc32fast::hash(meta) != header.meta_crc {
            return Ok(None);
        }
        let meta = meta.to_vec();
        if self.depth == Depth::Text {
            let mut crc = crc32fast::Hasher::new();
            let (mut at, mut left) = (start + octets as u64, header.text_octets as usize);
            while left > 0 {
                let piece = self.window.some(at)?;
                let piece = &piece[..left.min(piece.len())];
                if piece.is_empty() {
                    return Ok(None);
                }
                crc.update(piece);
                at += piece.len() as u64;
                left -= piece.len();
            }
            if crc.finalize() != header.text_crc {
                return Ok(None);
            }
        }
        Ok(Some(meta))
    }

    /// The offset of the next valid record header after the current offset.
    fn next_header(&mut self) -> io::Result<Option<u64>> {
        let mut offset = self.offset + 1;
        while offset < self.end {
            let piece = self.window.some(offset)?;
            if piece.len() < RECORD_MAGIC.len() {
                break;
            }
            let Some(index) = memchr::memmem::find(piece, RECORD_MAGIC) else {
                // The magic may lie across the end of this piece.
                offset += (piece.len() - RECORD_MAGIC.len() + 1) as u64;
                continue;
            };
            let before = std::mem::replace(&mut self.offset, offset + index as u64);
            let header = self.header_here()?;
            let here = std::mem::replace(&mut self.offset, before);
            if header.is_some() {
                return Ok(Some(here));
            }
            offset = here + 1;
        }
        Ok(None)
    }

    fn finish(&mut self) -> io::Result<Option<Found>> {
        self.tail.unfinished.extend(self.doubtful.drain(..));
        let mut offset = self.offset;
        while offset < self.end && !self.tail.garbage {
            let piece = self.window.some(offset)?;
            let left = usize::try_from(self.end - offset).unwrap_or(usize::MAX);
            let piece = &piece[..left.min(piece.len())];
            if piece.is_empty() {
                break;
            }
            self.tail.garbage = piece.iter().any(|byte| *byte != 0);
            offset += piece.len() as u64;
        }
        // Once finished, every later call finishes again at once.
        self.offset = self.end;
        Ok(None)
    }
}

/// Offsets and record lengths fit in 32 bits, since `end` does.
fn narrow(offset: u64) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}

/// A stretch of the source kept in memory.
struct Window<R> {
    source: R,
    start: u64,
    data: Vec<u8>,
}

impl<R: ReadAt> Window<R> {
    /// The `octets` at `offset`; fewer where the source ends.
    fn get(&mut self, offset: u64, octets: usize) -> io::Result<&[u8]> {
        let rest = self.from(offset, octets)?;
        Ok(&rest[..octets.min(rest.len())])
    }

    /// Some octets at `offset`, at least a record header's worth unless the source ends.
    fn some(&mut self, offset: u64) -> io::Result<&[u8]> {
        self.from(offset, RECORD_HEADER_OCTETS as usize)
    }

    /// All that is in memory from `offset` on, after reading there if that is less than `octets`.
    fn from(&mut self, offset: u64, octets: usize) -> io::Result<&[u8]> {
        let skip = offset.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok());
        let skip = skip.filter(|skip| {
            skip.checked_add(octets).is_some_and(|needed| needed <= self.data.len())
        });
        if skip.is_none() {
            self.data.resize(octets.max(WINDOW_OCTETS), 0);
            let filled = self.source.read_at(offset, &mut self.data)?;
            self.data.truncate(filled);
            self.start = offset;
        }
        Ok(&self.data[skip.unwrap_or(0)..])
    }
}
