//! Admin calls about names, hosts, migrations and notices.

pub mod call;
mod hosts;
mod migrations;
mod names;
mod notices;

pub(super) use self::notices::notice_row;

use std::sync::Arc;

use mxfleet_cluster::{Cluster, Command, Request, State, random_id};

use super::call::{Call, Refused, Terms};
use super::tables::changed;
use super::time;
use crate::system::clock::wall_ms;

type Answer = Result<serde_json::Value, Refused>;

/// What these calls can reach.
pub struct RotationAdmin {
    cluster: Cluster,
    allow_loopback: bool,
}

impl RotationAdmin {
    /// Calls are answered from, and proposed to, `cluster`. A host's address may be a loopback one
    /// where routes may.
    pub fn new(cluster: Cluster, allow_loopback: bool) -> Self {
        Self { cluster, allow_loopback }
    }

    /// Answer a call; `None` when it is about something else.
    pub async fn answer(&self, call: &Call, terms: &Terms) -> Option<Answer> {
        Some(match call.clone() {
            Call::Host(call) => self.host(call, terms).await,
            Call::Name(call) => self.name(call, terms).await,
            Call::Migration(call) => self.migration(call, terms).await,
            Call::Notice(call) => self.notice(call, terms).await,
            Call::CustomerNames { id, names } => {
                let names = names.iter().map(|name| names::spelling(name)).collect();
                match names {
                    Ok(names) => self.propose(Command::Assign { customer: id, names }, terms).await,
                    Err(refused) => Err(refused),
                }
            }
            _ => return None,
        })
    }

    fn view(&self) -> Arc<State> {
        self.cluster.view()
    }

    async fn propose(&self, command: Command, terms: &Terms) -> Answer {
        let id = terms.request_id.unwrap_or_else(random_id);
        let mut request = Request::new(id, &terms.actor, wall_ms(), command);
        request.expected_version = terms.expected_version;
        changed(self.cluster.propose(request).await)
    }
}

fn host_name(state: &State, id: u64) -> String {
    state.host(id).map_or_else(|| format!("host {id}, removed"), |host| host.name.clone())
}
