//! Customers' servers are asked whether they know a recipient while the client waits: unknown ones
//! are refused before there is a message, and whatever goes wrong, mail passes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::fleet::Fleet;
use support::node::{Node, Setup};
use support::sink::{Act, Sink, Step};
use support::{SOON, eventually};

/// Secret words of the customer's server, which nobody outside must read.
const SECRET: &str = "mail-7.internal.acme.test";

/// Recipients that a server was asked about, by questions and by messages alike.
type Asked = Arc<Mutex<Vec<String>>>;

/// A server that takes mail for those whose name is `known`.
fn server(known: impl Fn(&str) -> bool + Send + Sync + 'static) -> (Sink, Asked) {
    let asked = Asked::default();
    let seen = Arc::clone(&asked);
    let sink = Sink::scripted(move |step| match step {
        Step::Rcpt(to) => {
            let local = to.trim_start_matches('<').split('@').next().unwrap().to_lowercase();
            seen.lock().unwrap().push(local.clone());
            if known(&local) {
                return Act::Usual;
            }
            Act::Say(format!("550 5.1.1 <{local}>: {SECRET} says: User unknown"))
        }
        _ => Act::Usual,
    });
    (sink, asked)
}

fn callout(node: &Node, sink: &Sink) {
    node.admin(&["customer", "add", "acme", "--contact", "ops@acme.test"]);
    let route = sink.route();
    let add = ["domain", "add", "acme.test", "--customer", "acme", "--route", &route];
    node.admin(&[&add[..], &["--verify", "callout"]].concat());
}

fn rcpt(node: &Node, to: &str) -> String {
    node.client().envelope("a@sender.test", &[to])[1].line()
}

fn times(asked: &Asked, local: &str) -> usize {
    asked.lock().unwrap().iter().filter(|asked| *asked == local).count()
}

#[test]
fn an_unknown_recipient_is_refused_by_all_after_one_was_told() {
    let (sink, asked) = server(|local| local == "jane");
    let fleet = Fleet::start(3);
    callout(&fleet.nodes[0], &sink);
    for node in &fleet.nodes {
        let verify = || node.json(&["domain", "list"])[0]["verify"] == "callout";
        eventually("the domain at every node", SOON, verify);
    }
    let [first, second, third] = &fleet.nodes[..] else { panic!("three nodes") };
    let refused = "550 5.1.1 <Bob@ACME.test>... no such user here";
    assert_eq!(rcpt(first, "Bob@ACME.test"), refused);
    assert!(rcpt(first, "jane@acme.test").starts_with("250 "));
    assert!(rcpt(first, "postmaster@acme.test").starts_with("250 "), "a postmaster is known");
    for node in [second, third] {
        eventually("what was answered at every node", SOON, || {
            let check = |to| node.json(&["explain", "rcpt", to])["check"].clone();
            check("bob@acme.test") == "callout" && check("jane@acme.test") == "all"
        });
        assert_eq!(rcpt(node, "Bob@ACME.test"), refused);
        assert!(rcpt(node, "jane@acme.test").starts_with("250 "));
    }
    assert_eq!((times(&asked, "bob"), times(&asked, "jane")), (1, 1), "asked once");
    assert_eq!(times(&asked, "postmaster"), 0);
    let probes = || asked.lock().unwrap().iter().filter(|l| l.ends_with("-nobody")).count();
    eventually("a name that nobody has", SOON, || probes() == 1);
    // It is not held against the recipient, and an operator can have it asked again.
    assert_eq!(
        second.json(&["blacklist", "show", "bob@acme.test"])["rejections"],
        serde_json::json!([])
    );
    second.admin(&["blacklist", "pardon", "bob@acme.test"]);
    eventually("a question", SOON, || {
        third.json(&["explain", "rcpt", "bob@acme.test"])["accepted"] == true
    });
    assert_eq!(rcpt(third, "Bob@ACME.test"), refused);
    assert_eq!(times(&asked, "bob"), 2);
    // Mail goes its way.
    let text = b"Subject: hello\r\n\r\nhello\r\n";
    assert_eq!(third.client().deliver("a@sender.test", &["jane@acme.test"], text).code, 250);
    sink.await_count(1, SOON);
    assert_eq!(sink.count(), 1, "questions are no messages");
    // A change of the domain makes what was answered void.
    second.admin(&["domain", "set", "acme.test", "--verify", "off"]);
    for node in &fleet.nodes {
        eventually("no questions", SOON, || rcpt(node, "bob@acme.test").starts_with("250 "));
    }
}

#[test]
fn a_server_that_knows_any_name_is_asked_no_more() {
    let (sink, asked) = server(|_| true);
    let node = Node::start();
    callout(&node, &sink);
    assert!(rcpt(&node, "u0@acme.test").starts_with("250 "));
    eventually("the probe", SOON, || asked.lock().unwrap().len() == 2);
    eventually("what it showed", SOON, || {
        node.json(&["explain", "rcpt", "any@acme.test"])["check"] == "all"
    });
    for n in 1..20 {
        assert!(rcpt(&node, &format!("u{n}@acme.test")).starts_with("250 "));
    }
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked[1].ends_with("-nobody"));
}

#[test]
fn what_is_no_clear_no_is_a_yes() {
    let sink = Sink::scripted(|step| match step {
        Step::Rcpt(to) if to.contains("grey") => Act::Say("450 4.2.0 greylisted, come back".into()),
        Step::Rcpt(to) if to.contains("spam") => Act::Say("550 5.7.1 we know you, spammer".into()),
        Step::Rcpt(to) if to.contains("drop") => Act::Drop,
        Step::Rcpt(to) if to.contains("slow") => {
            std::thread::sleep(Duration::from_secs(8));
            Act::Usual
        }
        _ => Act::Usual,
    });
    let limits =
        vec![("callout_timeout_ms", "2000".to_owned()), ("callout_pause_ms", "1000".to_owned())];
    let node = Node::with(&Setup { limits, ..Setup::default() });
    callout(&node, &sink);
    let passes = |to: &str| assert!(rcpt(&node, to).starts_with("250 "), "{to}");
    let count =
        |result: &str| node.metric(&format!("mxfleet_callouts_total{{result=\"{result}\"}}"));
    passes("grey@acme.test");
    passes("spam@acme.test");
    assert_eq!(count("vague"), 2.0);
    let start = Instant::now();
    passes("slow@acme.test");
    assert!(start.elapsed() >= Duration::from_secs(2));
    assert_eq!(count("slow") + count("down"), 1.0, "who asked and who asks stop at once");
    // Its own asker stops a moment after the client's time is over.
    std::thread::sleep(Duration::from_millis(200));
    let before = (sink.connections(), count("down"));
    passes("other@acme.test");
    let after = (before.0, before.1 + 1.0);
    assert_eq!((sink.connections(), count("down")), after, "it is left alone for a while");
    eventually("another question", SOON, || {
        passes("drop@acme.test");
        sink.connections() > before.0
    });
}

#[test]
fn a_server_that_is_away_costs_nobody_anything() {
    let address = support::free_address();
    let node = Node::start();
    node.admin(&["customer", "add", "acme", "--contact", "ops@acme.test"]);
    let route = address.to_string();
    let add = ["domain", "add", "acme.test", "--customer", "acme", "--route", &route];
    node.admin(&[&add[..], &["--verify", "callout"]].concat());
    for n in 0..20 {
        assert!(rcpt(&node, &format!("u{n}@acme.test")).starts_with("250 "));
    }
    assert_eq!(node.metric("mxfleet_callouts_total{result=\"down\"}"), 20.0);
}

#[test]
fn many_questions_need_few_connections_and_hold_up_nobody_else() {
    let asking = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (now, top) = (Arc::clone(&asking), Arc::clone(&most));
    let sink = Sink::scripted(move |step| match step {
        Step::Rcpt(_) => {
            top.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(50));
            now.fetch_sub(1, Ordering::SeqCst);
            Act::Say("550 5.1.1 User unknown".to_owned())
        }
        _ => Act::Usual,
    });
    let other = Sink::start();
    let limits = vec![("callout_timeout_ms", "30000".to_owned())];
    let node = Node::with(&Setup { limits, ..Setup::default() });
    callout(&node, &sink);
    node.serve("bravo.test", &other.route());
    let clients: Vec<_> = (0..60)
        .map(|n| {
            let mut client = node.client();
            let to = format!("u{n}@acme.test");
            std::thread::spawn(move || client.envelope("a@sender.test", &[&to])[1].code)
        })
        .collect();
    let start = Instant::now();
    assert!(rcpt(&node, "user@bravo.test").starts_with("250 "));
    println!("another domain's recipient was answered in {:?}", start.elapsed());
    let codes: Vec<u16> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    assert!(codes.iter().all(|code| *code == 550), "{codes:?}");
    assert!(most.load(Ordering::SeqCst) <= 4, "{most:?} at a time");
    // Each is left after eight refusals, before a server punishes us for more.
    let most = 60_usize.div_ceil(8) + 4;
    assert!(sink.connections() <= most, "{} connections", sink.connections());
}
