//! A reply: a code, an enhanced status code, and text. Ours to a client and theirs to us.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An enhanced status code (RFC 3463), such as 5.1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Enhanced(pub u8, pub u16, pub u16);

impl fmt::Display for Enhanced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Enhanced {
    /// Parse `5.1.1` at the start of `text`; also gives what follows it.
    pub fn parse_prefix(text: &str) -> Option<(Self, &str)> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (code, rest) = text.split_at(end);
        if !rest.is_empty() && !rest.starts_with([' ', '\t']) {
            return None;
        }
        let mut parts = code.split('.');
        let class: u8 = parts.next()?.parse().ok().filter(|c| matches!(c, 2 | 4 | 5))?;
        let mut small = || parts.next().filter(|p| p.len() <= 3)?.parse::<u16>().ok();
        let (subject, detail) = (small()?, small()?);
        parts.next().is_none().then_some((Self(class, subject, detail), rest.trim_start()))
    }
}

/// One SMTP reply, of one or more lines.
///
/// Serialised for an SMTP client with [`Reply::write_to`], for people with `Display` (one line).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reply {
    /// 200 to 599.
    pub code: u16,
    /// The enhanced code; absent in the banner, in EHLO's answer, and where a server sends none.
    pub enhanced: Option<Enhanced>,
    /// The text of each line, without codes and line ends; never empty.
    pub lines: Vec<String>,
}

impl Reply {
    /// A one-line reply with an enhanced code.
    pub fn new(code: u16, enhanced: Enhanced, text: impl Into<String>) -> Self {
        Self { code, enhanced: Some(enhanced), lines: vec![text.into()] }
    }

    /// A one-line reply without an enhanced code (banner, HELO, 354).
    pub fn plain(code: u16, text: impl Into<String>) -> Self {
        Self { code, enhanced: None, lines: vec![text.into()] }
    }

    /// 2xx.
    pub fn is_positive(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// 4xx: try again later.
    pub fn is_transient(&self) -> bool {
        (400..500).contains(&self.code)
    }

    /// 5xx: do not try again.
    pub fn is_permanent(&self) -> bool {
        (500..600).contains(&self.code)
    }

    /// The text of all lines, joined by spaces.
    pub fn text(&self) -> String {
        self.lines.join(" ")
    }

    /// Append the reply as it goes on the wire. Control characters in the text become `?`, so
    /// that nothing a far server or a client wrote can end a line of ours.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        use std::io::Write as _;
        let last = self.lines.len().saturating_sub(1);
        for (index, line) in self.lines.iter().enumerate() {
            let dash = if index == last { ' ' } else { '-' };
            // Writing to a Vec cannot fail.
            let _ = match self.enhanced {
                Some(enhanced) => write!(out, "{}{dash}{enhanced} ", self.code),
                None => write!(out, "{}{dash}", self.code),
            };
            out.extend(line.bytes().map(|b| if b < 0x20 || b == 0x7f { b'?' } else { b }));
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Whether a character could drive a terminal, or turn round what is read there: controls, and the
/// marks that change the direction of text.
pub fn is_unprintable(c: char) -> bool {
    let turns =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        for line in &self.lines {
            f.write_str(" ")?;
            line.chars().try_for_each(|c| {
                use fmt::Write as _;
                f.write_char(if is_unprintable(c) { '?' } else { c })
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_of_two_lines_has_a_dash_on_the_first() {
        let reply = Reply {
            code: 250,
            enhanced: Some(Enhanced(2, 1, 0)),
            lines: vec!["one".into(), "two".into()],
        };
        let mut out = Vec::new();
        reply.write_to(&mut out);
        assert_eq!(out, b"250-2.1.0 one\r\n250 2.1.0 two\r\n");
        assert_eq!(reply.to_string(), "250 2.1.0 one two");
    }

    #[test]
    fn control_characters_never_leave_in_a_reply() {
        let mut out = Vec::new();
        Reply::new(550, Enhanced(5, 1, 1), "a\r\n250 b\x1b").write_to(&mut out);
        assert_eq!(out, b"550 5.1.1 a??250 b?\r\n");
    }

    #[test]
    fn an_enhanced_code_is_read_only_where_it_is_one() {
        assert_eq!(Enhanced::parse_prefix("5.1.1 no"), Some((Enhanced(5, 1, 1), "no")));
        assert_eq!(Enhanced::parse_prefix("5.1.1"), Some((Enhanced(5, 1, 1), "")));
        for text in ["5.1", "5.1.1.1 x", "3.1.1 x", "5.1.1x", "5.1000.1 x", "", "hello"] {
            assert_eq!(Enhanced::parse_prefix(text), None, "{text:?}");
        }
    }
}
