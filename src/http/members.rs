//! Admin calls about the fleet itself: who is in it, who may join, who goes.

use mxfleet_cluster::{Cluster, ManageError};

use super::ACTOR;
use super::call::{Call, Changed, Refused, TokenRow};

/// Answer a call about the fleet; `None` when the call is about something else.
pub async fn answer(cluster: &Cluster, call: &Call) -> Option<Result<serde_json::Value, Refused>> {
    Some(match call {
        Call::ClusterStatus => match cluster.status().await {
            Ok(status) => Ok(serde_json::json!(status)),
            Err(error) => Err(Refused::unavailable(error.to_string())),
        },
        Call::ClusterToken { name, life_ms } => token(cluster, name, *life_ms).await,
        Call::ClusterRemove { name } => done(cluster.remove(name, ACTOR).await),
        Call::ClusterPromote { name } => done(cluster.promote(name, ACTOR).await),
        Call::ClusterBackup { path } => done(cluster.backup(path).await),
        _ => return None,
    })
}

async fn token(cluster: &Cluster, name: &str, life_ms: u64) -> Result<serde_json::Value, Refused> {
    let token = cluster.token(name, life_ms, ACTOR).await?.to_string();
    Ok(serde_json::json!(TokenRow { name: name.to_owned(), token, life_seconds: life_ms / 1000 }))
}

fn done(outcome: Result<(), ManageError>) -> Result<serde_json::Value, Refused> {
    outcome?;
    Ok(serde_json::json!(Changed { changed: 1 }))
}

impl From<ManageError> for Refused {
    fn from(error: ManageError) -> Self {
        match error {
            ManageError::Refused(refusal) => refusal.into(),
            error => Self::unavailable(error.to_string()),
        }
    }
}
