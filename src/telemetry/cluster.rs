//! What happens in this node's part of the fleet, as it is counted.

use std::sync::LazyLock;

use mxfleet_cluster::{Event, Proposed};
use prometheus::IntCounter;

use super::metrics::METRICS;

/// Count one event.
pub fn observe(event: Event) {
    match event {
        Event::LogSynced(took) => {
            METRICS.raft_log_sync_duration_seconds.observe(took.as_secs_f64());
        }
        Event::SnapshotSaved(took) => {
            METRICS.raft_snapshot_duration_seconds.observe(took.as_secs_f64());
        }
        Event::LeaderChanged => METRICS.raft_leader_changes_total.inc(),
        Event::Proposed(came, took) => {
            let [done, refused, no_quorum, unknown] = &*PROPOSALS;
            match came {
                Proposed::Done => {
                    METRICS.raft_proposal_duration_seconds.observe(took.as_secs_f64());
                    done.inc();
                }
                Proposed::Refused => refused.inc(),
                Proposed::NoQuorum => no_quorum.inc(),
                Proposed::Unknown => unknown.inc(),
            }
        }
    }
}

/// So that each series is there before the first proposal.
pub fn begin() {
    LazyLock::force(&PROPOSALS);
}

/// Looked up once: a label is a hash and a lock.
static PROPOSALS: LazyLock<[IntCounter; 4]> = LazyLock::new(|| {
    ["done", "refused", "no_quorum", "unknown"]
        .map(|result| METRICS.raft_proposals_total.with_label_values(&[result]))
});
