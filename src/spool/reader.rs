//! Reading a segment from memory, whatever is in it: the target of fuzzing.

use super::EntryId;
use super::format::{Kind, RECORD_HEADER_OCTETS, SEGMENT_HEADER_OCTETS, SegmentHeader};
use super::item;
use super::record::EntryMeta;
use super::scan::{Depth, Found, Scan};
use crate::smtp::Envelope;

/// What a segment says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SegmentContent {
    /// Messages that are whole in one record: id, envelope, text.
    pub messages: Vec<(EntryId, Envelope, Vec<u8>)>,
    /// All good records.
    pub records: usize,
    /// Places that are no good record though good ones follow.
    pub damaged: usize,
    /// An unfinished write at the end.
    pub torn: bool,
}

/// Read all of a segment; `None` without a good header. Any bytes give an answer, in time and
/// memory linear in their number.
pub fn read_segment(bytes: &[u8]) -> Option<SegmentContent> {
    let head = &bytes[..bytes.len().min(SEGMENT_HEADER_OCTETS as usize)];
    let header = SegmentHeader::decode(head).ok()?;
    let mut scan = Scan::new(bytes, header.salt, bytes.len() as u64, Depth::Text);
    let mut content = SegmentContent::default();
    // Reading memory does not fail.
    while let Ok(Some(found)) = scan.next() {
        let Found::Record { at, header, meta } = found else {
            content.damaged += 1;
            continue;
        };
        content.records += 1;
        if item::read(at, &header, &meta).is_err() {
            content.damaged += 1;
        } else if header.kind == Kind::Message
            && let Some(entry) = EntryMeta::decode(&meta)
            && let Ok(envelope) = serde_json::from_slice(entry.envelope)
        {
            let start = (at + RECORD_HEADER_OCTETS + header.meta_octets) as usize;
            let text = bytes[start..start + header.text_octets as usize].to_vec();
            content.messages.push((header.id, envelope, text));
        }
    }
    content.torn = scan.tail().is_torn();
    Some(content)
}
