//! The delivery log as a file: rotated by somebody else, and read by somebody slow.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::path::Path;

use support::ca::Ca;
use support::load::{Load, Plan};
use support::node::{Node, Setup};
use support::process::output;
use support::sink::Sink;
use support::smtp::Smtp;
use support::{SOON, eventually};

const USER: &str = "user@acme.test";
const TEXT: &[u8] = b"Subject: hello\r\n\r\nhello\r\n";

fn deliver(node: &Node) {
    assert_eq!(node.client().deliver("s@client.test", &[USER], TEXT).code, 250);
    node.await_empty_queue(SOON);
}

/// How often the node has said this.
fn said(node: &mut Node, words: &str) -> usize {
    node.process().words().matches(words).count()
}

/// How often the node has this file open.
fn opened(node: &mut Node, path: &Path) -> usize {
    let files = std::fs::read_dir(format!("/proc/{}/fd", node.process().id())).unwrap();
    let paths = files.filter_map(|file| std::fs::read_link(file.unwrap().path()).ok());
    paths.filter(|found| found == path).count()
}

#[test]
fn a_rotated_log_is_opened_again_on_sighup_and_no_line_is_lost() {
    let sink = Sink::start();
    let mut node = Node::start();
    node.serve("acme.test", &sink.route());
    let (log, moved) = (node.delivery_log(), node.folder().join("deliveries.log.1"));
    deliver(&node);
    node.await_log("status=sent");
    std::fs::rename(&log, &moved).unwrap();
    node.process().signal("HUP");
    eventually("a word about it", SOON, || said(&mut node, "delivery log opened again") == 1);
    deliver(&node);
    node.await_log("status=sent");
    // A log that is idle has let go of the old file, so that its space is free once it is removed.
    eventually("the old file is let go", SOON, || opened(&mut node, &moved) == 0);
    assert_eq!(opened(&mut node, &log), 1);
    let lines = [moved, log].map(|path| std::fs::read_to_string(path).unwrap());
    let sent = lines.map(|text| text.matches("status=sent").count());
    assert_eq!(sent, [1, 1]);
}

#[test]
fn a_connection_that_is_refused_has_one_line_that_says_what_for() {
    let mut node = Node::start();
    node.serve("acme.test", "192.0.2.1:25");
    let mut client = Smtp::greeted(node.smtp());
    assert_eq!(client.command("MAIL FROM:<s@client.test>").code, 250);
    for n in 0..5 {
        assert_eq!(client.command(&format!("RCPT TO:<u{n}@elsewhere.test>")).code, 550);
    }
    assert_eq!(client.command("DATA").code, 554);
    assert_eq!(client.command("QUIT").code, 221);
    let log = node.await_log("NOQUEUE: reject: ");
    let line = "client=127.0.0.1, helo=<client.test>, tls=no, from=<s@client.test>, \
        to=<u0@elsewhere.test>, refused=served_domain:5/no_recipients:1 \
        (550 5.7.1 <u0@elsewhere.test>: relaying denied)";
    assert!(log.contains(line), "{log}");
    // Whoever is no mail client, and whoever has nothing refused.
    let mut early = Smtp::open(node.smtp()).unwrap();
    early.send(b"EHLO early.test\r\n");
    assert_eq!(early.reply().code, 554);
    let log = node.await_log("refused=early_talker:1 (554 5.5.0 ");
    assert!(log.contains("helo=<>, tls=no, refused="), "{log}");
    let mut bare = Smtp::greeted(node.smtp());
    bare.send(b"NOOP\n");
    assert_eq!(bare.reply().code, 500);
    node.await_log("helo=<client.test>, tls=no, refused=bare_newline:1 (500 5.5.2 ");
    assert_eq!(Smtp::greeted(node.smtp()).command("QUIT").code, 221);
    node.terminate();
    let log = std::fs::read_to_string(node.delivery_log()).unwrap();
    assert_eq!(log.lines().count(), 3, "{log}");
}

#[test]
fn a_reload_that_fails_in_part_changes_nothing() {
    let (folder, sink) = (support::scratch(), Sink::start());
    let ca = Ca::new(folder.path());
    let name = "mx1.relay.example";
    let mut node = Node::with(&Setup { certificates: vec![ca.issue(&[name])], ..Setup::default() });
    node.serve("acme.test", &sink.route());
    let (log, moved) = (node.delivery_log(), node.folder().join("deliveries.log.1"));
    deliver(&node);
    node.await_log("status=sent");

    // The log could be opened, but the certificate is broken.
    std::fs::rename(&log, &moved).unwrap();
    let chain = folder.path().join(format!("{name}.pem"));
    std::fs::write(&chain, "not a certificate").unwrap();
    node.process().signal("HUP");
    eventually("a word about it", SOON, || said(&mut node, "configuration was not taken") == 1);
    deliver(&node);
    let sent = || std::fs::read_to_string(&moved).unwrap().matches("status=sent").count();
    eventually("the line in the old file", SOON, || sent() == 2);

    // The certificate is good, but the log cannot be opened.
    let other_folder = support::scratch();
    let other = Ca::new(other_folder.path());
    let (new_chain, new_key) = other.issue(&[name]);
    std::fs::copy(new_chain, &chain).unwrap();
    std::fs::copy(new_key, chain.with_extension("key")).unwrap();
    assert!(!log.exists(), "the reload before touched nothing");
    std::fs::create_dir(&log).unwrap();
    node.process().signal("HUP");
    eventually("a word about it", SOON, || said(&mut node, "configuration was not taken") == 2);
    let mut client = node.client().starttls(&ca, name);
    assert_eq!(client.command("EHLO client.test").code, 250, "the old certificate");

    // Now both are good.
    std::fs::remove_dir(&log).unwrap();
    node.process().signal("HUP");
    eventually("a new file", SOON, || log.exists());
    let mut client = node.client().starttls(&other, name);
    assert_eq!(client.command("EHLO client.test").code, 250, "the new certificate");
}

#[test]
fn a_reader_that_stalls_loses_lines_but_holds_up_neither_mail_nor_the_stop() {
    let sink = Sink::start();
    let limits = [("delivery_log_lines_max", "2000"), ("log_flush_timeout_ms", "300")];
    let limits = limits.map(|(name, value)| (name, value.to_owned())).to_vec();
    let mut node = Node::stopped(&Setup { limits, ..Setup::default() });
    // Nobody ever reads it.
    output("mkfifo", &[node.delivery_log().to_str().unwrap()]);
    node.begin();
    node.await_ready();
    node.serve("acme.test", &sink.route());
    let load = Load::start(node.smtp(), &Plan::to(USER));
    let dropped = |node: &Node| node.metric("mxfleet_delivery_log_dropped_total");
    eventually("lines that are lost", SOON, || dropped(&node) > 0.0);
    let acked = load.stop();
    sink.await_count(acked.len(), SOON);
    assert_eq!(said(&mut node, "the reader of the delivery log is too slow"), 1);
    let status = node.terminate();
    assert!(status.success(), "{status}");
    assert_eq!(said(&mut node, "the reader of the delivery log stalls"), 1);
}
