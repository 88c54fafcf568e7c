//! Where a message ends, and the dots that keep its text from ending it (RFC 5321 section 4.5.2).
//!
//! One rule for lines: only CRLF ends one, so only CRLF.CRLF ends DATA. A CR or LF alone, and NUL,
//! are noted and the message is refused for them later: whoever relays such a text invites the
//! next server to see an end where we saw none (SMTP smuggling, CVE-2023-51764 and its kin).
//!
//! Text is never copied here: both scanners say which slices of their input it is.

use memchr::memchr3;

/// What was found that no message may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flaws {
    /// A CR without LF, or an LF without CR.
    pub bare_newline: bool,
    /// A NUL.
    pub nul: bool,
}

/// Finds the end of DATA.
///
/// The text stays as it came, dots stuffed; that is also how the spool keeps it.
#[derive(Debug, Clone)]
pub struct DataScanner {
    at_line_start: bool,
    flaws: Flaws,
    stuffed: u64,
}

/// What [`DataScanner::scan`] made of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    /// So many octets at the start of the input are message text.
    pub text: usize,
    /// So many are done with. What remains, at most two octets unless the end was found, belongs
    /// in front of what comes next.
    pub consumed: usize,
    /// The line with the final dot was found, and consumed.
    pub end: bool,
}

impl Default for DataScanner {
    fn default() -> Self {
        Self { at_line_start: true, flaws: Flaws::default(), stuffed: 0 }
    }
}

impl DataScanner {
    /// Look at `input`, which continues what was consumed before.
    pub fn scan(&mut self, input: &[u8]) -> Scan {
        let mut at = 0;
        loop {
            if self.at_line_start && input.get(at) == Some(&b'.') {
                match input.get(at + 1..) {
                    Some([b'\r', b'\n', ..]) => {
                        return Scan { text: at, consumed: at + 3, end: true };
                    }
                    Some([] | [b'\r']) => return Scan { text: at, consumed: at, end: false },
                    _ => self.stuffed += 1,
                }
            }
            let Some(found) = find_special(input, at) else {
                self.at_line_start &= at == input.len();
                return Scan { text: input.len(), consumed: input.len(), end: false };
            };
            self.at_line_start = false;
            at = found + 1;
            match (input[found], input.get(at)) {
                (b'\r', Some(b'\n')) => {
                    at += 1;
                    self.at_line_start = true;
                }
                (b'\r', None) => return Scan { text: found, consumed: found, end: false },
                (0, _) => self.flaws.nul = true,
                _ => self.flaws.bare_newline = true,
            }
        }
    }

    /// What was found so far.
    pub fn flaws(&self) -> Flaws {
        self.flaws
    }

    /// Dots in the text that are there only to protect a line; they do not count as its size
    /// (RFC 1870 section 3).
    pub fn stuffed(&self) -> u64 {
        self.stuffed
    }
}

/// Puts the dots into text that came in chunks (RFC 3030), where nothing needed them.
#[derive(Debug, Clone)]
pub struct Stuffer {
    at_line_start: bool,
    after_cr: bool,
    flaws: Flaws,
}

impl Default for Stuffer {
    fn default() -> Self {
        Self { at_line_start: true, after_cr: false, flaws: Flaws::default() }
    }
}

impl Stuffer {
    /// The next slice of stuffed text, which is taken off the front of `input`; `None` when
    /// nothing is left.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Option<&'a [u8]> {
        if self.at_line_start && input.first() == Some(&b'.') {
            self.at_line_start = false;
            return Some(b".");
        }
        if input.is_empty() {
            return None;
        }
        let end = self.piece(input);
        let (piece, rest) = input.split_at(end);
        *input = rest;
        Some(piece)
    }

    /// What is missing at the end of the whole message: a text ends with CRLF.
    pub fn finish(&mut self) -> &'static [u8] {
        if self.after_cr {
            self.flaws.bare_newline = true;
        }
        if self.at_line_start { b"" } else { b"\r\n" }
    }

    /// What was found so far.
    pub fn flaws(&self) -> Flaws {
        self.flaws
    }

    /// Where the text up to the next dot that needs a second one ends.
    fn piece(&mut self, input: &[u8]) -> usize {
        let mut at = 0;
        if self.after_cr {
            self.after_cr = false;
            if input[0] == b'\n' {
                at = 1;
                self.at_line_start = true;
            } else {
                self.flaws.bare_newline = true;
            }
        }
        loop {
            if self.at_line_start && at > 0 && input.get(at) == Some(&b'.') {
                return at;
            }
            let Some(found) = find_special(input, at) else {
                self.at_line_start &= at == input.len();
                return input.len();
            };
            self.at_line_start = false;
            at = found + 1;
            match (input[found], input.get(at)) {
                (b'\r', Some(b'\n')) => {
                    at += 1;
                    self.at_line_start = true;
                }
                (b'\r', None) => {
                    self.after_cr = true;
                    return at;
                }
                (0, _) => self.flaws.nul = true,
                _ => self.flaws.bare_newline = true,
            }
        }
    }
}

/// Takes the dots out again, for those who look at a text.
#[derive(Debug, Clone)]
pub struct Unstuffer {
    at_line_start: bool,
}

impl Default for Unstuffer {
    fn default() -> Self {
        Self { at_line_start: true }
    }
}

impl Unstuffer {
    /// The next slice of the text as it was meant, which is taken off the front of `input`; `None`
    /// when nothing is left. Only for texts in which each LF follows a CR.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Option<&'a [u8]> {
        if self.at_line_start
            && let Some(rest) = input.strip_prefix(b".")
        {
            self.at_line_start = false;
            *input = rest;
        }
        if input.is_empty() {
            return None;
        }
        let end = memchr::memmem::find(input, b"\n.").map_or(input.len(), |at| at + 1);
        let (piece, rest) = input.split_at(end);
        self.at_line_start = piece.ends_with(b"\n");
        *input = rest;
        Some(piece)
    }
}

/// The first CR, LF or NUL at or after `from`.
fn find_special(input: &[u8], from: usize) -> Option<usize> {
    memchr3(b'\r', b'\n', 0, input.get(from..)?).map(|offset| from + offset)
}

#[cfg(test)]
mod tests;
