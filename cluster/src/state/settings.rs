//! Fleet-wide settings: typed, with a default, and with what breaks when they are off.

mod order;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::domains::is_host_name;
use super::{Outcome, Refusal};

/// Room for the longest list of servers.
const VALUE_OCTETS_MAX: usize = 1024;
const SERVERS_MAX: usize = 16;
const MAIL_ADDRESSES_MAX: usize = 8;

/// A setting the fleet shares. A host's own settings are in its configuration file.
#[derive(Debug)]
pub struct Setting {
    /// Dotted name, for example `queue.lifetime`.
    pub name: &'static str,
    /// The default as text.
    pub default: &'static str,
    /// What values it takes.
    pub kind: SettingKind,
    /// What it does.
    pub about: &'static str,
    /// What breaks when it is too low or too high.
    pub caution: &'static str,
}

/// What values a setting takes.
#[derive(Debug, Clone, Copy)]
pub enum SettingKind {
    /// A duration such as `90s`, `4h`, `5d`, between two bounds in milliseconds.
    Duration {
        /// Shortest allowed.
        min_ms: u64,
        /// Longest allowed.
        max_ms: u64,
    },
    /// A whole number between two bounds.
    Count {
        /// Least allowed.
        min: u64,
        /// Most allowed.
        max: u64,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// So many in a time, such as `100/1h`; 0 is none at all.
    Rate {
        /// Most allowed.
        count_max: u64,
        /// Longest time allowed, in milliseconds.
        period_max_ms: u64,
    },
    /// A domain name, or nothing.
    DomainName,
    /// An address with a port, or nothing.
    Server,
    /// Addresses with ports, separated by commas, or nothing.
    Servers,
    /// A mail address, or nothing.
    MailAddress,
    /// Mail addresses, separated by commas, or nothing.
    MailAddresses,
    /// An address on the web that begins with `https://`, or nothing.
    Url,
    /// A line of plain text.
    Line {
        /// Longest allowed, in octets.
        octets_max: usize,
    },
    /// `http://host` or `https://host`, with a port if need be, or nothing.
    WebSite,
}

const SECOND_MS: u64 = 1000;
const HOUR_MS: u64 = 3600 * SECOND_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// Every setting, in order of name.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "blacklist.hold",
        default: "5d",
        kind: SettingKind::Duration { min_ms: SECOND_MS, max_ms: 60 * DAY_MS },
        about: "how long a recipient stays on the blacklist",
        caution: "too low: dead addresses cost deliveries again; too high: a new mailbox waits",
    },
    Setting {
        name: "blacklist.thaw_after",
        default: "1h",
        kind: SettingKind::Duration { min_ms: SECOND_MS, max_ms: 60 * DAY_MS },
        about: "a domain whose server refused recipients it had taken mail for is frozen, and \
                nothing in it counted, until that has not happened for so long",
        caution: "too low: a broken directory lists good addresses; too high: after an outage \
                  dictionary attacks reach the customer's server for longer",
    },
    Setting {
        name: "blacklist.threshold",
        default: "10",
        kind: SettingKind::Count { min: 1, max: 10 },
        about: "how many rejections within blacklist.window put a recipient on the blacklist",
        caution: "too low: one hiccup of a customer's server lists good addresses; too high: \
                  dictionary attacks reach the customer's server",
    },
    Setting {
        name: "blacklist.window",
        default: "5d",
        kind: SettingKind::Duration { min_ms: SECOND_MS, max_ms: 60 * DAY_MS },
        about: "rejections older than this no longer count towards the blacklist",
        caution: "too low: slow dictionary attacks are never listed; too high: old mistakes count",
    },
    Setting {
        name: "bounce.budget",
        default: "100/1h",
        kind: SettingKind::Rate { count_max: 1_000_000, period_max_ms: 7 * DAY_MS },
        about: "reports that one node sends to one domain that is no customer's, or on the \
                strength of a signature alone",
        caution: "too low: senders do not hear of failures; too high: who abuses a domain's name \
                  has us flood it",
    },
    Setting {
        name: "bounce.non_customer",
        default: "suppress",
        kind: SettingKind::Choice(&["suppress", "verified", "send"]),
        about: "who is told when a customer's server refuses mail from a domain that is no \
                customer's: nobody, those whose mail SPF or DKIM confirms (headers only), or \
                everybody; at customers' domains it is always those whom SPF or DKIM confirms",
        caution: "`send` makes us a source of backscatter, and blocklists list those; `verified` \
                  costs questions to name servers for each message",
    },
    Setting {
        name: "callout.known_for",
        default: "1d",
        kind: SettingKind::Duration { min_ms: SECOND_MS, max_ms: 60 * DAY_MS },
        about: "for how long it holds that a customer's server knows a recipient, or any",
        caution: "too low: each message costs its server a question; too high: mail for mailboxes \
                  that were removed is accepted, and fails",
    },
    Setting {
        name: "callout.unknown_for",
        default: "2h",
        kind: SettingKind::Duration { min_ms: SECOND_MS, max_ms: 60 * DAY_MS },
        about: "for how long it holds that a customer's server does not know a recipient",
        caution: "too low: dictionary attacks reach the customer's server as questions; too high: \
                  a new mailbox waits for its mail",
    },
    Setting {
        name: "cluster.voters_max",
        default: "5",
        kind: SettingKind::Count { min: 1, max: 7 },
        about: "how many nodes vote; the others follow, and take over when a voter is gone",
        caution: "too low: the loss of one node stops changes; too high: every change is slower",
    },
    Setting {
        name: "customer.link_life",
        default: "1d",
        kind: SettingKind::Duration { min_ms: SECOND_MS, max_ms: 30 * DAY_MS },
        about: "how long a link to a customer's own view is good for",
        caution: "too low: it ends before its letter is read; too high: so does one that leaked",
    },
    Setting {
        name: "delivery.connections_max",
        default: "20",
        kind: SettingKind::Count { min: 1, max: 1000 },
        about: "connections to a domain's servers from one node, unless the domain has a limit",
        caution: "too low: a backlog drains slowly; too high: small customers' servers refuse us",
    },
    Setting {
        name: "queue.lifetime",
        default: "5d",
        kind: SettingKind::Duration { min_ms: SECOND_MS, max_ms: 60 * DAY_MS },
        about: "how long delivery of a message is tried before it is given up",
        caution: "too low: a weekend's outage loses mail; too high: senders learn late",
    },
    Setting {
        name: "queue.retry_max",
        default: "1h",
        kind: SettingKind::Duration { min_ms: SECOND_MS, max_ms: DAY_MS },
        about: "the longest pause between two attempts of one message",
        caution: "too low: useless attempts; too high: mail waits long after a server is back",
    },
    Setting {
        name: "queue.retry_min",
        default: "5m",
        kind: SettingKind::Duration { min_ms: 100, max_ms: DAY_MS },
        about: "the pause after the first failed attempt; it doubles up to queue.retry_max",
        caution: "too low: greylisting servers are hammered; too high: greylisted mail is late",
    },
    Setting {
        name: "queue.warn_after",
        default: "4h",
        kind: SettingKind::Duration { min_ms: SECOND_MS, max_ms: 60 * DAY_MS },
        about: "when the sender is told that a message is late",
        caution: "too low: needless alarm; too high: senders hear of a delay only when it failed",
    },
    Setting {
        name: "return_path.lifetime",
        default: "10d",
        kind: SettingKind::Duration { min_ms: SECOND_MS, max_ms: 60 * DAY_MS },
        about: "how long a customer's server may report back to a return path of ours",
        caution: "too low: what a server gives up after days is not learnt; too high: an address \
                  that has become known can be misused for longer",
    },
    Setting {
        name: "rotation.acme_directory",
        default: "",
        kind: SettingKind::Url,
        about: "the ACME directory (RFC 8555) that gives certificates for MX names, by DNS-01; its \
                terms are agreed to",
        caution: "when set, a new name goes into DNS only once it has a certificate, also if the \
                  server is out of order; when empty, `mxfleet name cert add` brings them",
    },
    Setting {
        name: "rotation.dns_primary",
        default: "",
        kind: SettingKind::Server,
        about: "where changes of MX names are sent (RFC 2136), as address:port",
        caution: "when empty, `mxfleet name zone` must be published by other means",
    },
    Setting {
        name: "rotation.dns_servers",
        default: "",
        kind: SettingKind::Servers,
        about: "every name server of rotation.zone, as address:port,...; each must show a change",
        caution: "when one is missing, a name counts as moved while that server says otherwise",
    },
    Setting {
        name: "rotation.names_per_customer",
        default: "2",
        kind: SettingKind::Count { min: 1, max: 8 },
        about: "how many MX names a new customer is given",
        caution: "too low: one host's fault stops a customer's mail; too high: long MX records",
    },
    Setting {
        name: "rotation.quiet",
        default: "3d",
        kind: SettingKind::Duration { min_ms: SECOND_MS, max_ms: 60 * DAY_MS },
        about: "mail by an old name within this time means that a customer still uses it",
        caution: "too low: a name ends that is in use; too high: names end late",
    },
    Setting {
        name: "rotation.report_every",
        default: "5m",
        kind: SettingKind::Duration { min_ms: SECOND_MS, max_ms: DAY_MS },
        about: "how often a node says how much mail customers get",
        caution: "too low: needless log entries; too high: rebalancing works from old figures",
    },
    Setting {
        name: "rotation.survey_every",
        default: "1h",
        kind: SettingKind::Duration { min_ms: SECOND_MS, max_ms: 7 * DAY_MS },
        about: "how often customers' MX records are looked at while a migration is announced",
        caution: "too low: load on name servers; too high: who has moved counts as late",
    },
    Setting {
        name: "rotation.tlsa",
        default: "ignore",
        kind: SettingKind::Choice(&["ignore", "publish", "remove"]),
        about: "TLSA records (RFC 7672) of MX names, from the fleet's certificates: left alone, \
                published, or taken out of DNS",
        caution: "only for a zone that is signed (DNSSEC); a host must not have certificate files \
                  for MX names with other keys: senders would not deliver to it",
    },
    Setting {
        name: "rotation.ttl",
        default: "1h",
        kind: SettingKind::Duration { min_ms: SECOND_MS, max_ms: 7 * DAY_MS },
        about: "how long resolvers may remember where an MX name points",
        caution: "too low: more load on name servers; too high: a lost host is missed for long",
    },
    Setting {
        name: "rotation.ttl_low",
        default: "1m",
        kind: SettingKind::Duration { min_ms: SECOND_MS, max_ms: DAY_MS },
        about: "the same while a name is about to move, or has just moved",
        caution: "too low: load on name servers during a move; too high: moves take longer",
    },
    Setting {
        name: "rotation.zone",
        default: "",
        kind: SettingKind::DomainName,
        about: "the service's zone: MX names are below it",
        caution: "without it there can be no MX names; it cannot change while there are some",
    },
    Setting {
        name: "service.address",
        default: "",
        kind: SettingKind::MailAddress,
        about: "who letters to customers come from; answers go there",
        caution: "when empty, postmaster at the host that writes: set one that people read",
    },
    Setting {
        name: "service.domain",
        default: "",
        kind: SettingKind::DomainName,
        about: "the service's own domain: mail to support@, trouble@, postmaster@, abuse@, noc@ \
                and security@ it goes to service.operators",
        caution: "when empty, only these names at the hosts' own hostnames do; its MX records must \
                  lead to this fleet, and it cannot be a customer's domain",
    },
    Setting {
        name: "service.operators",
        default: "",
        kind: SettingKind::MailAddresses,
        about: "who gets mail to the service, as address,...: people whose mail does not come \
                through this fleet",
        caution: "when empty, that mail is answered 450 and waits where it is; addresses that \
                  depend on this fleet would be silent when it is in trouble",
    },
    Setting {
        name: "site.title",
        default: "Mail relay",
        kind: SettingKind::Line { octets_max: 60 },
        about: "what the status page calls the service",
        caution: "customers know the service by it",
    },
    Setting {
        name: "site.url",
        default: "",
        kind: SettingKind::WebSite,
        about: "where people reach the status page, such as https://status.relay.example",
        caution: "without it customers are mailed no link, and the feed has relative ones",
    },
];

/// The values in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Value and the log index of its last change.
    changed: Arc<BTreeMap<String, (String, u64)>>,
}

impl Settings {
    /// The value in force as text; `None` when there is no such setting.
    pub fn get(&self, name: &str) -> Option<&str> {
        let setting = find(name)?;
        Some(self.changed.get(name).map_or(setting.default, |(value, _)| value.as_str()))
    }

    /// A duration setting, in milliseconds.
    pub fn duration_ms(&self, name: &str) -> u64 {
        self.get(name).and_then(parse_duration_ms).unwrap_or_default()
    }

    /// A count setting.
    pub fn count(&self, name: &str) -> u64 {
        self.get(name).and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    /// A rate: how many, in how many milliseconds.
    pub fn rate(&self, name: &str) -> (u64, u64) {
        self.get(name).and_then(parse_rate).unwrap_or_default()
    }

    /// A setting that is a list of servers.
    pub fn servers(&self, name: &str) -> Vec<SocketAddr> {
        self.get(name).and_then(parse_servers).unwrap_or_default()
    }

    /// Whether `name` is not at its default.
    pub fn is_changed(&self, name: &str) -> bool {
        self.changed.contains_key(name)
    }

    pub(super) fn version(&self, name: &str) -> u64 {
        self.changed.get(name).map_or(0, |(_, version)| *version)
    }

    pub(super) fn set(&mut self, at: u64, name: &str, value: Option<&str>) -> Outcome {
        let setting = find(name).ok_or_else(|| {
            Refusal::not_found(format!(
                "there is no setting {name}; `mxfleet settings list` shows them all"
            ))
        })?;
        let mut then = self.clone();
        let changed = Arc::make_mut(&mut then.changed);
        let count = match value {
            None => u64::from(changed.remove(name).is_some()),
            Some(value) => {
                check(setting, value)?;
                changed.insert(name.to_owned(), (value.to_owned(), at));
                1
            }
        };
        order::check(&then, name)?;
        *self = then;
        Ok(count)
    }
}

fn find(name: &str) -> Option<&'static Setting> {
    // They are in order of name.
    let at = SETTINGS.binary_search_by_key(&name, |setting| setting.name).ok()?;
    SETTINGS.get(at)
}

fn check(setting: &Setting, value: &str) -> Result<(), Refusal> {
    let name = setting.name;
    if value.len() > VALUE_OCTETS_MAX {
        return Err(Refusal::invalid(format!("the value of {name} is too long")));
    }
    match setting.kind {
        SettingKind::Duration { .. } => {
            let number = parse_duration_ms(value).ok_or_else(|| {
                let range = range(setting);
                Refusal::invalid(format!(
                    "{name} is a duration such as 90s, 4h or 5d, from {range}"
                ))
            })?;
            check_number(name, number)
        }
        SettingKind::Count { .. } => {
            let number = value.parse().map_err(|_| {
                Refusal::invalid(format!("{name} is a whole number from {}", range(setting)))
            })?;
            check_number(name, number)
        }
        SettingKind::Choice(words) if words.contains(&value) => Ok(()),
        SettingKind::Choice(words) => {
            Err(Refusal::invalid(format!("{name} is one of {}", words.join(", "))))
        }
        SettingKind::Rate { count_max, period_max_ms } => match parse_rate(value) {
            Some((count, ms)) if count <= count_max && (1..=period_max_ms).contains(&ms) => Ok(()),
            _ => Err(Refusal::invalid(format!(
                "{name} is so many in a time, such as 100/1h: at most {count_max}, in at most {}",
                render_duration(period_max_ms)
            ))),
        },
        kind if fits(kind, value) => Ok(()),
        kind => Err(Refusal::invalid(format!("{name} is {}", shape(kind)))),
    }
}

/// Whether a text is one of its kind. Whether a number is, is told when it is read.
fn fits(kind: SettingKind, value: &str) -> bool {
    match kind {
        SettingKind::Line { octets_max } => {
            let plain = !value.chars().any(char::is_control) && !value.trim().is_empty();
            plain && value.len() <= octets_max
        }
        SettingKind::Server => parse_servers(value).is_some_and(|s| s.len() <= 1),
        SettingKind::Servers => parse_servers(value).is_some_and(|s| s.len() <= SERVERS_MAX),
        _ if value.is_empty() => true,
        SettingKind::Url => {
            let host = value.strip_prefix("https://").unwrap_or_default();
            !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic())
        }
        SettingKind::MailAddress => is_mail_address(value),
        SettingKind::MailAddresses => {
            value.split(',').count() <= MAIL_ADDRESSES_MAX && value.split(',').all(is_mail_address)
        }
        SettingKind::WebSite => is_web_site(value),
        _ => !value.bytes().any(|b| b.is_ascii_uppercase()) && is_host_name(value),
    }
}

/// What a text of this kind looks like, to go on after "is".
fn shape(kind: SettingKind) -> String {
    match kind {
        SettingKind::Line { octets_max } => format!("one line of 1 to {octets_max} octets"),
        SettingKind::Server => "one address with its port, such as 192.0.2.53:53".into(),
        SettingKind::Servers => format!(
            "at most {SERVERS_MAX} addresses with ports, such as 192.0.2.53:53, separated by commas"
        ),
        SettingKind::Url => "an address that begins with https://".into(),
        SettingKind::MailAddress => "a mail address such as support@relay.example".into(),
        SettingKind::MailAddresses => format!(
            "at most {MAIL_ADDRESSES_MAX} mail addresses such as ops@example.net, separated by \
             commas"
        ),
        SettingKind::WebSite => {
            "a web address without a path, such as https://status.relay.example".into()
        }
        _ => "a domain name in lowercase A-label form".into(),
    }
}

fn is_mail_address(text: &str) -> bool {
    let plain = !text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '<');
    let domain = text.rsplit_once('@').filter(|(local, _)| !local.is_empty());
    plain && text.len() <= 320 && domain.is_some_and(|(_, domain)| is_host_name(domain))
}

/// `https://host` or `http://host`, with or without a port, and nothing behind it.
fn is_web_site(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let Some(host) = host else { return false };
    let (name, port) = host.rsplit_once(':').unwrap_or((host, "443"));
    let is_name = is_host_name(name) || name.parse::<std::net::Ipv4Addr>().is_ok();
    is_name && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// Whether `number`, a count or milliseconds, is one that the setting `name` could have.
pub(super) fn check_number(name: &str, number: u64) -> Result<(), Refusal> {
    let Some(setting) = find(name) else { return Ok(()) };
    let (min, max) = match setting.kind {
        SettingKind::Duration { min_ms, max_ms } => (min_ms, max_ms),
        SettingKind::Count { min, max } => (min, max),
        // Words have no range.
        _ => return Ok(()),
    };
    if (min..=max).contains(&number) {
        return Ok(());
    }
    Err(Refusal::invalid(format!("{name} must be {}", range(setting))))
}

fn range(setting: &Setting) -> String {
    match setting.kind {
        SettingKind::Duration { min_ms, max_ms } => {
            format!("{} to {}", render_duration(min_ms), render_duration(max_ms))
        }
        SettingKind::Count { min, max } => format!("{min} to {max}"),
        _ => String::new(),
    }
}

/// `address:port,...`; nothing gives none.
fn parse_servers(text: &str) -> Option<Vec<SocketAddr>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let server = |text: &str| text.parse::<SocketAddr>().ok().filter(|server| server.port() != 0);
    text.split(',').map(server).collect()
}

/// `90s`, `4h`, `5d`, `250ms`: milliseconds.
pub fn parse_duration_ms(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => SECOND_MS,
        "m" => 60 * SECOND_MS,
        "h" => HOUR_MS,
        "d" => DAY_MS,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit_ms)
}

/// `100/1h`: how many, and in how many milliseconds.
fn parse_rate(text: &str) -> Option<(u64, u64)> {
    let (count, period) = text.split_once('/')?;
    if !count.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((count.parse().ok()?, parse_duration_ms(period)?))
}

/// Milliseconds as the shortest exact text [`parse_duration_ms`] reads.
pub fn render_duration(ms: u64) -> String {
    for (unit_ms, unit) in [(DAY_MS, "d"), (HOUR_MS, "h"), (60 * SECOND_MS, "m"), (SECOND_MS, "s")]
    {
        if ms >= unit_ms && ms.is_multiple_of(unit_ms) {
            return format!("{}{unit}", ms / unit_ms);
        }
    }
    format!("{ms}ms")
}

#[cfg(test)]
mod tests;
