//! Cutting what a client sends anywhere gives the same replies and the same messages.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::client::Client;
use crate::server::{Accepted, Server, Setup};

/// Groups of a dialog: a client waits for the replies to one before it sends the next, as RFC 2920
/// wants it behind EHLO, DATA and at the end.
const GROUPS: &[&[u8]] = &[
    b"EHLO client.test\r\n",
    b"NOOP\r\nFOO\rBAR\r\nMAIL FROM:<a@sender.test> BODY=8BITMIME\r\nRCPT TO:<u@customer.test>\r\n\
      RCPT TO:<u@other.test>\r\nDATA\r\n",
    b"Subject: x\r\nReceived: by mx1.relay.test; x\r\n\r\n..dots\r\n\r\n.\r\n\
      MAIL FROM:<>\r\nRCPT TO:<v@customer.test> NOTIFY=NEVER\r\nDATA\r\n",
    b"..\r\n.x\r\n\r\n.\r\n\
      MAIL FROM:<b@sender.test>\r\nRCPT TO:<w@customer.test>\r\n\
      BDAT 9\r\n.a\r\n.\r\n.\rBDAT 5\r\n\n\r\n.x\
      BDAT 0 LAST\r\nMAIL FROM:<c@sender.test>\r\nRCPT TO:<w@customer.test>\r\nBDAT 4 LAST\r\na\rbc\
      NOOP\r\nRSET\r\nMAIL FROM:<d@sender.test>\r\nRCPT TO:<w@customer.test>\r\nDATA\r\n",
    b"Subject: x\r\n\r\n.\r.\n..dots\r\n.\r\r\n\r\n.\r\nNOOP\r\nQUIT\r\n",
];

/// Replies to the groups, in lines; the last one is the end of the connection.
const REPLY_LINES: [usize; 5] = [9, 6, 4, 14, 2];

async fn play(cuts: &[usize]) -> (Vec<String>, Vec<Accepted>) {
    let server = Server::start(Setup::default()).await;
    let mut client = Client::connect(server.address).await;
    let mut replies = vec![client.line().await.unwrap()];
    for (group, lines) in GROUPS.iter().zip(REPLY_LINES) {
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % group.len()).collect();
        ends.push(group.len());
        ends.sort_unstable();
        let mut from = 0;
        for end in ends {
            client.send(&group[from..end]).await;
            // Lets the server see this piece before the next one.
            tokio::task::yield_now().await;
            from = end;
        }
        for _ in 0..lines {
            replies.push(client.line().await.unwrap_or_default());
        }
    }
    let accepted = server.accepted.lock().unwrap().clone();
    (replies, accepted.into_iter().map(without_times).collect())
}

/// The time is the only thing that may differ.
fn without_times(mut message: Accepted) -> Accepted {
    message.envelope.origin.received_at_us = 0;
    let text = String::from_utf8(message.text).unwrap();
    let (trace, rest) = text.split_once(" +0000\r\n").unwrap();
    let trace = trace.rsplit_once(";\r\n").unwrap().0;
    message.text = format!("{trace}{rest}").into_bytes();
    message
}

#[test]
fn cutting_the_input_anywhere_changes_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let whole = runtime.block_on(play(&[]));
    let codes: Vec<&str> = whole.0.iter().map(|line| line.get(..3).unwrap_or_default()).collect();
    let mut expected = vec!["220"];
    expected.extend(["250"; 9]);
    expected.extend(["250", "500", "250", "250", "550", "354"]);
    expected.extend(["250", "250", "250", "354"]);
    expected.extend(["250", "250", "250", "250", "250", "250", "250", "250", "550", "250", "250"]);
    expected.extend(["250", "250", "354"]);
    expected.extend(["550", ""]);
    assert_eq!(codes, expected);
    assert_eq!(whole.1.len(), 3);
    assert!(whole.1[2].text.ends_with(b">..a\r\n..\r\n..\r\n\r\n..x\r\n"));

    // Every single cut, and then several at random.
    let longest = GROUPS.iter().map(|group| group.len()).max().unwrap();
    for cut in 0..longest {
        assert_eq!(runtime.block_on(play(&[cut])), whole, "cut at {cut}");
    }
    let config = Config { cases: 64, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&prop::collection::vec(0..longest, 1..40), |cuts| {
            prop_assert_eq!(runtime.block_on(play(&cuts)), whole.clone());
            Ok(())
        })
        .unwrap();
}
