//! A customer's own view: the link comes by mail, leads to the same on every node, shows what is
//! the customer's and nothing else, and pardons.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::browser::{Browser, EYES, inspect, picture};
use support::dns::{NameServer, Software};
use support::fleet::{Fleet, on_loopback};
use support::maildir::Maildir;
use support::node::{Node, Setup, http_get};
use support::postfix::Postfix;
use support::process::said;
use support::sink::{Act, Sink, Step};
use support::{SOON, eventually, free_address};

const TEXT: &[u8] = b"Subject: hello\r\n\r\nhello\r\n";
/// From a pardon to the last node that takes mail; it takes some 50 ms, and a second is promised.
const PARDONED: Duration = Duration::from_secs(5);
const HOSTILE: &str = "<script>alert(1)</script> & sons";

/// The names of the fleet are in its own zone, the customers' records in theirs.
fn names() -> NameServer {
    let acme = "mail A 127.0.0.1\n@ MX 10 mx-a.relay.test.\n@ MX 20 mail.old.test.\n";
    let bolt = "@ MX 10 mx-a.relay.test.\n";
    NameServer::start(Software::Bind, &[("acme.test", acme), ("bolt.test", bolt)])
}

fn set(node: &Node, settings: &[(&str, &str)]) {
    for (name, value) in settings {
        node.admin(&["settings", "set", name, value]);
    }
}

/// Three nodes that tell their log everything, a name on each of two, and two customers: acme with
/// this server, and bolt.
fn fleet(dns: &NameServer, acme: SocketAddr, bolt: &Sink) -> Fleet {
    let setup = |name| Setup {
        dns: Some(dns.address()),
        wrapper: vec![
            "env".into(),
            "MXFLEET_LOG=debug,mxfleet=trace,axum=trace,hyper=trace".into(),
        ],
        ..on_loopback(name)
    };
    let fleet = Fleet::with(&["mx1", "mx2", "mx3"].map(setup));
    let node = &fleet.nodes[0];
    let url = format!("http://{}", fleet.nodes[1].http());
    set(
        node,
        &[
            ("rotation.zone", "relay.test"),
            ("service.address", "support@relay.test"),
            ("blacklist.threshold", "1"),
            ("site.url", &url),
        ],
    );
    for (host, address, name) in
        [("mx1", "127.0.0.11", "mx-a.relay.test"), ("mx2", "127.0.0.12", "mx-b.relay.test")]
    {
        node.admin(&["host", "set", host, "--address", address]);
        node.admin(&["name", "add", name, "--host", host, "--published"]);
    }
    node.serve("acme.test", &format!("mail.acme.test:{}", acme.port()));
    node.admin(&["customer", "set", "acme", "--name", HOSTILE]);
    let nobody = format!("mail.acme.test:{}", free_address().port());
    node.admin(&["domain", "add", "acme.org", "--customer", "acme", "--route", &nobody]);
    node.serve("bolt.test", &bolt.route());
    let known = |node: &Node| node.try_admin(&["domain", "show", "bolt.test"]).status.success();
    eventually("the domains at every node", SOON, || fleet.nodes.iter().all(known));
    fleet
}

/// Status, header and body of a request.
fn ask(server: SocketAddr, head: &str, body: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    write!(
        stream,
        "{head} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), head.to_lowercase(), body.to_owned())
}

fn post(node: &Node, path: &str, body: &str) -> (u16, String) {
    let (status, _, page) = ask(node.http(), &format!("POST {path}"), body);
    (status, page)
}

fn see(node: &Node, path: &str) -> String {
    let (status, page) = http_get(node.http(), path).unwrap();
    assert_eq!(status, 200, "{path}: {page}");
    page
}

fn rcpt(node: &Node, to: &str) -> u16 {
    node.client().envelope("a@sender.test", &[to])[1].code
}

/// Mail for somebody whom the customer's server does not know: refused by all nodes from then on.
fn list(fleet: &Fleet, node: usize, to: &str) {
    assert_eq!(fleet.nodes[node].client().deliver("a@sender.test", &[to], TEXT).code, 250);
    for node in &fleet.nodes {
        eventually(&format!("{to} is listed"), SOON, || rcpt(node, to) == 550);
    }
}

/// The path in the letter.
fn link_in(letter: &str) -> String {
    let at = letter.find("/customer/").unwrap_or_else(|| panic!("no link in\n{letter}"));
    letter[at..].split_whitespace().next().unwrap().to_owned()
}

fn link(node: &Node, customer: &str) -> String {
    link_in(node.json(&["customer", "link", customer])["link"].as_str().unwrap())
}

fn letters(mailbox: &Maildir) -> Vec<String> {
    let letters = mailbox.mail().into_iter().map(|letter| String::from_utf8(letter).unwrap());
    letters.filter(|letter| letter.contains("Subject: The link you asked for")).collect()
}

fn audit(node: &Node) -> Vec<(String, String)> {
    let rows = node.json(&["cluster", "audit"]);
    let word = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    rows.as_array().unwrap().iter().map(|row| (word(row, "actor"), word(row, "what"))).collect()
}

#[test]
fn the_link_comes_by_mail_shows_the_customers_own_on_every_node_and_pardons() {
    let (dns, postfix, bolt) = (names(), Postfix::start("acme.test", &["ops"]), Sink::start());
    let mut fleet = fleet(&dns, postfix.address(), &bolt);
    let gone = "gone@acme.test";
    list(&fleet, 0, gone);
    let waits = fleet.nodes[1].client().deliver("a@sender.test", &["x@acme.org"], TEXT);
    assert_eq!(waits.code, 250);
    // Whatever is asked for, the answer is the same.
    let (status, page) = post(&fleet.nodes[1], "/customer", "of=Acme.test.");
    assert_eq!(status, 200, "{page}");
    let other = post(&fleet.nodes[1], "/customer", "of=nobody.test").1;
    assert_eq!(page.replace("Acme.test.", "nobody.test"), other);
    assert!(page.contains("a link is on its way"), "{page}");
    let mailbox = postfix.mailbox();
    eventually("the letter", SOON, || !letters(&mailbox).is_empty());
    let letter = letters(&mailbox).remove(0);
    for part in [
        "Return-Path: <>",
        "Auto-Submitted: auto-generated",
        "From: <support@relay.test>",
        "To: <ops@acme.test>",
        &format!("    http://{}/customer/", fleet.nodes[1].http()),
    ] {
        assert!(letter.contains(part), "{part:?} is not in\n{letter}");
    }
    let acme = link_in(&letter);
    reads(&fleet, &acme, gone);
    let other = link(&fleet.nodes[2], "bolt");
    stay_apart(&fleet, &acme, &other);
    assert_eq!(rcpt(&fleet.nodes[0], gone), 550);
    pardons(&fleet, &acme);
    looks_while_suspended(&fleet, &acme);
    // Without a quorum all is shown as it was, and nothing is changed.
    for (node, name) in ["mx1", "mx2"].into_iter().enumerate() {
        fleet.nodes[node].kill();
        let page = see(&fleet.nodes[2], &acme);
        assert!(page.contains(&format!("<strong>{name}</strong> did not answer")), "{page}");
    }
    let (status, page) =
        post(&fleet.nodes[2], &format!("{acme}/pardon"), "address=gone%40acme.test");
    assert_eq!(status, 503, "{page}");
    assert!(page.contains("Nothing was changed") || page.contains("not known"), "{page}");
    assert_eq!(rcpt(&fleet.nodes[2], gone), 550);
    stays_secret(&fleet, &[&acme, &other]);
}

/// On every node.
fn reads(fleet: &Fleet, acme: &str, gone: &str) {
    for node in &fleet.nodes {
        let waiting = "One message waits for them";
        eventually("one that waits", SOON, || see(node, acme).contains(waiting));
        let page = see(node, acme);
        for part in [
            "&lt;script&gt;alert(1)&lt;/script&gt; &amp; sons",
            "acme.org",
            gone,
            " mx-b.relay.test.</code>",
            "acme.test. IN MX 20 mail.old.test.",
            "User unknown",
            "<code>a@sender.test</code>",
        ] {
            assert!(page.contains(part), "{part:?} is not in\n{page}");
        }
        assert!(!page.contains("bolt") && !page.contains("<script"), "{page}");
    }
}

/// Neither sees, nor changes, what is the other's.
fn stay_apart(fleet: &Fleet, acme: &str, bolt: &str) {
    let page = see(&fleet.nodes[0], bolt);
    assert!(page.contains("bolt.test") && !page.contains("acme"), "{page}");
    for (path, address) in [
        (bolt, "gone@acme.test"),
        (acme, "gone@bolt.test"),
        (acme, "nobody"),
        (acme, "x@nowhere.test"),
    ] {
        let (status, page) =
            post(&fleet.nodes[2], &format!("{path}/pardon"), &format!("address={address}"));
        assert_eq!(status, 404, "{address}: {page}");
    }
    let path = format!("{bolt}/tools/mx?domain=acme.test");
    assert_eq!(http_get(fleet.nodes[2].http(), &path).unwrap().0, 404);
}

fn pardons(fleet: &Fleet, acme: &str) {
    let (status, page) =
        post(&fleet.nodes[2], &format!("{acme}/pardon"), "address=gone%40acme.test");
    let pardoned = Instant::now();
    assert_eq!((status, page.contains("gone@acme.test gets mail again.")), (200, true), "{page}");
    for node in &fleet.nodes {
        let again = || rcpt(node, "gone@acme.test") == 250;
        eventually("mail for who was pardoned", PARDONED, again);
    }
    println!("pardoned everywhere after {:?}", pardoned.elapsed());
    assert!(!see(&fleet.nodes[1], acme).contains("Pardon gone@acme.test"));
    let asked = audit(&fleet.nodes[0]);
    for what in
        ["blacklist pardon gone@acme.test, by a link", "customer link acme, to its contacts"]
    {
        let is_it =
            |(actor, said): &(String, String)| actor == "customer acme" && said.starts_with(what);
        assert!(asked.iter().any(is_it), "{what:?}: {asked:?}");
    }
}

/// Who is suspended may look, and is told why.
fn looks_while_suspended(fleet: &Fleet, acme: &str) {
    let (first, last) = (&fleet.nodes[0], &fleet.nodes[2]);
    list(fleet, 0, "gone@acme.test");
    first.admin(&["customer", "suspend", "acme"]);
    eventually("the suspension", SOON, || see(last, acme).contains("is suspended"));
    let page = see(last, acme);
    assert!(page.contains("mailto:support@relay.test") && !page.contains("Pardon gone"), "{page}");
    let (status, page) = post(last, &format!("{acme}/pardon"), "address=gone%40acme.test");
    assert_eq!(status, 409, "{page}");
    assert!(page.contains("Nothing was changed: the customer is suspended"), "{page}");
    first.admin(&["customer", "resume", "acme"]);
    eventually("the end of it", SOON, || !see(last, acme).contains("is suspended"));
}

/// In no log, and in no metric.
fn stays_secret(fleet: &Fleet, links: &[&str]) {
    for node in &fleet.nodes {
        for file in [node.log(), node.delivery_log()] {
            let log = std::fs::read(&file).unwrap();
            for link in links {
                let secret = link.rsplit_once('/').unwrap().1;
                let found = memchr::memmem::find(&log, secret.as_bytes());
                assert_eq!(found, None, "{secret} is in {}", file.display());
            }
        }
    }
    let (_, metrics) = http_get(fleet.nodes[2].metrics(), "/metrics").unwrap();
    assert!(!metrics.contains("acme"), "{metrics}");
}

#[test]
fn who_asks_often_gets_three_letters_and_links_end_with_their_customer() {
    let (dns, postfix, bolt) = (names(), Postfix::start("acme.test", &["ops"]), Sink::start());
    let fleet = fleet(&dns, postfix.address(), &bolt);
    // A contact's own address does as well as a domain; each node takes its share.
    for n in 0..6 {
        let of = if n % 2 == 0 { "of=OPS%40acme.test" } else { "of=acme.test" };
        let (status, page) = post(&fleet.nodes[n % 3], "/customer", of);
        assert_eq!(status, 200, "{page}");
        let known = |node: &Node| {
            let links = audit(node).into_iter().filter(|(_, what)| what.contains("by mail"));
            links.count() > n.min(2)
        };
        eventually("a link everywhere", SOON, || fleet.nodes.iter().all(known));
    }
    let mailbox = postfix.mailbox();
    eventually("three letters", SOON, || letters(&mailbox).len() == 3);
    let links: Vec<String> = letters(&mailbox).iter().map(|letter| link_in(letter)).collect();
    assert!(links.iter().all(|link| see(&fleet.nodes[0], link).contains("Mail of")));
    // Operators may make more.
    let printed = link(&fleet.nodes[1], "acme");
    assert!(see(&fleet.nodes[2], &printed).contains("Mail of"));
    let gone = |node: &Node, link: &str| {
        let (status, page) = http_get(node.http(), link).unwrap();
        assert!([200, 404].contains(&status), "{page}");
        assert!(status == 200 || page.contains("This link leads nowhere, or no longer."), "{page}");
        status == 404
    };
    let (status, page) = post(&fleet.nodes[0], &format!("{printed}/end"), "");
    assert_eq!((status, page.contains("leads nowhere any more")), (200, true), "{page}");
    assert_eq!(post(&fleet.nodes[0], &format!("{printed}/end"), "").0, 404);
    assert!(!gone(&fleet.nodes[0], &links[0]));
    for node in &fleet.nodes {
        eventually("the end of the link", SOON, || gone(node, &printed));
    }
    let node = &fleet.nodes[0];
    for domain in ["acme.test", "acme.org"] {
        node.admin(&["domain", "remove", domain]);
    }
    node.admin(&["customer", "remove", "acme"]);
    for node in &fleet.nodes {
        eventually("the end of all links", SOON, || links.iter().all(|link| gone(node, link)));
    }
    eventually("letters that are away", SOON, || fleet.nodes.iter().all(|n| n.queued() == 0));
    assert_eq!(letters(&mailbox).len(), 3, "no further ones");
}

#[test]
fn who_asks_badly_is_told_in_a_sentence_and_a_link_that_is_no_good_says_nothing_else() {
    let node = Node::start();
    node.serve("acme.test", "mail.acme.test:25");
    let page = see(&node, "/customer");
    assert!(page.contains("Links cannot be mailed") && !page.contains("<form"), "{page}");
    let (status, page) = post(&node, "/customer", "of=acme.test");
    assert_eq!((status, page.contains("site.url")), (503, true), "{page}");
    let printed = node.json(&["customer", "link", "acme"]);
    assert!(printed["link"].as_str().unwrap().starts_with("/customer/"), "{printed}");
    let good = printed["link"].as_str().unwrap().to_owned();
    let done = node.try_admin(&["customer", "link", "acme"]);
    assert!(said(&done).contains("put the address of a status page in front"), "{}", said(&done));
    let done = node.try_admin(&["customer", "link", "nobody"]);
    assert_eq!(done.status.code(), Some(1), "{}", said(&done));
    assert!(said(&done).contains("there is no customer nobody"), "{}", said(&done));
    node.admin(&["settings", "set", "site.url", "https://status.relay.example"]);
    assert!(see(&node, "/customer").contains("<form"));
    is_refused(&node, &good);
    let (status, _, page) = ask(node.http(), "POST /customer", "of=acme.test");
    assert_eq!(status, 200, "{page}");
    // The tools' turns hold for the form, too.
    for _ in 0..5 {
        post(&node, "/customer", "of=acme.test");
    }
    let (status, page) = post(&node, "/customer", "of=acme.test");
    assert_eq!((status, page.contains("Please wait a minute.")), (429, true), "{page}");
    node.admin(&["settings", "set", "customer.link_life", "1s"]);
    eventually("the end of the link", SOON, || http_get(node.http(), &good).unwrap().0 == 404);
}

/// Everything that is asked badly, with a link that is good.
fn is_refused(node: &Node, good: &str) {
    let zeros = format!("/customer/{}", "0".repeat(40));
    let none = "This link leads nowhere, or no longer.";
    let long = format!("of={}", "x".repeat(10_000));
    for (head, body, status, words) in [
        (format!("GET {zeros}"), "", 404, none),
        (format!("GET {}x", good), "", 404, none),
        (format!("GET {}", good.to_uppercase().replace("/CUSTOMER", "/customer")), "", 404, none),
        ("GET /customer/%3Cscript%3E".into(), "", 404, none),
        ("GET /customer/..%2f..%2fetc".into(), "", 404, none),
        (format!("GET {zeros}/tools/mx?domain=acme.test"), "", 404, none),
        (format!("GET {zeros}/pardon"), "", 404, none),
        (format!("POST {zeros}/pardon"), "address=a%40acme.test", 404, none),
        (format!("POST {zeros}/end"), "", 404, none),
        (format!("GET {good}/tools/mx?domain=127.0.0.1"), "", 404, "That is none of your domains."),
        (format!("GET {good}/tools/ping"), "", 404, "That is none of your domains."),
        (format!("GET {good}/tools/shell?domain=acme.test"), "", 404, "There is no such tool."),
        (format!("GET {good}/pardon"), "", 303, ""),
        (format!("POST {good}"), "", 405, "This page can only be read."),
        (format!("POST {good}/pardon"), "", 400, "The form is not as it should be."),
        (format!("POST {good}/pardon"), &long, 413, "That is too long."),
        ("POST /customer".into(), "", 400, "The form is not as it should be."),
        ("POST /customer".into(), &long, 413, "That is too long."),
        ("POST /customer".into(), "of=%3Cscript%3E", 422, "neither a domain nor a mail address"),
        ("POST /customer".into(), "of=a%0d%0ab%40c.test", 422, "neither a domain nor"),
    ] {
        let (got, header, page) = ask(node.http(), &head, body);
        assert_eq!(got, status, "{head}: {page}");
        assert!(page.contains(words) && !page.contains("<script"), "{head}: {page}");
        for guard in ["cache-control: no-store", "referrer-policy: no-referrer", "default-src"] {
            assert!(header.contains(guard), "{head}: {header}");
        }
        assert!(!header.contains("set-cookie"), "{header}");
    }
}

/// A server that knows nobody who is gone.
fn strict() -> Sink {
    Sink::scripted(|step| match step {
        Step::Rcpt(to) if to.contains("gone") => Act::Say("550 5.1.1 User unknown".into()),
        _ => Act::Usual,
    })
}

/// Something of everything for acme to see; its link.
fn busy(fleet: &Fleet, strict: &Sink) -> String {
    for n in 0..3 {
        list(fleet, n, &format!("gone-{n}@acme.test"));
    }
    let node = &fleet.nodes[1];
    let own = ["--route", &strict.route(), "--blacklist-threshold", "10"];
    let domain = ["domain", "add", "acme.example", "--customer", "acme"];
    node.admin(&[&domain[..], &own].concat());
    for to in ["gone-x@acme.example", "x@acme.org", "y@acme.org"] {
        assert_eq!(node.client().deliver("a@sender.test", &[to], TEXT).code, 250);
    }
    node.admin(&["host", "set", "mx3", "--address", "127.0.0.13"]);
    let plan = ["migration", "plan", "--retire", "mx-a.relay.test", "--introduce"];
    let terms = ["mx-c.relay.test=mx3", "--ends", "35d", "--text", "It moves."];
    node.admin(&[&plan[..], &terms].concat());
    node.admin(&["migration", "announce"]);
    node.admin(&["name", "point", "mx-c.relay.test", "mx3", "--published"]);
    let path = link(node, "acme");
    eventually("a refusal that counts", SOON, || see(node, &path).contains("gone-x@acme.example"));
    eventually("mail that waits", SOON, || see(node, &path).contains("2 messages wait for them, "));
    path
}

#[test]
fn a_customer_walks_through_its_view_with_a_browser() {
    let (dns, strict, bolt) = (names(), strict(), Sink::start());
    let fleet = fleet(&dns, strict.address(), &bolt);
    let node = &fleet.nodes[1];
    let path = busy(&fleet, &strict);
    let url = format!("http://{}{path}", node.http());
    for eyes in EYES {
        let browser = Browser::open(*eyes);
        browser.go(&format!("http://{}/customer", node.http()));
        inspect(&browser);
        picture(&browser, *eyes, "customer-form");
        browser.go(&url);
        assert_eq!(browser.text("h1"), format!("Mail of {HOSTILE}"));
        let page = browser.text("main");
        for part in [
            "2 messages wait for them",
            " mx-b.relay.test.",
            "User unknown",
            "Your MX names",
            "MX names change, and some of them are yours.",
            " mx-c.relay.test.",
        ] {
            assert!(page.contains(part), "{part:?} is not in\n{page}");
        }
        inspect(&browser);
        picture(&browser, *eyes, "customer");
        browser.evaluate("document.querySelector('#recipients').scrollIntoView()");
        picture(&browser, *eyes, "customer-recipients");
        assert_eq!(browser.count(&format!("a[href='{path}/tools/mx?domain=acme.test']")), 1);
        browser.go(&format!("{url}/tools/mx?domain=acme.test"));
        assert!(browser.text("main").contains("mail comes through"));
        inspect(&browser);
        picture(&browser, *eyes, "customer-test");
        if eyes.width == 390 && eyes.dark {
            browser.go(&url);
            let before = browser.count("button[name=address]");
            browser.click("button[value='gone-1@acme.test']");
            assert_eq!(browser.text("h1"), "gone-1@acme.test gets mail again.");
            inspect(&browser);
            picture(&browser, *eyes, "customer-pardoned");
            browser.click("main p a");
            assert_eq!(browser.count("button[name=address]"), before - 1);
        }
    }
    let browser = Browser::without_scripts(EYES[0]);
    browser.go(&url);
    let page = browser.text("main");
    assert!(page.contains("gone-2@acme.test") && page.contains("2 messages wait"), "{page}");
    browser.go(&format!("http://{}/customer/{}", node.http(), "0".repeat(40)));
    assert_eq!(browser.text("h1"), "This link leads nowhere, or no longer.");
}
