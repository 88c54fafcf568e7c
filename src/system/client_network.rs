//! The network of a client, as far as bounds for strangers go.

use std::net::IpAddr;

use ipnet::IpNet;

/// IPv4 /24 or IPv6 /64: what one client has to itself anyway. An IPv4 address in an IPv6 one is
/// the IPv4 address.
pub fn client_network(ip: IpAddr) -> IpNet {
    let ip = ip.to_canonical();
    let prefix = if ip.is_ipv4() { 24 } else { 64 };
    IpNet::new(ip, prefix).map_or_else(|_| IpNet::from(ip), |network| network.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_share_a_network() {
        for (ip, network) in [
            ("192.0.2.200", "192.0.2.0/24"),
            ("::ffff:192.0.2.7", "192.0.2.0/24"),
            ("2001:db8::ffff", "2001:db8::/64"),
            ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ] {
            assert_eq!(client_network(ip.parse().unwrap()).to_string(), network);
        }
    }
}
