//! Importing many rows: in parts that fit the log, all or nothing.

use crate::cluster::Cluster;
use crate::join::random_id;
use crate::propose::{Clock, ProposeError};
use crate::state::{Command, Domain, Outcome, Request};

/// Recipients in a part; some 12 octets each, 255 at worst.
const PART_RECIPIENTS: usize = 1500;
/// Who stages recipients. The trail does not show it: it has what follows.
const UPLOADER: &str = "upload";

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
