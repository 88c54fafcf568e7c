//! Who is told that a message failed. Pure.
//!
//! Nearly all mail that fails here was sent in somebody else's name, and a report would reach who
//! never wrote it. So a report goes only to a sender of a customer of ours, and only if the message
//! is known to be theirs. RFC 5321 section 6.2 allows to keep silent about abusive mail; what is
//! kept silent is journaled.

use crate::smtp::{Recipient, ReversePath};

/// What is known of a message when one of its recipients has failed.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// MAIL FROM.
    pub sender: &'a ReversePath,
    /// Who failed.
    pub recipient: &'a Recipient,
    /// The sender's domain is a customer's.
    pub is_customer: bool,
    /// SPF or DKIM says that the message comes from that domain.
    pub is_authentic: bool,
}

/// Who is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Telling {
    /// The sender gets a report (RFC 3464).
    Report,
    /// Nobody.
    Nobody(Because),
}

/// Why nobody is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Because {
    /// The message is a report itself: MAIL FROM is `<>`.
    NullSender,
    /// The sender asked for it (RFC 3461 section 4.1).
    NotAsked,
    /// The sender's domain is no customer's.
    NotACustomer,
    /// The message is not known to be the sender's.
    NotAuthentic,
}

impl Because {
    /// For the journal and the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NullSender => "null_sender",
            Self::NotAsked => "not_asked",
            Self::NotACustomer => "not_a_customer",
            Self::NotAuthentic => "not_authentic",
        }
    }
}

/// Decide about one failed recipient.
pub fn tell(facts: Facts<'_>) -> Telling {
    let because = match facts {
        Facts { sender: None, .. } => Because::NullSender,
        Facts { recipient, .. } if !wants_failures(recipient) => Because::NotAsked,
        Facts { is_customer: false, .. } => Because::NotACustomer,
        Facts { is_authentic: false, .. } => Because::NotAuthentic,
        _ => return Telling::Report,
    };
    Telling::Nobody(because)
}

/// Whether it may matter whether a message that arrives is its sender's: whoever is told nothing
/// in any case need not be asked about.
pub fn may_matter(is_customer: bool, recipients: &[Recipient]) -> bool {
    is_customer && recipients.iter().any(wants_failures)
}

/// Without NOTIFY failures are reported.
fn wants_failures(recipient: &Recipient) -> bool {
    recipient.notify.is_none_or(|notify| notify.failure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::{Address, Notify};

    #[test]
    fn only_an_authentic_customer_who_did_not_decline_is_told() {
        use Because::{NotACustomer, NotAsked, NotAuthentic, NullSender};
        let address = Address::parse("a@acme.test", false).unwrap();
        let sender = Some(address.clone());
        let recipient = |notify| Recipient { address: address.clone(), notify, orcpt: None };
        let plain = recipient(None);
        let never = recipient(Some(Notify::NEVER));
        let asked = recipient(Some(Notify { failure: true, ..Notify::NEVER }));
        for (sender, recipient, is_customer, is_authentic, expected) in [
            (&None, &asked, true, true, Telling::Nobody(NullSender)),
            (&sender, &never, true, true, Telling::Nobody(NotAsked)),
            (&sender, &asked, false, true, Telling::Nobody(NotACustomer)),
            (&sender, &plain, false, false, Telling::Nobody(NotACustomer)),
            (&sender, &plain, true, false, Telling::Nobody(NotAuthentic)),
            (&sender, &plain, true, true, Telling::Report),
            (&sender, &asked, true, true, Telling::Report),
        ] {
            let facts = Facts { sender, recipient, is_customer, is_authentic };
            assert_eq!(tell(facts), expected, "{facts:?}");
        }
    }
}
