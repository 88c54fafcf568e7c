//! Servers that take everything and report later: their reports come to return paths of ours, and
//! count once, if they are genuine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use support::dns::{NameServer, Software};
use support::node::{Node, Setup};
use support::postfix::Postfix;
use support::sink::{Received, Sink};
use support::{Dice, SOON, eventually};

const ALLOWED: &str = "@ TXT \"v=spf1 ip4:127.0.0.1 -all\"";
const TEXT: &str = "From: <x@acme.test>\r\nSubject: a question\r\nMessage-ID: <1@acme.test>\r\n\r\n\
                    the body\r\n";

/// acme.test writes, bravo.test takes everything and has return paths of ours.
struct World {
    node: Node,
    writers: Sink,
    taker: Sink,
    _names: NameServer,
}

impl World {
    fn new() -> Self {
        let (writers, taker) = (Sink::start(), Sink::start());
        let names = NameServer::start(Software::Bind, &[("acme.test", ALLOWED)]);
        let node = Node::with(&Setup { dns: Some(names.address()), ..Setup::default() });
        node.serve("acme.test", &writers.route());
        node.serve("bravo.test", &taker.route());
        node.admin(&["domain", "set", "bravo.test", "--return-path", "tagged"]);
        Self { node, writers, taker, _names: names }
    }

    /// What the server of bravo.test got of a message to one recipient.
    fn taken(&self, from: &str, to: &str) -> Received {
        let before = self.taker.count();
        let reply = self.node.client().deliver(from, &[to], TEXT.as_bytes());
        assert_eq!(reply.code, 250, "{reply:?}");
        self.taker.await_count(before + 1, SOON).pop().unwrap()
    }

    /// That server reports; the answer to the final dot, or to what was refused before.
    fn report(&self, path: &str, text: &str) -> u16 {
        let code = self.node.client().deliver("", &[path], text.as_bytes()).code;
        self.node.await_empty_queue(SOON);
        code
    }

    fn rejections(&self, address: &str) -> usize {
        let shown = self.node.json(&["blacklist", "show", address]);
        shown["rejections"].as_array().map_or(0, Vec::len)
    }

    /// Wait until the fleet has counted so many rejections of an address.
    fn await_rejections(&self, address: &str, count: usize) {
        eventually("rejections", SOON, || self.rejections(address) == count);
    }

    /// Rejections that this node has to tell the fleet of, in all. Known when the queue is empty.
    fn events(&self) -> f64 {
        self.node.metric("mxfleet_blacklist_events_total{kind=\"rejected\"}")
    }

    /// What the journal says of messages from this return path: `outcome because`.
    fn journal(&self, path: &str) -> Vec<String> {
        journal(&self.node, "--from", path)
    }
}

fn journal(node: &Node, by: &str, address: &str) -> Vec<String> {
    let lines = node.json(&["journal", "search", by, address]);
    let words = |line: &Value| {
        let because = line["because"].as_str().unwrap_or("-");
        format!("{} {because}", line["outcome"].as_str().unwrap())
    };
    lines.as_array().unwrap().iter().map(words).collect()
}

/// A report as many servers write it.
fn unknown(recipient: &str) -> String {
    report_of(recipient, "failed", "5.1.1", "550 5.1.1 User unknown")
}

fn report_of(recipient: &str, action: &str, status: &str, said: &str) -> String {
    format!(
        "From: MAILER-DAEMON@mail.bravo.test\r\nSubject: Undelivered\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n\
         --b\r\nContent-Type: text/plain\r\n\r\nIt failed.\r\n\
         --b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; bravo.test\r\n\r\n\
         Final-Recipient: rfc822; {recipient}\r\nAction: {action}\r\nStatus: {status}\r\n\
         Diagnostic-Code: smtp; {said}\r\n\r\n--b--\r\n"
    )
}

#[test]
fn only_a_domain_that_wants_it_has_return_paths_of_ours() {
    let world = World::new();
    let relayed = world.taken("someone@client.test", "user@bravo.test");
    let (local_part, domain) = relayed.from().split_once('@').unwrap();
    assert!(local_part.starts_with("rp-") && local_part.len() <= 64, "{local_part}");
    assert_eq!(domain, "mx1.relay.example");
    assert_eq!(relayed.original(), TEXT.as_bytes(), "nothing else has changed");
    assert_eq!(world.taken("", "user@bravo.test").from(), "", "the null sender stays");
    let shown = world.node.json(&["domain", "show", "bravo.test"]);
    assert_eq!(shown["return_path"], "tagged");

    let to = ["a@bravo.test", "b@bravo.test", "c@bravo.test"];
    let before = world.taker.count();
    world.node.client().deliver("someone@client.test", &to, TEXT.as_bytes());
    let copies = world.taker.await_count(before + 3, SOON).split_off(before);
    let paths: BTreeSet<&str> = copies.iter().map(Received::from).collect();
    let mut reached: Vec<&str> = copies.iter().flat_map(|copy| copy.to()).collect();
    reached.sort_unstable();
    assert_eq!((paths.len(), reached), (3, to.to_vec()), "one for each recipient");

    world.node.admin(&["domain", "set", "bravo.test", "--return-path", "plain"]);
    assert_eq!(world.taken("someone@client.test", "user@bravo.test").from(), "someone@client.test");
    assert_eq!(world.report(relayed.from(), &unknown("user@bravo.test")), 250, "it is still good");
    world.await_rejections("user@bravo.test", 1);
    let bad = world.node.try_admin(&["domain", "set", "none.test", "--return-path", "tagged"]);
    assert_eq!(bad.status.code(), Some(1));
}

#[test]
fn a_genuine_report_counts_once_and_others_count_for_nothing() {
    let world = World::new();
    let path = world.taken("someone@client.test", "jane@bravo.test").from().to_owned();
    for (text, line) in [
        (unknown("john@bravo.test"), "forged other_recipient"),
        (unknown("jane@acme.test"), "forged other_recipient"),
        ("Subject: hello\r\n\r\nnot a report\r\n".to_owned(), "forged not_a_report"),
        ("\0\u{1}\r\n\r\n".replace('\0', "\u{7f}"), "forged not_a_report"),
    ] {
        assert_eq!(world.report(&path, &text), 250);
        assert_eq!(world.journal(&path).pop().as_deref(), Some(line), "{text}");
    }
    let late = report_of("jane@bravo.test", "delayed", "4.2.2", "452 4.2.2 full");
    let fine = report_of("jane@bravo.test", "delivered", "2.0.0", "250 2.0.0 ok");
    for text in [late, fine] {
        assert_eq!(world.report(&path, &text), 250);
    }
    assert_eq!(world.journal(&path).len(), 4, "those that tell of no failure are no news");
    assert_eq!(world.events(), 0.0);

    assert_eq!(world.report(&path.to_uppercase(), &unknown("Jane@bravo.test")), 250);
    world.await_rejections("jane@bravo.test", 1);
    let upper = world.journal(&path.to_uppercase()).pop();
    assert_eq!(upper.as_deref(), Some("suppressed not_a_customer"));
    assert_eq!(world.report(&path, &unknown("jane@bravo.test")), 250);
    assert_eq!(world.journal(&path).pop().as_deref(), Some("forged seen_before"));
    assert_eq!(world.events(), 1.0);

    // Another reason is no rejection.
    let path = world.taken("someone@client.test", "full@bravo.test").from().to_owned();
    let full = report_of("full@bravo.test", "failed", "5.2.2", "552 5.2.2 mailbox full");
    assert_eq!(world.report(&path, &full), 250);
    assert_eq!(world.events(), 1.0);
    assert_eq!(world.journal(&path), ["suppressed not_a_customer"]);
    let series =
        |result| world.node.metric(&format!("mxfleet_returns_total{{result=\"{result}\"}}"));
    let counted = ["unknown_user", "other_permanent", "no_failure", "seen_before"].map(series);
    assert_eq!(counted, [1.0, 1.0, 2.0, 1.0]);
}

#[test]
fn a_return_path_that_is_not_good_is_refused_at_rcpt_and_written_down() {
    let world = World::new();
    let path = world.taken("someone@client.test", "jane@bravo.test").from().to_owned();
    let (local_part, domain) = path.split_once('@').unwrap();
    let flipped = if local_part.ends_with('a') { "b" } else { "a" };
    let forged = format!("{}{flipped}@{domain}", &local_part[..local_part.len() - 1]);
    let mut client = world.node.client();
    client.command("MAIL FROM:<>");
    for bad in [&*forged, "rp-@mx1.relay.example", "rp-aaaa@mx1.relay.example"] {
        let reply = client.command(&format!("RCPT TO:<{bad}>"));
        assert!(reply.is(550, "5.7.1") && reply.text.contains("not signed by us"), "{reply:?}");
        assert_eq!(journal(&world.node, "--to", bad), ["forged wrong_signature"]);
    }
    let other = client.command("RCPT TO:<someone@mx1.relay.example>");
    assert!(other.text.contains("relaying denied"), "{other:?}");
    client.command("RSET");
    client.command("MAIL FROM:<someone@client.test>");
    let reply = client.command(&format!("RCPT TO:<{path}>"));
    assert!(reply.is(550, "5.7.1") && reply.text.contains("null sender"), "{reply:?}");
    assert_eq!(journal(&world.node, "--to", &path), ["forged not_from_null_sender"]);
    let explained = world.node.json(&["explain", "rcpt", &path]);
    assert_eq!(explained["accepted"], true, "{explained}");

    world.node.admin(&["settings", "set", "return_path.lifetime", "1s"]);
    let path = world.taken("someone@client.test", "jane@bravo.test").from().to_owned();
    eventually("it to expire", SOON, || {
        client.command("RSET");
        client.command("MAIL FROM:<>");
        let reply = client.command(&format!("RCPT TO:<{path}>"));
        reply.is(550, "5.7.1") && reply.text.contains("expired")
    });
    assert_eq!(journal(&world.node, "--to", &path), ["forged expired"]);
    assert_eq!(world.events(), 0.0);
}

#[test]
fn a_customers_own_sender_is_told_of_what_came_back() {
    let world = World::new();
    let path = world.taken("boss@acme.test", "jane@bravo.test").from().to_owned();
    assert!(path.starts_with("rp-"), "{path}");
    assert_eq!(world.report(&path, &unknown("jane@bravo.test")), 250);
    let report = world.writers.await_count(1, SOON).remove(0);
    assert_eq!((report.from(), report.to()), ("", vec!["boss@acme.test"]));
    let text = String::from_utf8(report.text).unwrap();
    for part in [
        "Final-Recipient: rfc822; jane@bravo.test\r\nAction: failed\r\nStatus: 5.1.1\r\n",
        "Diagnostic-Code: smtp; 550 5.1.1 User unknown\r\n",
        "Subject: a question\r\nMessage-ID: <1@acme.test>\r\n",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(!text.contains("rp-"), "what signs a return path is not shown around");
    assert_eq!(journal(&world.node, "--from", "boss@acme.test"), ["returned -"]);
    world.await_rejections("jane@bravo.test", 1);
    world.report(&path, &unknown("jane@bravo.test"));
    assert_eq!(world.writers.count(), 1);

    // Who wants to hear of success hears of it from that server itself.
    let mut client = world.node.client();
    client.command("MAIL FROM:<boss@acme.test>");
    client.command("RCPT TO:<jane@bravo.test> NOTIFY=SUCCESS,FAILURE");
    client.command("DATA");
    client.send(format!("{TEXT}.\r\n").as_bytes());
    assert_eq!(client.reply().code, 250);
    assert_eq!(world.taker.await_count(2, SOON)[1].from(), "boss@acme.test");
}

#[test]
fn ten_reports_list_a_recipient_although_all_its_mail_was_taken() {
    let world = World::new();
    for number in 1..=10 {
        let path = world.taken("someone@client.test", "jane@bravo.test").from().to_owned();
        assert_eq!(world.report(&path, &unknown("jane@bravo.test")), 250);
        world.await_rejections("jane@bravo.test", number);
    }
    let mut client = world.node.client();
    client.command("MAIL FROM:<someone@client.test>");
    let reply = client.command("RCPT TO:<jane@bravo.test>");
    assert_eq!(reply.line(), "550 5.7.1 <jane@bravo.test>... too many failures for this recipient");
}

/// Lives that end while reports come back.
const KILLS: usize = 10;

#[test]
fn a_real_postfix_that_takes_all_and_kills_meanwhile_count_each_recipient_once() {
    let mut node = Node::with(&Setup {
        limits: vec![("segment_octets", "1048576".into()), ("disk_reserve_octets", "1".into())],
        ..Setup::default()
    });
    let postfix = Postfix::that_takes_all("bravo.test", &["user"], node.smtp());
    node.serve("bravo.test", &postfix.address().to_string());
    node.admin(&["domain", "set", "bravo.test", "--return-path", "tagged"]);
    let mut dice = Dice::new(11);
    for round in 0..KILLS {
        let mut client = node.client();
        for number in 0..5 {
            let to = format!("r{round}n{number}@bravo.test");
            let reply =
                client.deliver("someone@client.test", &[&to, "user@bravo.test"], TEXT.as_bytes());
            assert_eq!(reply.code, 250, "{reply:?}");
        }
        // The moment of the kill is the random part of the test.
        std::thread::sleep(Duration::from_millis(50 + dice.roll() % 500));
        node.kill();
        node.restart();
    }
    let counted = |number: usize| {
        let address = format!("r{}n{}@bravo.test", number / 5, number % 5);
        let shown = node.json(&["blacklist", "show", &address]);
        shown["rejections"].as_array().map_or(0, Vec::len)
    };
    eventually("all reports", Duration::from_secs(120), || {
        (0..KILLS * 5).all(|number| counted(number) > 0)
    });
    node.await_empty_queue(SOON);
    for number in 0..KILLS * 5 {
        assert_eq!(counted(number), 1, "recipient {number}");
    }
    assert!(postfix.mailbox().count() >= KILLS * 5, "good mail arrives");
    assert!(postfix.log().contains("to=<rp-"), "it did report");
}
