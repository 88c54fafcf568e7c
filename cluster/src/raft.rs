//! openraft's types as this crate fills them in, and the timings.

use std::borrow::Borrow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError, Kind};
use crate::octets::Octets;
use crate::snapshot::SnapshotFile;
use crate::state::{Outcome, Request};

openraft::declare_raft_types!(
    /// What openraft is built with.
    pub(crate) Types:
        D = Batch,
        R = Replies,
        NodeId = u64,
        Node = Peer,
        Entry = openraft::Entry<Types>,
        SnapshotData = SnapshotFile,
        AsyncRuntime = Runtime,
);

#[cfg(not(test))]
pub(crate) type Runtime = openraft::TokioRuntime;
/// The same with a random number generator that a simulation can seed.
#[cfg(test)]
pub(crate) type Runtime = crate::simulation::SeededRuntime;

pub(crate) type NodeId = u64;
pub(crate) type Entry = openraft::Entry<Types>;
pub(crate) type LogId = openraft::LogId<NodeId>;
pub(crate) type Vote = openraft::Vote<NodeId>;
pub(crate) type Membership = openraft::StoredMembership<NodeId, Peer>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<NodeId, Peer>;
pub(crate) type StorageError = openraft::StorageError<NodeId>;
pub(crate) type StorageIOError = openraft::StorageIOError<NodeId>;
pub(crate) type Raft = openraft::Raft<Types>;

/// Log entries in one append: fewer when they are large, see `log::READ_OCTETS_MAX`.
const APPEND_ENTRIES_MAX: u64 = 256;
const HEARTBEAT_MS: u64 = 200;
const ELECTION_MIN_MS: u64 = 600;
const ELECTION_MAX_MS: u64 = 1000;
/// The whole transfer of a snapshot; progress within it has its own, shorter deadline.
const SNAPSHOT_MS: u64 = 600_000;
/// A learner that is fewer entries behind counts as up to date.
const LAG_ENTRIES: u64 = 20_000;
/// Entries kept behind a snapshot at most, so that a node back from a restart needs no snapshot;
/// see `upkeep::purge` for fewer.
const KEPT_ENTRIES: u64 = 5_000;
const PURGE_ENTRIES: u64 = 1024;

/// The timings. A leader is replaced within about `ELECTION_MAX_MS` (its lease) plus one election
/// timeout: 1.6 to 2 seconds.
pub(crate) fn config(fleet: &str) -> Result<Arc<openraft::Config>, Box<openraft::ConfigError>> {
    let config = openraft::Config {
        cluster_name: fleet.to_owned(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MIN_MS,
        election_timeout_max: ELECTION_MAX_MS,
        install_snapshot_timeout: SNAPSHOT_MS,
        max_payload_entries: APPEND_ENTRIES_MAX,
        replication_lag_threshold: LAG_ENTRIES,
        // By octets and time instead, see `upkeep::keep`: entries differ by a thousand times.
        snapshot_policy: openraft::SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: KEPT_ENTRIES,
        purge_batch_size: PURGE_ENTRIES,
        ..openraft::Config::default()
    };
    config.validate().map(Arc::new).map_err(Box::new)
}

/// A leader that no quorum answered for this long refuses proposals instead of storing them.
pub(crate) const QUORUM_SILENCE_MS_MAX: u64 = ELECTION_MAX_MS + HEARTBEAT_MS;

/// Where a member can be reached, as Raft's membership holds it. The hosts table may know better.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) address: String,
}

/// A batch from this size on is packed.
const PACKED_OCTETS_LEAST: usize = 8 << 10;

/// Requests that share one log entry, kept encoded until they are applied.
///
/// A node that does not know a command can so still store it and hand it on; applying it stops the
/// node with a clear message instead of skipping it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Batch(Octets);

impl Batch {
    pub(crate) fn new<R: Borrow<Request> + Serialize>(requests: &[R]) -> Result<Self, CodecError> {
        let bytes = codec::encode(Kind::Batch, &requests)?;
        let packed = bytes.len() >= PACKED_OCTETS_LEAST;
        let bytes = if packed { codec::pack(Kind::PackedBatch, &bytes)? } else { bytes };
        Ok(Self(Octets(bytes.into())))
    }

    /// One request with a command that no version knows yet.
    #[cfg(test)]
    pub(crate) fn of_a_newer_version() -> Self {
        let command = u32::MAX; // as the number of a variant
        let request = [(1_u128, "ops", 1_u64, None::<u64>, command)];
        Self(Octets(codec::encode(Kind::Batch, &request).unwrap().into()))
    }

    /// The requests, and how many octets they are when they are not packed.
    pub(crate) fn read(&self) -> Result<(Vec<Request>, usize), CodecError> {
        let mut bytes = self.0.0.clone();
        if codec::is_of(Kind::PackedBatch, &bytes) {
            bytes = codec::unpack(Kind::PackedBatch, &bytes)?.into();
        }
        Ok((codec::decode(Kind::Batch, &bytes)?, bytes.len()))
    }

    pub(crate) fn octets(&self) -> usize {
        self.0.0.len()
    }
}

/// What each request of a batch came to, in order; empty for entries of Raft's own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Replies(pub(crate) Vec<Outcome>);
