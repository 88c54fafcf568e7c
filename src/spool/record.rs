//! What is inside a record's meta. Pure.
//!
//! The envelope is JSON, which an operator can read and a later version can add to; the rest is
//! fixed binary, since there are several marks for each message.

use super::codec::{Input, put_counted};
use super::format::{Kind, RECORD_HEADER_OCTETS, RecordHeader};
use super::queue::Note;
use super::state::{Mark, Outcome, RecipientState};
use super::{EntryId, Hold, codec};
use crate::smtp::Enhanced;

/// Longest reply text kept with a mark. Replies are bounded where they are read; this holds
/// whatever a caller gives us.
const REPLY_OCTETS_MAX: usize = 4096;

const TAG_FINAL: u8 = 1;
const TAG_DEFERRED: u8 = 2;
const TAG_HOLD: u8 = 3;
/// As `TAG_DEFERRED`, and the sender has been told that it is late.
const TAG_WARNED: u8 = 4;

/// One chunk of a large message: its record, and the octets of text in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) segment: u32,
    pub(super) offset: u32,
    pub(super) octets: u32,
}

/// Meta of a `Message` or `Commit` record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct EntryMeta<'a> {
    pub(super) hold: Hold,
    /// What became of recipients before this copy was made; empty in the first one.
    pub(super) marks: Vec<Mark>,
    /// The chunks of a large message, in order.
    pub(super) parts: Vec<Part>,
    /// The envelope as JSON.
    pub(super) envelope: &'a [u8],
}

impl<'a> EntryMeta<'a> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.envelope.len() + 16 + self.parts.len() * 12);
        self.hold.encode(&mut out);
        out.extend_from_slice(&codec::count(self.marks.len()).to_le_bytes());
        let mut mark_bytes = Vec::new();
        for mark in &self.marks {
            mark_bytes.clear();
            encode_mark(mark, &mut mark_bytes);
            put_counted(&mut out, &mark_bytes);
        }
        out.extend_from_slice(&codec::count(self.parts.len()).to_le_bytes());
        for part in &self.parts {
            for field in [part.segment, part.offset, part.octets] {
                out.extend_from_slice(&field.to_le_bytes());
            }
        }
        out.extend_from_slice(self.envelope);
        out
    }

    pub(super) fn decode(meta: &'a [u8]) -> Option<Self> {
        let mut input = Input(meta);
        let hold = Hold::decode(&mut input)?;
        // The counts are not trusted with memory: each element is read before the next is expected.
        let mut marks = Vec::new();
        for _ in 0..input.u32()? {
            marks.push(decode_mark(input.counted()?)?);
        }
        let mut parts = Vec::new();
        for _ in 0..input.u32()? {
            let (segment, offset, octets) = (input.u32()?, input.u32()?, input.u32()?);
            parts.push(Part { segment, offset, octets });
        }
        Some(Self { hold, marks, parts, envelope: input.0 })
    }
}

/// Meta of a `Mark` record: the segment where the entry was at that time, and the mark.
///
/// The segment matters for a mark that ends the entry: as long as that segment exists the mark
/// must, or the entry would rise again at the next start.
pub(super) fn encode_mark_meta(home: u32, mark: &Mark) -> Vec<u8> {
    let mut out = Vec::with_capacity(96);
    out.extend_from_slice(&home.to_le_bytes());
    encode_mark(mark, &mut out);
    out
}

pub(super) fn decode_mark_meta(meta: &[u8]) -> Option<(u32, Mark)> {
    let mut input = Input(meta);
    let home = input.u32()?;
    Some((home, decode_mark(input.0)?))
}

/// Why an entry ended without a mark for each recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forgotten {
    /// Its record is damaged and a copy of it is in the quarantine.
    Quarantined = 1,
    /// The client went away before it was told 250, so it is the client's still.
    Abandoned = 2,
    /// Another node has it, or had it all the time.
    HandedOver = 3,
}

/// Meta of a `Forget` record.
pub(super) fn encode_forget_meta(home: u32, reason: Forgotten) -> Vec<u8> {
    let mut out = home.to_le_bytes().to_vec();
    out.push(reason as u8);
    out
}

/// The segment where the entry was, from the meta of a `Forget` record.
pub(super) fn decode_forget_meta(meta: &[u8]) -> Option<u32> {
    Input(meta).u32()
}

/// The header for a record of `kind` with this meta and text.
pub(super) fn header(kind: Kind, id: EntryId, meta: &[u8], text: &[u8]) -> RecordHeader {
    header_with(kind, id, meta, (codec::count(text.len()), crc32fast::hash(text)))
}

/// The header for a record whose text has these octets and this checksum.
pub(super) fn header_with(
    kind: Kind,
    id: EntryId,
    meta: &[u8],
    (text_octets, text_crc): (u32, u32),
) -> RecordHeader {
    RecordHeader {
        kind,
        ends: kind == Kind::Forget,
        id,
        meta_octets: codec::count(meta.len()),
        text_octets,
        meta_crc: crc32fast::hash(meta),
        text_crc,
    }
}

/// At least the octets of the record for a note.
pub(super) fn note_octets(note: &Note) -> u64 {
    match note {
        Note::Mark(mark) => mark_octets(mark),
        Note::Forget(_) => u64::from(RECORD_HEADER_OCTETS) + 8,
    }
}

/// At least the octets of the record for a mark.
pub(super) fn mark_octets(mark: &Mark) -> u64 {
    let reply = match mark {
        Mark::Final { reply, .. } | Mark::Deferred { reply, .. } => reply.len(),
        Mark::Hold(_) => 0,
    };
    // No mark has more than 40 octets besides its reply, the home segment included.
    u64::from(RECORD_HEADER_OCTETS) + 40 + reply.min(REPLY_OCTETS_MAX) as u64
}

fn encode_mark(mark: &Mark, out: &mut Vec<u8>) {
    match mark {
        Mark::Final { recipient, outcome, dsn, reply, at_us } => {
            out.push(TAG_FINAL);
            out.extend_from_slice(&recipient.to_le_bytes());
            out.push(outcome_code(*outcome));
            encode_reply(*dsn, *at_us, reply, out);
        }
        Mark::Deferred { recipient, attempts, due_us, dsn, reply, at_us, warned } => {
            out.push(if *warned { TAG_WARNED } else { TAG_DEFERRED });
            out.extend_from_slice(&recipient.to_le_bytes());
            out.extend_from_slice(&attempts.to_le_bytes());
            out.extend_from_slice(&due_us.to_le_bytes());
            encode_reply(*dsn, *at_us, reply, out);
        }
        Mark::Hold(hold) => {
            out.push(TAG_HOLD);
            hold.encode(out);
        }
    }
}

fn encode_reply(dsn: Enhanced, at_us: u64, reply: &str, out: &mut Vec<u8>) {
    out.push(dsn.0);
    out.extend_from_slice(&dsn.1.to_le_bytes());
    out.extend_from_slice(&dsn.2.to_le_bytes());
    out.extend_from_slice(&at_us.to_le_bytes());
    out.extend_from_slice(&reply.as_bytes()[..reply.floor_char_boundary(REPLY_OCTETS_MAX)]);
}

fn decode_mark(bytes: &[u8]) -> Option<Mark> {
    let mut input = Input(bytes);
    let tag = input.u8()?;
    match tag {
        TAG_FINAL => {
            let (recipient, outcome) = (input.u32()?, outcome_of(input.u8()?)?);
            let (dsn, at_us, reply) = decode_reply(&mut input)?;
            Some(Mark::Final { recipient, outcome, dsn, reply, at_us })
        }
        TAG_DEFERRED | TAG_WARNED => {
            let warned = tag == TAG_WARNED;
            let (recipient, attempts, due_us) = (input.u32()?, input.u32()?, input.u64()?);
            let (dsn, at_us, reply) = decode_reply(&mut input)?;
            Some(Mark::Deferred { recipient, attempts, due_us, dsn, reply, at_us, warned })
        }
        TAG_HOLD => Some(Mark::Hold(Hold::decode(&mut input)?)),
        _ => None,
    }
}

fn decode_reply(input: &mut Input<'_>) -> Option<(Enhanced, u64, String)> {
    let dsn = Enhanced(input.u8()?, input.u16()?, input.u16()?);
    let at_us = input.u64()?;
    Some((dsn, at_us, str::from_utf8(input.0).ok()?.to_owned()))
}

pub(super) fn outcome_code(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Delivered => 1,
        Outcome::Failed => 2,
        Outcome::Suppressed => 3,
        Outcome::Removed => 4,
    }
}

pub(super) fn outcome_of(code: u8) -> Option<Outcome> {
    Some(match code {
        1 => Outcome::Delivered,
        2 => Outcome::Failed,
        3 => Outcome::Suppressed,
        4 => Outcome::Removed,
        _ => return None,
    })
}

/// The states of `count` recipients after `marks`.
pub(super) fn states_after(count: usize, marks: &[Mark]) -> Vec<RecipientState> {
    let mut states = vec![RecipientState::default(); count];
    for mark in marks {
        if let Some(state) = recipient_of(mark).and_then(|index| states.get_mut(index)) {
            state.apply(mark);
        }
    }
    states
}

/// The recipient a mark is about, as an index.
pub(super) fn recipient_of(mark: &Mark) -> Option<usize> {
    match mark {
        Mark::Final { recipient, .. } | Mark::Deferred { recipient, .. } => {
            usize::try_from(*recipient).ok()
        }
        Mark::Hold(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks() -> Vec<Mark> {
        vec![
            Mark::Final {
                recipient: 1,
                outcome: Outcome::Suppressed,
                dsn: Enhanced(5, 1, 1),
                reply: "no such user ü".into(),
                at_us: 44,
            },
            Mark::Deferred {
                recipient: 0,
                attempts: 3,
                due_us: 1 << 60,
                dsn: Enhanced(4, 2, 999),
                reply: String::new(),
                at_us: u64::MAX,
                warned: false,
            },
            Mark::Deferred {
                recipient: 0,
                attempts: 4,
                due_us: 1 << 60,
                dsn: Enhanced(4, 2, 1),
                reply: "busy".into(),
                at_us: 7,
                warned: true,
            },
            Mark::Hold(Hold::Operator),
            Mark::Hold(Hold::No),
            Mark::Hold(Hold::Handed { to: 7, held: true }),
        ]
    }

    #[test]
    fn the_meta_of_an_entry_reads_back() {
        let meta = EntryMeta {
            hold: Hold::Arriving { from: 2, held: true },
            marks: marks(),
            parts: vec![Part { segment: 1, offset: 4096, octets: 65_536 }],
            envelope: b"{}",
        };
        assert_eq!(EntryMeta::decode(&meta.encode()), Some(meta));
    }

    #[test]
    fn marks_read_back_and_their_cut_forms_never_as_something_whole() {
        for mark in marks() {
            let meta = encode_mark_meta(5, &mark);
            assert_eq!(decode_mark_meta(&meta), Some((5, mark.clone())));
            for octets in 0..meta.len() {
                assert_ne!(decode_mark_meta(&meta[..octets]), Some((5, mark.clone())));
            }
        }
    }

    #[test]
    fn a_count_without_its_elements_costs_no_memory() {
        let mut meta = vec![0];
        meta.extend_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(EntryMeta::decode(&meta), None);
    }

    #[test]
    fn the_first_final_mark_of_a_recipient_stands() {
        let again = Mark::Final {
            recipient: 1,
            outcome: Outcome::Delivered,
            dsn: Enhanced(2, 0, 0),
            reply: "ok".into(),
            at_us: 45,
        };
        let states = states_after(2, &[marks(), vec![again]].concat());
        assert_eq!(states[1].outcome, Some(Outcome::Suppressed));
        assert_eq!((states[0].attempts, states[0].warned), (4, true));
    }

    #[test]
    fn a_reply_text_is_cut_at_a_character() {
        let mark = Mark::Deferred {
            recipient: 0,
            attempts: 1,
            due_us: 0,
            dsn: Enhanced(4, 0, 0),
            reply: "ü".repeat(REPLY_OCTETS_MAX),
            at_us: 0,
            warned: false,
        };
        let (_, read) = decode_mark_meta(&encode_mark_meta(1, &mark)).unwrap();
        let Mark::Deferred { reply, .. } = read else { panic!("another mark") };
        assert_eq!(reply.len(), REPLY_OCTETS_MAX);
    }
}
