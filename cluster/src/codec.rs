//! Bytes that are kept or sent: one envelope around everything, nothing is decoded on trust.
//!
//! ```text
//! magic "mxfl" | format u8 | kind u8 | zero u16 | length u32 | crc-32 u32 | body
//! ```
//!
//! Numbers are big-endian; the CRC covers the fields before it and the body. The body is bincode.
//! Magic, length and CRC stand where they stand in every format, so that what a newer version wrote
//! is told apart from what was damaged.
//! **Invariant:** only this file names bincode. It is always given a limit (without one, nine bytes
//! that claim 2^40 octets abort the process), and a body must be consumed to its last octet.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::octets::Octets;

/// Octets before the body.
pub(crate) const HEAD_OCTETS: usize = 16;
/// The largest body: an append of many log entries is the largest thing we send.
pub(crate) const BODY_OCTETS_MAX: usize = 4 << 20;

const MAGIC: [u8; 4] = *b"mxfl";
const FORMAT: u8 = 1;
const CRC_AT: usize = 12;

type Config = Configuration<LittleEndian, Varint, Limit<BODY_OCTETS_MAX>>;
const CONFIG: Config = bincode::config::standard().with_limit::<BODY_OCTETS_MAX>();

/// What an envelope holds. The numbers are the format: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A Raft log entry.
    Entry = 1,
    /// A vote, a log position, or who the node is.
    Meta = 2,
    /// Requests that share one log entry.
    Batch = 3,
    /// A call to another node.
    Call = 4,
    /// Its answer.
    Answer = 5,
    /// The start of a snapshot.
    SnapshotHead = 6,
    /// Rows of one table.
    SnapshotPart = 7,
    /// The end of a snapshot: what must have come before.
    SnapshotTail = 8,
    /// What a joining node asks, after its token was checked.
    Join = 9,
    /// The envelope of a batch, packed.
    PackedBatch = 10,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Entry,
        Self::Meta,
        Self::Batch,
        Self::Call,
        Self::Answer,
        Self::SnapshotHead,
        Self::SnapshotPart,
        Self::SnapshotTail,
        Self::Join,
        Self::PackedBatch,
    ];

    const fn number(self) -> u8 {
        self as u8
    }
}

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CodecError {
    #[error("it is cut short")]
    Short,
    #[error("it is not an mxfleet record")]
    Magic,
    #[error("it has format {0}, this program reads format {FORMAT}")]
    Format(u8),
    #[error("it is a record of kind {0} where another was expected")]
    Kind(u8),
    #[error("its length is wrong")]
    Length,
    #[error("its checksum does not match")]
    Checksum,
    #[error("its content is not understood by this program: {0}")]
    Body(String),
    #[error("something follows its content")]
    Trailing,
    #[error("it is too large: at most {BODY_OCTETS_MAX} octets")]
    TooLarge,
}

impl CodecError {
    /// Whether it was written whole, but not by a version this program knows.
    pub(crate) fn is_newer(&self) -> bool {
        match self {
            Self::Format(format) => *format > FORMAT,
            Self::Body(_) | Self::Trailing => true,
            _ => false,
        }
    }

    /// The same with the place of the bytes.
    pub(crate) fn at(self, place: impl Into<String>) -> std::io::Error {
        let placed = Placed { place: place.into(), error: self };
        std::io::Error::new(std::io::ErrorKind::InvalidData, placed)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{place}: {error}")]
struct Placed {
    place: String,
    error: CodecError,
}

impl From<CodecError> for std::io::Error {
    fn from(error: CodecError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// Whether something could not be read because a newer version wrote it.
pub(crate) fn is_newer(error: &std::io::Error) -> bool {
    let Some(inner) = error.get_ref() else { return false };
    let placed = inner.downcast_ref::<Placed>().map(|placed| &placed.error);
    placed.or_else(|| inner.downcast_ref::<CodecError>()).is_some_and(CodecError::is_newer)
}

/// `value` in an envelope.
pub(crate) fn encode<T: Serialize>(kind: Kind, value: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&[FORMAT, kind.number(), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bincode::serde::encode_into_std_write(value, &mut bytes, CONFIG)
        .map_err(|error| CodecError::Body(error.to_string()))?;
    let length = bytes.len() - HEAD_OCTETS;
    if length > BODY_OCTETS_MAX {
        return Err(CodecError::TooLarge);
    }
    let length = u32::try_from(length).map_err(|_| CodecError::TooLarge)?;
    let (head, body) = bytes.split_at_mut(HEAD_OCTETS);
    head[8..CRC_AT].copy_from_slice(&length.to_be_bytes());
    let crc = checksum(&head[..CRC_AT], body);
    head[CRC_AT..].copy_from_slice(&crc.to_be_bytes());
    Ok(bytes)
}

/// An envelope in less room: text that repeats itself is most of a large one. It is packed once and
/// then sent, stored and read by every node.
pub(crate) fn pack(kind: Kind, envelope: &[u8]) -> Result<Vec<u8>, CodecError> {
    encode(kind, &Octets(lz4_flex::block::compress_prepend_size(envelope).into()))
}

/// The envelope that [`pack`] was given. Never takes more memory than one may be large.
pub(crate) fn unpack(kind: Kind, bytes: &[u8]) -> Result<Vec<u8>, CodecError> {
    let Octets(packed) = decode(kind, bytes)?;
    let body = |error: lz4_flex::block::DecompressError| CodecError::Body(error.to_string());
    let (octets, packed) = lz4_flex::block::uncompressed_size(&packed).map_err(body)?;
    if octets > HEAD_OCTETS + BODY_OCTETS_MAX {
        return Err(CodecError::TooLarge);
    }
    lz4_flex::block::decompress(packed, octets).map_err(body)
}

/// The kind that an envelope claims to be of; [`decode`] looks whether it is.
pub(crate) fn is_of(kind: Kind, bytes: &[u8]) -> bool {
    bytes.get(5) == Some(&kind.number())
}

/// How many octets [`encode`] makes of `value`.
pub(crate) fn size<T: Serialize>(value: &T) -> Result<usize, CodecError> {
    let octets = bincode::serde::encode_into_std_write(value, &mut std::io::sink(), CONFIG);
    octets.map(|octets| HEAD_OCTETS + octets).map_err(|error| CodecError::Body(error.to_string()))
}

/// An envelope around a body that may be anything, up to the largest length.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn seal(kind: Kind, body: &[u8]) -> Vec<u8> {
    sealed(FORMAT, kind, body)
}

#[cfg(any(test, feature = "fuzzing"))]
fn sealed(format: u8, kind: Kind, body: &[u8]) -> Vec<u8> {
    let body = body.get(..body.len().min(BODY_OCTETS_MAX)).unwrap_or_default();
    let mut bytes = [&MAGIC[..], &[format, kind.number(), 0, 0]].concat();
    bytes.extend_from_slice(&u32::try_from(body.len()).unwrap_or(0).to_be_bytes());
    let crc = checksum(&bytes, body);
    bytes.extend_from_slice(&crc.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// The value in an envelope that fills `bytes` exactly.
pub(crate) fn decode<T: DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Result<T, CodecError> {
    let (head, body) = bytes.split_first_chunk::<HEAD_OCTETS>().ok_or(CodecError::Short)?;
    let length = read_length(head)?;
    if length != body.len() {
        return Err(if length > body.len() { CodecError::Short } else { CodecError::Length });
    }
    let crc = u32::from_be_bytes([head[12], head[13], head[14], head[15]]);
    if crc != checksum(&head[..CRC_AT], body) {
        return Err(CodecError::Checksum);
    }
    let (found, _) = read_head(head)?;
    if found != kind {
        return Err(CodecError::Kind(found.number()));
    }
    let (value, consumed) = bincode::serde::decode_from_slice::<T, _>(body, CONFIG)
        .map_err(|error| CodecError::Body(error.to_string()))?;
    if consumed != body.len() {
        return Err(CodecError::Trailing);
    }
    Ok(value)
}

/// The kind and body length a head announces, for readers of streams. The body's checksum is
/// looked at by [`decode`].
pub(crate) fn read_head(head: &[u8; HEAD_OCTETS]) -> Result<(Kind, usize), CodecError> {
    let length = read_length(head)?;
    if head[4] != FORMAT {
        return Err(CodecError::Format(head[4]));
    }
    let kind = Kind::ALL.into_iter().find(|kind| kind.number() == head[5]);
    let kind = kind.ok_or(CodecError::Kind(head[5]))?;
    if head[6..8] != [0, 0] {
        return Err(CodecError::Length);
    }
    Ok((kind, length))
}

fn read_length(head: &[u8; HEAD_OCTETS]) -> Result<usize, CodecError> {
    if head[..4] != MAGIC {
        return Err(CodecError::Magic);
    }
    let length = u32::from_be_bytes([head[8], head[9], head[10], head[11]]);
    match usize::try_from(length) {
        Ok(length) if length <= BODY_OCTETS_MAX => Ok(length),
        _ => Err(CodecError::TooLarge),
    }
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(head);
    crc.update(body);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        encode(Kind::Meta, &("mx1".to_owned(), 7_u64, Some(true))).unwrap()
    }

    fn read(bytes: &[u8]) -> Result<(String, u64, Option<bool>), CodecError> {
        decode(Kind::Meta, bytes)
    }

    #[test]
    fn what_was_put_in_comes_out() {
        assert_eq!(read(&sample()), Ok(("mx1".to_owned(), 7, Some(true))));
    }

    #[test]
    fn every_single_flipped_bit_is_noticed() {
        let good = sample();
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert!(read(&bad).is_err(), "octet {at} bit {bit}");
            }
        }
    }

    #[test]
    fn every_cut_and_every_tail_is_noticed() {
        let good = sample();
        for end in 0..good.len() {
            assert!(read(&good[..end]).is_err(), "cut at {end}");
        }
        let mut longer = good;
        longer.push(0);
        assert_eq!(read(&longer), Err(CodecError::Length));
    }

    #[test]
    fn a_forged_length_claims_no_memory() {
        let body = [253, 0, 0, 0, 0, 0, 1, 0, 0];
        let bytes = seal(Kind::Meta, &body);
        assert!(matches!(decode::<Vec<u64>>(Kind::Meta, &bytes), Err(CodecError::Body(_))));
        assert!(matches!(decode::<String>(Kind::Meta, &bytes), Err(CodecError::Body(_))));
    }

    #[test]
    fn what_was_packed_comes_out_and_a_forged_length_claims_no_memory() {
        let envelope = encode(Kind::Batch, &"550 5.1.1 User unknown ".repeat(1000)).unwrap();
        let packed = pack(Kind::PackedBatch, &envelope).unwrap();
        assert!(is_of(Kind::PackedBatch, &packed) && !is_of(Kind::Batch, &packed));
        assert!(packed.len() * 10 < envelope.len());
        assert_eq!(unpack(Kind::PackedBatch, &packed), Ok(envelope));
        for claimed in [u32::MAX, 1 << 30] {
            let body = [&claimed.to_le_bytes()[..], &[0x10, 7]].concat();
            let forged = encode(Kind::PackedBatch, &Octets(body.into())).unwrap();
            assert_eq!(unpack(Kind::PackedBatch, &forged), Err(CodecError::TooLarge), "{claimed}");
        }
        let empty = encode(Kind::PackedBatch, &Octets::default()).unwrap();
        assert!(unpack(Kind::PackedBatch, &empty).is_err());
    }

    #[test]
    fn another_kind_is_refused() {
        assert_eq!(decode::<u64>(Kind::Call, &sample()), Err(CodecError::Kind(2)));
    }

    #[test]
    fn what_a_newer_version_wrote_is_told_apart_from_what_is_damaged() {
        let newer = |bytes: &[u8]| {
            let error = decode::<Option<u8>>(Kind::Meta, bytes).unwrap_err();
            let (one, other) = (is_newer(&error.clone().at("entry 7")), is_newer(&error.into()));
            assert_eq!(one, other);
            one
        };
        assert!(newer(&sealed(FORMAT + 1, Kind::Meta, &[0])));
        assert!(newer(&seal(Kind::Meta, &[9])), "a variant that is not known");
        assert!(newer(&seal(Kind::Meta, &[0, 0])), "a field that is not known");
        assert!(!newer(&sealed(FORMAT - 1, Kind::Meta, &[0])));
        for damaged in [&[1, 7][..], &[0]] {
            let good = seal(Kind::Meta, damaged);
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 4;
                assert!(!newer(&bad), "octet {at}");
                assert!(!newer(&good[..at]), "cut at {at}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(0_u8.., 0..200)) {
            let _ = read(&bytes);
        }
    }
}
