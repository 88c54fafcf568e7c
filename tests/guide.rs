//! The operator's guide does what it says: its commands are run as they stand there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use support::hosts::Hosts;
use support::node::PROGRAM;
use support::process::{Process, attempt_with, output};
use support::{SOON, eventually, scratch};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A block of commands and the hosts it is for.
#[derive(Debug)]
struct Block {
    section: String,
    hosts: Vec<String>,
    script: String,
}

/// All blocks of the guide, in order.
fn blocks() -> Vec<Block> {
    let guide = std::fs::read_to_string(root("ops/README.md")).unwrap();
    let mut blocks: Vec<Block> = Vec::new();
    let mut section = String::new();
    let mut inside = false;
    for line in guide.lines() {
        if let Some(title) = line.strip_prefix("## ").filter(|_| !inside) {
            title.clone_into(&mut section);
        } else if let Some(hosts) = line.strip_prefix("```sh ") {
            let hosts = hosts.split(' ').map(str::to_owned).collect();
            blocks.push(Block { section: section.clone(), hosts, script: String::new() });
            inside = true;
        } else if line.starts_with("```") {
            assert!(inside, "a block without a host: {line}");
            inside = false;
        } else if inside {
            let script = &mut blocks.last_mut().unwrap().script;
            script.push_str(line);
            script.push('\n');
        }
    }
    blocks
}

/// The hosts, a customer's server outside, and the guide.
struct Site {
    hosts: Hosts,
    blocks: Vec<Block>,
    mail: tempfile::TempDir,
    sent: usize,
    _customer: Process,
}

impl Site {
    fn new() -> Self {
        let hosts = Hosts::with(&["mx1", "mx2", "mx3"]);
        let mail = scratch();
        output("chmod", &["777", mail.path().to_str().unwrap()]);
        let mut words = hosts.outside();
        let dump = format!("{}/mail.", mail.path().display());
        let sink = ["smtp-sink", "-u", "nobody", "-d", &dump, "192.0.2.99:25", "100"];
        words.extend(sink.map(str::to_owned));
        let _customer = Process::start(&words, &mail.path().join("log"));
        Self { hosts, blocks: blocks(), mail, sent: 0, _customer }
    }

    /// Do what a section of the guide says, block by block; `number` of them if not all.
    fn follow(&self, section: &str, which: std::ops::Range<usize>) {
        let blocks = self.blocks.iter().filter(|block| block.section == section);
        let blocks: Vec<&Block> = blocks.collect();
        assert!(which.end <= blocks.len(), "{section} has {} blocks", blocks.len());
        for block in &blocks[which] {
            for host in &block.hosts {
                self.hosts.run(host, &block.script);
            }
        }
    }

    /// A sender outside hands a message to a host, and the customer's server gets it.
    fn mail_passes(&mut self, address: &str) {
        let mut words = self.hosts.outside();
        let swaks = ["swaks", "--server", address, "--from", "me@sender.test"];
        words.extend(swaks.map(str::to_owned));
        words.extend(["--to", "somebody@acme.test", "--helo", "sender.test"].map(str::to_owned));
        let done = attempt_with(&words, "");
        let out = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success(), "{out}");
        self.sent += 1;
        eventually("mail at the customer's server", SOON, || self.arrived() >= self.sent);
    }

    fn arrived(&self) -> usize {
        let names = std::fs::read_dir(self.mail.path()).unwrap();
        names
            .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("mail."))
            .count()
    }

    /// Wait until so many hosts vote, as one of them sees it.
    fn await_voters(&self, through: &str, count: usize) {
        let start = Instant::now();
        loop {
            let answer = self.hosts.try_run(through, "mxfleet --output json cluster status");
            let status: serde_json::Value =
                serde_json::from_slice(&answer.stdout).unwrap_or_default();
            let members = status["members"].as_array().cloned().unwrap_or_default();
            let votes = members.iter().filter(|m| m["role"] == "voter" && m["state"] == "up");
            if votes.count() == count {
                return;
            }
            let late = start.elapsed() > Duration::from_secs(60);
            assert!(!late, "not {count} voters: {status:#}\n{answer:?}");
            // Polling is the only way to watch another process.
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

const INSTALL: &str = "Install three hosts in ten minutes";
const UPGRADE: &str = "Upgrade one host at a time";
const BACKUP: &str = "Back up and restore";
const LOSE_HOST: &str = "Lose a host";
const LOSE_QUORUM: &str = "Lose a quorum";

#[test]
fn the_guide_does_what_it_says() {
    let mut site = Site::new();
    let package = scratch();
    let build = root("ops/debian/build");
    output(build.to_str().unwrap(), &[PROGRAM, package.path().to_str().unwrap()]);
    let package = std::fs::read_dir(package.path()).unwrap().next().unwrap().unwrap().path();
    site.hosts.copy(&package);

    site.follow(INSTALL, 0..7);
    site.await_voters("mx3", 3);
    for address in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
        site.mail_passes(address);
    }

    site.follow(UPGRADE, 0..1);
    site.mail_passes("192.0.2.2");
    site.await_voters("mx1", 3);

    site.follow(BACKUP, 0..1);
    for host in ["mx1", "mx2", "mx3"] {
        site.hosts.kill(host);
        site.hosts.run(host, "rm -rf /var/lib/mxfleet/*");
    }
    site.follow(BACKUP, 1..4);
    site.await_voters("mx2", 3);
    site.mail_passes("192.0.2.3");

    site.hosts.kill("mx3");
    site.hosts.run("mx3", "rm -rf /var/lib/mxfleet/* /etc/mxfleet/mxfleet.toml");
    site.mail_passes("192.0.2.1");
    site.follow(LOSE_HOST, 0..2);
    site.await_voters("mx3", 3);
    site.mail_passes("192.0.2.3");

    for host in ["mx2", "mx3"] {
        site.hosts.kill(host);
        site.hosts.run(host, "rm -rf /var/lib/mxfleet/*");
    }
    site.mail_passes("192.0.2.1");
    let refused = site.hosts.try_run("mx1", "mxfleet customer add other --contact a@b.test");
    assert_eq!(refused.status.code(), Some(1));
    site.follow(LOSE_QUORUM, 0..1);
    site.hosts.run("mx1", "mxfleet customer add third --contact a@b.test");
    site.mail_passes("192.0.2.1");
    assert_eq!(site.blocks.len(), 15, "every block of the guide was run");
}
