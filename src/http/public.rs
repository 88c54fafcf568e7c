//! The public listener: the site, and health. It has no admin call.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use ipnet::IpNet;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::listener;
use super::site::{self, Site};
use super::visitor::Visitor;
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

/// Serve the public pages until told to stop; `proxies` tell for whom they ask.
pub async fn serve_public(
    listener: TcpListener,
    proxies: Vec<IpNet>,
    site: Site,
    health: Health,
    limits: &Limits,
    stop: CancellationToken,
) {
    let router = Router::new()
        .route("/healthz", get(|| async { "the process runs\n" }))
        .route("/readyz", get(ready))
        .with_state(health)
        .merge(site.router());
    let router = site::guarded(router).layer(from_fn_with_state(Arc::new(proxies), look_behind));
    listener::serve(listener, router, limits, stop).await;
}

async fn look_behind(
    State(proxies): State<Arc<Vec<IpNet>>>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Some(peer) = request.extensions().get::<Visitor>().copied() {
        let visitor = peer.behind(&proxies, request.headers());
        request.extensions_mut().insert(visitor);
    }
    next.run(request).await
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
