//! The text of a letter. Pure.

use data_encoding::BASE64_MIME;

use crate::bounce::field;
use crate::smtp::{Address, date, is_unprintable};
use crate::system::clock::timestamp;

/// What a letter says, in plain text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// ASCII, without line ends.
    pub subject: String,
    /// What stands left of the @ in its Message-ID: letters, digits, dots and hyphens.
    pub id: String,
    /// Lines of any length.
    pub body: String,
}

impl Text {
    /// The whole message, CRLF, dots stuffed as the spool has it, for any server: a body that is
    /// not ASCII is in base64. `from` writes, and gets the answers.
    pub fn letter(&self, from: &Address, to: &[Address], now_ms: u64) -> Vec<u8> {
        let mut text = self.header(from, to, now_ms);
        if self.body.is_ascii() {
            text.push_str("Content-Transfer-Encoding: 7bit\r\n\r\n");
            field::write_lines(&mut text, &self.body);
        } else {
            text.push_str("Content-Transfer-Encoding: base64\r\n\r\n");
            text.push_str(BASE64_MIME.encode(plain(&self.body).as_bytes()).trim_end());
            text.push_str("\r\n");
        }
        text.into_bytes()
    }

    /// RFC 5322, and RFC 3834 section 5 so that no automaton answers. Nothing in it is free text:
    /// addresses are parsed, the rest is ours.
    fn header(&self, from: &Address, to: &[Address], now_ms: u64) -> String {
        let shown = to.iter().filter(|address| address.is_ascii() || needs_smtputf8(from, to));
        let to: Vec<String> = shown.map(|address| format!("<{address}>")).collect();
        format!(
            "From: <{from}>\r\nTo: {to}\r\nSubject: {subject}\r\nDate: {date}\r\n\
             Message-ID: <{id}@{domain}>\r\nAuto-Submitted: auto-generated\r\nPrecedence: bulk\r\n\
             MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n",
            to = to.join(",\r\n "),
            subject = self.subject,
            id = self.id,
            domain = from.domain(),
            date = date(now_ms.saturating_mul(1000)),
        )
    }
}

/// Whether a letter needs SMTPUTF8 (RFC 6531), whoever it goes to. Where it is for others, too, a
/// recipient that only such servers know is left out of the header, and is in nobody's way.
pub(super) fn needs_smtputf8(from: &Address, to: &[Address]) -> bool {
    !from.is_ascii() || to.iter().all(|address| !address.is_ascii())
}

/// Lines as they are before they are encoded, without what a terminal obeys.
fn plain(body: &str) -> String {
    let mut text = String::with_capacity(body.len());
    for line in body.lines() {
        text.extend(line.chars().map(|c| match c {
            '\t' => ' ',
            c if is_unprintable(c) => '?',
            c => c,
        }));
        text.push_str("\r\n");
    }
    text
}

/// A time as people read it in a letter.
pub fn moment(ms: u64) -> String {
    timestamp(ms).strftime("%A, %Y-%m-%d at %H:%M UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(to: &[&str], body: &str) -> String {
        let address = |text: &&str| Address::parse(text, true).unwrap();
        let to: Vec<Address> = to.iter().map(address).collect();
        let text = Text { subject: "S".to_owned(), id: "i".to_owned(), body: body.to_owned() };
        String::from_utf8(text.letter(&address(&"us@relay.test"), &to, 0)).unwrap()
    }

    #[test]
    fn a_letter_is_ascii_unless_only_servers_that_know_utf8_get_it() {
        let body = "Liebe Firma Müller,\n.a dot and a \u{1b} that a terminal obeys.";
        let text = letter(&["é@acme.test", "ops@acme.test"], body);
        assert!(text.is_ascii() && text.contains("To: <ops@acme.test>\r\n"), "{text}");
        let message = mail_parser::MessageParser::default().parse(text.as_bytes()).unwrap();
        let read = message.body_text(0).unwrap().replace("\r\n", "\n");
        assert_eq!(read, body.replace('\u{1b}', "?") + "\n");
        let text = letter(&["é@acme.test"], "Hello.");
        assert!(text.contains("To: <é@acme.test>\r\n"), "{text}");
        assert!(text.contains("Content-Transfer-Encoding: 7bit\r\n\r\nHello.\r\n"), "{text}");
    }
}
