//! TLS both ways: certificates by name, reloaded while running; nothing said in the clear counts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use support::ca::Ca;
use support::node::{Node, Setup};
use support::process::attempt;
use support::sink::{Manner, Sink};
use support::smtp::Smtp;
use support::{SOON, eventually, scratch};

const USER: &str = "user@acme.test";
const TEXT: &[u8] = b"Subject: tls\r\n\r\ntls\r\n";
const NAMES: [&str; 2] = ["mx1.relay.example", "mx-a.relay.example"];

/// An authority, and a node with a certificate for each of the names.
fn relay() -> (tempfile::TempDir, Ca, Node, Sink) {
    let folder = scratch();
    let ca = Ca::new(folder.path());
    let certificates = NAMES.iter().map(|name| ca.issue(&[name])).collect();
    let node = Node::with(&Setup { certificates, ..Setup::default() });
    let sink = Sink::start();
    node.serve("acme.test", &sink.route());
    (folder, ca, node, sink)
}

/// What `openssl s_client` prints for a STARTTLS connection with these further arguments.
fn s_client(node: &Node, arguments: &[&str]) -> String {
    let server = node.smtp().to_string();
    let mut words = vec!["s_client", "-starttls", "smtp", "-connect", &server];
    words.extend(arguments);
    let done = attempt("openssl", &words);
    String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned()
}

fn is_verified(ca: &Ca, node: &Node, sni: &[&str], name: &str) -> bool {
    let file = ca.file().display().to_string();
    let mut words = vec!["-CAfile", &file, "-verify_hostname", name];
    words.extend(sni);
    s_client(node, &words).contains("Verify return code: 0 (ok)")
}

#[test]
fn openssl_gets_the_certificate_of_the_name_it_asks_for() {
    let (_folder, ca, node, _sink) = relay();
    for name in NAMES {
        assert!(is_verified(&ca, &node, &["-servername", name], name), "{name}");
    }
    assert!(is_verified(&ca, &node, &["-noservername"], NAMES[0]), "the first is the default");
    assert!(is_verified(&ca, &node, &["-servername", "other.test"], NAMES[0]), "and for others");
}

#[test]
fn only_modern_versions_shake_hands() {
    let (_folder, _ca, node, _sink) = relay();
    let security = ["-cipher", "ALL:@SECLEVEL=0"];
    for (version, good) in
        [("-tls1", false), ("-tls1_1", false), ("-tls1_2", true), ("-tls1_3", true)]
    {
        let words = [&[version][..], &security].concat();
        let printed = s_client(&node, &words);
        assert_eq!(
            printed.contains("Cipher is TLS_") || printed.contains("Cipher is EC"),
            good,
            "{version}: {printed}"
        );
    }
    assert_eq!(node.client().command("NOOP").code, 250);
}

/// A ClientHello as a client of that version sends it, record header included.
fn client_hello(version: [u8; 2]) -> Vec<u8> {
    // The cipher suites of their time: AES, 3DES and RC4 with RSA and ephemeral keys.
    let suites: [u8; 16] = [
        0xc0, 0x13, 0xc0, 0x14, 0xc0, 0x11, 0x00, 0x2f, 0x00, 0x35, 0x00, 0x0a, 0x00, 0x05, 0x00,
        0x04,
    ];
    let mut body = version.to_vec();
    body.extend([0x42; 32]); // random
    body.push(0); // no session to resume
    body.extend([0, 16]);
    body.extend(suites);
    body.extend([1, 0]); // no compression
    let length = u16::try_from(body.len()).unwrap();
    let mut record = vec![0x16, version[0], version[1]];
    record.extend((length + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend(length.to_be_bytes());
    record.extend(body);
    record
}

/// What a server says to these octets behind its go-ahead, until it closes.
fn answer_in_handshake(node: &Node, octets: &[u8]) -> Vec<u8> {
    let mut client = node.client();
    assert_eq!(client.command("STARTTLS").code, 220);
    client.send(octets);
    client.close_writing();
    client.rest()
}

/// RFC 8446 section 6: fatal alerts.
const FATAL: u8 = 2;
const HANDSHAKE_FAILURE: u8 = 40;
const PROTOCOL_VERSION: u8 = 70;

#[test]
fn hellos_of_old_versions_are_answered_with_an_alert() {
    let (_folder, _ca, node, _sink) = relay();
    let failed =
        "mxfleet_tls_handshakes_total{direction=\"in\",result=\"failed\",version=\"none\"}";
    for version in [[3, 0], [3, 1], [3, 2]] {
        let before = node.metric(failed);
        let answer = answer_in_handshake(&node, &client_hello(version));
        let [0x15, 3, _, 0, 2, FATAL, alert] = answer[..] else {
            panic!("{version:?}: not one fatal alert: {answer:x?}");
        };
        assert!([HANDSHAKE_FAILURE, PROTOCOL_VERSION].contains(&alert), "{version:?}: {alert}");
        assert_eq!(node.metric(failed), before + 1.0, "{version:?} is counted");
    }
    // The same bytes with the version of today get a ServerHello or a word about their suites.
    let answer = answer_in_handshake(&node, &client_hello([3, 3]));
    assert!([0x15, 0x16].contains(&answer[0]), "{answer:x?}");
    assert_eq!(node.client().deliver("s@client.test", &[USER], TEXT).code, 250);
}

#[test]
fn what_is_no_handshake_ends_the_connection_without_a_word_in_the_clear() {
    let (_folder, _ca, node, sink) = relay();
    // SSL 2.0, as clients sent it to find out what a server speaks.
    let mut old = vec![0x80, 0x2e, 0x01, 0x00, 0x02, 0x00, 0x15, 0x00, 0x00, 0x00, 0x10];
    old.extend([0x07, 0x00, 0xc0, 0x05, 0x00, 0x80, 0x03, 0x00, 0x80, 0x01, 0x00, 0x80, 0x08]);
    old.extend([0x42; 24]);
    let hello = client_hello([3, 3]);
    let mut too_long = hello.clone();
    too_long[3..5].copy_from_slice(&[0xff, 0xff]);
    let mut endless = hello.clone();
    endless[6..9].copy_from_slice(&[0xff, 0xff, 0xff]);
    let smtp = format!("MAIL FROM:<e@evil.test>\r\nRCPT TO:<{USER}>\r\nDATA\r\n\r\nx\r\n.\r\n");
    let mut dice = support::Dice::new(58);
    let noise: Vec<u8> = (0..4096).map(|_| dice.roll().to_be_bytes()[0]).collect();
    for octets in [
        &b""[..],
        &[0; 1024],
        &[0xff; 1024],
        &noise,
        &old,
        &hello[..20],
        &too_long,
        &endless,
        &endless.repeat(2000),
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"\x17\x03\x03\x00\x05hello",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        smtp.as_bytes(),
    ] {
        let start = octets[..octets.len().min(24)].escape_ascii().to_string();
        let answer = answer_in_handshake(&node, octets);
        let is_alert = matches!(answer[..], [0x15, 3, _, 0, 2, FATAL, _]);
        assert!(answer.is_empty() || is_alert, "{start}: {answer:x?}");
        assert_eq!(node.client().command("NOOP").code, 250, "alive after {start}");
    }
    assert_eq!(sink.count(), 0);
}

#[test]
fn certificates_are_read_again_on_sighup_and_sessions_go_on() {
    let (_folder, ca, mut node, sink) = relay();
    let mut session = node.client().starttls(&ca, NAMES[0]);
    assert_eq!(session.command("EHLO client.test").code, 250);
    let serial = |node: &Node| {
        let printed = s_client(node, &["-servername", NAMES[1]]);
        printed.split("-----BEGIN CERTIFICATE-----").nth(1).map(|rest| rest[..400].to_owned())
    };
    let old = serial(&node).unwrap();
    ca.issue(&[NAMES[1]]);
    node.process().signal("HUP");
    eventually("the new certificate", SOON, || serial(&node).is_some_and(|new| new != old));
    assert!(is_verified(&ca, &node, &["-servername", NAMES[1]], NAMES[1]));
    assert_eq!(session.deliver("s@client.test", &[USER], TEXT).code, 250);
    sink.await_count(1, SOON);
}

#[test]
fn a_broken_certificate_file_leaves_the_old_one_in_use() {
    let (folder, ca, mut node, _sink) = relay();
    std::fs::write(folder.path().join(format!("{}.pem", NAMES[1])), "not a certificate").unwrap();
    node.process().signal("HUP");
    eventually("a word about it", SOON, || {
        node.process().words().contains(&format!("{}.pem", NAMES[1]))
    });
    assert!(is_verified(&ca, &node, &["-servername", NAMES[1]], NAMES[1]));
}

#[test]
fn a_message_over_tls_arrives_and_says_so_in_its_trace() {
    let (_folder, ca, node, sink) = relay();
    let mut client = node.client().starttls(&ca, NAMES[0]);
    let hello = client.command("EHLO client.test");
    assert!(!hello.text.contains("STARTTLS"), "not offered twice: {hello:?}");
    assert_eq!(client.deliver("s@client.test", &[USER], TEXT).code, 250);
    let received = sink.await_count(1, SOON);
    let trace = String::from_utf8_lossy(&received[0].text).into_owned();
    assert!(trace.contains("with ESMTPS"), "{trace}");
}

#[test]
fn what_was_said_before_starttls_is_forgotten() {
    let (_folder, ca, node, _sink) = relay();
    let mut client = node.client();
    client.envelope("s@client.test", &[USER]);
    let mut client = client.starttls(&ca, NAMES[0]);
    assert_eq!(client.command("DATA").code, 503);
    assert_eq!(client.command("MAIL FROM:<s@client.test>").code, 503, "EHLO is forgotten too");
    client.command("EHLO client.test");
    assert_eq!(client.command(&format!("RCPT TO:<{USER}>")).code, 503);
    assert_eq!(client.command("STARTTLS").code, 503, "TLS inside TLS");
}

#[test]
fn starttls_with_a_parameter_is_refused() {
    let (_folder, _ca, node, _sink) = relay();
    let mut client = node.client();
    assert_eq!(client.command("STARTTLS x").code, 501);
    assert_eq!(client.command("NOOP").code, 250);
}

#[test]
fn commands_sent_in_the_clear_behind_starttls_are_never_obeyed() {
    let (_folder, _ca, node, sink) = relay();
    let injected = format!(
        "STARTTLS\r\nEHLO evil.test\r\nMAIL FROM:<e@evil.test>\r\nRCPT TO:<{USER}>\r\nDATA\r\n"
    );
    // Whole commands, and one that TLS would have to complete.
    for tail in [&injected[..], "STARTTLS\r\nMAIL FROM:<e@evi"] {
        let mut client = node.client();
        client.send(tail.as_bytes());
        let reply = client.reply();
        assert!([501, 503, 554, 421, 0].contains(&reply.code), "refused: {reply:?}");
        assert!(client.reply().is_closed(), "and closed");
    }
    assert_eq!(sink.count(), 0);
}

#[test]
fn clear_text_after_the_go_ahead_ends_the_connection_without_a_word() {
    let (_folder, _ca, node, _sink) = relay();
    let mut client = node.client();
    assert_eq!(client.command("STARTTLS").code, 220);
    client.send(b"EHLO client.test\r\nNOOP\r\n");
    let reply = client.reply();
    assert!(reply.is_closed(), "no reply in the clear: {reply:?}");
}

#[test]
fn a_handshake_that_never_comes_is_given_up() {
    let folder = scratch();
    let ca = Ca::new(folder.path());
    let node = Node::with(&Setup {
        certificates: vec![ca.issue(&[NAMES[0]])],
        limits: vec![("tls_handshake_timeout_ms", "500".into())],
        ..Setup::default()
    });
    let mut client = node.client();
    assert_eq!(client.command("STARTTLS").code, 220);
    assert!(client.reply().is_closed());
    assert_eq!(node.client().command("NOOP").code, 250);
}

#[test]
fn a_node_without_certificates_does_not_offer_tls() {
    let node = Node::start();
    let mut client = Smtp::connect(node.smtp());
    let hello = client.command("EHLO client.test");
    assert!(!hello.text.contains("STARTTLS"), "{hello:?}");
    assert!((500..503).contains(&client.command("STARTTLS").code));
}

/// A customer's server that speaks TLS with a certificate of this authority.
fn tls_sink(ca: &Ca, names: &[&str]) -> Sink {
    Sink::with(Manner { tls: Some(ca.server(names)), ..Manner::default() })
}

fn sending_node(ca: &Ca, domain: &str, route: &str, mode: &[&str]) -> Node {
    let ca_file = Some(ca.file().to_owned());
    let node = Node::with(&Setup { ca_file, ..Setup::default() });
    node.admin(&["customer", "add", "acme", "--contact", "ops@acme.test"]);
    let mut words = vec!["domain", "add", domain, "--customer", "acme", "--route", route];
    words.extend(mode);
    node.admin(&words);
    assert_eq!(node.client().deliver("s@client.test", &[USER], TEXT).code, 250);
    node
}

#[test]
fn tls_is_used_when_offered_whatever_the_certificate() {
    let (trusted, other) = (scratch(), scratch());
    let (trusted, other) = (Ca::new(trusted.path()), Ca::new(other.path()));
    let sink = tls_sink(&other, &["whoever.test"]);
    let _node = sending_node(&trusted, "acme.test", &sink.route(), &[]);
    assert!(sink.await_count(1, SOON)[0].tls);
}

#[test]
fn a_domain_that_requires_tls_never_gets_mail_in_the_clear() {
    let folder = scratch();
    let ca = Ca::new(folder.path());
    let sink = Sink::start();
    let node = sending_node(&ca, "acme.test", &sink.route(), &["--tls", "require"]);
    let line = node.await_log("to=<user@");
    assert!(line.contains("status=deferred"), "{line}");
    assert_eq!((sink.count(), node.queued()), (0, 1));
}

#[test]
fn a_domain_that_requires_tls_gets_mail_over_it() {
    let folder = scratch();
    let ca = Ca::new(folder.path());
    let sink = tls_sink(&ca, &["localhost", "127.0.0.1"]);
    let _node = sending_node(&ca, "acme.test", &sink.route(), &["--tls", "require"]);
    assert!(sink.await_count(1, SOON)[0].tls);
}

#[test]
fn a_server_that_speaks_before_tls_is_on_can_not_inject_replies() {
    // A go-ahead with a forged EHLO reply in the same segment (CVE-2011-0411, as a client).
    let folder = scratch();
    let ca = Ca::new(folder.path());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let route = listener.local_addr().unwrap().to_string();
    let heard = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut said = Vec::new();
        let mut piece = [0; 4096];
        stream.write_all(b"220 trap.test\r\n").unwrap();
        for reply in [
            &b"250-trap.test\r\n250 STARTTLS\r\n"[..],
            b"220 go\r\n250 trap.test\r\n250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go\r\n",
        ] {
            let count = std::io::Read::read(&mut stream, &mut piece).unwrap();
            said.extend_from_slice(&piece[..count]);
            stream.write_all(reply).unwrap();
        }
        while let Ok(count @ 1..) = std::io::Read::read(&mut stream, &mut piece) {
            said.extend_from_slice(&piece[..count]);
        }
        said
    });
    let _node = sending_node(&ca, "acme.test", &route, &[]);
    let said = String::from_utf8_lossy(&heard.join().unwrap()).into_owned();
    assert!(!said.contains("MAIL FROM") && !said.contains("Subject: tls"), "{said:?}");
}

#[test]
fn s_client_can_send_a_message_by_hand() {
    let (_folder, _ca, node, sink) = relay();
    let mut child = Command::new("openssl")
        .args(["s_client", "-quiet", "-crlf", "-starttls", "smtp", "-connect"])
        .arg(node.smtp().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    let mut screen = BufReader::new(child.stdout.take().unwrap()).lines();
    // A person reads each answer; commands sent with EHLO would be refused, rightly.
    for (line, answer) in [
        ("EHLO client.test", "250 "),
        ("MAIL FROM:<s@client.test>", "250 "),
        ("RCPT TO:<user@acme.test>", "250 "),
        ("DATA", "354 "),
        ("Subject: by hand\n\nhello\n.", "250 "),
        ("QUIT", "221 "),
    ] {
        writeln!(keyboard, "{line}").unwrap();
        assert!(screen.any(|shown| shown.unwrap().starts_with(answer)), "{line}: {answer}");
    }
    sink.await_count(1, SOON);
    child.wait().unwrap();
}
