//! Every metric, declared once.
//!
//! **Invariant:** no label ever holds a domain, an address, an IP or an id; the number of series
//! is bounded by what is written here. `peer` is the name of a host of the fleet.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use prometheus::{
    Counter, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry,
};

/// The metrics of this process.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// A field's type by the word that declares it.
macro_rules! kind {
    (counter) => {
        IntCounter
    };
    (counters) => {
        IntCounterVec
    };
    (seconds_counter) => {
        Counter
    };
    (gauge) => {
        IntGauge
    };
    (gauges) => {
        IntGaugeVec
    };
    (seconds) => {
        Gauge
    };
    (seconds_by) => {
        GaugeVec
    };
    (histogram) => {
        Histogram
    };
    (histograms) => {
        HistogramVec
    };
}

/// One line a metric: its name without `mxfleet_`, kind, labels or buckets, and help.
macro_rules! declare {
    ($($name:ident: $kind:ident($($more:expr),*), $help:literal;)*) => {
        /// All metrics of a node; field names are the metric names without `mxfleet_`.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            started: Instant,
            $(#[doc = $help] pub $name: kind!($kind),)*
        }

        /// The name of every metric; histograms add `_bucket`, `_sum` and `_count`.
        pub const NAMES: &[&str] = &[$(concat!("mxfleet_", stringify!($name))),*];

        impl Metrics {
            fn new() -> Self {
                let registry = Registry::new();
                let metrics = Self {
                    $($name: $kind(&registry, stringify!($name), $help $(, $more)*),)*
                    started: Instant::now(),
                    registry,
                };
                let build = &[env!("CARGO_PKG_VERSION"), REVISION];
                metrics.build_info.with_label_values(build).set(1);
                metrics.config_reload_success.set(1);
                metrics
            }
        }
    };
}

/// The revision this was built from, if the build says it.
const REVISION: &str = match option_env!("MXFLEET_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

declare! {
    // Mail that comes in.
    smtp_connections_total: counters(&["result"]),
        "SMTP connections by what became of them: accepted, busy, network_busy, early_talker";
    smtp_sessions: gauge(), "SMTP sessions now";
    smtp_replies_total: counters(&["code"]), "SMTP replies sent, by code";
    smtp_transaction_duration_seconds: histogram(TRANSACTION_SECONDS),
        "From MAIL to the reply to the end of data";
    tls_handshakes_total: counters(&["direction", "version", "result"]),
        "TLS handshakes by direction (in, out), version and result";
    message_size_bytes: histogram(SIZE_BYTES), "Octets of accepted messages";
    policy_decisions_total: counters(&["check", "decision"]),
        "Recipients by the check that decided";
    domains_refusals_abnormal: gauge(),
        "Domains whose mail this node suddenly refuses; its log names them";
    ready: gauge(), "1 while this node would accept mail, as /readyz says";

    // The spool.
    spool_messages: gauges(&["state"]), "Entries in the spool: queued, held, quarantined";
    spool_recipients: gauge(), "Recipients that are still to be delivered";
    spool_oldest_message_age_seconds: gauge(), "Age of the oldest message in the spool";
    spool_bytes: gauge(), "Octets of segment files";
    spool_free_bytes: gauge(), "Free octets on the spool's disk";
    spool_reserve_bytes: gauge(), "Free octets below which no mail is accepted";
    spool_free_inodes: gauge(), "Free inodes on the spool's disk";
    spool_inodes: gauge(), "Inodes of the spool's disk; 0 where they are made as needed";
    spool_writable: gauge(), "1 while the spool takes mail, 0 while its disk is full or failing";
    spool_fsync_duration_seconds: histogram(SYNC_SECONDS), "One sync of a segment";
    spool_fsync_errors_total: counter(), "Failed syncs of the spool";
    spool_quarantined_total: counter(), "Records set aside because their checksum is wrong";
    spool_torn_tails_total: counter(), "Unfinished records cut at start";

    // Mail that goes out.
    delivery_attempts_total: counters(&["outcome", "reason", "provider"]),
        "Delivery attempts, a recipient each, by outcome (delivered, deferred, failed), reason \
         and whose servers were asked";
    delivery_delay_seconds: histograms(DELAY_SECONDS, &["stage"]),
        "Delay of delivered recipients: queue, connect, transmit, and total since acceptance";
    delivery_connections: gauge(), "Connections to customers' servers now";
    destinations: gauge(), "Destinations that have mail in the queue or a connection";
    destinations_throttled: gauge(), "Destinations that failed lately and get one connection";
    destinations_dead: gauge(), "Destinations that do not answer";
    destinations_stalled: gauge(),
        "Destinations whose server answers and whose mail does not move; see queue summary";
    delivery_log_dropped_total: counter(), "Lines of the delivery log that were lost";
    bounces_total: counters(&["kind", "outcome", "because"]),
        "Recipients about whom there was something to tell, by kind (failed, delayed, relayed), \
         outcome (sent, suppressed), and why nobody was told";
    returns_total: counters(&["result"]),
        "Reports that came to return paths of ours, by what became of them";
    authentications_total: counters(&["method", "result"]),
        "Messages looked at, by method (spf, dkim) and result (RFC 8601 section 2.7)";
    role_mail_total: counters(&["role"]),
        "Mail taken for those who run the service, by role (RFC 2142, and support, trouble)";
    role_messages_total: counters(&["kind", "result"]),
        "What was written because of that mail, an attempt and recipient each, by kind (copy for \
         the operators, page for the webhook, acknowledgement) and result (delivered, deferred, \
         failed)";
    journal_dropped_total: counter(), "Lines of the journal that were lost";
    journal_files_removed_total: counter(),
        "Files of the journal that were removed before their time, because it is full";
    dns_lookup_duration_seconds: histograms(LOOKUP_SECONDS, &["type", "result"]),
        "Questions to name servers by type and result (found, none, failed)";

    // The blacklist.
    callouts_total: counters(&["result"]),
        "Recipients that a customer's server was to be asked about, by what came of it: known, \
         unknown, vague, remembered; without an answer slow, down, busy; and probe, a name that \
         nobody has";
    blacklist_events_total: counters(&["kind"]),
        "What customers' servers said of recipients: rejected, accepted";
    blacklist_events_waiting: gauge(), "Events that wait for the fleet to count them";
    blacklist_events_dropped_total: counter(),
        "Events that were lost: too many waited, or their disk failed";
    blacklist_replays_total: counter(), "Refusals that came again after a crash; they count once";
    blacklist_hits_total: counter(), "Recipients refused because they are listed";
    blacklist_entries: gauges(&["kind"]),
        "Recipients that the fleet knows: tracked (with rejections), trusted (that mail was taken \
         for), exempt; the same on every node";
    blacklist_frozen_domains: gauge(),
        "Domains in which nothing new is listed; the same on every node";
    blacklist_freezes_total: counter(),
        "Domains frozen because recipients were refused that mail had been taken for; every node \
         counts all of the fleet";
    blacklist_withheld_total: counter(),
        "Rejections that would have listed a recipient, had mail not been taken for it lately; \
         every node counts all of the fleet";
    recipient_news_dropped_total: counter(),
        "What was learnt of recipients and not told, because too much waited";

    // The fleet.
    raft_has_leader: gauge(), "1 while this node knows a leader that a quorum hears";
    raft_is_leader: gauge(), "1 while this node leads";
    raft_term: gauge(), "The term of the consensus; it grows with every election";
    raft_leader_changes_total: counter(), "Changes of the leader that this node has seen";
    raft_last_log_index: gauge(), "The newest entry of this node's log";
    raft_applied_index: gauge(), "The newest entry that this node's state shows";
    raft_members: gauges(&["role"]), "Members of the fleet: voter, learner";
    raft_peer_lag_entries: gauges(&["peer"]),
        "Entries that another host is behind; the leader tells it";
    raft_peer_round_trip_seconds: seconds_by(&["peer"]), "There and back to another host";
    raft_proposals_total: counters(&["result"]),
        "Changes proposed here: done, refused, no_quorum, unknown";
    raft_proposal_duration_seconds: histogram(PROPOSAL_SECONDS),
        "From a change to its outcome, of those that were done";
    raft_log_sync_duration_seconds: histogram(SYNC_SECONDS),
        "From an append to the log until it is durable";
    raft_log_bytes: gauge(), "Octets of the log on disk";
    raft_snapshot_duration_seconds: histogram(SNAPSHOT_SECONDS), "One snapshot of the state";
    cluster_peers_refused_total: counters(&["reason"]), "Peers refused on the cluster port";
    cluster_state_age_seconds: seconds(),
        "How long ago a quorum was last known to agree with what this node shows";

    // MX names and hosts.
    handed_over_total: counters(&["direction"]), "Messages handed over from host to host";
    dns_stale: gauge(), "1 while this node leads and DNS is not as it shall be";
    dns_updates_total: counter(), "Updates of DNS that were made";
    dns_drift_total: counter(), "Updates of DNS that put right what somebody else had changed";
    drains_late: gauge(), "Hosts that are still being emptied after their deadline";
    names_uncertified: gauge(),
        "MX names without the certificate that the ACME server is to give, or that it refused last";
    names_orphaned: gauge(), "MX names that lead to a host that is not in the fleet";
    certificates_stuck: gauge(),
        "Certificates with another key that wait for DNS to say it, or for somebody's hand";
    names_overdue: gauge(),
        "MX names that customers use although the end that `name retire` gave them has come";
    migration_overdue_customers: gauge(),
        "Customers that still use MX names whose end was announced for a time that has passed";

    // The node.
    build_info: gauges(&["version", "revision"]), "The program that runs; always 1";
    time_seconds: seconds(), "This host's clock: seconds since 1970, UTC";
    config_reload_success: gauge(), "1 if the configuration in force is the file's, 0 if the last \
         reload was refused";
    config_reload_timestamp_seconds: gauge(), "When the configuration was last read with success";
    certificate_expiry_timestamp_seconds: gauges(&["kind"]),
        "When the first certificate of a kind ends: smtp, cluster";
    runtime_workers: gauge(), "Threads that run tasks";
    runtime_tasks: gauge(), "Tasks now";
    runtime_queued_tasks: gauge(), "Tasks that wait for a thread in the shared queue";
    runtime_busy_seconds_total: seconds_counter(), "Time that threads have run tasks, together";
}

/// 0.1 ms to 4 s.
const SYNC_SECONDS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 4.0];
/// 1 ms to 5 s, where a proposal is given up.
const PROPOSAL_SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0];
/// 5 ms to 2 minutes.
const SNAPSHOT_SECONDS: &[f64] = &[0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 120.0];
/// 0.1 ms (from the cache) to 10 s.
const LOOKUP_SECONDS: &[f64] =
    &[0.0001, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// 0.5 ms to 300 s.
const TRANSACTION_SECONDS: &[f64] =
    &[0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0];
/// 5 ms to 5 days.
const DELAY_SECONDS: &[f64] = &[
    0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0,
    86_400.0, 259_200.0, 432_000.0,
];
/// 1 KiB to 64 MiB.
const SIZE_BYTES: &[f64] = &[
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

impl Metrics {
    /// How long this process runs, or rather since something was first counted.
    pub fn process_age(&self) -> Duration {
        self.started.elapsed()
    }

    /// The text a Prometheus server reads.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        let mut families = self.registry.gather();
        families.extend(prometheus::gather());
        prometheus::TextEncoder::new().encode_to_string(&families)
    }
}

/// Register under our prefix. A name twice is a mistake in this file, which every start and every
/// test of the list would show.
#[expect(clippy::expect_used, reason = "the list above is constant and has no name twice")]
fn register<C: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    made: prometheus::Result<C>,
) -> C {
    let metric = made.expect("a constant metric is well-formed");
    registry.register(Box::new(metric.clone())).expect("each metric is declared once");
    metric
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("mxfleet")
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::with_opts(opts(name, help)))
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(registry, IntCounterVec::new(opts(name, help), labels))
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    register(registry, IntGauge::with_opts(opts(name, help)))
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(registry, IntGaugeVec::new(opts(name, help), labels))
}

fn seconds_counter(registry: &Registry, name: &str, help: &str) -> Counter {
    register(registry, Counter::with_opts(opts(name, help)))
}

fn seconds(registry: &Registry, name: &str, help: &str) -> Gauge {
    register(registry, Gauge::with_opts(opts(name, help)))
}

fn seconds_by(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
    register(registry, GaugeVec::new(opts(name, help), labels))
}

fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: &[f64],
    labels: &[&str],
) -> HistogramVec {
    let opts = HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec());
    register(registry, HistogramVec::new(opts, labels))
}

fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let opts = HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec());
    register(registry, Histogram::with_opts(opts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_our_prefix() {
        let text = METRICS.render().unwrap();
        assert!(text.contains("mxfleet_build_info{revision="));
        assert!(text.contains("mxfleet_smtp_sessions 0"));
        for family in METRICS.registry.gather() {
            assert!(NAMES.contains(&family.name()), "{}", family.name());
        }
    }
}
