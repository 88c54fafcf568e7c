//! The desk, and what an answer says of a recipient. Real servers are asked in `tests/callout.rs`.

use std::time::{Duration, Instant};

use super::desk::{Desk, Ticket};
use super::{Finding, asker};
use crate::client::{Response, Stage};
use crate::smtp::{Address, Enhanced, Reply};

fn recipient(n: usize) -> Address {
    Address::parse(&format!("u{n}@acme.test"), false).unwrap()
}

fn ask(desk: &mut Desk, n: usize, now: Instant) -> Ticket {
    desk.take_in(&recipient(n), recipient(n).to_string(), now)
}

#[test]
fn a_name_is_asked_for_once_whoever_wants_to_know() {
    let (mut desk, now) = (Desk::new(2, 10), Instant::now());
    let Ticket::Waits { answer: mut first, start: true } = ask(&mut desk, 1, now) else { panic!() };
    let Ticket::Waits { answer: mut again, start: false } = ask(&mut desk, 1, now) else {
        panic!()
    };
    let (key, _) = desk.next("acme.test").unwrap();
    assert!(desk.next("acme.test").is_none());
    desk.answer("acme.test", &key, Finding::Unknown);
    assert_eq!((first.try_recv(), again.try_recv()), (Ok(Finding::Unknown), Ok(Finding::Unknown)));
    assert!(desk.may_leave("acme.test", now));
}

#[test]
fn a_domain_has_few_askers_and_a_bounded_line() {
    let (mut desk, now) = (Desk::new(2, 5), Instant::now());
    let tickets: Vec<_> = (0..7).map(|n| ask(&mut desk, n, now)).collect();
    let started = tickets.iter().filter(|t| matches!(t, Ticket::Waits { start: true, .. }));
    assert_eq!(started.count(), 2);
    assert!(tickets[5..].iter().all(|ticket| matches!(ticket, Ticket::Full)));
    assert!(!desk.may_leave("acme.test", now), "there is more to ask");
    // Nobody waits for the first three any more.
    let mut tickets = tickets;
    tickets.drain(..3);
    assert_eq!(desk.next("acme.test").unwrap().0, "u3@acme.test");
}

#[test]
fn an_asker_that_waits_is_woken_instead_of_another_one_started() {
    let (mut desk, now) = (Desk::new(2, 5), Instant::now());
    let _first = ask(&mut desk, 0, now);
    let (key, _) = desk.next("acme.test").unwrap();
    desk.answer("acme.test", &key, Finding::Known);
    let _more = desk.wait("acme.test").unwrap();
    assert!(matches!(ask(&mut desk, 1, now), Ticket::Waits { start: false, .. }));
    desk.go_on("acme.test");
    assert!(!desk.may_leave("acme.test", now), "it was about to leave");
}

#[test]
fn a_silent_server_is_left_alone_for_a_while() {
    let (mut desk, now) = (Desk::new(2, 5), Instant::now());
    let Ticket::Waits { mut answer, .. } = ask(&mut desk, 0, now) else { panic!() };
    desk.is_silent("acme.test", now + Duration::from_secs(9));
    assert_eq!(answer.try_recv(), Ok(Finding::Down));
    assert!(desk.may_leave("acme.test", now));
    assert!(matches!(ask(&mut desk, 1, now + Duration::from_secs(8)), Ticket::Silent));
    let later = ask(&mut desk, 1, now + Duration::from_secs(9));
    assert!(matches!(later, Ticket::Waits { start: true, .. }));
}

#[test]
fn only_the_words_for_an_unknown_user_are_a_no() {
    let judged = |stage, code, enhanced, text: &str| {
        let reply = Reply { code, enhanced, lines: vec![text.to_owned()] };
        asker::judge(&Response::reply(stage, reply))
    };
    let unknown = Some(Enhanced(5, 1, 1));
    let rcpt = Stage::Rcpt;
    assert_eq!(judged(rcpt, 250, None, "ok"), Finding::Known);
    assert_eq!(judged(rcpt, 550, unknown, "User unknown"), Finding::Unknown);
    assert_eq!(judged(rcpt, 550, Some(Enhanced(5, 7, 1)), "blocked"), Finding::Vague);
    assert_eq!(judged(rcpt, 550, None, "no bounces for this user"), Finding::Vague);
    assert_eq!(judged(rcpt, 450, Some(Enhanced(4, 2, 0)), "greylisted"), Finding::Vague);
    assert_eq!(judged(rcpt, 421, None, "bye"), Finding::Down);
    assert_eq!(judged(Stage::Mail, 550, unknown, "User unknown"), Finding::Down);
    let unfit = Response::unfit(Stage::Mail, Enhanced(5, 6, 7), "no SMTPUTF8");
    assert_eq!(asker::judge(&unfit), Finding::Vague);
    assert_eq!(asker::judge(&Response::broken(rcpt, "lost")), Finding::Down);
}
