//! Backup, restore, and going on after a quorum is lost.
//!
//! A backup is one private file: a line of JSON with the authority's certificate and key, then a
//! snapshot. `restore` makes a new fleet of one node from it. `recover` makes a fleet of one node
//! out of a survivor. Both give the fleet a new id, so that nodes of the old one, should they come
//! back, are refused instead of being half-believed; they join again as new hosts.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::storage::{RaftLogStorage as _, RaftStateMachine as _};
use openraft::{CommittedLeaderId, RaftLogReader as _};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::authority::{self, Authority};
use crate::cluster::{Cluster, ClusterConfig};
use crate::hex;
use crate::identity::{Home, Who};
use crate::join::{ManageError, random_id};
use crate::log::{self, LogDisk, LogStore, SledDisk};
use crate::machine::Machine;
use crate::raft::{LogId, Membership, NodeId, Peer, SnapshotMeta, Vote};
use crate::snapshot::{self, SnapshotDir};
use crate::state::{NewHost, State};
use crate::takeover;

const FORMAT: u32 = 1;
/// The first line of a backup: a certificate and a key.
const HEAD_OCTETS_MAX: u64 = 64 << 10;

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    mxfleet_backup: u32,
    applied_index: u64,
    authority_hex: String,
    authority_key: Option<String>,
}

/// Why a backup was not read, or a fleet not recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// A file could not be read or written, or is not what it should be.
    #[error("{path}: {source}")]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// The folder has a node in it.
    #[error("{0} belongs to a fleet already")]
    Settled(PathBuf),
    /// A backup made on a node that does not vote lacks the key.
    #[error("the fleet's authority key is not here: take a node, or a backup of one, that voted")]
    NoKey,
    /// The state cannot be carried on.
    #[error("{0}")]
    Other(String),
}

/// What `recover` went on from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// The log index the state is at now.
    pub applied_index: u64,
    /// Entries of the log that may never have been acknowledged to anybody, and now count.
    pub uncertain_entries: u64,
    /// Hosts that are no longer part of the fleet.
    pub lost: Vec<String>,
    /// MX names that lead to them.
    pub orphaned: Vec<String>,
}

/// Which file it is about, and what to do.
fn cannot_write(path: &Path, error: &io::Error) -> io::Error {
    let why = match error.kind() {
        io::ErrorKind::AlreadyExists => "is there already; give the name of a new file".to_owned(),
        _ => format!("cannot be written: {error}"),
    };
    io::Error::new(error.kind(), format!("{} {why}", path.display()))
}

impl Cluster {
    /// Write this node's state to one new private file. It holds the fleet's secrets.
    pub async fn backup(&self, path: &Path) -> Result<(), ManageError> {
        let node = self.node()?;
        let (home, fleet) = (node.home.clone(), node.who.fleet_id().unwrap_or_default());
        let (state, path) = (self.view(), path.to_owned());
        let work = move || {
            let head = Head {
                mxfleet_backup: FORMAT,
                applied_index: state.applied_index(),
                authority_hex: hex::encode(&home.load()?.authority),
                authority_key: home.authority_key()?,
            };
            let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
            let mut file = opened.map_err(|error| cannot_write(&path, &error))?;
            serde_json::to_writer(&file, &head)?;
            file.write_all(b"\n")?;
            snapshot::write_to(file, fleet, &SnapshotMeta::default(), &state)
        };
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other)??;
        Ok(())
    }

    /// Make a new fleet with the state in a backup; this node, named `name`, is its only one. What
    /// comes back are the MX names: they lead to hosts of the old fleet. Blocks.
    /// [`Cluster::start`] does the rest.
    pub fn restore(
        config: &ClusterConfig,
        backup: &Path,
        name: &str,
    ) -> Result<Vec<String>, RecoveryError> {
        let home = Home::new(config.dir.clone());
        if home.is_settled() {
            return Err(RecoveryError::Settled(config.dir.clone()));
        }
        let io = |source| RecoveryError::Io { path: backup.to_owned(), source };
        let other = |error: &dyn std::fmt::Display| RecoveryError::Other(error.to_string());
        let mut file = BufReader::new(File::open(backup).map_err(io)?);
        let mut line = Vec::new();
        file.by_ref().take(HEAD_OCTETS_MAX).read_until(b'\n', &mut line).map_err(io)?;
        let head: Head = serde_json::from_slice(&line).map_err(|e| io(e.into()))?;
        let (_, mut state) = snapshot::read_from(file, None).map_err(io)?;
        is_new_enough(config, &state)?;
        let key_pem = head.authority_key.ok_or(RecoveryError::NoKey)?;
        let certificate =
            CertificateDer::from(hex::decode(&head.authority_hex).unwrap_or_default());
        let authority = Authority::load(&certificate, &key_pem).map_err(|e| other(&e))?;

        let now_ms = (config.clock)();
        let key = authority::new_key().map_err(|e| other(&e))?;
        let csr = authority::request(&key).map_err(|e| other(&e))?;
        let host = NewHost {
            name: name.to_owned(),
            address: config.advertise.unwrap_or(config.listen).to_string(),
            version: config.version.clone(),
            key: authority::key_hash(&csr).map_err(|e| other(&e))?,
            speaks: config.speaks,
        };
        let node = state.refound(&host).map_err(|e| other(&e))?;
        let signed = authority.sign(&csr, node, now_ms).map_err(|e| other(&e))?;
        let who = Who {
            fleet: format!("{:032x}", random_id()),
            node,
            name: name.to_owned(),
            founder: true,
            begun: true,
            certified_ms: now_ms,
        };
        let io = |source| RecoveryError::Io { path: config.dir.clone(), source };
        let index = state.applied_index().max(1);
        let last = LogId { leader_id: CommittedLeaderId::new(1, node), index };
        let peer = Peer { name: host.name, address: host.address };
        let install = || {
            takeover::discard(&home)?;
            let new = takeover::begin(&home)?;
            write_fleet(&new, &who, peer, last, &state)?;
            new.keep_authority_key(&key_pem)?;
            new.settle(&who, &certificate, &signed, &key.serialize_pem())?;
            takeover::commit(&home, &[])?;
            takeover::finish(&home).map(|_| ())
        };
        install().map_err(io)?;
        Ok(orphaned(&state, now_ms))
    }

    /// After a majority of the voters is lost for good: make this stopped node a fleet of its own,
    /// with all it knows. What only the lost nodes knew is lost; what this node knew but no quorum
    /// had confirmed counts from now on. What it had stays in a folder beside. If it is
    /// interrupted, it is to be called again. Blocks.
    pub fn recover(config: &ClusterConfig) -> Result<Recovered, RecoveryError> {
        let home = Home::new(config.dir.clone());
        let io = |source| RecoveryError::Io { path: config.dir.clone(), source };
        let other = |error: &dyn std::fmt::Display| RecoveryError::Other(error.to_string());
        let report = |bytes: Vec<u8>| serde_json::from_slice(&bytes).map_err(|e| io(e.into()));
        if let Some(bytes) = takeover::finish(&home).map_err(io)? {
            return report(bytes);
        }
        let identity = home.load().map_err(io)?;
        if home.authority_key().map_err(io)?.is_none() {
            return Err(RecoveryError::NoKey);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let known = runtime.map_err(io)?.block_on(replay(&home, identity.fleet));
        let Known { mut state, last, uncertain } = known.map_err(|error| other(&error))?;
        is_new_enough(config, &state)?;
        let me = identity.who.node;
        let Some(host) = state.host(me).cloned() else {
            let name = &identity.who.name;
            return Err(RecoveryError::Other(format!("{name} is not a host of its fleet")));
        };
        let gone = state.hosts().filter(|host| host.id != me);
        let lost = gone.map(|host| host.name.clone()).collect();
        state.keep_only(me);
        let who = Who { fleet: format!("{:032x}", random_id()), ..identity.who };
        let peer = Peer { name: host.name, address: host.address };
        let applied_index = state.applied_index();
        let orphaned = orphaned(&state, (config.clock)());
        let recovered = Recovered { applied_index, uncertain_entries: uncertain, lost, orphaned };
        let install = || {
            let new = takeover::begin(&home)?;
            write_fleet(&new, &who, peer, last, &state)?;
            new.set_who(&who)?;
            takeover::commit(&home, &serde_json::to_vec(&recovered)?)?;
            takeover::finish(&home).map(|_| ())
        };
        install().map_err(io)?;
        Ok(recovered)
    }
}

fn orphaned(state: &State, now_ms: u64) -> Vec<String> {
    state.orphaned_names(now_ms).map(|row| row.name.clone()).collect()
}

fn is_new_enough(config: &ClusterConfig, state: &State) -> Result<(), RecoveryError> {
    let too_old = state.too_old(&config.version, config.speaks);
    too_old.map_or(Ok(()), |why| Err(RecoveryError::Other(why)))
}

struct Known {
    state: State,
    last: LogId,
    uncertain: u64,
}

/// All this node knows: its snapshot, and every entry of its log, confirmed or not.
async fn replay(home: &Home, fleet: u128) -> io::Result<Known> {
    let disk: Arc<dyn LogDisk> = Arc::new(SledDisk::open(&home.log()).map_err(io::Error::other)?);
    let mut log = LogStore::open(disk, None)?;
    let snapshots = SnapshotDir::open(home.snapshots(), fleet, log.purged()?)?;
    let mut machine = Machine::open(snapshots)?;
    let from = machine.next_index();
    if log.first_kept() > from {
        let why = "its newest snapshot is gone, and its log begins after what that held";
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let committed = log.read_committed().await.map_err(io::Error::other)?;
    let entries = log.try_get_log_entries(from..).await.map_err(io::Error::other)?;
    let confirmed = committed.map_or(0, |id| id.index + 1);
    let uncertain = entries.iter().filter(|entry| entry.log_id.index >= confirmed).count() as u64;
    machine.apply(entries).await.map_err(io::Error::other)?;
    let (last, _) = machine.applied_state().await.map_err(io::Error::other)?;
    let last = last.ok_or_else(|| io::Error::other("this node never took part in its fleet"))?;
    Ok(Known { state: State::clone(&machine.view().state()), last, uncertain })
}

/// Write log and snapshot of a fleet whose only voter is `who`.
fn write_fleet(home: &Home, who: &Who, peer: Peer, last: LogId, state: &State) -> io::Result<()> {
    let fleet = who.fleet_id().unwrap_or_default();
    let voters = vec![std::collections::BTreeSet::from([who.node])];
    let nodes = std::collections::BTreeMap::from([(who.node, peer)]);
    let membership = openraft::Membership::new(voters, nodes);
    let meta = SnapshotMeta {
        last_log_id: Some(last),
        last_membership: Membership::new(Some(last), membership),
        snapshot_id: format!("recovered-{}", last.index),
    };
    SnapshotDir::open(home.snapshots(), fleet, None)?.write(&meta, state)?;
    let disk: Arc<dyn LogDisk> = Arc::new(SledDisk::open(&home.log()).map_err(io::Error::other)?);
    log::claim(&*disk, fleet, who.node)?;
    begin_log(disk, last, who.node)
}

/// An empty log that goes on after `last`, and a vote no older than it.
fn begin_log(disk: Arc<dyn LogDisk>, last: LogId, node: NodeId) -> io::Result<()> {
    let mut log = LogStore::open(disk, None)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        log.purge(last).await.map_err(io::Error::other)?;
        log.save_committed(Some(last)).await.map_err(io::Error::other)?;
        let vote = Vote::new(last.leader_id.term, node);
        log.save_vote(&vote).await.map_err(io::Error::other)
    })
}
