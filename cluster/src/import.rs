//! Importing many rows: in parts that fit the log, all or nothing.

use crate::cluster::Cluster;
use crate::join::random_id;
use crate::propose::{Clock, ProposeError};
use crate::state::{Command, Domain, Outcome, Request};

/// Rows in a part; some 100 octets each, a few KiB at worst.
const PART_ROWS: usize = 500;
/// Recipients in a part; some 12 octets each, 255 at worst.
const PART_RECIPIENTS: usize = 1500;
/// Who stages recipients. The trail does not show it: it has what follows.
const UPLOADER: &str = "upload";

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

    /// A domain has these recipients from now on, and nobody else; the outcome is their number.
    /// `request` makes the request that decides: its id and what it expects are the caller's.
    pub async fn set_recipients(
        &self,
        domain: &str,
        entries: &[String],
        clock: &Clock,
        request: impl FnOnce(Command) -> Request,
    ) -> Result<Outcome, ProposeError> {
        let upload = random_id();
        let mut parts = 0;
        let mut rest = entries.chunks(PART_RECIPIENTS);
        // A list without anybody has a part, too.
        let first = rest.next().unwrap_or_default();
        for entries in std::iter::once(first).chain(rest) {
            let entries = entries.to_vec();
            let command = Command::RecipientsStage { upload, part: parts, entries };
            if let Err(refusal) = self.decide(UPLOADER, clock, command).await? {
                return Ok(Err(refusal));
            }
            parts += 1;
        }
        let domain = domain.to_owned();
        self.propose(request(Command::RecipientsCommit { domain, upload, parts })).await
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
