//! The text of a letter. Pure.

use crate::smtp::{Address, date};
use crate::system::clock::timestamp;

/// RFC 5322 allows 998; a dot may come in front.
const LINE_OCTETS_MAX: usize = 900;

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
        for line in self.body.lines().flat_map(pieces) {
            if line.starts_with('.') {
                text.push('.');
            }
            text.push_str(line);
            text.push_str("\r\n");
        }
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

/// A line in pieces that RFC 5322 section 2.1.1 allows, cut at a space if there is one.
fn pieces(line: &str) -> Vec<&str> {
    let (mut pieces, mut rest) = (Vec::new(), line);
    while rest.len() > LINE_OCTETS_MAX {
        let most = rest.floor_char_boundary(LINE_OCTETS_MAX);
        let cut = rest[..most].rfind(' ').map_or(most, |space| space + 1);
        let (piece, more) = rest.split_at(cut);
        pieces.push(piece);
        rest = more;
    }
    pieces.push(rest);
    pieces
}

/// A time as people read it in a letter.
pub fn moment(ms: u64) -> String {
    timestamp(ms).strftime("%A, %Y-%m-%d at %H:%M UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_cut_at_spaces_and_lose_nothing() {
        for text in ["ä".repeat(2000), "word ".repeat(700), String::new(), "short".to_owned()] {
            let pieces = pieces(&text);
            assert_eq!(pieces.concat(), text);
            assert!(pieces.iter().all(|piece| piece.len() <= LINE_OCTETS_MAX));
            let cut = pieces.iter().rev().skip(1);
            assert!(!text.contains(' ') || cut.into_iter().all(|piece| piece.ends_with(' ')));
        }
    }
}
