//! The answering side.
//!
//! **Invariant:** of what an unauthenticated peer sends, nothing is decoded: its 40 octets are
//! compared with tokens, and only with a good token the rest is looked at.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{
    Connection, Endpoint, Incoming, ReadExactError, ReadToEndError, RecvStream, SendStream, VarInt,
};
use rustls::pki_types::CertificateDer;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::time::timeout;

use super::Handler;
use super::link::{JOIN_MAGIC, JOIN_OCTETS_MAX};
use super::refusals::{LOG_EVERY, Offence, Reason, Refusals};
use super::tls::{JOIN_PROTOCOL, NODE_PROTOCOL, node_in};
use super::wire::{Answer, Ask, Call, Joining};
use crate::authority;
use crate::codec::{self, CodecError, HEAD_OCTETS, Kind};
use crate::raft::NodeId;
use crate::snapshot::FILE_OCTETS_MAX;

const HANDSHAKE: Duration = Duration::from_secs(3);
/// Handshakes at a time with peers nobody knows yet; more are not answered. When half of them are
/// under way, a peer must first show that it gets what is sent to its address.
pub(super) const HANDSHAKES_MAX: usize = 64;
/// Beside these, so many with peers at a host's address, so that strangers do not keep hosts out.
const HOST_HANDSHAKES_MAX: usize = 64;
/// Memory for a call grows as it arrives, whatever length it announces.
const READ_OCTETS: usize = 64 << 10;
const FILE_BUFFER_OCTETS: usize = 1 << 20;
/// Every call has a deadline on this side too; snapshots have one for each piece.
const READ: Duration = Duration::from_secs(5);
const JOIN: Duration = Duration::from_secs(10);
/// Joins that are looked at, at a time.
const JOINS_MAX: usize = 8;
const REFUSED: VarInt = VarInt::from_u32(1);
/// Tells a node that it was removed. It cannot learn that otherwise when it was down meanwhile.
pub(super) const REMOVED: VarInt = VarInt::from_u32(2);

/// What follows a call in its stream.
pub(crate) enum Rest {
    /// The rest of a QUIC stream.
    Stream(RecvStream),
    /// What a simulated network carries.
    #[cfg(test)]
    Simulated(Option<std::path::PathBuf>),
}

impl Rest {
    /// Copy it to `path` and sync that, and its folder; late or endless peers are cut off.
    pub(super) async fn save(self, path: &Path) -> io::Result<()> {
        let mut stream = match self {
            Self::Stream(stream) => stream,
            #[cfg(test)]
            Self::Simulated(from) => {
                return std::fs::copy(from.unwrap_or_default(), path).map(|_| ());
            }
        };
        // A packet at a time would be a thread's work a packet.
        let file = tokio::fs::File::create(path).await?;
        let mut file = tokio::io::BufWriter::with_capacity(FILE_BUFFER_OCTETS, file);
        let mut octets = 0_u64;
        while let Some(piece) = timeout(READ, stream.read_chunk(64 << 10, true)).await?? {
            octets += piece.bytes.len() as u64;
            if octets > FILE_OCTETS_MAX {
                return Err(io::Error::other("the snapshot is larger than any can be"));
            }
            file.write_all(&piece.bytes).await?;
        }
        file.flush().await?;
        file.get_ref().sync_all().await?;
        match path.parent() {
            Some(dir) => tokio::fs::File::open(dir).await?.sync_all().await,
            None => Ok(()),
        }
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

    /// Nothing may follow. `None` when the caller gave up and nobody knows.
    async fn ends(&mut self) -> Option<bool> {
        match self {
            Self::Stream(stream) => match timeout(READ, stream.read(&mut [0])).await {
                Ok(Ok(more)) => Some(more.is_none()),
                Ok(Err(_)) | Err(_) => None,
            },
            #[cfg(test)]
            Self::Simulated(file) => Some(file.is_none()),
        }
    }
}

pub(super) struct Server {
    fleet: u128,
    node: NodeId,
    handler: Arc<dyn Handler>,
    handshakes: Arc<Semaphore>,
    host_handshakes: Arc<Semaphore>,
    joins: Semaphore,
    refusals: Arc<Refusals>,
}

impl Server {
    pub(super) fn new(
        fleet: u128,
        node: NodeId,
        handler: Arc<dyn Handler>,
        refusals: Arc<Refusals>,
    ) -> Self {
        Self {
            fleet,
            node,
            handler,
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            host_handshakes: Arc::new(Semaphore::new(HOST_HANDSHAKES_MAX)),
            joins: Semaphore::new(JOINS_MAX),
            refusals,
        }
    }

    pub(super) async fn run(self, endpoint: Endpoint) {
        let server = Arc::new(self);
        let mut minute = tokio::time::interval(LOG_EVERY);
        loop {
            tokio::select! {
                incoming = endpoint.accept() => match incoming {
                    Some(incoming) => server.greet(incoming),
                    None => return,
                },
                _ = minute.tick() => server.refusals.sum_up(),
            }
        }
    }

    fn refuse(&self, peer: impl std::fmt::Display, reason: Reason, why: impl std::fmt::Display) {
        self.refusals.note(peer, &Offence::new(reason, why));
    }

    /// Begin a handshake, if there is room for it.
    fn greet(self: &Arc<Self>, incoming: Incoming) {
        let few = self.handshakes.available_permits() <= HANDSHAKES_MAX / 2;
        if few && !incoming.remote_address_validated() {
            let _ = incoming.retry(); // it may: its address is not validated
            return;
        }
        match self.turn(&incoming) {
            Ok(turn) => {
                tokio::spawn(Arc::clone(self).connection(incoming, turn));
            }
            Err(_) => {
                self.refuse(incoming.remote_address(), Reason::Busy, "too many handshakes");
                incoming.ignore();
            }
        }
    }

    fn turn(&self, incoming: &Incoming) -> Result<OwnedSemaphorePermit, TryAcquireError> {
        Arc::clone(&self.handshakes).try_acquire_owned().or_else(|full| {
            if self.handler.knows(incoming.remote_address().ip()) {
                return Arc::clone(&self.host_handshakes).try_acquire_owned();
            }
            Err(full)
        })
    }

    async fn connection(self: Arc<Self>, incoming: Incoming, turn: OwnedSemaphorePermit) {
        let peer = incoming.remote_address();
        let connection = match timeout(HANDSHAKE, incoming).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return self.refuse(peer, Reason::Handshake, error),
            Err(_) => return self.refuse(peer, Reason::Handshake, "it took too long"),
        };
        drop(turn);
        let protocol = connection
            .handshake_data()
            .and_then(|data| data.downcast::<quinn::crypto::rustls::HandshakeData>().ok())
            .and_then(|data| data.protocol);
        match protocol.as_deref() {
            Some(NODE_PROTOCOL) => match certified_node(&connection) {
                Some(from) => self.node_connection(&connection, from).await,
                None => self.refuse(peer, Reason::Certificate, "it shows no node's certificate"),
            },
            Some(JOIN_PROTOCOL) => self.join_connection(&connection).await,
            _ => self.refuse(peer, Reason::Protocol, "it speaks another protocol"),
        }
        connection.close(REFUSED, b"refused");
    }

    async fn node_connection(self: &Arc<Self>, connection: &Connection, from: NodeId) {
        let peer = format!("node {from}");
        while let Ok((send, receive)) = connection.accept_bi().await {
            if !self.handler.admits(from) {
                connection.close(REMOVED, b"removed");
                return self.refuse(peer, Reason::Removed, "it was removed from the fleet");
            }
            let server = Arc::clone(self);
            let (connection, peer) = (connection.clone(), peer.clone());
            tokio::spawn(async move {
                if let Err(offence) = server.call(from, send, receive).await {
                    server.refusals.note(peer, &offence);
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
    ) -> Result<(), Offence> {
        // A caller that gave up is not an offence.
        let Ok(read) = timeout(READ, read_envelope(&mut receive)).await else { return Ok(()) };
        let Some(bytes) = read? else { return Ok(()) };
        let call = Call::decode(&bytes)?;
        if call.fleet != self.fleet {
            return Err(Offence::new(Reason::Fleet, "it belongs to another fleet"));
        }
        if call.from != from || call.to != self.node || !call.is_its_senders() {
            let why = "the call says other nodes than the certificates";
            return Err(Offence::new(Reason::Identity, why));
        }
        let mut rest = Rest::Stream(receive);
        if !matches!(call.ask, Ask::Snapshot { .. } | Ask::Peer { .. }) {
            match rest.ends().await {
                Some(true) => {}
                Some(false) => {
                    return Err(Offence::new(Reason::Trailing, "something follows the call"));
                }
                None => return Ok(()),
            }
        }
        let answer = self.handler.answer(from, call, rest).await;
        reply(&mut send, &answer).await;
        Ok(())
    }

    async fn join_connection(&self, connection: &Connection) {
        let peer = connection.remote_address();
        let Ok(_permit) = self.joins.try_acquire() else {
            return self.refuse(peer, Reason::Busy, "too many nodes want to join at a time");
        };
        match timeout(JOIN, self.join(connection)).await {
            Ok(Ok(())) => {}
            Ok(Err(offence)) => self.refusals.note(peer, &offence),
            Err(_) => self.refuse(peer, Reason::Handshake, "its join took too long"),
        }
    }

    async fn join(&self, connection: &Connection) -> Result<(), Offence> {
        let Ok((mut send, mut receive)) = connection.accept_bi().await else { return Ok(()) };
        let mut prefix = [0; 40];
        receive.read_exact(&mut prefix).await.map_err(|e| Offence::new(Reason::Length, e))?;
        let token = authority::hash(&prefix[8..]);
        if prefix[..8] != JOIN_MAGIC || !self.handler.token_is_good(&token) {
            let why = "the token is unknown, used or expired";
            reply(&mut send, &Answer::Refused(why.to_owned())).await;
            connection.closed().await; // it leaves when it has read that
            return Err(Offence::new(Reason::Token, why));
        }
        let bytes = match receive.read_to_end(JOIN_OCTETS_MAX).await {
            Ok(bytes) => bytes,
            Err(ReadToEndError::TooLong) => return Err(CodecError::TooLarge.into()),
            Err(ReadToEndError::Read(_)) => return Ok(()), // it gave up
        };
        let (host, csr) = codec::decode(Kind::Join, &bytes)?;
        let answer = self.handler.join(Joining { token, host, csr }).await;
        reply(&mut send, &answer).await;
        connection.closed().await;
        Ok(())
    }
}

fn certified_node(connection: &Connection) -> Option<NodeId> {
    let identity = connection.peer_identity()?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    node_in(chain.first()?)
}

async fn reply(send: &mut SendStream, answer: &Answer) {
    let bytes = match answer.encode() {
        Ok(bytes) => bytes,
        Err(error) => return tracing::warn!(%error, "an answer to a peer is not sent"),
    };
    if send.write_all(&bytes).await.is_ok() {
        let _ = send.finish(); // the caller gave up; it asks again if it must
    }
}

/// A call's envelope; `None` when the caller gave it up.
async fn read_envelope(stream: &mut RecvStream) -> Result<Option<Vec<u8>>, Offence> {
    let mut head = [0; HEAD_OCTETS];
    if !read_exact(stream, &mut head).await? {
        return Ok(None);
    }
    let (kind, length) = codec::read_head(&head)?;
    if kind != Kind::Call {
        return Err(CodecError::Kind(kind as u8).into());
    }
    let mut bytes = head.to_vec();
    while bytes.len() < HEAD_OCTETS + length {
        let at = bytes.len();
        bytes.resize((at + READ_OCTETS).min(HEAD_OCTETS + length), 0);
        if !read_exact(stream, &mut bytes[at..]).await? {
            return Ok(None);
        }
    }
    Ok(Some(bytes))
}

/// Whether all of it came; a stream that ends before is an offence.
async fn read_exact(stream: &mut RecvStream, place: &mut [u8]) -> Result<bool, Offence> {
    match stream.read_exact(place).await {
        Ok(()) => Ok(true),
        Err(ReadExactError::FinishedEarly(_)) => Err(CodecError::Short.into()),
        Err(ReadExactError::ReadError(_)) => Ok(false),
    }
}
