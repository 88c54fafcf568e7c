//! The envelope: who sent a message, to whom, and what the extensions asked for.
//!
//! It is written to the spool as JSON, so that an operator can read it, and so that a field added
//! later (with `#[serde(default)]`) still reads what an older version wrote.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{About, Address, Authentication, Letter};

/// Everything about one message that is not in its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// MAIL FROM; `None` is the null reverse-path `<>`.
    pub mail_from: ReversePath,
    /// RCPT TO, in the order they were accepted; never empty.
    pub recipients: Vec<Recipient>,
    /// BODY= of RFC 6152.
    #[serde(default)]
    pub body: BodyType,
    /// The SMTPUTF8 parameter was given (RFC 6531).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub smtputf8: bool,
    /// RET= of RFC 3461.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ret: Option<Ret>,
    /// ENVID= of RFC 3461, still encoded as xtext.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envid: Option<String>,
    /// What SPF and DKIM say, if anybody looked when it arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
    /// For what we wrote ourselves because of another message: what it is about. The name in the
    /// spool is from when there were only reports.
    #[serde(default, rename = "report", skip_serializing_if = "Option::is_none")]
    pub about: Option<About>,
    /// For a letter that we wrote to a customer: which one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub letter: Option<Letter>,
    /// Where it came from, and how.
    pub origin: Origin,
}

impl Envelope {
    /// The field that shows what SPF and DKIM say, if anybody looked. It goes above the text.
    pub fn results_field(&self) -> Option<String> {
        let domain = self.mail_from.as_ref().map_or("", Address::domain);
        Some(self.authentication.as_ref()?.field(domain))
    }

    /// The envelope of a message that the host writes itself, without what it is about. RFC 3461
    /// section 6.2 and RFC 5321 section 4.5.5: from nobody, and never reported on.
    pub fn own<'a>(
        to: impl IntoIterator<Item = &'a Address>,
        host: &str,
        received_at_us: u64,
        is_ascii: bool,
        smtputf8: bool,
    ) -> Self {
        let to = to.into_iter().map(|address| Recipient {
            address: address.clone(),
            notify: Some(Notify::NEVER),
            orcpt: None,
        });
        Self {
            mail_from: None,
            recipients: to.collect(),
            body: if is_ascii { BodyType::SevenBit } else { BodyType::EightBitMime },
            smtputf8,
            ret: None,
            envid: None,
            authentication: None,
            about: None,
            letter: None,
            origin: Origin { ip: None, helo: host.to_owned(), received_at_us, mx_name: None },
        }
    }

    /// The envelope of no message: whether a server would take mail for this recipient.
    pub fn question(recipient: &Address) -> Self {
        let recipient = Recipient { address: recipient.clone(), notify: None, orcpt: None };
        let origin = Origin { ip: None, helo: String::new(), received_at_us: 0, mx_name: None };
        Self {
            mail_from: None,
            recipients: vec![recipient],
            body: BodyType::default(),
            smtputf8: false,
            ret: None,
            envid: None,
            authentication: None,
            about: None,
            letter: None,
            origin,
        }
    }
}

/// MAIL FROM: an address, or `None` for the null reverse-path `<>`.
pub type ReversePath = Option<Address>;

/// The client that handed us the message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Its address; `None` for a message we wrote ourselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// The name it gave in EHLO or HELO, checked and clean.
    pub helo: String,
    /// When the end of the data was reached: microseconds since 1970, UTC.
    pub received_at_us: u64,
    /// The MX name it asked for by TLS server name indication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mx_name: Option<String>,
}

/// One RCPT TO.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// The address as it was given.
    pub address: Address,
    /// NOTIFY= of RFC 3461; `None` when it was not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<Notify>,
    /// ORCPT= of RFC 3461 (`type;xtext`), still encoded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orcpt: Option<String>,
}

/// BODY= of RFC 6152.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum BodyType {
    /// `7BIT`, or no parameter.
    #[default]
    SevenBit,
    /// `8BITMIME`.
    EightBitMime,
}

/// RET= of RFC 3461 section 4.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ret {
    /// Return the whole message.
    Full,
    /// Return the headers only.
    Hdrs,
}

/// NOTIFY= of RFC 3461 section 4.1; all false is `NEVER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Notify {
    /// A report when it was delivered.
    pub success: bool,
    /// A report when it failed.
    pub failure: bool,
    /// A report when it is late.
    pub delay: bool,
}

impl Notify {
    /// `NOTIFY=NEVER`.
    pub const NEVER: Self = Self { success: false, failure: false, delay: false };
}
