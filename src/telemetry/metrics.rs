//! Every metric, declared once.
//!
//! **Invariant:** no label ever holds a domain, an address, an IP or an id; the number of series
//! is bounded by what is written here.

use std::sync::LazyLock;

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// The metrics of this process.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// All metrics of a node; field names are the metric names without `mxfleet_`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Connections by result: `accepted`, `busy`, `network_busy`, `early_talker`.
    pub smtp_connections_total: IntCounterVec,
    /// Sessions now.
    pub smtp_sessions: IntGauge,
    /// Replies we sent, by code.
    pub smtp_replies_total: IntCounterVec,
    /// From MAIL to the reply to the final dot.
    pub smtp_transaction_duration_seconds: Histogram,
    /// TLS handshakes by direction and result.
    pub tls_handshakes_total: IntCounterVec,
    /// Octets of accepted messages.
    pub message_size_bytes: Histogram,
    /// What stage 3 decided, by check and decision.
    pub policy_decisions_total: IntCounterVec,
    /// Entries in the spool by state: `queued`, `held`, `quarantined`.
    pub spool_messages: IntGaugeVec,
    /// Octets of segment files.
    pub spool_bytes: IntGauge,
    /// Free octets on the spool's disk.
    pub spool_free_bytes: IntGauge,
    /// 1 while the spool takes mail, 0 while its disk is full or failing.
    pub spool_writable: IntGauge,
    /// One sync of a segment.
    pub spool_fsync_duration_seconds: Histogram,
    /// Syncs that failed.
    pub spool_fsync_errors_total: IntCounter,
    /// Records set aside because their checksum is wrong.
    pub spool_quarantined_total: IntCounter,
    /// Torn tails cut at start.
    pub spool_torn_tails_total: IntCounter,
    /// Delivery attempts by outcome: `delivered`, `deferred`, `failed`.
    pub delivery_attempts_total: IntCounterVec,
    /// From acceptance to delivery.
    pub delivery_delay_seconds: Histogram,
    /// Connections to customers' servers now.
    pub delivery_connections: IntGauge,
    /// Destinations that do not answer.
    pub destinations_dead: IntGauge,
    /// Lines of the delivery log that were lost, because its target is slow or fails.
    pub delivery_log_dropped_total: IntCounter,
    /// Events for the blacklist by kind: `rejected`, `accepted`.
    pub blacklist_events_total: IntCounterVec,
    /// Events that wait for the fleet to count them.
    pub blacklist_events_waiting: IntGauge,
    /// Events that were lost: too many waited, or their disk failed.
    pub blacklist_events_dropped_total: IntCounter,
    /// Refusals that a crash made come again; they count once.
    pub blacklist_replays_total: IntCounter,
    /// Recipients refused because they are listed.
    pub blacklist_hits_total: IntCounter,
    /// Failures that nobody was told of, by why: `null_sender`, `not_asked`, `not_a_customer`,
    /// `not_authentic`.
    pub bounces_suppressed_total: IntCounterVec,
    /// Lines of the journal that were lost, because its disk is slow or fails.
    pub journal_dropped_total: IntCounter,
    /// Messages handed over between hosts: `sent`, `received`.
    pub handed_over_total: IntCounterVec,
    /// 1 while this node leads and DNS is not as it shall be.
    pub dns_stale: IntGauge,
    /// Updates of DNS that were made.
    pub dns_updates_total: IntCounter,
    /// Version; always 1.
    pub build_info: IntGaugeVec,
}

/// 0.1 ms to 4 s.
const SYNC_SECONDS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 4.0];
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
    /// The text a Prometheus server reads.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        let mut families = self.registry.gather();
        families.extend(prometheus::gather());
        prometheus::TextEncoder::new().encode_to_string(&families)
    }

    #[expect(clippy::too_many_lines, reason = "a flat list, a statement a metric")]
    fn new() -> Self {
        let registry = Registry::new();
        let r = &registry;
        let metrics = Self {
            smtp_connections_total: counters(
                r,
                "smtp_connections_total",
                "SMTP connections by what became of them",
                &["result"],
            ),
            smtp_sessions: gauge(r, "smtp_sessions", "SMTP sessions now"),
            smtp_replies_total: counters(r, "smtp_replies_total", "SMTP replies sent", &["code"]),
            smtp_transaction_duration_seconds: histogram(
                r,
                "smtp_transaction_duration_seconds",
                "From MAIL to the reply to the end of data",
                TRANSACTION_SECONDS,
            ),
            tls_handshakes_total: counters(
                r,
                "tls_handshakes_total",
                "TLS handshakes",
                &["direction", "result"],
            ),
            message_size_bytes: histogram(
                r,
                "message_size_bytes",
                "Octets of accepted messages",
                SIZE_BYTES,
            ),
            policy_decisions_total: counters(
                r,
                "policy_decisions_total",
                "Recipients by the check that decided",
                &["check", "decision"],
            ),
            spool_messages: gauges(r, "spool_messages", "Entries in the spool", &["state"]),
            spool_bytes: gauge(r, "spool_bytes", "Octets of segment files"),
            spool_free_bytes: gauge(r, "spool_free_bytes", "Free octets on the spool's disk"),
            spool_writable: gauge(
                r,
                "spool_writable",
                "1 while the spool takes mail, 0 while its disk is full or failing",
            ),
            spool_fsync_duration_seconds: histogram(
                r,
                "spool_fsync_duration_seconds",
                "One sync of a segment",
                SYNC_SECONDS,
            ),
            spool_fsync_errors_total: counter(r, "spool_fsync_errors_total", "Failed syncs"),
            spool_quarantined_total: counter(
                r,
                "spool_quarantined_total",
                "Records set aside because their checksum is wrong",
            ),
            spool_torn_tails_total: counter(
                r,
                "spool_torn_tails_total",
                "Unfinished records cut at start",
            ),
            delivery_attempts_total: counters(
                r,
                "delivery_attempts_total",
                "Delivery attempts, a recipient each",
                &["outcome"],
            ),
            delivery_delay_seconds: histogram(
                r,
                "delivery_delay_seconds",
                "From acceptance to delivery",
                DELAY_SECONDS,
            ),
            delivery_connections: gauge(
                r,
                "delivery_connections",
                "Connections to customers' servers now",
            ),
            destinations_dead: gauge(r, "destinations_dead", "Destinations that do not answer"),
            delivery_log_dropped_total: counter(
                r,
                "delivery_log_dropped_total",
                "Lines of the delivery log that were lost",
            ),
            blacklist_events_total: counters(
                r,
                "blacklist_events_total",
                "What customers' servers said of recipients",
                &["kind"],
            ),
            blacklist_events_waiting: gauge(
                r,
                "blacklist_events_waiting",
                "Events that wait for the fleet to count them",
            ),
            blacklist_events_dropped_total: counter(
                r,
                "blacklist_events_dropped_total",
                "Events that were lost",
            ),
            blacklist_replays_total: counter(
                r,
                "blacklist_replays_total",
                "Refusals that came again after a crash",
            ),
            blacklist_hits_total: counter(
                r,
                "blacklist_hits_total",
                "Recipients refused because they are listed",
            ),
            bounces_suppressed_total: counters(
                r,
                "bounces_suppressed_total",
                "Failures that nobody was told of",
                &["because"],
            ),
            journal_dropped_total: counter(
                r,
                "journal_dropped_total",
                "Lines of the journal that were lost",
            ),
            handed_over_total: counters(
                r,
                "handed_over_total",
                "Messages handed over between hosts",
                &["direction"],
            ),
            dns_stale: gauge(
                r,
                "dns_stale",
                "1 while this node leads and DNS is not as it shall be",
            ),
            dns_updates_total: counter(r, "dns_updates_total", "Updates of DNS that were made"),
            build_info: gauges(r, "build_info", "The version that runs; always 1", &["version"]),
            registry,
        };
        metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        metrics
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
        assert!(text.contains("mxfleet_build_info{version="));
        assert!(text.contains("mxfleet_smtp_sessions 0"));
    }
}
