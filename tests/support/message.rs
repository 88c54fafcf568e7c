//! Messages that can be recognised and checked wherever they turn up.
//!
//! A message has a number. The number is in its sender address, and its text is made from the
//! number and the size alone, so the receiving side needs nothing to compare with.

use super::Dice;

/// The sender that carries a message's number.
pub fn sender(number: u64) -> String {
    format!("n{number}@load.test")
}

/// The number in a sender address, angle brackets or not.
pub fn number(sender: &str) -> Option<u64> {
    sender.trim_matches(['<', '>']).strip_prefix('n')?.strip_suffix("@load.test")?.parse().ok()
}

/// Text number `number` with a body of about `octets`, CRLF line ends, dots not stuffed.
///
/// From 512 octets on it has a header; below that it begins with the empty line. Bodies mix what
/// relays get wrong: leading dots, empty lines, trailing spaces, full-length lines, 8-bit octets,
/// lines that begin with `From `.
pub fn text(number: u64, octets: usize) -> Vec<u8> {
    let mut dice = Dice::new(number + 1);
    let mut text = Vec::with_capacity(octets + 1200);
    if octets >= 512 {
        text.extend_from_slice(
            format!(
                "From: =?utf-8?q?Load?= <{}>\r\nTo: user@acme.test\r\nSubject: number {number}\r\n \
                 folded\r\n\tand folded again\r\nMessage-ID: <{number}.{octets}@load.test>\r\n\
                 Date: Tue, 24 Nov 2026 12:00:00 +0000\r\nX-Empty:\r\nMIME-Version: 1.0\r\n\
                 Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n",
                sender(number)
            )
            .as_bytes(),
        );
    }
    text.extend_from_slice(b"\r\n");
    let end = text.len() + octets;
    while text.len() < end {
        let room = end - text.len();
        line(&mut text, room, &mut dice);
    }
    text
}

fn line(text: &mut Vec<u8>, room: usize, dice: &mut Dice) {
    let start = text.len();
    match dice.below(12) {
        0 => text.extend_from_slice(b"."),
        1 => text.extend_from_slice(b".."),
        2 => {}
        3 => text.extend_from_slice(b"From the start of a line"),
        4 => text.extend_from_slice(b"trailing white space \t "),
        5 => fill(text, 998, dice, |octet| b' ' + octet % 95),
        6 => fill(text, 1 + dice.clone().below(300), dice, |octet| octet | 0x80),
        7 => text.extend_from_slice("Grüße, 你好, привет".as_bytes()),
        _ => fill(text, 1 + dice.clone().below(76), dice, |octet| b' ' + octet % 95),
    }
    text.truncate(text.len().min(start + room));
    text.extend_from_slice(b"\r\n");
}

fn fill(text: &mut Vec<u8>, count: usize, dice: &mut Dice, shape: impl Fn(u8) -> u8) {
    let end = text.len() + count;
    while text.len() < end {
        for octet in dice.roll().to_le_bytes() {
            text.push(shape(octet));
        }
    }
    text.truncate(end);
}

/// What stands below the first header field, which must be a Received field.
pub fn below_trace(text: &[u8]) -> &[u8] {
    assert!(text.starts_with(b"Received: "), "no trace header: {:?}", start(text));
    without_first_field(text)
}

/// The text without its first header field and that field's folded lines.
pub fn without_first_field(text: &[u8]) -> &[u8] {
    let mut at = 0;
    loop {
        at += memchr::memchr(b'\n', &text[at..]).map_or(text.len() - at, |end| end + 1);
        if !matches!(text.get(at), Some(b' ' | b'\t')) {
            return &text[at..];
        }
    }
}

/// The beginning of a text, readable.
pub fn start(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(400)]).into_owned()
}

/// CRLF to LF, as a mailbox stores it.
pub fn as_stored(text: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|&octet| octet == b'\n') {
        match line.strip_suffix(b"\r\n") {
            Some(line) => {
                stored.extend_from_slice(line);
                stored.push(b'\n');
            }
            None => stored.extend_from_slice(line),
        }
    }
    stored
}

/// Fail with the first difference, readable, not with megabytes of digits.
pub fn assert_same(what: &str, got: &[u8], expected: &[u8]) {
    if got == expected {
        return;
    }
    let at = got.iter().zip(expected).take_while(|(a, b)| a == b).count();
    let around = |text: &[u8]| {
        let from = at.saturating_sub(40).min(text.len());
        String::from_utf8_lossy(&text[from..text.len().min(at + 40)]).into_owned()
    };
    panic!(
        "{what}: differs at octet {at} ({} octets for {}):\n got {:?}\n not {:?}",
        got.len(),
        expected.len(),
        around(got),
        around(expected)
    );
}
