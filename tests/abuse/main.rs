//! Hostile input against a real node: every input gets its answer, the node stays alive and in
//! step, and nothing reaches the customer's server that should not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

#[path = "../support/mod.rs"]
mod support;

mod chunking;
mod dialog;
mod limits;
mod recipients;
mod returns;
mod smuggling;
mod timeouts;

use std::time::Duration;

use support::node::{Node, Setup};
use support::sink::{Received, Sink};
use support::smtp::{Reply, Smtp};
use support::{SOON, message};

/// A node that serves `customer.test` from a sink.
struct Relay {
    node: Node,
    sink: Sink,
}

/// The recipient that is taken.
const USER: &str = "user@customer.test";
/// The subject of the message that shows that all is still well.
const CONTROL: &str = "Subject: control\r\n\r\nstill here\r\n";

impl Relay {
    fn start() -> Self {
        Self::with(&Setup::default(), Sink::start())
    }

    fn limited(limits: &[(&'static str, &str)]) -> Self {
        let limits = limits.iter().map(|&(name, value)| (name, value.to_owned())).collect();
        Self::with(&Setup { limits, ..Setup::default() }, Sink::start())
    }

    fn with(setup: &Setup, sink: Sink) -> Self {
        let node = Node::with(setup);
        node.serve("customer.test", &sink.route());
        Self { node, sink }
    }

    fn client(&self) -> Smtp {
        self.node.client()
    }

    /// A client with one good recipient, invited to send the text.
    fn client_in_data(&self) -> Smtp {
        let mut client = self.client();
        for reply in client.envelope("sender@client.test", &[USER]) {
            assert_eq!(reply.code, 250, "{reply:?}");
        }
        assert_eq!(client.command("DATA").code, 354);
        client
    }

    /// What the sink got, once everything that was accepted is delivered: all but the control
    /// message, which is sent now and shows that the node still works.
    fn settled(&self) -> Vec<Received> {
        let reply = self.client().deliver("control@client.test", &[USER], CONTROL.as_bytes());
        assert_eq!(reply.code, 250, "the node serves the next client: {reply:?}");
        self.node.await_empty_queue(SOON);
        let mut received = self.sink.received();
        let all = received.len();
        received.retain(|received| received.from() != "control@client.test");
        assert_eq!(received.len() + 1, all, "exactly one control message arrives");
        received
    }

    /// Nothing but the control message reaches the sink.
    fn assert_nothing_arrives(&self) {
        let received = self.settled();
        let texts: Vec<String> = received.iter().map(|r| message::start(&r.text)).collect();
        assert!(texts.is_empty(), "{texts:#?}");
    }
}

/// The server has answered all it was asked, and answers the next command.
fn assert_in_step(client: &mut Smtp) {
    assert!(client.is_silent(Duration::from_millis(30)), "an answer nobody asked for");
    let reply = client.command("NOOP");
    assert_eq!(reply.code, 250, "in step: {reply:?}");
}

/// Refused for good, with an enhanced status code of class 5.
fn assert_refused(what: &str, reply: &Reply) {
    assert!(
        (500..560).contains(&reply.code) && reply.text.starts_with("5."),
        "{what:?} is refused for good: {reply:?}"
    );
}
