//! The copy that operators get: what is known of the author, and below it the message as it came,
//! octet for octet, as a part of its own. Pure.

use std::fmt::Write as _;

use super::words;
use crate::bounce::field;
use crate::smtp::{Address, Role};

/// What a copy is made of, the message itself left out: it streams.
#[derive(Debug, Clone, Copy)]
pub struct Copy<'a> {
    /// Whom the message was written to, at least one: the first is who writes the copy.
    pub written_to: &'a [(Role, Address)],
    /// Who gets the copy.
    pub operators: &'a [Address],
    /// Who wrote the message, if that can be answered.
    pub author: Option<&'a Address>,
    /// Its subject.
    pub subject: &'a str,
    /// What is known of author and customer, in lines.
    pub diagnostics: &'a str,
    /// The copy's own id, which makes its Message-ID.
    pub id: &'a str,
    /// This host.
    pub host: &'a str,
    /// The RFC 5322 form of now.
    pub date: &'a str,
    /// What no message can contain that was written before.
    pub boundary: &'a str,
    /// The message needs SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
}

impl Copy<'_> {
    /// What stands before the message.
    pub fn head(&self) -> String {
        let utf8 = self.smtputf8;
        let roles: Vec<&str> = self.written_to.iter().map(|(role, _)| role.as_str()).collect();
        let mut out = String::with_capacity(2048);
        let mut add = |name: &str, value: &str| field::write(&mut out, name, value, utf8);
        for (_, address) in self.written_to {
            // Whoever sends the copy back is known by this.
            add("Delivered-To", &address.to_string());
        }
        if let Some((_, address)) = self.written_to.first() {
            add("From", &format!("<{address}>"));
        }
        let to: Vec<String> = self.operators.iter().map(|to| format!("<{to}>")).collect();
        add("To", &to.join(", "));
        if let Some(author) = self.author.filter(|author| utf8 || author.is_ascii()) {
            add("Reply-To", &format!("<{author}>"));
        }
        let subject = words::subject(&format!("[{}] ", roles.join(", ")), self.subject);
        add("Subject", &subject);
        add("Date", self.date);
        add("Message-ID", &format!("<{}@{}>", self.id, self.host));
        add("Auto-Submitted", "auto-generated");
        add("MIME-Version", "1.0");
        // RFC 2045 section 6.4: a multipart is as wide as its widest part, and what comes is seen
        // only when it has gone.
        add("Content-Transfer-Encoding", "8bit");
        let boundary = self.boundary;
        let kind = if utf8 { "message/global" } else { "message/rfc822" };
        let _ = write!(
            out,
            "Content-Type: multipart/mixed;\r\n boundary=\"{boundary}\"\r\n\r\n--{boundary}\r\n\
             Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        );
        field::write_lines(&mut out, self.diagnostics);
        let _ = write!(
            out,
            "--{boundary}\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        );
        out
    }

    /// What stands behind it.
    pub fn tail(&self) -> String {
        format!("\r\n--{}--\r\n", self.boundary)
    }
}

#[cfg(test)]
mod tests {
    use mail_parser::{MessageParser, MimeHeaders as _, PartType};

    use super::*;

    const DATE: &str = "Mon, 24 Nov 2025 16:00:01 +0000";

    fn address(text: &str) -> Address {
        Address::parse(text, true).unwrap()
    }

    fn composed(original: &str, subject: &str, diagnostics: &str) -> String {
        let author = address("jane@acme.test");
        let copy = Copy {
            written_to: &[
                (Role::Trouble, address("Trouble@relay.test")),
                (Role::Noc, address("noc@relay.test")),
            ],
            operators: &[address("ops@off.test"), address("b@off.test")],
            author: Some(&author),
            subject,
            diagnostics,
            id: "C1",
            host: "mx1.relay.test",
            date: DATE,
            boundary: "=_role_0123",
            smtputf8: false,
        };
        format!("{}{original}{}", copy.head(), copy.tail())
    }

    #[test]
    fn the_message_is_inside_as_it_came() {
        let original = "Received: by mx1\r\nFrom: jane@acme.test\r\nSubject: hübsch\r\n\r\n\
                        ..dot\r\n--=_role_012--\r\nende ü\r\n";
        let text = composed(original, "hübsch\r\nBcc: x@y.test", "Customer acme\n.ü\n");
        let message = MessageParser::default().parse(text.as_bytes()).unwrap();
        assert!(message.subject().unwrap().starts_with("[trouble, noc] hübsch  Bcc: x@y.test"));
        assert_eq!(message.header_raw("Bcc"), None);
        assert_eq!(message.reply_to().unwrap().first().unwrap().address(), Some("jane@acme.test"));
        let kinds: Vec<_> =
            message.parts.iter().filter_map(|p| p.content_type()?.subtype()).collect();
        assert_eq!(kinds, ["mixed", "plain", "rfc822"]);
        assert_eq!(message.body_text(0).unwrap().trim_end(), "Customer acme\r\n..ü");
        let inner = message.parts.iter().find_map(|part| match &part.body {
            PartType::Message(inner) => Some(inner.raw_message().to_vec()),
            _ => None,
        });
        let inner = String::from_utf8(inner.unwrap()).unwrap();
        assert!(inner.contains(original), "{inner}");
        assert!(text.lines().all(|line| line.len() < 998));
    }

    #[test]
    fn no_word_of_others_ends_a_field_or_a_line() {
        let text = composed("x\r\n", "a\r\n\r\n.\r\nQUIT", "b\r\n.\r\nMAIL FROM:<>\0\x1b[2J");
        assert!(!text.contains("\r\n.\r\n") && !text.contains(['\0', '\x1b']));
        assert!(!text.replace("\r\n", "").contains(['\r', '\n']));
    }
}
