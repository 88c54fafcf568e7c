//! What was said when an address was rejected, for people who ask why it is listed.
//!
//! Kept for the newest addresses only, so that a dictionary attack cannot use up memory: so many
//! that were rejected once, and so many that were rejected more often, which an attack on random
//! addresses does not push out.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::leaf::TIMES_MAX;
use crate::state::audit::clip;
use crate::state::ring::Ring;
use crate::state::sharded::Sharded;

const ONCE_MAX: usize = 20_000;
const OFTEN_MAX: usize = 10_000;
const REPLY_OCTETS_MAX: usize = 120;

/// One rejection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectionNote {
    /// When: milliseconds since 1970, UTC.
    pub at_ms: u64,
    /// The id of the node that saw it.
    pub node: u64,
    /// The start of the reply.
    pub reply: String,
}

/// Addresses of a chunk of one of the two rings, with their notes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NotesChunk {
    often: bool,
    rows: Vec<(Box<str>, Vec<RejectionNote>)>,
}

/// The notes of each address, the oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Notes {
    rows: Sharded<Box<str>, Arc<[RejectionNote]>>,
    once: Ring<Box<str>, ONCE_MAX>,
    often: Ring<Box<str>, OFTEN_MAX>,
}

impl Notes {
    pub(super) fn get(&self, address: &str) -> &[RejectionNote] {
        self.rows.get(address).map_or(&[], |row| &row.value)
    }

    pub(super) fn forget(&mut self, address: &str) {
        self.rows.remove(address);
    }

    /// Add a note; the first one of an address takes the place of what there was.
    pub(super) fn add(
        &mut self,
        address: &str,
        is_first: bool,
        (node, at_ms, reply): (u64, u64, &str),
    ) {
        let reply = clip(reply, REPLY_OCTETS_MAX).to_owned();
        let known = if is_first { &[] } else { self.get(address) };
        let before = known.len();
        let kept = known.get(before.saturating_sub(TIMES_MAX - 1)..).unwrap_or_default();
        let note = RejectionNote { at_ms, node, reply };
        let notes: Arc<[_]> = kept.iter().cloned().chain([note]).collect();
        self.rows.put(address.into(), 0, notes);
        let gone = match before {
            0 => self.once.push(address.into()),
            1 => self.often.push(address.into()),
            _ => None,
        };
        for gone in gone.iter().flat_map(|chunk| chunk.iter()) {
            // One that was rejected again meanwhile is in the other ring.
            if before > 0 || self.get(gone).len() == 1 {
                self.rows.remove(gone);
            }
        }
    }

    pub(super) fn chunks(&self) -> impl Iterator<Item = NotesChunk> {
        let chunk = |often, chunk: &Arc<Vec<Box<str>>>| {
            let rows = chunk.iter().map(|each| (each.clone(), self.get(each).to_vec()));
            NotesChunk { often, rows: rows.collect() }
        };
        let once = self.once.chunks().map(move |each| chunk(false, each));
        once.chain(self.often.chunks().map(move |each| chunk(true, each)))
    }

    pub(super) fn absorb(&mut self, chunk: NotesChunk) {
        let addresses = chunk.rows.iter().map(|(address, _)| address.clone()).collect();
        match chunk.often {
            false => self.once.push_chunk(addresses),
            true => self.often.push_chunk(addresses),
        }
        for (address, notes) in chunk.rows {
            if !notes.is_empty() {
                self.rows.put(address, 0, notes.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_rejections_do_not_push_out_what_was_rejected_twice() {
        let mut notes = Notes::default();
        notes.add("a@x.test", true, (1, 1, "550 first"));
        notes.add("a@x.test", false, (2, 2, "550 second"));
        for n in 0..50_000 {
            notes.add(&format!("u{n}@x.test"), true, (1, 3, "550 no"));
        }
        assert_eq!(notes.get("a@x.test").len(), 2);
        assert!(notes.get("u0@x.test").is_empty());
        assert_eq!(notes.get("u49999@x.test").len(), 1);
        let mut copy = Notes::default();
        notes.chunks().for_each(|chunk| copy.absorb(chunk));
        assert!(copy.chunks().eq(notes.chunks()));
        (0..20).for_each(|n| notes.add("b@x.test", n == 0, (1, n, "550")));
        assert_eq!(notes.get("b@x.test").len(), TIMES_MAX);
    }
}
