//! The answering side.
//!
//! **Invariant:** of what an unauthenticated peer sends, nothing is decoded: its 40 octets are
//! compared with tokens, and only with a good token the rest is looked at.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, Endpoint, Incoming, RecvStream, SendStream, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Handler;
use super::link::{JOIN_MAGIC, JOIN_OCTETS_MAX};
use super::tls::{JOIN_PROTOCOL, NODE_PROTOCOL, node_in};
use super::wire::{Answer, Ask, Call, Joining};
use crate::authority;
use crate::codec::{self, CodecError, HEAD_OCTETS, Kind};
use crate::raft::NodeId;
use crate::snapshot::FILE_OCTETS_MAX;

const HANDSHAKE: Duration = Duration::from_secs(3);
/// Every call has a deadline on this side too; snapshots have one for each piece.
const READ: Duration = Duration::from_secs(5);
const JOIN: Duration = Duration::from_secs(10);
/// Joins that are looked at, at a time.
const JOINS_MAX: usize = 8;
const REFUSED: VarInt = VarInt::from_u32(1);
/// Tells a node that it was removed. It cannot learn that otherwise when it was down meanwhile.
pub(super) const REMOVED: VarInt = VarInt::from_u32(2);
const LOG_EVERY_SECONDS: u64 = 60;

/// What follows a call in its stream.
pub(crate) enum Rest {
    /// The rest of a QUIC stream.
    Stream(RecvStream),
    /// What a simulated network carries.
    #[cfg(test)]
    Simulated(Option<std::path::PathBuf>),
}

impl Rest {
    /// Copy it to `path` and sync that; late or endless peers are cut off.
    pub(super) async fn save(self, path: &Path) -> io::Result<()> {
        let mut stream = match self {
            Self::Stream(stream) => stream,
            #[cfg(test)]
            Self::Simulated(from) => {
                return std::fs::copy(from.unwrap_or_default(), path).map(|_| ());
            }
        };
        let mut file = tokio::fs::File::create(path).await?;
        let mut octets = 0_u64;
        while let Some(piece) = timeout(READ, stream.read_chunk(64 << 10, true)).await?? {
            octets += piece.bytes.len() as u64;
            if octets > FILE_OCTETS_MAX {
                return Err(io::Error::other("the snapshot is larger than any can be"));
            }
            file.write_all(&piece.bytes).await?;
        }
        file.flush().await?;
        file.sync_all().await
    }

    /// The next piece of at most 64 KiB, `None` at the end; late peers are cut off.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        match self {
            Self::Stream(stream) => {
                let piece = timeout(READ, stream.read_chunk(64 << 10, true)).await??;
                Ok(piece.map(|piece| piece.bytes))
            }
            #[cfg(test)]
            Self::Simulated(_) => Ok(None),
        }
    }

    /// Nothing may follow.
    async fn end(&mut self) -> bool {
        match self {
            Self::Stream(stream) => {
                matches!(timeout(READ, stream.read(&mut [0])).await, Ok(Ok(None)))
            }
            #[cfg(test)]
            Self::Simulated(file) => file.is_none(),
        }
    }
}

pub(super) struct Server {
    fleet: u128,
    node: NodeId,
    handler: Arc<dyn Handler>,
    joins: Semaphore,
    refused: AtomicU64,
    logged_at: AtomicU64,
    start: tokio::time::Instant,
}

impl Server {
    pub(super) fn new(fleet: u128, node: NodeId, handler: Arc<dyn Handler>) -> Self {
        Self {
            fleet,
            node,
            handler,
            joins: Semaphore::new(JOINS_MAX),
            refused: AtomicU64::new(0),
            logged_at: AtomicU64::new(0),
            start: tokio::time::Instant::now(),
        }
    }

    pub(super) async fn run(self, endpoint: Endpoint) {
        let server = Arc::new(self);
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(Arc::clone(&server).connection(incoming));
        }
    }

    /// Counted always, logged once a minute: a stranger must not fill the log.
    fn refuse(&self, peer: impl std::fmt::Display, why: impl std::fmt::Display) {
        let count = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
        let now = self.start.elapsed().as_secs() + LOG_EVERY_SECONDS;
        let logged = self.logged_at.load(Ordering::Relaxed);
        if now >= logged + LOG_EVERY_SECONDS
            && self
                .logged_at
                .compare_exchange(logged, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            tracing::warn!(%peer, %why, count, "a peer was refused on the cluster port");
        }
    }

    async fn connection(self: Arc<Self>, incoming: Incoming) {
        let peer = incoming.remote_address();
        let connection = match timeout(HANDSHAKE, incoming).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return self.refuse(peer, error),
            Err(_) => return self.refuse(peer, "the handshake took too long"),
        };
        let protocol = connection
            .handshake_data()
            .and_then(|data| data.downcast::<quinn::crypto::rustls::HandshakeData>().ok())
            .and_then(|data| data.protocol);
        match protocol.as_deref() {
            Some(NODE_PROTOCOL) => match certified_node(&connection) {
                Some(from) => self.node_connection(&connection, from).await,
                None => self.refuse(peer, "it has no certificate of a node"),
            },
            Some(JOIN_PROTOCOL) => self.join_connection(&connection).await,
            _ => self.refuse(peer, "it speaks another protocol"),
        }
        connection.close(REFUSED, b"refused");
    }

    async fn node_connection(self: &Arc<Self>, connection: &Connection, from: NodeId) {
        while let Ok((send, receive)) = connection.accept_bi().await {
            if !self.handler.admits(from) {
                connection.close(REMOVED, b"removed");
                return self.refuse(format!("node {from}"), "it was removed from the fleet");
            }
            let server = Arc::clone(self);
            let connection = connection.clone();
            tokio::spawn(async move {
                if let Err(error) = server.call(from, send, receive).await {
                    server.refuse(format!("node {from}"), error);
                    connection.close(REFUSED, b"refused");
                }
            });
        }
    }

    async fn call(
        &self,
        from: NodeId,
        mut send: SendStream,
        mut receive: RecvStream,
    ) -> io::Result<()> {
        let bytes = match timeout(READ, read_envelope(&mut receive)).await {
            Ok(Err(error)) if error.kind() != io::ErrorKind::InvalidData => return Ok(()),
            Ok(read) => read?,
            Err(_) => return Ok(()), // the caller gave up; that is not an offence
        };
        let call = Call::decode(&bytes)?;
        if call.fleet != self.fleet {
            return Err(refused("it belongs to another fleet"));
        }
        if call.from != from || call.to != self.node {
            return Err(refused("the call says other nodes than the certificates"));
        }
        let mut rest = Rest::Stream(receive);
        let has_tail = matches!(call.ask, Ask::Snapshot { .. } | Ask::Peer { .. });
        if !has_tail && !rest.end().await {
            return Err(refused("something follows the call"));
        }
        let answer = self.handler.answer(from, call, rest).await;
        reply(&mut send, &answer).await
    }

    async fn join_connection(&self, connection: &Connection) {
        let peer = connection.remote_address();
        let Ok(_permit) = self.joins.try_acquire() else {
            return self.refuse(peer, "too many nodes want to join at a time");
        };
        if let Err(error) = timeout(JOIN, self.join(connection))
            .await
            .unwrap_or_else(|late| Err(io::Error::from(late)))
        {
            self.refuse(peer, error);
        }
    }

    async fn join(&self, connection: &Connection) -> io::Result<()> {
        let (mut send, mut receive) = connection.accept_bi().await?;
        let mut prefix = [0; 40];
        receive.read_exact(&mut prefix).await.map_err(io::Error::other)?;
        let token = authority::hash(&prefix[8..]);
        if prefix[..8] != JOIN_MAGIC || !self.handler.token_is_good(&token) {
            let why = "the token is unknown, used or expired";
            reply(&mut send, &Answer::Refused(why.to_owned())).await?;
            connection.closed().await; // it leaves when it has read that
            return Err(refused(why));
        }
        let bytes = receive.read_to_end(JOIN_OCTETS_MAX).await.map_err(io::Error::other)?;
        let (host, csr) = codec::decode(Kind::Join, &bytes)?;
        let answer = self.handler.join(Joining { token, host, csr }).await;
        reply(&mut send, &answer).await?;
        connection.closed().await;
        Ok(())
    }
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

fn certified_node(connection: &Connection) -> Option<NodeId> {
    let identity = connection.peer_identity()?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    node_in(chain.first()?)
}

async fn reply(send: &mut SendStream, answer: &Answer) -> io::Result<()> {
    let bytes = answer.encode()?;
    if send.write_all(&bytes).await.is_ok() {
        let _ = send.finish(); // the caller gave up; it asks again if it must
    }
    Ok(())
}

async fn read_envelope(stream: &mut RecvStream) -> io::Result<Vec<u8>> {
    let mut head = [0; HEAD_OCTETS];
    stream.read_exact(&mut head).await.map_err(io::Error::other)?;
    let (kind, length) = codec::read_head(&head)?;
    if kind != Kind::Call {
        return Err(CodecError::Kind(kind as u8).into());
    }
    let mut bytes = head.to_vec();
    bytes.resize(HEAD_OCTETS + length, 0);
    stream.read_exact(&mut bytes[HEAD_OCTETS..]).await.map_err(io::Error::other)?;
    Ok(bytes)
}
