//! The bodies of the fuzz targets, run on a fixed number of inputs: random octets, and pieces of
//! the language that each of them reads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

#[path = "../fuzz/bodies.rs"]
mod bodies;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::Union;

/// Failing inputs are printed, not kept in a file: they become tests with a name.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Octets made of these words and of noise, behind one octet for the cutting.
fn words(words: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let mut parts: Vec<BoxedStrategy<Vec<u8>>> =
        words.iter().map(|word| Just(word.as_bytes().to_vec()).boxed()).collect();
    parts.push(vec(any::<u8>(), 0..6).boxed());
    (1..40u8, vec(Union::new(parts), 0..24)).prop_map(|(size, parts)| {
        let mut data = vec![size];
        data.extend(parts.concat());
        data
    })
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn commands_are_the_same_wherever_they_are_cut(data in words(&[
        "\r\n", "\n", "\r", "\0", "EHLO a", "MAIL FROM:<", "RCPT TO:<", "a@b.test", ">", " SIZE=1",
        " BODY=8BITMIME", "BDAT 10", " LAST", "NOOP", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    ])) {
        bodies::command(&data);
    }

    #[test]
    fn an_address_that_is_taken_is_taken_again(data in words(&[
        "a", "@", ".", "b.test", "\"", "\\", "[", "]", "IPv6:::1", "127.0.0.1", "ü", "xn--", "%",
        "!", "postmaster", "<", ">", " ", "\t", "-", "ß", "\u{3002}",
    ])) {
        bodies::address(&data[1..]);
    }

    #[test]
    fn replies_are_the_same_wherever_they_are_cut(data in words(&[
        "250 ok\r\n", "550-5.1.1 a\r\n", "550 5.1.1 b\r\n", "4", "51 ", "\r\n", "\n", "\r", "220-",
        "999 x\r\n", "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy",
    ])) {
        bodies::reply(&data);
    }

    #[test]
    fn a_text_ends_at_the_same_place_wherever_it_is_cut(data in words(&[
        "\r\n", ".", "\r\n.\r\n", "\r\n..", "\n", "\r", "\0", "body", "\r\n.\r", "\n.\r\n",
    ])) {
        bodies::text(&data);
    }

    #[test]
    fn any_octets_are_read_as_a_report_in_bounds(data in words(&[
        "Content-Type: multipart/report; boundary=b", "\n", "\r\n", "--b", "--b--", "\n\n",
        "Content-Type: message/delivery-status\n\n", "Content-Type: message/rfc822\n\n",
        "Final-Recipient: rfc822; a@b.test", "Action: failed\n", "Status: 5.1.1\n", "<a@b.test>",
        "Diagnostic-Code: smtp; 550 5.1.1 no", "Content-Transfer-Encoding: base64\n", "rp-aaaa",
        "host x said: 550 User unknown", "X-Failed-Recipients: a@b.test\n", "Subject: x\n", "\0",
    ])) {
        bodies::report(&data[1..]);
    }

    #[test]
    fn headers_are_the_same_wherever_they_are_cut(data in words(&[
        "Authentication-Results:", " ", "\t", "\r\n", "\r\n ", "mx1.test", "mx2.test", ";", "(",
        ")", "\\", "\"", "From: a@a.test\r\n", "\r\n\r\n", "A", "\r\n..", "body\r\n", "=", "v=1;",
        "DKIM-Signature: v=1; a=rsa-sha256; d=a.test; s=s; c=relaxed/relaxed; h=from; bh=aaaa; \
         b=aaaa\r\n",
        "DKIM-Signature: v=1; a=ed25519-sha256; d=b.test; s=s; c=simple/simple; h=from:to; \
         bh=YWFh; b=YWFh; l=3\r\n",
    ])) {
        bodies::header(&data);
    }
}

proptest! {
    #![proptest_config(cases(80))]

    #[test]
    fn a_damaged_segment_never_gives_out_a_wrong_text(data in vec(any::<u8>(), 1..42)) {

        bodies::segment(&data);
    }
}

#[test]
fn an_undamaged_segment_gives_out_every_text() {
    bodies::segment(&[0]);
}
