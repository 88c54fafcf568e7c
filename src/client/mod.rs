//! Stage 7: offering messages to a customer's server.
//!
//! [`Client::connect`] opens a connection to one hop; [`Connection::deliver`] runs one
//! transaction on it and gives one [`Response`] per recipient. What a response means is decided
//! in stage 8. The dialog itself is pure (`dialog`); sockets and TLS stand apart from it.

mod capabilities;
mod commands;
mod connect;
mod connection;
mod dialog;
mod examine;
mod socket;
mod tls;
mod transcript;
mod wire;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use mxfleet_cluster::TlsPolicy;

use crate::config::Limits;
use crate::smtp::Envelope;
pub use crate::smtp::{Answer, Response, Stage};
use crate::telemetry::metrics::METRICS;
pub use connection::Connection;
pub use examine::{Finding, Grade, Step};
pub(crate) use tls::verified;
pub use transcript::{Speaker, Spoken};

/// A server to offer mail to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// The MX's or server's name: for TLS and the log.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// How much TLS it must offer.
    pub tls: TlsPolicy,
}

impl Hop {
    /// The hop as logs write it: `name[ip]:port`.
    pub fn relay(&self) -> String {
        format!("{}[{}]:{}", self.name, self.address.ip(), self.address.port())
    }
}

/// Where the certificates come from that a server's certificate must lead up to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Roots {
    /// The operating system's.
    #[default]
    System,
    /// A PEM file.
    File(PathBuf),
}

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The file with root certificates is unusable.
    #[error("{}: {why}", path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The TLS library refused its settings.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// Makes connections. One serves the whole node.
#[derive(Debug)]
pub struct Client {
    hostname: String,
    limits: Arc<Limits>,
    tls: tls::Tls,
}

impl Client {
    /// A client that introduces itself as `hostname`.
    pub fn new(hostname: String, limits: Arc<Limits>, roots: &Roots) -> Result<Self, ClientError> {
        // So that each series is there before the first handshake.
        for (version, result) in [("1.2", "ok"), ("1.3", "ok"), ("none", "failed")] {
            METRICS.tls_handshakes_total.with_label_values(&["out", version, result]);
        }
        Ok(Self { hostname, limits, tls: tls::Tls::new(roots)? })
    }
}

/// One message for some of its recipients.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// Its envelope.
    pub envelope: &'a Envelope,
    /// Which recipients, as indexes into the envelope.
    pub recipients: &'a [u32],
    /// The size to declare.
    pub octets: u64,
    /// The text.
    pub text: Text,
}

/// A message's text as it goes on the wire: dot-stuffed, lines ending with CRLF, without the
/// final dot.
pub enum Text {
    /// All of it.
    Whole(Bytes),
    /// Piece by piece, so that a large one is never in memory as a whole.
    Pieces(Box<dyn TextSource>),
}

impl Text {
    /// The next piece; `None` after the last.
    async fn next(&mut self) -> Result<Option<Bytes>, TextError> {
        match self {
            Self::Whole(bytes) => Ok((!bytes.is_empty()).then(|| std::mem::take(bytes))),
            Self::Pieces(source) => source.next_piece().await,
        }
    }
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(bytes) => f.debug_tuple("Whole").field(&bytes.len()).finish(),
            Self::Pieces(_) => f.write_str("Pieces"),
        }
    }
}

/// Our own copy of a message could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TextError(pub String);

/// Gives a text piece by piece; the spool's reader is one.
pub trait TextSource: Send {
    /// The next piece, `None` after the last. An error ends the connection without a final dot,
    /// so that nobody takes half a message for a whole one.
    fn next_piece(
        &mut self,
    ) -> Pin<Box<dyn Future<Output = Result<Option<Bytes>, TextError>> + Send + '_>>;
}
