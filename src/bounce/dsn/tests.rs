//! Reports are composed, looked at, and read back by other parsers.

use mail_parser::{MessageParser, MimeHeaders as _, PartType};
use proptest::prelude::*;

use super::*;
use crate::client::testing::envelope;
use crate::smtp::Address;
use crate::verdict::{Class, classify_dsn};

const MESSAGE: &[u8] = b"Received: by mx1\r\nSubject: hello\r\n\r\n..dots\r\nbody\r\n";

fn reported(recipient: u32, diagnostic: &str) -> Reported {
    Reported {
        recipient,
        status: Enhanced(5, 1, 1),
        remote: Some("mail.example.test".to_owned()),
        diagnostic: diagnostic.to_owned(),
        is_reply: true,
        attempted_at_us: Some(1_764_000_000_000_000),
    }
}

fn report<'a>(envelope: &'a Envelope, recipients: &'a [Reported]) -> Report<'a> {
    Report {
        kind: ReportKind::Failed,
        host: "mx1.relay.test",
        id: "R1",
        about: "Q1",
        now_us: 1_764_000_001_000_000,
        retry_until_us: None,
        envelope,
        recipients,
        headers_only: false,
        text: MESSAGE,
        octets: MESSAGE.len() as u64,
    }
}

fn text(report: &Report<'_>) -> String {
    String::from_utf8(compose(report)).unwrap()
}

/// What must hold for whatever is composed.
fn check_wire(text: &[u8]) {
    assert!(text.ends_with(b"\r\n"));
    for line in text.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        let line = line.strip_suffix(b"\r").expect("each line ends with CRLF");
        assert!(line.len() <= 998);
        assert!(!line.contains(&b'\r') && !line.contains(&0));
        assert!(!line.starts_with(b".") || line.starts_with(b".."), "a lone dot");
    }
}

/// The kinds of the parts, and the status part as text.
fn parts(bytes: &[u8]) -> (Vec<String>, String) {
    let message = MessageParser::default().parse(bytes).unwrap();
    let kind = |part: &mail_parser::MessagePart<'_>| {
        let kind = part.content_type().unwrap();
        format!("{}/{}", kind.ctype(), kind.subtype().unwrap())
    };
    let status = message.parts.iter().find(|part| kind(part).ends_with("delivery-status"));
    let status = match &status.unwrap().body {
        PartType::Binary(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => panic!("{other:?}"),
    };
    (message.parts.iter().map(kind).collect(), status)
}

#[test]
fn a_failure_is_reported_in_words_and_in_fields() {
    let mut envelope = envelope(&["a@example.test", "b@example.test"]);
    envelope.envid = Some("id+3D1".to_owned());
    envelope.recipients[1].orcpt = Some("rfc822;first+2Bx@example.test".to_owned());
    envelope.origin.received_at_us = 1_763_999_990_000_000;
    let recipients = [reported(1, "550 5.1.1 <b@example.test>: User unknown")];
    let text = text(&report(&envelope, &recipients));
    check_wire(text.as_bytes());
    for line in [
        "Date: Mon, 24 Nov 2025 16:00:01 +0000\r\n",
        "From: Mail Delivery System <MAILER-DAEMON@mx1.relay.test>\r\n",
        "To: <sender@example.test>\r\n",
        "Message-ID: <R1@mx1.relay.test>\r\n",
        "Auto-Submitted: auto-replied\r\n",
        "said: 550 5.1.1 <b@example.test>: User\r\n unknown\r\n",
        "Q1.\r\n",
        "\r\nReporting-MTA: dns; mx1.relay.test\r\nOriginal-Envelope-Id: id=1\r\n\
         Arrival-Date: Mon, 24 Nov 2025 15:59:50 +0000\r\n\r\n\
         Original-Recipient: rfc822; first+x@example.test\r\n\
         Final-Recipient: rfc822; b@example.test\r\nAction: failed\r\nStatus: 5.1.1\r\n\
         Remote-MTA: dns; mail.example.test\r\n\
         Diagnostic-Code: smtp; 550 5.1.1 <b@example.test>: User unknown\r\n\
         Last-Attempt-Date: Mon, 24 Nov 2025 16:00:00 +0000\r\n\r\n--",
        "Content-Type: text/rfc822-headers\r\n\r\nReceived: by mx1\r\nSubject: hello\r\n\r\n--",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    assert!(!text.contains("a@example.test") && !text.contains("body"));
}

#[test]
fn a_report_is_read_back_as_what_it_says() {
    let envelope = envelope(&["a@example.test", "b@example.test"]);
    let recipients =
        [reported(0, "550 5.1.1 User unknown"), reported(1, "550 5.7.1 policy, not for you")];
    let bytes = compose(&report(&envelope, &recipients));
    let (kinds, _) = parts(&bytes);
    assert_eq!(
        kinds,
        ["multipart/report", "text/plain", "message/delivery-status", "text/rfc822-headers"]
    );
    let read: Vec<_> = classify_dsn(&bytes).into_iter().map(|r| (r.recipient, r.class)).collect();
    assert_eq!(
        read,
        [
            ("a@example.test".to_owned(), Class::UnknownUser),
            ("b@example.test".to_owned(), Class::OtherPermanent),
        ]
    );
}

#[test]
fn the_whole_message_comes_back_when_asked_for_and_small() {
    let mut envelope = envelope(&["a@example.test"]);
    let recipients = [reported(0, "550 no")];
    envelope.ret = Some(Ret::Full);
    let full = text(&report(&envelope, &recipients));
    assert!(full.contains("message/rfc822\r\n\r\nReceived: by mx1\r\n"));
    assert!(full.contains("\r\n\r\n..dots\r\nbody\r\n\r\n--"));
    let large = Report { octets: 70_000, ..report(&envelope, &recipients) };
    assert!(text(&large).contains("text/rfc822-headers"));
    for kind in [ReportKind::Delayed, ReportKind::Relayed] {
        let other = Report { kind, ..report(&envelope, &recipients) };
        assert!(text(&other).contains("text/rfc822-headers"));
    }
}

#[test]
fn a_delay_says_until_when_and_a_relayed_message_that_it_was() {
    let envelope = envelope(&["a@example.test"]);
    let mut recipients = [reported(0, "connection timed out")];
    recipients[0].is_reply = false;
    recipients[0].status = Enhanced(4, 4, 1);
    let until = Some(1_764_432_000_000_000);
    let delayed = Report {
        kind: ReportKind::Delayed,
        retry_until_us: until,
        ..report(&envelope, &recipients)
    };
    let delayed = text(&delayed);
    assert!(delayed.contains("Action: delayed\r\nStatus: 4.4.1\r\n"));
    assert!(delayed.contains("Diagnostic-Code: x-mxfleet; connection timed out\r\n"));
    assert!(delayed.contains("Will-Retry-Until: Sat, 29 Nov 2025 16:00:00 +0000\r\n"));
    assert_eq!(classify_dsn(delayed.as_bytes())[0].class, Class::Temporary);
    let relayed = Report { kind: ReportKind::Relayed, ..report(&envelope, &recipients) };
    assert!(text(&relayed).contains("Action: relayed\r\n"));
}

#[test]
fn addresses_outside_ascii_make_a_global_report() {
    let mut envelope = envelope(&["jürgen@bücher.test"]);
    envelope.smtputf8 = true;
    envelope.mail_from = Some(Address::parse("søren@example.test", true).unwrap());
    let recipients = [reported(0, "550 5.1.1 Empfänger unbekannt")];
    let bytes = compose(&report(&envelope, &recipients));
    check_wire(&bytes);
    let (kinds, status) = parts(&bytes);
    assert_eq!(kinds[2..], ["message/global-delivery-status", "message/global-headers"]);
    assert!(status.contains("Final-Recipient: utf-8; jürgen@bücher.test\r\n"));
    assert!(status.contains("Diagnostic-Code: smtp; 550 5.1.1 Empfänger unbekannt\r\n"));
    envelope.ret = Some(Ret::Full);
    let (kinds, _) = parts(&compose(&report(&envelope, &recipients)));
    assert!(kinds.contains(&"message/global".to_owned()));
}

#[test]
fn hostile_words_do_no_harm() {
    let mut envelope = envelope(&["a@example.test"]);
    envelope.envid = Some("x+0D+0AX-Injected:+20y\r\nX-Injected: z".to_owned());
    envelope.recipients[0].orcpt = Some("rfc822;a+0D+0AX-Injected:b\r\nX-Injected: c".to_owned());
    let nasty = format!("550 a\r\n\r\nX-Injected: b\0\x1b[2J\r\n.\r\nMAIL {}", "x".repeat(3000));
    let mut recipients = [reported(0, &nasty)];
    recipients[0].remote = Some("evil\r\nX-Injected: d".to_owned());
    let bytes = compose(&report(&envelope, &recipients));
    check_wire(&bytes);
    let text = String::from_utf8(bytes).unwrap();
    assert!(!text.lines().any(|line| line.trim_start().starts_with("X-Injected")), "{text}");
    assert!(text.contains("Original-Envelope-Id: x+0D+0AX-Injected:+20y X-Injected: z\r\n"));
}

#[test]
fn a_message_cannot_end_the_part_it_is_returned_in() {
    let mut envelope = envelope(&["a@example.test"]);
    envelope.ret = Some(Ret::Full);
    let recipients = [reported(0, "550 no")];
    let message = b"Subject: x\r\n\r\n--=_report_R1--\r\n--=_report_R1_--\r\n";
    let report =
        Report { text: message, octets: message.len() as u64, ..report(&envelope, &recipients) };
    let (kinds, _) = parts(&compose(&report));
    assert_eq!(kinds.len(), 4);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_report_is_fit_for_the_wire(
        diagnostic in ".{0,300}",
        remote in proptest::option::of(".{0,40}"),
        envid in proptest::option::of(".{0,60}"),
        orcpt in proptest::option::of(".{0,60}"),
        smtputf8: bool,
        full: bool,
        lines in proptest::collection::vec("(\\.\\.)?[^\\.\r\n]{0,60}", 0..8),
        us: u64,
    ) {
        let mut envelope = envelope(&["a@example.test"]);
        envelope.envid = envid;
        envelope.smtputf8 = smtputf8;
        envelope.ret = full.then_some(Ret::Full);
        envelope.recipients[0].orcpt = orcpt;
        envelope.origin.received_at_us = us;
        let recipients = [Reported { remote, ..reported(0, &diagnostic) }];
        let message = lines.join("\r\n") + "\r\n";
        let octets = message.len() as u64;
        let report = Report { text: message.as_bytes(), octets, ..report(&envelope, &recipients) };
        let bytes = compose(&report);
        check_wire(&bytes);
        prop_assert!(smtputf8 || bytes.is_ascii() || !message.is_ascii());
    }
}
