//! Which addresses are on the public Internet (the IANA special-purpose registries).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether the address is one host's on the public Internet. What only carries another address
/// (6to4, Teredo, NAT64) is not: it could carry a private one.
pub(super) fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    let special = match (a, b, c) {
        // This network, loopback, multicast and above.
        (0 | 127 | 224.., ..) => true,
        // Shared by carriers (RFC 6598); benchmarks (RFC 2544); protocols and 6to4 relays.
        (100, 64..=127, _) | (198, 18..=19, _) | (192, 0, 0) | (192, 88, 99) => true,
        _ => v4.is_private() || v4.is_link_local() || v4.is_documentation(),
    };
    !special
}

fn is_public_v6(v6: Ipv6Addr) -> bool {
    let [first, second, ..] = v6.segments();
    // Only 2000::/3 is given to hosts.
    let global = (0x2000..0x4000).contains(&first);
    let special = match (first, second) {
        // 2001::/23 is for protocols (Teredo is in it), 2001:db8::/32 and 3fff::/20 for documents.
        (0x2001, 0..=0x1ff | 0xdb8) | (0x3fff, 0..=0xfff) => true,
        // 6to4.
        (0x2002, _) => true,
        _ => false,
    };
    global && !special
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_are_not_public() {
        for ip in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "192.88.99.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:a00:1::1",
            "3fff::1",
            "fc00::1",
            "fd00::1",
            "fe80::1",
            "ff02::1",
            "::127.0.0.1",
        ] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn the_rest_is() {
        for ip in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "223.255.255.1",
            "2001:4860::1",
            "2a00:1450::1",
            "2606:4700::1",
            "::ffff:1.1.1.1",
        ] {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
    }
}
