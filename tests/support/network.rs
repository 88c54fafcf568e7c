//! A network of the test's own: hosts with addresses on a bridge, that can be cut apart.
//!
//! Packets are dropped where they come in. Dropped on their way out, the sender would be told,
//! which no network does.

use std::net::Ipv4Addr;

use super::process::{attempt, output};

/// Hosts on one bridge; gone when dropped.
#[derive(Debug)]
pub struct Network {
    name: String,
    subnet: [u8; 3],
    hosts: usize,
}

impl Network {
    /// So many hosts; the test itself is on the bridge too.
    pub fn of(hosts: usize) -> Self {
        let network = Self::claim(hosts);
        let bridge = network.bridge();
        ip(&["link", "set", &bridge, "up"]);
        ip(&["addr", "add", &format!("{}/24", network.here()), "dev", &bridge]);
        for host in 0..hosts {
            network.add(host);
        }
        network
    }

    /// A subnet that is nobody else's, also of no other run of the tests, even one that was killed:
    /// who makes the bridge that is named after a subnet has it.
    fn claim(hosts: usize) -> Self {
        for third in 0..250 {
            let name = format!("mxnet{third}");
            let bridge = ["link", "add", &format!("{name}b"), "type", "bridge"];
            if attempt("ip", &bridge).status.success() {
                return Self { name, subnet: [10, 99, third], hosts };
            }
        }
        panic!("no subnet below 10.99.0.0/16 is free: `ip link` shows who has them");
    }

    fn add(&self, host: usize) {
        let (space, cable) = (self.space(host), format!("{}v{host}", self.name));
        ip(&["netns", "add", &space]);
        let peer = ["peer", "name", "eth0", "netns", &space];
        ip(&[&["link", "add", &cable, "type", "veth"], &peer[..]].concat());
        ip(&["link", "set", &cable, "master", &self.bridge(), "up"]);
        let address = format!("{}/24", self.address(host));
        ip(&["-n", &space, "addr", "add", &address, "dev", "eth0"]);
        ip(&["-n", &space, "link", "set", "eth0", "up"]);
        ip(&["-n", &space, "link", "set", "lo", "up"]);
    }

    /// The test's own address.
    pub fn here(&self) -> Ipv4Addr {
        let [a, b, c] = self.subnet;
        Ipv4Addr::new(a, b, c, 254)
    }

    /// The address of a host, counted from 0.
    pub fn address(&self, host: usize) -> Ipv4Addr {
        let [a, b, c] = self.subnet;
        Ipv4Addr::new(a, b, c, u8::try_from(host + 1).unwrap())
    }

    /// What stands before a command that shall run on a host.
    pub fn on(&self, host: usize) -> Vec<String> {
        ["ip", "netns", "exec", &self.space(host)].map(str::to_owned).to_vec()
    }

    /// What `from` sends no longer reaches `to`; the way back stays open.
    pub fn cut_one_way(&self, from: usize, to: usize) {
        self.rule(to, &format!("ip saddr {} drop", self.address(from)));
    }

    /// Nothing passes between two hosts.
    pub fn cut(&self, one: usize, other: usize) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// Every host loses so many percent of what the other hosts send.
    pub fn lose(&self, percent: u32) {
        for host in 0..self.hosts {
            for other in (0..self.hosts).filter(|&other| other != host) {
                let rule = format!(
                    "ip saddr {} numgen random mod 100 < {percent} drop",
                    self.address(other)
                );
                self.rule(host, &rule);
            }
        }
    }

    /// Everything passes again.
    pub fn heal(&self) {
        for host in 0..self.hosts {
            attempt("ip", &["netns", "exec", &self.space(host), "nft", "delete table inet cut"]);
        }
    }

    fn rule(&self, host: usize, rule: &str) {
        let script = format!(
            "add table inet cut; \
             add chain inet cut in {{ type filter hook input priority 0; }}; \
             add rule inet cut in {rule}"
        );
        ip(&["netns", "exec", &self.space(host), "nft", &script]);
    }

    fn bridge(&self) -> String {
        format!("{}b", self.name)
    }

    /// The network namespace of a host.
    pub fn space(&self, host: usize) -> String {
        format!("{}n{host}", self.name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in 0..self.hosts {
            attempt("ip", &["netns", "delete", &self.space(host)]);
        }
        attempt("ip", &["link", "delete", &self.bridge()]);
    }
}

fn ip(arguments: &[&str]) {
    output("ip", arguments);
}
