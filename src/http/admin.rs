//! The admin API: one call, one answer, on a Unix socket that only the node's user can open.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use mxfleet_cluster::Cluster;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::call::{
    BODY_OCTETS_MAX, CALL_PATH, Call, Changed, Explanation, Refused, RefusedKind, Which,
};
use super::tables::Tables;
use crate::policy::{Decision, Policy};
use crate::smtp::Address;
use crate::worker::{Deliveries, Selection};

/// What the admin API can reach.
pub struct Admin {
    /// Customers, domains, settings.
    pub tables: Tables,
    /// What stage 3 would answer.
    pub policy: Arc<Policy>,
    /// The queue.
    pub deliveries: Arc<Deliveries>,
    /// Kept for calls that read the state directly.
    pub cluster: Cluster,
}

/// Bind the socket; a stale one of a dead process is replaced.
pub fn bind(socket: &Path) -> std::io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        return Err(std::io::Error::new(
            std::io::ErrorKind::AddrInUse,
            "another node answers at this socket",
        ));
    }
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serve until told to stop.
pub async fn serve(
    listener: UnixListener,
    admin: Arc<Admin>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route(CALL_PATH, post(answer))
        .layer(DefaultBodyLimit::max(BODY_OCTETS_MAX))
        .with_state(admin);
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn answer(State(admin): State<Arc<Admin>>, Json(call): Json<Call>) -> Response {
    match admin.answer(call).await {
        Ok(value) => Json(value).into_response(),
        Err(refused) => {
            let status = match refused.kind {
                RefusedKind::NotFound => StatusCode::NOT_FOUND,
                RefusedKind::Conflict => StatusCode::CONFLICT,
                RefusedKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
                RefusedKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            };
            (status, Json(refused)).into_response()
        }
    }
}
