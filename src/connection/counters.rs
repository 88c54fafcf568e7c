//! The metrics of this stage, looked up once: a label is a hash and a lock, and a reply has no time
//! for either.

use std::sync::LazyLock;

use prometheus::IntCounter;
use rustls::ProtocolVersion;

use crate::telemetry::metrics::METRICS;

/// Every code that a reply of ours has.
const CODES: [u16; 19] =
    [250, 550, 354, 221, 220, 450, 421, 451, 452, 500, 501, 502, 503, 552, 553, 554, 555, 214, 252];

/// The metrics of this process's inbound side.
pub(super) static COUNTERS: LazyLock<Counters> = LazyLock::new(Counters::new);

pub(super) struct Counters {
    pub(super) accepted: IntCounter,
    pub(super) busy: IntCounter,
    pub(super) network_busy: IntCounter,
    pub(super) early_talker: IntCounter,
    pub(super) tls_failed: IntCounter,
    tls_ok: [IntCounter; 2],
    replies: [IntCounter; CODES.len()],
}

impl Counters {
    fn new() -> Self {
        let connections = |result| METRICS.smtp_connections_total.with_label_values(&[result]);
        let tls = |version, result| {
            METRICS.tls_handshakes_total.with_label_values(&["in", version, result])
        };
        Self {
            accepted: connections("accepted"),
            busy: connections("busy"),
            network_busy: connections("network_busy"),
            early_talker: connections("early_talker"),
            tls_ok: [tls("1.2", "ok"), tls("1.3", "ok")],
            tls_failed: tls("none", "failed"),
            replies: CODES.map(counter),
        }
    }

    /// A handshake succeeded; TLS 1.2 or 1.3, since there is no other.
    pub(super) fn tls_ok(&self, version: Option<ProtocolVersion>) {
        self.tls_ok[usize::from(version == Some(ProtocolVersion::TLSv1_3))].inc();
    }

    /// One reply with this code was sent.
    pub(super) fn reply(&self, code: u16) {
        match CODES.iter().position(|known| *known == code) {
            Some(index) => self.replies[index].inc(),
            None => counter(code).inc(),
        }
    }
}

fn counter(code: u16) -> IntCounter {
    METRICS.smtp_replies_total.with_label_values(&[code.to_string().as_str()])
}
