//! SPF and DKIM at acceptance: what a customer's server is shown of them, and what it is not shown
//! because somebody else wrote it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use support::dns::{NameServer, Software};
use support::message::{assert_same, without_first_field};
use support::node::{Node, Setup};
use support::sink::Sink;
use support::{SOON, message};

const ZONE: (&str, &str) = ("acme.test", "@ TXT \"v=spf1 ip4:127.0.0.1 -all\"");

struct World {
    node: Node,
    sink: Sink,
    _names: NameServer,
}

impl World {
    fn new() -> Self {
        let names = NameServer::start(Software::Bind, &[ZONE]);
        let node = Node::with(&Setup { dns: Some(names.address()), ..Setup::default() });
        let sink = Sink::start();
        node.serve("acme.test", &sink.route());
        node.serve("bravo.test", &sink.route());
        Self { node, sink, _names: names }
    }

    /// What arrives of a text from this sender.
    fn relayed(&self, from: &str, text: &[u8]) -> Vec<u8> {
        let before = self.sink.count();
        let reply = self.node.client().deliver(from, &["user@bravo.test"], text);
        assert_eq!(reply.code, 250, "{reply:?}");
        self.sink.await_count(before + 1, SOON).pop().unwrap().text
    }
}

#[test]
fn the_results_stand_above_the_trace_and_below_it_nothing_changes() {
    let world = World::new();
    for octets in [700, 300_000] {
        let text = message::text(1, octets);
        let relayed = world.relayed("user@acme.test", &text);
        let results = "Authentication-Results: mx1.relay.example;\r\n\
                       \tspf=pass smtp.mailfrom=acme.test;\r\n\tdkim=none\r\nReceived: ";
        assert!(relayed.starts_with(results.as_bytes()), "{}", message::start(&relayed));
        let below = without_first_field(without_first_field(&relayed));
        assert_same("the message", below, &text);
    }
    assert_eq!(
        world.node.metric("mxfleet_authentications_total{method=\"spf\",result=\"pass\"}"),
        2.0
    );
}

#[test]
fn who_is_told_nothing_in_any_case_is_not_looked_at() {
    let world = World::new();
    for from in ["stranger@client.test", ""] {
        let text = message::text(2, 700);
        assert_same("the message", message::below_trace(&world.relayed(from, &text)), &text);
    }
}

#[test]
fn results_that_others_wrote_in_our_name_are_taken_out() {
    let world = World::new();
    let head = "Received: from a by b; date\r\nAuthentication-Results: other.test; spf=fail\r\n";
    let forged = "authentication-results: (hi) MX1.relay.example;\r\n\tdkim=pass\r\n";
    let rest = "Subject: x\r\n\r\nAuthentication-Results: mx1.relay.example; body\r\n.dot\r\n";
    let text = format!("{forged}{head}{forged}{rest}");
    let relayed = world.relayed("stranger@client.test", text.as_bytes());
    let expected = format!("{head}{rest}");
    assert_same("the message", message::below_trace(&relayed), expected.as_bytes());
}
