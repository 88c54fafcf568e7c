//! Text that is fit to stand in a header or status field, whoever wrote it.

use std::fmt::Write as _;

use crate::smtp::is_unprintable;

/// Lines are folded at about this many octets (RFC 5322 section 2.1.1 asks for 78).
const LINE_OCTETS: usize = 76;
/// No text of others is quoted at greater length.
const VALUE_OCTETS_MAX: usize = 2000;

/// Append `name: value` as one field, folded. Control characters become `?`, so that the value
/// cannot end the field; so do characters outside ASCII unless `utf8` allows them.
pub(crate) fn write(out: &mut String, name: &str, value: &str, utf8: bool) {
    let start = out.len();
    let _ = write!(out, "{name}:"); // writing to a String cannot fail
    let mut column = out.len() - start;
    for word in clean(value, utf8).split_ascii_whitespace() {
        for piece in pieces(word) {
            if column > name.len() + 1 && column + 1 + piece.len() > LINE_OCTETS {
                out.push_str("\r\n");
                column = 0;
            }
            out.push(' ');
            out.push_str(piece);
            column += 1 + piece.len();
        }
    }
    out.push_str("\r\n");
}

/// A text on one line: without control characters, of bounded length.
pub(crate) fn clean(text: &str, utf8: bool) -> String {
    let mut cleaned = String::with_capacity(text.len().min(VALUE_OCTETS_MAX));
    for c in text.chars() {
        let c = match c {
            '\r' | '\n' | '\t' => ' ',
            c if is_unprintable(c) || (!utf8 && !c.is_ascii()) => '?',
            c => c,
        };
        if cleaned.len() + c.len_utf8() > VALUE_OCTETS_MAX {
            break;
        }
        cleaned.push(c);
    }
    cleaned
}

/// A word without end is cut, so that no line is too long.
fn pieces(word: &str) -> impl Iterator<Item = &str> {
    let mut rest = word;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut end = rest.len().min(8 * LINE_OCTETS);
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let (piece, after) = rest.split_at(end);
        rest = after;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(value: &str, utf8: bool) -> String {
        let mut out = String::new();
        write(&mut out, "Diagnostic-Code", value, utf8);
        out
    }

    #[test]
    fn nothing_ends_a_field_early() {
        assert_eq!(
            field("smtp; 550 a\r\nX-Injected: b\0\x1b[31m\u{85}ü", false),
            "Diagnostic-Code: smtp; 550 a X-Injected: b??[31m??\r\n"
        );
        assert_eq!(field("ü\u{9b}", true), "Diagnostic-Code: ü?\r\n");
        assert_eq!(field("", true), "Diagnostic-Code:\r\n");
    }

    #[test]
    fn long_values_are_folded_and_bounded() {
        for value in ["word ".repeat(1000), "x".repeat(5000), "ü".repeat(3000)] {
            let folded = field(&value, true);
            assert!(folded.len() < 2400);
            let mut lines = folded.strip_suffix("\r\n").unwrap().split("\r\n");
            assert!(lines.next().unwrap().len() <= 998);
            assert!(lines.all(|line| line.starts_with(' ') && line.len() <= 998));
        }
    }
}
