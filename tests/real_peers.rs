//! Real senders and real customers' servers: what goes in comes out, octet for octet, once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use support::ca::Ca;
use support::load::{Load, Plan};
use support::node::{Node, Setup};
use support::opensmtpd::OpenSmtpd;
use support::postfix::Postfix;
use support::process::{attempt, output};
use support::sink::Sink;
use support::{SOON, eventually, message};

/// To each of the two servers.
const MESSAGES: u64 = 5000;
const LARGEST: usize = 25 * 1024 * 1024;

/// From one octet to 25 MiB, most of them small, as mail is.
fn octets(number: u64) -> usize {
    let spread = usize::try_from(number.wrapping_mul(0x9E37_79B9) % 10_000).unwrap();
    match number % 2500 {
        0 => LARGEST,
        1 => 1,
        class if class % 100 == 7 => 64 * 1024 + spread * 30,
        class if class % 2 == 0 => 1 + spread % 500,
        _ => 512 + spread,
    }
}

#[test]
fn ten_thousand_messages_reach_postfix_and_opensmtpd_unchanged_and_once() {
    let postfix = Postfix::start("acme.test", &["user"]);
    let opensmtpd = OpenSmtpd::start("bravo.test", &["user"]);
    let mut node = Node::start();
    node.serve("acme.test", &postfix.address().to_string());
    node.serve("bravo.test", &opensmtpd.address().to_string());
    let plan = Plan { octets, connections: 5, end: MESSAGES, ..Plan::to("user@acme.test") };
    let first = Load::start(node.smtp(), &plan);
    let other = Plan { to: "user@bravo.test".into(), ..plan };
    let loads = [first, Load::start(node.smtp(), &other)];
    for load in loads {
        let refused = load.refused();
        assert_eq!(load.finish().len() as u64, MESSAGES, "all are taken: {refused:?}");
    }
    node.await_empty_queue(Duration::from_secs(180));
    eventually("deliveries inside Postfix", Duration::from_secs(120), || {
        postfix.mailbox().count() as u64 >= MESSAGES
    });
    eventually("deliveries inside OpenSMTPD", Duration::from_secs(120), || {
        opensmtpd.mailbox().count() as u64 >= MESSAGES
    });
    assert_all_there_once(&postfix.mailbox().mail());
    assert_all_there_once(&opensmtpd.mailbox().mail());
    assert!(node.terminate().success());
}

/// Each number once, with the text it was sent with below our trace header.
fn assert_all_there_once(mailbox: &[Vec<u8>]) {
    let mut seen = BTreeSet::new();
    for mail in mailbox {
        let line = mail.split(|&octet| octet == b'\n').next().unwrap();
        let line = String::from_utf8_lossy(line);
        let number = message::number(line.strip_prefix("Return-Path: ").unwrap()).unwrap();
        assert!(seen.insert(number), "message {number} came twice");
        let text = message::as_stored(&message::text(number, octets(number)));
        message::assert_same(&format!("message {number}"), below_our_trace(mail), &text);
    }
    assert_eq!(seen.len() as u64, MESSAGES);
}

/// Below the fields that the customer's server added, and ours. OpenSMTPD completes a message that
/// has no Date and no Message-Id; of ours, those that have them begin with From.
fn below_our_trace(mail: &[u8]) -> &[u8] {
    let mut rest = mail;
    let mut is_below_ours = false;
    loop {
        let completed = rest.starts_with(b"Date:") || rest.starts_with(b"Message-ID:");
        if is_below_ours && !completed {
            return rest;
        }
        let next = message::without_first_field(rest);
        let field = String::from_utf8_lossy(&rest[..rest.len() - next.len()]).into_owned();
        let known = ["Return-Path:", "X-Original-To:", "Delivered-To:", "Received:"];
        let known = completed || known.iter().any(|name| field.starts_with(name));
        assert!(known, "whose field is this? {field:?}");
        is_below_ours |= field.contains("by mx1.relay.example");
        rest = next;
    }
}

#[test]
fn swaks_is_served_in_every_way_it_sends() {
    let sink = Sink::start();
    let folder = support::scratch();
    let ca = Ca::new(folder.path());
    let certificates = vec![ca.issue(&["mx1.relay.example"])];
    let node = Node::with(&Setup { certificates, ..Setup::default() });
    node.serve("acme.test", &sink.route());
    let server = node.smtp().to_string();
    let ways: &[&[&str]] = &[
        &[],
        &["--pipeline"],
        &["--tls"],
        &["--tls", "--pipeline"],
        &["--protocol", "SMTP"],
        &["--attach", "/etc/hostname"],
    ];
    for (number, way) in ways.iter().enumerate() {
        let (from, to) = (format!("way{number}@client.test"), "one@acme.test,two@acme.test");
        let mut words = vec!["--server", &server, "--from", &from, "--to", to, "--hide-all"];
        words.extend(*way);
        output("swaks", &words);
    }
    let received = sink.await_count(ways.len(), SOON);
    for (number, way) in ways.iter().enumerate() {
        let sender = format!("way{number}@client.test");
        let copies: Vec<_> = received.iter().filter(|r| r.from() == sender).collect();
        let mut to: Vec<&str> = copies.iter().flat_map(|received| received.to()).collect();
        to.sort_unstable();
        assert_eq!(to, ["one@acme.test", "two@acme.test"], "{way:?}");
        let text = String::from_utf8_lossy(copies[0].original()).into_owned();
        assert!(text.contains("Subject: test") && text.contains("This is a test mailing"));
    }
    let refused = attempt("swaks", &["--server", &server, "--to", "u@other.test"]);
    assert_eq!(refused.status.code(), Some(24), "swaks calls a refused RCPT 24");
}

#[test]
fn smtp_source_finds_all_it_sent_at_the_sink() {
    let sink = Sink::start();
    let node = Node::start();
    node.serve("acme.test", &sink.route());
    let server = format!("inet:{}", node.smtp());
    let lengths = [("1", 300), ("4000", 1000), ("200000", 60)];
    for (length, count) in lengths {
        let count = count.to_string();
        // Twenty sessions, then four which keep their connections.
        for sessions in [&["-s", "20"][..], &["-d", "-s", "4"]] {
            let mut words = sessions.to_vec();
            words.extend(["-m", &count, "-l", length, "-f", "s@client.test"]);
            words.extend(["-t", "user@acme.test", &server]);
            output("/usr/sbin/smtp-source", &words);
        }
    }
    node.await_empty_queue(Duration::from_secs(60));
    let mut ids = BTreeSet::new();
    sink.each(|received| {
        let text = String::from_utf8(received.original().to_vec()).unwrap();
        let id = text.lines().find(|line| line.starts_with("Message-Id: ")).unwrap();
        assert!(ids.insert(id.to_owned()), "{id} came twice");
        let body = text.split_once("\r\n\r\n").unwrap().1;
        assert!(body.bytes().all(|octet| b"0123456789X\r\n".contains(&octet)), "nothing else");
    });
    let sent: usize = lengths.iter().map(|(_, count)| 2 * count).sum();
    assert_eq!(ids.len(), sent);
}

#[test]
fn a_recipient_unknown_to_postfix_ends_in_the_log_and_harms_nobody() {
    let postfix = Postfix::start("acme.test", &["user"]);
    let node = Node::start();
    node.serve("acme.test", &postfix.address().to_string());
    let to = ["unknown@acme.test", "user@acme.test"];
    let reply = node.client().deliver("s@client.test", &to, &message::text(1, 600));
    assert_eq!(reply.code, 250);
    node.await_empty_queue(SOON);
    eventually("the good recipient's copy", SOON, || postfix.mailbox().count() == 1);
    let line = node.await_log("to=<unknown@acme.test>");
    assert!(line.contains("dsn=5.1.1") && line.contains("User unknown"), "{line}");
    let line = node.await_log("to=<user@acme.test>");
    assert!(line.contains("dsn=2.") && line.contains("status=sent"), "{line}");
}

#[test]
fn mail_waits_for_a_server_that_is_away_and_goes_when_it_is_back() {
    let address = support::free_address();
    let node = Node::with(&Setup {
        limits: vec![("probe_pause_min_ms", "200".into()), ("probe_pause_max_ms", "500".into())],
        ..Setup::default()
    });
    node.serve("acme.test", &address.to_string());
    let plan = Plan { end: 200, ..Plan::to("user@acme.test") };
    assert_eq!(Load::start(node.smtp(), &plan).finish().len(), 200);
    node.await_log("status=deferred");
    assert_eq!(node.queued(), 200);
    let manner = support::sink::Manner { listen: Some(address), ..Default::default() };
    let sink = Sink::with(manner);
    sink.await_count(200, SOON);
    node.await_empty_queue(SOON);
    assert_eq!(sink.count(), 200);
}
