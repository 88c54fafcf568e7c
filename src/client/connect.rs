//! From a hop to a connection that can take mail: TCP, banner, EHLO, STARTTLS.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::capabilities::Capabilities;
use super::connection::Connection;
use super::socket::Socket;
use super::wire::Wire;
use super::{Client, Hop};
use crate::smtp::{Answer, Enhanced, Reply, Response, Stage};
use crate::telemetry::metrics::METRICS;
use mxfleet_cluster::TlsPolicy;
use rustls::ProtocolVersion::TLSv1_3;

/// How the opening of a connection ended without one.
pub(super) enum Failure {
    /// The answer for every recipient.
    Final(Response),
    /// STARTTLS did not work out; opportunistic TLS tries again in the clear.
    Tls(String),
}

impl From<Response> for Failure {
    fn from(response: Response) -> Self {
        Self::Final(response)
    }
}

/// What was passed on the way to a connection.
pub(super) enum Passed<'a> {
    /// We said a line.
    Said(&'a str),
    /// The server answered.
    Heard(&'a Reply),
    /// The TCP connection is there.
    Connected,
    /// The server greeted us.
    Banner(&'a Reply),
    /// What it offers before TLS.
    Offers(&'a Capabilities),
    /// TLS is on.
    Secured(&'a Wire),
    /// TLS did not work out, which is why we go on in the clear, over another connection.
    InTheClear(&'a str),
}

/// Who looks.
pub(super) type Watch<'w> = &'w (dyn Fn(Passed<'_>) + Sync);

/// Nobody looks.
const UNWATCHED: Watch<'static> = &|_| ();

impl Client {
    /// Connect to a hop and greet it. An `Err` is the answer for every recipient that was to go
    /// there.
    pub async fn connect(&self, hop: &Hop) -> Result<Connection, Response> {
        self.connect_watched(hop, UNWATCHED).await
    }

    /// The same; `passed` is told what it comes by.
    pub(super) async fn connect_watched(
        &self,
        hop: &Hop,
        passed: Watch<'_>,
    ) -> Result<Connection, Response> {
        match self.open(hop, true, passed).await {
            Ok(connection) => Ok(connection),
            Err(Failure::Final(response)) => Err(response),
            Err(Failure::Tls(why)) if hop.tls == TlsPolicy::Opportunistic => {
                tracing::debug!(server = %hop.name, %why, "TLS failed, going on in the clear");
                passed(Passed::InTheClear(&why));
                match self.open(hop, false, passed).await {
                    Ok(connection) => Ok(connection.without_tls(why)),
                    Err(Failure::Final(response)) => Err(response),
                    Err(Failure::Tls(why)) => Err(Response::broken(Stage::StartTls, why)),
                }
            }
            Err(Failure::Tls(why)) => Err(tls_required(Enhanced(4, 7, 5), &why)),
        }
    }

    /// One attempt, in the clear or not; `passed` is told what it comes by.
    pub(super) async fn open(
        &self,
        hop: &Hop,
        tls_allowed: bool,
        passed: Watch<'_>,
    ) -> Result<Connection, Failure> {
        let stream = self.dial(hop.address).await.map_err(broken(Stage::Connect))?;
        passed(Passed::Connected);
        let mut wire = Wire::new(Socket::Plain(stream), &self.limits);
        let banner = self.read(&mut wire, Stage::Banner, passed).await?;
        if !banner.is_positive() {
            return Err(Failure::Final(Response::reply(Stage::Banner, banner)));
        }
        passed(Passed::Banner(&banner));
        let mut capabilities = self.greet(&mut wire, passed).await?;
        passed(Passed::Offers(&capabilities));
        let must = hop.tls != TlsPolicy::Opportunistic;
        if capabilities.starttls && (tls_allowed || must) {
            wire = self.start_tls(wire, hop, passed).await.inspect_err(|_| {
                METRICS.tls_handshakes_total.with_label_values(&["out", "none", "failed"]).inc();
            })?;
            passed(Passed::Secured(&wire));
            // What was said before the handshake is void (RFC 3207 section 4.2).
            capabilities = self.greet(&mut wire, passed).await?;
        } else if must {
            let response = tls_required(Enhanced(4, 7, 4), "the server does not offer STARTTLS");
            return Err(Failure::Final(response));
        }
        Ok(Connection::new(wire, hop, capabilities, self.limits.clone()))
    }

    async fn dial(&self, address: SocketAddr) -> Result<TcpStream, String> {
        let connecting = async {
            let stream = TcpStream::connect(address).await?;
            // A batch of commands and a text are whole writes already.
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        match timeout(Duration::from_millis(self.limits.connect_timeout_ms), connecting).await {
            Ok(result) => result.map_err(|error: std::io::Error| error.to_string()),
            Err(_) => Err("connection timed out".to_owned()),
        }
    }

    /// EHLO, or HELO for a server that does not know it (RFC 5321 section 3.2).
    async fn greet(&self, wire: &mut Wire, passed: Watch<'_>) -> Result<Capabilities, Response> {
        let ehlo = format!("EHLO {}\r\n", self.hostname);
        let hello = self.ask(wire, &ehlo, Stage::Helo, passed).await?;
        if hello.is_positive() {
            return Ok(Capabilities::parse(&hello));
        }
        if !hello.is_permanent() {
            return Err(Response::reply(Stage::Helo, hello));
        }
        let helo = format!("HELO {}\r\n", self.hostname);
        let hello = self.ask(wire, &helo, Stage::Helo, passed).await?;
        if hello.is_positive() {
            return Ok(Capabilities::default());
        }
        Err(Response::reply(Stage::Helo, hello))
    }

    async fn start_tls(
        &self,
        mut wire: Wire,
        hop: &Hop,
        passed: Watch<'_>,
    ) -> Result<Wire, Failure> {
        let reply = self.ask(&mut wire, "STARTTLS\r\n", Stage::StartTls, passed).await;
        match reply {
            Ok(reply) if reply.is_positive() => self.secure(wire, hop).await,
            Ok(reply) => Err(Failure::Tls(format!("STARTTLS was refused: {reply}"))),
            Err(Response { answer: Answer::Broken(why), .. }) => Err(Failure::Tls(why)),
            Err(response) => Err(Failure::Final(response)),
        }
    }

    /// The handshake, once STARTTLS was taken.
    async fn secure(&self, wire: Wire, hop: &Hop) -> Result<Wire, Failure> {
        let socket = wire.into_socket().map_err(|why| Failure::Tls(why.to_owned()))?;
        let Socket::Plain(stream) = socket else {
            return Err(Failure::Tls("TLS within TLS".to_owned()));
        };
        let (connector, name) = self.tls.connector(hop).map_err(Failure::Tls)?;
        let handshake = connector.connect(name, stream);
        match timeout(Duration::from_millis(self.limits.tls_handshake_timeout_ms), handshake).await
        {
            Ok(Ok(stream)) => {
                let is_1_3 = stream.get_ref().1.protocol_version() == Some(TLSv1_3);
                let version = if is_1_3 { "1.3" } else { "1.2" };
                METRICS.tls_handshakes_total.with_label_values(&["out", version, "ok"]).inc();
                Ok(Wire::new(Socket::Tls(Box::new(stream)), &self.limits))
            }
            Ok(Err(error)) => Err(Failure::Tls(format!("TLS handshake failed: {error}"))),
            Err(_) => Err(Failure::Tls("TLS handshake timed out".to_owned())),
        }
    }

    pub(super) async fn ask(
        &self,
        wire: &mut Wire,
        command: &str,
        stage: Stage,
        passed: Watch<'_>,
    ) -> Result<Reply, Response> {
        let within = Duration::from_millis(self.limits.reply_timeout_ms);
        passed(Passed::Said(command.trim_end()));
        wire.write(command.as_bytes(), within).await.map_err(broken(stage))?;
        self.read(wire, stage, passed).await
    }

    async fn read(
        &self,
        wire: &mut Wire,
        stage: Stage,
        passed: Watch<'_>,
    ) -> Result<Reply, Response> {
        let within = Duration::from_millis(self.limits.reply_timeout_ms);
        let reply = wire.read_reply(within).await.map_err(broken(stage))?;
        passed(Passed::Heard(&reply));
        Ok(reply)
    }
}

fn broken<E: std::fmt::Display>(stage: Stage) -> impl Fn(E) -> Response {
    move |error| Response::broken(stage, error.to_string())
}

/// No TLS, no mail, for now. RFC 3463 section 3.8: 4.7.4 is a feature that is not supported, 4.7.5
/// a cryptographic failure.
fn tls_required(enhanced: Enhanced, why: &str) -> Response {
    let text = format!("TLS is required for this domain: {why}");
    Response::unfit(Stage::StartTls, enhanced, text)
}
