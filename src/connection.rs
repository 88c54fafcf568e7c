//! Stage 1: accept connections, keep them within their bounds, and move bytes between a socket and
//! a [`Session`](crate::session::Session).

mod conversation;
mod counters;
mod deadline;
mod gate;
mod intake;
mod listener;
mod message;
mod receive;
mod service;
mod spooling;
mod tls;
mod wire;

use std::fmt;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use intake::{Draft, Full, Intake, NotStored};
pub use listener::{inherit, listen};
pub use service::{Service, ServiceState};
pub use tls::{CertificateFiles, CertificatePair, TlsError, TlsIdentity};

use crate::authentication::Authenticator;
use crate::config::Limits;
use crate::policy::Policy;
use crate::session::{Session, Site};
use crate::smtp::Refusals;
use crate::smtp::canned::{self, Canned};
use crate::telemetry::delivery_log::{DeliveryLog, Refused};
use counters::COUNTERS;
use gate::{Busy, Gate};

/// Called with each message that is safe in the spool, before the client is told. It must be
/// quick.
pub type Accepted<Q> = Arc<dyn Fn(Q) + Send + Sync>;

/// What the inbound side of a node is made of.
pub struct Parts<I: Intake> {
    /// What we call ourselves in the banner, in EHLO and in Received fields.
    pub hostname: String,
    /// Every bound.
    pub limits: Arc<Limits>,
    /// Stage 3.
    pub policy: Arc<Policy>,
    /// Looks at messages about which it may matter whose they are; `None` looks at none.
    pub authenticator: Option<Authenticator>,
    /// Stage 4.
    pub intake: I,
    /// Stage 5.
    pub accepted: Accepted<<I::Draft as Draft>::Queued>,
    /// Our certificates; without any STARTTLS is not offered.
    pub tls: Option<Arc<TlsIdentity>>,
    /// Client networks that `sessions_per_network_max` is not for.
    pub unlimited_networks: Vec<IpNet>,
    /// Whether this host takes mail.
    pub service: Service,
    /// Has a line of each connection that was refused something; `None` has none.
    pub log: Option<DeliveryLog>,
}

/// The inbound side of a node; several listeners may share it.
pub struct Inbound<I: Intake> {
    site: Arc<Site>,
    policy: Arc<Policy>,
    authenticator: Option<Authenticator>,
    intake: I,
    accepted: Accepted<<I::Draft as Draft>::Queued>,
    tls: Option<Arc<TlsIdentity>>,
    gate: Arc<Gate>,
    service: Service,
    log: Option<DeliveryLog>,
}

impl<I: Intake> Inbound<I> {
    /// Put the parts together.
    pub fn new(parts: Parts<I>) -> Self {
        // So that each series is there before the first connection.
        std::sync::LazyLock::force(&COUNTERS);
        let gate = Gate::new(&parts.limits, parts.unlimited_networks);
        Self {
            site: Arc::new(Site::new(&parts.hostname, parts.limits)),
            policy: parts.policy,
            authenticator: parts.authenticator,
            intake: parts.intake,
            accepted: parts.accepted,
            tls: parts.tls,
            gate: Arc::new(gate),
            service: parts.service,
            log: parts.log,
        }
    }

    /// One line about what the client at `ip` was refused, if it was refused anything.
    fn tell_refused(&self, ip: IpAddr, session: &Session, refusals: &Refusals) {
        if let Some(log) = &self.log
            && !refusals.counts().is_empty()
        {
            log.refused(&Refused {
                client: ip,
                helo: session.helo(),
                tls: session.is_secured(),
                refusals,
            });
        }
    }

    fn limits(&self) -> &Limits {
        self.site.limits()
    }
}

impl<I: Intake> fmt::Debug for Inbound<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbound").field("site", &self.site).finish_non_exhaustive()
    }
}

/// Serve `listener` until `stop`; then the idle are sent away, a message that is coming in may
/// finish, and after `drain_timeout_ms` it is over.
pub async fn serve<I: Intake>(
    listener: TcpListener,
    inbound: Arc<Inbound<I>>,
    stop: CancellationToken,
) {
    let mut sessions = JoinSet::new();
    accept_until(&listener, &inbound, &stop, &mut sessions).await;
    drop(listener);
    // The sessions keep this time themselves; the margin is for those that hang in the spool.
    let drain = Duration::from_millis(inbound.limits().drain_timeout_ms) + DRAIN_MARGIN;
    let drained =
        tokio::time::timeout(drain, async { while sessions.join_next().await.is_some() {} });
    if drained.await.is_err() {
        let late = sessions.len();
        tracing::warn!(target: "mxfleet::inbound", "{late} sessions did not end in time");
        sessions.shutdown().await;
    }
}

const DRAIN_MARGIN: Duration = Duration::from_secs(1);

async fn accept_until<I: Intake>(
    listener: &TcpListener,
    inbound: &Arc<Inbound<I>>,
    stop: &CancellationToken,
    sessions: &mut JoinSet<()>,
) {
    let mut stopped = std::pin::pin!(stop.cancelled());
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stopped => return,
            accepted = listener.accept() => accepted,
        };
        while sessions.try_join_next().is_some() {}
        match accepted {
            Ok((stream, peer)) => {
                failing = false;
                admit(inbound, stream, peer, stop, sessions);
            }
            Err(error) if is_about_one_client(&error) => {}
            Err(error) => {
                // Out of descriptors or memory: asking again at once would only burn the CPU that
                // the sessions need to end.
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(target: "mxfleet::inbound", "accept failed: {error}");
                }
                let pause = Duration::from_millis(inbound.limits().accept_pause_ms);
                tokio::select! {
                    () = &mut stopped => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
    }
}

fn is_about_one_client(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

fn admit<I: Intake>(
    inbound: &Arc<Inbound<I>>,
    stream: TcpStream,
    peer: SocketAddr,
    stop: &CancellationToken,
    sessions: &mut JoinSet<()>,
) {
    let ip = peer.ip().to_canonical();
    match inbound.service.state() {
        ServiceState::Serving => {}
        ServiceState::Away => return turn_away(stream, canned::STOPPING),
        ServiceState::Retired => return turn_away(stream, canned::RETIRED),
    }
    match inbound.gate.enter(ip) {
        Ok(pass) => {
            let (inbound, stop) = (Arc::clone(inbound), stop.clone());
            sessions.spawn(async move {
                conversation::converse(&inbound, stream, ip, &stop).await;
                drop(pass);
            });
        }
        Err(busy) => {
            match busy {
                Busy::Everywhere => COUNTERS.busy.inc(),
                Busy::Network => COUNTERS.network_busy.inc(),
            }
            turn_away(stream, canned::BUSY);
        }
    }
}

/// One small write into an empty buffer never waits; a client it does not reach has gone already.
fn turn_away(stream: TcpStream, reply: Canned) {
    COUNTERS.reply(reply.code());
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write(reply.line().as_bytes());
    }
}
