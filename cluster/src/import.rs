//! Importing many rows: in parts that fit the log, all or nothing.

use crate::cluster::Cluster;
use crate::join::random_id;
use crate::propose::{Clock, ProposeError};
use crate::state::{Command, Domain, Outcome, Request};

impl Cluster {
    /// Hand over part number `part`, counted from 0, of the import that the request with the id
    /// `import` will commit ([`Command::DomainCommit`]). Nothing changes yet; the same part may be
    /// handed over again.
    pub async fn stage_domains(
        &self,
        import: u128,
        part: u32,
        domains: Vec<Domain>,
        actor: &str,
        clock: &Clock,
    ) -> Result<Outcome, ProposeError> {
        self.decide(actor, clock, Command::DomainStage { import, part, domains }).await
    }

    /// As `propose`, but what is of unknown outcome is asked again once, with the same id.
    async fn decide(
        &self,
        actor: &str,
        clock: &Clock,
        command: Command,
    ) -> Result<Outcome, ProposeError> {
        let request = Request::new(random_id(), actor, clock(), command);
        match self.propose(request.clone()).await {
            Err(ProposeError::Unknown { .. } | ProposeError::NoQuorum) => {
                self.propose(request).await
            }
            decided => decided,
        }
    }
}
