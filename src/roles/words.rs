//! Subjects of others in header fields of ours. Pure.

use data_encoding::BASE64;

use crate::bounce::field;

/// So much of a subject is repeated.
const SUBJECT_OCTETS_MAX: usize = 200;
/// Octets of text in one encoded word; it is 75 characters at most (RFC 2047 section 2).
const WORD_OCTETS_MAX: usize = 45;

/// A subject of others after a word of ours, as the value of a field, in ASCII.
pub(super) fn subject(before: &str, subject: &str) -> String {
    let text = field::clean(&format!("{before}{subject}"), true);
    let text = &text[..text.floor_char_boundary(SUBJECT_OCTETS_MAX)];
    if text.is_ascii() { text.to_owned() } else { encoded(text) }
}

/// RFC 2047, in as many words as it takes.
fn encoded(text: &str) -> String {
    let (mut words, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let (word, more) = rest.split_at(rest.floor_char_boundary(WORD_OCTETS_MAX));
        words.push(format!("=?utf-8?B?{}?=", BASE64.encode(word.as_bytes())));
        rest = more;
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use mail_parser::MessageParser;

    use super::*;

    #[test]
    fn a_subject_reads_back_and_ends_no_field() {
        for text in ["plain", "Störung im Postfach, bitte prüfen 🚨 — es eilt sehr", "日本語の件名"]
        {
            let message = format!("Subject: {}\r\n\r\n", subject("[trouble] ", text));
            assert!(message.is_ascii());
            let read = MessageParser::default().parse(message.as_bytes()).unwrap();
            assert_eq!(read.subject(), Some(&*format!("[trouble] {text}")));
        }
        assert_eq!(subject("", "a\r\nBcc: x@y.test\0"), "a  Bcc: x@y.test?");
        assert!(subject("", &"ü".repeat(5000)).len() < 600);
    }
}
