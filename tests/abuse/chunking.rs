//! BDAT (RFC 3030): chunks are octets, whatever they look like.

use super::{CONTROL, Relay, USER, assert_in_step, message};

#[test]
fn chunks_are_joined_as_they_are() {
    let relay = Relay::start();
    let text = message::text(9, 50_000);
    for size in [1 << 20, 9999, 1000, 64] {
        let mut client = relay.client();
        client.envelope("s@client.test", &[USER]);
        let chunks: Vec<&[u8]> = text.chunks(size).collect();
        for (number, chunk) in chunks.iter().enumerate() {
            let reply = client.bdat(chunk, number + 1 == chunks.len());
            assert_eq!(reply.code, 250, "{reply:?}");
        }
        assert_in_step(&mut client);
    }
    let received = relay.settled();
    assert_eq!(received.len(), 4);
    for received in received {
        message::assert_same("chunked", received.original(), &text);
    }
}

#[test]
fn a_dot_line_in_a_chunk_is_text() {
    let relay = Relay::start();
    let text = b"Subject: dots\r\n\r\n.\r\n..\r\n.x\r\n\r\n.\r\nNOOP\r\n";
    let mut client = relay.client();
    client.envelope("s@client.test", &[USER]);
    assert_eq!(client.bdat(text, false).code, 250);
    assert_eq!(client.bdat(b"", true).code, 250);
    assert_in_step(&mut client);
    message::assert_same("dots", relay.settled()[0].original(), text);
}

#[test]
fn chunks_may_be_pipelined_with_the_envelope() {
    let relay = Relay::start();
    let mut client = relay.client();
    let size = CONTROL.len();
    client.send(
        format!(
            "MAIL FROM:<s@client.test>\r\nRCPT TO:<{USER}>\r\nBDAT {size}\r\n{CONTROL}\
             BDAT {size} LAST\r\n{CONTROL}NOOP\r\n"
        )
        .as_bytes(),
    );
    let codes: Vec<u16> = (0..5).map(|_| client.reply().code).collect();
    assert_eq!(codes, [250; 5]);
    assert_eq!(relay.settled().len(), 1);
}

#[test]
fn sizes_that_are_no_sizes_are_refused() {
    let relay = Relay::start();
    for size in ["-1", "abc", "18446744073709551616", "0x10", "", "1 FIRST", "1 LAST x", "+1"] {
        let mut client = relay.client();
        client.envelope("s@client.test", &[USER]);
        let reply = client.command(&format!("BDAT {size}"));
        // What follows a size that can not be read is unknown, so closing is right as well.
        assert!([0, 421, 501].contains(&reply.code), "{size:?}: {reply:?}");
    }
    relay.assert_nothing_arrives();
}

#[test]
fn a_refused_chunk_is_swallowed_not_obeyed() {
    let relay = Relay::start();
    let chunk = b"MAIL FROM:<evil@client.test>\r\nNOOP\r\n";
    let mut client = relay.client();
    assert_eq!(client.bdat(chunk, false).code, 503, "no transaction");
    assert_in_step(&mut client);
    client.envelope("s@client.test", &["u@other.test"]);
    let reply = client.bdat(chunk, true);
    assert!([503, 554].contains(&reply.code), "no recipient: {reply:?}");
    assert_in_step(&mut client);
    relay.assert_nothing_arrives();
}

#[test]
fn data_after_bdat_is_out_of_order() {
    let relay = Relay::start();
    let mut client = relay.client();
    client.envelope("s@client.test", &[USER]);
    assert_eq!(client.bdat(CONTROL.as_bytes(), false).code, 250);
    assert_eq!(client.command("DATA").code, 503);
    assert_in_step(&mut client);
    assert_eq!(client.command("RSET").code, 250);
    relay.assert_nothing_arrives();
}

#[test]
fn a_bare_line_feed_refuses_the_whole_chunked_message() {
    let relay = Relay::start();
    let mut client = relay.client();
    client.envelope("s@client.test", &[USER]);
    client.bdat(b"Subject: a\r\n\r\nbare\nfeed\r\n", false);
    let reply = client.bdat(b"more\r\n", true);
    assert!([503, 550].contains(&reply.code), "{reply:?}");
    assert_in_step(&mut client);
    relay.assert_nothing_arrives();
}

#[test]
fn a_chunked_text_without_a_last_line_end_still_ends_cleanly() {
    let relay = Relay::start();
    let mut client = relay.client();
    client.envelope("s@client.test", &[USER]);
    let reply = client.bdat(b"Subject: a\r\n\r\nno line end", true);
    if reply.code == 250 {
        message::assert_same(
            "ended",
            relay.settled()[0].original(),
            b"Subject: a\r\n\r\nno line end\r\n",
        );
    } else {
        super::assert_refused("an open last line", &reply);
        relay.assert_nothing_arrives();
    }
}

#[test]
fn a_carriage_return_and_its_line_feed_may_be_in_two_chunks() {
    let relay = Relay::start();
    let mut client = relay.client();
    client.envelope("s@client.test", &[USER]);
    assert_eq!(client.bdat(b"Subject: a\r\n\r\nbody\r", false).code, 250);
    assert_eq!(client.bdat(b"\nmore\r\n", true).code, 250);
    let received = relay.settled();
    message::assert_same("split", received[0].original(), b"Subject: a\r\n\r\nbody\r\nmore\r\n");
}
