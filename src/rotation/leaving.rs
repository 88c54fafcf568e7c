//! What a host does that the fleet wants out of service: it takes no new mail, goes on delivering,
//! and says how much is left.

use std::time::Duration;

use mxfleet_cluster::{Cluster, Command, HostCommand, HostState, Request, random_id};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::connection::{Service, ServiceState};
use crate::spool::Spool;
use crate::system::clock::wall_ms;

/// How often it looks what the fleet wants.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Who reports, for the audit trail.
const ACTOR: &str = "node";

/// Follows what the fleet wants of this host.
#[derive(Clone)]
pub struct Leaving {
    cluster: Cluster,
    spool: Spool,
    service: Service,
    node: u64,
}

impl std::fmt::Debug for Leaving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leaving").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Leaving {
    /// `node` is this host's id; `service` is what the inbound side looks at.
    pub fn new(cluster: Cluster, spool: Spool, service: Service, node: u64) -> Self {
        let leaving = Self { cluster, spool, service, node };
        leaving.follow();
        leaving
    }

    /// Look again and again, until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let follow = async {
            loop {
                if let Some(messages) = self.follow() {
                    self.tell(messages).await;
                }
                sleep(LOOK_EVERY).await;
            }
        };
        stop.run_until_cancelled(follow).await;
    }

    /// Be as the fleet wants. Gives the messages in the queue if the fleet has another number.
    fn follow(&self) -> Option<u64> {
        let state = self.cluster.view();
        let (wanted, known) = match state.host(self.node).map(|host| &host.state) {
            Some(HostState::Draining(drain)) => (ServiceState::Away, Some(drain.mail_left)),
            Some(HostState::Retired { .. }) => (ServiceState::Retired, None),
            Some(HostState::InService) | None => (ServiceState::Serving, None),
        };
        if self.service.state() != wanted {
            tracing::info!(?wanted, "the fleet changes this host's service");
            self.service.set(wanted);
        }
        let messages = self.spool.stats().messages;
        known.filter(|known| *known != Some(messages)).map(|_| messages)
    }

    async fn tell(&self, messages: u64) {
        let command = Command::HostService(HostCommand::MailLeft { id: self.node, messages });
        let request = Request::new(random_id(), ACTOR, wall_ms(), command);
        match self.cluster.propose(request).await {
            Ok(Ok(_)) => {}
            Ok(Err(refusal)) => tracing::warn!(%refusal, "the fleet does not take our count"),
            // Without a quorum it is told later.
            Err(error) => tracing::debug!(%error, "the mail that is left could not be told"),
        }
    }
}
