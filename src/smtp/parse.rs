//! Reading a far server's replies: incremental, bounded, and indifferent to how the bytes are cut
//! (RFC 5321 section 4.2).
//!
//! A far server is hostile until proven otherwise: whatever it sends, the parser holds at most
//! one reply within its bounds and never panics. Text that is not UTF-8 is decoded lossily, and
//! control characters become `?`, so that nothing of it can end a line of ours later.

use super::reply::is_unprintable;
use super::{Enhanced, Reply};

/// Why bytes are not a reply. The connection is out of step afterwards and must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Garbage {
    /// A line that does not start with a reply code.
    #[error("the server sent something that is not an SMTP reply")]
    NotAReply,
    /// More octets or lines than one reply may have.
    #[error("the server's reply is too long")]
    TooLong,
}

/// Collects replies from bytes as they arrive.
#[derive(Debug)]
pub struct ReplyParser {
    octets_max: usize,
    lines_max: usize,
    /// Octets of the reply so far, line ends included.
    octets: usize,
    /// A line whose end has not arrived.
    line: Vec<u8>,
    /// The lines of a reply whose last line has not arrived.
    unfinished: Option<Reply>,
}

impl ReplyParser {
    /// A parser for replies of at most so many octets and lines.
    pub fn new(octets_max: usize, lines_max: usize) -> Self {
        Self { octets_max, lines_max, octets: 0, line: Vec::new(), unfinished: None }
    }

    /// Take bytes up to the end of one reply. Gives how many were taken, and the reply when it is
    /// whole; without one, all bytes were taken.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(usize, Option<Reply>), Garbage> {
        let mut taken = 0;
        while let Some(end) = memchr::memchr(b'\n', &bytes[taken..]) {
            let piece = &bytes[taken..taken + end];
            taken += end + 1;
            self.count(end + 1)?;
            let done = if self.line.is_empty() {
                self.end_line(piece)?
            } else {
                self.line.extend_from_slice(piece);
                let line = std::mem::take(&mut self.line);
                self.end_line(&line)?
            };
            if done {
                self.octets = 0;
                return Ok((taken, self.unfinished.take()));
            }
        }
        self.count(bytes.len() - taken)?;
        self.line.extend_from_slice(&bytes[taken..]);
        Ok((bytes.len(), None))
    }

    /// Whether a reply has begun and is not whole yet.
    pub fn is_midway(&self) -> bool {
        self.octets > 0
    }

    /// The bound is checked before the syntax, so that a long line gives the same answer whether
    /// it comes in one piece or in many.
    fn count(&mut self, octets: usize) -> Result<(), Garbage> {
        self.octets += octets;
        if self.octets > self.octets_max { Err(Garbage::TooLong) } else { Ok(()) }
    }

    /// Add a line without its line feed; says whether it was the last.
    fn end_line(&mut self, line: &[u8]) -> Result<bool, Garbage> {
        let (code, more, text) = split_line(line)?;
        let mut text = clean(text);
        match &mut self.unfinished {
            None => {
                let prefix = Enhanced::parse_prefix(&text).map(|(e, rest)| (e, rest.to_owned()));
                let enhanced = prefix.map(|(enhanced, rest)| {
                    text = rest;
                    enhanced
                });
                self.unfinished = Some(Reply { code, enhanced, lines: vec![text] });
            }
            Some(reply) if reply.lines.len() >= self.lines_max => return Err(Garbage::TooLong),
            Some(reply) => {
                if let Some((again, rest)) = Enhanced::parse_prefix(&text)
                    && Some(again) == reply.enhanced
                {
                    text = rest.to_owned();
                }
                // RFC 5321 wants one code on all lines; where they differ, the last one is the
                // verdict, the others only announce it.
                reply.code = code;
                reply.lines.push(text);
            }
        }
        Ok(!more)
    }
}

/// Read the first reply in `bytes`, with the bounds of a whole reply; what follows is ignored.
/// Made for tools and fuzz targets.
pub fn parse_reply(bytes: &[u8]) -> Result<Option<Reply>, Garbage> {
    ReplyParser::new(64 * 1024, 1024).push(bytes).map(|(_, reply)| reply)
}

/// Code, whether more lines follow, and text.
fn split_line(line: &[u8]) -> Result<(u16, bool, &[u8]), Garbage> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let [first @ b'2'..=b'5', second @ b'0'..=b'9', third @ b'0'..=b'9', rest @ ..] = line else {
        return Err(Garbage::NotAReply);
    };
    let digit = |byte: &u8| u16::from(byte - b'0');
    let code = 100 * digit(first) + 10 * digit(second) + digit(third);
    match rest {
        [] => Ok((code, false, rest)),
        [b' ', text @ ..] => Ok((code, false, text)),
        [b'-', text @ ..] => Ok((code, true, text)),
        _ => Err(Garbage::NotAReply),
    }
}

/// Text fit to be logged and quoted: UTF-8, nothing that drives a terminal, no white space at the
/// end.
fn clean(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let text = text.trim_end();
    if text.chars().any(is_unprintable) {
        let printable = |c: char| match c {
            '\t' => ' ',
            c if is_unprintable(c) => '?',
            c => c,
        };
        return text.chars().map(printable).collect();
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parser() -> ReplyParser {
        ReplyParser::new(8192, 128)
    }

    fn parse(bytes: &[u8]) -> Result<Option<Reply>, Garbage> {
        parser().push(bytes).map(|(_, reply)| reply)
    }

    #[test]
    fn a_reply_has_its_code_its_enhanced_code_and_its_text() {
        let reply = parse(b"550 5.1.1 <a@b.test>: no\r\n").unwrap().unwrap();
        assert_eq!(reply, Reply::new(550, Enhanced(5, 1, 1), "<a@b.test>: no"));
        assert_eq!(parse(b"250\r\n").unwrap().unwrap(), Reply::plain(250, ""));
        assert_eq!(parse(b"354 go\n").unwrap().unwrap(), Reply::plain(354, "go"));
    }

    #[test]
    fn the_lines_of_a_reply_are_kept_without_the_codes() {
        let reply = parse(b"550-5.1.1 one\r\n550-5.1.1\r\n550 5.7.1 two\r\n").unwrap().unwrap();
        assert_eq!(reply.enhanced, Some(Enhanced(5, 1, 1)));
        assert_eq!(reply.lines, ["one", "", "5.7.1 two"]);
    }

    #[test]
    fn the_last_line_decides_when_the_codes_differ() {
        assert_eq!(parse(b"250-almost\r\n451 not quite\r\n").unwrap().unwrap().code, 451);
    }

    #[test]
    fn replies_in_one_segment_are_taken_one_by_one() {
        let bytes = b"250 a\r\n550 b\r\n354 c";
        let mut parser = parser();
        let (taken, first) = parser.push(bytes).unwrap();
        assert_eq!((taken, first.unwrap().code), (7, 250));
        let (more, second) = parser.push(&bytes[taken..]).unwrap();
        assert_eq!((more, second.unwrap().code), (7, 550));
        assert_eq!(parser.push(&bytes[taken + more..]), Ok((5, None)));
        assert!(parser.is_midway());
    }

    #[test]
    fn what_is_no_reply_is_garbage() {
        for bytes in [
            &b"hello\r\n"[..],
            b"\r\n",
            b"25\r\n",
            b"2500 x\r\n",
            b"150 x\r\n",
            b"650 x\r\n",
            b"250_x\r\n",
            b"250-a\r\nb\r\n",
            b"\x16\x03\x01\n",
        ] {
            assert_eq!(parse(bytes), Err(Garbage::NotAReply), "{bytes:?}");
        }
    }

    #[test]
    fn an_endless_reply_is_cut_off() {
        let mut parser = parser();
        let long = vec![b'x'; 8193];
        assert_eq!(parser.push(&long), Err(Garbage::TooLong));
        let many = "250-x\r\n".repeat(129);
        assert_eq!(parse(many.as_bytes()), Err(Garbage::TooLong));
    }

    #[test]
    fn hostile_text_is_made_printable() {
        let reply = parse(b"550 5.1.1 a\0b\x1b[31m\rc\xff\td\r\n").unwrap().unwrap();
        assert_eq!(reply.lines, ["a?b?[31m?c\u{fffd} d"]);
    }

    /// All replies in `bytes`, fed in the given pieces, and how it ended.
    fn run(pieces: &[&[u8]]) -> (Vec<Reply>, Option<Garbage>) {
        let mut parser = ReplyParser::new(64, 4);
        let mut replies = Vec::new();
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                match parser.push(rest) {
                    Ok((taken, reply)) => {
                        replies.extend(reply);
                        rest = &rest[taken..];
                    }
                    Err(garbage) => return (replies, Some(garbage)),
                }
            }
        }
        (replies, None)
    }

    proptest! {
        #[test]
        fn cutting_anywhere_gives_the_same_replies(
            bytes in proptest::collection::vec(
                prop_oneof![
                    Just(b"250 ok\r\n".to_vec()), Just(b"550-5.1.1 a\r\n".to_vec()),
                    Just(b"\r\n".to_vec()), Just(b"4".to_vec()), Just(b"451 ".to_vec()),
                    proptest::collection::vec(any::<u8>(), 0..40),
                ],
                0..6,
            ),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let bytes = bytes.concat();
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let pieces: Vec<&[u8]> = at.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            let whole = run(&[&bytes]);
            prop_assert_eq!(&run(&pieces), &whole);
            prop_assert_eq!(&run(&single), &whole);
        }
    }
}
