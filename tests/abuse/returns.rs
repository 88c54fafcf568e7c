//! What comes back: hostile replies of a customer's server, and parameters about reports.

use super::support::sink::{Act, Sink, Step};
use super::{CONTROL, Relay, Setup, USER, assert_in_step};

fn refusing(reply: &'static [u8]) -> Relay {
    let sink = Sink::scripted(move |step| match step {
        Step::Rcpt(to) if to.contains("victim") => Act::Raw(reply.to_vec()),
        _ => Act::Usual,
    });
    Relay::with(&Setup::default(), sink)
}

/// Replies that try to write into a log, a terminal or a report.
const HOSTILE: &[&[u8]] = &[
    b"550 5.1.1 no\0body\r\n",
    b"550 5.1.1 \x1b[2J\x1b]0;owned\x07 nobody\r\n",
    b"550-5.1.1 first\r\n550 5.1.1 X-Injected: yes\r\n",
    b"550 5.1.1 nobody\rX-Injected: yes\r\n",
    b"550 5.1.1 \xff\xfe\xc3\x28 nobody\r\n",
];

#[test]
fn a_hostile_refusal_can_not_write_lines_or_control_characters() {
    for reply in HOSTILE {
        let relay = refusing(reply);
        let to = ["victim@customer.test"];
        assert_eq!(relay.client().deliver("s@client.test", &to, CONTROL.as_bytes()).code, 250);
        relay.node.await_log("victim");
        let log = std::fs::read(relay.node.delivery_log()).unwrap();
        let log = String::from_utf8(log).expect("the log is UTF-8");
        assert!(!log.lines().any(|line| line.starts_with("X-Injected")), "{log:?}");
        assert!(log.lines().all(|line| !line.chars().any(char::is_control)), "{log:?}");
    }
}

#[test]
fn an_endless_reply_is_cut_and_takes_no_memory() {
    let endless: &'static [u8] = Box::leak(vec![b'5'; 4 << 20].into_boxed_slice());
    let mut relay = refusing(endless);
    let to = ["victim@customer.test"];
    assert_eq!(relay.client().deliver("s@client.test", &to, CONTROL.as_bytes()).code, 250);
    relay.node.await_log("victim");
    let log = std::fs::read_to_string(relay.node.delivery_log()).unwrap();
    assert!(log.lines().all(|line| line.len() <= 4096), "a bounded line");
    assert!(relay.node.process().is_running());
    assert_eq!(relay.node.queued(), 1, "what can not be read is no refusal: it is tried again");
}

#[test]
fn a_long_refusal_is_shortened() {
    let long: &'static [u8] =
        Box::leak(format!("550 5.1.1 {}\r\n", "z".repeat(2000)).into_bytes().into_boxed_slice());
    let relay = refusing(long);
    let to = ["victim@customer.test"];
    assert_eq!(relay.client().deliver("s@client.test", &to, CONTROL.as_bytes()).code, 250);
    relay.node.await_log("victim");
    let log = std::fs::read_to_string(relay.node.delivery_log()).unwrap();
    assert!(log.lines().all(|line| line.len() <= 1500), "a bounded line");
}

#[test]
fn a_message_with_the_null_sender_is_never_returned() {
    let relay = refusing(b"550 5.1.1 nobody\r\n");
    let to = ["victim@customer.test"];
    assert_eq!(relay.client().deliver("", &to, CONTROL.as_bytes()).code, 250);
    relay.assert_nothing_arrives();
}

#[test]
fn a_recipient_refused_at_rcpt_is_not_returned_later() {
    let relay = Relay::start();
    let mut client = relay.client();
    // The sender's domain is served here, so that a return would arrive at the sink.
    client.envelope("author@customer.test", &["u@other.test", USER]);
    client.command("DATA");
    client.send(format!("{CONTROL}.\r\n").as_bytes());
    assert_eq!(client.reply().code, 250);
    let received = relay.settled();
    assert_eq!(received.len(), 1, "the message, and no report");
    assert_eq!(received[0].from(), "author@customer.test");
}

#[test]
fn report_parameters_stay_encoded_all_the_way() {
    let relay = Relay::start();
    let mut client = relay.client();
    for (mail, rcpt) in [
        ("ENVID=QQ+0D+0A314159", "ORCPT=rfc822;a+0D+0AX-Injected:+20yes@other.test"),
        ("ENVID=ok RET=HDRS", "NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+2Bb@other.test"),
    ] {
        let mail = client.command(&format!("MAIL FROM:<s@client.test> {mail}"));
        let rcpt = client.command(&format!("RCPT TO:<{USER}> {rcpt}"));
        if mail.code == 250 && rcpt.code == 250 {
            client.command("DATA");
            client.send(format!("{CONTROL}.\r\n").as_bytes());
            assert_eq!(client.reply().code, 250);
        } else {
            assert!([501, 503].contains(&rcpt.code), "{mail:?} {rcpt:?}");
            client.command("RSET");
        }
    }
    for bad in ["ENVID=a+0", "ENVID=a+zz", "ENVID=", "ENVID=a=b"] {
        let reply = client.command(&format!("MAIL FROM:<s@client.test> {bad}"));
        assert_eq!(reply.code, 501, "{bad}: {reply:?}");
    }
    assert_in_step(&mut client);
    let received = relay.settled();
    let carried = received.last().unwrap();
    assert!(carried.mail.contains("ENVID=ok") && carried.mail.contains("RET=HDRS"), "{carried:?}");
    let rcpt = &carried.rcpt[0];
    assert!(rcpt.contains("NOTIFY=SUCCESS,DELAY"), "{rcpt}");
    assert!(rcpt.contains("ORCPT=rfc822;a+2Bb@other.test"), "{rcpt}");
    for received in &received {
        let words = [received.mail.as_str(), received.rcpt[0].as_str()].concat();
        assert!(!words.contains(['\r', '\n']), "{words:?}");
    }
}
