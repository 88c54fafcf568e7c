//! Stage 9b: what a verdict reports to the fleet.
//!
//! A customer's server that refuses a recipient as unknown gives one *event* for that recipient of
//! that message; one that takes mail for an address with rejections gives another, which clears
//! them. [`Reports::record`] takes events from the worker, and [`Reports::run`] proposes them to
//! the fleet, many in one command.
//!
//! # Counted exactly once
//!
//! 1. An event is on stable storage, in the [`outbox`], before the spool is told that the
//!    recipient has failed. A crash in between repeats the attempt, and the refusal that comes
//!    again is recognised by (queue id, recipient): the keys of all events on disk whose message
//!    is still queued are known from the start.
//! 2. What is proposed together is written down as a *batch*, with its (incarnation, sequence) and
//!    request id, and synced, before it is proposed for the first time. One batch is on its way
//!    at a time, and it is proposed, across crashes too, with the same bytes until its outcome is
//!    known. The fleet takes each (node, incarnation, sequence) once, in order.
//! 3. An incarnation is one life of the process. Its number is synced before first use, and is at
//!    least the wall clock, so that it grows even if the file is lost.
//! 4. A file of the outbox goes when all its events are decided and the spool has synced what it
//!    was told after them; keys that may still be needed move to the next file.
//!
//! What need not be counted (that mail was taken for an address nothing is known against) is told
//! beside that, from memory: [`News`].
//!
//! Without a quorum events wait on disk. Their number is bounded; the oldest go first, counted in
//! `mxfleet_blacklist_events_dropped_total`.

mod backlog;
mod gauges;
mod key;
mod news;
mod outbox;
mod record;
mod reporter;
#[cfg(test)]
mod tests;

pub use key::key;
pub use news::News;
pub use outbox::OutboxError;
pub use record::{Event, What};
pub use reporter::Reports;
