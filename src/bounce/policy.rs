//! Who is told what became of a message. Pure.
//!
//! Nearly all mail that fails here was sent in somebody else's name, and a report would reach who
//! never wrote it. So a report goes only to whom the message is known to come from; and when a
//! customer's server has refused it, only to senders of customers, unless the setting
//! `bounce.non_customer` says otherwise. RFC 5321 section 6.2 allows to keep silent about abusive
//! mail; what is kept silent is journaled.

use mxfleet_cluster::Settings;

use crate::smtp::{Notify, Recipient, ReportKind, ReversePath};

/// What has happened to a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The message was refused for good, by the customer's server or because it fits none.
    Refused,
    /// It could not be delivered in `queue.lifetime`, or an operator ended it.
    GivenUp,
    /// It has waited for `queue.warn_after`.
    Late,
    /// A server took it that sends no reports itself.
    Relayed,
}

impl Cause {
    /// What a report of it is called.
    pub fn kind(self) -> ReportKind {
        match self {
            Self::Refused | Self::GivenUp => ReportKind::Failed,
            Self::Late => ReportKind::Delayed,
            Self::Relayed => ReportKind::Relayed,
        }
    }
}

/// Who is told of refusals among senders whose domain is no customer's: `bounce.non_customer`.
/// A customer's domain is what is forged most in mail to that customer, and its reports have no
/// budget: there it takes SPF or DKIM, whatever this says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Strangers {
    /// Nobody.
    Suppress,
    /// Those whose message SPF or DKIM confirms.
    Verified,
    /// Everybody.
    Send,
}

impl Strangers {
    /// As the fleet has set it.
    pub fn of(settings: &Settings) -> Self {
        match settings.get("bounce.non_customer") {
            Some("verified") => Self::Verified,
            Some("send") => Self::Send,
            _ => Self::Suppress,
        }
    }
}

/// What is known of a recipient and the message.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// What has happened.
    pub cause: Cause,
    /// MAIL FROM.
    pub sender: &'a ReversePath,
    /// Whom it has happened to.
    pub recipient: &'a Recipient,
    /// The sender's domain is a name of this very host.
    pub is_own: bool,
    /// The sender's domain is a customer's.
    pub is_customer: bool,
    /// The setting.
    pub strangers: Strangers,
}

/// What follows from the facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// The sender is told, on these terms.
    Report(Terms),
    /// The sender is told if the message is known to be theirs.
    IfAuthentic(Terms),
    /// Nobody is told.
    Nobody(Because),
}

/// How a sender is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Terms {
    /// Of the message no more than its header is returned, whatever RET says.
    pub headers_only: bool,
    /// The report counts against `bounce.budget`. Without it, one on the strength of a signature
    /// alone still does: a signed message can be sent again by anybody who has a copy.
    pub budgeted: bool,
}

/// Why nobody is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Because {
    /// The message is a report itself: MAIL FROM is `<>`.
    NullSender,
    /// MAIL FROM is an address of our own, which would make a loop.
    OwnAddress,
    /// The sender asked for it (RFC 3461 section 4.1).
    NotAsked,
    /// The sender's domain is no customer's.
    NotACustomer,
    /// The message is not known to be the sender's.
    NotAuthentic,
    /// The sender's domain has got enough reports for now.
    BudgetSpent,
    /// The report could not be stored, and the message was delivered already.
    NotStored,
}

impl Because {
    /// For the journal and the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NullSender => "null_sender",
            Self::OwnAddress => "own_address",
            Self::NotAsked => "not_asked",
            Self::NotACustomer => "not_a_customer",
            Self::NotAuthentic => "not_authentic",
            Self::BudgetSpent => "budget_spent",
            Self::NotStored => "not_stored",
        }
    }
}

/// Decide about one recipient.
pub fn rule(facts: Facts<'_>) -> Rule {
    use Because::{NotACustomer, NotAsked, NullSender, OwnAddress};
    let stranger = Terms { headers_only: true, budgeted: true };
    let customer = Terms { headers_only: false, budgeted: false };
    match facts {
        Facts { sender: None, .. } => Rule::Nobody(NullSender),
        Facts { is_own: true, .. } => Rule::Nobody(OwnAddress),
        Facts { cause, recipient, .. } if !wants(cause, recipient.notify) => Rule::Nobody(NotAsked),
        Facts { is_customer: true, .. } => Rule::IfAuthentic(customer),
        Facts { cause, strangers, .. } => match (cause, strangers) {
            (Cause::Late | Cause::Relayed, _) => Rule::Nobody(NotACustomer),
            (_, Strangers::Send) => Rule::Report(Terms { headers_only: false, ..stranger }),
            (Cause::GivenUp, _) | (_, Strangers::Verified) => Rule::IfAuthentic(stranger),
            (Cause::Refused, Strangers::Suppress) => Rule::Nobody(NotACustomer),
        },
    }
}

/// Whether it may soon matter whether a message that arrives is its sender's. It may matter later
/// even if not: when a stranger's message is given up. That is seldom, and looked at then.
pub fn may_matter(is_customer: bool, strangers: Strangers, recipients: &[Recipient]) -> bool {
    let wants_any = |recipient: &Recipient| recipient.notify != Some(Notify::NEVER);
    (is_customer || strangers == Strangers::Verified) && recipients.iter().any(wants_any)
}

/// Without NOTIFY failures are reported, and delays may be (RFC 3461 section 4.1).
fn wants(cause: Cause, notify: Option<Notify>) -> bool {
    match (cause, notify) {
        (Cause::Relayed, notify) => notify.is_some_and(|notify| notify.success),
        (_, None) => true,
        (Cause::Late, Some(notify)) => notify.delay,
        (Cause::Refused | Cause::GivenUp, Some(notify)) => notify.failure,
    }
}

#[cfg(test)]
mod tests {
    use mxfleet_cluster::SETTINGS;

    use super::*;
    use crate::smtp::Address;

    const CUSTOMER: Rule = Rule::IfAuthentic(Terms { headers_only: false, budgeted: false });
    const STRANGER: Rule = Rule::IfAuthentic(Terms { headers_only: true, budgeted: true });

    fn address() -> Address {
        Address::parse("a@acme.test", false).unwrap()
    }

    fn recipient(notify: Option<Notify>) -> Recipient {
        Recipient { address: address(), notify, orcpt: None }
    }

    #[test]
    fn each_kind_of_sender_is_told_of_what_concerns_it() {
        use Because::NotACustomer;
        use Cause::{GivenUp, Late, Refused, Relayed};
        use Strangers::{Send, Suppress, Verified};
        let anybody = Rule::Report(Terms { headers_only: false, budgeted: true });
        let sender = Some(address());
        let success = recipient(Some(Notify { success: true, failure: true, delay: true }));
        for (cause, is_customer, strangers, expected) in [
            (Refused, true, Suppress, CUSTOMER),
            (GivenUp, true, Suppress, CUSTOMER),
            (Late, true, Suppress, CUSTOMER),
            (Relayed, true, Suppress, CUSTOMER),
            (Refused, true, Send, CUSTOMER),
            (GivenUp, true, Send, CUSTOMER),
            (Refused, false, Suppress, Rule::Nobody(NotACustomer)),
            (Refused, false, Verified, STRANGER),
            (Refused, false, Send, anybody),
            (GivenUp, false, Suppress, STRANGER),
            (GivenUp, false, Send, anybody),
            (Late, false, Send, Rule::Nobody(NotACustomer)),
            (Relayed, false, Send, Rule::Nobody(NotACustomer)),
        ] {
            let (sender, recipient, is_own) = (&sender, &success, false);
            let facts = Facts { cause, sender, recipient, is_own, is_customer, strangers };
            assert_eq!(rule(facts), expected, "{facts:?}");
            let none = Facts { sender: &None, ..facts };
            assert_eq!(rule(none), Rule::Nobody(Because::NullSender));
            let own = Facts { is_own: true, ..facts };
            assert_eq!(rule(own), Rule::Nobody(Because::OwnAddress));
        }
    }

    #[test]
    fn the_setting_says_that_customers_domains_are_told_only_of_mail_that_is_theirs() {
        let setting = SETTINGS.iter().find(|setting| setting.name == "bounce.non_customer");
        let about = setting.unwrap().about;
        assert!(about.contains("mail from a domain that is no customer's: nobody, those"));
        let words = "at customers' domains it is always those whom SPF or DKIM confirms";
        assert!(about.ends_with(words), "{about}");
    }

    #[test]
    fn notify_says_what_the_sender_wants_to_hear() {
        let only = |success, failure, delay| Some(Notify { success, failure, delay });
        for (notify, failed, late, relayed) in [
            (None, true, true, false),
            (Some(Notify::NEVER), false, false, false),
            (only(true, false, false), false, false, true),
            (only(false, true, false), true, false, false),
            (only(false, false, true), false, true, false),
        ] {
            assert_eq!(wants(Cause::Refused, notify), failed, "{notify:?}");
            assert_eq!(wants(Cause::GivenUp, notify), failed, "{notify:?}");
            assert_eq!(wants(Cause::Late, notify), late, "{notify:?}");
            assert_eq!(wants(Cause::Relayed, notify), relayed, "{notify:?}");
        }
        let sender = Some(address());
        let recipient = recipient(Some(Notify::NEVER));
        let facts = Facts {
            cause: Cause::Refused,
            sender: &sender,
            recipient: &recipient,
            is_own: false,
            is_customer: true,
            strangers: Strangers::Send,
        };
        assert_eq!(rule(facts), Rule::Nobody(Because::NotAsked));
    }

    #[test]
    fn arriving_mail_is_looked_at_where_it_may_matter() {
        let (plain, never) = (recipient(None), recipient(Some(Notify::NEVER)));
        for (is_customer, strangers, recipients, expected) in [
            (true, Strangers::Suppress, vec![never.clone(), plain.clone()], true),
            (true, Strangers::Suppress, vec![never], false),
            (false, Strangers::Suppress, vec![plain.clone()], false),
            (false, Strangers::Send, vec![plain.clone()], false),
            (false, Strangers::Verified, vec![plain], true),
        ] {
            assert_eq!(may_matter(is_customer, strangers, &recipients), expected);
        }
    }
}
