//! What goes into the schedule and comes out of it.

use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Recipients;

/// The bounds a schedule keeps to.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Connections in all.
    pub connections_max: usize,
    /// Connections to one destination when nothing is known of it.
    pub window_start: u32,
    /// First pause before a failing destination is probed; doubles up to the next.
    pub probe_pause_min: Duration,
    /// Longest pause before a failing destination is probed again.
    pub probe_pause_max: Duration,
}

/// What the schedule demands of an id: cheap, and ordered by the age of the message.
pub trait Id: Copy + Ord + Hash {}

impl<T: Copy + Ord + Hash> Id for T {}

/// When a new job is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Now; it has just come in.
    Fresh,
    /// Then; if that is past, now.
    At(Instant),
    /// When an operator releases it.
    Held,
}

/// A job to add.
#[derive(Debug)]
pub struct Arrival<'a, I> {
    /// The message.
    pub id: I,
    /// The domain of its recipients.
    pub domain: &'a str,
    /// Which of the message's recipients.
    pub recipients: Recipients,
    /// When it is due.
    pub due: Due,
    /// How many connections this domain may have.
    pub connections_max: u32,
}

/// A job in the hands of a worker. It must come back by [`Schedule::finish`] or
/// [`Schedule::give_back`].
#[derive(Debug)]
#[must_use = "a ticket that is dropped leaves its message running for ever"]
pub struct Ticket<I> {
    pub(super) slot: u32,
    /// The message.
    pub id: I,
    /// Which of its recipients.
    pub recipients: Recipients,
    /// Since when it is due.
    pub due: Instant,
}

/// Leave to have one connection. It must come back by [`Schedule::closed`].
#[derive(Debug)]
#[must_use = "a permit that is dropped takes up a connection for ever"]
pub struct Permit {
    pub(super) destination: u32,
    pub(super) serial: u64,
    pub(super) domain: Arc<str>,
}

impl Permit {
    /// The domain to connect to.
    pub fn domain(&self) -> &Arc<str> {
        &self.domain
    }

    /// A number for the destination, the same for all its permits that exist at one time.
    pub fn destination(&self) -> u32 {
        self.destination
    }
}

/// What to start.
#[derive(Debug)]
pub enum Start<I> {
    /// Open a connection and deliver this.
    Open(Permit, Ticket<I>),
    /// Give this to an idle connection of this destination.
    Resume(u32, Ticket<I>),
}

/// What a connection that has finished a job does next.
#[derive(Debug)]
pub enum Next<I> {
    /// Deliver this.
    Deliver(Ticket<I>),
    /// Wait for something to come.
    Idle,
    /// Make room for others.
    Close,
}
