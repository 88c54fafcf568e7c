//! The calling side: one cached connection for each peer, one stream for each call.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, EndpointConfig, SendStream, TokioRuntime,
};
use tokio::io::AsyncReadExt as _;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::endpoint::transport_config;
use super::serve::REMOVED;
use super::tls::{self, TlsError};
use super::wire::{Answer, Joined};
use super::{CallError, Tail};
use crate::authority::{FLEET_NAME, node_name};
use crate::codec::{self, BODY_OCTETS_MAX, CodecError, HEAD_OCTETS, Kind};
use crate::raft::NodeId;
use crate::state::{Hash, NewHost};

const CONNECT: Duration = Duration::from_secs(1);
/// A piece of a file must go out within this.
const PIECE: Duration = Duration::from_secs(10);
const PIECE_OCTETS: usize = 256 << 10;
/// Calls go before files.
const FILE_PRIORITY: i32 = -1;
pub(super) const ANSWER_OCTETS_MAX: usize = BODY_OCTETS_MAX + HEAD_OCTETS;

/// A whole join: connect, ask, the fleet agrees, answer.
const JOIN: Duration = Duration::from_secs(10);

/// What starts a join, before the secret.
pub(super) const JOIN_MAGIC: [u8; 8] = *b"mxjoin01";
pub(super) const JOIN_OCTETS_MAX: usize = 8192;

type Connected = Option<Result<Connection, String>>;

/// The state of the connection to one peer.
enum Slot {
    Down,
    Connecting(watch::Receiver<Connected>),
    Up(Connection),
}

struct Link {
    slot: Mutex<(String, Slot)>,
    /// Milliseconds after the start of [`Links`] when it last answered, plus one; 0 is never.
    answered: AtomicU64,
}

/// Connections to all peers.
pub(super) struct Links {
    endpoint: Endpoint,
    config: ClientConfig,
    start: Instant,
    links: Mutex<BTreeMap<NodeId, Arc<Link>>>,
    /// Cancelled when a member of the fleet says that this node was removed from it.
    removed: CancellationToken,
}

impl Links {
    pub(super) fn new(endpoint: Endpoint, config: ClientConfig) -> Self {
        let (start, removed) = (Instant::now(), CancellationToken::new());
        Self { endpoint, config, start, links: Mutex::default(), removed }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn link(&self, to: NodeId) -> Arc<Link> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(links.entry(to).or_insert_with(|| {
            let slot = Mutex::new((String::new(), Slot::Down));
            Arc::new(Link { slot, answered: AtomicU64::new(0) })
        }))
    }

    /// Waits until a member of the fleet says that this node was removed from it.
    pub(super) async fn removed(&self) {
        self.removed.cancelled().await;
    }

    pub(super) fn silent_ms(&self, node: NodeId) -> Option<u64> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let answered = links.get(&node)?.answered.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.now_ms().saturating_sub(answered))
    }

    pub(super) fn round_trip(&self, node: NodeId) -> Option<Duration> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let link = Arc::clone(links.get(&node)?);
        drop(links);
        match &link.slot.lock().unwrap_or_else(PoisonError::into_inner).1 {
            Slot::Up(connection) if connection.close_reason().is_none() => Some(connection.rtt()),
            _ => None,
        }
    }

    pub(super) async fn call(
        &self,
        to: NodeId,
        address: &str,
        call: Vec<u8>,
        tail: Tail,
    ) -> Result<Answer, CallError> {
        let link = self.link(to);
        let connection = self.connection(&link, to, address).await?;
        let opened = timeout(CONNECT, connection.open_bi()).await;
        let (mut send, mut receive) = match opened {
            Ok(Ok(streams)) => streams,
            Ok(Err(error)) => return Err(CallError::Unreachable(error.to_string())),
            Err(_) => return Err(CallError::Unreachable("no stream is free".to_owned())),
        };
        let broken = |error: &dyn std::fmt::Display| CallError::Broken(error.to_string());
        send.write_all(&call).await.map_err(|e| broken(&e))?;
        match tail {
            Tail::Nothing => {}
            Tail::File(file) => send_file(&mut send, file).await.map_err(|e| broken(&e))?,
            Tail::Pieces(pieces) => {
                send_pieces(&mut send, pieces).await.map_err(|e| broken(&e))?;
            }
        }
        send.finish().map_err(|e| broken(&e))?;
        let bytes = receive.read_to_end(ANSWER_OCTETS_MAX).await.map_err(|e| broken(&e))?;
        let answer = Answer::decode(&bytes).map_err(|e| broken(&e))?;
        link.answered.store(self.now_ms() + 1, Ordering::Relaxed);
        Ok(answer)
    }

    /// The connection to a peer. It is made by a task of its own: callers give up sooner than a
    /// handshake over a slow line takes, and the next one finds it done.
    async fn connection(
        &self,
        link: &Arc<Link>,
        to: NodeId,
        address: &str,
    ) -> Result<Connection, CallError> {
        let mut connecting = {
            let mut guard = link.slot.lock().unwrap_or_else(PoisonError::into_inner);
            let (known, slot) = &mut *guard;
            match slot {
                Slot::Up(connection) if connection.close_reason().is_none() && known == address => {
                    return Ok(connection.clone());
                }
                Slot::Connecting(connecting) if known == address => connecting.clone(),
                _ => {
                    let (done, connecting) = watch::channel(None);
                    address.clone_into(known);
                    *slot = Slot::Connecting(connecting.clone());
                    tokio::spawn(self.connect(Arc::clone(link), to, address.to_owned(), done));
                    connecting
                }
            }
        };
        let gone = || CallError::Unreachable("the attempt was given up".to_owned());
        let result = connecting.wait_for(Option::is_some).await.map_err(|_| gone())?.clone();
        result.ok_or_else(gone)?.map_err(CallError::Unreachable)
    }

    fn connect(
        &self,
        link: Arc<Link>,
        to: NodeId,
        address: String,
        done: watch::Sender<Connected>,
    ) -> impl Future<Output = ()> + use<> {
        let (endpoint, config) = (self.endpoint.clone(), self.config.clone());
        let removed = self.removed.clone();
        async move {
            let result = connect(&endpoint, config, &address, &node_name(to)).await;
            if let Ok(connection) = &result {
                tokio::spawn(watch_for_removal(connection.clone(), removed));
            }
            let mut guard = link.slot.lock().unwrap_or_else(PoisonError::into_inner);
            if guard.0 == address {
                guard.1 = result.clone().map_or(Slot::Down, Slot::Up);
            }
            drop(guard);
            done.send_replace(Some(result));
        }
    }
}

/// Whoever answers at the other end has shown a certificate of the fleet.
async fn watch_for_removal(connection: Connection, removed: CancellationToken) {
    if let ConnectionError::ApplicationClosed(close) = connection.closed().await
        && close.error_code == REMOVED
    {
        removed.cancel();
    }
}

async fn connect(
    endpoint: &Endpoint,
    config: ClientConfig,
    address: &str,
    name: &str,
) -> Result<Connection, String> {
    let address: SocketAddr =
        address.parse().map_err(|_| format!("{address} is not an address"))?;
    let connecting =
        endpoint.connect_with(config, address, name).map_err(|error| error.to_string())?;
    match timeout(CONNECT, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("{address} does not answer")),
    }
}

async fn send_file(send: &mut SendStream, path: PathBuf) -> std::io::Result<()> {
    // It may fail only when the stream is gone, which the next write says better.
    let _ = send.set_priority(FILE_PRIORITY);
    let mut file = tokio::fs::File::open(path).await?;
    let mut piece = vec![0; PIECE_OCTETS];
    loop {
        let length = file.read(&mut piece).await?;
        if length == 0 {
            return Ok(());
        }
        match timeout(PIECE, send.write_all(&piece[..length])).await {
            Ok(written) => written?,
            Err(late) => return Err(late.into()),
        }
    }
}

async fn send_pieces(
    send: &mut SendStream,
    mut pieces: mpsc::Receiver<Bytes>,
) -> std::io::Result<()> {
    // As for a file.
    let _ = send.set_priority(FILE_PRIORITY);
    while let Some(piece) = pieces.recv().await {
        match timeout(PIECE, send.write_chunk(piece)).await {
            Ok(written) => written?,
            Err(late) => return Err(late.into()),
        }
    }
    Ok(())
}

/// Why a join was not granted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    #[error("{0}")]
    Unreachable(String),
    #[error("the fleet refused: {0}")]
    Refused(String),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the request to join: {0}")]
    Codec(#[from] CodecError),
    #[error("cannot open a socket: {0}")]
    Io(#[from] std::io::Error),
}

/// Ask the node at `address` to be let into the fleet whose authority has this fingerprint.
pub(crate) async fn join(
    address: SocketAddr,
    fingerprint: Hash,
    secret: &[u8; 32],
    host: &NewHost,
    csr: &[u8],
) -> Result<Joined, JoinError> {
    let mut config = ClientConfig::new(Arc::new(tls::joining(fingerprint)?));
    config.transport_config(transport_config(true));
    let any: SocketAddr = if address.is_ipv4() {
        (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = std::net::UdpSocket::bind(any)?;
    let runtime = Arc::new(TokioRuntime);
    let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, runtime)?;
    let mut ask = [JOIN_MAGIC.as_slice(), secret].concat();
    ask.extend(codec::encode(Kind::Join, &(host, csr))?);
    let work = async {
        let unreachable = |error: &dyn std::fmt::Display| JoinError::Unreachable(error.to_string());
        let connection = connect(&endpoint, config, &address.to_string(), FLEET_NAME)
            .await
            .map_err(JoinError::Unreachable)?;
        let (mut send, mut receive) = connection.open_bi().await.map_err(|e| unreachable(&e))?;
        send.write_all(&ask).await.map_err(|e| unreachable(&e))?;
        send.finish().map_err(|e| unreachable(&e))?;
        let bytes = receive.read_to_end(ANSWER_OCTETS_MAX).await.map_err(|e| unreachable(&e))?;
        match Answer::decode(&bytes)? {
            Answer::Joined(joined) => Ok(joined),
            Answer::Refused(why) => Err(JoinError::Refused(why)),
            _ => Err(JoinError::Unreachable("the fleet has no leader just now".to_owned())),
        }
    };
    let late = |_| JoinError::Unreachable(format!("{address} took too long"));
    timeout(JOIN, work).await.map_err(late)?
}
