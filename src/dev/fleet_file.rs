//! `fleet.json`: what runs where, kept true while the fleet runs.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;

use crate::config::{self, Config};
use crate::system::pid_file;

/// Ports that are tried first, so that the cheat-sheet is the same every time.
const FIRST_SMTP_PORT: u16 = 2525;
const FIRST_HTTP_PORT: u16 = 8025;
const FIRST_METRICS_PORT: u16 = 9025;
const FIRST_CLUSTER_PORT: u16 = 4191;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct FleetFile {
    #[serde(skip)]
    path: PathBuf,
    pub(super) nodes: Vec<NodeEntry>,
    pub(super) customer_server: CustomerServer,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct NodeEntry {
    pub(super) name: String,
    pub(super) id: u16,
    /// `None` while it does not run.
    pub(super) pid: Option<u32>,
    pub(super) smtp: String,
    pub(super) http: String,
    pub(super) metrics: String,
    pub(super) admin: PathBuf,
    /// Where other nodes reach it.
    pub(super) cluster: String,
    pub(super) config: PathBuf,
    pub(super) data: PathBuf,
}

/// The stand-in customer server.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct CustomerServer {
    pub(super) smtp: String,
    pub(super) mailbox: PathBuf,
}

impl FleetFile {
    pub(super) fn new(dir: &Path, nodes: Vec<NodeEntry>, customer_server: CustomerServer) -> Self {
        Self { path: dir.join("fleet.json"), nodes, customer_server }
    }

    /// Replace the file whole, so that a reader never sees half of it.
    pub(super) fn write(&self) -> anyhow::Result<()> {
        let beside = self.path.with_extension("json.new");
        let mut file = std::fs::File::create(&beside)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.write_all(b"\n")?;
        std::fs::rename(&beside, &self.path)
            .with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Look which nodes run; true when that has changed.
    pub(super) fn refresh(&mut self) -> bool {
        let mut changed = false;
        for node in &mut self.nodes {
            let pid = node.running_pid();
            changed |= pid != node.pid;
            node.pid = pid;
        }
        changed
    }
}

impl NodeEntry {
    /// Write the configuration of node `id` under `dir`, or take the one that is there.
    pub(super) fn prepare(dir: &Path, id: u16) -> anyhow::Result<Self> {
        let name = format!("mx{id}");
        let home = dir.join(&name);
        let (config, data) = (home.join("mxfleet.toml"), home.join("data"));
        std::fs::create_dir_all(&data)?;
        if !config.exists() {
            let address = |first: u16| free_address(first + id - 1);
            let (smtp, http) = (address(FIRST_SMTP_PORT)?, address(FIRST_HTTP_PORT)?);
            let metrics = address(FIRST_METRICS_PORT)?;
            let cluster = free_udp_address(FIRST_CLUSTER_PORT + id - 1)?;
            let text = render(&name, &data, [smtp, http, metrics, cluster]);
            std::fs::write(&config, text)?;
        }
        let checked = read_config(&config)?;
        let show = |address: Option<SocketAddr>| address.map(|a| a.to_string()).unwrap_or_default();
        Ok(Self {
            name,
            id,
            pid: None,
            smtp: show(checked.smtp.listen.first().copied()),
            http: show(checked.http),
            metrics: show(checked.metrics),
            admin: checked.admin_socket,
            cluster: show(checked.cluster.listen),
            config,
            data,
        })
    }

    /// Its configuration file, checked.
    pub(super) fn read_config(&self) -> anyhow::Result<Config> {
        read_config(&self.config)
    }

    /// The process that has this node's data folder, whoever started it.
    pub(super) fn running_pid(&self) -> Option<u32> {
        pid_file::running(&self.data)
    }
}

fn read_config(path: &Path) -> anyhow::Result<Config> {
    let text = std::fs::read_to_string(path)?;
    config::check(&text).map_err(|problems| {
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{}:\n{}", path.display(), problems.join("\n"))
    })
}

fn render(name: &str, data: &Path, [smtp, http, metrics, cluster]: [SocketAddr; 4]) -> String {
    format!(
        "# A node of `mxfleet dev`. Start it again with:  mxfleet run --config THIS_FILE\n\
         [node]\nname = \"{name}\"\nhostname = \"{name}.relay.test\"\n\
         data_dir = {data:?}\n\n\
         [smtp]\nlisten = [\"{smtp}\"]\n\
         exempt_networks = [\"127.0.0.0/8\"]  # everybody is on this machine\n\n\
         [cluster]\nlisten = \"{cluster}\"\n\n\
         [http]\nlisten = \"{http}\"\n\n\
         [metrics]\nlisten = \"{metrics}\"\n\n\
         [delivery]\nallow_loopback_routes = true  # so is the customer's server\n\n\
         [log]\ndeliveries = {log:?}\n",
        log = data.join("deliveries.log"),
    )
}

/// A free loopback address, at `port` if that is free.
pub(super) fn free_address(port: u16) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    Ok(listener.local_addr()?)
}

/// As [`free_address`], for UDP.
fn free_udp_address(port: u16) -> anyhow::Result<SocketAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port))
        .or_else(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)))?;
    Ok(socket.local_addr()?)
}
