//! The metrics listener. What is not counted as it happens is looked at when it is asked for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use mxfleet_cluster::{Cluster, Gauges, Host, HostState};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::listener;
use super::public::Health;
use crate::config::Limits;
use crate::connection::TlsIdentity;
use crate::policy::Policy;
use crate::system::clock::wall_ms;
use crate::telemetry::{self, metrics::METRICS};
use crate::worker::Deliveries;

/// What the metrics look at.
pub struct Sources {
    /// Whether mail is accepted.
    pub health: Health,
    /// The fleet.
    pub cluster: Cluster,
    /// The queue.
    pub deliveries: Deliveries,
    /// What is refused.
    pub policy: Arc<Policy>,
    /// Certificates.
    pub tls: Arc<TlsIdentity>,
}

struct Scrapes {
    sources: Sources,
    /// One at a time: a look must not be mixed with another's.
    one: Mutex<()>,
}

/// Serve `/metrics` until told to stop.
pub async fn serve(
    listener: TcpListener,
    sources: Sources,
    limits: &Limits,
    stop: CancellationToken,
) {
    telemetry::cluster::begin();
    let scrapes = Arc::new(Scrapes { sources, one: Mutex::default() });
    let router = Router::new().route("/metrics", get(answer)).with_state(scrapes);
    listener::serve(listener, router, limits, stop).await;
}

async fn answer(State(scrapes): State<Arc<Scrapes>>) -> Response {
    let rendered = {
        let _one = scrapes.one.lock().unwrap_or_else(PoisonError::into_inner);
        scrapes.sources.look();
        METRICS.render()
    };
    match rendered {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

impl Sources {
    /// Set every gauge that is not kept by what it is about.
    fn look(&self) {
        METRICS.ready.set(self.health.is_ready().into());
        METRICS.time_seconds.set(seconds(wall_ms()));
        self.look_at_queue();
        self.look_at_refusals();
        for (reason, count) in self.cluster.peers_refused() {
            let counter = METRICS.cluster_peers_refused_total.with_label_values(&[reason]);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        if let Ok(gauges) = self.cluster.gauges() {
            look_at_fleet(&gauges);
        }
        if let Some(ends) = self.tls.first_end() {
            METRICS.certificate_expiry_timestamp_seconds.with_label_values(&["smtp"]).set(ends);
        }
        let state = self.cluster.view();
        look_at_rotation(&state, wall_ms());
        look_at_runtime();
    }

    fn look_at_queue(&self) {
        let gauges = self.deliveries.gauges();
        METRICS.spool_recipients.set(whole(gauges.recipients));
        METRICS.spool_oldest_message_age_seconds.set(whole(gauges.oldest_seconds));
        let destinations = gauges.destinations;
        METRICS.destinations.set(whole(destinations.all as u64));
        METRICS.destinations_throttled.set(whole(destinations.throttled as u64));
        METRICS.destinations_stalled.set(whole(destinations.stalled as u64));
    }

    fn look_at_refusals(&self) {
        let watch = self.policy.watch();
        for change in watch.compare(Instant::now()) {
            let (domain, accepted, refused) = (&change.domain, change.accepted, change.refused);
            if change.is_abnormal {
                tracing::warn!(domain, accepted, refused, "mail that was taken is refused now");
            } else {
                tracing::info!(domain, accepted, refused, "refusals are normal again");
            }
        }
        METRICS.domains_refusals_abnormal.set(whole(watch.abnormal() as u64));
    }
}

fn look_at_rotation(state: &mxfleet_cluster::State, now_ms: u64) {
    METRICS.names_uncertified.set(whole(state.uncertified_names(now_ms).count() as u64));
    METRICS.certificates_stuck.set(whole(state.stuck_certificates(now_ms).count() as u64));
    METRICS.names_orphaned.set(whole(state.orphaned_names(now_ms).count() as u64));
    METRICS.names_overdue.set(whole(state.names_overdue(now_ms).count() as u64));
    METRICS.migration_overdue_customers.set(whole(state.migration_overdue(now_ms) as u64));
    METRICS.drains_late.set(whole(drains_late(state, now_ms)));
}

fn drains_late(state: &mxfleet_cluster::State, now_ms: u64) -> u64 {
    let is_late = |host: &&Host| match &host.state {
        HostState::Draining(drain) => drain.is_late(now_ms),
        HostState::InService | HostState::Retired { .. } => false,
    };
    state.hosts().filter(is_late).count() as u64
}

fn look_at_fleet(gauges: &Gauges) {
    METRICS.raft_has_leader.set(gauges.has_leader.into());
    METRICS.raft_is_leader.set(gauges.is_leader.into());
    METRICS.raft_term.set(whole(gauges.term));
    METRICS.raft_last_log_index.set(whole(gauges.last_log_index));
    METRICS.raft_applied_index.set(whole(gauges.applied_index));
    METRICS.raft_log_bytes.set(whole(gauges.log_octets));
    for (role, count) in [("voter", gauges.voters), ("learner", gauges.learners)] {
        METRICS.raft_members.with_label_values(&[role]).set(whole(count as u64));
    }
    // Before a quorum ever agreed, the whole life of the process counts.
    let process = METRICS.process_age();
    METRICS.cluster_state_age_seconds.set(gauges.agreed_ago.unwrap_or(process).as_secs_f64());
    if let Some(ends_ms) = gauges.certificate_ends_ms {
        let ends = METRICS.certificate_expiry_timestamp_seconds.with_label_values(&["cluster"]);
        ends.set(whole(ends_ms / 1000));
    }
    // A host that has left is not told of any more.
    METRICS.raft_peer_lag_entries.reset();
    METRICS.raft_peer_round_trip_seconds.reset();
    for peer in &gauges.peers {
        let name = &[peer.name.as_str()];
        if let Some(lag) = peer.lag_entries {
            METRICS.raft_peer_lag_entries.with_label_values(name).set(whole(lag));
        }
        if let Some(round_trip) = peer.round_trip {
            let gauge = METRICS.raft_peer_round_trip_seconds.with_label_values(name);
            gauge.set(round_trip.as_secs_f64());
        }
    }
}

fn look_at_runtime() {
    let runtime = Handle::current().metrics();
    let workers = runtime.num_workers();
    METRICS.runtime_workers.set(whole(workers as u64));
    METRICS.runtime_tasks.set(whole(runtime.num_alive_tasks() as u64));
    METRICS.runtime_queued_tasks.set(whole(runtime.global_queue_depth() as u64));
    let busy: f64 =
        (0..workers).map(|worker| runtime.worker_total_busy_duration(worker).as_secs_f64()).sum();
    let more = busy - METRICS.runtime_busy_seconds_total.get();
    METRICS.runtime_busy_seconds_total.inc_by(more.max(0.0));
}

fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus knows no other number")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}
