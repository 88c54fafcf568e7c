//! HTTP: the admin API on its own socket, the site, health and metrics. Public pages never hold
//! admin calls.

pub mod account;
mod actor;
pub mod admin;
mod blacklist;
pub mod call;
pub mod client;
mod listener;
pub mod members;
pub mod metrics;
pub mod probe;
pub mod public;
pub mod queue;
mod recipients;
pub mod rotation;
pub mod site;
pub mod tables;
mod visitor;

use std::future::IntoFuture;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use self::call::Refused;
use crate::smtp::address::domain_to_ascii;
use crate::system::clock::timestamp;

/// How long a request that is half sent may hold up the stop of the node.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// A domain's name as tables are keyed by it; a dot at its end is left off.
fn domain_name(text: &str) -> Result<String, Refused> {
    let name = text.strip_suffix('.').unwrap_or(text);
    domain_to_ascii(name)
        .map(String::from)
        .map_err(|_| Refused::invalid(format!("{} is not a domain name", text.escape_debug())))
}

/// A time as programs and people read it.
fn time(at_ms: u64) -> String {
    timestamp(at_ms).to_string()
}

/// Drive a server whose graceful stop waits for its clients, but not for ever.
async fn until_stopped(
    server: impl IntoFuture<Output = std::io::Result<()>>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    tokio::select! {
        ended = server.into_future() => ended,
        () = async { stop.cancelled().await; tokio::time::sleep(STOP_GRACE).await } => Ok(()),
    }
}
