//! Every node looks at a customer's servers for itself, and whoever asks one sees what all see.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::SOON;
use support::browser::{Browser, EYES, inspect, picture};
use support::dns::{NameServer, Software};
use support::fleet::{Fleet, on_loopback};
use support::network::Network;
use support::node::{Node, Setup};
use support::process::{output, said};
use support::sink::{Act, Manner, Sink, Step};
use support::way::{ROUTER_V4, ROUTER_V6, SERVER_V4, SERVER_V6, Way};

/// How long a slow server thinks; less than a node waits for a reply.
const THINKING: Duration = Duration::from_secs(5);
const CODE: &str = "0123456789abcdef";
const ZONE: &str = "mail A 127.0.0.1\n@ MX 10 mx-a.relay.example.\n\
                    _mxfleet TXT \"test=0123456789abcdef\"\n";

/// What a probe prints as JSON, whatever it thinks of it, and what it says.
fn probe(node: &Node, tool: &str) -> (Vec<Value>, String) {
    let done = node.try_admin(&["--output", "json", "probe", tool, "acme.test"]);
    let rows = serde_json::from_slice(&done.stdout);
    (rows.unwrap_or_else(|error| panic!("{error}: {}", said(&done))), said(&done))
}

/// The rows of one node at the servers whose address begins so.
fn of<'a>(rows: &'a [Value], node: &str, address: &str) -> Vec<&'a Value> {
    let at = |row: &&Value| row["address"].as_str().is_some_and(|at| at.starts_with(address));
    rows.iter().filter(|row| row["node"] == node).filter(at).collect()
}

/// A customer's server that does not like what one of our servers calls itself.
fn choosy(name: &'static str) -> Sink {
    Sink::with(Manner {
        script: Some(Box::new(move |step| match step {
            Step::Hello(who) if *who == name => Act::Say("554 5.7.1 not <b>you</b>".to_owned()),
            _ => Act::Usual,
        })),
        ..Manner::default()
    })
}

/// Three nodes, and a customer's server that does not like what the second calls itself.
fn fleet_and_choosy_server() -> (Fleet, Sink, NameServer) {
    let names = NameServer::start(Software::Bind, &[("acme.test", ZONE)]);
    let setups =
        ["mx1", "mx2", "mx3"].map(|name| Setup { dns: Some(names.address()), ..on_loopback(name) });
    let mut fleet = Fleet::with(&setups);
    let sink = choosy("mx2.relay.example");
    let route = format!("mail.acme.test:{}", sink.address().port());
    fleet.nodes[0].serve("acme.test", &route);
    fleet.await_same_state();
    (fleet, sink, names)
}

fn sentence(sink: &Sink) -> String {
    let at = sink.address();
    format!("mail.acme.test ({at}) works from mx1 and mx3, but not from mx2.")
}

#[test]
fn operators_see_which_node_a_server_does_not_answer() {
    let (mut fleet, sink, _names) = fleet_and_choosy_server();
    let asked = &fleet.nodes[0];
    let (rows, words) = probe(asked, "mx");
    assert!(words.contains(&sentence(&sink)), "{words}");
    let nodes: BTreeSet<_> = rows.iter().map(|row| row["node"].as_str().unwrap()).collect();
    assert_eq!(nodes.into_iter().collect::<Vec<_>>(), ["mx1", "mx2", "mx3"]);
    let is_bad = |row: &&Value| row["grade"] == "bad";
    let bad: Vec<_> = rows.iter().filter(is_bad).collect();
    assert_eq!((bad.len(), &bad[0]["node"], &bad[0]["step"]), (1, &"mx2".into(), &"helo".into()));
    let table = asked.try_admin(&["probe", "mx", "acme.test"]);
    let table = String::from_utf8(table.stdout).unwrap();
    let header = table.lines().next().unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(header, ["SERVER", "ADDRESS", "STEP", "mx1", "mx2", "mx3"], "{table}");
    assert!(table.contains("bad: 554 5.7.1 not <b>you</b>"), "{table}");
    fleet.nodes[2].kill();
    let (rows, words) = probe(&fleet.nodes[0], "ping");
    assert!(words.contains("mx3 did not answer"), "{words}");
    let silent: Vec<_> = rows.iter().filter(|row| row["node"] == "mx3").collect();
    assert_eq!(silent.len(), 1);
    assert!(silent[0]["silent"].as_str().unwrap().starts_with("did not answer"), "{rows:?}");
    assert!(!of(&rows, "mx1", "127.0.0.1").is_empty() && !of(&rows, "mx2", "127.0.0.1").is_empty());
}

#[test]
fn the_dialog_is_shown_as_it_was_said_and_nothing_is_sent() {
    let (fleet, sink, _names) = fleet_and_choosy_server();
    let (rows, words) = probe(&fleet.nodes[0], "smtp");
    assert!(words.contains(&sentence(&sink)), "{words}");
    let lines = |node: &str| {
        let lines = of(&rows, node, "127.0.0.1").into_iter();
        let word = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
        lines.map(|row| format!("{}: {}", word(row, "by"), word(row, "words"))).collect::<Vec<_>>()
    };
    let (well, not) = (lines("mx1"), lines("mx2"));
    for said in [
        "node: EHLO mx1.relay.example",
        "server: 250-PIPELINING",
        "node: MAIL FROM:<>",
        "node: RCPT TO:<postmaster@acme.test>",
    ] {
        assert!(well.iter().any(|line| line == said), "{well:?} has no {said}");
    }
    assert_eq!(well[well.len() - 2], "node: QUIT", "{well:?}");
    assert!(not.contains(&"server: 554 5.7.1 not <b>you</b>".to_owned()), "{not:?}");
    assert!(not.iter().all(|line| !line.contains("RCPT")), "{not:?}");
    assert_eq!(sink.count(), 0, "something was sent");
}

#[test]
fn customers_see_with_a_browser_which_of_our_servers_theirs_do_not_answer() {
    let (fleet, sink, _names) = fleet_and_choosy_server();
    let (server, sentence) = (fleet.nodes[0].http(), sentence(&sink));
    for eyes in &EYES[..2] {
        let browser = Browser::open(*eyes);
        browser.go(&format!("http://{server}/tools/mx?domain=acme.test&code={CODE}"));
        assert_eq!(browser.count(".nodes > .node"), 3);
        assert!(browser.text(".banner").contains(&sentence), "{}", browser.text("main"));
        let cells = browser.text("tbody tr");
        let words: Vec<_> = cells.split_whitespace().collect();
        assert!(words.ends_with(&["fair", "fails", "fair"]), "{cells}");
        // The result comes last and stands above what led to it.
        let top = |selector: &str| {
            let script = format!("return document.querySelector('{selector}').offsetTop");
            browser.evaluate(&script).as_i64().unwrap()
        };
        assert!(top(".banner") < top(".nodes"));
        inspect(&browser);
        picture(&browser, *eyes, "nodes");
        browser.click(".tools a[href^='/tools/smtp']");
        let page = browser.text("main");
        assert!(page.contains("EHLO mx2.relay.example") && page.contains(&sentence), "{page}");
        assert!(page.contains("554 5.7.1 not <b>you</b>"), "{page}");
        inspect(&browser);
        picture(&browser, *eyes, "dialog");
    }
    let browser = Browser::without_scripts(EYES[1]);
    for (tool, words) in [("ping", "connected in "), ("traceroute", ": the server")] {
        browser.go(&format!("http://{server}/tools/{tool}?domain=acme.test&code={CODE}"));
        let page = browser.text("main");
        assert_eq!(page.matches(words).count(), 3, "{page}");
        picture(&browser, EYES[1], tool);
    }
    assert_eq!(sink.count(), 0, "something was sent");
}

#[test]
fn what_one_node_sees_is_shown_while_another_still_waits() {
    let names = NameServer::start(Software::Bind, &[("acme.test", ZONE)]);
    let setups =
        ["mx1", "mx2"].map(|name| Setup { dns: Some(names.address()), ..on_loopback(name) });
    let mut fleet = Fleet::with(&setups);
    let sink = Sink::scripted(|step| {
        if matches!(step, Step::Hello("mx1.relay.example")) {
            std::thread::sleep(THINKING); // it thinks about it
        }
        Act::Usual
    });
    fleet.nodes[0].serve("acme.test", &format!("mail.acme.test:{}", sink.address().port()));
    fleet.await_same_state();
    let server = fleet.nodes[0].http();
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let path = format!("/tools/mx?domain=acme.test&code={CODE}");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let (mut page, mut seen, mut piece) = (String::new(), Vec::new(), [0; 4096]);
    loop {
        let octets = stream.read(&mut piece).unwrap();
        page.push_str(&String::from_utf8_lossy(&piece[..octets]));
        for words in ["From mx1", "From mx2", "</html>"] {
            if page.contains(words) && seen.iter().all(|(known, _)| *known != words) {
                seen.push((words, Instant::now()));
            }
        }
        if octets == 0 {
            break;
        }
    }
    let order: Vec<_> = seen.iter().map(|(words, _)| *words).collect();
    assert_eq!(order, ["From mx2", "From mx1", "</html>"], "{page}");
    let between = seen[1].1 - seen[0].1;
    assert!(between >= THINKING / 5, "both came at once, after {between:?}: {page}");
}

/// A node that may send echoes, or may not.
fn permit_echoes(network: &Network, host: usize, groups: &str) {
    let write = format!("echo '{groups}' >/proc/sys/net/ipv4/ping_group_range");
    output("ip", &["netns", "exec", &network.space(host), "sh", "-c", &write]);
}

/// What became of a node's echoes.
fn echo(rows: &[Value], node: &str, address: &str) -> Value {
    let rows = of(rows, node, address);
    (*rows.iter().find(|row| row["kind"] == "echo").unwrap()).clone()
}

/// Addresses of the hops, and how the last one is judged.
fn hops<'a>(rows: &[&'a Value]) -> (Vec<&'a str>, &'a Value) {
    let hops: Vec<_> = rows.iter().filter(|row| row["kind"] == "hop").collect();
    let routers = hops.iter().filter_map(|row| row["router"].as_str()).collect();
    (routers, &hops.last().unwrap()["grade"])
}

/// Three nodes at one end of the way and a server at the other. The second may not send echoes.
fn fleet_on_a_way() -> (Fleet, Way, Network) {
    let network = Network::of(3);
    let way = Way::from(&network, 3);
    let setup = |host: usize| Setup {
        name: Some(format!("mx{}", host + 1)),
        ip: Some(network.address(host)),
        cluster: Some(SocketAddr::from((network.address(host), 4190))),
        wrapper: network.on(host),
        production_routes: true,
        ..Setup::default()
    };
    for (host, groups) in [(0, "0 2147483647"), (1, "1 0"), (2, "0 2147483647")] {
        permit_echoes(&network, host, groups);
    }
    let mut fleet = Fleet::with(&[setup(0), setup(1), setup(2)]);
    fleet.nodes[0].serve("acme.test", &format!("{SERVER_V4}:25,[{SERVER_V6}]:25"));
    fleet.await_same_state();
    (fleet, way, network)
}

#[test]
fn the_way_is_shown_over_routers_and_echoes_where_they_are_permitted() {
    let (fleet, _way, _network) = fleet_on_a_way();
    let asked = &fleet.nodes[1];
    let (rows, words) = probe(asked, "traceroute");
    assert_eq!(words, "", "{rows:#?}");
    for host in 1..=3 {
        let node = format!("mx{host}");
        let (routers, end) = hops(&of(&rows, &node, SERVER_V4));
        assert_eq!(routers, [&format!("11.9.{host}.1"), ROUTER_V4, SERVER_V4], "{rows:#?}");
        assert_eq!(end, "good");
        let (routers, end) = hops(&of(&rows, &node, &format!("[{SERVER_V6}")));
        assert_eq!(routers, [&format!("2a00:9:{host}::1"), ROUTER_V6, SERVER_V6], "{rows:#?}");
        assert_eq!(end, "good");
    }
    let (rows, words) = probe(asked, "ping");
    assert_eq!(words, "", "{rows:#?}");
    for address in [SERVER_V4, &format!("[{SERVER_V6}")] {
        let mx1 = echo(&rows, "mx1", address);
        assert_eq!((&mx1["sent"], &mx1["received"]), (&5.into(), &5.into()), "{mx1}");
        let time = |name: &str| mx1[name].as_u64().unwrap();
        assert!(time("min_us") <= time("avg_us") && time("avg_us") <= time("max_us"), "{mx1}");
        let mx2 = echo(&rows, "mx2", address);
        assert_eq!((&mx2["sent"], &mx2["grade"]), (&0.into(), &Value::Null), "{mx2}");
        let words = mx2["words"].as_str().unwrap();
        assert!(words.contains("this host does not permit echoes"), "{words}");
    }
}

#[test]
fn a_node_that_is_cut_off_from_a_server_is_named_by_every_tool() {
    let (fleet, way, _network) = fleet_on_a_way();
    way.cut(2);
    for tool in ["mx", "smtp", "ping", "traceroute"] {
        let (rows, words) = probe(&fleet.nodes[1], tool);
        for server in [SERVER_V4, SERVER_V6] {
            let at = SocketAddr::new(server.parse().unwrap(), 25);
            let sentence = format!("{server} ({at}) works from mx1 and mx2, but not from mx3.");
            assert!(words.contains(&sentence), "{tool}: {words}");
        }
        match tool {
            "ping" => assert_eq!(echo(&rows, "mx3", SERVER_V4)["received"], 0),
            "traceroute" => {
                let (routers, _) = hops(&of(&rows, "mx3", SERVER_V4));
                assert_eq!(routers, ["11.9.3.1"], "{rows:#?}");
            }
            _ => {}
        }
    }
}
