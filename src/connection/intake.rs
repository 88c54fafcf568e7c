//! What the inbound side asks of the spool, and no more, so that a test can keep mail in memory.

use std::fmt;

use crate::smtp::Envelope;

/// The spool takes no mail now: its disk is full or failing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the spool takes no mail now")]
pub struct Full;

/// A message could not be made durable. Nothing of it will be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message could not be stored")]
pub struct NotStored;

/// Takes messages and keeps them safe.
pub trait Intake: Send + Sync + 'static {
    /// A message that is being written.
    type Draft: Draft;

    /// Whether a message has a chance now. Asked at each MAIL, so it must cost nothing.
    fn is_writable(&self) -> bool;

    /// Begin a message; the client announced `declared_octets` of it, 0 when it did not.
    fn begin(&self, declared_octets: u64) -> Result<Self::Draft, Full>;
}

/// A message that is being written. Dropped without a commit, it never was.
pub trait Draft: Send {
    /// A message that is safe.
    type Queued: Send;

    /// Its id, unique for ever.
    fn id(&self) -> impl fmt::Display + Send + Sync + 'static;

    /// Add text as it is on the wire: dots stuffed, without the final dot.
    fn push(&mut self, text: &[u8]) -> impl Future<Output = Result<(), NotStored>> + Send;

    /// Make it durable: `Ok` only when it will be there after a power loss.
    fn commit(
        self,
        envelope: Envelope,
    ) -> impl Future<Output = Result<Self::Queued, NotStored>> + Send;
}
