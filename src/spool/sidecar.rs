//! The sidecar of a sealed segment: what recovery needs of it, without the messages.
//!
//! It only saves time. One that is missing or damaged is made again from its segment. Pure; the
//! file is read and written elsewhere.

use super::codec::Input;
use super::item::Item;

const MAGIC: &[u8; 8] = b"mxfindex";
const VERSION: u16 = 2;
const CRC_OCTETS: usize = 4;

/// A sidecar's content, still encoded item by item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sidecar {
    pub(super) segment: u32,
    /// The salt of the segment it was made from.
    pub(super) salt: u64,
    /// Where the last good record of the segment ends.
    pub(super) end: u32,
    /// No id in the segment is later.
    pub(super) id_max: u64,
    items: Vec<u8>,
}

impl Sidecar {
    /// A sidecar without items yet.
    pub(super) fn new(segment: u32, salt: u64, end: u32) -> Self {
        Self { segment, salt, end, id_max: 0, items: Vec::new() }
    }

    pub(super) fn push(&mut self, item: &Item) {
        item.encode(&mut self.items);
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.items.len() + 64);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.segment.to_le_bytes());
        out.extend_from_slice(&self.salt.to_le_bytes());
        out.extend_from_slice(&self.end.to_le_bytes());
        out.extend_from_slice(&self.id_max.to_le_bytes());
        out.extend_from_slice(&self.items);
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        out
    }

    /// Read a sidecar back; `None` if it is damaged or of another version.
    pub(super) fn decode(mut bytes: Vec<u8>) -> Option<Self> {
        let body = bytes.len().checked_sub(CRC_OCTETS)?;
        let crc = Input(&bytes[body..]).u32()?;
        bytes.truncate(body);
        if crc != crc32fast::hash(&bytes) {
            return None;
        }
        let mut input = Input(&bytes);
        if input.bytes(MAGIC.len())? != MAGIC || input.u16()? != VERSION {
            return None;
        }
        let (segment, salt, end) = (input.u32()?, input.u64()?, input.u32()?);
        let id_max = input.u64()?;
        let items = bytes.split_off(bytes.len() - input.0.len());
        Some(Self { segment, salt, end, id_max, items })
    }

    /// The item whose encoding starts at `*position`, which is moved behind it. Items are in the
    /// order of their records.
    pub(super) fn item_at(&self, position: &mut usize) -> Option<Item> {
        let rest = self.items.get(*position..)?;
        let mut input = Input(rest);
        let item = Item::decode(&mut input)?;
        *position += rest.len() - input.0.len();
        Some(item)
    }
}
