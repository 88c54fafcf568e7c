//! One mail transaction: from MAIL to the end of the text.

use std::fmt;
use std::net::IpAddr;
use std::time::Instant;

use super::trace::{self, Trace};
use crate::smtp::command::Mail;
use crate::smtp::{Address, Authentication, Envelope, Origin, Recipient, ReversePath};

/// An envelope that is being filled.
#[derive(Debug)]
pub struct Transaction {
    pub(super) mail: Mail,
    pub(super) recipients: Vec<Recipient>,
    /// How often a recipient was accepted, also one that was there already.
    pub(super) taken: usize,
    /// Some recipient was refused, so that DATA without any is answered 554, not 503.
    pub(super) refused_any: bool,
    started: Instant,
}

impl Transaction {
    pub(super) fn new(mail: Mail, now: Instant) -> Self {
        Self { mail, recipients: Vec::new(), taken: 0, refused_any: false, started: now }
    }

    /// Add a recipient that was accepted. One that is there already is no second one, so that its
    /// server gets one copy; what was asked for it first holds.
    pub(super) fn add(&mut self, recipient: Recipient) {
        self.taken += 1;
        if !self.recipients.iter().any(|known| is_same(&known.address, &recipient.address)) {
            self.recipients.push(recipient);
        }
    }
}

/// Whether two addresses are one mailbox (RFC 5321 section 2.4): only a server knows what the case
/// of its local parts means.
fn is_same(one: &Address, other: &Address) -> bool {
    one.local_part() == other.local_part() && one.domain() == other.domain()
}

/// An envelope that is complete, and whose text follows.
#[derive(Debug)]
pub struct Incoming {
    pub(super) transaction: Transaction,
    pub(super) helo: String,
    pub(super) ip: IpAddr,
    pub(super) protocol: &'static str,
    pub(super) mx_name: Option<String>,
}

impl Incoming {
    /// What the client announced with SIZE, 0 when it did not.
    pub fn declared_octets(&self) -> u64 {
        self.transaction.mail.parameters.size.unwrap_or(0)
    }

    /// When MAIL was accepted.
    pub fn started(&self) -> Instant {
        self.transaction.started
    }

    /// MAIL FROM.
    pub fn sender(&self) -> &ReversePath {
        &self.transaction.mail.from
    }

    /// Who was accepted by RCPT.
    pub fn recipients(&self) -> &[Recipient] {
        &self.transaction.recipients
    }

    /// The client's address.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// The name it gave in EHLO or HELO.
    pub fn helo(&self) -> &str {
        &self.helo
    }

    /// The Received field that goes in front of the text.
    pub fn trace(&self, hostname: &str, id: &dyn fmt::Display, now_us: u64) -> String {
        // RFC 5321 section 7.6: the others must not learn of each other.
        let only = match self.transaction.recipients.as_slice() {
            [recipient] => Some(&recipient.address),
            _ => None,
        };
        let trace = Trace {
            helo: &self.helo,
            ip: self.ip,
            hostname,
            protocol: self.protocol,
            id,
            recipient: only,
            now_us,
        };
        trace::received(&trace)
    }

    /// The envelope as it is kept; `received_at_us` is when the text ended.
    pub fn into_envelope(
        self,
        received_at_us: u64,
        authentication: Option<Authentication>,
    ) -> Envelope {
        let Transaction { mail, recipients, .. } = self.transaction;
        let parameters = mail.parameters;
        Envelope {
            mail_from: mail.from,
            recipients,
            body: parameters.body.unwrap_or_default(),
            smtputf8: parameters.smtputf8,
            ret: parameters.ret,
            envid: parameters.envid,
            authentication,
            about: None,
            letter: None,
            origin: Origin {
                ip: Some(self.ip),
                helo: self.helo,
                received_at_us,
                mx_name: self.mx_name,
            },
        }
    }
}
