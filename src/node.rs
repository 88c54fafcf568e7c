//! The composition root: build every stage, start, announce, drain. The only file that knows them
//! all.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mxfleet_cluster::Cluster;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::client::{Client, Roots};
use crate::config::{self, Config, LogFormat};
use crate::connection::{self, CertificateFiles, Inbound, Parts, TlsIdentity};
use crate::http::admin::{self, Admin};
use crate::http::public::{self, Health};
use crate::http::tables::Tables;
use crate::policy::Policy;
use crate::spool::{OsFs, Recovered, Spool, SpoolConfig};
use crate::telemetry::tracing as log;
use crate::worker::Deliveries;

/// Written into the data folder while the node runs.
pub const PID_FILE: &str = "mxfleet.pid";

/// Everything that listens, bound before anything is announced.
struct Listeners {
    smtp: Vec<TcpListener>,
    admin: UnixListener,
    http: Option<TcpListener>,
    metrics: Option<TcpListener>,
}

/// Run a node until SIGTERM or SIGINT, then drain it.
pub async fn run(config: Config, path: PathBuf) -> anyhow::Result<()> {
    log::start(config.log.format);
    let stop = CancellationToken::new();
    let node = Node::build(&config)?;
    let listeners = listen(&config).await?;
    write_pid(&config.node.data_dir)?;
    announce(&config, &node, &listeners);
    let mut tasks = node.start(listeners, &stop);
    wait_for_the_end(&node, &path, &mut tasks).await?;
    tracing::info!("draining: no new mail; running transactions finish");
    stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.context("a part of the node did not end well")??;
    }
    node.spool.close().await;
    remove_pid(&config.node.data_dir);
    tracing::info!("stopped");
    Ok(())
}
