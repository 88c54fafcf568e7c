//! The admin API: one call, one answer, on a Unix socket that only the node's user can open.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use axum::extract::{ConnectInfo, DefaultBodyLimit, State};
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use mxfleet_cluster::Cluster;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::actor::Caller;
use super::call::{
    ACTOR_HEADER, BODY_OCTETS_MAX, CALL_PATH, Call, EXPECTED_VERSION_HEADER, Explanation,
    REQUEST_ID_HEADER, Refused, RefusedKind, Terms,
};
use super::rotation::RotationAdmin;
use super::tables::Tables;
use super::until_stopped;
use super::{account, blacklist, members, probe, queue};
use crate::account::Account;
use crate::blacklist::Reports;
use crate::policy::{Decision, Policy};
use crate::probe::Probes;
use crate::smtp::canned::{self, Canned};
use crate::smtp::{Address, AddressError, command};
use crate::system::clock::wall_ms;
use crate::telemetry::journal::Journal;
use crate::worker::Deliveries;

/// When to ask again for what nothing could be agreed on: an election takes no longer.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("5");
/// What is added to a reply that depends on the customer's server.
const UNLESS_UNKNOWN: &str = ", unless the customer's server does not know the recipient";

/// What the admin API can reach.
pub struct Admin {
    /// This node's name.
    pub node: String,
    /// Customers' own views.
    pub account: Account,
    /// Customers, domains, settings.
    pub tables: Tables,
    /// Names, hosts, migrations, notices.
    pub rotation: RotationAdmin,
    /// What stage 3 would answer.
    pub policy: Arc<Policy>,
    /// The queue.
    pub deliveries: Deliveries,
    /// The fleet.
    pub cluster: Cluster,
    /// What this node has to tell the fleet.
    pub reports: Reports,
    /// What became of mail that was not delivered.
    pub journal: Journal,
    /// Looks at customers' servers.
    pub probes: Probes,
}

/// Bind the socket; a stale one of a dead process is replaced.
pub fn bind(socket: &Path) -> std::io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        return Err(std::io::Error::new(
            std::io::ErrorKind::AddrInUse,
            "another node answers at this socket",
        ));
    }
    match std::fs::symlink_metadata(socket) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(socket)?,
        Ok(_) => return Err(std::io::Error::other("there is a file that is not a socket")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
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
    let server = axum::serve(listener, router.into_make_service_with_connect_info::<Caller>());
    until_stopped(server.with_graceful_shutdown(stop.clone().cancelled_owned()), stop).await
}

async fn answer(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    headers: HeaderMap,
    Json(call): Json<Call>,
) -> Response {
    let answer = match terms(&headers) {
        Ok(terms) => {
            let actor = caller.at(&admin.node, &terms.actor);
            admin.answer(call, Terms { actor, ..terms }).await
        }
        Err(refused) => Err(refused),
    };
    match answer {
        Ok(value) => Json(value).into_response(),
        Err(refused) => {
            let status = match refused.kind {
                RefusedKind::NotFound => StatusCode::NOT_FOUND,
                RefusedKind::Conflict => StatusCode::CONFLICT,
                RefusedKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
                RefusedKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            };
            let mut response = (status, Json(refused)).into_response();
            if status == StatusCode::SERVICE_UNAVAILABLE {
                response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
            }
            response
        }
    }
}

fn terms(headers: &HeaderMap) -> Result<Terms, Refused> {
    let read = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let request_id = read(REQUEST_ID_HEADER).map(|text| u128::from_str_radix(text, 16));
    let expected_version = read(EXPECTED_VERSION_HEADER).map(str::parse);
    Ok(Terms {
        actor: read(ACTOR_HEADER).unwrap_or_default().to_owned(),
        request_id: request_id
            .transpose()
            .map_err(|_| Refused::invalid("a request id is a hexadecimal number"))?,
        expected_version: expected_version
            .transpose()
            .map_err(|_| Refused::invalid("a version is a whole number"))?,
    })
}

impl Admin {
    async fn answer(&self, call: Call, terms: Terms) -> Result<serde_json::Value, Refused> {
        if let Call::ExplainRcpt { address, from } = &call {
            return self.explain(address, from.as_deref());
        }
        if let Call::JournalSearch { from, to, limit } = call {
            return self.search(from, to, limit).await;
        }
        if let Call::Probe { tool, domain } = &call {
            return probe::look(&self.probes, &self.cluster, *tool, domain).await;
        }
        if let Call::CustomerLink { id } = &call {
            return account::link(&self.account, &self.cluster, id, &terms).await;
        }
        if let Some(answer) = queue::answer(&self.deliveries, &call, &terms.actor).await {
            return answer;
        }
        if let Some(answer) = members::answer(&self.cluster, &call, &terms.actor).await {
            return answer;
        }
        let (cluster, reports) = (&self.cluster, &self.reports);
        if let Some(answer) = blacklist::answer(cluster, reports, &call, &terms).await {
            return answer;
        }
        if let Some(answer) = self.rotation.answer(&call, &terms).await {
            return answer;
        }
        match self.tables.answer(&call, &terms).await {
            Some(answer) => answer,
            None => Err(Refused::invalid("this node does not know that call")),
        }
    }

    async fn search(
        &self,
        from: Option<String>,
        to: Option<String>,
        limit: usize,
    ) -> Result<serde_json::Value, Refused> {
        let journal = self.journal.clone();
        let search = move || journal.search(from.as_deref(), to.as_deref(), limit);
        match tokio::task::spawn_blocking(search).await {
            Ok(Ok(lines)) => Ok(serde_json::json!(lines)),
            Ok(Err(error)) => Err(Refused::unavailable(error.to_string())),
            Err(error) => Err(Refused::unavailable(error.to_string())),
        }
    }

    /// What a client would be answered, without counting it. The form of the addresses comes
    /// first, as in the dialog; then stage 3 decides.
    fn explain(&self, address: &str, from: Option<&str>) -> Result<serde_json::Value, Refused> {
        let from = from.filter(|text| *text != "<>").unwrap_or_default();
        let sender = explainable(from, command::sender(from, true))?;
        let recipient = explainable(address, command::recipient(address, true))?;
        let decision = match (sender, recipient) {
            (Err(reply), _) => Err(("sender_address", reply.to_string())),
            (Ok(_), Err(reply)) => Err(("recipient_address", reply.to_string())),
            (Ok(sender), Ok(given)) => match self.policy.target(given) {
                Err(reply) => Err(("postmaster", reply.to_string())),
                Ok(target) => match self.policy.explain(&sender, &target, wall_ms()) {
                    Decision::Accept => Ok(("all", canned::RCPT_OK.to_string())),
                    // Whom it goes to is a setting: `service.operators`.
                    Decision::Operators => Ok(("role_address", canned::RCPT_OK.to_string())),
                    Decision::Ask => {
                        Ok(("callout", format!("{}{UNLESS_UNKNOWN}", canned::RCPT_OK)))
                    }
                    Decision::Refuse { reply, check } => Err((check, reply.to_string())),
                },
            },
        };
        let accepted = decision.is_ok();
        let (check, reply) = decision.unwrap_or_else(|refused| refused);
        Ok(serde_json::json!(Explanation { accepted, check: check.to_owned(), reply }))
    }
}

/// A text that is no address at all is the asker's mistake; one of a form that we do not take has
/// an answer to explain.
fn explainable<T>(text: &str, parsed: Result<T, Canned>) -> Result<Result<T, Canned>, Refused> {
    match (&parsed, Address::parse(text, true)) {
        (Err(canned::BAD_SENDER | canned::BAD_RECIPIENT), Err(why))
            if why != AddressError::Literal =>
        {
            Err(Refused::invalid(format!("{}: {why}", text.escape_debug())))
        }
        _ => Ok(parsed),
    }
}
