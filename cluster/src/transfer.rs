//! The lead goes to another voter while its holder lives: leadership transfer, Raft dissertation
//! section 3.10.
//!
//! openraft has no such call. A leader that falls silent is followed by another, as a dead one is.
//! What it has decided stays decided, for a quorum has it; what comes meanwhile waits where it was
//! asked for, and is for the next leader.

use std::time::Duration;

use tokio::time::timeout;

use crate::propose::Proposer;

/// Two elections' time, see `raft::config`.
const WAIT: Duration = Duration::from_secs(4);

/// Be silent until another node leads.
///
/// # Errors
///
/// In words, when nobody else led in time; this node then leads on.
pub(crate) async fn lead(proposer: &Proposer) -> Result<(), String> {
    let _silence = Silence::keep(proposer);
    let mut metrics = proposer.raft.metrics();
    let other = |leader| leader != proposer.node;
    let other_leads = metrics.wait_for(|now| now.current_leader.is_some_and(other));
    match timeout(WAIT, other_leads).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err("the consensus has stopped".to_owned()),
        Err(_) => Err("no other node took the lead in time".to_owned()),
    }
}

/// While it lives this node decides nothing, sends no heartbeats and is no candidate.
struct Silence<'a>(&'a Proposer);

impl<'a> Silence<'a> {
    fn keep(proposer: &'a Proposer) -> Self {
        let silence = Self(proposer);
        silence.set(true);
        silence
    }

    fn set(&self, silent: bool) {
        self.0.stand_aside(silent);
        self.0.raft.runtime_config().heartbeat(!silent);
        self.0.raft.runtime_config().elect(!silent);
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        self.set(false);
    }
}
