//! From the file as written to the configuration as checked: all problems at once, no port bound.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use super::limits::{Limits, Slot};
use super::read::{Problem, Section, Source};
use super::{Certificate, Cluster, Config, Delivery, Log, LogFormat, Node, Service, Smtp};
use crate::smtp::address::domain_to_ascii;

const NODE_NAME_OCTETS_MAX: usize = 63;
/// RFC 5321 section 4.5.3.1.8.
const RECIPIENTS_MAX_LEAST: usize = 100;
/// RFC 5321 section 4.5.3.1.4.
const COMMAND_OCTETS_LEAST: usize = 512;
const MIB: u64 = 1024 * 1024;

/// Read and check a configuration; `Err` has every problem there is.
pub fn check(text: &str) -> Result<Config, Vec<Problem>> {
    let source = Source::parse(text).map_err(|problem| vec![problem])?;
    let config = read(&source);
    let problems = source.into_problems();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems),
    }
}

fn read(source: &Source<'_>) -> Option<Config> {
    let root = source.root();
    root.only(&[
        "node", "smtp", "admin", "cluster", "http", "metrics", "dns", "delivery", "service", "log",
        "limits",
    ]);
    let limits = limits(source, &root.section("limits"));
    let smtp = smtp(&root.section("smtp"));
    let (http, http_proxies) = http(&root.section("http"));
    let metrics = root.section("metrics");
    metrics.only(&["listen"]);
    let cluster = cluster(&root.section("cluster"));
    let dns = root.section("dns");
    dns.only(&["servers", "tsig_key_file", "acme_ca_file"]);
    let dns_servers = dns.texts("servers", name_server).unwrap_or_default();
    let delivery = delivery(&root.section("delivery"));
    let service = service(&root.section("service"));
    let log = log(&root.section("log"));
    let node = node(&root.section("node"));
    let admin = root.section("admin");
    admin.only(&["socket"]);
    let admin_socket = admin.text("socket", path);
    let (node, smtp) = (node?, smtp?);
    let admin_socket = admin_socket.unwrap_or_else(|| node.data_dir.join("admin.sock"));
    Some(Config {
        node,
        smtp,
        admin_socket,
        cluster,
        http,
        http_proxies,
        metrics: metrics.text("listen", socket_address),
        dns_servers,
        tsig_key_file: dns.text("tsig_key_file", path),
        acme_ca_file: dns.text("acme_ca_file", path),
        delivery,
        service,
        log,
        limits,
    })
}

fn node(section: &Section<'_>) -> Option<Node> {
    section.only(&["name", "hostname", "data_dir"]);
    let name = section.required("name", node_name);
    let hostname = section.required("hostname", host_name);
    let data_dir = section.required("data_dir", path);
    Some(Node { name: name?, hostname: hostname?, data_dir: data_dir? })
}

fn smtp(section: &Section<'_>) -> Option<Smtp> {
    section.only(&["listen", "exempt_networks", "certificates"]);
    let listen = match section.get("listen") {
        Some(found) => {
            let listen = section.texts("listen", socket_address);
            if listen.as_ref().is_some_and(Vec::is_empty) {
                section.problem(&found, "needs at least one address");
            }
            listen
        }
        None => Some(vec![SocketAddr::from(([0, 0, 0, 0], 25))]),
    };
    let exempt_networks = section.texts("exempt_networks", network).unwrap_or_default();
    let mut certificates = Vec::new();
    for section in section.sections("certificates") {
        section.only(&["cert", "key"]);
        let (cert, key) = (section.required("cert", path), section.required("key", path));
        if let (Some(cert), Some(key)) = (cert, key) {
            certificates.push(Certificate { cert, key });
        }
    }
    Some(Smtp { listen: listen?, exempt_networks, certificates })
}

fn cluster(section: &Section<'_>) -> Cluster {
    section.only(&["listen", "advertise", "segmentation_offload"]);
    let listen = section.text("listen", socket_address);
    let advertise = section.text("advertise", socket_address);
    if let (Some(found), None) = (section.get("advertise"), listen) {
        section.problem(&found, "needs cluster.listen beside it");
    }
    let unreachable = |address: SocketAddr| address.ip().is_unspecified() || address.port() == 0;
    if let (Some(found), Some(address), None) = (section.get("listen"), listen, advertise)
        && unreachable(address)
    {
        section.problem(&found, "is no address others can reach; add cluster.advertise");
    }
    let segmentation_offload = section.flag("segmentation_offload").unwrap_or(true);
    Cluster { listen, advertise, segmentation_offload }
}

fn http(section: &Section<'_>) -> (Option<SocketAddr>, Vec<IpNet>) {
    section.only(&["listen", "proxies"]);
    let proxies = section.texts("proxies", network).unwrap_or_default();
    (section.text("listen", socket_address), proxies)
}

fn network(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| "is not a network such as 192.0.2.0/24".to_owned())
}

fn delivery(section: &Section<'_>) -> Delivery {
    section.only(&["allow_loopback_routes", "mx_port", "ca_file"]);
    let mx_port = section.number("mx_port", |_| Err("must be a whole number".into()));
    let mx_port = match (section.get("mx_port"), mx_port) {
        (Some(found), Some(port)) => match u16::try_from(port) {
            Ok(port) if port != 0 => port,
            _ => {
                section.problem(&found, "must be a port, 1 to 65535");
                25
            }
        },
        _ => 25,
    };
    Delivery {
        allow_loopback_routes: section.flag("allow_loopback_routes").unwrap_or(false),
        mx_port,
        ca_file: section.text("ca_file", path),
    }
}

fn service(section: &Section<'_>) -> Service {
    section.only(&["webhook_url_file", "webhook_ca_file"]);
    let webhook_url_file = section.text("webhook_url_file", path);
    if let (Some(found), None) = (section.get("webhook_ca_file"), &webhook_url_file) {
        section.problem(&found, "needs service.webhook_url_file beside it");
    }
    Service { webhook_url_file, webhook_ca_file: section.text("webhook_ca_file", path) }
}

fn log(section: &Section<'_>) -> Log {
    section.only(&["format", "deliveries"]);
    let format = section.text("format", |text| match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("must be text or json".into()),
    });
    let deliveries = section.text("deliveries", path);
    Log { format: format.unwrap_or(LogFormat::Text), deliveries }
}

fn limits(source: &Source<'_>, section: &Section<'_>) -> Limits {
    let mut limits = Limits::default();
    let slots = limits.slots();
    let names: Vec<&str> = slots.iter().map(|(name, _)| *name).collect();
    section.only(&names);
    for (name, slot) in slots {
        let Some(found) = section.get(name) else { continue };
        let Some(number) = section.number(name, |text| amount(name, text)) else { continue };
        if !slot.set(number) {
            section.problem(&found, "is too large a number");
        }
    }
    let least = |name: &str, value: u64, bound: u64| {
        if value < bound {
            let line = section.get(name).map_or(0, |found| found.line);
            source.problem(line, format!("limits.{name} must be at least {bound}"));
        }
    };
    least("recipients_max", limits.recipients_max as u64, RECIPIENTS_MAX_LEAST as u64);
    least("command_octets_max", limits.command_octets_max as u64, COMMAND_OCTETS_LEAST as u64);
    least("segment_octets", limits.segment_octets, MIB);
    least("journal_octets_max", limits.journal_octets_max, MIB);
    least("message_octets_max", limits.message_octets_max, MIB / 16);
    least("sessions_max", limits.sessions_max as u64, 1);
    least("outbound_connections_max", limits.outbound_connections_max as u64, 1);
    least("http_connections_max", limits.http_connections_max as u64, 1);
    least("window_start", u64::from(limits.window_start), 1);
    limits
}

impl Slot<'_> {
    /// Set the bound; false when it does not fit.
    fn set(self, number: u64) -> bool {
        match self {
            Slot::Usize(slot) => usize::try_from(number).map(|n| *slot = n).is_ok(),
            Slot::U64(slot) => {
                *slot = number;
                true
            }
            Slot::U32(slot) => u32::try_from(number).map(|n| *slot = n).is_ok(),
        }
    }
}

/// A size or duration as its limit's name asks for.
fn amount(name: &str, text: &str) -> Result<u64, String> {
    if name.ends_with("_ms") {
        mxfleet_cluster::parse_duration_ms(text)
            .ok_or_else(|| "is not a duration such as 90s, 4h or 5d".to_owned())
    } else if name.contains("octets") {
        parse_size(text).ok_or_else(|| "is not a size such as 64KiB or 25MiB".to_owned())
    } else {
        Err("must be a whole number without quotes".to_owned())
    }
}

/// `512`, `64KiB`, `25MiB`, `2GiB`: octets.
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "" | "B" => 1,
        "KiB" => 1024,
        "MiB" => MIB,
        "GiB" => 1024 * MIB,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

fn node_name(text: &str) -> Result<String, String> {
    let ok = (1..=NODE_NAME_OCTETS_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if ok { Ok(text.to_owned()) } else { Err("must be lowercase letters, digits, hyphens".into()) }
}

fn host_name(text: &str) -> Result<String, String> {
    domain_to_ascii(text).map(String::from).map_err(|_| "is not a host name".to_owned())
}

fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("must not be empty".into()) } else { Ok(PathBuf::from(text)) }
}

fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "is not an address with a port such as 127.0.0.1:25".to_owned())
}

fn name_server(text: &str) -> Result<SocketAddr, String> {
    let bare = text.parse().map(|ip: std::net::IpAddr| SocketAddr::new(ip, 53));
    bare.or_else(|_| text.parse()).map_err(|_| "is not the address of a name server".to_owned())
}
