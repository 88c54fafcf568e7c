//! The lines of the outbox: `crc32 json`, one record each, so that an operator can read them.

use mxfleet_cluster::RecipientEvent;
use serde::{Deserialize, Serialize};

use crate::smtp::is_unprintable;
use crate::spool::EntryId;

/// So much of a reply is kept as the reason of a rejection.
const REPLY_OCTETS_MAX: usize = 120;

/// What a customer's server said of one recipient of one message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The message.
    pub entry: EntryId,
    /// Which of its recipients.
    pub recipient: u32,
    /// The recipient's [`super::key`].
    pub address: String,
    /// What it said.
    pub what: What,
}

/// See [`Event`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The mailbox is unknown, for good.
    Rejected {
        /// When, in milliseconds since 1970, UTC.
        at_ms: u64,
        /// The reply.
        reply: String,
    },
    /// It took the message.
    Accepted,
}

/// What makes an event the same event after a crash.
pub(super) type EventKey = (EntryId, u32);

impl Event {
    /// A refusal as unknown; of the reply the start is kept.
    pub fn rejected(
        entry: EntryId,
        recipient: u32,
        address: String,
        at_ms: u64,
        reply: &str,
    ) -> Self {
        let reply = reply.get(..reply.floor_char_boundary(REPLY_OCTETS_MAX)).unwrap_or_default();
        let reply = reply.chars().map(|c| if is_unprintable(c) { '?' } else { c }).collect();
        Self { entry, recipient, address, what: What::Rejected { at_ms, reply } }
    }

    /// A message that was taken.
    pub fn accepted(entry: EntryId, recipient: u32, address: String) -> Self {
        Self { entry, recipient, address, what: What::Accepted }
    }

    pub(super) fn key(&self) -> EventKey {
        (self.entry, self.recipient)
    }

    pub(super) fn is_rejection(&self) -> bool {
        matches!(self.what, What::Rejected { .. })
    }

    /// As the fleet is told.
    pub(super) fn told(&self) -> RecipientEvent {
        let address = self.address.clone();
        match &self.what {
            What::Rejected { at_ms, reply } => {
                RecipientEvent::Rejected { address, at_ms: *at_ms, reply: reply.clone() }
            }
            What::Accepted => RecipientEvent::Accepted { address },
        }
    }

    /// Octets it takes in a command, at most.
    pub(super) fn octets(&self) -> usize {
        let reply = match &self.what {
            What::Rejected { reply, .. } => reply.len(),
            What::Accepted => 0,
        };
        self.address.len() + reply + 24
    }
}

/// What is proposed together, and until its outcome is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Batch {
    pub(super) incarnation: u64,
    pub(super) sequence: u64,
    /// Id of the request, in hexadecimal.
    pub(super) request: String,
    /// Number of its first event.
    pub(super) first: u64,
    /// Number of its last event.
    pub(super) last: u64,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Record {
    /// An event with its number, which is never used again.
    Event(u64, Event),
    /// From now on these events are proposed as this batch.
    Batch(Batch),
    /// All events up to this number are decided, or were dropped.
    Through(u64),
    /// The key of an event in an older file.
    Seen(EntryId, u32),
}

impl Record {
    /// Append the line.
    pub(super) fn write_to(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        let json = serde_json::to_vec(self)?;
        out.extend_from_slice(format!("{:08x} ", crc32fast::hash(&json)).as_bytes());
        out.extend_from_slice(&json);
        out.push(b'\n');
        Ok(())
    }

    /// Read a line without its end; `None` if it is damaged.
    pub(super) fn read(line: &[u8]) -> Option<Self> {
        let (crc, json) = line.split_at_checked(9)?;
        let crc = std::str::from_utf8(crc).ok()?.strip_suffix(' ')?;
        let crc = u32::from_str_radix(crc, 16).ok()?;
        (crc == crc32fast::hash(json)).then(|| serde_json::from_slice(json).ok())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_back_and_a_damaged_one_does_not() {
        let id = EntryId::new(1_700_000_000_000_000, 1).unwrap();
        let event = Event::rejected(id, 7, "a@b.test".into(), 5, "550 5.1.1 \r\nno ü");
        for record in [
            Record::Event(3, event),
            Record::Through(9),
            Record::Seen(id, 1),
            Record::Batch(Batch {
                incarnation: 1,
                sequence: 2,
                request: "ff".into(),
                first: 3,
                last: 4,
            }),
        ] {
            let mut line = Vec::new();
            record.write_to(&mut line).unwrap();
            let line = line.strip_suffix(b"\n").unwrap();
            assert_eq!(Record::read(line), Some(record));
            for cut in 0..line.len() {
                assert_eq!(Record::read(&line[..cut]), None);
            }
        }
    }
}
