//! `mxfleet health`: asks the node of a configuration file how it is, for containers and scripts.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;

use super::run::load;
use super::{EXIT_FAILED, output};

/// A node that has not answered by then is not well.
const PATIENCE: Duration = Duration::from_secs(5);
/// Its answer is a line.
const ANSWER_OCTETS_MAX: u64 = 4096;

/// Arguments of `mxfleet health`.
#[derive(Debug, Args)]
pub(super) struct HealthArgs {
    /// The node's configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Ask whether it would accept mail, not only whether it runs.
    #[arg(long)]
    ready: bool,
}

pub(super) fn health(args: &HealthArgs) -> ExitCode {
    let config = match load(&args.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let path = if args.ready { "/readyz" } else { "/healthz" };
    match config.http.context("the configuration has no [http] listener").and_then(|a| ask(a, path))
    {
        Ok(answer) => {
            eprintln!("{}", output::clean(answer.trim()));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("mxfleet: {}", output::clean(&output::reasons(&error)));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// The node's answer, if it is a good one.
fn ask(listener: SocketAddr, path: &str) -> anyhow::Result<String> {
    let address = reachable(listener);
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)
        .with_context(|| format!("the node does not listen on {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut bounded = stream.take(ANSWER_OCTETS_MAX);
    bounded.read_to_string(&mut answer).context("the node does not answer")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the node answers something else")?;
    if head.split(' ').nth(1) != Some("200") {
        bail!("{}", body.trim());
    }
    Ok(body.to_owned())
}

/// A listener on all addresses is asked on loopback.
fn reachable(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listener.port())
}
