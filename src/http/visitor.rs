//! Who asks, also when proxies stand between.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;
use ipnet::IpNet;

/// What proxies add, each the address it was asked from.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// The address a visitor's turns are counted by. Only what our own proxies say is believed: read
/// from the end, the first address that is none of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Visitor(pub(super) IpAddr);

impl Visitor {
    /// Who stands behind this one, as the proxies in `proxies` tell it.
    pub(super) fn behind(self, proxies: &[IpNet], headers: &HeaderMap) -> Self {
        let is_proxy = |ip: &IpAddr| proxies.iter().any(|network| network.contains(ip));
        let told: Vec<&str> = headers
            .get_all(FORWARDED_FOR)
            .iter()
            .flat_map(|value| value.to_str().unwrap_or_default().split(','))
            .collect();
        let mut visitor = self.0;
        for hop in told.into_iter().rev() {
            if !is_proxy(&visitor) {
                break;
            }
            let Some(ip) = address(hop.trim()) else { break };
            visitor = ip;
        }
        Self(visitor)
    }
}

/// Some proxies add the port.
fn address(text: &str) -> Option<IpAddr> {
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let ip = text.trim_matches(['[', ']']).parse().ok().or_else(with_port)?;
    Some(IpAddr::to_canonical(&ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_proxies_are_believed() {
        let proxies = ["10.0.0.0/8", "::1/128"].map(|network| network.parse().unwrap());
        for (peer, told, visitor) in [
            ("10.0.0.1", &["198.51.100.7"][..], "198.51.100.7"),
            ("10.0.0.1", &["203.0.113.1, 198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["203.0.113.1", "198.51.100.7, 10.0.0.2"], "198.51.100.7"),
            ("::1", &["[2001:db8::7]:4711"], "2001:db8::7"),
            ("::1", &["198.51.100.7:4711"], "198.51.100.7"),
            ("10.0.0.1", &["::ffff:198.51.100.7"], "198.51.100.7"),
            ("192.0.2.1", &["198.51.100.7"], "192.0.2.1"),
            ("10.0.0.1", &["198.51.100.7, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["10.0.0.3"], "10.0.0.3"),
            ("10.0.0.1", &[], "10.0.0.1"),
        ] {
            let mut headers = HeaderMap::new();
            for value in told {
                headers.append(FORWARDED_FOR, value.parse().unwrap());
            }
            let found = Visitor(peer.parse().unwrap()).behind(&proxies, &headers);
            assert_eq!(found.0.to_string(), visitor, "{peer} {told:?}");
        }
    }
}
