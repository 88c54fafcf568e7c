//! The host's own settings: addresses, paths and limits. What the fleet shares is in the cluster.

mod check;
pub mod limits;
mod read;
pub mod reload;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;

pub use check::{check, parse_size};
pub use limits::Limits;
pub use read::Problem;

/// A checked configuration: whatever is in it can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Who this node is.
    pub node: Node,
    /// Where and how mail comes in.
    pub smtp: Smtp,
    /// The socket that `mxfleet` commands talk to.
    pub admin_socket: PathBuf,
    /// Where this node talks with the others of its fleet.
    pub cluster: Cluster,
    /// The public listener: the site, and health.
    pub http: Option<SocketAddr>,
    /// Proxies before it, which say for whom they ask.
    pub http_proxies: Vec<IpNet>,
    /// Where Prometheus reads `/metrics`.
    pub metrics: Option<SocketAddr>,
    /// Name servers; empty means those of `/etc/resolv.conf`.
    pub dns_servers: Vec<SocketAddr>,
    /// The key that changes of MX names are signed with, as `tsig-keygen` writes it.
    pub tsig_key_file: Option<PathBuf>,
    /// Roots the ACME server's own certificate is checked by; `None` means the system's.
    pub acme_ca_file: Option<PathBuf>,
    /// How mail goes out.
    pub delivery: Delivery,
    /// How those who run the service are woken up.
    pub service: Service,
    /// What is logged, and how.
    pub log: Log,
    /// Every bound.
    pub limits: Limits,
}

/// Who this node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Short name in the fleet, for example `mx1`.
    pub name: String,
    /// The name in the banner, in EHLO and in Received fields.
    pub hostname: String,
    /// Everything the node keeps.
    pub data_dir: PathBuf,
}

/// Where this node talks with the others of its fleet, by QUIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The UDP address to listen on; `None` is a fleet of one, which nobody else can join.
    pub listen: Option<SocketAddr>,
    /// Where others reach it; where it listens when absent.
    pub advertise: Option<SocketAddr>,
    /// UDP segmentation offload. Some network cards fail at it.
    pub segmentation_offload: bool,
}

/// How those who run the service are woken up. Who they are is a setting of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Service {
    /// A file whose first line is the web address that is told of mail to `trouble`. It may hold a
    /// secret, so it is not in the configuration itself.
    pub webhook_url_file: Option<PathBuf>,
    /// Roots its certificate is checked by; `None` means the system's.
    pub webhook_ca_file: Option<PathBuf>,
}

/// Where and how mail comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Smtp {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// Client networks without a limit of sessions.
    pub exempt_networks: Vec<IpNet>,
    /// Certificates; the first is the default, others are chosen by server name indication.
    pub certificates: Vec<Certificate>,
}

/// PEM files of one certificate chain and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// How mail goes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Whether customers' servers may be on this host; only for tests and `dev`.
    pub allow_loopback_routes: bool,
    /// The port of servers found by MX records.
    pub mx_port: u16,
    /// Roots that customers' certificates are checked against; the system's when absent.
    pub ca_file: Option<PathBuf>,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Text or JSON.
    pub format: LogFormat,
    /// File of the delivery log; standard output when absent.
    pub deliveries: Option<PathBuf>,
}

/// Text or JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// A line as Postfix writes it.
    Text,
    /// A JSON object a line.
    Json,
}
