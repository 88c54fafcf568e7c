//! Messages that leave the queue for another node's, or come from one.

use std::sync::Arc;

use super::attempt::{by_destination, recovered};
use super::operate::OperateError;
use super::{Deliveries, Inner};
use crate::schedule::{JobState, Removal};
use crate::spool::{EntryId, Message, ReadError, SpoolError};

/// Why a message cannot be taken out of the queue now.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// It is being delivered, or cannot be read.
    #[error(transparent)]
    Busy(#[from] OperateError),
    /// What became of it so far is not on stable storage.
    #[error(transparent)]
    Unsynced(#[from] SpoolError),
}

impl Deliveries {
    /// Take a message out of the schedule, with all that became of it so far; `None` if there is
    /// nothing left to deliver. Refused while it is not in the schedule. It stays in the spool: a
    /// restart, or [`Deliveries::adopt`], schedules it again.
    pub async fn take(&self, id: EntryId) -> Result<Option<Message>, TakeError> {
        let inner = &self.inner;
        let Some(message) = inner.load_entry(id).await.map_err(OperateError::from)? else {
            return Ok(None);
        };
        inner.unschedule(&message)?;
        // Outcomes recorded until then are in what is read now.
        let read = match inner.parts.spool.flush().await {
            Ok(()) => {
                inner.load_entry(id).await.map_err(|e| TakeError::from(OperateError::from(e)))
            }
            Err(error) => Err(error.into()),
        };
        if read.is_err() {
            inner.recover(&recovered(&message));
        }
        read
    }

    /// Schedule a message that is in the spool and not in the schedule.
    pub async fn adopt(&self, id: EntryId) -> Result<(), ReadError> {
        if let Some(message) = self.inner.load_entry(id).await? {
            self.inner.recover(&recovered(&message));
        }
        Ok(())
    }
}

impl Inner {
    /// Remove all jobs of a message, unless one is running.
    ///
    /// **Invariant:** a message without a job is somebody else's to decide on: it has just been
    /// stored and will be scheduled, or is being ended. Two would deliver it, or one deliver what
    /// another has ended.
    fn unschedule(self: &Arc<Self>, message: &Message) -> Result<(), OperateError> {
        let (id, names) = (message.id, by_destination(&message.envelope, |_| true));
        self.update(|core, now| {
            let states = names.iter().filter_map(|(name, _)| core.schedule.state(id, name));
            let states: Vec<JobState> = states.collect();
            if states.is_empty() {
                return Err(OperateError::OnItsWay(id));
            }
            if states.contains(&JobState::Running) {
                return Err(OperateError::Running(id));
            }
            core.forget_fresh(id);
            for (name, _) in &names {
                let removal = core.schedule.remove(id, name, now);
                debug_assert_ne!(removal, Removal::Running, "looked at under the same lock");
            }
            Ok(())
        })
    }
}
