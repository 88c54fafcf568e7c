//! The keys that sign return paths: replicated, so that any host can check what another has signed,
//! and replaced while they are in use.

use std::time::Duration;

use mxfleet_cluster::{Cluster, Command, ProposeError, Request, Secret, random_id};
use tokio_util::sync::CancellationToken;

use crate::system::clock::wall_ms;
use crate::system::random;

/// A key signs for so long.
const KEY_LIFE_MS: u64 = 30 * 24 * 3_600_000;
/// How often a node looks whether a new one is due. Whichever looks first proposes it.
const EVERY: Duration = Duration::from_hours(1);
/// Who proposes keys, for the audit trail.
const ACTOR: &str = "node";

/// See to it that there is a key, before the first domain uses it.
pub async fn ensure(cluster: &Cluster) -> Result<(), ProposeError> {
    match cluster.view().return_keys() {
        [] => next(cluster).await,
        _ => Ok(()),
    }
}

/// Replace the key when it is old, until `stop`.
pub async fn rotate(cluster: Cluster, stop: CancellationToken) {
    let mut every = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => {}
        }
        let view = cluster.view();
        let now_ms = wall_ms();
        let is_old = view
            .return_keys()
            .first()
            .is_some_and(|key| now_ms.saturating_sub(key.since_ms) >= KEY_LIFE_MS);
        if is_old
            && view.has_tagged_return_paths()
            && let Err(error) = next(&cluster).await
        {
            tracing::warn!(%error, "the key that signs return paths is old, and stays in use");
        }
    }
}

/// Propose the key after the newest. If another node was faster, its key is as good.
async fn next(cluster: &Cluster) -> Result<(), ProposeError> {
    let newest = cluster.view().return_keys().first().map_or(0, |key| key.number);
    let Some(secret) = random::secret() else {
        tracing::error!("the system gives no random octets, so there is no key");
        return Ok(());
    };
    let (number, secret) = (newest.saturating_add(1), Secret::new(secret));
    let command = Command::ReturnKeyAdd { number, secret };
    match cluster.propose(Request::new(random_id(), ACTOR, wall_ms(), command)).await? {
        Ok(_) => tracing::info!(number, "a new key signs return paths"),
        Err(refusal) => tracing::debug!(%refusal, "another node has made the key"),
    }
    Ok(())
}
