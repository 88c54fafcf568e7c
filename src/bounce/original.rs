//! The returned message: as a whole, or its header.

use memchr::memmem;

/// A message that is larger is returned as header only.
pub const FULL_OCTETS_MAX: usize = 64 * 1024;
/// So much of a header is returned.
const HEADER_OCTETS_MAX: usize = 32 * 1024;
/// RFC 5322 section 2.1.1.
const LINE_OCTETS_MAX: usize = 998;

/// The whole text, if it is small and made of lines that can travel unchanged.
pub(crate) fn whole(text: &[u8], octets: u64) -> Option<Vec<u8>> {
    let complete = usize::try_from(octets).is_ok_and(|octets| octets <= text.len());
    let fits = text.len() <= FULL_OCTETS_MAX && text.split(|b| *b == b'\n').all(is_clean_line);
    (complete && fits).then(|| {
        let mut text = text.to_vec();
        if !text.is_empty() && !text.ends_with(b"\r\n") {
            text.extend_from_slice(b"\r\n");
        }
        text
    })
}

/// A line up to its line feed, or the text after the last one.
fn is_clean_line(line: &[u8]) -> bool {
    let content = line.strip_suffix(b"\r").unwrap_or(line);
    content.len() <= LINE_OCTETS_MAX && !content.iter().any(|b| matches!(b, 0 | b'\r'))
}

/// The header, line by line, with control characters replaced and long lines cut.
pub(crate) fn header(text: &[u8]) -> Vec<u8> {
    let end = match memmem::find(text, b"\r\n\r\n") {
        Some(end) => end,
        None if text.starts_with(b"\r\n") => 0,
        None => text.len(),
    };
    let mut header = Vec::with_capacity(end.min(HEADER_OCTETS_MAX) + 2);
    for line in text[..end].split(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = &line[..line.len().min(LINE_OCTETS_MAX)];
        if header.len() + line.len() + 2 > HEADER_OCTETS_MAX {
            break;
        }
        if !line.is_empty() {
            let printable =
                |b: &u8| if (*b < b' ' && *b != b'\t') || *b == 0x7f { b'?' } else { *b };
            header.extend(line.iter().map(printable));
            header.extend_from_slice(b"\r\n");
        }
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_message_comes_back_whole() {
        let text = b"Subject: x\r\n\r\n..y\r\n";
        assert_eq!(whole(text, 19).as_deref(), Some(&text[..]));
        assert_eq!(whole(b"a", 1).as_deref(), Some(&b"a\r\n"[..]));
        assert_eq!(whole(text, 20), None);
        assert_eq!(whole(&vec![b'\n'; FULL_OCTETS_MAX + 1], 1), None);
    }

    #[test]
    fn what_could_not_travel_is_not_returned_whole() {
        for bad in [&b"a\0b\r\n"[..], b"a\rb\r\n", &vec![b'x'; 999]] {
            assert_eq!(whole(bad, 1), None);
        }
    }

    #[test]
    fn a_header_is_cut_at_its_end_and_made_printable() {
        assert_eq!(header(b"A: b\r\n\tc\r\n\r\nbody\r\n"), b"A: b\r\n\tc\r\n");
        assert_eq!(header(b"A: b\0\x1b\r\n"), b"A: b??\r\n");
        assert_eq!(header(b"\r\nbody"), b"");
        let long = [b"A: ".to_vec(), vec![b'x'; 5000], b"\r\nB: c\r\n".to_vec()].concat();
        assert_eq!(header(&long).len(), 998 + 2 + 6);
        let endless = b"A: b\r\n".repeat(100_000);
        assert!(header(&endless).len() <= HEADER_OCTETS_MAX);
    }
}
