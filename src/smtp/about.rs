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

/// What we write because of mail to a role address of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RolePart {
    /// The copy for the operators.
    #[serde(rename = "role_copy")]
    Copy,
    /// What the webhook is told.
    #[serde(rename = "role_page")]
    Page,
    /// The answer to who wrote it.
    #[serde(rename = "role_acknowledgement")]
    Acknowledgement,
}

impl RolePart {
    /// Whether operators miss something without it.
    pub fn is_for_operators(self) -> bool {
        self != Self::Acknowledgement
    }

    /// For the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Page => "page",
            Self::Acknowledgement => "acknowledgement",
        }
    }
}

/// What a message is that we wrote because of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Written {
    /// A report to its sender.
    Report(ReportKind),
    /// It was to a role address of ours.
    Role(RolePart),
}

/// Which recipients of which message a message of ours is about. It stands in our message's own
/// envelope, so that whoever finds that in the queue after a crash does not write another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// What was written.
    pub kind: Written,
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
/// The queue of what the webhook is to be told.
pub const WEBHOOK: &str = "webhook:";

impl Envelope {
    /// Whether we wrote the message ourselves.
    pub fn is_ours(&self) -> bool {
        self.about.is_some() || self.letter.is_some()
    }

    /// Which letter about a migration it is, if it is one.
    pub fn migration_letter(&self) -> Option<&MigrationLetter> {
        match self.letter.as_ref()? {
            Letter::Migration(letter) => Some(letter),
            Letter::Link { .. } => None,
        }
    }

    /// What the message is, if we wrote it because of mail to a role address of ours.
    pub fn role_part(&self) -> Option<RolePart> {
        match self.about.as_ref()?.kind {
            Written::Role(part) => Some(part),
            Written::Report(_) => None,
        }
    }

    /// The queue that the message waits in for this recipient: the recipient's domain; for a
    /// message of our own, another one for that domain. Ours may go to anybody, and must not stand
    /// in the way of what customers get.
    pub fn destination<'a>(&self, recipient: &'a Recipient) -> Cow<'a, str> {
        if self.role_part() == Some(RolePart::Page) {
            return WEBHOOK.into();
        }
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
        None => (destination, destination == WEBHOOK),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::Address;

    #[test]
    fn what_was_written_is_read_back_also_from_an_older_version() {
        for (kind, text) in [
            (Written::Report(ReportKind::Failed), "\"failed\""),
            (Written::Report(ReportKind::Relayed), "\"relayed\""),
            (Written::Role(RolePart::Copy), "\"role_copy\""),
            (Written::Role(RolePart::Page), "\"role_page\""),
            (Written::Role(RolePart::Acknowledgement), "\"role_acknowledgement\""),
        ] {
            assert_eq!(serde_json::to_string(&kind).unwrap(), text);
            assert_eq!(serde_json::from_str::<Written>(text).unwrap(), kind);
        }
        let migration = MigrationLetter { migration: 7, round: 2, customer: "acme".into() };
        for (letter, text) in [
            (Letter::Migration(migration), r#"{"migration":7,"round":2,"customer":"acme"}"#),
            (Letter::Link { link_of: "acme".into() }, r#"{"link_of":"acme"}"#),
        ] {
            assert_eq!(serde_json::to_string(&letter).unwrap(), text);
            assert_eq!(serde_json::from_str::<Letter>(text).unwrap(), letter);
        }
        let about = About {
            kind: Written::Report(ReportKind::Failed),
            id: "1".into(),
            recipients: vec![0],
        };
        let text = r#""report":{"kind":"failed","id":"1","recipients":[0]}"#;
        let question = Envelope::question(&Address::parse("a@b.test", false).unwrap());
        let envelope = Envelope { about: Some(about), ..question };
        assert!(serde_json::to_string(&envelope).unwrap().contains(text));
    }

    #[test]
    fn each_kind_of_our_own_mail_has_queues_of_its_own() {
        let mut envelope = Envelope::question(&Address::parse("a@b.test", false).unwrap());
        let queue =
            |envelope: &Envelope| envelope.destination(&envelope.recipients[0]).into_owned();
        assert_eq!(queue(&envelope), "b.test");
        for (part, expected) in [(RolePart::Copy, "own:b.test"), (RolePart::Page, WEBHOOK)] {
            let (kind, id) = (Written::Role(part), "1".to_owned());
            envelope.about = Some(About { kind, id, recipients: vec![0] });
            assert_eq!(queue(&envelope), expected);
            assert!(domain_of(expected).1, "it is ours");
        }
    }
}
