//! Text of others in header fields and lines of ours. Pure.

use data_encoding::BASE64;

use crate::bounce::field;

/// So much of a subject is repeated.
const SUBJECT_OCTETS_MAX: usize = 200;
/// Octets of text in one encoded word; it is 75 characters at most (RFC 2047 section 2).
const WORD_OCTETS_MAX: usize = 45;
/// RFC 5322 allows 998; a dot may come in front.
const LINE_OCTETS_MAX: usize = 900;

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

/// Lines as they go on the wire: dots stuffed, CRLF, none too long, nothing that a terminal obeys.
pub(super) fn push_lines(out: &mut String, text: &str) {
    for line in text.lines() {
        let line = field::clean(line, true);
        let line = &line[..line.floor_char_boundary(LINE_OCTETS_MAX)];
        if line.starts_with('.') {
            out.push('.');
        }
        out.push_str(line);
        out.push_str("\r\n");
    }
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

    #[test]
    fn lines_are_fit_for_the_wire() {
        let mut out = String::new();
        push_lines(&mut out, &format!(".a\n\x1b[2Jb\rc\n{}", "x".repeat(3000)));
        let lines: Vec<&str> = out.split("\r\n").collect();
        assert_eq!(lines[..2], ["..a", "?[2Jb c"]);
        assert!(lines.iter().all(|line| line.len() <= LINE_OCTETS_MAX + 1));
    }
}
