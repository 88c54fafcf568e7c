//! What two nodes say to each other about a message on its way. JSON, for an envelope is JSON.

use serde::{Deserialize, Serialize};

use crate::smtp::Envelope;
use crate::spool::{EntryId, RecipientState};

/// What one asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub(super) enum Ask {
    /// Store this; its text follows.
    Offer(Box<Offer>),
    /// These are yours.
    Yours { ids: Vec<EntryId> },
    /// Whose are these, which you once offered?
    Whose { ids: Vec<EntryId> },
}

/// A message without its text.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Offer {
    pub(super) id: EntryId,
    /// Octets of the text that follows.
    pub(super) octets: u64,
    /// An operator holds it back.
    pub(super) held: bool,
    pub(super) envelope: Envelope,
    /// What became of each recipient so far.
    pub(super) states: Vec<RecipientState>,
}

/// What the other answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(super) enum Reply {
    /// It is on stable storage, on hold; the receiver has so many messages in all.
    Stored { queued: u64 },
    /// It was done.
    Done,
    /// Whose each of them is, in the order that was asked.
    Owners { owners: Vec<Owner> },
    /// Nothing was done.
    Refused { why: String },
}

/// Whose a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Owner {
    /// The one's who asks.
    Yours,
    /// Somebody else's, or it has been delivered.
    NotYours,
    /// It is not decided at this moment.
    Undecided,
}

impl Ask {
    pub(super) fn encode(&self) -> Vec<u8> {
        // Plain values always have a form in JSON; an empty body would be refused.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl Reply {
    pub(super) fn encode(&self) -> Vec<u8> {
        // As above.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(super) fn refused(why: impl Into<String>) -> Self {
        Self::Refused { why: why.into() }
    }
}
