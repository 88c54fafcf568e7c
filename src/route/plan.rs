//! From answers to an order of servers; pure (RFC 5321 section 5.1, RFC 7505).

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::net::{IpAddr, SocketAddr};

use super::RouteFailure;
use super::own::Us;

/// A host that takes a domain's mail, before its addresses are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exchanger {
    /// Lower is tried first; equal ones share the load.
    pub(super) preference: u16,
    /// A name, or an IP address.
    pub(super) host: String,
    pub(super) port: u16,
}

/// An exchanger with what the lookup of its addresses gave.
#[derive(Debug, Clone)]
pub(super) struct Located {
    pub(super) exchanger: Exchanger,
    pub(super) addresses: Result<Vec<IpAddr>, RouteFailure>,
}

/// A server at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) host: String,
    pub(super) address: SocketAddr,
}

/// How much a plan may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlanBounds {
    pub(super) targets_max: usize,
    pub(super) addresses_per_host_max: usize,
}

/// The exchangers that MX records name, or the domain itself where there are none (the "implicit
/// MX" of RFC 5321 section 5.1).
pub(super) fn exchangers(
    domain: &str,
    records: Vec<(u16, String)>,
    port: u16,
) -> Result<Vec<Exchanger>, RouteFailure> {
    if records.is_empty() {
        return Ok(vec![Exchanger { preference: 0, host: domain.to_owned(), port }]);
    }
    let found: Vec<Exchanger> = records
        .into_iter()
        .map(|(preference, host)| (preference, host.trim_end_matches('.').to_ascii_lowercase()))
        .filter(|(_, host)| !host.is_empty())
        .map(|(preference, host)| Exchanger { preference, host, port })
        .collect();
    // RFC 7505: "." as the exchanger says that the domain takes no mail.
    if found.is_empty() { Err(RouteFailure::NullMx) } else { Ok(found) }
}

/// Keep what is better than the best record that is us: mail only ever moves towards lower
/// preference, so that two relays never hand it to and fro.
pub(super) fn better_than_us<T>(
    candidates: Vec<T>,
    preference: impl Fn(&T) -> u16,
    is_us: impl Fn(&T) -> bool,
) -> Result<Vec<T>, RouteFailure> {
    let ours = candidates.iter().filter(|candidate| is_us(candidate)).map(&preference).min();
    let Some(ours) = ours else { return Ok(candidates) };
    let better: Vec<T> = candidates.into_iter().filter(|c| preference(c) < ours).collect();
    if better.is_empty() { Err(RouteFailure::LoopsBack) } else { Ok(better) }
}

/// By preference; equal ones in an order that `entropy` decides.
pub(super) fn sort(exchangers: &mut [Exchanger], entropy: u64) {
    exchangers.sort_by_cached_key(|exchanger| {
        let mut hasher = DefaultHasher::new();
        (entropy, &exchanger.host, exchanger.port).hash(&mut hasher);
        (exchanger.preference, hasher.finish())
    });
}

/// Whether one of its addresses ends at the fleet.
pub(super) fn is_us(located: &Located, us: Us<'_>) -> bool {
    let port = located.exchanger.port;
    let reached = |ip: &IpAddr| us.is_reached_by(SocketAddr::new(*ip, port));
    located.addresses.as_ref().is_ok_and(|addresses| addresses.iter().any(reached))
}

/// The addresses to try, in order. Without any, the reason that says most.
pub(super) fn targets(
    located: Vec<Located>,
    us: Us<'_>,
    bounds: PlanBounds,
) -> Result<Vec<Target>, RouteFailure> {
    let mut targets = Vec::new();
    let mut failure = None;
    let mut leads_back = false;
    for Located { exchanger, addresses } in located {
        let addresses = match addresses {
            Ok(addresses) => addresses,
            Err(why) => {
                failure = failure.or(Some(why));
                continue;
            }
        };
        let before = targets.len();
        for ip in interleave(&addresses, bounds.addresses_per_host_max) {
            let address = SocketAddr::new(ip, exchanger.port);
            leads_back |= us.is_reached_by(address);
            if us.may_send_to(address) {
                targets.push(Target { host: exchanger.host.clone(), address });
            }
        }
        if targets.len() == before {
            failure = failure.or(Some(RouteFailure::NoAddress(exchanger.host)));
        }
    }
    targets.truncate(bounds.targets_max);
    if !targets.is_empty() {
        return Ok(targets);
    }
    if leads_back {
        return Err(RouteFailure::LoopsBack);
    }
    Err(failure.unwrap_or(RouteFailure::LoopsBack))
}

/// IPv6 and IPv4 in turn, IPv6 first, so that a broken family costs one connect and not all.
pub(super) fn interleave(addresses: &[IpAddr], most: usize) -> Vec<IpAddr> {
    let mut v6 = addresses.iter().filter(|ip| ip.is_ipv6());
    let mut v4 = addresses.iter().filter(|ip| ip.is_ipv4());
    let mut mixed = Vec::new();
    while mixed.len() < most {
        let pair = [v6.next(), v4.next()];
        if pair == [None, None] {
            break;
        }
        for ip in pair.into_iter().flatten() {
            if !mixed.contains(ip) {
                mixed.push(*ip);
            }
        }
    }
    mixed.truncate(most);
    mixed
}

#[cfg(test)]
mod tests;
