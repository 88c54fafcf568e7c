//! The network between nodes fails in every way it knows: mail goes on everywhere, and what the
//! nodes agree on is the same when it is whole again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use support::fleet::Fleet;
use support::load::{Load, Plan};
use support::network::Network;
use support::node::Setup;
use support::process::output;
use support::sink::{Manner, Sink};
use support::writer::{Writer, customers};
use support::{SOON, eventually};

/// How long each fault lasts: several election timeouts.
const FAULT: Duration = Duration::from_secs(5);
/// No message waits longer for its 250 during a fault.
const MAIL_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Three nodes with addresses of their own, and a customer behind them.
struct Site {
    network: Network,
    sink: Sink,
    fleet: Fleet,
}

impl Site {
    fn new(clock_ahead: Option<usize>) -> Self {
        let network = Network::of(3);
        let here = SocketAddr::from((network.here(), 0));
        let sink = Sink::with(Manner { listen: Some(here), ..Manner::default() });
        let setup = |host: usize| {
            let mut wrapper = network.on(host);
            if clock_ahead == Some(host) {
                // The program asks for the wall clock and for the monotonic one; one is wrong.
                // Not by the command `faketime`, which stays as its parent and eats our signals.
                let library = "LD_PRELOAD=/usr/$LIB/faketime/libfaketimeMT.so.1";
                let words = ["env", library, "FAKETIME=+10d", "FAKETIME_DONT_FAKE_MONOTONIC=1"];
                wrapper.extend(words.map(str::to_owned));
            }
            let ip = network.address(host);
            Setup {
                name: Some(format!("mx{}", host + 1)),
                ip: Some(ip),
                cluster: Some(SocketAddr::from((ip, 4190))),
                wrapper,
                ..Setup::default()
            }
        };
        let setups: Vec<_> = (0..3).map(setup).collect();
        let fleet = Fleet::with(&setups);
        fleet.nodes[0].serve("acme.test", &sink.route());
        let mut site = Self { network, sink, fleet };
        site.fleet.await_same_state();
        site
    }

    /// Let a fault last while mail comes to every node and an operator writes; then heal it and
    /// compare.
    fn suffers(&mut self, what: &str, prefix: &'static str, fault: impl FnOnce(&Network, usize)) {
        let leader = self.fleet.await_leader();
        let term = self.term(leader);
        let plan = Plan { connections: 1, ..Plan::to("user@acme.test") };
        let loads: Vec<_> = (0..)
            .zip(&self.fleet.nodes)
            .map(|(n, node)| {
                Load::start(node.smtp(), &Plan { first: n * 1_000_000, ..plan.clone() })
            })
            .collect();
        let writer = Writer::start(&self.fleet.nodes, prefix);
        let begun = Instant::now();
        fault(&self.network, leader);
        // The fault's own time.
        std::thread::sleep(FAULT);
        self.network.heal();
        let healed = Instant::now();
        eventually("a write after healing", SOON, || writer.resumed_after(healed).is_some());
        let present = writer.stop();
        for (load, node) in loads.into_iter().zip(&self.fleet.nodes) {
            let refusals = load.refused();
            assert!(refusals.is_empty(), "{what}: {} refused {refusals:?}", node.name());
            let mut moments: Vec<_> = load.stop().iter().map(|acked| acked.at).collect();
            moments.retain(|at| *at >= begun);
            moments.insert(0, begun);
            moments.push(healed.max(moments[moments.len() - 1]));
            let pause = moments.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
            println!("{what}: {} took {} messages", node.name(), moments.len() - 2);
            assert!(pause < MAIL_PAUSE_MAX, "{what}: {} stopped for {pause:?}", node.name());
        }
        self.fleet.await_same_state();
        for node in &self.fleet.nodes {
            assert_eq!(customers(node, prefix), present, "{what}: {}", node.name());
        }
        let leader = self.fleet.await_leader();
        let elections = self.term(leader) - term;
        println!("{what}: {elections} terms, {} customers", present.len());
        // A node cut off campaigns about once a second; without a bound it would go on for ever.
        assert!(elections <= 12, "{what}: {elections} elections");
    }

    fn term(&self, node: usize) -> u64 {
        self.fleet.status(node)["term"].as_u64().unwrap()
    }

    /// Every message that was accepted reached the customer.
    fn ends(mut self) {
        for node in &self.fleet.nodes {
            node.await_empty_queue(Duration::from_secs(60));
        }
        assert!(self.sink.count() > 0);
        for node in &mut self.fleet.nodes {
            assert!(node.terminate().success());
        }
    }
}

#[test]
fn no_cut_between_nodes_stops_mail_or_divides_what_they_agree_on() {
    let mut site = Site::new(None);
    site.suffers("the leader cut off", "wa", |network, leader| {
        network.cut(leader, (leader + 1) % 3);
        network.cut(leader, (leader + 2) % 3);
    });
    site.suffers("the leader heard by nobody", "wb", |network, leader| {
        network.cut_one_way(leader, (leader + 1) % 3);
        network.cut_one_way(leader, (leader + 2) % 3);
    });
    site.suffers("the leader hears nobody", "wc", |network, leader| {
        network.cut_one_way((leader + 1) % 3, leader);
        network.cut_one_way((leader + 2) % 3, leader);
    });
    site.suffers("leader and one follower apart", "wd", |network, leader| {
        network.cut(leader, (leader + 1) % 3);
    });
    site.suffers("nobody reaches anybody", "we", |network, _| {
        network.cut(0, 1);
        network.cut(1, 2);
        network.cut(2, 0);
    });
    site.ends();
}

#[test]
fn a_fifth_of_all_packets_lost_and_a_clock_ten_days_ahead_change_nothing() {
    let mut site = Site::new(Some(1));
    let log = std::fs::read_to_string(site.fleet.nodes[1].log()).unwrap();
    let ahead = output("date", &["-u", "-d", "+9 days", "+%F"]);
    assert!(log.as_str() > ahead.trim(), "the clock is not ahead: {log}");
    site.suffers("a clock ten days ahead", "wf", |_, _| ());
    site.suffers("one packet of five lost", "wg", |network, _| network.lose(20));
    site.ends();
}
