//! Dialogs with the pure session.

use super::*;
use crate::config::Limits;
use crate::smtp::Address;

fn session() -> Session {
    let site = Site::new("mx1.relay.test", Arc::new(Limits::default()));
    Session::new(Arc::new(site), [192, 0, 2, 1].into())
}

fn facts() -> Facts {
    Facts { now: Instant::now(), buffered: false, writable: true, stopping: false, tls: true }
}

/// What the session answers and wants; a recipient it asks about is accepted.
fn say(session: &mut Session, line: &str, facts: &Facts) -> (String, Step) {
    let mut out = Outbox::default();
    let mut step = session.line(line.as_bytes(), facts, &mut out);
    if let Step::Rcpt(Rcpt { to: Some(address), parameters }) = step {
        let (notify, orcpt) = (parameters.notify, parameters.orcpt);
        step = session.ruled(Ok(Recipient { address, notify, orcpt }), &mut out);
    }
    (String::from_utf8(out.bytes().to_vec()).unwrap(), step)
}

fn envelope(session: &mut Session) {
    for line in ["EHLO c.test", "MAIL FROM:<a@b.test>", "RCPT TO:<u@customer.test>"] {
        assert!(say(session, line, &facts()).0.starts_with("250"), "{line}");
    }
}

#[test]
fn data_gives_the_whole_envelope_and_ends_the_transaction() {
    let mut session = session();
    envelope(&mut session);
    let (_, Step::Data(incoming)) = say(&mut session, "DATA", &facts()) else { panic!("no DATA") };
    let envelope = incoming.into_envelope(7, None);
    assert_eq!(envelope.mail_from, Some(Address::parse("a@b.test", false).unwrap()));
    assert_eq!(envelope.recipients.len(), 1);
    assert_eq!(envelope.origin.helo, "c.test");
    assert_eq!(envelope.origin.received_at_us, 7);
    assert!(say(&mut session, "DATA", &facts()).0.starts_with("503"));
}

#[test]
fn a_recipient_given_twice_is_taken_twice_and_kept_once() {
    let mut session = session();
    for line in [
        "EHLO c.test",
        "MAIL FROM:<a@b.test>",
        "RCPT TO:<u@customer.test> NOTIFY=NEVER",
        "RCPT TO:<u@CUSTOMER.test> NOTIFY=SUCCESS ORCPT=rfc822;x@y.test",
        "RCPT TO:<U@customer.test>",
        "RCPT TO:<u@other.test>",
        "RCPT TO:<u@customer.test>",
    ] {
        assert!(say(&mut session, line, &facts()).0.starts_with("250"), "{line}");
    }
    let (_, Step::Data(incoming)) = say(&mut session, "DATA", &facts()) else { panic!("no DATA") };
    let kept = incoming.into_envelope(7, None).recipients;
    let addresses: Vec<&str> = kept.iter().map(|recipient| recipient.address.as_str()).collect();
    assert_eq!(addresses, ["u@customer.test", "U@customer.test", "u@other.test"]);
    assert_eq!((kept[0].notify, &kept[0].orcpt), (Some(crate::smtp::Notify::NEVER), &None));
}

#[test]
fn nothing_may_lie_behind_a_command_that_ends_its_group() {
    let buffered = Facts { buffered: true, ..facts() };
    for line in ["EHLO c.test", "HELO c.test", "DATA", "STARTTLS"] {
        let mut session = session();
        envelope(&mut session);
        let (reply, step) = say(&mut session, line, &buffered);
        assert_eq!(reply, canned::TALKED_EARLY.line(), "{line}");
        assert!(matches!(step, Step::Close), "{line}");
    }
}

#[test]
fn tls_makes_a_new_session() {
    let mut session = session();
    envelope(&mut session);
    assert!(matches!(say(&mut session, "STARTTLS", &facts()).1, Step::StartTls));
    session.secured(Some("mx-a.relay.test".to_owned()));
    assert_eq!(say(&mut session, "MAIL FROM:<a@b.test>", &facts()).0, canned::NEED_HELO.line());
    envelope(&mut session);
    let (_, Step::Data(incoming)) = say(&mut session, "DATA", &facts()) else { panic!("no DATA") };
    assert!(incoming.trace("mx1", &"x", 0).contains("with ESMTPS id x"));
    assert_eq!(incoming.into_envelope(0, None).origin.mx_name.as_deref(), Some("mx-a.relay.test"));
}

#[test]
fn the_hosts_of_several_recipients_do_not_learn_of_each_other() {
    let mut session = session();
    envelope(&mut session);
    say(&mut session, "RCPT TO:<secret@customer.test>", &facts());
    let (_, Step::Data(incoming)) = say(&mut session, "DATA", &facts()) else { panic!("no DATA") };
    assert!(!incoming.trace("mx1", &"x", 0).contains("customer.test"));
}

#[test]
fn a_stopping_node_finishes_only_what_is_between_two_chunks() {
    let stopping = Facts { stopping: true, ..facts() };
    let mut session = session();
    envelope(&mut session);
    assert!(matches!(say(&mut session, "BDAT 1", &facts()).1, Step::Chunk(_, Some(_))));
    assert!(matches!(say(&mut session, "BDAT 1", &stopping).1, Step::Chunk(_, None)));
    let (reply, step) = say(&mut session, "NOOP", &stopping);
    assert_eq!(reply, canned::STOPPING.line());
    assert!(matches!(step, Step::Close));
}

#[test]
fn every_reply_but_three_has_an_enhanced_code() {
    for line in ["NOOP", "FOO", "VRFY x", "EXPN x", "HELP", "MAIL", "RCPT", "DATA", "RSET", "QUIT"]
    {
        let (reply, _) = say(&mut session(), line, &facts());
        let (class, rest) = (&reply[..1], &reply[4..]);
        assert!(rest.starts_with(&format!("{class}.")), "{line}: {reply}");
    }
}
