//! Nodes talking to each other: QUIC with mutual TLS, one stream for each call.
//!
//! `wire` says what is said, `tls` who may say it, `link` calls, `serve` answers. Raft and the rest
//! of the crate see [`Transport`] and [`Handler`] only, so that a simulated network can take over.

mod endpoint;
mod link;
mod refusals;
mod serve;
#[cfg(test)]
mod tests;
mod tls;
pub(crate) mod wire;

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;

pub(crate) use self::endpoint::{EndpointError, QuicEndpoint};
pub(crate) use self::link::{JoinError, join};
pub(crate) use self::serve::Rest;
pub(crate) use self::tls::Credentials;
use bytes::Bytes;
use tokio::sync::mpsc;

use self::wire::{Answer, Call, Joining};
use crate::raft::NodeId;
use crate::state::Hash;

/// A future that can be kept behind a trait.
pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a call has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum CallError {
    /// It was not sent.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// It was sent, and may have been heard.
    #[error("broken off: {0}")]
    Broken(String),
}

/// What follows a call in its stream.
#[derive(Debug)]
pub(crate) enum Tail {
    Nothing,
    /// The content of a file.
    File(PathBuf),
    /// Pieces as they come. That all came is for the callee to check.
    Pieces(mpsc::Receiver<Bytes>),
}

/// Calls other nodes.
pub(crate) trait Transport: Send + Sync + 'static {
    /// Send `call` to node `to`, followed by `tail`. Dropping the future gives the call up; the
    /// callee may have heard it nevertheless.
    fn call<'a>(
        &'a self,
        to: NodeId,
        address: &'a str,
        call: Vec<u8>,
        tail: Tail,
    ) -> BoxFuture<'a, Result<Answer, CallError>>;

    /// Milliseconds since the node last answered; `None` when it never did.
    fn silent_ms(&self, node: NodeId) -> Option<u64>;
}

/// Answers other nodes.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Whether this node, known by its certificate, may call at all.
    fn admits(&self, from: NodeId) -> bool;

    /// Whether a host of the fleet is at this address.
    fn knows(&self, address: IpAddr) -> bool;

    /// Answer a call. `from` is what the certificate says; the call must say the same.
    fn answer(&self, from: NodeId, call: Call, rest: Rest) -> BoxFuture<'_, Answer>;

    /// Whether the secret with this hash is a token's that can still be used.
    fn token_is_good(&self, hash: &Hash) -> bool;

    /// Let a node join whose token was looked at.
    fn join(&self, joining: Joining) -> BoxFuture<'_, Answer>;
}

/// Copy a file that arrives with a call to `path`, sync it.
pub(crate) async fn save(rest: Rest, path: &Path) -> io::Result<()> {
    rest.save(path).await
}
