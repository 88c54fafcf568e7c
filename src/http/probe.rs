//! The admin call that looks at a customer's servers from every node.

use mxfleet_cluster::Cluster;
use serde::{Deserialize, Serialize};

use super::call::Refused;
use super::domain_name;
use crate::fleet_wide::PATIENCE;
use crate::probe::{Asker, Finding, Probes, Question, Tool};

/// What one node found at one address, or why it has no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeRow {
    /// The node's name.
    pub node: String,
    /// Why it has no answer; then there is nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent: Option<String>,
    /// The server's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// `address:port`, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What was found there.
    #[serde(flatten)]
    pub finding: Option<Finding>,
}

pub(super) async fn look(
    probes: &Probes,
    cluster: &Cluster,
    tool: Tool,
    domain: &str,
) -> Result<serde_json::Value, Refused> {
    let domain = domain_name(domain)?;
    if cluster.view().domain(&domain).is_none() {
        return Err(Refused::not_found(format!("there is no domain {domain}")));
    }
    let question = Question { tool, domain, asker: Asker::Operator };
    let mut asked = probes.ask(&question, PATIENCE);
    let mut heard = Vec::new();
    while let Some(one) = asked.answers.recv().await {
        heard.push(one);
    }
    heard.sort_by(|one, other| one.node.cmp(&other.node));
    let mut rows = Vec::new();
    for one in heard {
        let row = |server, address, finding| ProbeRow {
            node: one.node.clone(),
            silent: None,
            server,
            address,
            finding,
        };
        match &one.answer {
            Ok(report) => {
                for seen in &report.servers {
                    let address = seen.address.map(|address| address.to_string());
                    let found = seen.findings.iter().cloned();
                    rows.extend(found.map(|finding| {
                        row(Some(seen.server.clone()), address.clone(), Some(finding))
                    }));
                }
            }
            Err(why) => {
                let why = Some(why.to_string());
                rows.push(ProbeRow { silent: why, ..row(None, None, None) });
            }
        }
    }
    Ok(serde_json::json!(rows))
}
