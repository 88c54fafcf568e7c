//! Letters that the service writes to its customers: how one looks, and its way into the queue.

mod text;

use mxfleet_cluster::State;

pub use self::text::{Text, moment};
use crate::smtp::{Address, Envelope, Letter};
use crate::spool::{self, Draft, Spool, SpoolError};
use crate::system::clock::{wall_ms, wall_us};
use crate::worker::Deliveries;

/// Puts letters into this node's queue. Clones are handles to the same one.
#[derive(Clone)]
pub struct Post {
    /// The queue on disk.
    pub spool: Spool,
    /// The queue in memory.
    pub deliveries: Deliveries,
    /// What this host calls itself.
    pub hostname: String,
}

/// Why a letter was not queued.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// There is no room.
    #[error("the spool takes no mail now")]
    Full(#[from] spool::Full),
    /// The disk failed.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// Nobody writes it.
    #[error("there is no address to write from; set service.address")]
    Sender,
}

impl Post {
    /// Put a letter into the queue as `message`, which has no text yet. When this returns `Ok`, it
    /// is on stable storage.
    pub async fn queue(
        &self,
        mut message: Draft,
        state: &State,
        to: &[Address],
        text: &Text,
        letter: Letter,
    ) -> Result<(), PostError> {
        let from = self.sender(state)?;
        let written = text.letter(&from, to, wall_ms());
        let smtputf8 = text::needs_smtputf8(&from, to);
        message.push(&written).await?;
        // What becomes of it we see ourselves.
        let envelope = Envelope::own(to, &self.hostname, wall_us(), written.is_ascii(), smtputf8);
        let queued = message.commit(Envelope { letter: Some(letter), ..envelope }).await?;
        self.deliveries.accept(queued);
        Ok(())
    }

    /// Who writes, and gets the answers.
    pub fn sender(&self, state: &State) -> Result<Address, PostError> {
        let set = state.settings().get("service.address").unwrap_or_default();
        let own = format!("postmaster@{}", self.hostname);
        let parsed = Address::parse(set, true).or_else(|_| Address::parse(&own, true));
        parsed.map_err(|_| PostError::Sender)
    }
}
