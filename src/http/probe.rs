//! The admin call that looks at a customer's servers.

use mxfleet_cluster::Cluster;
use serde::{Deserialize, Serialize};

use super::call::Refused;
use super::domain_name;
use crate::client::Finding;
use crate::probe::{Asker, Prober};

/// What was found at one step at one address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeRow {
    /// The server's name.
    pub server: String,
    /// `address:port`, if it has one.
    pub address: Option<String>,
    /// What was found there.
    #[serde(flatten)]
    pub finding: Finding,
}

pub(super) async fn mx(
    prober: &Prober,
    cluster: &Cluster,
    domain: &str,
) -> Result<serde_json::Value, Refused> {
    let domain = domain_name(domain)?;
    if cluster.view().domain(&domain).is_none() {
        return Err(Refused::not_found(format!("there is no domain {domain}")));
    }
    let examined = prober.mx(&domain, Asker::Operator).await;
    let examined = examined.map_err(|error| Refused::unavailable(error.to_string()))?;
    let mut rows = Vec::new();
    for mut one in examined {
        while let Some(finding) = one.findings.recv().await {
            let address = one.address.map(|address| address.to_string());
            rows.push(ProbeRow { server: one.server.clone(), address, finding });
        }
    }
    Ok(serde_json::json!(rows))
}
