//! The checks, in the order they are asked.

use std::cell::OnceCell;

use mxfleet_cluster::{CustomerStatus, Domain, State, Verification, Verify, domain_of};

use crate::blacklist;
use crate::returns::{Tag, is_tag};
use crate::smtp::{Address, Enhanced, Reply, ReversePath, Role};

/// The name of the check that is also counted by itself.
pub(super) const BLACKLIST: &str = "blacklist";
/// The name of the check whose refusals are a decision of the operator.
pub(super) const CUSTOMER_ACTIVE: &str = "customer_active";

/// The name of the check that has more to say when the customer's server has been asked.
pub(super) const CALLOUT: &str = "callout";

/// The name of the check whose refusals are written down.
pub(super) const RETURN_PATH: &str = "return_path";

/// The name of the check that is about mail to those who run the service.
pub(super) const ROLE: &str = "role_address";

/// What a check may look at.
pub(super) struct Facts<'a> {
    pub(super) state: &'a State,
    /// Every name this node goes by.
    pub(super) own_names: &'a [String],
    /// There is a webhook for what is in trouble.
    pub(super) has_webhook: bool,
    pub(super) sender: &'a ReversePath,
    pub(super) recipient: &'a Address,
    /// The row of its domain, if that is in the table.
    pub(super) row: Option<&'a Domain>,
    /// What it is known by, once a check has asked.
    pub(super) key: OnceCell<String>,
    /// Milliseconds since 1970, UTC.
    pub(super) now_ms: u64,
}

impl Facts<'_> {
    fn key(&self) -> &str {
        self.key.get_or_init(|| blacklist::key(self.recipient))
    }
}

/// One reason to refuse a recipient.
pub(super) struct Check {
    /// As `explain rcpt` and the metrics name it.
    pub(super) name: &'static str,
    /// The refusal, or `None` when this check has nothing against it.
    pub(super) objection: fn(&Facts<'_>) -> Option<Reply>,
}

/// All of them, in order.
pub(super) const CHECKS: &[Check] = &[
    Check { name: RETURN_PATH, objection: good_return_path },
    Check { name: ROLE, objection: role_is_read },
    Check { name: "served_domain", objection: served_domain },
    Check { name: "relay_syntax", objection: relay_syntax },
    Check { name: CUSTOMER_ACTIVE, objection: customer_active },
    Check { name: BLACKLIST, objection: not_listed },
    Check { name: "recipient_list", objection: named },
    Check { name: CALLOUT, objection: known },
];

/// A return path of ours takes reports, and only in time and with our signature.
fn good_return_path(facts: &Facts<'_>) -> Option<Reply> {
    if !is_return_path(facts) {
        return None;
    }
    let local_part = facts.recipient.local_part();
    let why = match Tag::open_at(facts.state.return_keys(), local_part, facts.now_ms / 1000) {
        Ok(_) if facts.sender.is_none() => return None,
        Ok(_) => "only reports from the null sender are taken here".to_owned(),
        Err(forged) => format!("no return path: {forged}"),
    };
    Some(refusal(550, Enhanced(5, 7, 1), facts, &why))
}

/// An address at this host of the form that return paths have; whoever gets past the check above
/// with one has a good one.
fn is_return_path(facts: &Facts<'_>) -> bool {
    let recipient = facts.recipient;
    is_tag(recipient.local_part()) && facts.own_names.iter().any(|name| name == recipient.domain())
}

/// Mail to those who run the service waits where it is while nobody is set to read it. A
/// postmaster's has to be taken (RFC 5321 section 4.5.1), and waits here.
fn role_is_read(facts: &Facts<'_>) -> Option<Reply> {
    let role = role(facts)?;
    let is_taken =
        role == Role::Postmaster || reads(facts.state, facts.own_names, facts.has_webhook, role);
    (!is_taken).then(|| refusal(450, Enhanced(4, 3, 5), facts, "nobody is set to read this yet"))
}

/// The role that a recipient has at the service's domain, at this host or at an MX name. A domain
/// in the table is its customer's, whatever it is else.
pub(super) fn role(facts: &Facts<'_>) -> Option<Role> {
    if facts.row.is_some() {
        return None;
    }
    let role = Role::of(facts.recipient)?;
    let domain = facts.recipient.domain();
    let is_ours = facts.state.service_domain() == Some(domain)
        || is_host(facts.state, facts.own_names, domain);
    is_ours.then_some(role)
}

/// Whether a domain is the name of a host: of this one, or one that customers have in MX records.
pub(super) fn is_host(state: &State, own_names: &[String], domain: &str) -> bool {
    own_names.iter().any(|name| name == domain) || state.name(domain).is_some()
}

/// Whether somebody gets what is written to this role: an operator who is not at this very host.
pub(super) fn reads(state: &State, own_names: &[String], has_webhook: bool, role: Role) -> bool {
    let is_elsewhere = |operator: &str| {
        let at = domain_of(operator);
        !own_names.iter().any(|name| name.eq_ignore_ascii_case(at))
    };
    state.operators().any(is_elsewhere) || (has_webhook && role == Role::Trouble)
}

/// Only domains in the table, compared as A-labels, and whole: a subdomain is another domain.
fn served_domain(facts: &Facts<'_>) -> Option<Reply> {
    if is_return_path(facts) || role(facts).is_some() {
        return None;
    }
    match facts.row {
        Some(_) => None,
        None => Some(refusal(550, Enhanced(5, 7, 1), facts, "relaying denied")),
    }
}

/// A local part with a second address in it asks the customer's server to relay for us, which
/// trusts us (Postfix calls this `allow_untrusted_routing`).
fn relay_syntax(facts: &Facts<'_>) -> Option<Reply> {
    let routed = facts.recipient.local_part().bytes().any(|b| matches!(b, b'@' | b'%' | b'!'));
    routed.then(|| refusal(550, Enhanced(5, 7, 1), facts, "no source routing"))
}

/// A suspended customer's mail has to wait where it is.
fn customer_active(facts: &Facts<'_>) -> Option<Reply> {
    match facts.state.customer(&facts.row?.customer)?.status {
        CustomerStatus::Active => None,
        CustomerStatus::Suspended => {
            Some(refusal(450, Enhanced(4, 2, 1), facts, "mail for this domain is suspended"))
        }
    }
}

/// The customer's server has refused this recipient too often. Nobody's postmaster is refused
/// (RFC 5321 section 4.5.1).
fn not_listed(facts: &Facts<'_>) -> Option<Reply> {
    let recipient = facts.recipient;
    if recipient.is_postmaster() {
        return None;
    }
    let listed = facts.state.is_blacklisted(facts.key(), facts.now_ms);
    let text = || format!("<{recipient}>... too many failures for this recipient");
    listed.then(|| Reply::new(550, Enhanced(5, 7, 1), text()))
}

/// The customer has named the recipients of the domain, and this is not one of them.
fn named(facts: &Facts<'_>) -> Option<Reply> {
    let list = facts.state.recipient_list(facts.recipient.domain())?;
    let (local, _) = facts.key().rsplit_once('@')?;
    let passes = facts.recipient.is_postmaster() || list.has(local);
    (!passes).then(|| unknown(facts.recipient))
}

/// The customer's server said lately that it does not know this recipient.
fn known(facts: &Facts<'_>) -> Option<Reply> {
    (verification(facts) == Verification::Unknown).then(|| unknown(facts.recipient))
}

/// What is known of a recipient, where customers' servers are asked. A postmaster is known.
pub(super) fn verification(facts: &Facts<'_>) -> Verification {
    let asks = facts.row.is_some_and(|row| row.recipients.verify == Verify::Callout);
    if !asks || facts.recipient.is_postmaster() {
        return Verification::Passes;
    }
    facts.state.verification(facts.key(), facts.now_ms)
}

/// In the words of RFC 5321 (section 4.3.2 and its examples).
pub(super) fn unknown(recipient: &Address) -> Reply {
    Reply::new(550, Enhanced(5, 1, 1), format!("<{recipient}>... no such user here"))
}

fn refusal(code: u16, enhanced: Enhanced, facts: &Facts<'_>, why: &str) -> Reply {
    Reply::new(code, enhanced, format!("<{}>: {why}", facts.recipient))
}
