//! Importing many domains: in parts that fit the log, all or nothing.

use crate::cluster::Cluster;
use crate::join::random_id;
use crate::propose::{Clock, ProposeError};
use crate::state::{Command, Domain, Outcome, Request};

/// Rows in a part; some 100 octets each, a few KiB at worst.
const PART_ROWS: usize = 500;

impl Cluster {
    /// Add many domains, or bring them to what is given, all or none; the outcome is the number of
    /// rows that changed. `progress` is told how many rows the fleet has so far. An import that
    /// was broken off changes nothing and can be begun again.
    pub async fn import_domains(
        &self,
        domains: &[Domain],
        actor: &str,
        clock: &Clock,
        mut progress: impl FnMut(usize),
    ) -> Result<Outcome, ProposeError> {
        let import = random_id();
        let mut parts = 0;
        let mut staged = 0;
        for rows in domains.chunks(PART_ROWS) {
            let command = Command::DomainStage { import, part: parts, domains: rows.to_vec() };
            if let Err(refusal) = self.decide(actor, clock, command).await? {
                return Ok(Err(refusal));
            }
            parts += 1;
            staged += rows.len();
            progress(staged);
        }
        self.decide(actor, clock, Command::DomainCommit { import, parts }).await
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
