//! What recovery needs to know of a record, and its form in a segment's sidecar. Pure.

use std::collections::HashSet;

use super::codec::{Input, count, put_counted};
use super::format::{Kind, RecordHeader};
use super::record::{self, EntryMeta, Part};
use super::state::{Mark, Outcome};
use super::{EntryId, Hold};
use crate::smtp::{About, Envelope};

/// One record as recovery sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) id: EntryId,
    /// Offset of the record.
    pub(super) at: u32,
    pub(super) what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    Entry(EntryItem),
    /// A mark; `ends` if the entry is done with it, and was in the segment `home` then.
    Mark {
        home: u32,
        ends: bool,
        mark: MarkItem,
    },
    Forget {
        home: u32,
    },
}

/// A mark without its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MarkItem {
    Final { recipient: u32, outcome: Outcome },
    Deferred { recipient: u32, attempts: u32, due_us: u64, warned: bool },
    Hold(Hold),
}

impl From<&Mark> for MarkItem {
    fn from(mark: &Mark) -> Self {
        match *mark {
            Mark::Final { recipient, outcome, .. } => Self::Final { recipient, outcome },
            Mark::Deferred { recipient, attempts, due_us, warned, .. } => {
                Self::Deferred { recipient, attempts, due_us, warned }
            }
            Mark::Hold(hold) => Self::Hold(hold),
        }
    }
}

/// An entry without its envelope.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct EntryItem {
    pub(super) octets: u64,
    pub(super) hold: Hold,
    /// The marks that a copy came with.
    pub(super) marks: Vec<MarkItem>,
    pub(super) parts: Vec<Part>,
    /// Recipients by destination.
    pub(super) destinations: Vec<(String, Vec<u32>)>,
    /// For a report of ours: what it is about.
    pub(super) about: Option<About>,
}

impl EntryItem {
    /// Recipients in all.
    pub(super) fn recipients(&self) -> usize {
        self.destinations.iter().map(|(_, recipients)| recipients.len()).sum()
    }
}

impl Item {
    /// Whether the chunks that an entry has in its own segment are all among `chunks`. They need
    /// not be if the sync that covered them never ended.
    pub(super) fn is_complete(&self, segment: u32, chunks: &HashSet<u32>) -> bool {
        let What::Entry(entry) = &self.what else { return true };
        let mut here = entry.parts.iter().filter(|part| part.segment == segment);
        here.all(|part| chunks.contains(&part.offset))
    }
}

/// What the record at `at` says; `Ok(None)` for a chunk, which says nothing by itself.
pub(super) fn read(at: u32, header: &RecordHeader, meta: &[u8]) -> Result<Option<Item>, Unclear> {
    let what = match header.kind {
        Kind::Chunk => return Ok(None),
        Kind::Message | Kind::Commit => What::Entry(read_entry(header, meta).ok_or(Unclear)?),
        Kind::Mark => {
            let (home, mark) = record::decode_mark_meta(meta).ok_or(Unclear)?;
            What::Mark { home, ends: header.ends, mark: MarkItem::from(&mark) }
        }
        Kind::Forget => What::Forget { home: record::decode_forget_meta(meta).ok_or(Unclear)? },
    };
    Ok(Some(Item { id: header.id, at, what }))
}

/// The checksum is right and yet the content makes no sense: written by something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unclear;

fn read_entry(header: &RecordHeader, meta: &[u8]) -> Option<EntryItem> {
    let meta = EntryMeta::decode(meta)?;
    let envelope: Envelope = serde_json::from_slice(meta.envelope).ok()?;
    let octets = match header.kind {
        Kind::Message => u64::from(header.text_octets),
        _ => meta.parts.iter().map(|part| u64::from(part.octets)).sum(),
    };
    Some(EntryItem {
        octets,
        hold: meta.hold,
        marks: meta.marks.iter().map(MarkItem::from).collect(),
        parts: meta.parts,
        destinations: by_destination(&envelope),
        about: envelope.about,
    })
}

/// The recipients of an envelope by destination, as indexes.
pub(super) fn by_destination(envelope: &Envelope) -> Vec<(String, Vec<u32>)> {
    let mut destinations: Vec<(String, Vec<u32>)> = Vec::with_capacity(1);
    for (index, recipient) in (0_u32..).zip(&envelope.recipients) {
        let destination = envelope.destination(recipient);
        // Senders group a message's recipients by domain, so this looks at few.
        match destinations.iter_mut().rev().find(|(name, _)| *name == destination) {
            Some((_, recipients)) => recipients.push(index),
            None => destinations.push((destination.into_owned(), vec![index])),
        }
    }
    destinations
}

const TAG_ENTRY: u8 = 1;
const TAG_MARK: u8 = 2;
const TAG_FORGET: u8 = 3;
/// An entry that is a report, with what it is about.
const TAG_REPORT: u8 = 4;

impl Item {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self.what {
            What::Entry(EntryItem { about: Some(_), .. }) => TAG_REPORT,
            What::Entry(_) => TAG_ENTRY,
            What::Mark { .. } => TAG_MARK,
            What::Forget { .. } => TAG_FORGET,
        });
        out.extend_from_slice(&self.id.micros().to_le_bytes());
        out.extend_from_slice(&self.id.node().to_le_bytes());
        out.extend_from_slice(&self.at.to_le_bytes());
        match &self.what {
            What::Entry(entry) => entry.encode(out),
            What::Mark { home, ends, mark } => {
                out.extend_from_slice(&home.to_le_bytes());
                out.push(u8::from(*ends));
                mark.encode(out);
            }
            What::Forget { home } => out.extend_from_slice(&home.to_le_bytes()),
        }
    }

    pub(super) fn decode(input: &mut Input<'_>) -> Option<Self> {
        let tag = input.u8()?;
        let micros = input.u64()?;
        let id = EntryId::new(micros, input.u16()?)?;
        let at = input.u32()?;
        let what = match tag {
            TAG_ENTRY => What::Entry(EntryItem::decode(input)?),
            TAG_REPORT => {
                let entry = EntryItem::decode(input)?;
                let about = serde_json::from_slice(input.counted()?).ok()?;
                What::Entry(EntryItem { about: Some(about), ..entry })
            }
            TAG_MARK => {
                let (home, ends) = (input.u32()?, input.u8()? != 0);
                What::Mark { home, ends, mark: MarkItem::decode(input)? }
            }
            TAG_FORGET => What::Forget { home: input.u32()? },
            _ => return None,
        };
        Some(Self { id, at, what })
    }
}

impl MarkItem {
    fn encode(self, out: &mut Vec<u8>) {
        match self {
            Self::Final { recipient, outcome } => {
                out.push(1);
                out.extend_from_slice(&recipient.to_le_bytes());
                out.push(record::outcome_code(outcome));
            }
            Self::Deferred { recipient, attempts, due_us, warned } => {
                out.push(if warned { 4 } else { 2 });
                out.extend_from_slice(&recipient.to_le_bytes());
                out.extend_from_slice(&attempts.to_le_bytes());
                out.extend_from_slice(&due_us.to_le_bytes());
            }
            Self::Hold(hold) => {
                out.push(3);
                hold.encode(out);
            }
        }
    }

    fn decode(input: &mut Input<'_>) -> Option<Self> {
        let kind = input.u8()?;
        Some(match kind {
            1 => {
                let recipient = input.u32()?;
                Self::Final { recipient, outcome: record::outcome_of(input.u8()?)? }
            }
            2 | 4 => {
                let (recipient, attempts) = (input.u32()?, input.u32()?);
                let (due_us, warned) = (input.u64()?, kind == 4);
                Self::Deferred { recipient, attempts, due_us, warned }
            }
            3 => Self::Hold(Hold::decode(input)?),
            _ => return None,
        })
    }
}

impl EntryItem {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.octets.to_le_bytes());
        self.hold.encode(out);
        out.extend_from_slice(&count(self.marks.len()).to_le_bytes());
        self.marks.iter().for_each(|mark| mark.encode(out));
        out.extend_from_slice(&count(self.parts.len()).to_le_bytes());
        for part in &self.parts {
            for field in [part.segment, part.offset, part.octets] {
                out.extend_from_slice(&field.to_le_bytes());
            }
        }
        out.extend_from_slice(&count(self.destinations.len()).to_le_bytes());
        for (domain, recipients) in &self.destinations {
            put_counted(out, domain.as_bytes());
            out.extend_from_slice(&count(recipients.len()).to_le_bytes());
            recipients.iter().for_each(|index| out.extend_from_slice(&index.to_le_bytes()));
        }
        if let Some(about) = &self.about {
            // Numbers and a queue id always have a form as JSON.
            put_counted(out, &serde_json::to_vec(about).unwrap_or_default());
        }
    }

    fn decode(input: &mut Input<'_>) -> Option<Self> {
        let mut entry =
            Self { octets: input.u64()?, hold: Hold::decode(input)?, ..Self::default() };
        for _ in 0..input.u32()? {
            entry.marks.push(MarkItem::decode(input)?);
        }
        for _ in 0..input.u32()? {
            let (segment, offset, octets) = (input.u32()?, input.u32()?, input.u32()?);
            entry.parts.push(Part { segment, offset, octets });
        }
        for _ in 0..input.u32()? {
            let domain = str::from_utf8(input.counted()?).ok()?.to_owned();
            let mut recipients = Vec::new();
            for _ in 0..input.u32()? {
                recipients.push(input.u32()?);
            }
            entry.destinations.push((domain, recipients));
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::{ReportKind, Written};

    #[test]
    fn items_read_back_and_their_cut_forms_do_not() {
        let about = About {
            kind: Written::Report(ReportKind::Delayed),
            id: "4fXnrs05rqv01".into(),
            recipients: vec![2],
        };
        let entry = EntryItem {
            octets: 7,
            destinations: vec![("own:a.test".into(), vec![0])],
            ..EntryItem::default()
        };
        let mark = |warned| {
            let mark = MarkItem::Deferred { recipient: 1, attempts: 2, due_us: 3, warned };
            What::Mark { home: 4, ends: false, mark }
        };
        let report = EntryItem { about: Some(about), ..entry.clone() };
        for what in [What::Entry(entry), What::Entry(report), mark(false), mark(true)] {
            let item = Item { id: EntryId::new(5, 6).unwrap(), at: 7, what };
            let mut bytes = Vec::new();
            item.encode(&mut bytes);
            assert_eq!(Item::decode(&mut Input(&bytes)).as_ref(), Some(&item));
            for octets in 0..bytes.len() {
                assert_eq!(Item::decode(&mut Input(&bytes[..octets])), None, "{item:?}");
            }
        }
    }
}
