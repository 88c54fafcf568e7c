//! Cuts what a client sends into command lines, in bounded memory, the same way wherever the
//! network cut it.

use memchr::memchr;

/// The first octet of a TLS record that starts a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// What is at the front of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framed {
    /// A whole line of so many octets, CRLF included.
    Line(usize),
    /// No line end yet. So many octets are of no use and can be dropped.
    More {
        /// Part of a line that is too long already.
        discard: usize,
    },
    /// The end of a line that was too long; so many octets are done with.
    TooLong(usize),
    /// An LF without a CR. Nothing behind it can be trusted to be a command.
    BareLf,
    /// A line longer than anybody reads.
    Endless,
    /// A client that starts TLS where clear text is spoken.
    TlsHello,
}

/// Finds the ends of lines.
#[derive(Debug, Clone, Default)]
pub struct LineReader {
    /// Octets of the present line that were dropped already.
    discarded: u64,
}

impl LineReader {
    /// Look at the front of `input`. A line may have `octets_max` octets, CRLF included; one that
    /// has more is dropped as it comes, up to `discard_max` octets.
    pub fn next(&mut self, input: &[u8], octets_max: usize, discard_max: u64) -> Framed {
        if self.discarded == 0 && input.first() == Some(&TLS_HANDSHAKE) {
            return Framed::TlsHello;
        }
        let end = memchr(b'\n', input);
        let octets = end.map_or(input.len(), |end| end + 1);
        let so_far = self.discarded.saturating_add(octets as u64);
        if so_far > discard_max.max(octets_max as u64) {
            return Framed::Endless;
        }
        let too_long = so_far > octets_max as u64;
        match end {
            Some(end) if end == 0 || input[end - 1] != b'\r' => Framed::BareLf,
            Some(_) if too_long => {
                self.discarded = 0;
                Framed::TooLong(octets)
            }
            Some(_) => Framed::Line(octets),
            None if too_long => {
                // A CR at the end stays, because the LF of its pair may be on its way.
                let discard = octets - usize::from(input.last() == Some(&b'\r'));
                self.discarded += discard as u64;
                Framed::More { discard }
            }
            None => Framed::More { discard: 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that is found in `input` when it comes in pieces of `size` octets.
    fn frames(input: &[u8], size: usize) -> Vec<Framed> {
        let (mut reader, mut buffer, mut found) = (LineReader::default(), Vec::new(), Vec::new());
        for piece in input.chunks(size) {
            buffer.extend_from_slice(piece);
            loop {
                let framed = reader.next(&buffer, 16, 64);
                match framed {
                    Framed::Line(octets) | Framed::TooLong(octets) => {
                        buffer.drain(..octets);
                        // How much of a long line was left for its end depends on the cut.
                        let long = matches!(framed, Framed::TooLong(_));
                        found.push(if long { Framed::TooLong(0) } else { framed });
                    }
                    Framed::More { discard } => {
                        buffer.drain(..discard);
                        break;
                    }
                    Framed::BareLf | Framed::Endless | Framed::TlsHello => {
                        found.push(framed);
                        return found;
                    }
                }
            }
        }
        found
    }

    #[test]
    fn lines_are_the_same_however_the_input_is_cut() {
        let long = "x".repeat(40);
        let endless = "x".repeat(100);
        let cases = [
            "NOOP\r\nQUIT\r\n",
            &format!("{long}\r\nNOOP\r\n"),
            &format!("{long}\r\r\nNOOP\r\n"),
            &format!("NOOP\r\n{endless}"),
            "NOOP\r\nNOOP\nQUIT\r\n",
            &format!("{long}\nQUIT\r\n"),
            "\r\n\r\n",
            "\n",
            "12345678901234\r\n123456789012345\r\nx\r\n",
        ];
        for text in cases {
            let whole = frames(text.as_bytes(), 1000);
            for size in 1..text.len() {
                assert_eq!(frames(text.as_bytes(), size), whole, "{text:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_one_event() {
        let text = format!("{}\r\nNOOP\r\n", "x".repeat(40));
        assert_eq!(frames(text.as_bytes(), 7), [Framed::TooLong(0), Framed::Line(6)]);
    }

    #[test]
    fn only_lf_behind_cr_ends_a_line() {
        assert_eq!(frames(b"NOOP\n", 100), [Framed::BareLf]);
        assert_eq!(frames(b"NO\rOP\r\n", 100), [Framed::Line(7)]);
        assert_eq!(frames(&[0x16, 3, 1, 0], 100), [Framed::TlsHello]);
    }
}
