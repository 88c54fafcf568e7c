//! Ends of data that are none, and the octets that pretend: bare CR, bare LF, NUL.

use std::time::Duration;

use super::support::smtp::Smtp;
use super::{CONTROL, Relay, USER, assert_in_step, message};

/// What some servers take for the end of data and others do not (CVE-2023-51764 to 51766).
const FALSE_ENDS: &[&str] = &[
    "\n.\n",
    "\n.\r\n",
    "\r\n.\n",
    "\r.\r",
    "\r.\n",
    "\n.\r",
    "\r.\r\n",
    "\r\n.\r",
    "\r\n.\r\r\n",
    "\r\r\n.\r\r\n",
    "\r\n\0.\r\n",
    "\r\n.\0\r\n",
    "\n\n.\r\n",
    "\n\n.\n",
    "\r\n.\n\r",
    "\n\r.\n\r",
    "\r\r.\r\r",
    "\n.\n\n",
    "\r\r\n.\n",
    "\n\r\n.\n",
    "\r\n\r.\r\n",
    "\r\n\n.\r\n",
];

const SMUGGLED: &str = "MAIL FROM:<evil@client.test>\r\nRCPT TO:<victim@customer.test>\r\nDATA\r\n\
                        Subject: smuggled\r\n\r\nsmuggled\r\n.\r\n";

/// Client and server may not agree on where the text ended, so the refusal is the last word.
fn assert_refused_and_closed(client: &mut Smtp, what: &str, enhanced: &str) {
    let reply = client.reply();
    assert!(reply.is(550, enhanced), "{what:?}: {reply:?}");
    let reply = client.reply();
    assert!(reply.is_closed(), "{what:?}: {reply:?}");
}

#[test]
fn no_false_end_of_data_smuggles_a_second_message_in() {
    let relay = Relay::start();
    for end in FALSE_ENDS {
        let mut client = relay.client_in_data();
        client.send(format!("Subject: outer\r\n\r\nbody{end}{SMUGGLED}").as_bytes());
        assert_refused_and_closed(&mut client, end, "5.");
    }
    relay.assert_nothing_arrives();
}

#[test]
fn a_false_end_cut_over_segments_is_still_none() {
    let relay = Relay::start();
    for end in FALSE_ENDS {
        let mut client = relay.client_in_data();
        client.send(b"Subject: outer\r\n\r\nbody");
        for octet in end.as_bytes() {
            client.send(&[*octet]);
            // A segment of its own needs a moment to be one.
            std::thread::sleep(Duration::from_millis(1));
        }
        client.send(SMUGGLED.as_bytes());
        assert_refused_and_closed(&mut client, end, "5.");
    }
    relay.assert_nothing_arrives();
}

#[test]
fn commands_behind_an_end_in_doubt_are_not_obeyed() {
    let relay = Relay::start();
    for end in ["\r\r\n.\r\n", "\n\r\n.\r\n", "\0\r\n.\r\n"] {
        let mut client = relay.client_in_data();
        client.send(format!("Subject: outer\r\n\r\nbody{end}{SMUGGLED}").as_bytes());
        assert_refused_and_closed(&mut client, end, "5.");
    }
    relay.assert_nothing_arrives();
}

#[test]
fn a_false_end_inside_a_bdat_chunk_is_refused_too() {
    let relay = Relay::start();
    for end in FALSE_ENDS {
        let mut client = relay.client();
        client.envelope("sender@client.test", &[USER]);
        let text = format!("Subject: outer\r\n\r\nbody{end}{SMUGGLED}");
        let reply = client.bdat(text.as_bytes(), true);
        assert_eq!(reply.code, 550, "{end:?}: {reply:?}");
        assert_in_step(&mut client);
    }
    relay.assert_nothing_arrives();
}

#[test]
fn bare_line_ends_and_nul_in_the_text_are_refused_with_their_codes() {
    let relay = Relay::start();
    for (octets, enhanced) in [
        ("Subject: a\nX: b\r\n\r\nbody\r\n", "5.5.2"),
        ("Subject: a\r\n\r\nbo\rdy\r\n", "5.5.2"),
        ("Subject: a\r\n\r\nbody\r\r\n", "5.5.2"),
        ("Subject: a\0b\r\n\r\nbody\r\n", "5.6.0"),
        ("Subject: a\r\n\r\nbo\0dy\r\n", "5.6.0"),
    ] {
        let mut client = relay.client_in_data();
        client.send(format!("{octets}.\r\n").as_bytes());
        assert_refused_and_closed(&mut client, octets, enhanced);
    }
    relay.assert_nothing_arrives();
}

#[test]
fn a_command_with_bare_line_ends_or_nul_is_one_error() {
    let relay = Relay::start();
    for command in ["NO\rOP\r\n", "NOOP\0\r\n", "NOOP\r\r\n", "\rNOOP\r\n"] {
        let mut client = relay.client();
        client.send(command.as_bytes());
        let reply = client.reply();
        assert!(reply.code == 500 || reply.is_closed(), "{command:?}: {reply:?}");
        if !reply.is_closed() {
            assert_in_step(&mut client);
        }
    }
    // Behind a bare LF nothing can be trusted to be a command.
    let mut client = relay.client();
    client.send(b"NOOP\nNOOP\r\n");
    assert_eq!(client.reply().code, 500);
    assert!(client.reply().is_closed());
}

#[test]
fn a_dot_right_after_the_invitation_ends_an_empty_message() {
    let relay = Relay::start();
    let mut client = relay.client_in_data();
    client.send(b".\r\n");
    assert_eq!(client.reply().code, 250);
    assert_in_step(&mut client);
    let received = relay.settled();
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].original(), b"");
}

#[test]
fn the_end_of_data_may_be_cut_anywhere() {
    let relay = Relay::start();
    let wire = b"Subject: cut\r\n\r\n..dots\r\n...\r\n.\r\n";
    for cut in 1..wire.len() {
        let mut client = relay.client_in_data();
        client.send(&wire[..cut]);
        // The rest has to be a segment of its own.
        std::thread::sleep(Duration::from_millis(2));
        client.send(&wire[cut..]);
        assert_eq!(client.reply().code, 250, "cut at {cut}");
        assert_in_step(&mut client);
    }
    let received = relay.settled();
    assert_eq!(received.len(), wire.len() - 1);
    for received in received {
        message::assert_same("cut", received.original(), b"Subject: cut\r\n\r\n.dots\r\n..\r\n");
    }
}

#[test]
fn commands_behind_the_end_of_data_in_one_segment_are_commands() {
    let relay = Relay::start();
    let mut client = relay.client_in_data();
    client.send(format!("{CONTROL}.\r\nNOOP\r\nNOOP\r\n").as_bytes());
    assert_eq!([client.reply().code, client.reply().code, client.reply().code], [250; 3]);
    assert_eq!(relay.settled().len(), 1);
}
