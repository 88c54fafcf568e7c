//! A call to a node over its admin socket.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::call::{
    ACTOR_HEADER, BODY_OCTETS_MAX, CALL_PATH, Call, EXPECTED_VERSION_HEADER, REQUEST_ID_HEADER,
    Refused, Terms,
};

/// Where the node of a host is that was installed from a package.
const USUAL_SOCKET: &str = "/var/lib/mxfleet/admin.sock";

/// A node's admin socket.
#[derive(Debug, Clone)]
pub struct Admin {
    socket: PathBuf,
    terms: Terms,
}

/// Why a node could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// It said no.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It does not answer.
    #[error("no node answers at {socket}")]
    Unreachable {
        /// Where it was looked for.
        socket: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The connection broke, or what came is not an answer.
    #[error("the node's answer could not be read: {0}")]
    Broken(String),
}

impl Admin {
    /// The node at this socket; else the one that runs on this host as a package installs it.
    pub fn at(socket: Option<PathBuf>) -> anyhow::Result<Self> {
        match socket {
            Some(socket) => Ok(Self { socket, terms: Terms::default() }),
            None if Path::new(USUAL_SOCKET).exists() => Self::at(Some(USUAL_SOCKET.into())),
            None => bail!(
                "which node? Give --admin PATH or set MXFLEET_ADMIN to its admin socket \
                 (`mxfleet dev` prints them)"
            ),
        }
    }

    /// The same node, asked on these terms.
    #[must_use]
    pub fn on(self, terms: Terms) -> Self {
        Self { terms, ..self }
    }

    /// The same node, for the second change of a command that makes two: it has an id of its own,
    /// and what was expected has been found by the first.
    #[must_use]
    pub fn again(&self) -> Self {
        let request_id = self.terms.request_id.map(|id| id.wrapping_add(1));
        let terms = Terms { request_id, expected_version: None, actor: self.terms.actor.clone() };
        Self { socket: self.socket.clone(), terms }
    }

    /// The id a change is to have, if one was chosen.
    pub fn request_id(&self) -> Option<u128> {
        self.terms.request_id
    }

    /// Ask, and wait for the answer.
    pub fn call<T: DeserializeOwned>(&self, call: &Call) -> anyhow::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(self.ask(call))?)
    }

    /// Ask, from inside a runtime.
    pub async fn ask<T: DeserializeOwned>(&self, call: &Call) -> Result<T, AdminError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| AdminError::Unreachable { socket: self.socket.clone(), source })?;
        let body = serde_json::to_vec(call).map_err(|e| broken(&e))?;
        let (status, bytes) =
            post(stream, body, &self.terms).await.map_err(|e| broken(&format!("{e:#}")))?;
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|e| broken(&e));
        }
        match serde_json::from_slice::<Refused>(&bytes) {
            Ok(refused) => Err(refused.into()),
            Err(_) => Err(broken(&format!("{status}: {}", String::from_utf8_lossy(&bytes)))),
        }
    }
}

async fn post(
    stream: UnixStream,
    body: Vec<u8>,
    terms: &Terms,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .context("the node does not speak HTTP")?;
    // The connection must be driven for the request to move; it ends with the response, and a
    // fault of its own is also the request's.
    let driver = tokio::spawn(connection);
    let mut request = Request::post(CALL_PATH)
        .header("host", "mxfleet")
        .header("content-type", "application/json");
    if !terms.actor.is_empty() {
        request = request.header(ACTOR_HEADER, &terms.actor);
    }
    if let Some(id) = terms.request_id {
        request = request.header(REQUEST_ID_HEADER, format!("{id:032x}"));
    }
    if let Some(version) = terms.expected_version {
        request = request.header(EXPECTED_VERSION_HEADER, version);
    }
    let request = request.body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), BODY_OCTETS_MAX).collect().await;
    driver.abort();
    match body {
        Ok(body) => Ok((status, body.to_bytes())),
        Err(error) => bail!("{error}"),
    }
}

fn broken(error: &impl ToString) -> AdminError {
    AdminError::Broken(error.to_string())
}
