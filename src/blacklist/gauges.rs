//! What the fleet's blacklist says of itself, as metrics of this node.

use std::time::Duration;

use mxfleet_cluster::{BlacklistCounts, Cluster};
use tokio::time::{MissedTickBehavior, interval};

use crate::system::clock;
use crate::telemetry::metrics::METRICS;

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Keep the metrics true until dropped. Counters begin at 0 with the process, as others do.
pub(super) async fn run(cluster: &Cluster) {
    let mut pace = interval(LOOK_EVERY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = cluster.view().blacklist_counts();
    loop {
        pace.tick().await;
        before = look(cluster, before);
    }
}

fn look(cluster: &Cluster, before: BlacklistCounts) -> BlacklistCounts {
    let view = cluster.view();
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let now = view.blacklist_counts();
    for (kind, entries) in
        [("tracked", now.tracked), ("trusted", now.trusted), ("exempt", now.exempt)]
    {
        METRICS.blacklist_entries.with_label_values(&[kind]).set(count(entries));
    }
    let frozen = view.blacklist_frozen(clock::wall_ms()).count();
    METRICS.blacklist_frozen_domains.set(count(frozen as u64));
    METRICS.blacklist_freezes_total.inc_by(now.freezes.saturating_sub(before.freezes));
    METRICS.blacklist_withheld_total.inc_by(now.withheld.saturating_sub(before.withheld));
    now
}
