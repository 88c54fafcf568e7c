//! Attempts as they are counted: how they ended, why, and whose servers were asked. Every label
//! comes from a closed set.

use std::sync::LazyLock;

use prometheus::{Histogram, IntCounter};

use crate::smtp::{Enhanced, Role, RolePart};
use crate::telemetry::delivery_log::Delays;
use crate::telemetry::metrics::METRICS;
use crate::verdict::{Reason, Verdict};

/// Who hosts mail for so many that trouble with them concerns many customers at once, by the ends
/// of their servers' names.
const PROVIDERS: &[(&str, &[&str])] = &[
    ("google", &["google.com", "googlemail.com"]),
    ("microsoft", &["outlook.com", "office365.us", "hotmail.com"]),
    ("yahoo", &["yahoodns.net"]),
    ("apple", &["icloud.com"]),
    ("proofpoint", &["pphosted.com", "ppe-hosted.com"]),
    ("mimecast", &["mimecast.com"]),
    ("cisco", &["iphmx.com"]),
    ("barracuda", &["barracudanetworks.com"]),
    ("broadcom", &["messagelabs.com"]),
    ("zoho", &["zoho.com", "zoho.eu"]),
    ("ovh", &["ovh.net"]),
    ("ionos", &["kundenserver.de", "1and1.com"]),
];
/// A customer's own server, for all we know.
const OTHER: &str = "other";
/// No server was found to ask.
const NONE: &str = "none";

/// Count an attempt for one recipient at `relay`, which is `name[ip]:port`.
pub(super) fn count(verdict: &Verdict, relay: Option<&str>, delays: &Delays) {
    let provider = relay.map_or(NONE, provider);
    match verdict {
        Verdict::Delivered { .. } => {
            match provider {
                OTHER => COUNTERS.delivered.inc(),
                _ => attempts("delivered", "none", provider).inc(),
            }
            COUNTERS.delays(delays);
        }
        Verdict::Retry { dsn, .. } => attempts("deferred", deferral(*dsn), provider).inc(),
        Verdict::Fail { reason, .. } => attempts("failed", failure(*reason), provider).inc(),
    }
}

/// Count an attempt to hand on mail to those who run the service.
pub(super) fn count_role_part(part: RolePart, verdict: &Verdict) {
    let result = match verdict {
        Verdict::Delivered { .. } => "delivered",
        Verdict::Retry { .. } => "deferred",
        Verdict::Fail { .. } => "failed",
    };
    METRICS.role_messages_total.with_label_values(&[part.as_str(), result]).inc();
}

/// So that each series is there before the first attempt.
pub(super) fn begin() {
    LazyLock::force(&COUNTERS);
    for role in Role::ALL {
        METRICS.role_mail_total.with_label_values(&[role.as_str()]);
    }
    for part in [RolePart::Copy, RolePart::Page, RolePart::Acknowledgement] {
        for result in ["delivered", "deferred", "failed"] {
            METRICS.role_messages_total.with_label_values(&[part.as_str(), result]);
        }
    }
    for reason in [Reason::UnknownUser, Reason::OtherPermanent] {
        attempts("failed", failure(reason), OTHER);
    }
    attempts("failed", failure(Reason::Expired), NONE);
    for dsn in [Enhanced(4, 2, 0), Enhanced(4, 3, 0), Enhanced(4, 4, 1)] {
        attempts("deferred", deferral(dsn), OTHER);
    }
}

fn attempts(outcome: &str, reason: &str, provider: &str) -> IntCounter {
    METRICS.delivery_attempts_total.with_label_values(&[outcome, reason, provider])
}

fn provider(relay: &str) -> &'static str {
    let name = relay.split('[').next().unwrap_or(relay).trim_end_matches('.');
    let is_of = |end: &&str| {
        name.strip_suffix(*end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    let found = PROVIDERS.iter().find(|(_, ends)| ends.iter().any(is_of));
    found.map_or(OTHER, |(provider, _)| provider)
}

/// What a temporary failure is about (RFC 3463 section 3).
fn deferral(Enhanced(_, subject, detail): Enhanced) -> &'static str {
    match (subject, detail) {
        (1, _) => "address",
        (2, _) => "mailbox",
        (3, _) => "server",
        (4, 1) => "unreachable",
        (4, 3) => "dns",
        (4, _) => "connection",
        (5, _) => "protocol",
        (6, _) => "content",
        (7, 4 | 5) => "tls",
        (7, _) => "policy",
        _ => "unsaid",
    }
}

fn failure(reason: Reason) -> &'static str {
    match reason {
        Reason::UnknownUser => "unknown_user",
        Reason::OtherPermanent => "other_permanent",
        Reason::Expired => "expired",
        Reason::Unroutable => "unroutable",
        Reason::Unfit => "unfit",
        Reason::Loop => "loop",
        Reason::Operator => "operator",
    }
}

/// Looking these up by their labels for each recipient would cost more than counting.
struct Counters {
    delivered: IntCounter,
    stages: [Histogram; 4],
}

impl Counters {
    fn delays(&self, delays: &Delays) {
        let queue_us = delays.due_us.saturating_add(delays.queued_us);
        let times = [queue_us, delays.connect_us, delays.transmit_us, delays.total_us()];
        for (stage, micros) in self.stages.iter().zip(times) {
            stage.observe(std::time::Duration::from_micros(micros).as_secs_f64());
        }
    }
}

static COUNTERS: LazyLock<Counters> = LazyLock::new(|| Counters {
    delivered: attempts("delivered", "none", OTHER),
    stages: ["queue", "connect", "transmit", "total"]
        .map(|stage| METRICS.delivery_delay_seconds.with_label_values(&[stage])),
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_is_known_by_the_end_of_its_servers_name() {
        for (relay, expected) in [
            ("aspmx.l.google.com[192.0.2.1]:25", "google"),
            ("acme-test.mail.protection.outlook.com.[2001:db8::1]:25", "microsoft"),
            ("mx.notgoogle.com[192.0.2.1]:25", OTHER),
            ("google.com.evil.test[192.0.2.1]:25", OTHER),
            ("mail.acme.test[192.0.2.1]:25", OTHER),
            ("", OTHER),
        ] {
            assert_eq!(provider(relay), expected, "{relay}");
        }
    }
}
