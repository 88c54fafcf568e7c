//! Who is told of failures, with real parts: Postfix as the customer's server that refuses, BIND
//! with the senders' records, and Python's own parser to read what was written.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use support::dkim::Signer;
use support::dns::{NameServer, Software};
use support::node::{Node, Setup};
use support::postfix::Postfix;
use support::process::attempt_with;
use support::sink::{Received, Sink};
use support::{Dice, SOON, eventually};

const ALLOWED: &str = "@ TXT \"v=spf1 ip4:127.0.0.1 -all\"";
const DENIED: &str = "@ TXT \"v=spf1 -all\"";

const TEXT: &str = "From: Boss <boss@acme.test>\r\nTo: <x@bravo.test>\r\nSubject: a question\r\n\
    Date: Mon, 24 Nov 2025 16:00:01 +0000\r\nMessage-ID: <1@acme.test>\r\n\r\nthe body\r\n";

/// Customers who write: acme.test (SPF), signed.test (DKIM only), closed.test (SPF says no). One
/// whose Postfix knows only `user`: bravo.test. A stranger with records: stranger.test.
struct World {
    node: Node,
    /// Where mail for those who write goes.
    writers: Sink,
    postfix: Postfix,
    signer: Signer,
    _names: NameServer,
}

impl World {
    fn new() -> Self {
        Self::with(&Setup::default())
    }

    fn with(setup: &Setup) -> Self {
        let (writers, signer) = (Sink::start(), Signer::new());
        let exchanger = format!("@ MX 10 mail\nmail A 127.0.0.1\n{ALLOWED}");
        let zones = [
            ("acme.test", ALLOWED),
            ("signed.test", &*signer.record()),
            ("closed.test", DENIED),
            ("stranger.test", &*exchanger),
        ];
        let names = NameServer::start(Software::Bind, &zones);
        let mx_port = writers.route().rsplit(':').next().unwrap().parse().unwrap();
        let (dns, mx_port) = (Some(names.address()), Some(mx_port));
        let node = Node::with(&Setup { dns, mx_port, ..setup.clone() });
        for domain in ["acme.test", "signed.test", "closed.test"] {
            node.serve(domain, &writers.route());
        }
        let postfix = Postfix::start("bravo.test", &["user"]);
        node.serve("bravo.test", &postfix.address().to_string());
        Self { node, writers, postfix, signer, _names: names }
    }

    fn send(&self, from: &str, to: &[&str], text: &str) {
        let reply = self.node.client().deliver(from, to, text.as_bytes());
        assert_eq!(reply.code, 250, "{reply:?}");
    }

    /// The journal's lines of mail from this sender, each `outcome because`.
    fn journal(&self, from: &str) -> Vec<String> {
        let lines = self.node.json(&["journal", "search", "--from", from, "--limit", "1000"]);
        let words = |line: &Value| {
            format!(
                "{} {}",
                line["outcome"].as_str().unwrap(),
                line["because"].as_str().unwrap_or("-")
            )
        };
        lines.as_array().unwrap().iter().map(words).collect()
    }
}

/// A report as Python's parser reads it.
fn parsed(report: &Received) -> Value {
    const SCRIPT: &str = r#"
import email, email.policy, json, sys
m = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.SMTP)
def defects(part):
    yield from (str(d) for d in part.defects)
    if part.is_multipart():
        for inner in part.get_payload():
            yield from defects(inner)
parts = m.get_payload()
blocks = [dict(b.items()) for b in parts[1].get_payload()]
returned = parts[2]
if returned.get_content_type() == "message/rfc822":
    returned = returned.get_payload(0)
    header = dict(returned.items())
    body = returned.get_payload()
else:
    header, body = dict(email.message_from_string(returned.get_payload()).items()), None
print(json.dumps({
    "type": m.get_content_type(), "report": m.get_param("report-type"),
    "to": m["To"], "from": m["From"], "auto": m["Auto-Submitted"], "id": m["Message-ID"],
    "date": str(m["Date"].datetime), "parts": [p.get_content_type() for p in parts],
    "words": parts[0].get_content(), "message": blocks[0], "recipients": blocks[1:],
    "header": header, "body": body, "defects": list(defects(m)),
}))
"#;
    let words = ["python3", "-c", SCRIPT].map(str::to_owned);
    let done = attempt_with(&words, &String::from_utf8(report.text.clone()).unwrap());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

fn recipients(report: &Value) -> Vec<&str> {
    let blocks = report["recipients"].as_array().unwrap();
    blocks.iter().map(|block| block["Final-Recipient"].as_str().unwrap()).collect()
}

#[test]
fn a_customers_own_sender_gets_one_report_and_another_parser_reads_it() {
    let world = World::new();
    let to = ["nobody@bravo.test", "user@bravo.test", "missing@bravo.test"];
    let mut client = world.node.client();
    client.command("MAIL FROM:<boss@acme.test> ENVID=id+2B1 RET=FULL");
    for address in to {
        client.command(&format!("RCPT TO:<{address}> ORCPT=rfc822;o+2B{address}"));
    }
    client.command("DATA");
    client.send(format!("{TEXT}.\r\n").as_bytes());
    assert_eq!(client.reply().code, 250);
    let report = world.writers.await_count(1, SOON).remove(0);
    assert!(report.mail.starts_with("<>"), "{report:?}");
    assert_eq!(report.to(), ["boss@acme.test"]);
    assert!(report.rcpt[0].contains("NOTIFY=NEVER"), "{report:?}");
    let read = parsed(&report);
    for (field, expected) in [
        ("type", "multipart/report"),
        ("report", "delivery-status"),
        ("to", "boss@acme.test"),
        ("auto", "auto-replied"),
    ] {
        assert!(read[field].as_str().unwrap().contains(expected), "{field}: {read}");
    }
    assert_eq!(read["defects"], serde_json::json!([]), "{read}");
    let parts = ["text/plain", "message/delivery-status", "message/rfc822"];
    assert_eq!(read["parts"], serde_json::json!(parts));
    let message = &read["message"];
    assert_eq!(message["Reporting-MTA"], "dns; mx1.relay.example");
    assert_eq!(message["Original-Envelope-Id"], "id+1");
    assert_eq!(recipients(&read), ["rfc822; nobody@bravo.test", "rfc822; missing@bravo.test"]);
    let first = &read["recipients"][0];
    assert_eq!(first["Original-Recipient"], "rfc822; o+nobody@bravo.test");
    assert_eq!((&first["Action"], &first["Status"]), (&"failed".into(), &"5.1.1".into()));
    let said = first["Diagnostic-Code"].as_str().unwrap();
    assert!(said.starts_with("smtp; 550 5.1.1 <nobody@bravo.test>: Recipient address"), "{said}");
    assert!(read["words"].as_str().unwrap().contains("User unknown"), "{read}");
    assert_eq!(read["header"]["Message-ID"], "<1@acme.test>");
    assert!(read["body"].as_str().unwrap().contains("the body"));
    eventually("the good recipient's copy", SOON, || world.postfix.mailbox().count() == 1);
    world.node.await_empty_queue(SOON);
    assert_eq!(world.writers.count(), 1);
    assert_eq!(world.journal("boss@acme.test"), ["returned -", "returned -"]);
}

#[test]
fn foreign_senders_and_forged_ones_get_nothing_and_are_journaled() {
    let world = World::new();
    for number in 0..50 {
        let (from, to) = (format!("s{}@client.test", number % 5), format!("u{number}@bravo.test"));
        world.send(&from, &[&to], TEXT);
    }
    world.send("boss@closed.test", &["nobody@bravo.test"], TEXT);
    world.send("boss@signed.test", &["nobody@bravo.test"], TEXT);
    world.send("boss@stranger.test", &["nobody@bravo.test"], TEXT);
    world.send("", &["nobody@bravo.test"], TEXT);
    world.node.await_empty_queue(SOON);
    let strangers = (0..5).flat_map(|n| world.journal(&format!("s{n}@client.test")));
    let strangers: Vec<String> = strangers.collect();
    assert_eq!(strangers, vec!["suppressed not_a_customer"; 50]);
    for (from, because) in [
        ("boss@closed.test", "not_authentic"),
        ("boss@signed.test", "not_authentic"),
        ("boss@stranger.test", "not_a_customer"),
        ("", "null_sender"),
    ] {
        assert_eq!(world.journal(from), [format!("suppressed {because}")], "{from}");
    }
    let series = |because| {
        let labels = format!("because=\"{because}\",kind=\"failed\",outcome=\"suppressed\"");
        world.node.metric(&format!("mxfleet_bounces_total{{{labels}}}"))
    };
    assert_eq!((series("not_a_customer"), series("not_authentic")), (51.0, 2.0));
    // With a signature the same sender is the customer.
    world.send("boss@signed.test", &["x@bravo.test"], &world.signer.sign("signed.test", TEXT));
    let report = parsed(&world.writers.await_count(1, SOON).remove(0));
    assert_eq!(recipients(&report), ["rfc822; x@bravo.test"]);
    let sent = "mxfleet_bounces_total{because=\"\",kind=\"failed\",outcome=\"sent\"}";
    world.node.await_empty_queue(SOON);
    assert_eq!((world.node.metric(sent), world.writers.count()), (1.0, 1));
}

#[test]
fn strangers_are_told_as_the_setting_says_with_headers_only_and_within_the_budget() {
    let world = World::new();
    world.node.admin(&["settings", "set", "bounce.non_customer", "verified"]);
    world.node.admin(&["settings", "set", "bounce.budget", "2/1h"]);
    let mut client = world.node.client();
    for _ in 0..3 {
        client.command("MAIL FROM:<someone@stranger.test> RET=FULL");
        client.command("RCPT TO:<nobody@bravo.test>");
        client.command("DATA");
        client.send(format!("{TEXT}.\r\n").as_bytes());
        assert_eq!(client.reply().code, 250);
    }
    world.send("someone@client.test", &["nobody@bravo.test"], TEXT);
    world.node.await_empty_queue(SOON);
    // By the MX record of a domain that is no customer's.
    let reports = world.writers.await_count(2, SOON);
    for report in &reports {
        assert_eq!(report.to(), ["someone@stranger.test"]);
        let read = parsed(report);
        assert_eq!(read["parts"][2], "text/rfc822-headers");
        assert_eq!(read["header"]["Subject"], "a question");
    }
    let mut journal = world.journal("someone@stranger.test");
    journal.sort();
    assert_eq!(journal, ["returned -", "returned -", "suppressed budget_spent"]);
    assert_eq!(world.journal("someone@client.test"), ["suppressed not_authentic"]);
    let bad = world.node.try_admin(&["settings", "set", "bounce.non_customer", "perhaps"]);
    assert!(String::from_utf8_lossy(&bad.stderr).contains("one of suppress, verified, send"));
}

#[test]
fn a_stranger_whose_mail_is_given_up_is_told_if_it_is_theirs() {
    let world = World::new();
    world.node.serve("dead.test", &support::free_address().to_string());
    world.node.admin(&["settings", "set", "queue.lifetime", "2s"]);
    // Nobody looked when it arrived: that is done when it matters.
    world.send("someone@stranger.test", &["user@dead.test"], TEXT);
    world.send("someone@client.test", &["user@dead.test"], TEXT);
    let report = parsed(&world.writers.await_count(1, SOON).remove(0));
    assert_eq!(recipients(&report), ["rfc822; user@dead.test"]);
    assert_eq!(report["recipients"][0]["Status"], "5.4.7");
    world.node.await_empty_queue(SOON);
    assert_eq!(world.journal("someone@stranger.test"), ["returned -"]);
    assert_eq!(world.journal("someone@client.test"), ["suppressed not_authentic"]);
}

#[test]
fn a_delay_is_told_to_a_customer_and_nobody_else() {
    let world = World::new();
    world.node.serve("dead.test", &support::free_address().to_string());
    world.node.admin(&["settings", "set", "queue.warn_after", "1s"]);
    for from in ["boss@acme.test", "boss@closed.test", "someone@stranger.test"] {
        world.send(from, &["user@dead.test"], TEXT);
    }
    let report = parsed(&world.writers.await_count(1, SOON).remove(0));
    let block = &report["recipients"][0];
    assert_eq!((&block["Action"], &block["Status"]), (&"delayed".into(), &"4.4.1".into()));
    assert!(block["Will-Retry-Until"].is_string(), "{report}");
    assert_eq!(world.journal("boss@acme.test"), ["delayed -"]);
    assert_eq!(world.journal("boss@closed.test"), Vec::<String>::new());
}

/// Lives that end in the middle of reporting.
const KILLS: usize = 25;

#[test]
fn kills_in_the_middle_of_reporting_lose_no_report_and_make_no_second_one() {
    let mut world = World::with(&Setup {
        limits: vec![("segment_octets", "1048576".into()), ("disk_reserve_octets", "1".into())],
        ..Setup::default()
    });
    let mut dice = Dice::new(7);
    let mut sent = BTreeSet::new();
    for round in 0..KILLS {
        let mut client = world.node.client();
        for number in 0..20 {
            let to = format!("r{round}n{number}@bravo.test");
            let reply = client.deliver("boss@acme.test", &[&to], TEXT.as_bytes());
            assert_eq!(reply.code, 250, "{reply:?}");
            sent.insert(format!("rfc822; {to}"));
        }
        // The moment of the kill is the random part of the test.
        std::thread::sleep(Duration::from_millis(dice.roll() % 60));
        world.node.kill();
        world.node.restart();
    }
    world.node.await_empty_queue(Duration::from_secs(120));
    let mut told: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    world.writers.each(|report| {
        let text = String::from_utf8(report.text.clone()).unwrap();
        let field = |name: &str| {
            let lines = text.lines().filter(|line| line.starts_with(name));
            lines.map(|line| line[name.len()..].to_owned()).collect::<Vec<_>>()
        };
        let id = field("Message-ID: ").remove(0);
        for recipient in field("Final-Recipient: ") {
            told.entry(recipient).or_default().insert(id.clone());
        }
    });
    assert_eq!(told.keys().cloned().collect::<BTreeSet<_>>(), sent, "everyone is told");
    let twice: Vec<_> = told.iter().filter(|(_, reports)| reports.len() > 1).collect();
    assert!(twice.is_empty(), "told by two reports: {twice:?}");
}
