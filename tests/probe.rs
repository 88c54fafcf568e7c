//! Customers' servers are looked at as senders see them, for those who may, and nothing is sent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::browser::{Browser, EYES, inspect, picture};
use support::ca::Ca;
use support::dns::{NameServer, Software};
use support::node::{Node, Setup, http_get};
use support::process::said;
use support::scratch;
use support::sink::{Act, Manner, Sink, Step};

/// What the zone of a customer who wants a test has.
const CODE: &str = "0123456789abcdef";
const ZONE: &str = "mail A 127.0.0.1\n@ MX 10 mx-a.relay.example.\n@ MX 20 mail\n\
                    _mxfleet TXT \"test=0123456789abcdef\"\n";

/// A node, and the name server that it asks about `acme.test`.
fn node(setup: Setup) -> (Node, NameServer) {
    let names = NameServer::start(Software::Bind, &[("acme.test", ZONE), ("other.test", ZONE)]);
    (Node::with(&Setup { dns: Some(names.address()), ..setup }), names)
}

fn route(server: SocketAddr) -> String {
    format!("mail.acme.test:{}", server.port())
}

/// Step and grade of each finding.
fn steps(rows: &Value) -> Vec<(&str, &str)> {
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| (row["step"].as_str().unwrap(), row["grade"].as_str().unwrap())).collect()
}

#[test]
fn operators_see_every_step_and_whose_the_certificate_is() {
    let folder = scratch();
    let ca = Ca::new(folder.path());
    let (node, _names) = node(Setup { ca_file: Some(ca.file().to_owned()), ..Setup::default() });
    for (names, grade) in [(["mail.acme.test"], "good"), (["other.test"], "fair")] {
        let manner = Manner { tls: Some(ca.server(&names)), ..Manner::default() };
        let sink = Sink::with(manner);
        node.serve("acme.test", &route(sink.address()));
        let rows = node.json(&["probe", "mx", "acme.test"]);
        let wanted = [
            ("connect", "good"),
            ("banner", "good"),
            ("helo", "good"),
            ("starttls", "good"),
            ("certificate", grade),
            ("mail", "good"),
            ("rcpt", "good"),
            ("quit", "good"),
        ];
        assert_eq!(steps(&rows), wanted, "{rows:#}");
        let certificate = rows[4]["words"].as_str().unwrap();
        assert!(certificate.contains("valid for mail.acme.test"), "{certificate}");
        assert_eq!(rows[0]["address"], sink.address().to_string());
        assert_eq!((sink.count(), sink.connections()), (0, 1));
        node.admin(&["domain", "remove", "acme.test"]);
        node.admin(&["customer", "remove", "acme"]);
    }
}

#[test]
fn a_server_is_judged_as_delivery_treats_it() {
    let folder = scratch();
    let ca = Ca::new(folder.path());
    let (node, _names) = node(Setup { ca_file: Some(ca.file().to_owned()), ..Setup::default() });
    let ehlo = "250-mail.acme.test\r\n250 STARTTLS\r\n";
    // Refused TLS, and a refusal for now: mail comes through, in the clear and later.
    let broken = Sink::scripted(move |step| match step {
        Step::Hello(_) => Act::Raw(ehlo.into()),
        Step::Rcpt(_) => Act::Say("450 4.7.1 come again".into()),
        _ => Act::Usual,
    });
    node.serve("acme.test", &route(broken.address()));
    let rows = node.json(&["probe", "mx", "acme.test"]);
    let found = steps(&rows);
    assert!(found.contains(&("starttls", "fair")) && found.contains(&("rcpt", "fair")), "{rows:#}");
    assert!(found.iter().all(|(_, grade)| *grade != "bad"), "{rows:#}");
    node.admin(&["domain", "set", "acme.test", "--tls", "require"]);
    let done = node.try_admin(&["--output", "json", "probe", "mx", "acme.test"]);
    assert_eq!(done.status.code(), Some(1), "{}", said(&done));
    // What counts is the name the domain demands, not the server's.
    let manner = Manner { tls: Some(ca.server(&["pinned.test"])), ..Manner::default() };
    let sink = Sink::with(manner);
    node.admin(&["domain", "set", "acme.test", "--route", &route(sink.address())]);
    for (pins, grade) in
        [("pinned:other.test,pinned.test", "good"), ("pinned:mail.acme.test", "bad")]
    {
        node.admin(&["domain", "set", "acme.test", "--tls", pins]);
        let done = node.try_admin(&["--output", "json", "probe", "mx", "acme.test"]);
        let rows: Value = serde_json::from_slice(&done.stdout).unwrap();
        assert!(steps(&rows).contains(&("certificate", grade)), "{pins}: {rows:#}");
    }
}

#[test]
fn what_keeps_mail_away_is_told_in_the_servers_words_but_never_raw() {
    let (node, _names) = node(Setup::default());
    let sink = Sink::scripted(|step| match step {
        Step::Rcpt("<postmaster@acme.test>") => {
            Act::Raw(b"550 5.1.1 \x1b[31mno\x07 <b>\r\n".to_vec())
        }
        _ => Act::Usual,
    });
    node.serve("acme.test", &route(sink.address()));
    let done = node.try_admin(&["--output", "json", "probe", "mx", "acme.test"]);
    assert_eq!(done.status.code(), Some(1));
    assert!(said(&done).contains("mail does not come through"), "{}", said(&done));
    let rows: Value = serde_json::from_slice(&done.stdout).unwrap();
    let refused = rows.as_array().unwrap().iter().find(|row| row["step"] == "rcpt").unwrap();
    assert_eq!(refused["words"], "550 5.1.1 ?[31mno? <b>");
    let table = node.try_admin(&["probe", "mx", "acme.test"]);
    assert!(!table.stdout.contains(&0x1b), "an escape reaches a terminal");
    let done = node.try_admin(&["probe", "mx", "elsewhere.test"]);
    assert!(said(&done).contains("there is no domain elsewhere.test"), "{}", said(&done));
}

/// A server that does this with each connection, and how many it has had.
fn server(
    serve: impl Fn(std::net::TcpStream) + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (count, serve) = (Arc::new(AtomicUsize::new(0)), Arc::new(serve));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::SeqCst);
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(stream));
        }
    });
    (address, count)
}

#[test]
fn a_hostile_server_costs_little_and_its_words_are_text() {
    let (node, _names) = node(Setup::default());
    // One that drips for ever, one that never stops, and one that writes pages.
    let (drips, _) = server(|mut stream| {
        while stream.write_all(b"2").is_ok() {
            std::thread::sleep(Duration::from_secs(1)); // as slow as it likes
        }
    });
    let (pours, _) = server(|mut stream| {
        let line = [b'x'; 64 * 1024];
        while stream.write_all(&line).is_ok() {}
    });
    let (writes, _) = server(|mut stream| {
        let _ = stream.write_all(b"554 <script>alert(1)</script> \x1b[2J\r\n");
        let _ = stream.read(&mut [0; 64]);
    });
    let routes = [drips, pours, writes].map(route).join(",");
    node.serve("acme.test", &routes);
    let begun = Instant::now();
    let page = test(&node, "acme.test", CODE).1;
    // Ten seconds each, all at once.
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt; ?[2J"), "{page}");
    assert!(!page.contains("<script") && page.len() < 20_000, "{page}");
    assert!(page.contains("Mail does not come through"), "{page}");
}

/// The page that tests a domain.
fn test(node: &Node, domain: &str, code: &str) -> (u16, String) {
    http_get(node.http(), &format!("/tools/mx?domain={domain}&code={code}")).unwrap()
}

#[test]
fn visitors_test_what_is_theirs_and_public_and_not_too_often() {
    let (address, connections) = server(|mut stream| {
        let _ = stream.write_all(b"220 hello\r\n");
        let _ = stream.read(&mut [0; 64]);
    });
    let (node, _names) = node(Setup { production_routes: true, ..Setup::default() });
    node.admin(&["customer", "add", "acme", "--contact", "ops@acme.test"]);
    // Both are fine for an operator's route, and no business of a visitor.
    let routes = format!("10.11.12.13:25,mail.acme.test:{}", address.port());
    node.admin(&["domain", "add", "acme.test", "--customer", "acme", "--route", &routes]);
    node.admin(&["domain", "add", "unproven.test", "--customer", "acme", "--route", &routes]);
    for (path, status, words) in [
        ("/tools/mx", 200, "Test your MX servers"),
        ("/tools/mx?domain=", 200, "Test your MX servers"),
        ("/tools/mx?domain=acme.test", 200, "_mxfleet.acme.test. IN TXT &quot;test="),
        ("/tools/mx?domain=ACME.test.&code=x", 200, "_mxfleet.acme.test. IN TXT"),
        ("/tools/mx?domain=elsewhere.test", 404, "No customer of this service has that domain."),
        ("/tools/mx?domain=%3Cscript%3E", 422, "This is no domain."),
        ("/tools/mx?domain=127.0.0.1", 422, "This is no domain."),
        ("/tools/mx?domain=%24%28id%29", 422, "This is no domain."),
        ("/tools/mx?domain=a%0d%0ab", 422, "This is no domain."),
        ("/tools/mx?domain=a&domain=b", 400, "This is no domain."),
    ] {
        let (got, page) = http_get(node.http(), path).unwrap();
        assert_eq!(got, status, "{path}: {page}");
        assert!(page.contains(words) && !page.contains("<script"), "{path}: {page}");
    }
    let page = test(&node, "unproven.test", CODE).1;
    assert!(page.contains("The record is not there yet.") || page.contains("lookup"), "{page}");
    let page = test(&node, "acme.test", "fedcba9876543210").1;
    assert!(page.contains("The record is not there yet."), "{page}");
    let page = test(&node, "acme.test", CODE).1;
    assert!(page.contains("its address is not a public one"), "{page}");
    assert!(page.contains("has no address that mail can be sent to"), "{page}");
    assert!(!page.contains("10.11.12.13:25"), "{page}");
    assert_eq!(connections.load(Ordering::SeqCst), 0, "a private address was connected to");
    for _ in 0..3 {
        assert_eq!(test(&node, "acme.test", CODE).0, 200);
    }
    let (status, page) = test(&node, "acme.test", CODE);
    assert_eq!(status, 429, "{page}");
    assert!(page.contains("Please wait a minute."), "{page}");
}

#[test]
fn a_customer_finds_the_records_and_the_test_with_a_browser() {
    let (node, _names) = node(Setup::default());
    let sink = Sink::start();
    node.admin(&["settings", "set", "rotation.zone", "relay.example"]);
    node.admin(&["host", "set", "mx1", "--address", "192.0.2.1"]);
    node.serve("acme.test", &route(sink.address()));
    // More of them in a minute would have to wait.
    for eyes in &EYES[..2] {
        let browser = Browser::open(*eyes);
        browser.go(&format!("http://{}/help/mx", node.http()));
        inspect(&browser);
        browser.fill("#domain", "acme.test");
        browser.click("form button");
        let page = browser.text("main");
        assert!(page.contains("What acme.test should have"), "{page}");
        assert!(page.contains("20 mail.acme.test"), "{page}");
        inspect(&browser);
        picture(&browser, *eyes, "records");
        browser.click("nav a[href='/tools/mx']");
        browser.fill("#domain", "acme.test");
        browser.click("form button");
        assert!(browser.text("pre").starts_with("_mxfleet.acme.test. IN TXT \"test="));
        inspect(&browser);
        picture(&browser, *eyes, "proof");
        browser.go(&format!("http://{}/tools/mx?domain=acme.test&code={CODE}", node.http()));
        let page = browser.text("main");
        assert!(
            page.contains("Encryption") && page.contains("mail is sent in the clear"),
            "{page}"
        );
        assert!(page.contains("Your mail comes through. Something could be better."), "{page}");
        inspect(&browser);
        picture(&browser, *eyes, "test");
    }
    let browser = Browser::without_scripts(EYES[0]);
    browser.go(&format!("http://{}/tools/mx?domain=acme.test&code={CODE}", node.http()));
    let page = browser.text("main");
    assert!(page.contains("Your mail comes through. Something could be better."), "{page}");
    assert_eq!(sink.count(), 0);
}
