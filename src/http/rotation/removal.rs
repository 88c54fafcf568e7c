//! A host is removed for good: one that is retired, or one that is lost.

use mxfleet_cluster::{HostState, Member};
use tokio::time::{Instant, sleep};

use super::super::call::{Refused, RefusedKind, Terms};
use super::super::members::done;
use super::{Answer, HEARING, LOOK_EVERY, RotationAdmin, no_leader};

impl RotationAdmin {
    pub(super) async fn remove(&self, name: &str, force: bool, terms: &Terms) -> Answer {
        let state = self.view();
        let host = state.host_named(name);
        let is_retired = host.is_some_and(|host| matches!(host.state, HostState::Retired { .. }));
        // What is in its way otherwise, the state says.
        if host.is_some() && (force || is_retired) {
            self.require_gone(name, is_retired).await?;
        }
        done(self.cluster.remove(name, force, &terms.actor).await)
    }

    /// Refuse to remove a host that could still hand its mail over, or whose vote may be needed:
    /// once removed it ends. One that was lost just now is given the time to be missed.
    async fn require_gone(&self, name: &str, is_retired: bool) -> Result<(), Refused> {
        // Somebody is missed after as long as it takes to be heard.
        let until = Instant::now() + 2 * HEARING;
        loop {
            let members = self.members().await?;
            let member = members.iter().find(|member| member.name == name);
            let stays = member.and_then(|member| stays(member, is_retired));
            match stays {
                None => return Ok(()),
                Some(refused) if Instant::now() >= until => return Err(refused),
                Some(_) => sleep(LOOK_EVERY).await,
            }
        }
    }
}

fn stays(member: &Member, is_retired: bool) -> Option<Refused> {
    let name = &member.name;
    let why = match (member.state, is_retired) {
        ("down", _) => return None,
        ("unknown", _) => return Some(no_leader()),
        (_, true) if member.role != "voter" => return None,
        (_, true) => format!(
            "host {name} still votes; remove it when it does no more: `mxfleet host show {name}` \
             says what its vote waits for"
        ),
        (_, false) => format!(
            "host {name} answers, so it is not lost, and nor is its mail; `mxfleet host drain \
             {name}` first, which retires it when it is empty"
        ),
    };
    Some(Refused { error: why, kind: RefusedKind::Conflict })
}
