//! The text of a letter. Pure.

use crate::bounce::field;
use crate::smtp::{Address, date};
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
    /// The whole message, CRLF, dots stuffed as the spool has it. `from` writes, and gets the
    /// answers.
    pub fn letter(&self, from: &Address, to: &[Address], now_ms: u64) -> Vec<u8> {
        let mut text = self.header(from, to, now_ms);
        text.push_str("\r\n");
        field::write_lines(&mut text, &self.body);
        text.into_bytes()
    }

    /// RFC 5322, and RFC 3834 section 5 so that no automaton answers. Nothing in it is free text:
    /// addresses are parsed, the rest is ours.
    fn header(&self, from: &Address, to: &[Address], now_ms: u64) -> String {
        let to: Vec<String> = to.iter().map(|address| format!("<{address}>")).collect();
        format!(
            "From: <{from}>\r\nTo: {to}\r\nSubject: {subject}\r\nDate: {date}\r\n\
             Message-ID: <{id}@{domain}>\r\nAuto-Submitted: auto-generated\r\nPrecedence: bulk\r\n\
             MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Transfer-Encoding: 8bit\r\n",
            to = to.join(",\r\n "),
            subject = self.subject,
            id = self.id,
            domain = from.domain(),
            date = date(now_ms.saturating_mul(1000)),
        )
    }
}

/// A time as people read it in a letter.
pub fn moment(ms: u64) -> String {
    timestamp(ms).strftime("%A, %Y-%m-%d at %H:%M UTC").to_string()
}
