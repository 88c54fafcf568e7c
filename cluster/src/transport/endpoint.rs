//! The UDP socket all of it goes through, with its limits.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::{EndpointConfig, IdleTimeout, ServerConfig, TokioRuntime, TransportConfig, VarInt};

use super::link::Links;
use super::refusals::Refusals;
use super::serve::Server;
use super::tls::{Credentials, TlsError};
use super::wire::Answer;
use super::{BoxFuture, CallError, Handler, Tail, Transport};
use crate::raft::NodeId;

const KEEP_ALIVE: Duration = Duration::from_millis(500);
const IDLE: Duration = Duration::from_secs(3);
/// Calls one peer may have open at a time.
const STREAMS_MAX: u32 = 256;
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Connections that wait to be looked at; those are looked at soon.
const INCOMING_MAX: usize = 64;

/// Why the socket could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndpointError {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// This node's end of all connections.
pub(crate) struct QuicEndpoint {
    endpoint: quinn::Endpoint,
    links: Links,
    refusals: Arc<Refusals>,
}

pub(super) fn transport_config(segmentation_offload: bool) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(IdleTimeout::try_from(IDLE).ok())
        .enable_segmentation_offload(segmentation_offload);
    Arc::new(config)
}

impl QuicEndpoint {
    /// Bind `listen`. Nobody is answered before [`Self::serve`].
    pub(crate) fn bind(
        listen: SocketAddr,
        credentials: &Arc<Credentials>,
        reset_secret: &[u8],
        segmentation_offload: bool,
    ) -> Result<Self, EndpointError> {
        let failed = |source| EndpointError::Listen { address: listen, source };
        let transport = transport_config(segmentation_offload);
        let mut server = ServerConfig::with_crypto(Arc::new(credentials.server()?));
        server.transport_config(Arc::clone(&transport)).max_incoming(INCOMING_MAX).migration(false);
        let mut client = quinn::ClientConfig::new(Arc::new(credentials.client()?));
        client.transport_config(transport);
        // The key lasts, so that after a restart old connections are reset and not timed out.
        let reset_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, reset_secret);
        let socket = UdpSocket::bind(listen).map_err(failed)?;
        let endpoint = quinn::Endpoint::new(
            EndpointConfig::new(Arc::new(reset_key)),
            Some(server),
            socket,
            Arc::new(TokioRuntime),
        )
        .map_err(failed)?;
        let links = Links::new(endpoint.clone(), client);
        Ok(Self { endpoint, links, refusals: Arc::default() })
    }

    /// The address that was bound.
    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Answer calls until the endpoint is closed.
    pub(crate) async fn serve(&self, fleet: u128, node: NodeId, handler: Arc<dyn Handler>) {
        let refusals = Arc::clone(&self.refusals);
        Server::new(fleet, node, handler, refusals).run(self.endpoint.clone()).await;
    }

    /// Who was turned away.
    pub(crate) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Waits until a member of the fleet says that this node was removed from it.
    pub(crate) async fn removed(&self) {
        self.links.removed().await;
    }

    /// There and back to a peer, if there is a connection.
    pub(crate) fn round_trip(&self, node: NodeId) -> Option<Duration> {
        self.links.round_trip(node)
    }

    /// Close all connections and wait until the peers were told.
    pub(crate) async fn close(&self) {
        self.endpoint.close(VarInt::from_u32(0), b"closed");
        let _ = tokio::time::timeout(IDLE, self.endpoint.wait_idle()).await; // they will time out
    }
}

impl Transport for QuicEndpoint {
    fn call<'a>(
        &'a self,
        to: NodeId,
        address: &'a str,
        call: Vec<u8>,
        tail: Tail,
    ) -> BoxFuture<'a, Result<Answer, CallError>> {
        Box::pin(self.links.call(to, address, call, tail))
    }

    fn silent_ms(&self, node: NodeId) -> Option<u64> {
        self.links.silent_ms(node)
    }
}
