//! What is known of an entry besides its text: outcomes, marks, and the shapes given to callers.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{EntryId, Hold};
use crate::smtp::{About, Enhanced, Envelope};

/// How a recipient ended. There is exactly one for each accepted recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The next hop took it.
    Delivered,
    /// Given up; a report was sent or is due.
    Failed,
    /// Given up, and nobody is told (journaled instead).
    Suppressed,
    /// An operator removed it.
    Removed,
}

/// What happened to one recipient of an entry, or to the entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// The recipient is done with. The first one stands; later ones are ignored.
    Final {
        /// Index into the envelope's recipients.
        recipient: u32,
        /// How it ended.
        outcome: Outcome,
        /// The status code of the last reply.
        dsn: Enhanced,
        /// The text of the last reply.
        reply: String,
        /// Wall time, microseconds since 1970.
        at_us: u64,
    },
    /// The recipient is to be tried again.
    Deferred {
        /// Index into the envelope's recipients.
        recipient: u32,
        /// Attempts so far.
        attempts: u32,
        /// Not before this wall time, microseconds since 1970. The restart after a crash knows it
        /// to the second.
        due_us: u64,
        /// The status code of the last reply.
        dsn: Enhanced,
        /// The text of the last reply.
        reply: String,
        /// Wall time, microseconds since 1970.
        at_us: u64,
        /// The sender has been told that it is late.
        warned: bool,
    },
    /// Whether, and why, the entry is held back.
    Hold(Hold),
}

/// Where one recipient of an entry stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RecipientState {
    /// How it ended; `None` while it is still to be delivered.
    pub outcome: Option<Outcome>,
    /// Attempts so far; no longer known of one that has ended.
    pub attempts: u32,
    /// Not to be tried before, microseconds since 1970; 0 is at once.
    pub due_us: u64,
    /// The status code of the last reply.
    pub dsn: Option<Enhanced>,
    /// The text of the last reply; `None` before the first attempt.
    pub last_reply: Option<String>,
    /// When the last reply came, microseconds since 1970.
    pub at_us: Option<u64>,
    /// The sender has been told that it is late; no longer known of one that has ended.
    pub warned: bool,
}

impl RecipientState {
    /// The state after `mark`, which must be about this recipient.
    pub(super) fn apply(&mut self, mark: &Mark) {
        match mark {
            _ if self.outcome.is_some() => {}
            Mark::Final { outcome, dsn, reply, at_us, .. } => {
                // A final mark replaces the one before, which goes.
                (self.outcome, self.attempts, self.due_us) = (Some(*outcome), 0, 0);
                self.warned = false;
                self.told(*dsn, reply, *at_us);
            }
            Mark::Deferred { attempts, due_us, dsn, reply, at_us, warned, .. } => {
                (self.attempts, self.due_us, self.warned) = (*attempts, *due_us, *warned);
                self.told(*dsn, reply, *at_us);
            }
            Mark::Hold(_) => {}
        }
    }

    fn told(&mut self, dsn: Enhanced, reply: &str, at_us: u64) {
        (self.dsn, self.last_reply, self.at_us) = (Some(dsn), Some(reply.to_owned()), Some(at_us));
    }
}

/// An entry that was just committed, with its text when that is small enough to keep.
#[derive(Debug, Clone)]
pub struct Queued {
    /// Its id.
    pub id: EntryId,
    /// Octets of its text.
    pub octets: u64,
    /// Its envelope.
    pub envelope: Arc<Envelope>,
    /// The text, to be delivered from memory; `None` when it is large or memory for it is used up.
    pub text: Option<Bytes>,
    /// One per recipient.
    pub states: Vec<RecipientState>,
    /// Why it is not delivered for now.
    pub hold: Hold,
}

/// An entry found at start: what scheduling needs, and no more. [`super::Spool::load`] has the
/// rest when its turn comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredEntry {
    /// Its id.
    pub id: EntryId,
    /// Why it is not delivered for now.
    pub hold: Hold,
    /// For a report that we wrote ourselves: what it is about.
    pub about: Option<About>,
    /// Its recipients that are still to be delivered, by destination, in the order of the envelope.
    pub destinations: Vec<RecoveredDestination>,
}

/// The recipients of a recovered entry at one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredDestination {
    /// The domain as lowercase A-label, or a queue of our own mail ([`Envelope::destination`]).
    pub domain: String,
    /// Indexes into the envelope's recipients; never empty.
    pub recipients: Vec<u32>,
    /// The earliest due time among them, microseconds since 1970, in whole seconds; 0 is at once.
    pub due_us: u64,
}

/// What the spool holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Stats {
    /// Entries.
    pub messages: u64,
    /// Recipients that are still to be delivered.
    pub recipients: u64,
    /// Entries that an operator holds back.
    pub held: u64,
    /// Octets of the texts of all entries.
    pub octets: u64,
    /// When the oldest entry began, microseconds since 1970.
    pub oldest_us: Option<u64>,
    /// Segment files.
    pub segments: u64,
    /// Octets of segment files.
    pub segment_octets: u64,
    /// Files in the quarantine.
    pub quarantined: u64,
}
