//! Whether this host takes mail, as the fleet has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Whether this host takes mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceState {
    /// It does.
    Serving,
    /// Not for now: it is being emptied (421).
    Away,
    /// Not any more (521, RFC 7504).
    Retired,
}

/// The state, shared. Sessions look at it before each command, so that costs nothing.
#[derive(Debug, Clone, Default)]
pub struct Service(Arc<AtomicU8>);

impl Service {
    /// How it is now.
    pub fn state(&self) -> ServiceState {
        match self.0.load(Ordering::Relaxed) {
            0 => ServiceState::Serving,
            1 => ServiceState::Away,
            _ => ServiceState::Retired,
        }
    }

    /// How it is from now on.
    pub fn set(&self, state: ServiceState) {
        self.0.store(state as u8, Ordering::Relaxed);
    }

    /// Whether mail is taken.
    pub fn is_serving(&self) -> bool {
        self.state() == ServiceState::Serving
    }
}
