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
        let hosts = Hosts::with(&["mx1", "mx2", "mx3", "ns1", "ns2"]);
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

    /// A name as a host shows it.
    fn name(&self, name: &str) -> serde_json::Value {
        let words = format!("mxfleet --output json name show {name}");
        serde_json::from_str(&self.hosts.run("mx1", &words)).unwrap()
    }

    /// Wait until a name is settled at a host.
    fn await_name(&self, name: &str, host: &str) {
        eventually(&format!("{name} at {host}"), SOON, || {
            let row = self.name(name);
            row["points_at"] == host && row["waits_for"].is_null()
        });
    }

    /// What a name server says of a name.
    fn ask(&self, server: &str, name: &str, kind: &str) -> String {
        let out = self.hosts.run("mx1", &format!("dig +short @{server} {name} {kind}"));
        out.trim().to_owned()
    }

    /// Whether a server takes an update with the fleet's key.
    fn may_update(&self, server: &str, change: &str) -> bool {
        let script = format!(
            "printf 'server {server}\nzone relay.example\n{change}\nsend\n' | \
             nsupdate -k /etc/mxfleet/tsig.key"
        );
        self.hosts.try_run("mx1", &script).status.success()
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
const NAMES: &str = "MX names in DNS";
const CERTIFICATES: &str = "Certificates";
const MOVE: &str = "Move a name";
const DRAIN: &str = "Take a host out of service";
const MIGRATION: &str = "Change the names customers have";
const BY_HAND: &str = "DNS by hand";
const LOSE_HOST: &str = "Lose a host";
const LOSE_QUORUM: &str = "Lose a quorum";

#[test]
fn the_guide_does_what_it_says() {
    let mut site = Site::new();
    // What resolves names for the hosts is the operator's own affair.
    for host in ["mx1", "mx2", "mx3"] {
        site.hosts.run(host, "echo nameserver 192.0.2.4 > /etc/resolv.conf");
    }
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

    follow_names(&site);
    follow_certificates(&site);
    follow_moves(&site);
    follow_a_migration(&site);

    site.hosts.kill("mx3");
    site.hosts.run("mx3", "rm -rf /var/lib/mxfleet/* /etc/mxfleet/*");
    site.mail_passes("192.0.2.1");
    site.follow(LOSE_HOST, 0..3);
    site.await_voters("mx3", 3);
    site.mail_passes("192.0.2.3");
    site.follow(BY_HAND, 0..2);
    assert_eq!(site.name("mx-b.relay.example")["points_at"], "mx1");

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
    assert_eq!(site.blocks.len(), 36, "every block of the guide was run");
}

/// Names on real servers, and a key that may write nothing else.
fn follow_names(site: &Site) {
    site.follow(NAMES, 0..4);
    // Nobody waits an hour here for resolvers.
    site.hosts.run("mx1", "mxfleet settings set rotation.ttl_low 1s");
    site.hosts.run("mx1", "mxfleet settings set rotation.ttl 3s");
    for (name, host) in [("mx-a", "mx1"), ("mx-b", "mx2"), ("mx-c", "mx3")] {
        site.await_name(&format!("{name}.relay.example"), host);
    }
    assert_eq!(site.ask("192.0.2.4", "mx-b.relay.example", "A"), "192.0.2.2");
    for server in ["192.0.2.4", "192.0.2.5"] {
        let add = |name: &str, data: &str| format!("update add {name}.relay.example 60 {data}");
        assert!(site.may_update(server, &add("mx-d", "A 192.0.2.66")), "{server}");
        assert!(site.may_update(server, "update delete mx-d.relay.example A"), "{server}");
        assert!(site.may_update(server, &add("_acme-challenge.mx-d", "TXT x")), "{server}");
        assert!(!site.may_update(server, &add("mx-d", "MX 10 mx-a")), "{server}");
        assert!(!site.may_update(server, &add("www", "A 192.0.2.66")), "{server}");
        assert_eq!(site.ask(server, "www.relay.example", "A"), "192.0.2.80");
    }
    site.follow(NAMES, 4..5);
    let row = site.hosts.run("mx1", "mxfleet --output json customer show acme");
    let row: serde_json::Value = serde_json::from_str(&row).unwrap();
    assert_eq!(row["names"].as_array().unwrap().len(), 2, "{row}");
}

fn follow_certificates(site: &Site) {
    let make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 90 \
                -subj / -addext subjectAltName=DNS:mx-a.relay.example \
                -keyout key.pem -out chain.pem";
    site.hosts.run("mx1", make);
    site.follow(CERTIFICATES, 0..1);
    assert!(!site.name("mx-a.relay.example")["certificate_ends"].is_null());
    // That server is out of reach here; `tests/rotation_acme.rs` has one.
    site.follow(CERTIFICATES, 1..2);
    site.hosts.run("mx1", "mxfleet settings set rotation.acme_directory ''");
    site.follow(CERTIFICATES, 2..3);
    eventually("a TLSA record", SOON, || {
        site.ask("192.0.2.4", "_25._tcp.mx-a.relay.example", "TLSA").starts_with("3 1 1")
    });
    site.hosts.run("mx1", "mxfleet settings set rotation.tlsa remove");
}

fn follow_moves(site: &Site) {
    let name = "mx-c.relay.example";
    site.follow(MOVE, 0..2);
    site.await_name(name, "mx2");
    assert_eq!(site.ask("192.0.2.4", name, "A"), "192.0.2.2");
    site.follow(MOVE, 2..3);
    site.await_name(name, "mx3");
    site.follow(DRAIN, 0..1);
    let state = || {
        let row = site.hosts.run("mx1", "mxfleet --output json host show mx3");
        serde_json::from_str::<serde_json::Value>(&row).unwrap()["state"].clone()
    };
    eventually("an empty host", SOON, || state() == "retired");
    site.follow(DRAIN, 1..2);
    site.await_name(name, "mx3");
    site.await_voters("mx1", 3);
}

/// The customer's MX records are where the hosts look names up.
fn customer_has(site: &Site, names: [&str; 2]) {
    let zone = format!(
        "$TTL 1\n@ SOA ns1.relay.example. host.relay.example. 1 1h 10m 30d 1\n\
         @ NS ns1.relay.example.\n@ MX 10 {}.relay.example.\n@ MX 20 {}.relay.example.",
        names[0], names[1]
    );
    let script = format!(
        "printf '%b\n' '{}' > /var/lib/bind/acme.test.zone\n\
         grep -q acme.test /etc/bind/named.conf.local || \
         echo 'zone \"acme.test\" {{ type primary; file \"/var/lib/bind/acme.test.zone\"; }};' \
         >> /etc/bind/named.conf.local\n\
         systemctl restart named",
        zone.replace('\n', "\\n")
    );
    site.hosts.run("ns1", &script);
}

fn follow_a_migration(site: &Site) {
    customer_has(site, ["mx-a", "mx-b"]);
    site.hosts.run("mx1", "mxfleet settings set rotation.survey_every 1s");
    site.hosts.run("mx1", "mxfleet customer show acme");
    site.follow(MIGRATION, 0..2);
    site.follow(MIGRATION, 0..1);
    site.follow(MIGRATION, 2..3);
    let acme = || {
        let row = site.hosts.run("mx1", "mxfleet --output json migration status");
        let row: serde_json::Value = serde_json::from_str(&row).unwrap();
        row["customers"][0].clone()
    };
    eventually("a letter", SOON, || acme()["told"] == "accepted");
    assert_eq!(acme()["would_break"], true);
    site.follow(MIGRATION, 3..4);
    customer_has(site, ["mx-d", "mx-b"]);
    eventually("the customer is seen to have moved", SOON, || acme()["records"] == "moved");
    site.follow(MIGRATION, 4..5);
    eventually("the old name ends", SOON, || site.name("mx-a.relay.example")["state"] == "removed");
    assert_eq!(site.ask("192.0.2.4", "mx-a.relay.example", "A"), "");
    assert_eq!(site.ask("192.0.2.4", "mx-d.relay.example", "A"), "192.0.2.1");
}
