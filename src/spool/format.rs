//! Bytes of a segment: its header and the header of each record. Pure.
//!
//! A segment is a 4 KiB header and records back to back. A record is a 40-octet header, *meta*
//! (what the spool itself must understand) and *text* (a piece of the message as it was on the
//! wire). Meta, text and the header each have a CRC-32 of their own: a flipped octet in a body
//! does not lose the records after it, and recovery can hop over texts.
//!
//! The checksum of a record header starts from the segment's random salt and the record's own
//! offset. So octets of a message that look like a record are none, and neither is a record in
//! the wrong place, since no sender knows the salt.

use super::codec::Input;
use super::id::EntryId;

/// Octets in front of the first record.
pub(super) const SEGMENT_HEADER_OCTETS: u32 = 4096;
/// Octets in front of a record's meta.
pub(super) const RECORD_HEADER_OCTETS: u32 = 40;
/// A segment header is written twice, so that one bad sector does not lose the segment.
const COPY_OCTETS: usize = 2048;
/// Cuts that one segment header has room for.
pub(super) const CUTS_MAX: usize = 200;

const SEGMENT_MAGIC: &[u8; 8] = b"mxfspool";
const VERSION: u16 = 1;
/// What every record starts with; recovery looks for it after damage.
pub(super) const RECORD_MAGIC: &[u8; 4] = b"\x8dMR\n";
const FLAG_ENDS: u8 = 1;

/// A place in the spool. No segment has number 0, so the default is no place at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct Location {
    pub(super) segment: u32,
    pub(super) offset: u32,
}

impl Location {
    pub(super) const NONE: Self = Self { segment: 0, offset: 0 };
}

/// An older segment counts only up to `end`: a sync failed there, and nothing after was
/// acknowledged. It is written into the header of the segment that takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) segment: u32,
    pub(super) end: u32,
}

/// What is known of a segment before its first record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) segment: u32,
    pub(super) node: u16,
    pub(super) salt: u64,
    /// Every id given out before this segment was made is at or below.
    pub(super) id_floor: u64,
    pub(super) cuts: Vec<Cut>,
}

/// Why a segment header cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum HeaderError {
    #[error("both copies of the segment header are damaged")]
    Damaged,
    #[error("written by a newer version (format {0})")]
    Version(u16),
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut copy = Vec::with_capacity(COPY_OCTETS);
        copy.extend_from_slice(SEGMENT_MAGIC);
        copy.extend_from_slice(&VERSION.to_le_bytes());
        copy.extend_from_slice(&self.node.to_le_bytes());
        copy.extend_from_slice(&self.segment.to_le_bytes());
        copy.extend_from_slice(&self.salt.to_le_bytes());
        copy.extend_from_slice(&self.id_floor.to_le_bytes());
        let cuts = &self.cuts[..self.cuts.len().min(CUTS_MAX)];
        copy.extend_from_slice(&super::codec::count(cuts.len()).to_le_bytes());
        for cut in cuts {
            copy.extend_from_slice(&cut.segment.to_le_bytes());
            copy.extend_from_slice(&cut.end.to_le_bytes());
        }
        copy.extend_from_slice(&crc32fast::hash(&copy).to_le_bytes());
        copy.resize(COPY_OCTETS, 0);
        copy.repeat(2)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let (first, second) = bytes.split_at(bytes.len().min(COPY_OCTETS));
        Self::decode_copy(first).or_else(|error| Self::decode_copy(second).map_err(|_| error))
    }

    fn decode_copy(copy: &[u8]) -> Result<Self, HeaderError> {
        Self::decode_fields(copy).unwrap_or(Err(HeaderError::Damaged))
    }

    fn decode_fields(copy: &[u8]) -> Option<Result<Self, HeaderError>> {
        let mut input = Input(copy);
        if input.bytes(SEGMENT_MAGIC.len())? != SEGMENT_MAGIC {
            return None;
        }
        let version = input.u16()?;
        if version > VERSION {
            return Some(Err(HeaderError::Version(version)));
        }
        let node = input.u16()?;
        let segment = input.u32().filter(|segment| *segment != 0)?;
        let (salt, id_floor) = (input.u64()?, input.u64()?);
        let count = usize::try_from(input.u32()?).ok().filter(|count| *count <= CUTS_MAX)?;
        let mut cuts = Vec::with_capacity(count);
        for _ in 0..count {
            cuts.push(Cut { segment: input.u32()?, end: input.u32()? });
        }
        let used = copy.len() - input.0.len();
        (input.u32()? == crc32fast::hash(&copy[..used])).then_some(Ok(Self {
            segment,
            node,
            salt,
            id_floor,
            cuts,
        }))
    }
}

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A whole message: envelope in meta, text.
    Message = 1,
    /// A piece of a large message's text; says nothing until its `Commit`.
    Chunk = 2,
    /// The envelope of a large message and where its chunks are.
    Commit = 3,
    /// What became of one recipient, or a hold.
    Mark = 4,
    /// The entry ended as a whole.
    Forget = 5,
}

/// The header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) kind: Kind,
    /// After this record the entry is no more.
    pub(super) ends: bool,
    pub(super) id: EntryId,
    pub(super) meta_octets: u32,
    pub(super) text_octets: u32,
    pub(super) meta_crc: u32,
    pub(super) text_crc: u32,
}

impl RecordHeader {
    /// Octets of the whole record.
    pub(super) fn record_octets(&self) -> u64 {
        u64::from(RECORD_HEADER_OCTETS) + u64::from(self.meta_octets) + u64::from(self.text_octets)
    }

    /// Append the header for a record at `offset` of the segment with `salt`.
    pub(super) fn encode(&self, salt: u64, offset: u32, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(RECORD_MAGIC);
        out.push(self.kind as u8);
        out.push(if self.ends { FLAG_ENDS } else { 0 });
        out.extend_from_slice(&self.id.node().to_le_bytes());
        out.extend_from_slice(&self.id.micros().to_le_bytes());
        for field in [self.meta_octets, self.text_octets, self.meta_crc, self.text_crc] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        let crc = header_crc(salt, offset, &out[start..]);
        out.extend_from_slice(&0_u32.to_le_bytes());
        out.extend_from_slice(&crc.to_le_bytes());
    }

    /// Read the header of a record at `offset`; `None` if there is none.
    pub(super) fn decode(bytes: &[u8], salt: u64, offset: u32) -> Option<Self> {
        let mut input = Input(bytes);
        if input.bytes(RECORD_MAGIC.len())? != RECORD_MAGIC {
            return None;
        }
        let kind = match input.u8()? {
            1 => Kind::Message,
            2 => Kind::Chunk,
            3 => Kind::Commit,
            4 => Kind::Mark,
            5 => Kind::Forget,
            _ => return None,
        };
        let ends = input.u8()? & FLAG_ENDS != 0;
        let node = input.u16()?;
        let id = EntryId::new(input.u64()?, node)?;
        let header = Self {
            kind,
            ends,
            id,
            meta_octets: input.u32()?,
            text_octets: input.u32()?,
            meta_crc: input.u32()?,
            text_crc: input.u32()?,
        };
        let covered = bytes.len() - input.0.len();
        let reserved = input.u32()?;
        let crc = input.u32()?;
        (reserved == 0 && crc == header_crc(salt, offset, &bytes[..covered])).then_some(header)
    }
}

fn header_crc(salt: u64, offset: u32, fields: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&salt.to_le_bytes());
    crc.update(&offset.to_le_bytes());
    crc.update(fields);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> RecordHeader {
        RecordHeader {
            kind: Kind::Commit,
            ends: false,
            id: EntryId::new(1_780_000_000_000_000, 9).unwrap(),
            meta_octets: 700,
            text_octets: 0,
            meta_crc: 1,
            text_crc: 2,
        }
    }

    #[test]
    fn a_record_header_reads_back_only_at_its_place_and_with_its_salt() {
        let mut bytes = Vec::new();
        record().encode(7, 4096, &mut bytes);
        assert_eq!(bytes.len(), RECORD_HEADER_OCTETS as usize);
        assert_eq!(RecordHeader::decode(&bytes, 7, 4096), Some(record()));
        assert_eq!(RecordHeader::decode(&bytes, 7, 4097), None);
        assert_eq!(RecordHeader::decode(&bytes, 8, 4096), None);
    }

    #[test]
    fn a_record_header_with_any_bit_flipped_or_any_octet_missing_is_none() {
        let mut bytes = Vec::new();
        record().encode(7, 4096, &mut bytes);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(RecordHeader::decode(&flipped, 7, 4096), None, "bit {bit}");
        }
        for octets in 0..bytes.len() {
            assert_eq!(RecordHeader::decode(&bytes[..octets], 7, 4096), None);
        }
    }

    #[test]
    fn a_segment_header_survives_the_loss_of_one_copy() {
        let header = SegmentHeader {
            segment: 12,
            node: 3,
            salt: 99,
            id_floor: 55,
            cuts: vec![Cut { segment: 11, end: 8192 }],
        };
        let bytes = header.encode();
        assert_eq!(bytes.len(), SEGMENT_HEADER_OCTETS as usize);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(SegmentHeader::decode(&damaged), Ok(header.clone()));
        }
        let mut both = bytes;
        both[30] ^= 1;
        both[30 + COPY_OCTETS] ^= 1;
        assert_eq!(SegmentHeader::decode(&both), Err(HeaderError::Damaged));
        assert_eq!(SegmentHeader::decode(&both[..20]), Err(HeaderError::Damaged));
    }
}
