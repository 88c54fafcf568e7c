//! What an operator may rely on when changing what the fleet agrees on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::fleet::{Fleet, refused};
use support::node::{Node, PROGRAM};
use support::{SOON, eventually};

const ROWS: usize = 100_000;
/// They take several log entries.
const SOME_ROWS: usize = 3_000;

fn add<'a>(id: &'a str, name: &'a str) -> [&'a str; 7] {
    ["customer", "add", id, "--contact", "ops@acme.test", "--name", name]
}

#[test]
fn a_request_retried_with_its_id_is_done_once_on_whichever_node() {
    let fleet = Fleet::start(3);
    let with_id = |node: usize, words: &[&str]| {
        let id = ["--request-id", "c0ffee"];
        fleet.nodes[node].json(&[&id[..], words].concat())
    };
    let first = with_id(0, &add("acme", "Acme"));
    assert_eq!(first["changed"], 1);
    let version = fleet.nodes[0].json(&["customer", "show", "acme"])["version"].clone();
    for node in [1, 2, 0] {
        assert_eq!(with_id(node, &add("acme", "Acme")), first, "the same answer");
    }
    assert_eq!(fleet.nodes[2].json(&["customer", "show", "acme"])["version"], version);
    // Another command is not done, and does not seem to be.
    let other = ["--request-id", "c0ffee", "customer", "remove", "acme"];
    refused(&fleet.nodes[1].try_admin(&other), "this id was used for another change");
    fleet.nodes[2].json(&["customer", "show", "acme"]);
    // Without the id it is another request, and refused as such.
    refused(&fleet.nodes[1].try_admin(&add("acme", "Acme")), "acme");
}

#[test]
fn a_change_of_what_somebody_else_changed_meanwhile_is_refused() {
    let fleet = Fleet::start(3);
    fleet.nodes[0].admin(&add("acme", "Acme"));
    let version = fleet.nodes[0].json(&["customer", "show", "acme"])["version"].to_string();
    let set = |node: usize, version: &str, name: &str| {
        let words = ["customer", "set", "acme", "--name", name, "--expect-version", version];
        fleet.nodes[node].try_admin(&words)
    };
    assert!(set(1, &version, "First").status.success());
    refused(&set(2, &version, "Second"), "version");
    let row = fleet.nodes[1].json(&["customer", "show", "acme"]);
    assert_eq!(row["name"], "First");
    assert!(set(2, &row["version"].to_string(), "Second").status.success());
    // Version 0 is a row that must not be there yet.
    let mut words = vec!["--expect-version", "0"];
    words.extend(add("other", "Other"));
    fleet.nodes[0].admin(&words);
}

#[test]
fn the_trail_of_changes_is_the_same_on_every_node_and_names_who_asked() {
    let fleet = Fleet::start(3);
    let (writer, reader) = (&fleet.nodes[1], &fleet.nodes[2]);
    writer.admin(&add("acme", "Acme"));
    refused(&writer.try_admin(&add("acme", "Acme")), "acme");
    let trail = || reader.json(&["cluster", "audit", "--limit", "2"]);
    eventually("both changes elsewhere", SOON, || trail()[0]["refused"].is_string());
    let rows = trail();
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        let (actor, what) = (row["actor"].as_str().unwrap(), row["what"].as_str().unwrap());
        assert!(actor.ends_with(&format!(" at {}", writer.name())), "{row:#}");
        assert!(what.contains("customer") && what.contains("acme"), "{row:#}");
        assert!(row["at"].as_str().unwrap().ends_with('Z'), "{row:#}");
    }
    assert!(rows[1]["refused"].is_null(), "the older one was done: {rows:#?}");
    let table = String::from_utf8(reader.try_admin(&["cluster", "audit"]).stdout).unwrap();
    assert!(table.contains("customer") && table.contains("refused: "), "{table}");
}

#[test]
fn a_setting_takes_effect_on_every_node_within_a_second() {
    let fleet = Fleet::start(3);
    let value = |node: &Node| node.admin(&["settings", "get", "queue.lifetime"]).trim().to_owned();
    fleet.nodes[1].admin(&["settings", "set", "queue.lifetime", "3d"]);
    let set = Instant::now();
    eventually("the setting everywhere", SOON, || fleet.nodes.iter().all(|n| value(n) == "3d"));
    let took = set.elapsed();
    println!("seen on every node after {took:?}, with three commands in that");
    assert!(took < Duration::from_secs(3), "one, and three commands on a slow machine: {took:?}");
    refused(
        &fleet.nodes[2].try_admin(&["settings", "set", "queue.lifetime", "soon"]),
        "queue.lifetime",
    );
    refused(&fleet.nodes[2].try_admin(&["settings", "set", "no.such", "1"]), "no.such");
    fleet.nodes[2].admin(&["settings", "set", "queue.lifetime"]);
    let default = fleet.nodes[2].json(&["settings", "get", "queue.lifetime"])["default"].clone();
    eventually("the default everywhere", SOON, || fleet.nodes.iter().all(|n| value(n) == default));
}

/// A CSV file of so many domains of customer `acme`; the last row belongs to `last`.
fn csv(node: &Node, rows: usize, last: &str) -> String {
    let mut text = "name,customer,route\n".to_owned();
    for row in 1..rows {
        writeln!(text, "d{row}.acme.test,acme,mail{}.acme.test:25", row % 10).unwrap();
    }
    writeln!(text, "last.acme.test,{last},mx").unwrap();
    let file = node.folder().join(format!("{last}.csv"));
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

#[test]
fn a_hundred_thousand_domains_are_imported_all_or_none_and_again_without_effect() {
    let mut fleet = Fleet::start(3);
    let count = |node: &Node| node.json(&["domain", "list"]).as_array().unwrap().len();
    fleet.nodes[0].admin(&add("acme", "Acme"));

    let file = csv(&fleet.nodes[1], SOME_ROWS, "nobody");
    refused(&fleet.nodes[1].try_admin(&["domain", "import", &file]), "nobody");
    fleet.await_same_state();
    assert_eq!(fleet.nodes.iter().map(count).collect::<Vec<_>>(), [0, 0, 0]);

    let file = csv(&fleet.nodes[1], ROWS, "acme");
    let begun = Instant::now();
    let changed = fleet.nodes[1].json(&["domain", "import", &file]);
    println!("{ROWS} rows imported in {:?}", begun.elapsed());
    assert_eq!(changed["changed"], ROWS);
    fleet.await_same_state();
    assert_eq!(count(&fleet.nodes[2]), ROWS);
    let answer = fleet.nodes[0].json(&["explain", "rcpt", "user@d777.acme.test"]);
    assert_eq!(answer["accepted"], true, "{answer}");

    let changed = fleet.nodes[2].json(&["domain", "import", &file]);
    assert_eq!(changed["changed"], 0, "it is as the file says already");

    let wrong = fleet.nodes[0].folder().join("wrong.csv");
    std::fs::write(&wrong, "name,customer,route\nok.test,acme,mx\nbad.test,acme,:0:\n").unwrap();
    let done = fleet.nodes[0].try_admin(&["domain", "import", wrong.to_str().unwrap()]);
    refused(&done, "bad.test");
    assert_eq!(count(&fleet.nodes[0]), ROWS);
}

#[test]
fn an_import_that_is_broken_off_goes_on_under_its_id_and_is_done_once() {
    let mut fleet = Fleet::start(3);
    let count = |node: &Node| node.json(&["domain", "list"]).as_array().unwrap().len();
    fleet.nodes[0].admin(&add("acme", "Acme"));
    let rows = 10 * SOME_ROWS;
    let file = csv(&fleet.nodes[0], rows, "acme");
    let socket = fleet.nodes[0].socket();
    let import = ["--request-id", "1abc", "domain", "import", &file];
    let mut broken_off = Command::new(PROGRAM)
        .arg("--admin")
        .arg(&socket)
        .args(import)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(200)); // somewhere in the middle
    broken_off.kill().unwrap();
    broken_off.wait().unwrap();
    let there = count(&fleet.nodes[0]);
    assert!(there == 0 || there == rows, "{there}: all or none");
    for node in [1, 0, 2] {
        assert_eq!(fleet.nodes[node].json(&import)["changed"], rows, "the same answer");
    }
    fleet.await_same_state();
    assert_eq!(fleet.nodes.iter().map(count).collect::<Vec<_>>(), [rows; 3]);
}

#[test]
fn an_import_shows_its_progress_on_a_terminal_only() {
    let node = Node::start();
    node.admin(&add("acme", "Acme"));
    let file = csv(&node, SOME_ROWS, "acme");
    let progress = format!("{SOME_ROWS} of {SOME_ROWS} domains sent (100%)");
    let socket = node.socket();
    let command = format!("{PROGRAM} --admin {} domain import {file}", socket.display());
    let terminal = Command::new("script").args(["-qec", &command, "/dev/null"]).output().unwrap();
    let shown = String::from_utf8_lossy(&terminal.stdout).into_owned();
    assert!(shown.contains(&progress), "{shown}");
    assert!(shown.contains(&format!("{SOME_ROWS} domains read, {SOME_ROWS} changed")), "{shown}");
    let again = node.try_admin(&["domain", "import", &file]);
    let told = String::from_utf8_lossy(&again.stderr).into_owned();
    assert_eq!(told, format!("{SOME_ROWS} domains read, 0 changed\n"));
}
