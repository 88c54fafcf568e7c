//! Which names and addresses are this host, or another one of the fleet, so that mail never goes
//! back to the fleet itself.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mxfleet_cluster::{NameStatus, State};

/// What leads to this node, whatever the way.
#[derive(Debug, Clone, Default)]
pub struct Own {
    /// Names this host or its MX names have, lowercase.
    pub names: HashSet<String>,
    /// Its addresses: of its interfaces, and those under which the world sees it.
    pub addresses: HashSet<IpAddr>,
    /// Where it accepts mail; an unspecified address is all of them.
    pub listeners: Vec<SocketAddr>,
    /// Loopback addresses may be customers' servers (a fleet on one machine, tests).
    pub allow_loopback: bool,
}

/// The port on which a host takes mail for its names.
const SMTP_PORT: u16 = 25;

impl Own {
    /// Whether the name is one of ours.
    pub fn is_named(&self, host: &str) -> bool {
        self.names.contains(&host.to_ascii_lowercase())
    }

    /// Whether a connection to this address ends at this node.
    ///
    /// An own address at port 25 counts even when the node listens elsewhere, because a packet
    /// filter or a container's port map leads from there to here. Other ports may be other
    /// programs.
    pub fn is_reached_by(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let loopback = ip.is_loopback() || ip.is_unspecified();
        if loopback && !self.allow_loopback {
            return true;
        }
        let own = loopback || self.addresses.contains(&ip);
        let listens = |listener: &SocketAddr| {
            let at = listener.ip().to_canonical();
            listener.port() == address.port()
                && (at == ip || (own && (at.is_unspecified() || ip.is_unspecified())))
        };
        (address.port() == SMTP_PORT && self.addresses.contains(&ip))
            || self.listeners.iter().any(listens)
    }

    /// Whether mail may be sent to this address at all: it is one host's.
    pub fn may_be_a_server(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        if ip.is_loopback() {
            return self.allow_loopback;
        }
        match ip {
            // 0.0.0.0/8 is "this network" (RFC 1122 section 3.2.1.3).
            IpAddr::V4(v4) => {
                v4.octets()[0] != 0
                    && !v4.is_multicast()
                    && !v4.is_link_local()
                    && v4 != Ipv4Addr::BROADCAST
            }
            // A link-local address means nothing without an interface, which DNS cannot give.
            IpAddr::V6(v6) => {
                !v6.is_unspecified() && !v6.is_multicast() && !v6.is_unicast_link_local()
            }
        }
    }
}

/// The fleet, as the world sees it from this host: it behaves as one relay, so what leads to
/// another of its hosts leads back as well.
#[derive(Debug, Clone, Copy)]
pub struct Us<'a> {
    /// This host.
    pub own: &'a Own,
    /// Names and hosts of the fleet.
    pub fleet: &'a State,
}

impl Us<'_> {
    /// Whether the name is this host's, or an MX name of the fleet.
    pub fn is_named(&self, host: &str) -> bool {
        let name = self.fleet.name(&host.to_ascii_lowercase());
        self.own.is_named(host) || name.is_some_and(|name| name.status() != NameStatus::Removed)
    }

    /// Whether a connection to this address ends at this node, or where mail reaches another host.
    pub fn is_reached_by(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let carries = || self.fleet.hosts().any(|host| host.addresses.contains(&ip));
        self.own.is_reached_by(address) || (address.port() == SMTP_PORT && carries())
    }

    /// Whether mail may be sent to this address at all, and does not come back.
    pub fn may_send_to(&self, address: SocketAddr) -> bool {
        self.own.may_be_a_server(address.ip()) && !self.is_reached_by(address)
    }
}

/// The addresses of this host's interfaces, as the kernel lists them under `/proc/net`.
pub fn interface_addresses() -> HashSet<IpAddr> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    local_v4(&read("/proc/net/fib_trie")).chain(local_v6(&read("/proc/net/if_inet6"))).collect()
}

/// A leaf `|-- 192.0.2.2` is followed by lines such as `/32 host LOCAL`.
fn local_v4(trie: &str) -> impl Iterator<Item = IpAddr> {
    let mut leaf = None;
    trie.lines().filter_map(move |line| {
        let line = line.trim();
        match line.strip_prefix("|-- ") {
            Some(address) => {
                leaf = address.parse::<IpAddr>().ok();
                None
            }
            None if line.starts_with("/32") && line.ends_with("host LOCAL") => leaf,
            None => None,
        }
    })
}

/// Each line begins with 32 hexadecimal digits.
fn local_v6(list: &str) -> impl Iterator<Item = IpAddr> {
    list.lines().filter_map(|line| {
        let digits = line.split_whitespace().next().filter(|digits| digits.len() == 32)?;
        u128::from_str_radix(digits, 16).ok().map(|bits| IpAddr::V6(bits.into()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(allow_loopback: bool) -> Own {
        Own {
            names: HashSet::from(["mx1.relay.example".to_owned()]),
            addresses: ["192.0.2.2", "2001:db8::2"].map(|a| a.parse().unwrap()).into(),
            listeners: vec!["0.0.0.0:2525".parse().unwrap(), "127.0.0.5:26".parse().unwrap()],
            allow_loopback,
        }
    }

    #[test]
    fn every_address_that_leads_back_is_known() {
        for (address, strict, loopback_allowed) in [
            ("192.0.2.2:25", true, true),
            ("192.0.2.2:2525", true, true),
            ("192.0.2.2:10025", false, false),
            ("[2001:db8::2]:25", true, true),
            ("[::ffff:192.0.2.2]:25", true, true),
            ("192.0.2.3:25", false, false),
            ("192.0.2.3:2525", false, false),
            ("127.0.0.1:25", true, false),
            ("127.0.0.1:2525", true, true),
            ("127.0.0.5:26", true, true),
            ("127.0.0.6:26", true, false),
            ("[::1]:2525", true, true),
            ("0.0.0.0:2525", true, true),
            ("0.0.0.0:26", true, true),
            ("[::]:25", true, false),
        ] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(own(false).is_reached_by(address), strict, "{address}");
            assert_eq!(own(true).is_reached_by(address), loopback_allowed, "{address}");
        }
    }

    #[test]
    fn addresses_that_are_no_host_get_no_mail() {
        for ip in ["0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "::", "ff02::1", "fe80::1"]
        {
            assert!(!own(true).may_be_a_server(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(!own(false).may_be_a_server(ip.parse().unwrap()), "{ip}");
            assert!(own(true).may_be_a_server(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["198.51.100.7", "10.0.0.1", "2001:db8::7", "fd00::1"] {
            assert!(own(false).may_be_a_server(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn a_name_of_ours_is_known_in_any_case() {
        assert!(own(false).is_named("MX1.Relay.Example"));
        assert!(!own(false).is_named("mx2.relay.example"));
    }

    #[test]
    fn the_kernels_lists_are_read() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 127.0.0.0\n        /8 host LOCAL\n     \
                    |-- 192.0.2.2\n        /32 host LOCAL\n     |-- 192.0.2.255\n        /32 link \
                    BROADCAST\n";
        assert_eq!(local_v4(trie).collect::<Vec<_>>(), ["192.0.2.2".parse::<IpAddr>().unwrap()]);
        let list = "fd000000000000000000000000000002 04 40 00 82     eth0\nnonsense\n";
        assert_eq!(local_v6(list).collect::<Vec<_>>(), ["fd00::2".parse::<IpAddr>().unwrap()]);
        assert!(interface_addresses().iter().any(IpAddr::is_loopback), "this machine has one");
    }
}
