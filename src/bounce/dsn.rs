//! Delivery status notifications: RFC 3464 in the multipart/report of RFC 6522, and RFC 6533
//! where addresses are not ASCII. Pure.
//!
//! Everything in a report was written by somebody else: the far server's reply, the original
//! recipient, the envelope id, the message. All of it is cleaned and bounded here, once.

use std::fmt::Write as _;

use super::{field, original};
use crate::smtp::{Enhanced, Envelope, Recipient, ReportKind, Ret, date, xtext};

/// One recipient of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// Index into the envelope's recipients.
    pub recipient: u32,
    /// The status code.
    pub status: Enhanced,
    /// The far server's name, if one was reached.
    pub remote: Option<String>,
    /// Its reply, or in words what else happened.
    pub diagnostic: String,
    /// Whether `diagnostic` is a reply of the far server.
    pub is_reply: bool,
    /// The last attempt, if there was one: microseconds since 1970, UTC.
    pub attempted_at_us: Option<u64>,
}

/// A report to be composed. Its return path is the null one, and the caller's business.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    /// What it is about.
    pub kind: ReportKind,
    /// Our host name.
    pub host: &'a str,
    /// The report's own id, which makes its Message-ID.
    pub id: &'a str,
    /// The queue id of the message it is about.
    pub about: &'a str,
    /// Now: microseconds since 1970, UTC.
    pub now_us: u64,
    /// For a delay: when we give up.
    pub retry_until_us: Option<u64>,
    /// The message's envelope. One without a sender is never reported on.
    pub envelope: &'a Envelope,
    /// At least one recipient.
    pub recipients: &'a [Reported],
    /// Whatever RET says, no more than the message's header is returned.
    pub headers_only: bool,
    /// The message's text as it goes on the wire, or at least its beginning.
    pub text: &'a [u8],
    /// The size of the whole text.
    pub octets: u64,
}

impl Report<'_> {
    /// Whether the report can only go to servers that offer SMTPUTF8 (RFC 6533).
    pub fn needs_smtputf8(&self) -> bool {
        let sender_is_ascii = self.envelope.mail_from.as_ref().is_none_or(|a| a.is_ascii());
        let recipients_are_ascii =
            self.recipients().all(|(_, recipient)| recipient.address.is_ascii());
        self.envelope.smtputf8 || !sender_is_ascii || !recipients_are_ascii
    }

    fn recipients(&self) -> impl Iterator<Item = (&Reported, &Recipient)> {
        self.recipients.iter().filter_map(|reported| {
            let index = usize::try_from(reported.recipient).ok()?;
            Some((reported, self.envelope.recipients.get(index)?))
        })
    }
}

/// The report as a message text on the wire: dot-stuffed, lines ending with CRLF, without the
/// final dot. If it is not ASCII throughout, it must go out as 8BITMIME.
pub fn compose(report: &Report<'_>) -> Vec<u8> {
    let utf8 = report.needs_smtputf8();
    let wants_all = !report.headers_only && report.envelope.ret == Some(Ret::Full);
    let (returned, is_whole) = match report.kind {
        ReportKind::Failed if wants_all => match original::whole(report.text, report.octets) {
            Some(text) => (text, true),
            None => (original::header(report.text), false),
        },
        // RET is for failures only (RFC 3461 section 4.3), and the header is enough to know a
        // message by.
        _ => (original::header(report.text), false),
    };
    let boundary = boundary(report.id, &returned);
    let mut out = String::with_capacity(4096);
    write_header(&mut out, report, &boundary, utf8 || !returned.is_ascii());
    write_words(&mut out, report, &boundary, utf8);
    write_status(&mut out, report, &boundary, utf8);
    let kind = match (is_whole, utf8) {
        (true, false) => "message/rfc822",
        (true, true) => "message/global",
        (false, false) => "text/rfc822-headers",
        (false, true) => "message/global-headers",
    };
    let _ = write!(out, "--{boundary}\r\nContent-Type: {kind}\r\n");
    if !returned.is_ascii() {
        out.push_str("Content-Transfer-Encoding: 8bit\r\n");
    }
    out.push_str("\r\n");
    // What we wrote never begins a line with a dot; what is returned is stuffed already.
    let mut text = out.into_bytes();
    text.extend_from_slice(&returned);
    text.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    text
}

/// A boundary that does not occur in what it bounds.
fn boundary(id: &str, returned: &[u8]) -> String {
    let id = id.chars().filter(char::is_ascii_alphanumeric).take(40).collect::<String>();
    let mut boundary = format!("=_report_{id}");
    while memchr::memmem::find(returned, boundary.as_bytes()).is_some() {
        boundary.push('_');
    }
    boundary
}

fn write_header(out: &mut String, report: &Report<'_>, boundary: &str, eight_bit: bool) {
    let utf8 = report.needs_smtputf8();
    let host = field::clean(report.host, utf8);
    let to = match &report.envelope.mail_from {
        Some(sender) => sender.to_string(),
        None => format!("postmaster@{host}"),
    };
    let subject = match report.kind {
        ReportKind::Failed => "Your message could not be delivered",
        ReportKind::Delayed => "Your message is delayed",
        ReportKind::Relayed => "Your message was handed on",
    };
    field::write(out, "Date", &date(report.now_us), utf8);
    field::write(out, "From", &format!("Mail Delivery System <MAILER-DAEMON@{host}>"), utf8);
    field::write(out, "To", &format!("<{to}>"), utf8);
    field::write(out, "Subject", subject, utf8);
    field::write(out, "Message-ID", &format!("<{}@{host}>", report.id), utf8);
    field::write(out, "Auto-Submitted", "auto-replied", utf8);
    field::write(out, "MIME-Version", "1.0", utf8);
    if eight_bit {
        // RFC 2045 section 6.4: a multipart is as wide as its widest part.
        field::write(out, "Content-Transfer-Encoding", "8bit", utf8);
    }
    let _ = write!(
        out,
        "Content-Type: multipart/report; report-type=delivery-status;\r\n boundary=\"{boundary}\"\
         \r\n\r\nThis is a delivery report in MIME format.\r\n\r\n"
    );
}

/// The part for people.
fn write_words(out: &mut String, report: &Report<'_>, boundary: &str, utf8: bool) {
    let charset = if utf8 { "utf-8" } else { "us-ascii" };
    let _ = write!(out, "--{boundary}\r\nContent-Type: text/plain; charset={charset}\r\n");
    out.push_str(if utf8 { "Content-Transfer-Encoding: 8bit\r\n\r\n" } else { "\r\n" });
    let host = field::clean(report.host, utf8);
    let _ = write!(out, "This is the mail relay {host}.\r\n\r\n");
    let arrived = date(report.envelope.origin.received_at_us);
    let _ = write!(out, "Your message of {arrived} ");
    match (report.kind, report.retry_until_us) {
        (ReportKind::Failed, _) => out.push_str(
            "could not be delivered to the\r\nrecipients below. It will not be tried again.\r\n",
        ),
        (ReportKind::Delayed, until) => {
            out.push_str(
                "has not yet been delivered to\r\nthe recipients below. You need not do anything: \
                 it will be tried again",
            );
            let until = until.map(|until| format!("\r\nuntil {}", date(until)));
            let _ = write!(out, "{}.\r\n", until.unwrap_or_default());
        }
        (ReportKind::Relayed, _) => out.push_str(
            "was handed to the servers of\r\nthe recipients below. They send no reports, so this \
             is the last one.\r\n",
        ),
    }
    for (reported, recipient) in report.recipients() {
        out.push_str("\r\n");
        // Folded like a field: the address is its name.
        let name = format!("<{}>", field::clean(recipient.address.as_str(), utf8));
        let said = match &reported.remote {
            Some(remote) if reported.is_reply => format!("{remote} said: {}", reported.diagnostic),
            _ => reported.diagnostic.clone(),
        };
        field::write(out, &name, &said, utf8);
    }
    let _ = write!(out, "\r\nThe postmaster finds this message in the logs as {}.\r\n\r\n", {
        field::clean(report.about, false)
    });
}

/// The part for machines.
fn write_status(out: &mut String, report: &Report<'_>, boundary: &str, utf8: bool) {
    let kind = if utf8 { "message/global-delivery-status" } else { "message/delivery-status" };
    let _ = write!(out, "--{boundary}\r\nContent-Type: {kind}\r\n");
    out.push_str(if utf8 { "Content-Transfer-Encoding: 8bit\r\n\r\n" } else { "\r\n" });
    field::write(out, "Reporting-MTA", &format!("dns; {}", report.host), utf8);
    if let Some(envid) = &report.envelope.envid {
        let decoded = xtext::decode(envid);
        field::write(out, "Original-Envelope-Id", decoded.as_ref().unwrap_or(envid), utf8);
    }
    let arrived = date(report.envelope.origin.received_at_us);
    field::write(out, "Arrival-Date", &arrived, utf8);
    for (reported, recipient) in report.recipients() {
        out.push_str("\r\n");
        write_recipient(out, report, reported, recipient, utf8);
    }
    out.push_str("\r\n");
}

fn write_recipient(
    out: &mut String,
    report: &Report<'_>,
    reported: &Reported,
    recipient: &Recipient,
    utf8: bool,
) {
    let mut add = |name: &str, value: &str| field::write(out, name, value, utf8);
    if let Some(original) = recipient.orcpt.as_deref().and_then(original_recipient) {
        add("Original-Recipient", &original);
    }
    let kind = if recipient.address.is_ascii() { "rfc822" } else { "utf-8" };
    add("Final-Recipient", &format!("{kind}; {}", recipient.address));
    add(
        "Action",
        match report.kind {
            ReportKind::Failed => "failed",
            ReportKind::Delayed => "delayed",
            ReportKind::Relayed => "relayed",
        },
    );
    add("Status", &reported.status.to_string());
    if let Some(remote) = &reported.remote {
        add("Remote-MTA", &format!("dns; {remote}"));
    }
    let kind = if reported.is_reply { "smtp" } else { "x-mxfleet" };
    add("Diagnostic-Code", &format!("{kind}; {}", reported.diagnostic));
    if let Some(at) = reported.attempted_at_us {
        add("Last-Attempt-Date", &date(at));
    }
    if let (ReportKind::Delayed, Some(until)) = (report.kind, report.retry_until_us) {
        add("Will-Retry-Until", &date(until));
    }
}

/// ORCPT for people: `type; address`, decoded where that gives printable text. `None` if it is no
/// ORCPT.
fn original_recipient(orcpt: &str) -> Option<String> {
    let (kind, address) = orcpt.split_once(';')?;
    let is_atom = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if kind.is_empty() || !kind.chars().all(is_atom) || address.is_empty() {
        return None;
    }
    let address = xtext::decode(address).unwrap_or_else(|| address.to_owned());
    Some(format!("{kind}; {address}"))
}

#[cfg(test)]
mod tests;
