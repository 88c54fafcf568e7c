//! Mail to those who run the service: three nodes, swaks as whoever writes, Postfix as the
//! operators' server, which is no part of the fleet, and a webhook over TLS.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use support::dns::{NameServer, Software};
use support::fleet::{Fleet, on_loopback};
use support::node::{Node, Setup, http_get};
use support::postfix::Postfix;
use support::process::{attempt_with, output};
use support::sink::Sink;
use support::webhook::{SECRET, Webhook};
use support::{Dice, SOON, eventually};

const TEXT: &str = "From: Jane <ops@acme.test>\r\nTo: <support@relay.example>\r\n\
    Subject: =?utf-8?Q?St=C3=B6rung?=\r\nMessage-ID: <1@acme.test>\r\n\
    Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\
    mail is stück\r\n.a dot\r\n";

/// acme.test, a customer whose SPF names this machine; operators at ops.test.
struct World {
    operators: Postfix,
    customer: Sink,
    names: NameServer,
}

impl World {
    fn new() -> Self {
        let operators = Postfix::start("ops.test", &["ops"]);
        let zones = [
            ("acme.test", "@ TXT \"v=spf1 ip4:127.0.0.1 -all\""),
            ("ops.test", "@ MX 10 mail\nmail A 127.0.0.1"),
            ("evil.test", "@ MX 0 .\n@ TXT \"v=spf1 ip4:127.0.0.1 -all\""),
        ];
        let names = NameServer::start(Software::Bind, &zones);
        Self { operators, customer: Sink::start(), names }
    }

    fn setup(&self, setup: Setup) -> Setup {
        let mx_port = Some(self.operators.address().port());
        let limits = vec![("probe_pause_min_ms", "\"200ms\"".to_owned())];
        Setup { dns: Some(self.names.address()), mx_port, limits, ..setup }
    }

    fn serve(&self, node: &Node) {
        node.serve("acme.test", &self.customer.route());
        for (name, value) in [
            ("service.domain", "relay.example"),
            ("service.operators", "ops@ops.test"),
            ("queue.retry_min", "200ms"),
        ] {
            node.admin(&["settings", "set", name, value]);
        }
    }

    /// What operators got, as Python's parser reads it, and as it is.
    fn copies(&self) -> Vec<(Value, String)> {
        let mail = self.operators.mailbox().mail().into_iter();
        mail.map(|bytes| {
            let text = String::from_utf8(bytes).unwrap();
            (parsed(&text), text)
        })
        .collect()
    }

    fn await_copy(&self, subject: &str) -> (Value, String) {
        let mut found = None;
        eventually(&format!("a copy of {subject}"), SOON, || {
            let is_it = |(copy, _): &(Value, String)| copy["subject"] == subject;
            found = self.copies().into_iter().find(is_it);
            found.is_some()
        });
        found.unwrap()
    }
}

fn parsed(copy: &str) -> Value {
    const SCRIPT: &str = r#"
import email, email.policy, json, sys
m = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.default)
def defects(part):
    yield from (str(d) for d in part.defects)
    if part.is_multipart():
        for inner in part.get_payload():
            yield from defects(inner)
parts = m.get_payload() if m.is_multipart() else []
print(json.dumps({
    "type": m.get_content_type(), "subject": m["Subject"], "from": m["From"], "to": m["To"],
    "reply_to": m["Reply-To"], "auto": m["Auto-Submitted"], "path": m["Return-Path"],
    "parts": [p.get_content_type() for p in parts],
    "words": parts[0].get_content() if parts else None,
    "inner": parts[1].get_payload(0)["Message-ID"] if len(parts) > 1 else None,
    "defects": list(defects(m)),
}))
"#;
    let done = attempt_with(&["python3", "-c", SCRIPT].map(str::to_owned), copy);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

/// By swaks, as people try a server.
fn swaks(node: &Node, from: &str, to: &str, subject: &str) {
    let server = node.smtp();
    let header = format!("From: <{from}>\nTo: <{to}>\nSubject: {subject}\n\nmail is stuck\n");
    output(
        "swaks",
        &[
            "--server",
            &server.ip().to_string(),
            "--port",
            &server.port().to_string(),
            "--from",
            from,
            "--to",
            to,
            "--data",
            &header,
        ],
    );
}

#[test]
fn operators_get_the_message_with_diagnostics_and_its_author_one_answer() {
    let world = World::new();
    let mut node = Node::with(&world.setup(Setup::default()));
    world.serve(&node);
    node.admin(&["settings", "set", "site.url", "https://status.relay.example"]);
    let reply = node.client().deliver("ops@acme.test", &["SUPPORT@relay.example"], TEXT.as_bytes());
    assert_eq!(reply.code, 250, "{reply:?}");
    let id = reply.line().rsplit(' ').next().unwrap().to_owned();

    let (copy, text) = world.await_copy("[support] Störung");
    assert_eq!(copy["parts"], serde_json::json!(["text/plain", "message/rfc822"]), "{text}");
    for (field, expected) in [
        ("type", "multipart/mixed"),
        ("from", "SUPPORT@relay.example"),
        ("to", "ops@ops.test"),
        ("reply_to", "ops@acme.test"),
        ("auto", "auto-generated"),
        ("path", "<>"),
        ("inner", "<1@acme.test>"),
    ] {
        assert_eq!(copy[field], expected, "{field}: {text}");
    }
    assert_eq!(copy["defects"], serde_json::json!([]), "{text}");
    assert!(text.contains(&TEXT.replace("\r\n", "\n")), "as it came: {text}");
    let words = copy["words"].as_str().unwrap();
    for part in [
        &*format!("as {id}, from"),
        "Author: ops@acme.test, a contact of acme; authenticated. (SPF pass, DKIM none)",
        "Customer acme (acme): active",
        "  acme.test: route ",
        "blacklisted recipients: 0",
        "Failed here of late: nothing",
    ] {
        assert!(words.contains(part), "{part:?} is not in {words}");
    }

    let answer = world.customer.await_count(1, SOON).remove(0);
    assert!(answer.mail.starts_with("<>") && answer.to() == ["ops@acme.test"], "{answer:?}");
    let answer = String::from_utf8(answer.text).unwrap();
    for part in [
        "Auto-Submitted: auto-replied\r\n",
        "In-Reply-To: <1@acme.test>\r\n",
        "what is planned: https://status.relay.example\r\n",
        &id,
    ] {
        assert!(answer.contains(part), "{part:?} is not in {answer}");
    }
    assert_eq!(parsed(&answer)["subject"], "Auto: Störung");

    // One answer a day, whoever restarts.
    swaks(&node, "ops@acme.test", "noc@mx1.relay.example", "second");
    world.await_copy("[noc] second");
    node.terminate();
    node.restart();
    swaks(&node, "ops@acme.test", "abuse@relay.example", "third");
    world.await_copy("[abuse] third");
    node.await_empty_queue(SOON);
    assert_eq!(world.customer.count(), 1);
}

#[test]
fn who_is_not_who_it_says_is_shown_so_and_programs_get_no_answer() {
    let world = World::new();
    let node = Node::with(&world.setup(Setup::default()));
    world.serve(&node);
    let deliver = |from: &str, text: &str| {
        let reply = node.client().deliver(from, &["security@relay.example"], text.as_bytes());
        assert_eq!(reply.code, 250, "{reply:?}");
    };
    // Its own domain says that it is its own, which is not the author's.
    deliver("ops@evil.test", &TEXT.replace("St=C3=B6rung", "forged"));
    let (copy, text) = world.await_copy("[security] forged");
    let words = copy["words"].as_str().unwrap();
    assert!(words.contains("a contact of acme; NOT authenticated"), "{words}");
    assert!(text.contains("Customer acme"), "operators see it all the same");
    deliver("", "From: ops@acme.test\r\nSubject: null\r\n\r\nx\r\n");
    deliver("ops@acme.test", "From: ops@acme.test\r\nSubject: list\r\nList-Id: <x.y>\r\n\r\nx\r\n");
    deliver("mailer-daemon@acme.test", "From: ops@acme.test\r\nSubject: daemon\r\n\r\nx\r\n");
    for subject in ["null", "list", "daemon"] {
        world.await_copy(&format!("[security] {subject}"));
    }
    // What was handed on and comes back goes no further.
    let copies = world.copies().len();
    deliver("", "Delivered-To: Security@relay.example\r\nSubject: back\r\n\r\nx\r\n");
    node.await_empty_queue(SOON);
    assert_eq!((world.copies().len(), world.customer.count()), (copies, 0));
    let lines = node.json(&["journal", "search", "--to", "security@relay.example"]);
    assert_eq!(lines[0]["dsn"], "5.4.6", "{lines}");
    assert_eq!(node.metric("mxfleet_role_mail_total{role=\"security\"}"), 5.0);
}

#[test]
fn nobody_reads_is_said_and_nothing_else_is_relayed() {
    let world = World::new();
    let node = Node::with(&world.setup(Setup::default()));
    node.serve("acme.test", &world.customer.route());
    node.admin(&["settings", "set", "service.domain", "relay.example"]);
    let rcpt = |to: &str| {
        let mut client = node.client();
        client.command("MAIL FROM:<s@elsewhere.test>");
        let answered = client.command(&format!("RCPT TO:<{to}>")).line();
        let explained = node.json(&["explain", "rcpt", to, "--from", "s@elsewhere.test"]);
        assert_eq!(explained["reply"], answered.as_str(), "{to}");
        (answered, explained["check"].as_str().unwrap().to_owned())
    };
    let (answer, check) = rcpt("support@relay.example");
    assert!(answer.starts_with("450 4.3.5 <support@relay.example>: nobody"), "{answer}");
    assert_eq!(check, "role_address");
    for to in ["Postmaster", "postmaster@mx1.relay.example", "postmaster@relay.example"] {
        assert!(rcpt(to).0.starts_with("250"), "{to} is always taken, and waits in our queue");
    }
    for (value, words) in [
        ("boss@acme.test", "is at a domain of customer acme"),
        ("boss@relay.example", "is at the service's own domain"),
        ("boss", "at most 8 mail addresses"),
    ] {
        let done = node.try_admin(&["settings", "set", "service.operators", value]);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(!done.status.success() && said.contains(words), "{value}: {said}");
    }
    node.admin(&["settings", "set", "service.operators", "ops@ops.test"]);
    for to in ["support@relay.example", "Trouble@MX1.relay.example", "Postmaster"] {
        let (answer, check) = rcpt(to);
        assert!(answer.starts_with("250") && check == "role_address", "{to}: {answer} {check}");
    }
    for to in
        ["user@relay.example", "ops@ops.test", "support+x@relay.example", "a@mx1.relay.example"]
    {
        let (answer, check) = rcpt(to);
        assert!(answer.starts_with("550 5.7.1") && check == "served_domain", "{to}: {answer}");
    }
    assert_eq!(rcpt("postmaster@acme.test").1, "all", "a customer's is the customer's");
    node.admin(&["settings", "set", "service.operators", ""]);
    assert!(rcpt("support@relay.example").0.starts_with("450"));
}

#[test]
fn trouble_is_heard_of_with_two_of_three_nodes_dead_and_after_a_cold_start() {
    let world = World::new();
    let mut webhook = Webhook::stopped();
    webhook.start();
    let place = (webhook.url_file(), webhook.ca_file().to_owned());
    let setup =
        |name: &str| world.setup(Setup { webhook: Some(place.clone()), ..on_loopback(name) });
    let mut fleet = Fleet::with(&["mx1", "mx2", "mx3"].map(setup));
    world.serve(&fleet.nodes[0]);
    fleet.await_same_state();
    for (number, node) in fleet.nodes.iter().enumerate() {
        swaks(node, "ops@acme.test", "trouble@relay.example", &format!("whole {number}"));
        world.await_copy(&format!("[trouble] whole {number}"));
    }
    fleet.nodes[0].kill();
    fleet.nodes[1].kill();
    let last = &mut fleet.nodes[2];
    swaks(last, "ops@acme.test", "trouble@relay.example", "no quorum");
    world.await_copy("[trouble] no quorum");
    last.kill();
    last.restart();
    swaks(last, "ops@acme.test", "trouble@relay.example", "cold start");
    let (copy, _) = world.await_copy("[trouble] cold start");
    assert!(copy["words"].as_str().unwrap().contains("a contact of acme; authenticated"));
    eventually("all pages", SOON, || webhook.pages().len() == 5);
    let mut subjects: Vec<String> =
        webhook.pages().iter().map(|page| page["subject"].as_str().unwrap().to_owned()).collect();
    subjects.sort();
    assert_eq!(subjects, ["cold start", "no quorum", "whole 0", "whole 1", "whole 2"]);
    last.await_empty_queue(SOON);
    assert_eq!(last.metric("mxfleet_role_mail_total{role=\"trouble\"}"), 1.0);
}

#[test]
fn a_webhook_that_is_down_is_told_when_it_is_back_and_its_address_is_never_shown() {
    let world = World::new();
    let mut webhook = Webhook::stopped();
    let place = (webhook.url_file(), webhook.ca_file().to_owned());
    let mut node = Node::with(&world.setup(Setup { webhook: Some(place), ..Setup::default() }));
    world.serve(&node);
    // The webhook alone is enough for what is in trouble.
    node.admin(&["settings", "set", "service.operators", ""]);
    swaks(&node, "ops@acme.test", "trouble@relay.example", "help");
    let deferred = "mxfleet_role_messages_total{kind=\"page\",result=\"deferred\"}";
    eventually("a page that waits", SOON, || node.metric(deferred) > 0.0);
    let waiting = node.json(&["queue", "list"]);
    assert_eq!(waiting.as_array().unwrap().len(), 1, "{waiting}");
    // A kill forgets nothing; a webhook that answers and refuses is asked again, too.
    node.kill();
    node.restart();
    webhook.answer(503);
    webhook.start();
    let before = node.metric(deferred);
    eventually("a refusal", SOON, || node.metric(deferred) > before + 1.0);
    assert!(webhook.pages().is_empty());
    webhook.answer(202);
    eventually("the page", SOON, || webhook.pages().len() == 1);
    node.await_empty_queue(SOON);
    let page = webhook.pages().remove(0);
    for (field, expected) in [
        ("to", "trouble@relay.example"),
        ("from", "ops@acme.test"),
        ("subject", "help"),
        ("node", "mx1.relay.example"),
    ] {
        assert_eq!(page[field], expected, "{page}");
    }
    assert_eq!(page["authenticated"], true, "{page}");
    assert!(page["text"].as_str().unwrap().contains("mail is stuck"), "{page}");
    assert!(page["diagnostics"].as_str().unwrap().contains("Customer acme"), "{page}");
    std::thread::sleep(Duration::from_secs(1)); // a second page would come by now
    assert_eq!(webhook.pages().len(), 1);

    let log = node.await_log("relay=webhook");
    let (_, metrics) = http_get(node.metrics(), "/metrics").unwrap();
    let shown = [
        log,
        std::fs::read_to_string(node.delivery_log()).unwrap(),
        std::fs::read_to_string(node.log()).unwrap(),
        metrics,
        node.admin(&["settings", "list"]),
        node.admin(&["journal", "search"]),
    ];
    for text in shown {
        assert!(!text.contains(SECRET), "{text}");
    }
}

/// Lives that end in the middle of handing on.
const KILLS: usize = 20;

/// Each of these is only once for its subject or author, whatever is sent again.
type Ids = BTreeMap<String, BTreeSet<String>>;

fn field<'t>(text: &'t str, name: &str) -> &'t str {
    text.lines().find_map(|line| line.strip_prefix(name)).unwrap()
}

fn assert_once(what: &str, ids: &Ids) {
    let twice: Vec<_> = ids.iter().filter(|(_, ids)| ids.len() > 1).collect();
    assert!(twice.is_empty(), "written twice: {what} {twice:?}");
}

#[test]
fn kills_in_the_middle_of_handing_on_lose_nothing_and_double_nothing() {
    let world = World::new();
    let mut webhook = Webhook::stopped();
    webhook.start();
    let place = (webhook.url_file(), webhook.ca_file().to_owned());
    let mut node = Node::with(&world.setup(Setup { webhook: Some(place), ..Setup::default() }));
    world.serve(&node);
    let mut dice = Dice::new(11);
    let mut sent = BTreeSet::new();
    let mut send = |node: &Node, round: &str, count: usize| {
        let mut client = node.client();
        for number in 0..count {
            let subject = format!("{round}n{number}");
            let text = TEXT.replace("=?utf-8?Q?St=C3=B6rung?=", &subject);
            // Each has a sender of its own, who may be answered.
            let from = format!("{subject}@acme.test");
            let reply = client.deliver(&from, &["trouble@relay.example"], text.as_bytes());
            assert_eq!(reply.code, 250, "{reply:?}");
            sent.insert(subject);
        }
    };
    send(&node, "before", 5);
    node.await_empty_queue(SOON);
    for round in 0..KILLS {
        send(&node, &format!("r{round}"), 10);
        // The moment of the kill is the random part of the test.
        std::thread::sleep(Duration::from_millis(dice.roll() % 80));
        node.kill();
        node.restart();
    }
    node.await_empty_queue(Duration::from_secs(120));
    send(&node, "after", 5);
    node.await_empty_queue(SOON);

    // A kill between a server's answer and its record repeats a message, with the same id, but not
    // what was recorded long before.
    let repeats_max = sent.len();
    let mail = world.operators.mailbox().mail();
    assert!(mail.len() <= sent.len() + repeats_max, "{} copies", mail.len());
    let mut copies = Ids::new();
    for mail in mail {
        let text = String::from_utf8(mail).unwrap();
        let subject = field(&text, "Subject: [trouble] ").to_owned();
        copies.entry(subject).or_default().insert(field(&text, "Message-ID: ").to_owned());
    }
    assert_eq!(copies.keys().cloned().collect::<BTreeSet<_>>(), sent, "all are handed on");
    assert_once("copies", &copies);

    let posted = webhook.pages();
    assert!(posted.len() <= sent.len() + repeats_max, "{} pages", posted.len());
    let mut pages = Ids::new();
    for page in posted {
        let word = |name: &str| page[name].as_str().unwrap().to_owned();
        pages.entry(word("subject")).or_default().insert(word("id"));
    }
    assert_eq!(pages.keys().cloned().collect::<BTreeSet<_>>(), sent, "all are paged");
    assert_once("pages", &pages);

    let mut answers = Ids::new();
    world.customer.each(|answer| {
        let text = String::from_utf8_lossy(&answer.text);
        let author = answer.to()[0].split('@').next().unwrap().to_owned();
        answers.entry(author).or_default().insert(field(&text, "Message-ID: ").to_owned());
    });
    assert_once("acknowledgements", &answers);
    // A kill leaves one unanswered rather than answered twice (`roles/answered.rs`).
    let quiet = sent.iter().filter(|subject| !subject.starts_with('r'));
    let missing: Vec<_> = quiet.filter(|subject| !answers.contains_key(*subject)).collect();
    assert!(missing.is_empty(), "unanswered without a kill: {missing:?}");
}
