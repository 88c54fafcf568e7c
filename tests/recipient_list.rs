//! A customer who names the recipients of a domain: everybody else is unknown, on every node, and
//! the customer's server is never asked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::path::PathBuf;

use serde_json::Value;

use support::fleet::Fleet;
use support::node::Node;
use support::sink::Sink;
use support::{SOON, eventually, scratch};

const NAMES: usize = 100_000;

fn write(folder: &tempfile::TempDir, name: &str, text: &str) -> String {
    let path: PathBuf = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn answer(node: &Node, to: &str) -> String {
    node.client().envelope("a@sender.test", &[to])[1].line()
}

fn list(node: &Node) -> Value {
    node.json(&["domain", "show", "acme.test"])["recipients"].clone()
}

#[test]
fn whoever_a_long_list_does_not_name_is_unknown_everywhere() {
    let sink = Sink::start();
    let mut fleet = Fleet::start(3);
    let folder = scratch();
    let mut text = "# Everybody here\n\nsales-*\n*+lists@ACME.test\n".to_owned();
    (0..NAMES).for_each(|n| text.push_str(&format!("User.{n}\n")));
    let file = write(&folder, "users.txt", &text);
    let first = &fleet.nodes[0];
    first.admin(&["customer", "add", "acme", "--contact", "ops@acme.test"]);
    let route = sink.route();
    let add = ["domain", "add", "acme.test", "--customer", "acme", "--route", &route];
    first.admin(&[&add[..], &["--recipients", &file]].concat());
    for node in &fleet.nodes {
        eventually("the list at every node", SOON, || {
            let row = list(node);
            (&row["addresses"], &row["patterns"]) == (&NAMES.into(), &2.into())
        });
        for to in ["user.99999@acme.test", "USER.0@Acme.Test", "sales-eu@acme.test"] {
            assert!(answer(node, to).starts_with("250 "), "{to}");
        }
        for to in ["x+lists@acme.test", "Postmaster@acme.test"] {
            assert!(answer(node, to).starts_with("250 "), "{to}");
        }
        assert_eq!(
            answer(node, "User.100000@acme.test"),
            "550 5.1.1 <User.100000@acme.test>... no such user here"
        );
    }
    let explained = fleet.nodes[1].json(&["explain", "rcpt", "nobody@acme.test"]);
    assert_eq!(explained["check"], "recipient_list");
    let metric = "mxfleet_policy_decisions_total{check=\"recipient_list\",decision=\"refuse\"}";
    assert_eq!(fleet.nodes[2].metric(metric), 1.0);

    // Another list takes its place, all at once; a node that was away has it, too.
    let version = list(&fleet.nodes[0])["version"].as_u64().unwrap();
    fleet.nodes[2].kill();
    let file = write(&folder, "fewer.txt", "jane\n");
    fleet.nodes[1].admin(&["domain", "set", "acme.test", "--recipients", &file]);
    fleet.nodes[2].restart();
    for node in &fleet.nodes {
        eventually("the new list", SOON, || list(node)["addresses"] == 1);
        assert!(list(node)["version"].as_u64().unwrap() > version);
        assert!(answer(node, "user.1@acme.test").starts_with("550 "));
        assert!(answer(node, "jane@acme.test").starts_with("250 "));
    }
    fleet.nodes[0].admin(&["domain", "set", "acme.test", "--no-recipients"]);
    for node in &fleet.nodes {
        eventually("everybody", SOON, || answer(node, "user.1@acme.test").starts_with("250 "));
        assert!(list(node).is_null());
    }
}

#[test]
fn a_file_with_wrong_lines_changes_nothing() {
    let node = Node::start();
    let folder = scratch();
    let good = write(&folder, "good.txt", "jane\n");
    let bad = write(&folder, "bad.txt", "jane\nja ne\n# fine\nbob@other.test\n");
    let patterns: String = (0..300).map(|n| format!("p{n}-*\n")).collect();
    let patterns = write(&folder, "patterns.txt", &patterns);
    node.admin(&["customer", "add", "acme", "--contact", "ops@acme.test"]);
    let add = ["domain", "add", "acme.test", "--customer", "acme", "--route", "mx"];
    let refused = |words: &[&str], expected: &str| {
        let done = node.try_admin(words);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert!(said.contains(expected), "{said:?} does not say {expected:?}");
    };
    refused(&[&add[..], &["--recipients", &bad]].concat(), "line 2: ja ne");
    assert_eq!(node.json(&["domain", "list"]), serde_json::json!([]));
    node.admin(&[&add[..], &["--recipients", &good]].concat());
    let before = node.json(&["domain", "show", "acme.test"]);
    let set = |file| ["domain", "set", "acme.test", "--recipients", file];
    refused(&set(&bad), "line 4: bob@other.test: is no recipient of acme.test");
    refused(&set("/nowhere"), "cannot read /nowhere");
    refused(&set(&patterns), "at most 200 patterns");
    refused(&["domain", "set", "nobody.test", "--no-recipients"], "there is no domain");
    let old = ["--expect-version", "1", "domain", "set", "acme.test", "--no-recipients"];
    refused(&old, "was changed meanwhile");
    assert_eq!(node.json(&["domain", "show", "acme.test"]), before);
}

#[test]
fn a_file_that_names_nobody_closes_a_domain_only_if_the_operator_says_so() {
    let node = Node::start();
    let folder = scratch();
    let empty = write(&folder, "empty.txt", "# to be filled in\n\n");
    node.admin(&["customer", "add", "acme", "--contact", "ops@acme.test"]);
    let add = ["domain", "add", "acme.test", "--customer", "acme", "--route", "127.0.0.1:9"];
    let set = ["domain", "set", "acme.test"];
    let refused = |words: &[&str], file: &str| {
        let done = node.try_admin(&[words, &["--recipients", file]].concat());
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(1), "{said}");
        for words in ["nothing was changed", "names nobody", "--no-recipients", "--allow-empty"] {
            assert!(said.contains(words), "{said:?} does not say {words:?}");
        }
    };
    refused(&add, &empty);
    assert_eq!(node.json(&["domain", "list"]), serde_json::json!([]));
    node.admin(&add);
    refused(&set, &empty);
    refused(&set, "/dev/null");
    assert!(list(&node).is_null());
    assert!(answer(&node, "jane@acme.test").starts_with("250 "));
    node.admin(&[&set[..], &["--recipients", &empty, "--allow-empty"]].concat());
    assert_eq!(list(&node)["addresses"], 0);
    assert!(answer(&node, "jane@acme.test").starts_with("550 5.1.1"));
    assert!(answer(&node, "postmaster@acme.test").starts_with("250 "));
}
