//! Recipients that customers' servers keep refusing: learnt by a real fleet, refused by all of it,
//! and counted exactly once whatever is killed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use serde_json::Value;

use support::fleet::Fleet;
use support::node::Node;
use support::sink::{Act, Sink, Step};
use support::{Dice, SOON, eventually};

/// From the acceptance of the message that lists to the refusal by the last node; it takes some
/// 50 ms. What is promised holds for the most part even while other tests run, and
const SEEN_BY_MOST: Duration = Duration::from_secs(1);
/// this for each single time.
const SEEN_BY_ALL: Duration = Duration::from_secs(5);
const TEXT: &[u8] = b"Subject: to nobody\r\n\r\nhello\r\n";

/// Senders whose mail was refused, by recipient: what the fleet must have counted.
type Model = Arc<Mutex<BTreeMap<String, BTreeSet<String>>>>;

/// A customer's server that knows nobody whose name begins with `unknown`.
fn strict_server() -> (Sink, Model) {
    let model = Model::default();
    let seen = Arc::clone(&model);
    let senders: Mutex<HashMap<ThreadId, String>> = Mutex::default();
    let sink = Sink::scripted(move |step| {
        // Each connection has a thread of its own.
        let mut senders = senders.lock().unwrap();
        let connection = std::thread::current().id();
        match step {
            Step::Mail(sender) => {
                senders.insert(connection, inside(sender));
                Act::Usual
            }
            Step::Rcpt(recipient) if inside(recipient).starts_with("unknown") => {
                let sender = senders[&connection].clone();
                seen.lock().unwrap().entry(inside(recipient)).or_default().insert(sender);
                Act::Say("550 5.1.1 User unknown".to_owned())
            }
            _ => Act::Usual,
        }
    });
    (sink, model)
}

fn inside(argument: &str) -> String {
    argument.trim_start_matches('<').split('>').next().unwrap().to_owned()
}

/// A fleet of three with a customer whose server this is.
fn fleet(sink: &Sink, settings: &[(&str, &str)]) -> Fleet {
    let fleet = Fleet::start(3);
    fleet.nodes[0].serve("acme.test", &sink.route());
    for (name, value) in settings {
        fleet.nodes[0].admin(&["settings", "set", name, value]);
    }
    for node in &fleet.nodes {
        eventually("the domain at every node", SOON, || rcpt(node, "any@acme.test").0 == 250);
    }
    fleet
}

fn rcpt(node: &Node, to: &str) -> (u16, String) {
    let replies = node.client().envelope("a@sender.test", &[to]);
    (replies[1].code, replies[1].text.clone())
}

fn show(node: &Node, address: &str) -> Value {
    node.json(&["blacklist", "show", address])
}

fn counted(node: &Node, address: &str) -> usize {
    show(node, address)["rejections"].as_array().unwrap().len()
}

/// So many messages that are refused, spread over the nodes, and counted one by one.
fn fail(fleet: &Fleet, to: &str, times: std::ops::Range<usize>) {
    for n in times {
        let node = &fleet.nodes[n % 3];
        let reply = node.client().deliver(&format!("s{n}@sender.test"), &[to], TEXT);
        assert_eq!(reply.code, 250, "{reply:?}");
        if n % 10 < 9 {
            eventually("a rejection that counts", SOON, || counted(node, to) == n % 10 + 1);
        }
    }
}

/// Wait until every node answers RCPT with this code; how long the last one took.
fn await_answer(fleet: &Fleet, to: &str, code: u16) -> Duration {
    let start = Instant::now();
    for node in &fleet.nodes {
        eventually(&format!("{code} for {to}"), SOON, || rcpt(node, to).0 == code);
    }
    start.elapsed()
}

#[test]
fn the_tenth_failure_lists_everywhere_for_the_hold_and_ten_new_ones_list_again() {
    let (sink, _) = strict_server();
    let fleet = fleet(&sink, &[("blacklist.window", "60s"), ("blacklist.hold", "8s")]);
    let (to, given) = ("unknown-x@acme.test", "Unknown-X@ACME.test");
    for round in 0..2 {
        fail(&fleet, to, 0..9);
        for node in &fleet.nodes {
            eventually("nine everywhere", SOON, || counted(node, to) == 9);
            assert_eq!(rcpt(node, given).0, 250, "nine are not enough");
        }
        fail(&fleet, to, 9..10);
        let took = await_answer(&fleet, given, 550);
        println!("round {round}: refused everywhere {took:?} after the tenth was accepted");
        assert!(took < SEEN_BY_ALL, "{took:?}");
        let expected = "5.7.1 <Unknown-X@ACME.test>... too many failures for this recipient";
        assert_eq!(rcpt(&fleet.nodes[1], given).1, expected);
        let entry = show(&fleet.nodes[2], given);
        let until: jiff::Timestamp = entry["until"].as_str().unwrap().parse().unwrap();
        assert_eq!(entry["listed"], true);
        let rejections = entry["rejections"].as_array().unwrap();
        let nodes: BTreeSet<_> = rejections.iter().map(|r| r["node"].as_str().unwrap()).collect();
        assert_eq!(nodes, BTreeSet::from(["mx1", "mx2", "mx3"]));
        assert!(rejections.iter().all(|r| r["reply"] == "550 5.1.1 User unknown"), "{entry:#}");
        // Whoever is refused keeps trying; that neither counts nor extends.
        eventually("the end of the hold", SOON, || {
            let before = jiff::Timestamp::now();
            let refused = rcpt(&fleet.nodes[0], given).0 == 550;
            assert!(refused || jiff::Timestamp::now() >= until, "listed until {until}");
            assert!(!refused || before < until, "still refused after {until}");
            !refused
        });
        assert_eq!(show(&fleet.nodes[0], to)["listed"], false);
    }
}

#[test]
fn a_listing_is_seen_everywhere_within_a_second() {
    let (sink, _) = strict_server();
    let fleet = fleet(&sink, &[("blacklist.threshold", "1")]);
    let mut took: Vec<Duration> = (0..9)
        .map(|n| {
            let (node, to) = (&fleet.nodes[n % 3], format!("unknown-{n}@acme.test"));
            assert_eq!(node.client().deliver("a@sender.test", &[&to], TEXT).code, 250);
            await_answer(&fleet, &to, 550)
        })
        .collect();
    took.sort();
    println!("refused everywhere after {took:?}");
    assert!(took[4] < SEEN_BY_MOST && took[8] < SEEN_BY_ALL, "{took:?}");
}

#[test]
fn other_recipients_go_on_and_operators_pardon_and_exempt() {
    let (sink, _) = strict_server();
    let fleet = fleet(&sink, &[]);
    let to = "unknown-y@acme.test";
    fail(&fleet, to, 0..10);
    await_answer(&fleet, to, 550);
    let [first, second, third] = &fleet.nodes[..] else { panic!("three nodes") };

    let mut client = first.client();
    let replies = client.envelope("a@sender.test", &["one@acme.test", to, "two@acme.test"]);
    let codes: Vec<_> = replies.iter().map(|reply| reply.code).collect();
    assert_eq!(codes, [250, 250, 550, 250]);
    client.command("DATA");
    client.send(b"Subject: x\r\n\r\nhello\r\n.\r\n");
    assert_eq!(client.reply().code, 250);
    let got = sink.await_count(1, SOON);
    assert_eq!(got[0].to(), ["one@acme.test", "two@acme.test"]);

    let lines = first.json(&["journal", "search", "--to", to, "--from", "s3@sender.test"]);
    assert_eq!(
        (&lines[0]["outcome"], &lines[0]["because"]),
        (&"suppressed".into(), &"not_a_customer".into()),
        "{lines:#}"
    );
    let suppressed = "mxfleet_bounces_total{because=\"not_a_customer\",kind=\"failed\",\
                      outcome=\"suppressed\"}";
    assert_eq!(first.metric(suppressed), 4.0);

    let explained = second.json(&["explain", "rcpt", to]);
    assert_eq!((&explained["accepted"], &explained["check"]), (&false.into(), &"blacklist".into()));
    let listed = third.json(&["blacklist", "list"]);
    assert_eq!(listed[0]["address"], to);
    let stats = third.json(&["blacklist", "stats"]);
    assert_eq!((&stats["tracked"], &stats["listed"]), (&1.into(), &1.into()));
    assert!(first.metric("mxfleet_blacklist_hits_total") >= 1.0);

    second.admin(&["blacklist", "pardon", to]);
    assert!(await_answer(&fleet, to, 250) < SEEN_BY_ALL);
    assert_eq!(counted(first, to), 0);

    third.admin(&["blacklist", "exempt", to, "--reason", "a friend"]);
    fail_uncounted(&fleet, to, 10);
    let entry = show(first, to);
    assert_eq!((&entry["listed"], &entry["exempt"]["reason"]), (&false.into(), &"a friend".into()));
    assert_eq!(rcpt(second, to).0, 250);
    first.admin(&["blacklist", "unexempt", to]);
    assert_eq!(show(first, to)["exempt"], Value::Null);
    for node in &fleet.nodes {
        eventually("the end of the exemption", SOON, || show(node, to)["exempt"].is_null());
        assert_eq!(rcpt(node, to).0, 250, "what happened while it was exempt was not counted");
    }
    fail(&fleet, to, 0..10);
    await_answer(&fleet, to, 550);
}

#[test]
fn a_domain_has_its_own_numbers_for_what_was_counted_before_too() {
    let (sink, _) = strict_server();
    let fleet = fleet(&sink, &[]);
    let to = "unknown-z@acme.test";
    let [first, second, third] = &fleet.nodes[..] else { panic!("three nodes") };
    fail(&fleet, to, 0..4);
    for node in &fleet.nodes {
        eventually("four everywhere", SOON, || counted(node, to) == 4);
    }
    let set = |node: &Node, words: &[&str]| {
        let mut all = vec!["domain", "set", "acme.test"];
        all.extend(words);
        node.admin(&all);
    };
    set(second, &["--blacklist-threshold", "4"]);
    assert!(await_answer(&fleet, to, 550) < SEEN_BY_ALL);
    set(third, &["--blacklist", "off"]);
    assert!(await_answer(&fleet, to, 250) < SEEN_BY_ALL);
    fail_uncounted(&fleet, to, 6);
    assert_eq!(counted(first, to), 4, "nothing is counted in a domain whose blacklist is off");
    set(first, &["--blacklist", "on", "--blacklist-hold", "1s"]);
    await_answer(&fleet, to, 250);
    let row = second.json(&["domain", "show", "acme.test"]);
    let own = ["blacklist", "blacklist_threshold", "blacklist_window", "blacklist_hold"];
    let own = own.map(|name| row[name].clone());
    assert_eq!(own, ["on".into(), 4.into(), Value::Null, "1s".into()]);
    set(first, &["--blacklist-threshold", "0", "--blacklist-hold", "0s"]);
    let row = first.json(&["domain", "show", "acme.test"]);
    assert!(row["blacklist_threshold"].is_null() && row["blacklist_hold"].is_null(), "{row:#}");
    let refused = first.try_admin(&["domain", "set", "acme.test", "--blacklist-window", "1y"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is a duration"), "{refused:?}");
}

/// Messages that are refused, without looking at the count in between.
fn fail_uncounted(fleet: &Fleet, to: &str, times: usize) {
    for n in 0..times {
        let node = &fleet.nodes[n % 3];
        assert_eq!(node.client().deliver("b@sender.test", &[to], TEXT).code, 250);
    }
    await_all_reported(fleet);
}

fn await_all_reported(fleet: &Fleet) {
    for node in &fleet.nodes {
        node.await_empty_queue(SOON);
        eventually("events that are counted", SOON, || {
            node.json(&["blacklist", "stats"])["waiting"] == 0
        });
    }
}

#[test]
fn whatever_is_killed_while_it_reports_the_counts_are_those_of_the_server() {
    const ROUNDS: usize = 6;
    const ADDRESSES: usize = 8;
    /// Fewer than the threshold, so that each one counts.
    const EACH: usize = 9;
    let (sink, model) = strict_server();
    let mut fleet = fleet(&sink, &[]);
    let mut dice = Dice::new(7);
    for round in 0..ROUNDS {
        let servers: Vec<_> = fleet.nodes.iter().map(Node::smtp).collect();
        let sending = std::thread::spawn(move || send(round, ADDRESSES * EACH, &servers));
        // At a moment that nobody chose, while mail comes in.
        std::thread::sleep(Duration::from_millis(dice.below(400) as u64));
        let victim = if round % 2 == 0 { fleet.await_leader() } else { dice.below(3) };
        fleet.nodes[victim].kill();
        std::thread::sleep(Duration::from_millis(dice.below(300) as u64));
        fleet.nodes[victim].restart();
        sending.join().unwrap();
    }
    await_all_reported(&fleet);
    fleet.await_same_state();
    let model = model.lock().unwrap().clone();
    let refused: usize = model.values().map(BTreeSet::len).sum();
    println!("{refused} refusals of {} addresses", model.len());
    assert!(model.len() == ROUNDS * ADDRESSES && refused > ROUNDS * ADDRESSES * EACH / 2);
    for (address, senders) in &model {
        let entry = show(&fleet.nodes[0], address);
        assert_eq!(entry["rejections"].as_array().unwrap().len(), senders.len(), "{entry:#}");
    }
    let stats = fleet.nodes[1].json(&["blacklist", "stats"]);
    assert_eq!(stats["tracked"], model.len());
}

/// Messages with a sender of their own, to the servers that answer.
fn send(round: usize, count: usize, servers: &[std::net::SocketAddr]) {
    for n in 0..count {
        let to = format!("unknown-{round}-{}@acme.test", n % (count / 9));
        let from = format!("s{round}-{n}@sender.test");
        // A client whose server dies does not know what became of its message; the model does.
        let Ok(mut client) = support::smtp::Smtp::open(servers[n % servers.len()]) else {
            continue;
        };
        if client.reply().code == 220 && client.command("EHLO client.test").code == 250 {
            client.deliver(&from, &[&to], TEXT);
        }
    }
}
