//! Text that is fit to stand in a header, a status field or a line, whoever wrote it.

use std::fmt::Write as _;

use crate::smtp::is_unprintable;

/// Lines are folded at about this many octets (RFC 5322 section 2.1.1 asks for 78).
const LINE_OCTETS: usize = 76;
/// No text of others is quoted at greater length.
const VALUE_OCTETS_MAX: usize = 2000;
/// A line of text: RFC 5322 allows 998; a dot may come in front.
const WIRE_LINE_OCTETS_MAX: usize = 900;

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

/// Append lines of text as they go on the wire: dots stuffed, CRLF, none too long, and nothing that
/// a terminal obeys.
pub(crate) fn write_lines(out: &mut String, text: &str) {
    for line in text.lines().flat_map(wrapped) {
        if line.starts_with('.') {
            out.push('.');
        }
        out.push_str(&clean(line, true));
        out.push_str("\r\n");
    }
}

/// A line in pieces that RFC 5322 section 2.1.1 allows, cut at a space if there is one.
fn wrapped(line: &str) -> Vec<&str> {
    let (mut pieces, mut rest) = (Vec::new(), line);
    while rest.len() > WIRE_LINE_OCTETS_MAX {
        let most = rest.floor_char_boundary(WIRE_LINE_OCTETS_MAX);
        let cut = rest[..most].rfind(' ').map_or(most, |space| space + 1);
        let (piece, more) = rest.split_at(cut);
        pieces.push(piece);
        rest = more;
    }
    pieces.push(rest);
    pieces
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

    #[test]
    fn long_lines_are_cut_at_spaces_and_lose_nothing() {
        for text in ["ä".repeat(2000), "word ".repeat(700), String::new(), "short".to_owned()] {
            let pieces = wrapped(&text);
            assert_eq!(pieces.concat(), text);
            assert!(pieces.iter().all(|piece| piece.len() <= WIRE_LINE_OCTETS_MAX));
            let cut = pieces.iter().rev().skip(1);
            assert!(!text.contains(' ') || cut.into_iter().all(|piece| piece.ends_with(' ')));
        }
    }

    #[test]
    fn lines_are_fit_for_the_wire() {
        let mut out = String::new();
        write_lines(&mut out, &format!(".a\n\x1b[2Jb\rc\n{}", "x".repeat(3000)));
        let lines: Vec<&str> = out.split("\r\n").collect();
        assert_eq!(lines[..2], ["..a", "?[2Jb c"]);
        assert!(lines.iter().all(|line| line.len() <= WIRE_LINE_OCTETS_MAX + 1));
        assert_eq!(out.matches('x').count(), 3000, "nothing is lost");
    }
}
