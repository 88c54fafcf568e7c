//! `mxfleet dev`, as the README's reader meets it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use support::fleet::succeeded;
use support::message;
use support::node::PROGRAM;
use support::process::{Process, attempt, output};
use support::smtp::Smtp;
use support::{eventually, scratch};

/// Three debug builds start on two busy cores.
const UP: Duration = Duration::from_secs(60);

/// Each takes the first free ports from 2525 on, so they start one after another.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

struct Dev {
    process: Process,
    dir: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Dev {
    fn start(dir: tempfile::TempDir, nodes: &str) -> Self {
        let folder = dir.path().display().to_string();
        let words = [PROGRAM, "dev", "--dir", &folder, "--nodes", nodes].map(str::to_owned);
        Self::run(dir, &words)
    }

    fn run(dir: tempfile::TempDir, words: &[String]) -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let file = dir.path().join("fleet.json");
        let _ = std::fs::remove_file(&file);
        let mut process = Process::start(words, &dir.path().join("dev.log"));
        eventually("fleet.json", UP, || {
            assert!(process.is_running(), "dev ended:\n{}", process.words());
            file.exists()
        });
        Self { process, dir, _alone: alone }
    }

    fn file(&self) -> Value {
        let text = std::fs::read_to_string(self.dir.path().join("fleet.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn node(&self, index: usize) -> Value {
        self.file()["nodes"][index].clone()
    }

    /// Send a numbered message through a node; what its `.env` says when it is in the mailbox.
    fn relay(&self, node: usize, number: u64) -> Value {
        let smtp = self.node(node)["smtp"].as_str().unwrap().parse().unwrap();
        let text = message::text(number, 600);
        let from = message::sender(number);
        let reply = Smtp::greeted(smtp).deliver(&from, &["user@example.test"], &text);
        assert_eq!(reply.code, 250, "{reply:?}");
        let file = self.file();
        let mailbox = Path::new(file["customer_server"]["mailbox"].as_str().unwrap());
        let mut found = None;
        eventually("the message in the mailbox", UP, || {
            found = envelopes(mailbox).into_iter().find(|(env, _)| env["mail_from"] == from);
            found.is_some()
        });
        let (env, kept) = found.unwrap();
        message::assert_same("the message", message::below_trace(&kept), &text);
        env
    }

    /// SIGTERM; nothing that it started runs on.
    fn stop(mut self) -> tempfile::TempDir {
        let pids = self.pids();
        self.process.signal("TERM");
        assert!(self.process.wait().success());
        for pid in pids {
            assert!(!runs(pid), "process {pid} runs on");
        }
        self.dir
    }

    fn pids(&self) -> Vec<u64> {
        let file = self.file();
        let nodes = file["nodes"].as_array().unwrap();
        nodes.iter().filter_map(|node| node["pid"].as_u64()).collect()
    }
}

/// Each message with its `.env`, which is there before it.
fn envelopes(mailbox: &Path) -> Vec<(Value, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(mailbox).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "eml") {
            let env = std::fs::read(path.with_extension("env")).unwrap();
            let env = serde_json::from_slice(&env).unwrap();
            all.push((env, std::fs::read(path).unwrap()));
        }
    }
    all
}

fn runs(pid: u64) -> bool {
    attempt("kill", &["-0", &pid.to_string()]).status.success()
}

#[test]
fn a_fleet_of_three_relays_through_every_node_and_survives_the_readers_kill() {
    let dev = Dev::start(scratch(), "3");
    let file = dev.file();
    for (index, node) in file["nodes"].as_array().unwrap().iter().enumerate() {
        assert_eq!(node["name"], format!("mx{}", index + 1));
        assert_eq!(node["id"], index + 1);
        assert!(runs(node["pid"].as_u64().unwrap()));
        let admin = node["admin"].as_str().unwrap();
        let status = output(PROGRAM, &["--admin", admin, "--output", "json", "cluster", "status"]);
        let status: Value = serde_json::from_str(&status).unwrap();
        let leader = status["leader"].as_str().unwrap_or_default();
        assert!(leader.starts_with("mx"), "{status:#}");
        let env = dev.relay(index, u64::try_from(index).unwrap());
        assert_eq!(env["rcpt_to"], serde_json::json!(["user@example.test"]));
        assert_eq!(env["received_by"], node["name"]);
    }
    let smtp = file["nodes"][0]["smtp"].as_str().unwrap().parse().unwrap();
    let reply = Smtp::greeted(smtp).envelope("a@sender.test", &["user@elsewhere.test"]);
    assert_eq!(reply[1].code, 550, "{reply:?}");

    // kill -9 a node, and start it again as the README says.
    let old = dev.node(1)["pid"].as_u64().unwrap();
    succeeded("kill", &attempt("kill", &["-9", &old.to_string()]));
    eventually("fleet.json without it", UP, || dev.node(1)["pid"].is_null());
    dev.relay(0, 10);
    let config = file["nodes"][1]["config"].as_str().unwrap();
    let words = [PROGRAM, "run", "--config", config].map(str::to_owned);
    let mut again = Process::start(&words, &dev.dir.path().join("again.log"));
    eventually("fleet.json with it", UP, || dev.node(1)["pid"] == again.id());
    assert_eq!(dev.node(1)["smtp"], file["nodes"][1]["smtp"], "on the same ports");
    eventually("it takes mail", UP, || {
        Smtp::open(dev.node(1)["smtp"].as_str().unwrap().parse().unwrap()).is_ok()
    });
    assert_eq!(dev.relay(1, 11)["received_by"], "mx2");
    // The node that dev did not start is not dev's to stop.
    again.signal("TERM");
    assert!(again.wait().success());
    eventually("fleet.json without it", UP, || dev.node(1)["pid"].is_null());
    let folder = dev.dir.path().display().to_string();
    let second = attempt(PROGRAM, &["dev", "--dir", &folder]);
    assert_eq!(second.status.code(), Some(1), "a second dev in one folder");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("node mx1 already runs"), "{said}");
    let mut again = Process::start(&words, &dev.dir.path().join("again.log"));
    eventually("fleet.json with it", UP, || dev.node(1)["pid"] == again.id());
    again.kill();
    eventually("fleet.json without it", UP, || dev.node(1)["pid"].is_null());

    dev.stop();
}

#[test]
fn a_second_start_in_the_same_folder_goes_on_where_the_first_ended() {
    let dev = Dev::start(scratch(), "3");
    let admin = dev.node(2)["admin"].as_str().unwrap().to_owned();
    let add = ["customer", "add", "acme", "--contact", "ops@acme.test"];
    output(PROGRAM, &[&["--admin", &admin][..], &add].concat());
    let ports = dev.node(0)["smtp"].clone();
    let dir = dev.stop();
    let dev = Dev::start(dir, "3");
    let admin = dev.node(0)["admin"].as_str().unwrap().to_owned();
    output(PROGRAM, &["--admin", &admin, "customer", "show", "acme"]);
    assert_eq!(dev.node(0)["smtp"], ports);
    dev.relay(2, 1);
    dev.stop();
}

#[test]
fn every_line_of_the_cheat_sheet_does_what_it_says_when_it_is_pasted() {
    let dev = Dev::start(scratch(), "3");
    let mut sheet = String::new();
    eventually("the cheat sheet", UP, || {
        sheet = dev.process.words();
        sheet.contains("Ctrl-C stops everything")
    });
    let lines: Vec<&str> = sheet.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    assert!(lines.len() > 10, "{sheet}");
    // In a shell that knows nothing of the program yet.
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let script = format!("set -ex\n{}\n", lines.join("\n"));
    let done = attempt("env", &["-i", path, "bash", "-c", &script]);
    let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    assert!(done.status.success(), "{said}");
    for words in [
        "250 2.0.0 Ok: queued as",
        "\"ready\":true",
        "mxfleet_smtp_sessions",
        "leader mx",
        "served_domain",
        "customer acme added",
        "domain acme.test added",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    eventually("both in their place", UP, || {
        let mailbox = dev.file()["customer_server"]["mailbox"].as_str().unwrap().to_owned();
        envelopes(Path::new(&mailbox)).len() == 1
    });
    dev.stop();
}

#[test]
fn one_node_is_a_fleet_too() {
    let dev = Dev::start(scratch(), "1");
    assert_eq!(dev.file()["nodes"].as_array().unwrap().len(), 1);
    assert_eq!(dev.relay(0, 1)["received_by"], "mx1");
    dev.stop();
}

#[test]
fn four_nodes_start_and_stop_also_when_nobody_reads_what_is_said() {
    let dir = scratch();
    let folder = dir.path().display();
    let script = format!("exec {PROGRAM} dev --dir {folder} --nodes 4 > >(true) 2>&1");
    let dev = Dev::run(dir, &["bash", "-c", &script].map(str::to_owned));
    assert_eq!(dev.pids().len(), 4);
    // The words are said after the file is written.
    assert_eq!(dev.relay(3, 1)["received_by"], "mx4");
    dev.stop();
}
