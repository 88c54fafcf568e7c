//! The whole of it, in one thread, against a seeded network, disks and clocks.
//!
//! Real: openraft, the log store, the state machine, snapshots, codec, proposer and forwarder.
//! Simulated: time (tokio's, paused), the network (delays, losses, cuts), the disks (what was not
//! synced is lost in a crash, up to a random point, and the last entry may be torn), the clocks
//! (one may be days off). A run is a function of its seed; clients record what they were told,
//! nodes what they have reported, and the oracle compares.
//!
//! `SIM_SEEDS=20000 cargo test -p mxfleet-cluster simulation` runs more than the usual 200.

mod disk;
mod fleet;
mod network;
mod reports;
mod runtime;
mod tests;

pub(crate) use runtime::SeededRuntime;

/// A mistake that is put back, to see whether the simulation notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    /// A vote is kept in memory only.
    VoteNotSynced,
    /// An append is reported before it is synced.
    AppendNotSynced,
    /// A crash loses what was synced.
    SyncedIsLost,
    /// Conflicting entries stay in the log.
    TruncateIgnored,
    /// An entry is changed on its way to one node.
    EntryChanged,
    /// A request is done again under another id.
    AppliedTwice,
    /// A leader says done before a quorum has it.
    AnsweredEarly,
    /// A client is told that nothing was changed, when it was.
    SaidNoToDone,
    /// A report whose outcome is unknown is sent again under another number.
    CountedTwice,
}
