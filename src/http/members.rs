//! Admin calls about the fleet itself: who is in it, who may join, who goes.

use mxfleet_cluster::{AuditRecord, Cluster, ManageError};
use serde::{Deserialize, Serialize};

use super::call::{Call, Changed, Refused, TokenRow};
use crate::system::clock::timestamp;

/// A change somebody asked for, as it is printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRow {
    /// When it was asked.
    pub at: String,
    /// Who asked, and on which host.
    pub actor: String,
    /// What was asked.
    pub what: String,
    /// Why it was refused; absent when it was done.
    pub refused: Option<String>,
    /// The log index it was decided at.
    pub index: u64,
}

impl From<&AuditRecord> for AuditRow {
    fn from(record: &AuditRecord) -> Self {
        Self {
            at: format!("{:.3}", timestamp(record.at_ms)),
            actor: record.actor.clone(),
            what: record.what.clone(),
            refused: record.refused.clone(),
            index: record.index,
        }
    }
}

/// Answer a call about the fleet; `None` when the call is about something else.
pub async fn answer(
    cluster: &Cluster,
    call: &Call,
    actor: &str,
) -> Option<Result<serde_json::Value, Refused>> {
    Some(match call {
        Call::ClusterStatus => match cluster.status().await {
            Ok(status) => Ok(serde_json::json!(status)),
            Err(error) => Err(Refused::unavailable(error.to_string())),
        },
        Call::ClusterToken { name, life_ms } => token(cluster, name, *life_ms, actor).await,
        Call::ClusterPromote { name } => done(cluster.promote(name, actor).await),
        Call::ClusterAudit { limit } => {
            let rows: Vec<AuditRow> =
                cluster.view().audit().take(*limit).map(AuditRow::from).collect();
            Ok(serde_json::json!(rows))
        }
        Call::ClusterBackup { path } => done(cluster.backup(path).await),
        _ => return None,
    })
}

async fn token(
    cluster: &Cluster,
    name: &str,
    life_ms: u64,
    actor: &str,
) -> Result<serde_json::Value, Refused> {
    let token = cluster.token(name, life_ms, actor).await?.to_string();
    Ok(serde_json::json!(TokenRow { name: name.to_owned(), token, life_seconds: life_ms / 1000 }))
}

/// The answer to a change of one host.
pub(super) fn done(outcome: Result<(), ManageError>) -> Result<serde_json::Value, Refused> {
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
