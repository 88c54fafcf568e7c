//! The customers' domains: where their mail goes, and how.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use super::sharded::Sharded;
use super::{Outcome, RecipientChange, RecipientPolicy, Refusal};

const SERVERS_MAX: usize = 20;
const HOST_OCTETS_MAX: usize = 253;
const CONNECTIONS_MAX: u32 = 1000;

/// A customer's mail domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// Lowercase A-label without a trailing dot.
    pub name: String,
    /// The customer who owns it.
    pub customer: String,
    /// Where its mail goes.
    pub route: Route,
    /// How much TLS its servers must offer.
    pub tls: TlsPolicy,
    /// At most so many connections to its servers from one node; `None` is the fleet's setting.
    pub connections_max: Option<u32>,
    /// How its recipients are judged.
    pub recipients: RecipientPolicy,
}

/// What is to change in a [`Domain`]; `None` leaves it as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DomainChange {
    /// A new owner.
    pub customer: Option<String>,
    /// A new route.
    pub route: Option<Route>,
    /// A new TLS policy.
    pub tls: Option<TlsPolicy>,
    /// A new limit; `Some(None)` goes back to the fleet's setting.
    pub connections_max: Option<Option<u32>>,
    /// How its recipients are judged from now on.
    pub recipients: RecipientChange,
}

impl fmt::Display for DomainChange {
    /// As options of a command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(customer) = &self.customer {
            write!(f, " --customer {customer}")?;
        }
        if let Some(route) = &self.route {
            write!(f, " --route {route}")?;
        }
        if let Some(tls) = &self.tls {
            write!(f, " --tls {tls}")?;
        }
        if let Some(most) = self.connections_max {
            write!(f, " --connections-max {}", most.unwrap_or(0))?;
        }
        write!(f, "{}", self.recipients)
    }
}

/// Where a domain's mail goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Route {
    /// To these servers; written `host:port,host:port`, the first is preferred. Equal preference
    /// is written `host:port=host:port`.
    Servers(Vec<Server>),
    /// To the domain's own MX records that are better than ours.
    Mx,
}

/// One server of a fixed route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Lower is tried first; equal ones share the load.
    pub preference: u16,
    /// A host name, or an IP address without brackets.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
}

/// How much TLS a domain's servers must offer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TlsPolicy {
    /// STARTTLS when offered; any certificate; in the clear otherwise (RFC 7435).
    #[default]
    Opportunistic,
    /// STARTTLS with a certificate that is valid for the server's name, or no delivery.
    Require,
    /// As `Require`, but the certificate must be valid for one of these names.
    Pinned(Vec<String>),
}

/// Why a text is not a route or TLS policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No server in it.
    #[error("a route is `mx`, or host:port, or several of them separated by commas")]
    Empty,
    /// The host is neither a name nor an IP address.
    #[error("{0:?} is neither a host name nor an IP address")]
    Host(String),
    /// The port is not 1 to 65535.
    #[error("{0:?} is not a port (1 to 65535)")]
    Port(String),
    /// More servers than a route may have.
    #[error("a route has at most {SERVERS_MAX} servers")]
    TooMany,
    /// Not one of the TLS policies.
    #[error("a TLS policy is opportunistic, require, or pinned:NAME[,NAME]")]
    Tls,
}

impl FromStr for Route {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Self, RouteError> {
        if text.eq_ignore_ascii_case("mx") {
            return Ok(Self::Mx);
        }
        let mut servers = Vec::new();
        for (rank, group) in text.split(',').enumerate() {
            for server in group.split('=') {
                let preference = u16::try_from((rank + 1) * 10).map_err(|_| RouteError::TooMany)?;
                servers.push(parse_server(server.trim(), preference)?);
            }
        }
        if servers.len() > SERVERS_MAX {
            return Err(RouteError::TooMany);
        }
        Ok(Self::Servers(servers))
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Servers(servers) = self else { return f.write_str("mx") };
        for (index, server) in servers.iter().enumerate() {
            if let Some(previous) = index.checked_sub(1).and_then(|i| servers.get(i)) {
                f.write_str(if previous.preference == server.preference { "=" } else { "," })?;
            }
            write!(f, "{server}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for TlsPolicy {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Self, RouteError> {
        match text {
            "opportunistic" => Ok(Self::Opportunistic),
            "require" => Ok(Self::Require),
            _ => {
                let names = text.strip_prefix("pinned:").ok_or(RouteError::Tls)?;
                let names: Vec<String> = names.split(',').map(str::to_ascii_lowercase).collect();
                if names.iter().all(|name| is_host_name(name)) {
                    Ok(Self::Pinned(names))
                } else {
                    Err(RouteError::Tls)
                }
            }
        }
    }
}

impl fmt::Display for TlsPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opportunistic => f.write_str("opportunistic"),
            Self::Require => f.write_str("require"),
            Self::Pinned(names) => write!(f, "pinned:{}", names.join(",")),
        }
    }
}

fn parse_server(text: &str, preference: u16) -> Result<Server, RouteError> {
    if text.is_empty() {
        return Err(RouteError::Empty);
    }
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':').unwrap_or("25")),
        None => text.rsplit_once(':').unwrap_or((text, "25")),
    };
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let port = match port.parse::<u16>() {
        Ok(port) if port != 0 && digits => port,
        _ => return Err(RouteError::Port(port.to_owned())),
    };
    let host = host.to_ascii_lowercase();
    if host.parse::<std::net::IpAddr>().is_err() && !is_host_name(&host) {
        return Err(RouteError::Host(host));
    }
    Ok(Server { preference, host, port })
}

/// Letters, digits, hyphens; the last label is not all digits.
pub(super) fn is_host_name(text: &str) -> bool {
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    text.len() <= HOST_OCTETS_MAX
        && text.split('.').all(label_ok)
        && text.rsplit('.').next().is_some_and(|l| l.bytes().any(|b| b.is_ascii_alphabetic()))
}

/// The domain of a mail address as it is written there; empty if it has none.
pub fn domain_of(address: &str) -> &str {
    address.rsplit_once('@').map_or("", |(_, domain)| domain)
}

/// The table of domains.
#[derive(Debug, Clone, Default)]
pub(super) struct Domains {
    /// The name of nearly every domain is so short that it lies in its row.
    rows: Sharded<CompactString, Arc<Domain>>,
}

impl Domains {
    pub(super) fn get(&self, name: &str) -> Option<&Domain> {
        self.rows.get(name).map(|row| row.value.as_ref())
    }

    pub(super) fn version(&self, name: &str) -> u64 {
        self.rows.get(name).map_or(0, |row| row.version)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Domain> {
        self.rows.sorted().into_iter().map(|row| row.value.as_ref())
    }

    pub(super) fn first_of(&self, customer: &str) -> Option<&str> {
        self.iter().find(|domain| domain.customer == customer).map(|domain| domain.name.as_str())
    }

    pub(super) fn add(&mut self, at: u64, domain: &Domain) -> Outcome {
        check(domain)?;
        if let Some(existing) = self.get(&domain.name) {
            return Err(Refusal::conflict(format!(
                "domain {} already belongs to customer {}",
                domain.name, existing.customer
            )));
        }
        self.put(at, domain.clone())
    }

    pub(super) fn set(&mut self, at: u64, name: &str, change: &DomainChange) -> Outcome {
        let mut domain = self.require(name)?.clone();
        if let Some(customer) = &change.customer {
            domain.customer.clone_from(customer);
        }
        if let Some(route) = &change.route {
            domain.route = route.clone();
        }
        if let Some(tls) = &change.tls {
            domain.tls = tls.clone();
        }
        if let Some(connections_max) = change.connections_max {
            domain.connections_max = connections_max;
        }
        change.recipients.apply(&mut domain.recipients);
        check(&domain)?;
        self.put(at, domain)
    }

    pub(super) fn remove(&mut self, name: &str) -> Outcome {
        self.require(name)?;
        self.rows.remove(name);
        Ok(1)
    }

    /// All or none: everything is checked before the first row changes.
    pub(super) fn import(&mut self, at: u64, domains: &[Domain]) -> Outcome {
        for domain in domains {
            check(domain)?;
            if let Some(existing) = self.get(&domain.name)
                && existing.customer != domain.customer
            {
                return Err(Refusal::conflict(format!(
                    "domain {} already belongs to customer {}",
                    domain.name, existing.customer
                )));
            }
        }
        let mut changed = 0;
        for domain in domains {
            if self.get(&domain.name) != Some(domain) {
                changed += self.put(at, domain.clone())?;
            }
        }
        Ok(changed)
    }

    /// Something that belongs to the domain has changed.
    pub(super) fn touch(&mut self, at: u64, name: &str) -> Outcome {
        let domain = self.require(name)?.clone();
        self.put(at, domain)
    }

    pub(super) fn require(&self, name: &str) -> Result<&Domain, Refusal> {
        self.get(name).ok_or_else(|| Refusal::not_found(format!("there is no domain {name}")))
    }

    fn put(&mut self, at: u64, domain: Domain) -> Outcome {
        self.rows.put(domain.name.as_str().into(), at, Arc::new(domain));
        Ok(1)
    }

    /// Rows with their versions, in order, as a snapshot holds them.
    pub(super) fn rows(&self) -> impl Iterator<Item = (u64, Domain)> {
        self.rows.sorted().into_iter().map(|row| (row.version, Domain::clone(&row.value)))
    }

    pub(super) fn absorb(&mut self, rows: Vec<(u64, Domain)>) {
        for (at, domain) in rows {
            self.rows.put(domain.name.as_str().into(), at, Arc::new(domain));
        }
    }
}

fn check(domain: &Domain) -> Result<(), Refusal> {
    let name = &domain.name;
    if !is_host_name(name) || name.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(Refusal::invalid(format!(
            "{} is not a domain name in lowercase A-label form",
            name.escape_debug()
        )));
    }
    if let Route::Servers(servers) = &domain.route {
        let ok = |s: &Server| {
            s.port != 0 && (s.host.parse::<std::net::IpAddr>().is_ok() || is_host_name(&s.host))
        };
        if servers.is_empty() || servers.len() > SERVERS_MAX || !servers.iter().all(ok) {
            return Err(Refusal::invalid(format!("the route of {name} is not valid")));
        }
    }
    if let TlsPolicy::Pinned(names) = &domain.tls
        && (names.is_empty() || names.len() > SERVERS_MAX || !names.iter().all(|n| is_host_name(n)))
    {
        return Err(Refusal::invalid(format!("the pinned names of {name} are 1 to 20 host names")));
    }
    if domain.connections_max.is_some_and(|n| n == 0 || n > CONNECTIONS_MAX) {
        return Err(Refusal::invalid("the limit of connections is 1 to 1000"));
    }
    domain.recipients.check()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_reads_back_as_it_was_written() {
        for text in
            ["mx", "mail.acme.test:25", "a.test:25,b.test:2525", "192.0.2.1:25=[2001:db8::1]:25"]
        {
            assert_eq!(text.parse::<Route>().unwrap().to_string(), text);
        }
        assert_eq!("A.Test".parse::<Route>().unwrap().to_string(), "a.test:25");
    }

    #[test]
    fn what_is_no_route_is_refused() {
        for text in [
            "",
            "a.test:0",
            "a.test:99999",
            "a.test:",
            "a b:25",
            "a.test:25,",
            "1234:25",
            "a.test:+25",
            "-a.test:25",
            "[::1:25",
        ] {
            assert!(text.parse::<Route>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn pinned_names_are_few_and_names() {
        let pinned = |names: Vec<String>| {
            let tls = TlsPolicy::Pinned(names);
            let (name, customer) = ("acme.test".to_owned(), "acme".to_owned());
            let recipients = RecipientPolicy::default();
            let route = Route::Mx;
            check(&Domain { name, customer, route, tls, connections_max: None, recipients })
        };
        assert!(pinned(vec!["mail.acme.test".to_owned(); 20]).is_ok());
        assert!(pinned(vec!["mail.acme.test".to_owned(); 21]).is_err());
        assert!(pinned(Vec::new()).is_err());
        assert!(pinned(vec!["x y".to_owned()]).is_err());
        assert!(pinned(vec!["x".repeat(500_000)]).is_err());
    }
}
