//! Where data ends, however it is cut.

use proptest::prelude::*;

use super::*;

/// What DATA makes of `input` when it comes in pieces that end at `cuts`: the text, whether it
/// ended, what lies behind the end, flaws, and stuffed dots.
fn data(input: &[u8], cuts: &[usize]) -> (Vec<u8>, bool, Vec<u8>, Flaws, u64) {
    let mut scanner = DataScanner::default();
    let (mut text, mut buffer) = (Vec::new(), Vec::new());
    for (index, piece) in pieces(input, cuts).iter().enumerate() {
        buffer.extend_from_slice(piece);
        let scan = scanner.scan(&buffer);
        text.extend_from_slice(&buffer[..scan.text]);
        buffer.drain(..scan.consumed);
        if scan.end {
            let behind = pieces(input, cuts)[index + 1..].concat();
            return (text, true, [buffer, behind].concat(), scanner.flaws(), scanner.stuffed());
        }
        assert!(buffer.len() <= 2, "{buffer:?} waits");
    }
    (text, false, buffer, scanner.flaws(), scanner.stuffed())
}

/// What chunks make of `input` when it comes in pieces that end at `cuts`.
fn chunks(input: &[u8], cuts: &[usize]) -> (Vec<u8>, Flaws) {
    let mut stuffer = Stuffer::default();
    let mut text = Vec::new();
    for mut piece in pieces(input, cuts) {
        while let Some(slice) = stuffer.next(&mut piece) {
            text.extend_from_slice(slice);
        }
    }
    text.extend_from_slice(stuffer.finish());
    (text, stuffer.flaws())
}

fn pieces<'a>(input: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
    ends.push(input.len());
    ends.sort_unstable();
    let mut from = 0;
    ends.iter().map(|&end| &input[std::mem::replace(&mut from, end)..end]).collect()
}

/// Octets that matter, in any order.
fn octets() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(b"\r\n.a\0".to_vec()), 0..40)
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..1000_usize, 0..10)
}

#[test]
fn only_crlf_dot_crlf_is_the_end() {
    let (text, end, behind, flaws, _) = data(b"a\r\n..b\r\n.\r\nQUIT\r\n", &[]);
    assert_eq!((text, end, behind), (b"a\r\n..b\r\n".to_vec(), true, b"QUIT\r\n".to_vec()));
    assert_eq!(flaws, Flaws::default());
    for no_end in ["a\n.\n", "a\r\n.\n", "a\n.\r\n", "a\r.\r", "a\r\n.\r\r\n", "a\r\n.\0\r\n"] {
        let (_, end, _, flaws, _) = data(no_end.as_bytes(), &[]);
        assert!(!end, "{no_end:?}");
        assert!(flaws.bare_newline || flaws.nul, "{no_end:?}");
    }
}

#[test]
fn the_dot_may_be_all_there_is() {
    assert!(data(b".\r\n", &[]).1);
    assert_eq!(data(b".\r\n", &[1, 2]).0, b"");
}

#[test]
fn stuffed_dots_are_counted() {
    assert_eq!(data(b"..\r\n.a\r\na.b\r\n.\r\n", &[]).4, 2);
}

#[test]
fn chunks_are_stuffed_and_ended() {
    assert_eq!(chunks(b".\r\n.a\r\n\r\n..b", &[]).0, b"..\r\n..a\r\n\r\n...b\r\n");
    assert_eq!(chunks(b"", &[]), (Vec::new(), Flaws::default()));
    assert!(chunks(b"a\r", &[]).1.bare_newline);
    assert!(chunks(b"a\rb", &[2]).1.bare_newline);
    assert!(!chunks(b"a\r\nb", &[2]).1.bare_newline);
}

proptest! {
    #[test]
    fn data_is_the_same_wherever_it_is_cut(input in octets(), cuts in cuts()) {
        prop_assert_eq!(data(&input, &cuts), data(&input, &[]));
    }

    #[test]
    fn chunks_are_the_same_wherever_they_are_cut(input in octets(), cuts in cuts()) {
        prop_assert_eq!(chunks(&input, &cuts), chunks(&input, &[]));
    }

    #[test]
    fn what_chunks_were_made_into_is_read_back_as_one_message(input in octets()) {
        let (text, flaws) = chunks(&input, &[]);
        let (read, end, behind, seen, _) = data(&[&text[..], b".\r\n"].concat(), &[]);
        prop_assert_eq!((read, end, behind, seen), (text, true, Vec::new(), flaws));
    }

    #[test]
    fn what_was_stuffed_is_unstuffed_wherever_it_is_cut(
        input in "(\\.|a|\r\n){0,30}",
        size in 1..9_usize,
    ) {
        let (text, _) = chunks(input.as_bytes(), &[]);
        let (mut unstuffer, mut read) = (Unstuffer::default(), Vec::new());
        for mut piece in text.chunks(size) {
            while let Some(part) = unstuffer.next(&mut piece) {
                read.extend_from_slice(part);
            }
        }
        let end = if input.is_empty() || input.ends_with("\r\n") { "" } else { "\r\n" };
        prop_assert_eq!(String::from_utf8(read).unwrap(), input + end);
    }

    #[test]
    fn the_first_end_is_the_first_crlf_dot_crlf(input in octets()) {
        let (text, end, behind, ..) = data(&input, &[]);
        let framed = [b"\r\n", &input[..]].concat();
        let found = framed.windows(5).position(|window| window == b"\r\n.\r\n");
        prop_assert_eq!(end, found.is_some());
        if let Some(at) = found {
            prop_assert_eq!(&text, &input[..at]);
            prop_assert_eq!(&behind, &input[at + 3..]);
        }
    }
}
