//! The spool as the inbound side sees it.

use std::fmt;

use super::intake::{Draft, Full, Intake, NotStored};
use crate::smtp::Envelope;
use crate::spool::{self, Queued, Spool};

impl Intake for Spool {
    type Draft = spool::Draft;

    fn is_writable(&self) -> bool {
        Self::is_writable(self)
    }

    fn begin(&self, declared_octets: u64) -> Result<spool::Draft, Full> {
        Self::begin(self, declared_octets).map_err(|_| Full)
    }
}

impl Draft for spool::Draft {
    type Queued = Queued;

    fn id(&self) -> impl fmt::Display + Send + Sync + 'static {
        Self::id(self)
    }

    async fn push(&mut self, text: &[u8]) -> Result<(), NotStored> {
        Self::push(self, text).await.map_err(|_| NotStored)
    }

    async fn commit(self, envelope: Envelope) -> Result<Queued, NotStored> {
        Self::commit(self, envelope).await.map_err(|_| NotStored)
    }
}
