//! Questions to name servers: MX records and addresses, with a cache that keeps to their TTL.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};

use super::RouteFailure;
use crate::config::Limits;
use crate::telemetry::metrics::METRICS;

/// Answers that are kept for as long as they say, at most an hour: an operator who repairs a
/// zone should not have to wait for longer.
const TTL_MAX: Duration = Duration::from_hours(1);
/// Denials are kept for less: they are what gets repaired.
const NEGATIVE_TTL_MAX: Duration = Duration::from_mins(5);
/// A denial without an SOA record says no time; a new question for each connection is too much.
const NEGATIVE_TTL_MIN: Duration = Duration::from_secs(5);
/// Answers kept.
const CACHE_ENTRIES: u64 = 16_384;
/// Tries of one question.
const ATTEMPTS: u32 = 3;

/// Why there is no resolver.
#[derive(Debug, thiserror::Error)]
#[error("the resolver cannot be set up: {0}")]
pub struct ResolverError(String);

/// Asks name servers.
#[derive(Clone)]
pub struct Dns {
    resolver: TokioResolver,
    timeout: Duration,
}

impl Dns {
    /// Ask these name servers, or those of `/etc/resolv.conf` when none is given.
    pub fn new(name_servers: &[SocketAddr], limits: &Limits) -> Result<Self, ResolverError> {
        Self::with_cache(CACHE_ENTRIES, name_servers, limits)
    }

    /// The same, and nothing is answered from memory.
    pub fn uncached(name_servers: &[SocketAddr], limits: &Limits) -> Result<Self, ResolverError> {
        Self::with_cache(0, name_servers, limits)
    }

    fn with_cache(
        entries: u64,
        name_servers: &[SocketAddr],
        limits: &Limits,
    ) -> Result<Self, ResolverError> {
        let failed = |error: NetError| ResolverError(error.to_string());
        let mut builder = if name_servers.is_empty() {
            TokioResolver::builder_tokio().map_err(failed)?
        } else {
            let servers = name_servers.iter().copied().map(name_server).collect();
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let timeout = Duration::from_millis(limits.dns_timeout_ms);
        let options = builder.options_mut();
        options.timeout = timeout / ATTEMPTS;
        options.attempts = ATTEMPTS as usize - 1;
        options.cache_size = entries;
        options.positive_max_ttl = Some(TTL_MAX);
        options.negative_min_ttl = Some(NEGATIVE_TTL_MIN);
        options.negative_max_ttl = Some(NEGATIVE_TTL_MAX);
        // So that each series is there before the first question.
        for kind in ["mx", "a", "aaaa"] {
            for result in ["found", "none", "failed"] {
                METRICS.dns_lookup_duration_seconds.with_label_values(&[kind, result]);
            }
        }
        Ok(Self { resolver: builder.build().map_err(failed)?, timeout })
    }

    /// The resolver with its cache, for questions that have nothing to do with routes.
    pub fn resolver(&self) -> TokioResolver {
        self.resolver.clone()
    }

    /// The MX records of a domain: preference and name. None is an answer too, also when the
    /// domain does not exist.
    pub async fn exchangers(&self, domain: &str) -> Result<Vec<(u16, String)>, RouteFailure> {
        let answers = self.ask(domain, RecordType::MX).await?;
        let records = answers.iter().filter_map(|data| match data {
            RData::MX(mx) => Some((mx.preference, mx.exchange.to_ascii())),
            _ => None,
        });
        Ok(records.collect())
    }

    /// The TXT records of a name, each as one text. None is an answer too.
    pub async fn texts(&self, name: &str) -> Result<Vec<String>, RouteFailure> {
        let answers = self.ask(name, RecordType::TXT).await?;
        let texts = answers.iter().filter_map(|data| match data {
            RData::TXT(txt) => Some(String::from_utf8_lossy(&txt.txt_data.concat()).into_owned()),
            _ => None,
        });
        Ok(texts.collect())
    }

    /// The addresses of a host. If one family's question fails but the other is answered, the
    /// answer counts.
    pub(super) async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, RouteFailure> {
        if let Ok(ip) = host.parse() {
            return Ok(vec![ip]);
        }
        Ok(addresses(&self.host(host).await?))
    }

    /// Where a host leads: the names it is an alias of, and its addresses. None is an answer too.
    pub async fn leads_to(&self, host: &str) -> Result<(Vec<String>, Vec<IpAddr>), RouteFailure> {
        let answers = self.host(host).await?;
        let aliases = answers.iter().filter_map(|data| match data {
            RData::CNAME(name) => Some(name.to_ascii()),
            _ => None,
        });
        Ok((aliases.collect(), addresses(&answers)))
    }

    /// All that there is of a host, in both families.
    async fn host(&self, host: &str) -> Result<Vec<RData>, RouteFailure> {
        let (v6, v4) =
            tokio::join!(self.ask(host, RecordType::AAAA), self.ask(host, RecordType::A));
        match (v6, v4) {
            (Err(why), Err(_)) => Err(why),
            // Half an answer without an address is none.
            (Ok(one), Err(why)) | (Err(why), Ok(one)) if addresses(&one).is_empty() => Err(why),
            (v6, v4) => Ok([v6.unwrap_or_default(), v4.unwrap_or_default()].concat()),
        }
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Result<Vec<RData>, RouteFailure> {
        // With a final dot there is no search through other domains.
        let question = self.resolver.lookup(format!("{name}."), kind);
        let failure = |why: String| RouteFailure::Dns { name: name.to_owned(), why };
        let asked = Instant::now();
        let answer = match tokio::time::timeout(self.timeout, question).await {
            Ok(Ok(lookup)) => Ok(data(&lookup)),
            Ok(Err(error)) if error.is_no_records_found() => Ok(Vec::new()),
            Ok(Err(error)) => Err(failure(error.to_string())),
            Err(_) => Err(failure("no answer in time".to_owned())),
        };
        let result = match &answer {
            Ok(records) if records.is_empty() => "none",
            Ok(_) => "found",
            Err(_) => "failed",
        };
        let kind = match kind {
            RecordType::MX => "mx",
            RecordType::A => "a",
            RecordType::AAAA => "aaaa",
            _ => "other",
        };
        let duration = METRICS.dns_lookup_duration_seconds.with_label_values(&[kind, result]);
        duration.observe(asked.elapsed().as_secs_f64());
        answer
    }
}

impl std::fmt::Debug for Dns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dns").finish_non_exhaustive()
    }
}

fn addresses(answers: &[RData]) -> Vec<IpAddr> {
    let addresses = answers.iter().filter_map(|data| match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    });
    addresses.collect()
}

fn data(lookup: &Lookup) -> Vec<RData> {
    lookup.answers().iter().map(|record| record.data.clone()).collect()
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}
