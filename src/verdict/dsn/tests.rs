//! The rules one by one; the labelled corpus is in `tests/unknown_user.rs`.

use super::*;
use Class::{OtherPermanent, Temporary, UnknownUser};
use proptest::prelude::*;

/// A report with these fields about one recipient, and these words for people.
fn report(fields: &str, words: &str) -> String {
    format!(
        "From: MAILER-DAEMON@x.test\nSubject: failed\nMIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n\
         --b\nContent-Type: text/plain\n\n{words}\n\
         --b\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; x.test\n\n{fields}\n\
         --b\nContent-Type: message/rfc822\n\nSubject: hi\n\n550 5.1.1 <z@y.test>... User unknown\n\
         --b--\n"
    )
}

fn class(message: &str) -> Vec<(String, Class)> {
    classify_dsn(message.as_bytes()).into_iter().map(|r| (r.recipient, r.class)).collect()
}

fn block(action: &str, status: &str, diagnostic: &str) -> String {
    let diagnostic = match diagnostic {
        "" => String::new(),
        text => format!("Diagnostic-Code: smtp; {text}\n"),
    };
    format!("Final-Recipient: rfc822; a@b.test\nAction: {action}\nStatus: {status}\n{diagnostic}")
}

#[track_caller]
fn expect(expected: Class, fields: &str, words: &str) {
    assert_eq!(class(&report(fields, words)), [("a@b.test".to_owned(), expected)], "{fields}");
}

#[test]
fn a_failure_with_the_servers_own_words_counts() {
    expect(UnknownUser, &block("failed", "5.1.1", "550 5.1.1 <a@b.test>: User unknown"), "");
    expect(UnknownUser, &block("failed", "5.0.0", "550 no such user"), "");
    expect(UnknownUser, &block("failed", "5.1.1", "unknown user: \"a\""), "");
    expect(UnknownUser, &block("failed", "5.1.1", "host mx.test said: 550 no mailbox here"), "");
}

#[test]
fn whatever_did_not_fail_for_good_does_not_count() {
    let words = "550 5.1.1 User unknown";
    expect(Temporary, &block("delayed", "5.1.1", words), "");
    expect(Temporary, &block("failed", "4.1.1", words), "");
    expect(Temporary, &block("failed", "5.1.1", "450 4.1.1 User unknown"), "");
    for action in ["delivered", "relayed", "expanded", "whatever", ""] {
        expect(OtherPermanent, &block(action, "5.1.1", words), "");
    }
    expect(OtherPermanent, &block("failed", "2.1.5", words), "");
}

#[test]
fn a_status_alone_counts_only_if_it_is_5_1_1() {
    expect(UnknownUser, &block("failed", "5.1.1", ""), "");
    let words = |said: &str| {
        format!(
            "The following recipient(s) could not be reached:\n\na@b.test on 3/1/2004\n   {said}"
        )
    };
    expect(UnknownUser, &block("failed", "5.1.1", ""), &words("The account does not exist."));
    expect(OtherPermanent, &block("failed", "5.1.1", ""), &words("550 5.2.2 Mailbox full"));
    expect(OtherPermanent, &block("failed", "5.0.0", ""), "");
    expect(OtherPermanent, &block("failed", "5.1.10", ""), "");
    expect(OtherPermanent, &block("failed", "5.1.1", "550 max message size exceeded"), "");
}

#[test]
fn a_status_that_contradicts_its_diagnostic_does_not_count() {
    expect(OtherPermanent, &block("failed", "5.2.2", "550 User unknown"), "");
    expect(OtherPermanent, &block("failed", "5.7.26", "550 User unknown"), "");
    expect(
        UnknownUser,
        &block("failed", "5.1.10", "550 5.1.10 RESOLVER.ADR.RecipientNotFound; not found"),
        "",
    );
}

#[test]
fn an_address_that_changed_on_the_way_is_not_the_one_to_blame() {
    let fields = block("failed", "5.1.1", "550 5.1.1 User unknown");
    expect(OtherPermanent, &format!("Original-Recipient: rfc822;list@b.test\n{fields}"), "");
    expect(UnknownUser, &format!("Original-Recipient: rfc822;A@b.test\n{fields}"), "");
}

#[test]
fn the_command_named_in_the_words_decides_the_stage() {
    let fields = block("failed", "5.1.1", "550 5.1.1 User unknown");
    let words = |command: &str| {
        format!(
            "<a@b.test>: host mx.b.test[192.0.2.1] said: 550 5.1.1\n    User unknown (in reply to \
             {command} command)"
        )
    };
    expect(UnknownUser, &fields, &words("RCPT TO"));
    for command in ["MAIL FROM", "DATA", "end of DATA"] {
        expect(OtherPermanent, &fields, &words(command));
    }
}

#[test]
fn several_recipients_are_judged_each_by_its_own_block() {
    let fields = "Final-Recipient: rfc822; a@b.test\nAction: failed\nStatus: 5.1.1\n\n\
        Final-Recipient: utf-8; jürgen@b.test\nAction: failed\nStatus: 5.2.2\n\n\
        Final-Recipient: rfc822; @relay.test:c@b.test\nAction: delayed\nStatus: 4.4.1\n";
    assert_eq!(
        class(&report(fields, "")),
        [
            ("a@b.test".to_owned(), UnknownUser),
            ("jürgen@b.test".to_owned(), OtherPermanent),
            ("c@b.test".to_owned(), Temporary),
        ]
    );
}

#[test]
fn notices_in_plain_text_are_read_in_many_forms() {
    let copy = "--- Below this line is a copy of the message.\n\n<z@y.test>:\n550 User unknown";
    for record in include_str!("notices.txt").split("=== ").skip(1) {
        let (expected, words) = record.split_once('\n').unwrap();
        for message in [words.to_owned(), format!("{words}\n{copy}\n")] {
            let found = class(&format!("From: MAILER-DAEMON@x.test\n\n{message}"));
            if expected == "unknown_user" {
                assert_eq!(found, [("a@b.test".to_owned(), UnknownUser)], "{message}");
            } else {
                assert!(found.iter().all(|(_, class)| *class != UnknownUser), "{message}");
            }
        }
    }
}

#[test]
fn what_is_no_notification_has_no_recipients() {
    assert_eq!(classify_dsn(b""), []);
    assert_eq!(classify_dsn(b"\0\xff\r\n\r\n"), []);
    assert_eq!(class("Subject: hi\n\nHow are you? Write to a@b.test: 550 people did.\n"), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_bytes_are_judged_without_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        at in any::<prop::sample::Index>(),
        cut in any::<prop::sample::Index>(),
    ) {
        classify_dsn(&bytes);
        let fields = block("failed", "5.1.1", "550 5.1.1 User unknown");
        let mut damaged = report(&fields, "<a@b.test>: x (in reply to DATA command)").into_bytes();
        damaged.truncate(cut.index(damaged.len()) + 1);
        let at = at.index(damaged.len());
        damaged.splice(at..at, bytes);
        classify_dsn(&damaged);
    }
}
