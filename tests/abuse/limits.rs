//! More than there is room for: sizes, lines, recipients, errors, connections, hops.

use super::support::node::PROGRAM;
use super::support::process::output;
use super::support::smtp::Smtp;
use super::{CONTROL, Received, Relay, Setup, Sink, USER, assert_in_step, assert_refused, message};

const MIB: usize = 1024 * 1024;

#[test]
fn a_declared_size_is_checked_before_the_text() {
    let relay = Relay::limited(&[("message_octets_max", "1048576")]);
    let mut client = relay.client();
    for size in ["abc", "-1", "", "9999999999999999999999999999999999999999", "1 SIZE=2"] {
        let reply = client.command(&format!("MAIL FROM:<s@client.test> SIZE={size}"));
        assert_eq!(reply.code, 501, "SIZE={size}: {reply:?}");
    }
    let reply = client.command("MAIL FROM:<s@client.test> SIZE=1048577");
    assert!(reply.is(552, "5.3.4"), "{reply:?}");
    assert_eq!(client.command("MAIL FROM:<s@client.test> SIZE=1048576").code, 250);
    assert_in_step(&mut client);
}

#[test]
fn a_text_over_the_limit_is_swallowed_and_refused() {
    let relay = Relay::limited(&[("message_octets_max", "1048576")]);
    let mut client = relay.client();
    let long = message::text(1, 3 * MIB);
    let reply = client.deliver("s@client.test", &[USER], &long);
    assert!(reply.is(552, "5.3.4"), "{reply:?}");
    assert_in_step(&mut client);
    client.envelope("s@client.test", &[USER]);
    let reply = client.bdat(&long, true);
    assert_eq!(reply.code, 552, "{reply:?}");
    assert_in_step(&mut client);
    relay.assert_nothing_arrives();
}

#[test]
fn a_false_declared_size_does_not_cut_the_text() {
    let relay = Relay::start();
    let text = message::text(1, 100_000);
    let mut client = relay.client();
    client.command("MAIL FROM:<s@client.test> SIZE=10 BODY=8BITMIME");
    client.command(&format!("RCPT TO:<{USER}>"));
    client.command("DATA");
    client.send(&super::support::smtp::stuffed(&text));
    client.send(b".\r\n");
    assert_eq!(client.reply().code, 250);
    message::assert_same("whole", relay.settled()[0].original(), &text);
}

#[test]
fn unknown_parameters_and_values_are_refused() {
    let relay = Relay::start();
    let mut client = relay.client();
    for (command, code) in [
        ("MAIL FROM:<s@client.test> NONSENSE=1", 555),
        ("MAIL FROM:<s@client.test> BODY=9BIT", 501),
        ("MAIL FROM:<s@client.test> BODY", 501),
        ("MAIL FROM:<s@client.test> SMTPUTF8=1", 501),
        ("MAIL FROM:<s@client.test> RET=SOME", 501),
    ] {
        let reply = client.command(command);
        assert_eq!(reply.code, code, "{command}: {reply:?}");
    }
    client.command("MAIL FROM:<s@client.test>");
    let reply = client.command(&format!("RCPT TO:<{USER}> NONSENSE=1"));
    assert_eq!(reply.code, 555, "{reply:?}");
    let reply = client.command(&format!("RCPT TO:<{USER}> NOTIFY=NEVER,FAILURE"));
    assert_eq!(reply.code, 501, "{reply:?}");
    let reply = client.command(&format!("RCPT TO:<{USER}> NOTIFY=SOMETIMES"));
    assert_eq!(reply.code, 501, "{reply:?}");
    assert_in_step(&mut client);
}

#[test]
fn a_command_without_end_takes_no_memory() {
    let mut relay = Relay::start();
    let mut client = relay.client();
    client.send(format!("NOOP {}\r\n", "x".repeat(64 * 1024)).as_bytes());
    assert_eq!(client.reply().code, 500, "one error for one long line");
    assert_in_step(&mut client);

    let before = relay.node.process().resident_octets();
    let mut client = relay.client();
    for _ in 0..16 {
        client.send(&vec![b'x'; MIB]);
    }
    client.send(b"\r\n");
    let reply = client.reply();
    assert!([0, 421, 500].contains(&reply.code), "{reply:?}");
    let grown = relay.node.process().resident_octets().saturating_sub(before);
    assert!(grown < 8 * MIB as u64, "grew by {grown}");
    relay.assert_nothing_arrives();
}

#[test]
fn long_lines_are_kept_as_they_are() {
    let relay = Relay::start();
    let mut kept = Vec::new();
    for octets in [998, 2000, MIB] {
        let text = format!("Subject: long\r\n\r\n{}\r\n.dot\r\n", "y".repeat(octets));
        let mut client = relay.client();
        let reply = client.deliver("s@client.test", &[USER], text.as_bytes());
        if octets == 998 || reply.code == 250 {
            assert_eq!(reply.code, 250, "{octets}: {reply:?}");
            kept.push(text);
        } else {
            assert_refused("a long line", &reply);
        }
        assert_in_step(&mut client);
    }
    let received = relay.settled();
    assert_eq!(received.len(), kept.len());
    for received in received {
        let text = String::from_utf8(received.original().to_vec()).unwrap();
        assert!(kept.contains(&text), "a line of {} octets was changed", text.len());
    }
}

#[test]
fn recipients_over_the_limit_wait_for_the_next_transaction() {
    let relay = Relay::start();
    let mut client = relay.client();
    client.command("MAIL FROM:<s@client.test>");
    let mut taken = 0;
    for number in 0..1100 {
        let reply = client.command(&format!("RCPT TO:<u{number}@customer.test>"));
        match reply.code {
            250 => taken += 1,
            _ => assert!(reply.is(452, "4.5.3"), "{reply:?}"),
        }
    }
    assert_eq!(taken, 1000);
    client.command("DATA");
    client.send(format!("{CONTROL}.\r\n").as_bytes());
    assert_eq!(client.reply().code, 250);
    let received = relay.settled();
    let mut to: Vec<&str> = received.iter().flat_map(|received| received.to()).collect();
    to.sort_unstable();
    to.dedup();
    assert_eq!(to.len(), 1000, "each recipient once");
}

#[test]
fn a_client_that_only_errs_is_dismissed() {
    let relay = Relay::start();
    for command in ["NONSENSE", "RCPT TO:<u@other.test>"] {
        let mut client = relay.client();
        client.command("MAIL FROM:<s@client.test>");
        let refused = (1..200).find(|_| client.command(command).code == 421);
        assert!(refused.is_some_and(|after| (2..=25).contains(&after)), "{command}: {refused:?}");
        assert!(client.reply().is_closed());
    }
}

#[test]
fn one_network_does_not_take_all_sessions() {
    let setup = Setup { count_loopback: true, ..Setup::default() };
    let relay = Relay::with(&setup, Sink::start());
    let mut clients: Vec<Smtp> = (0..120).map(|_| Smtp::open(relay.node.smtp()).unwrap()).collect();
    let banners: Vec<u16> = clients.iter_mut().map(|client| client.reply().code).collect();
    let welcome = banners.iter().filter(|&&code| code == 220).count();
    let busy = banners.iter().filter(|&&code| code == 421).count();
    assert_eq!((welcome, busy), (64, 56), "the default is 64 sessions a network");
    drop(clients);
    super::support::eventually("room again", super::SOON, || {
        Smtp::open(relay.node.smtp()).unwrap().reply().code == 220
    });
}

#[test]
fn a_message_that_came_round_too_often_is_a_loop() {
    let relay = Relay::start();
    let hop = "Received: from a.test by b.test; Tue, 24 Nov 2026 12:00:00 +0000\r\n";
    let mut client = relay.client();
    let text = hop.repeat(120) + CONTROL;
    let reply = client.deliver("s@client.test", &[USER], text.as_bytes());
    assert!(reply.is(554, "5.4.6"), "{reply:?}");
    assert_in_step(&mut client);
    let own = "Received: from a.test by mx1.relay.example; Tue, 24 Nov 2026 12:00:00 +0000\r\n";
    let text = own.repeat(6) + CONTROL;
    let reply = client.deliver("s@client.test", &[USER], text.as_bytes());
    assert!(reply.is(554, "5.4.6"), "{reply:?}");
    relay.assert_nothing_arrives();
    // In the body they are only text.
    let text = format!("{CONTROL}{}", hop.repeat(120));
    assert_eq!(client.deliver("s@client.test", &[USER], text.as_bytes()).code, 250);
}

/// Messages made to hurt whoever takes them apart.
fn monsters() -> Vec<String> {
    const DEPTH: usize = 5000;
    let mime = "MIME-Version: 1.0\r\n";
    let open =
        |depth| format!("Content-Type: multipart/mixed; boundary=b{depth}\r\n\r\n--b{depth}\r\n");
    let opened: String = (0..DEPTH).map(open).collect();
    let text = "Content-Type: text/plain\r\n\r\nat the bottom\r\n";
    let closed: String = (0..DEPTH).rev().map(|depth| format!("--b{depth}--\r\n")).collect();
    let within = "Content-Type: message/rfc822\r\n\r\n".repeat(DEPTH);
    let reports = format!(
        "Content-Type: multipart/report; report-type=delivery-status; boundary=r\r\n\r\n{}",
        "--r\r\nContent-Type: message/delivery-status\r\n\r\nStatus: 5.1.1\r\n".repeat(DEPTH)
    );
    vec![
        format!("{mime}{opened}"),
        format!("{mime}{opened}{text}{closed}"),
        format!("{mime}{within}{text}"),
        format!("{mime}{reports}--r--\r\n"),
        format!("{mime}Content-Type: multipart/mixed; boundary=b\r\n\r\n{}", "--b\r\n".repeat(MIB)),
        format!("X-Long: {}\r\n\r\nbody\r\n", "word\r\n ".repeat(2 * MIB / 7)),
        format!("{}\r\nbody\r\n", "X-Many: 1\r\n".repeat(2 * MIB / 11)),
    ]
}

#[test]
fn deep_structures_and_huge_headers_pass_unread() {
    let mut relay = Relay::start();
    let monsters = monsters();
    for text in &monsters {
        let mut client = relay.client();
        let reply = client.deliver("s@client.test", &[USER], text.as_bytes());
        assert_eq!(reply.code, 250, "{reply:?}");
        client.envelope("s@client.test", &[USER]);
        assert_eq!(client.bdat(text.as_bytes(), true).code, 250);
        assert_in_step(&mut client);
    }
    let received = relay.settled();
    assert_eq!(received.len(), 2 * monsters.len());
    for text in &monsters {
        let is_it = |received: &&Received| text.as_bytes() == received.original();
        assert_eq!(received.iter().filter(is_it).count(), 2, "{}", &text[..60]);
    }
    let peak = relay.node.process().peak_octets();
    assert!(peak < 256 * MIB as u64, "{peak} octets of memory");
    // Where reports are read, they are as harmless.
    for (number, text) in monsters.iter().enumerate() {
        let file = relay.node.folder().join(format!("monster{number}"));
        std::fs::write(&file, text).unwrap();
        output(PROGRAM, &["classify-dsn", file.to_str().unwrap()]);
    }
}
