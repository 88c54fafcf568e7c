//! The lead goes to another voter while its holder lives: leadership transfer, Raft dissertation
//! section 3.10.
//!
//! openraft has no such call. A leader that falls silent and decides nothing is followed by another
//! as a dead one is, except that nobody waits for what was decided: it is on a quorum already, and
//! what comes meanwhile is sent on to the next leader.

use std::time::Duration;

use tokio::time::timeout;

use crate::propose::Proposer;
use crate::raft::Raft;

/// Two elections' time, see `raft::config`.
const WAIT: Duration = Duration::from_secs(4);

/// Be silent until another node leads.
///
/// # Errors
///
/// In words, when nobody else led in time; this node then leads on.
pub(crate) async fn lead(raft: &Raft, proposer: &Proposer) -> Result<(), String> {
    let me = proposer.node;
    let _silence = Silence::keep(raft, proposer);
    let mut metrics = raft.metrics();
    let other = metrics.wait_for(|now| now.current_leader.is_some_and(|leader| leader != me));
    match timeout(WAIT, other).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err("the consensus has stopped".to_owned()),
        Err(_) => Err("no other node took the lead in time".to_owned()),
    }
}

/// While it lives this node decides nothing, sends no heartbeats and is no candidate.
struct Silence<'a> {
    raft: &'a Raft,
    proposer: &'a Proposer,
}

impl<'a> Silence<'a> {
    fn keep(raft: &'a Raft, proposer: &'a Proposer) -> Self {
        let silence = Self { raft, proposer };
        silence.set(true);
        silence
    }

    fn set(&self, silent: bool) {
        self.proposer.stand_aside(silent);
        self.raft.runtime_config().heartbeat(!silent);
        self.raft.runtime_config().elect(!silent);
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        self.set(false);
    }
}
