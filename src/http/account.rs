//! The admin call that makes a link to a customer's own view.

use mxfleet_cluster::Cluster;
use serde::{Deserialize, Serialize};

use super::call::{Refused, Terms};
use super::time;
use crate::account::{Account, LinkError, url};
use crate::system::clock::wall_ms;

/// A link as it is printed, once: whoever holds it sees what its customer sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRow {
    /// Whose view it leads to.
    pub customer: String,
    /// Where it leads: without `site.url`, the path on any node.
    pub link: String,
    /// Until when it is good.
    pub ends: String,
}

pub(super) async fn link(
    account: &Account,
    cluster: &Cluster,
    customer: &str,
    terms: &Terms,
) -> Result<serde_json::Value, Refused> {
    let secret = account.links.issue(customer, &terms.actor).await?;
    let state = cluster.view();
    let known = state.customer_of_link(&secret.hash(), wall_ms());
    let (_, ends_ms) = known.ok_or_else(|| {
        Refused::unavailable("the link was made, and ended before it could be told")
    })?;
    let link = url(&state, &secret).unwrap_or_else(|| secret.path());
    let customer = customer.to_owned();
    Ok(serde_json::json!(LinkRow { customer, link, ends: time(ends_ms) }))
}

impl From<LinkError> for Refused {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Refused(refusal) => refusal.into(),
            error => Self::unavailable(error.to_string()),
        }
    }
}
