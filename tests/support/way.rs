//! The way from hosts of a network to a customer's server: over two routers, on addresses that look
//! public and lead nowhere else.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::network::Network;
use super::process::{Process, attempt, output};
use super::{SOON, eventually, scratch};

/// A customer's server that says yes to everything but a message.
const SERVER: &str = r#"
import socket, socketserver

class Dialog(socketserver.StreamRequestHandler):
    def say(self, words):
        self.wfile.write((words + "\r\n").encode())

    def handle(self):
        self.say("220 far.acme.test ESMTP")
        for line in self.rfile:
            word = line.split()[0].upper()
            if word == b"QUIT":
                return self.say("221 2.0.0 bye")
            if word == b"EHLO":
                self.say("250-far.acme.test\r\n250 PIPELINING")
            elif word in (b"MAIL", b"RCPT"):
                self.say("250 2.1.0 fine")
            else:
                self.say("502 5.5.1 no")

class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True

Server(("::", 25), Dialog).serve_forever()
"#;

/// Two routers and a server behind them; gone when dropped.
#[derive(Debug)]
pub struct Way {
    name: String,
    server: Option<Process>,
    folder: tempfile::TempDir,
}

/// Where the server is.
pub const SERVER_V4: &str = "11.9.201.2";
pub const SERVER_V6: &str = "2a00:9:201::2";
/// The far side's router, as seen from the near one.
pub const ROUTER_V4: &str = "11.9.200.2";
pub const ROUTER_V6: &str = "2a00:9:200::2";

impl Way {
    /// From each of so many hosts of `network`.
    pub fn from(network: &Network, hosts: usize) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("way{}x{next}", std::process::id());
        let mut way = Self { name, server: None, folder: scratch() };
        for space in ["r1", "r2", "s"].map(|part| way.space(part)) {
            ip(&["netns", "add", &space]);
            ip(&["-n", &space, "link", "set", "lo", "up"]);
            let forward = "echo 1 >/proc/sys/net/ipv4/ip_forward; \
                           echo 1 >/proc/sys/net/ipv6/conf/all/forwarding";
            ip(&["netns", "exec", &space, "sh", "-c", forward]);
        }
        let [near, far, server] = ["r1", "r2", "s"].map(|part| way.space(part));
        cable(&far, &near, "200", "far");
        cable(&server, &far, "201", "server");
        route(&near, "201", "200", 2);
        route(&server, "0", "201", 1);
        for host in 0..hosts {
            let (space, subnet) = (network.space(host), (host + 1).to_string());
            cable(&space, &near, &subnet, &format!("host{host}"));
            route(&space, "201", &subnet, 1);
            route(&space, "200", &subnet, 1);
            route(&far, &subnet, "200", 1);
        }
        way.serve();
        for host in 0..hosts {
            Self::await_open(&network.space(host));
        }
        way
    }

    fn serve(&mut self) {
        let words = ["ip", "netns", "exec", &self.space("s"), "python3", "-c", SERVER];
        let log = self.folder.path().join("server.log");
        self.server = Some(Process::start(&words.map(str::to_owned), &log));
        let space = self.space("s");
        eventually("a server at the end of the way", SOON, || {
            let listening = ["netns", "exec", &space, "cat", "/proc/net/tcp6"];
            // Port 25, and listening.
            output("ip", &listening)
                .lines()
                .any(|line| line.contains(":0019 ") && line.contains(" 0A "))
        });
    }

    /// Routers find each other by IPv6 only once their own addresses are known to be theirs alone
    /// (RFC 4862 section 5.4), which takes seconds.
    fn await_open(space: &str) {
        let connect = format!("import socket; socket.create_connection(('{SERVER_V6}', 25), 1)");
        eventually("a way to the server by IPv6", SOON, || {
            attempt("ip", &["netns", "exec", space, "python3", "-c", &connect]).status.success()
        });
    }

    /// What this host sends to the server gets no further than the first router.
    pub fn cut(&self, host: usize) {
        let rule = format!(
            "add table inet cut; \
             add chain inet cut on {{ type filter hook forward priority 0; }}; \
             add rule inet cut on iifname host{host} drop"
        );
        ip(&["netns", "exec", &self.space("r1"), "nft", &rule]);
    }

    fn space(&self, part: &str) -> String {
        format!("{}{part}", self.name)
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            server.kill();
        }
        for part in ["r1", "r2", "s"] {
            attempt("ip", &["netns", "delete", &self.space(part)]);
        }
    }
}

/// A subnet between two: `behind` has .2, and `router`, on its device `device`, .1.
fn cable(behind: &str, router: &str, subnet: &str, device: &str) {
    let peer = ["peer", "name", device, "netns", router];
    ip(&[&["-n", behind, "link", "add", "way", "type", "veth"], &peer[..]].concat());
    for (space, device, number) in [(behind, "way", 2), (router, device, 1)] {
        ip(&["-n", space, "addr", "add", &format!("11.9.{subnet}.{number}/24"), "dev", device]);
        let v6 = format!("2a00:9:{subnet}::{number}/64");
        ip(&["-n", space, "addr", "add", &v6, "dev", device, "nodad"]);
        ip(&["-n", space, "link", "set", device, "up"]);
    }
}

/// `space` finds subnet `to` (0 is all) behind the neighbour `number` of subnet `by`.
fn route(space: &str, to: &str, by: &str, number: u8) {
    let (v4, v6) = match to {
        "0" if space.ends_with('s') => ("default".to_owned(), "default".to_owned()),
        _ => (format!("11.9.{to}.0/24"), format!("2a00:9:{to}::/64")),
    };
    ip(&["-n", space, "route", "add", &v4, "via", &format!("11.9.{by}.{number}")]);
    ip(&["-n", space, "-6", "route", "add", &v6, "via", &format!("2a00:9:{by}::{number}")]);
}

fn ip(arguments: &[&str]) {
    output("ip", arguments);
}
