//! The public listener: health. It has no admin call.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::listener;
use crate::config::Limits;
use crate::connection::Service;
use crate::spool::Spool;

/// What the health pages report.
#[derive(Clone)]
pub struct Health {
    /// The local disk.
    pub spool: Spool,
    /// Set once the node stops taking mail.
    pub draining: CancellationToken,
    /// Whether the fleet wants this host to take mail.
    pub service: Service,
}

#[derive(Debug, Serialize)]
struct Ready {
    ready: bool,
    why: &'static str,
}

/// Serve the public pages until told to stop.
pub async fn serve_public(
    listener: TcpListener,
    health: Health,
    limits: &Limits,
    stop: CancellationToken,
) {
    let router = Router::new()
        .route("/healthz", get(|| async { "the process runs\n" }))
        .route("/readyz", get(ready))
        .with_state(health);
    listener::serve(listener, router, limits, stop).await;
}

impl Health {
    /// Would this node accept mail now?
    pub fn is_ready(&self) -> bool {
        self.judge().0
    }

    fn judge(&self) -> (bool, &'static str) {
        if self.draining.is_cancelled() {
            (false, "the node is stopping and takes no new mail")
        } else if !self.service.is_serving() {
            (false, "this host is drained or retired and takes no new mail")
        } else if !self.spool.is_writable() {
            (false, "the spool's disk is full or failing; mail is answered 452")
        } else {
            (true, "the node accepts mail")
        }
    }
}

async fn ready(State(health): State<Health>) -> Response {
    let (ready, why) = health.judge();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    // Whoever asks by hand gets a line of its own.
    let line = format!("{}\n", serde_json::json!(Ready { ready, why }));
    (status, [(header::CONTENT_TYPE, "application/json")], line).into_response()
}
