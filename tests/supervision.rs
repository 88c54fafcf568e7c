//! systemd starts the node, gives it sockets, watches it, and has it reload.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use support::node::{Node, PROGRAM, Setup};
use support::process::{attempt, output, said};
use support::sink::Sink;
use support::smtp::Smtp;
use support::{SOON, eventually, free_address, scratch};

fn unit(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("ops/systemd").join(name)
}

/// What the node tells its supervisor.
struct Supervisor {
    socket: UnixDatagram,
}

impl Supervisor {
    /// The next words that have these among them; others are passed over.
    fn await_words(&self, words: &str) -> String {
        let mut octets = [0; 4096];
        loop {
            let length = self.socket.recv(&mut octets).unwrap_or_else(|e| panic!("{words}: {e}"));
            let told = String::from_utf8_lossy(&octets[..length]).into_owned();
            if told.contains(words) {
                return told;
            }
        }
    }
}

#[test]
fn the_supervisor_is_told_of_every_turn_and_that_the_node_lives() {
    let folder = scratch();
    let place = folder.path().join("notify");
    let supervisor = Supervisor { socket: UnixDatagram::bind(&place).unwrap() };
    supervisor.socket.set_read_timeout(Some(SOON)).unwrap();
    let notify = format!("NOTIFY_SOCKET={}", place.display());
    let wrapper = ["env", &notify, "WATCHDOG_USEC=600000"].map(str::to_owned).to_vec();
    let mut node = Node::with(&Setup { wrapper, ..Setup::default() });
    supervisor.await_words("READY=1\nSTATUS=accepts mail");
    supervisor.await_words("WATCHDOG=1");
    node.process().signal("HUP");
    let reloading = supervisor.await_words("RELOADING=1");
    let since_boot = reloading.split_once("MONOTONIC_USEC=").unwrap().1;
    assert!(since_boot.parse::<u64>().unwrap() > 0, "{reloading}");
    supervisor.await_words("READY=1");
    node.process().signal("TERM");
    supervisor.await_words("STOPPING=1");
    assert!(node.process().wait().success());
}

#[test]
fn port_25_comes_from_the_socket_unit_and_the_node_has_no_privilege() {
    let socket = std::fs::read_to_string(unit("mxfleet.socket")).unwrap();
    assert!(socket.contains("FileDescriptorName=smtp\n"), "{socket}");
    let port_25: SocketAddr = "127.25.25.25:25".parse().unwrap();
    let setup = Setup {
        // In the configuration there is another one, which is not bound.
        listen: vec![free_address()],
        wrapper: [
            "systemd-socket-activate",
            "--fdname=smtp",
            &format!("--listen={port_25}"),
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all",
        ]
        .map(str::to_owned)
        .to_vec(),
        ..Setup::default()
    };
    let mut node = Node::stopped(&setup);
    output("chown", &["-R", "65534:65534", node.folder().to_str().unwrap()]);
    output("chmod", &["755", node.folder().to_str().unwrap()]);
    node.begin();
    support::await_listening(port_25);
    // The first connection has waited at the socket until the node took it.
    let sink = Sink::start();
    node.await_ready();
    let uid = format!("/proc/{}/status", node.process().id());
    let status = std::fs::read_to_string(uid).unwrap();
    assert!(status.contains("Uid:\t65534\t65534"), "{status}");
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    node.serve("acme.test", &sink.route());
    let reply = Smtp::greeted(port_25).deliver("a@b.test", &["user@acme.test"], b"x\r\n");
    assert_eq!(reply.code, 250, "{reply:?}");
    sink.await_count(1, SOON);
    assert!(std::net::TcpStream::connect(setup.listen[0]).is_err());
    assert!(node.terminate().success());
}

#[test]
fn a_socket_with_an_unknown_name_is_refused_in_plain_words() {
    let address = free_address();
    let listen = format!("--listen={address}");
    let wrapper = ["systemd-socket-activate", "--fdname=smpt", &listen];
    let setup = Setup { wrapper: wrapper.map(str::to_owned).to_vec(), ..Setup::default() };
    let mut node = Node::stopped(&setup);
    node.begin();
    support::await_listening(address);
    eventually("its end", SOON, || !node.is_running());
    let words = node.process().words();
    assert!(words.contains("\"smpt\"; name it smtp, http or metrics"), "{words}");
}

#[test]
fn a_reload_is_all_or_nothing_and_says_what_has_changed() {
    let mut node = Node::with(&Setup::default());
    let good = std::fs::read_to_string(node.config()).unwrap();
    let reload = |node: &mut Node, text: &str, words: &str| {
        std::fs::write(node.config(), text).unwrap();
        node.process().signal("HUP");
        eventually(words, SOON, || node.process().words().contains(words));
    };
    assert_eq!(node.metric("mxfleet_config_reload_success"), 1.0);

    let bad = good.clone() + "[limits]\nrecipients_max = 5\nhops_mix = 9\n";
    reload(&mut node, &bad, "the configuration was not taken; the old one stays in force");
    let words = node.process().words();
    assert!(words.contains("limits.recipients_max must be at least 100"), "{words}");
    assert!(words.contains("there is no key limits.hops_mix; did you mean hops_max?"), "{words}");
    assert_eq!(node.metric("mxfleet_config_reload_success"), 0.0);
    assert!(node.is_ready());

    let other = good + "[limits]\nrecipients_max = 150\n";
    let told = "in force at the next start: limits.recipients_max: the default -> 150";
    reload(&mut node, &other, told);
    eventually("success", SOON, || node.metric("mxfleet_config_reload_success") == 1.0);
    assert!(node.metric("mxfleet_config_reload_timestamp_seconds") > 1e9);
}

#[test]
fn the_unit_is_sound_and_exposed_little() {
    let folder = scratch();
    for name in ["mxfleet.service", "mxfleet.socket"] {
        let text = std::fs::read_to_string(unit(name)).unwrap();
        let text = text.replace("/usr/bin/mxfleet", PROGRAM);
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let place = |name: &str| folder.path().join(name).display().to_string();
    let (service, socket) = (place("mxfleet.service"), place("mxfleet.socket"));
    let verified = attempt("systemd-analyze", &["verify", "--man=no", &service, &socket]);
    // What an older systemd does not know it says, and ignores, as the unit expects.
    let faults: Vec<String> = said(&verified)
        .lines()
        .filter(|line| !line.contains("Failed to parse service type, ignoring: notify-reload"))
        .map(str::to_owned)
        .collect();
    assert!(faults.is_empty(), "{faults:?}");
    let report = output("systemd-analyze", &["security", "--offline=true", "--no-pager", &service]);
    let level = report.split("exposure level for mxfleet.service: ").nth(1).unwrap();
    let level: f64 = level.split_whitespace().next().unwrap().parse().unwrap();
    assert!(level <= 2.0, "{report}");
}

/// Names of a group of system calls, as systemd lists them, groups within groups resolved.
fn group(name: &str) -> BTreeSet<String> {
    let listed = output("systemd-analyze", &["syscall-filter", "--no-pager", name]);
    let words = listed.lines().skip(1).map(str::trim).filter(|line| !line.starts_with('#'));
    let mut calls = BTreeSet::new();
    for word in words.filter(|word| !word.is_empty()) {
        if word.starts_with('@') {
            calls.extend(group(word));
        } else {
            calls.insert(word.to_owned());
        }
    }
    calls
}

#[test]
fn the_node_makes_no_system_call_that_its_unit_forbids() {
    let service = std::fs::read_to_string(unit("mxfleet.service")).unwrap();
    let filters = service.lines().filter_map(|line| line.strip_prefix("SystemCallFilter="));
    let mut allowed = BTreeSet::new();
    for filter in filters {
        match filter.strip_prefix('~') {
            None => allowed.extend(filter.split(' ').flat_map(group)),
            Some(denied) => {
                let denied: BTreeSet<String> = denied.split(' ').flat_map(group).collect();
                allowed.retain(|call| !denied.contains(call));
            }
        }
    }
    assert!(allowed.len() > 100, "{allowed:?}");

    let folder = scratch();
    let trace = folder.path().join("trace");
    let wrapper = ["strace", "-D", "-f", "-qq", "-o", trace.to_str().unwrap()];
    let wrapper = wrapper.map(str::to_owned).to_vec();
    let mut node = Node::with(&Setup { wrapper, ..Setup::default() });
    let sink = Sink::start();
    node.serve("acme.test", &sink.route());
    let reply = node.client().deliver("a@b.test", &["user@acme.test"], b"x\r\n");
    assert_eq!(reply.code, 250, "{reply:?}");
    sink.await_count(1, SOON);
    for tool in ["mx", "smtp", "ping", "traceroute"] {
        node.admin(&["probe", tool, "acme.test"]);
    }
    node.process().signal("HUP");
    assert!(node.metric("mxfleet_build_info") >= 0.0);
    assert!(node.terminate().success());
    let trace = std::fs::read_to_string(trace).unwrap();
    let called: BTreeSet<String> = trace
        .lines()
        .filter_map(|line| line.split_once(' ')?.1.trim_start().split_once('('))
        .map(|(call, _)| call.to_owned())
        .filter(|call| {
            call.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        })
        .collect();
    assert!(called.contains("fdatasync") && called.len() > 20, "{called:?}");
    // The program itself is executed by systemd, before the filter counts for it.
    let forbidden: Vec<_> = called.difference(&allowed).collect();
    assert!(forbidden.is_empty(), "{forbidden:?}");
}
