//! Transactions replayed without a socket.

use super::*;
use crate::client::testing::{envelope, short};
use crate::smtp::Address;

const PIPELINING: Capabilities = Capabilities {
    pipelining: true,
    size: None,
    eight_bit_mime: false,
    smtputf8: false,
    starttls: false,
    dsn: false,
    enhanced_status_codes: false,
    recipients_max: None,
    transactions_max: None,
};

/// Run a transaction for `count` recipients against `replies` in order; gives what was sent, as
/// steps, and how it ended. Replies that run out are a lost connection.
fn run(
    capabilities: &Capabilities,
    count: u32,
    before: Before,
    replies: &[&str],
) -> (String, Vec<String>, Ending) {
    let names: Vec<String> = (0..count).map(|n| format!("r{n}@example.test")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let envelope = envelope(&names);
    let recipients: Vec<u32> = (0..count).collect();
    let request = Request { envelope: &envelope, recipients: &recipients, octets: 10 };
    let transaction = Transaction::new(request, capabilities, 100, before).unwrap();
    play(transaction, replies)
}

fn play(mut transaction: Transaction<'_>, replies: &[&str]) -> (String, Vec<String>, Ending) {
    let mut replies = replies.iter();
    let mut trace = String::new();
    let mut out = Vec::new();
    loop {
        match transaction.next(&mut out) {
            Step::Done => break,
            Step::Send => {
                let verbs = out.split(|b| *b == b'\n').filter_map(|line| line.get(..4));
                let verbs: Vec<_> = verbs.map(String::from_utf8_lossy).collect();
                trace += &format!("[{}]", verbs.join(" "));
                out.clear();
            }
            Step::SendText => trace += "[text]",
            Step::SendDot => trace += "[dot]",
            Step::Read(_) => match replies.next() {
                Some(line) => {
                    let line = format!("{line}\r\n");
                    transaction
                        .answer(crate::smtp::parse::parse_reply(line.as_bytes()).unwrap().unwrap());
                }
                None => transaction.fail("lost connection"),
            },
        }
    }
    let (responses, ending) = transaction.finish();
    (trace, short(&responses), ending)
}

#[test]
fn with_pipelining_all_commands_leave_together() {
    let (trace, answers, ending) =
        run(&PIPELINING, 2, Before::Fresh, &["250 m", "250 r", "250 r", "354 go", "250 taken"]);
    assert_eq!(trace, "[MAIL RCPT RCPT DATA][text]");
    assert_eq!(answers, ["final-dot 250", "final-dot 250"]);
    assert_eq!(ending, Ending::Clean);
}

#[test]
fn without_pipelining_each_command_waits_for_its_reply() {
    let plain = Capabilities::default();
    let (trace, answers, ending) =
        run(&plain, 2, Before::Fresh, &["250 m", "250 r", "550 no", "354 go", "250 taken"]);
    assert_eq!(trace, "[MAIL][RCPT][RCPT][DATA][text]");
    assert_eq!(answers, ["final-dot 250", "rcpt 550"]);
    assert_eq!(ending, Ending::Clean);
}

#[test]
fn each_recipient_keeps_its_own_refusal() {
    let replies = ["250 m", "550 a", "451 b", "250 c", "354 go", "554 5.7.1 spam"];
    let (_, answers, ending) = run(&PIPELINING, 3, Before::Fresh, &replies);
    assert_eq!(answers, ["rcpt 550", "rcpt 451", "final-dot 554"]);
    assert_eq!(ending, Ending::Clean);
}

#[test]
fn a_refused_sender_is_every_recipients_answer() {
    let replies = ["550 5.1.8 bad sender", "503 no", "503 no", "503 no"];
    let (trace, answers, ending) = run(&PIPELINING, 2, Before::Fresh, &replies);
    assert_eq!(trace, "[MAIL RCPT RCPT DATA]");
    assert_eq!(answers, ["mail 550", "mail 550"]);
    assert_eq!(ending, Ending::Clean);
    let (trace, answers, _) = run(&Capabilities::default(), 2, Before::Fresh, &["451 later"]);
    assert_eq!(trace, "[MAIL]");
    assert_eq!(answers, ["mail 451", "mail 451"]);
}

#[test]
fn a_go_on_for_nobody_is_answered_with_a_lone_dot() {
    let replies = ["250 m", "550 a", "550 b", "354 go", "554 no valid recipients"];
    let (trace, answers, ending) = run(&PIPELINING, 2, Before::Fresh, &replies);
    assert_eq!(trace, "[MAIL RCPT RCPT DATA][dot]");
    assert_eq!(answers, ["rcpt 550", "rcpt 550"]);
    assert_eq!(ending, Ending::Clean);
}

#[test]
fn a_refused_sender_with_a_go_on_gets_the_lone_dot_too() {
    let replies = ["550 s", "503 a", "354 go", "554 nobody"];
    let (trace, answers, ending) = run(&PIPELINING, 1, Before::Fresh, &replies);
    assert_eq!(trace, "[MAIL RCPT DATA][dot]");
    assert_eq!((answers, ending), (vec!["mail 550".to_owned()], Ending::Clean));
}

#[test]
fn no_valid_recipients_only_repeats_the_refusals() {
    let replies = ["250 m", "550 a", "450 b", "554 no valid recipients"];
    let (_, answers, ending) = run(&PIPELINING, 2, Before::Fresh, &replies);
    assert_eq!(answers, ["rcpt 550", "rcpt 450"]);
    assert_eq!(ending, Ending::NeedsReset);
}

#[test]
fn refused_data_is_the_answer_of_the_accepted_ones() {
    let replies = ["250 m", "250 a", "550 b", "451 4.3.0 later"];
    let (_, answers, ending) = run(&PIPELINING, 2, Before::Fresh, &replies);
    assert_eq!(answers, ["data 451", "rcpt 550"]);
    assert_eq!(ending, Ending::NeedsReset);
}

#[test]
fn an_unfinished_transaction_is_reset_along_with_the_next() {
    let replies = ["250 reset", "250 m", "250 r", "354 go", "250 taken"];
    let (trace, answers, ending) = run(&PIPELINING, 1, Before::Unfinished, &replies);
    assert_eq!(trace, "[RSET MAIL RCPT DATA][text]");
    assert_eq!((answers, ending), (vec!["final-dot 250".to_owned()], Ending::Clean));
    let (_, answers, ending) = run(&PIPELINING, 1, Before::Unfinished, &["502 what?"]);
    assert_eq!((answers, ending), (vec!["untried".to_owned()], Ending::Closed));
}

#[test]
fn too_many_recipients_leaves_the_rest_for_another_transaction() {
    let plain = Capabilities::default();
    let replies = ["250 m", "250 a", "452 4.5.3 too many", "354 go", "250 taken"];
    let (trace, answers, _) = run(&plain, 4, Before::Fresh, &replies);
    assert_eq!(trace, "[MAIL][RCPT][RCPT][DATA][text]");
    assert_eq!(answers, ["final-dot 250", "untried", "untried", "untried"]);
    let replies = ["250 m", "250 a", "552 too many recipients", "550 c", "354 go", "250 taken"];
    let (_, answers, _) = run(&PIPELINING, 3, Before::Fresh, &replies);
    assert_eq!(answers, ["final-dot 250", "untried", "rcpt 550"]);
}

#[test]
fn a_full_server_is_not_too_many_recipients() {
    let replies = ["250 m", "250 a", "452 4.3.1 disk full", "354 go", "250 taken"];
    let (_, answers, _) = run(&PIPELINING, 2, Before::Fresh, &replies);
    assert_eq!(answers, ["final-dot 250", "rcpt 452"]);
    // Without anyone accepted, another transaction would fare no better.
    let replies = ["250 m", "452 4.5.3 too many", "503 nobody"];
    let (_, answers, _) = run(&PIPELINING, 1, Before::Fresh, &replies);
    assert_eq!(answers, ["rcpt 452"]);
}

#[test]
fn a_server_with_a_recipient_limit_is_not_asked_for_more() {
    let two = Capabilities { recipients_max: Some(2), ..PIPELINING };
    let replies = ["250 m", "250 a", "250 b", "354 go", "250 taken"];
    let (trace, answers, _) = run(&two, 3, Before::Fresh, &replies);
    assert_eq!(trace, "[MAIL RCPT RCPT DATA][text]");
    assert_eq!(answers, ["final-dot 250", "final-dot 250", "untried"]);
}

#[test]
fn many_recipients_leave_in_batches() {
    let mut replies = vec!["250 ok"; 251];
    replies.extend(["354 go", "250 taken"]);
    let (trace, answers, _) = run(&PIPELINING, 250, Before::Fresh, &replies);
    let batch = |verbs: usize| format!("[{}]", vec!["RCPT"; verbs].join(" "));
    let expected = format!(
        "[MAIL {}{}{} DATA][text]",
        &batch(99)[1..],
        batch(100),
        batch(51).trim_end_matches(']')
    );
    assert_eq!(trace, expected);
    assert!(answers.iter().all(|answer| answer == "final-dot 250"));
}

#[test]
fn a_lost_connection_is_the_answer_of_those_who_have_none() {
    let (_, answers, ending) = run(&PIPELINING, 3, Before::Fresh, &["250 m", "550 a", "250 b"]);
    assert_eq!(answers, ["rcpt 550", "rcpt broken", "rcpt broken"]);
    assert_eq!(ending, Ending::Closed);
    let replies = ["250 m", "250 a", "550 b", "354 go"];
    let (_, answers, ending) = run(&PIPELINING, 2, Before::Fresh, &replies);
    assert_eq!(answers, ["final-dot broken", "rcpt 550"]);
    assert_eq!(ending, Ending::Closed);
}

#[test]
fn a_kept_connection_that_was_closed_meanwhile_tried_nothing() {
    let (_, answers, ending) = run(&PIPELINING, 2, Before::Kept, &[]);
    assert_eq!(answers, ["untried", "untried"]);
    assert_eq!(ending, Ending::Closed);
    let (_, answers, _) = run(&PIPELINING, 1, Before::Kept, &["421 4.4.2 idle too long"]);
    assert_eq!(answers, ["untried"]);
    let (_, answers, _) = run(&PIPELINING, 1, Before::Fresh, &["421 4.3.2 going down"]);
    assert_eq!(answers, ["mail 421"]);
}

#[test]
fn the_server_that_closes_midway_is_believed() {
    let replies = ["250 m", "550 a", "250 b", "421 4.7.0 enough"];
    let (_, answers, ending) = run(&PIPELINING, 3, Before::Fresh, &replies);
    assert_eq!(answers, ["rcpt 550", "rcpt 421", "rcpt 421"]);
    assert_eq!(ending, Ending::Closed);
    let replies = ["250 m", "250 a", "354 go", "421 4.3.0 out"];
    let (_, answers, ending) = run(&PIPELINING, 1, Before::Kept, &replies);
    assert_eq!((answers, ending), (vec!["final-dot 421".to_owned()], Ending::Closed));
}

#[test]
fn a_positive_answer_to_data_is_no_dialog() {
    let (_, answers, ending) = run(&PIPELINING, 1, Before::Kept, &["250 m", "250 a", "250 what"]);
    assert_eq!((answers, ending), (vec!["data broken".to_owned()], Ending::Closed));
}

#[test]
fn a_question_ends_with_rcpt_and_its_reply_is_the_answer() {
    let nobody = Address::parse("nobody@example.test", false).unwrap();
    let envelope = Envelope::question(&nobody);
    let request = Request { envelope: &envelope, recipients: &[0], octets: 0 };
    let ask = |capabilities: &Capabilities, before, replies: &[&str]| {
        let question = Transaction::question(request, capabilities, 100, before).unwrap();
        let (trace, answers, ending) = play(question, replies);
        (trace, answers.concat(), ending)
    };
    let fresh = ask(&PIPELINING, Before::Fresh, &["250 ok", "550 no"]);
    assert_eq!(fresh, ("[MAIL RCPT]".into(), "rcpt 550".into(), Ending::NeedsReset));
    let kept = ask(&PIPELINING, Before::Unfinished, &["250 ok", "250 ok", "250 ok"]);
    assert_eq!(kept, ("[RSET MAIL RCPT]".into(), "rcpt 250".into(), Ending::NeedsReset));
    let slow = ask(&Capabilities::default(), Before::Fresh, &["250 ok", "452 too many"]);
    assert_eq!(slow, ("[MAIL][RCPT]".into(), "rcpt 452".into(), Ending::NeedsReset));
    let refused = ask(&PIPELINING, Before::Fresh, &["550 no bounces here", "503 what"]);
    assert_eq!(refused, ("[MAIL RCPT]".into(), "mail 550".into(), Ending::Clean));
    let gone = ask(&PIPELINING, Before::Unfinished, &[]);
    assert_eq!(gone, ("[RSET MAIL RCPT]".into(), "untried".into(), Ending::Closed));
}

#[test]
fn a_server_that_refuses_many_is_not_asked_for_all_of_them() {
    let names: Vec<String> = (0..40).map(|n| format!("r{n}@example.test")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let envelope = envelope(&names);
    let recipients: Vec<u32> = (0..40).collect();
    let request = Request { envelope: &envelope, recipients: &recipients, octets: 10 };
    let offer = |was_refused, replies: &[&str]| {
        let transaction = Transaction::new(request, &PIPELINING, 100, Before::Fresh).unwrap();
        let (trace, answers, ending) = play(transaction.cautious(4, was_refused), replies);
        let untried = answers.iter().filter(|answer| *answer == "untried").count();
        (trace.matches("RCPT").count(), trace.matches("DATA").count(), untried, ending)
    };
    let nobody = ["250 ok", "550 no", "550 no", "550 no", "550 no"];
    assert_eq!(offer(false, &nobody), (4, 0, 36, Ending::NeedsReset));
    // Three of four are known: seven are asked for next, and of these too many are not.
    let some = ["250 ok", "250 ok", "250 ok", "550 no", "250 ok"];
    let more = ["550 no", "550 no", "250 ok", "550 no", "550 no", "250 ok"];
    let data = ["354 go", "250 taken"];
    let replies = [&some[..], &more, &data].concat();
    assert_eq!(offer(false, &replies), (10, 1, 30, Ending::Clean));
    // All are known, in groups that grow; DATA comes with the last, or when that is answered.
    let all: Vec<&str> = ["250 ok"; 41].into_iter().chain(data).collect();
    assert_eq!(offer(false, &all), (40, 1, 0, Ending::Clean));
    assert_eq!(offer(true, &all), (40, 1, 0, Ending::Clean));
}

#[test]
fn data_is_held_back_where_somebody_was_refused() {
    let envelope = envelope(&["r@example.test"]);
    let request = Request { envelope: &envelope, recipients: &[0], octets: 10 };
    let offer = |was_refused, replies: &[&str]| {
        let transaction = Transaction::new(request, &PIPELINING, 100, Before::Fresh).unwrap();
        play(transaction.cautious(4, was_refused), replies).0
    };
    assert_eq!(offer(false, &["250 ok", "550 no", "554 nobody"]), "[MAIL RCPT DATA]");
    assert_eq!(offer(true, &["250 ok", "550 no"]), "[MAIL RCPT]");
    assert_eq!(offer(true, &["250 ok", "250 ok", "354 go", "250 ok"]), "[MAIL RCPT][DATA][text]");
}
