//! The public listener (health) and the metrics listener. Neither has an admin call.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::until_stopped;
use crate::connection::Service;
use crate::spool::Spool;
use crate::telemetry::metrics::METRICS;

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
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "the process runs\n" }))
        .route("/readyz", get(ready))
        .with_state(health);
    let server = axum::serve(listener, router);
    until_stopped(server.with_graceful_shutdown(stop.clone().cancelled_owned()), stop).await
}

/// Serve `/metrics` until told to stop.
pub async fn serve_metrics(listener: TcpListener, stop: CancellationToken) -> std::io::Result<()> {
    let router = Router::new().route("/metrics", get(metrics));
    let server = axum::serve(listener, router);
    until_stopped(server.with_graceful_shutdown(stop.clone().cancelled_owned()), stop).await
}

/// Would this node accept mail now?
async fn ready(State(health): State<Health>) -> Response {
    let (ready, why) = if health.draining.is_cancelled() {
        (false, "the node is stopping and takes no new mail")
    } else if !health.service.is_serving() {
        (false, "this host is drained or retired and takes no new mail")
    } else if !health.spool.is_writable() {
        (false, "the spool's disk is full or failing; mail is answered 452")
    } else {
        (true, "the node accepts mail")
    };
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Ready { ready, why })).into_response()
}

async fn metrics() -> Response {
    match METRICS.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
