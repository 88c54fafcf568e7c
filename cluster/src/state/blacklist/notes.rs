//! What was said when an address was rejected, for people who ask why it is listed.
//!
//! Kept for the newest rejections only, so that a dictionary attack cannot use up memory: so many
//! that were the first of their address, and so many that followed another one, which an attack on
//! random addresses does not push out. They are in the order they came in and nothing finds one by
//! its address, so that to add one costs next to nothing; whoever asks looks at all of them.

use serde::{Deserialize, Serialize};

use super::leaf::Times;
use crate::state::audit::clip;
use crate::state::ring::Ring;

const FIRST_MAX: usize = 20_000;
const LATER_MAX: usize = 40_000;
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

/// One rejection, and of whom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Noted {
    address: Box<str>,
    at_ms: u64,
    node: u64,
    reply: Box<str>,
}

/// A chunk of one of the two rings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NotesChunk {
    later: bool,
    rows: Vec<Noted>,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Notes {
    first: Ring<Noted, FIRST_MAX>,
    later: Ring<Noted, LATER_MAX>,
}

impl Notes {
    /// What is still known of an address's rejections at these times, the oldest first.
    pub(super) fn get(&self, address: &str, times: &Times) -> Vec<RejectionNote> {
        let notes = self.first.iter().chain(self.later.iter());
        let wanted = notes.filter(|noted| {
            noted.address.as_ref() == address && times.as_slice().contains(&noted.at_ms)
        });
        let note = |noted: &Noted| RejectionNote {
            at_ms: noted.at_ms,
            node: noted.node,
            reply: noted.reply.as_ref().to_owned(),
        };
        let mut notes: Vec<RejectionNote> = wanted.map(note).collect();
        // They came as nodes told them.
        notes.sort_by_key(|note| note.at_ms);
        notes
    }

    /// Add a note; `is_first`: no other rejection of the address counts.
    pub(super) fn add(
        &mut self,
        address: &str,
        is_first: bool,
        (node, at_ms, reply): (u64, u64, &str),
    ) {
        let reply = clip(reply, REPLY_OCTETS_MAX).into();
        let noted = Noted { address: address.into(), at_ms, node, reply };
        match is_first {
            true => self.first.push(noted),
            false => self.later.push(noted),
        };
    }

    pub(super) fn chunks(&self) -> impl Iterator<Item = NotesChunk> {
        let first = self.first.chunks().map(|chunk| (false, chunk));
        first
            .chain(self.later.chunks().map(|chunk| (true, chunk)))
            .map(|(later, chunk)| NotesChunk { later, rows: chunk.to_vec() })
    }

    pub(super) fn absorb(&mut self, chunk: NotesChunk) {
        match chunk.later {
            false => self.first.push_chunk(chunk.rows),
            true => self.later.push_chunk(chunk.rows),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::leaf::TIMES_MAX;
    use super::*;

    fn times(at_ms: impl IntoIterator<Item = u64>) -> Times {
        let mut times = Times::default();
        at_ms.into_iter().for_each(|at| times.push(at));
        times
    }

    #[test]
    fn single_rejections_do_not_push_out_what_was_rejected_twice() {
        let mut notes = Notes::default();
        notes.add("a@x.test", true, (1, 1, "550 first"));
        notes.add("a@x.test", false, (2, 2, "550 second"));
        for n in 0..50_000 {
            notes.add(&format!("u{n}@x.test"), true, (1, 3, "550 no"));
        }
        let of_a: Vec<_> = notes.get("a@x.test", &times([1, 2])).iter().map(|n| n.node).collect();
        assert_eq!(of_a, [2]);
        assert!(notes.get("u0@x.test", &times([3])).is_empty());
        assert_eq!(notes.get("u49999@x.test", &times([3])).len(), 1);
        let mut copy = Notes::default();
        notes.chunks().for_each(|chunk| copy.absorb(chunk));
        assert!(copy.chunks().eq(notes.chunks()));
    }

    #[test]
    fn only_notes_of_rejections_that_count_are_shown() {
        let mut notes = Notes::default();
        (0..20).for_each(|n| notes.add("b@x.test", n == 0, (1, n, "550")));
        let shown = notes.get("b@x.test", &times(0..20));
        assert_eq!(shown.iter().map(|note| note.at_ms).collect::<Vec<_>>(), Vec::from_iter(10..20));
        assert_eq!(shown.len(), TIMES_MAX);
        assert!(notes.get("b@x.test", &times([])).is_empty());
    }
}
