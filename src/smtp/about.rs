//! Mail that we write ourselves: what it is about, and which queue it waits in.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{Envelope, Recipient};

/// What a report is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportKind {
    /// The recipients will not get the message.
    Failed,
    /// They have not got it yet.
    Delayed,
    /// It was handed to a server that sends no reports itself; the sender asked to know
    /// (RFC 3461 section 5.2.2).
    Relayed,
}

impl ReportKind {
    /// For the metric and the journal.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Relayed => "relayed",
        }
    }
}

/// Which recipients of which message a report is about. It stands in the report's own envelope, so
/// that whoever finds the report in the queue after a crash does not write another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// What is reported.
    pub kind: ReportKind,
    /// The queue id of the message.
    pub id: String,
    /// Indexes into its recipients.
    pub recipients: Vec<u32>,
}

/// Which letter of ours to a customer a message is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Letter {
    /// It is about a migration: the fleet is to know what became of it.
    Migration(MigrationLetter),
    /// It has a link to the customer's own view.
    Link {
        /// The customer's id.
        link_of: String,
    },
}

/// Which letter about a migration a message is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MigrationLetter {
    /// The migration it is about.
    pub migration: u64,
    /// The announcement is 1, reminders follow.
    pub round: u32,
    /// The customer's id.
    pub customer: String,
}

/// What the name of a queue of our own mail begins with. No domain has a colon.
const OWN: &str = "own:";

impl Envelope {
    /// Whether we wrote the message ourselves.
    pub fn is_ours(&self) -> bool {
        self.report.is_some() || self.letter.is_some()
    }

    /// Which letter about a migration it is, if it is one.
    pub fn migration_letter(&self) -> Option<&MigrationLetter> {
        match self.letter.as_ref()? {
            Letter::Migration(letter) => Some(letter),
            Letter::Link { .. } => None,
        }
    }

    /// The queue that the message waits in for this recipient: the recipient's domain; for a
    /// message of our own, another one for that domain. Ours may go to anybody, and must not stand
    /// in the way of what customers get.
    pub fn destination<'a>(&self, recipient: &'a Recipient) -> Cow<'a, str> {
        let domain = recipient.address.domain();
        if self.is_ours() { own_destination(domain).into() } else { domain.into() }
    }
}

/// The queue of our own mail for a domain.
pub fn own_destination(domain: &str) -> String {
    format!("{OWN}{domain}")
}

/// The domain of a queue, and whether it is one of our own mail.
pub fn domain_of(destination: &str) -> (&str, bool) {
    match destination.strip_prefix(OWN) {
        Some(domain) => (domain, true),
        None => (destination, false),
    }
}
