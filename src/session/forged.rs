//! Takes out of a header what says that we have looked at the message (RFC 8601 section 5): an
//! Authentication-Results field with our own name, which whoever sends the message may have put
//! there. Everything else passes as it is, octet for octet.
//!
//! Pure, in bounded memory, and the same however the text is cut.

use crate::smtp::authentication::RESULTS_FIELD;

/// So much of such a field is kept until its name is known. One that hides its name behind more
/// than that, in comments and white space, is taken for forged.
const FIELD_OCTETS_MAX: usize = 1024;

/// Filters a message's text while it streams by.
#[derive(Debug)]
pub struct ForgedResults {
    names: Vec<String>,
    state: State,
    /// The field that the last line belonged to was dropped, so its folded lines go as well.
    dropped: bool,
    candidate: Candidate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the start of a line of the header.
    LineStart,
    /// Inside a line that stays.
    Passing,
    /// Inside a line that goes.
    Dropping,
    /// Inside a line that may be one of ours, or the empty line.
    Holding,
    /// Behind the header.
    Body,
}

impl ForgedResults {
    /// A filter of fields that have one of these names, in lower case.
    pub fn new(names: &[String]) -> Self {
        Self {
            names: names.to_vec(),
            state: State::LineStart,
            dropped: false,
            candidate: Candidate::default(),
        }
    }

    /// The next piece of the text: what stays of the header is appended to `kept`; the rest of the
    /// piece, which is given back, stays as it is and comes after that.
    pub fn pass<'a>(&mut self, piece: &'a [u8], kept: &mut Vec<u8>) -> &'a [u8] {
        let mut rest = piece;
        while let (Some(&first), true) = (rest.first(), self.state != State::Body) {
            match self.state {
                State::LineStart => {
                    self.state = match first {
                        b' ' | b'\t' if self.dropped => State::Dropping,
                        b' ' | b'\t' => State::Passing,
                        b'a' | b'A' | b'\r' => State::Holding,
                        _ => State::Passing,
                    };
                    self.dropped &= self.state == State::Dropping;
                }
                State::Passing => kept.extend_from_slice(self.line(&mut rest)),
                State::Dropping => {
                    self.line(&mut rest);
                }
                State::Holding => self.hold(first, &mut rest, kept),
                State::Body => {}
            }
        }
        rest
    }

    /// The text has ended; what was held back stays.
    pub fn finish(&mut self) -> &[u8] {
        self.state = State::Body;
        &self.candidate.held
    }

    /// The rest of the line, as far as it is there.
    fn line<'a>(&mut self, rest: &mut &'a [u8]) -> &'a [u8] {
        let end = memchr::memchr(b'\n', rest);
        let (line, after) = rest.split_at(end.map_or(rest.len(), |end| end + 1));
        *rest = after;
        if end.is_some() {
            self.state = State::LineStart;
        }
        line
    }

    fn hold(&mut self, octet: u8, rest: &mut &[u8], kept: &mut Vec<u8>) {
        let step = self.candidate.take(octet);
        if step != Step::Ended {
            *rest = &rest[1..];
        }
        let is_ours = match step {
            Step::More if self.candidate.held.len() < FIELD_OCTETS_MAX => return,
            Step::More => true,
            Step::EmptyLine | Step::Other | Step::Ended => false,
            Step::Named => self.candidate.is_named(&self.names),
        };
        let at_line_start = self.candidate.held.ends_with(b"\n");
        if !is_ours {
            kept.extend_from_slice(&self.candidate.held);
        }
        self.candidate = Candidate::default();
        self.dropped = is_ours;
        self.state = match (step, at_line_start) {
            (Step::EmptyLine, _) => State::Body,
            (_, true) => State::LineStart,
            (_, false) if is_ours => State::Dropping,
            (_, false) => State::Passing,
        };
    }
}

/// What an octet has made of the line that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Nothing is known yet.
    More,
    /// The header ends with it.
    EmptyLine,
    /// It is another field, or no field at all.
    Other,
    /// It ended before the octet, which is not part of it, without a name.
    Ended,
    /// Its name is complete.
    Named,
}

/// A line that may begin a field with our name, read octet by octet.
#[derive(Debug, Default)]
struct Candidate {
    held: Vec<u8>,
    at: At,
    name: Vec<u8>,
}

/// Where in the field the next octet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum At {
    /// In the field's own name.
    #[default]
    FieldName,
    /// Behind a CR at the start of a line.
    EmptyLine,
    /// Behind the field's name: white space up to the colon.
    Colon,
    /// Before the name: white space and comments, `depth` of them open.
    Before {
        depth: u16,
        escaped: bool,
    },
    /// Behind a line end there.
    Folded {
        depth: u16,
    },
    Name,
    Quoted {
        escaped: bool,
    },
}

impl Candidate {
    fn take(&mut self, octet: u8) -> Step {
        if let At::Folded { depth } = self.at {
            if !matches!(octet, b' ' | b'\t') {
                return Step::Ended;
            }
            self.at = At::Before { depth, escaped: false };
        }
        self.held.push(octet);
        match self.at {
            At::FieldName => self.field_name(octet),
            At::EmptyLine if octet == b'\n' => Step::EmptyLine,
            At::EmptyLine => Step::Other,
            At::Colon => match octet {
                b':' => self.go(At::Before { depth: 0, escaped: false }),
                b' ' | b'\t' => Step::More,
                _ => Step::Other,
            },
            At::Before { depth, escaped } => self.before(octet, depth, escaped),
            At::Name => match octet {
                b' ' | b'\t' | b'\r' | b'\n' | b';' | b'(' => Step::Named,
                _ => self.add(octet),
            },
            At::Quoted { escaped: true } => {
                self.at = At::Quoted { escaped: false };
                self.add(octet)
            }
            At::Quoted { .. } => match octet {
                b'\\' => self.go(At::Quoted { escaped: true }),
                b'"' | b'\n' => Step::Named,
                _ => self.add(octet),
            },
            At::Folded { .. } => Step::More, // it was left above
        }
    }

    fn field_name(&mut self, octet: u8) -> Step {
        let wanted = RESULTS_FIELD.as_bytes();
        let at = self.held.len() - 1;
        if at == 0 && octet == b'\r' {
            return self.go(At::EmptyLine);
        }
        match wanted.get(at) {
            Some(expected) if expected.eq_ignore_ascii_case(&octet) => {
                if at + 1 == wanted.len() {
                    self.go(At::Colon)
                } else {
                    Step::More
                }
            }
            _ => Step::Other,
        }
    }

    fn before(&mut self, octet: u8, depth: u16, escaped: bool) -> Step {
        let inside = depth > 0;
        match octet {
            b'\n' => self.go(At::Folded { depth }),
            _ if escaped => self.go(At::Before { depth, escaped: false }),
            b'\\' if inside => self.go(At::Before { depth, escaped: true }),
            b'(' => self.go(At::Before { depth: depth.saturating_add(1), escaped: false }),
            b')' if inside => self.go(At::Before { depth: depth - 1, escaped: false }),
            _ if inside => Step::More,
            b' ' | b'\t' | b'\r' => Step::More,
            b';' => Step::Named,
            b'"' => self.go(At::Quoted { escaped: false }),
            _ => {
                self.at = At::Name;
                self.add(octet)
            }
        }
    }

    fn go(&mut self, at: At) -> Step {
        self.at = at;
        Step::More
    }

    fn add(&mut self, octet: u8) -> Step {
        self.name.push(octet);
        Step::More
    }

    fn is_named(&self, names: &[String]) -> bool {
        let name = self.name.strip_suffix(b".").unwrap_or(&self.name);
        names.iter().any(|ours| ours.as_bytes().eq_ignore_ascii_case(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stays, fed in pieces of `size`.
    fn kept(text: &[u8], size: usize) -> String {
        let mut filter = ForgedResults::new(&["mx1.relay.test".to_owned()]);
        let mut kept = Vec::new();
        for piece in text.chunks(size) {
            let rest = filter.pass(piece, &mut kept);
            kept.extend_from_slice(rest);
        }
        kept.extend_from_slice(filter.finish());
        String::from_utf8(kept).unwrap()
    }

    fn assert_kept(text: &str, expected: &str) {
        for size in 1..=text.len().max(1) {
            assert_eq!(kept(text.as_bytes(), size), expected, "{text:?} in pieces of {size}");
        }
    }

    #[test]
    fn a_field_with_our_name_goes_with_its_folded_lines() {
        for forged in [
            "Authentication-Results: mx1.relay.test; spf=pass\r\n",
            "authentication-RESULTS:MX1.relay.TEST;\r\n\tspf=pass\r\n dkim=pass\r\n",
            "Authentication-Results \t: (a (nested\\) ))\r\n \"mx1.relay.test\" 1; none\r\n",
            "Authentication-Results:\r\n\tmx1.relay.test.\r\n",
            "Authentication-Results: mx1.relay.test\r\n",
            "Authentication-Results: mx1.relay.test(x)\r\n",
            "Authentication-Results: \"mx1\\.relay.test\";\r\n",
        ] {
            assert_kept(
                &format!("A: b\r\n{forged}Subject: x\r\n\r\nbody\r\n"),
                "A: b\r\nSubject: x\r\n\r\nbody\r\n",
            );
            assert_kept(&format!("{forged}\r\nbody\r\n"), "\r\nbody\r\n");
            assert_kept(&format!("{forged}{forged}"), "");
        }
    }

    #[test]
    fn everything_else_stays() {
        for text in [
            "",
            "\r\n",
            "a",
            "Authentication-Results",
            "Authentication-Results: mx1.relay.test",
            "Authentication-Results: mx2.relay.test; spf=pass\r\n mx1.relay.test\r\n\r\n",
            "Authentication-Results: mx1.relay.test.example; x\r\n\r\n",
            "Authentication-Results:\r\nX: mx1.relay.test\r\n\r\n",
            "Authentication-Results: (mx1.relay.test) other\r\n\r\n",
            "Authentication-Results: ; mx1.relay.test\r\n\r\n",
            "Authentication-Results-Extra: mx1.relay.test;\r\n\r\n",
            "X-Authentication-Results: mx1.relay.test;\r\n\r\n",
            "ARC-Authentication-Results: i=1; mx1.relay.test;\r\n\r\n",
            " Authentication-Results: mx1.relay.test;\r\n\r\n",
            "A: b\r\n\r\nAuthentication-Results: mx1.relay.test; in the body\r\n",
            "no field\r\nA\r\n\r\nb\r\n",
            "\r\r\nAuthentication-Results: mx2;\r\n",
        ] {
            assert_kept(text, text);
        }
    }

    #[test]
    fn a_field_that_hides_its_name_goes_and_takes_bounded_memory() {
        let hidden = format!("Authentication-Results: ({}) mx9\r\n", "x".repeat(5000));
        let text = format!("{hidden}A: b\r\n\r\n");
        for size in [1, 7, 1000, 1023, 1024, 1025, 9000] {
            assert_eq!(kept(text.as_bytes(), size), "A: b\r\n\r\n");
        }
        let mut filter = ForgedResults::new(&[]);
        let mut out = Vec::new();
        filter.pass(hidden.as_bytes(), &mut out);
        assert!(filter.candidate.held.capacity() <= 2 * FIELD_OCTETS_MAX);
    }
}
