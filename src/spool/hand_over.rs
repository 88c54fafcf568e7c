//! Entries that go to another node, or come from one.
//!
//! A copy keeps its id, its envelope, and what became of each recipient so far. It arrives on hold:
//! its old node may still deliver it until that node has recorded that it is handed over, and then
//! says so. So at every moment exactly one node delivers it, whoever crashes.

use super::index::Entry;
use super::queue::{Note, Request};
use super::record::Forgotten;
use super::state::{Mark, RecipientState};
use super::{Draft, EntryId, Full, Hold, Spool};
use crate::smtp::{Enhanced, Envelope};

/// What a copy has besides its text.
#[derive(Debug, Clone)]
pub struct Copied {
    /// Its envelope.
    pub envelope: Envelope,
    /// What became of each recipient so far.
    pub states: Vec<RecipientState>,
    /// Why it is not delivered for now.
    pub hold: Hold,
}

impl Spool {
    /// Begin a copy of an entry of another node, of `octets`.
    pub fn begin_copy(&self, id: EntryId, octets: u64) -> Result<Draft, Full> {
        let shared = &self.handle.shared;
        if !shared.is_writable() {
            return Err(Full);
        }
        shared.space.check(octets)?;
        Ok(Draft::new(shared, id))
    }

    /// Why an entry is not delivered for now; `None` if there is none of this id.
    pub fn hold_of(&self, id: EntryId) -> Option<Hold> {
        self.handle.shared.index().get(id).map(Entry::hold)
    }

    /// Change why an entry is not delivered. Durable after [`Spool::flush`].
    pub fn set_hold(&self, id: EntryId, hold: Hold) {
        self.record(id, vec![Mark::Hold(hold)]);
    }

    /// Another node has the entry, or had it all the time. Durable after [`Spool::flush`].
    pub fn forget_copy(&self, id: EntryId) {
        let note = Note::Forget(Forgotten::HandedOver);
        self.handle.shared.queue.push(Request::Note { id, note });
    }

    /// Entries on their way between this node and another.
    pub fn on_their_way(&self) -> Vec<(EntryId, Hold)> {
        self.handle.shared.index().not_ours()
    }

    /// Messages that are arriving from clients or other nodes.
    pub fn arriving(&self) -> usize {
        self.handle.shared.queue.drafts()
    }
}

/// The marks that say the same as these states.
pub(super) fn marks(states: &[RecipientState]) -> Vec<Mark> {
    let mark = |(recipient, state): (u32, &RecipientState)| {
        let (dsn, at_us) = (state.dsn.unwrap_or(Enhanced(4, 0, 0)), state.at_us.unwrap_or(0));
        let reply = state.last_reply.clone().unwrap_or_default();
        match state.outcome {
            Some(outcome) => Some(Mark::Final { recipient, outcome, dsn, reply, at_us }),
            None if state.attempts == 0 && state.due_us == 0 => None,
            None => {
                let (attempts, due_us, warned) = (state.attempts, state.due_us, state.warned);
                Some(Mark::Deferred { recipient, attempts, due_us, dsn, reply, at_us, warned })
            }
        }
    };
    (0..).zip(states).filter_map(mark).collect()
}
