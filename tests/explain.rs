//! `explain rcpt` says word for word what a client is answered.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use support::node::Node;

/// What a client reads: the refusal of its sender, or the answer about the recipient.
fn answered(node: &Node, from: &str, to: &str) -> String {
    let mut client = node.client();
    let mail = client.command(&format!("MAIL FROM:<{from}> SMTPUTF8"));
    if mail.code != 250 { mail.line() } else { client.command(&format!("RCPT TO:<{to}>")).line() }
}

#[test]
fn an_explanation_is_what_a_client_of_that_sender_is_told() {
    let node = Node::start();
    for domain in ["acme.test", "late.test"] {
        node.serve(domain, "127.0.0.1:9");
    }
    node.admin(&["customer", "suspend", "late"]);
    for (from, to, check) in [
        ("", "user@acme.test", "all"),
        ("s@elsewhere.test", "user@acme.test", "all"),
        ("s@[192.0.2.1]", "user@acme.test", "sender_address"),
        ("s@[192.0.2.1]", "user@other.test", "sender_address"),
        ("jürgen@elsewhere.test", "user@acme.test", "all"),
        ("s@elsewhere.test", "user@other.test", "served_domain"),
        ("s@elsewhere.test", "a%b@acme.test", "relay_syntax"),
        ("s@elsewhere.test", "user@late.test", "customer_active"),
        ("s@elsewhere.test", "user@[192.0.2.1]", "recipient_address"),
        ("s@elsewhere.test", "@other.test:user@acme.test", "recipient_address"),
        ("s@elsewhere.test", "Postmaster", "role_address"),
        ("s@elsewhere.test", "postmaster@mx1.relay.example", "role_address"),
        ("s@elsewhere.test", "abuse@mx1.relay.example", "role_address"),
    ] {
        let mut words = vec!["explain", "rcpt", to];
        if !from.is_empty() {
            words.extend(["--from", from]);
        }
        let explained = node.json(&words);
        let answered = answered(&node, from, to);
        assert_eq!(explained["reply"], answered.as_str(), "{words:?}");
        assert_eq!(explained["check"], check, "{words:?}");
        assert_eq!(explained["accepted"], answered.starts_with("250"), "{words:?}");
    }
    let null = ["explain", "rcpt", "user@acme.test", "--from", "<>"];
    assert_eq!(node.json(&null)["accepted"], true);
}
