//! What a node does by itself: it leads the membership after the hosts table, lets dates act, says
//! where it is, takes snapshots, and renews its certificate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use openraft::ChangeMembers;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};

use crate::cluster::{Cluster, Node, Shared};
use crate::join::random_id;
use crate::membership::{Role, Seen, Step, next_step};
use crate::raft::{LogId, NodeId, Peer};
use crate::renewal;
use crate::service::progress;
use crate::state::{Command, HostCommand, MigrationCommand, Request, State};
use crate::transfer;
use crate::transport::wire::{Answer, Ask};
use crate::vault;

const LEAD_EVERY: Duration = Duration::from_millis(250);
/// A step of the membership needs two log entries on a quorum.
const STEP: Duration = Duration::from_secs(5);
/// How long the voters that stay may take to say that they are there.
const HEAR: Duration = Duration::from_secs(1);
/// How soon after its time a date acts.
const DATES_EVERY: Duration = Duration::from_secs(1);
const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);
/// The fleet's clock moves on at least so often, for what depends on it in the state.
const TICK_MS: u64 = 60_000;
const SNAPSHOT_CHECK_EVERY: Duration = Duration::from_secs(1);
/// A snapshot is taken after so much log, or a share of what the last one took, so that a large
/// state is not written again for a little log; or after so much time if there is any log.
const SNAPSHOT_OCTETS: u64 = 16 << 20;
const SNAPSHOT_SHARE: u64 = 4;
const SNAPSHOT_EVERY: Duration = Duration::from_secs(3600);
const RENEW_CHECK_EVERY: Duration = Duration::from_secs(3600);
const ACTOR: &str = "fleet";

/// Start all of it. It ends when the cluster is shut down or its last handle is gone.
pub(crate) fn start(cluster: &Cluster) {
    let shared = Arc::downgrade(&cluster.shared);
    every(&shared, LEAD_EVERY, async |cluster| lead(&cluster).await);
    every(&shared, DATES_EVERY, async |cluster| keep_dates(&cluster).await);
    every(&shared, ANNOUNCE_EVERY, async |cluster| vault::fetch(&cluster).await);
    every(&shared, ANNOUNCE_EVERY, async |cluster| announce(&cluster).await);
    every(&shared, SNAPSHOT_CHECK_EVERY, async |cluster| keep(&cluster).await);
    every(&shared, RENEW_CHECK_EVERY, async |cluster| {
        renewal::renew(&cluster).await;
    });
}

fn every<F, W>(shared: &Weak<Shared>, period: Duration, work: F)
where
    F: Fn(Cluster) -> W + Send + 'static,
    W: Future<Output = ()> + Send,
{
    let shared = Weak::clone(shared);
    tokio::spawn(async move {
        let mut pace = interval(period);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            pace.tick().await;
            let Some(shared) = shared.upgrade() else { return };
            let cluster = Cluster { shared };
            if cluster.node().is_ok_and(|node| !node.stop.is_cancelled()) {
                work(cluster).await;
            } else {
                return;
            }
        }
    });
}

/// Take a snapshot when there is much log, or when the last one is long ago.
async fn keep(cluster: &Cluster) {
    let Ok(node) = cluster.node() else { return };
    purge(node).await;
    let octets = cluster.shared.view.unsaved_octets();
    let age = cluster.shared.view.since_saved();
    let much = SNAPSHOT_OCTETS.max(cluster.shared.view.saved_octets() / SNAPSHOT_SHARE);
    if octets >= much || (octets > 0 && age >= SNAPSHOT_EVERY) {
        cluster.shared.view.saving();
        if let Err(error) = node.raft.trigger().snapshot().await {
            tracing::warn!(%error, "no snapshot was taken");
        }
    }
}

/// Let go of what is in the snapshot before the newest one.
///
/// openraft keeps a number of entries. Large ones of that number are more than the state they led
/// to, and a newcomer would be sent all of them instead of a snapshot.
async fn purge(node: &Node) {
    let (newest, purged) = {
        let metrics = node.raft.metrics();
        let metrics = metrics.borrow();
        let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
        (index(metrics.snapshot), index(metrics.purged))
    };
    let before = {
        let mut saved = node.saved.lock().unwrap_or_else(PoisonError::into_inner);
        if newest > saved[1] {
            *saved = [saved[1], newest];
        }
        saved[0]
    };
    if before > purged
        && let Err(error) = node.raft.trigger().purge_log(before).await
    {
        tracing::warn!(%error, "the log was not cut");
    }
}

/// One step of the membership, if this node leads and one is due.
async fn lead(cluster: &Cluster) {
    let Ok(node) = cluster.node() else { return };
    let leads = node.forwarder.proposer.not_now().is_none();
    let led_ms = {
        let mut led = node.led.lock().unwrap_or_else(PoisonError::into_inner);
        *led = leads.then(|| led.unwrap_or_else(Instant::now));
        led.map_or(0, |since| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX))
    };
    if !leads {
        return;
    }
    let state = cluster.view();
    if state.hosts().next().is_none() {
        return; // the founder has not put itself into the table yet
    }
    let membership = node.raft.metrics().borrow().membership_config.membership().clone();
    let configs = membership.get_joint_config();
    let result = if let [_, last] = configs.as_slice() {
        // The leader before was lost between the two halves of a change.
        change(node, ChangeMembers::ReplaceAllVoters(last.clone())).await
    } else {
        let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
        let members: Vec<NodeId> = membership.nodes().map(|(id, _)| *id).collect();
        let voters_max = state.settings().count("cluster.voters_max");
        let seen = seen(node, &state, &voters, &members);
        let voters_max = usize::try_from(voters_max).unwrap_or(usize::MAX);
        match next_step(&seen, node.who.node, voters_max, led_ms) {
            Some(step) => take(node, &state, step, voters).await,
            None => return,
        }
    };
    if let Err(error) = result {
        tracing::warn!(%error, "a change of the membership was not made; it is tried again");
    }
}

fn seen(
    node: &Node,
    state: &State,
    voters: &BTreeSet<NodeId>,
    members: &[NodeId],
) -> BTreeMap<NodeId, Seen> {
    let progress = progress(&node.raft, &node.forwarder.network);
    let ids: BTreeSet<NodeId> =
        state.hosts().map(|host| host.id).chain(members.iter().copied()).collect();
    let look = |id: NodeId| {
        let host = state.host(id);
        let known = progress.iter().find(|progress| progress.node == id);
        let role = if voters.contains(&id) {
            Some(Role::Voter)
        } else {
            members.contains(&id).then_some(Role::Learner)
        };
        Seen {
            wanted: host.is_some(),
            preferred: host.is_some_and(|host| host.preferred),
            stands_down: host.is_some_and(|host| host.state.stands_down()),
            role,
            lag_entries: known.map(|progress| progress.lag_entries),
            silent_ms: known.and_then(|progress| progress.silent_ms),
        }
    };
    ids.into_iter().map(|id| (id, look(id))).collect()
}

async fn take(
    node: &Node,
    state: &State,
    step: Step,
    mut voters: BTreeSet<NodeId>,
) -> Result<(), String> {
    tracing::info!(?step, "the membership changes");
    match step {
        Step::TransferLead => {
            let transferred = transfer::lead(&node.forwarder.proposer).await;
            // If not, it is tried again after a while in which this node decides what waits.
            *node.led.lock().unwrap_or_else(PoisonError::into_inner) = None;
            transferred
        }
        Step::AddLearner(id) => {
            let Some(host) = state.host(id) else { return Ok(()) };
            let peer = Peer { name: host.name.clone(), address: host.address.clone() };
            change(node, ChangeMembers::AddNodes(BTreeMap::from([(id, peer)]))).await
        }
        Step::RemoveLearner(id) => {
            change(node, ChangeMembers::RemoveNodes(BTreeSet::from([id]))).await
        }
        Step::Promote(up) => {
            entrust(node, up).await?;
            voters.insert(up);
            change(node, ChangeMembers::ReplaceAllVoters(voters)).await
        }
        Step::Swap { up, down } => {
            entrust(node, up).await?;
            voters.insert(up);
            voters.remove(&down);
            hear(node, &voters).await?;
            change(node, ChangeMembers::ReplaceAllVoters(voters)).await
        }
        Step::Demote(down) | Step::RemoveVoter(down) => {
            voters.remove(&down);
            hear(node, &voters).await?;
            change(node, ChangeMembers::ReplaceAllVoters(voters)).await
        }
    }
}

/// Before a vote is taken away most of those that vote then say that they are there: one that was
/// heard a second ago may be lost since, and nothing could be decided without it.
async fn hear(node: &Node, voters: &BTreeSet<NodeId>) -> Result<(), String> {
    let mut asked = JoinSet::new();
    for id in voters.iter().copied().filter(|id| *id != node.who.node) {
        let forwarder = node.forwarder.clone();
        asked.spawn(async move {
            matches!(timeout(HEAR, forwarder.ask(id, Ask::Members)).await, Ok(Ok(_)))
        });
    }
    let others = asked.join_all().await.into_iter().filter(|answers| *answers).count();
    let up = others + usize::from(voters.contains(&node.who.node));
    if 2 * up > voters.len() {
        return Ok(());
    }
    Err("too few of the hosts that would vote after it answer".to_owned())
}

async fn change(node: &Node, change: ChangeMembers<NodeId, Peer>) -> Result<(), String> {
    match timeout(STEP, node.raft.change_membership(change, true)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no quorum agreed in time".to_owned()),
    }
}

/// Whoever may lead must be able to sign: give it the authority's key before it may vote.
async fn entrust(node: &Node, to: NodeId) -> Result<(), String> {
    let pem = node.home.authority_key().map_err(|error| error.to_string())?;
    let pem = pem.ok_or("this node does not hold the authority's key")?;
    match timeout(STEP, node.forwarder.ask(to, Ask::KeepKey { pem })).await {
        Ok(Ok(Answer::Done)) => Ok(()),
        Ok(Ok(Answer::Refused(why))) => Err(why),
        Ok(Ok(_)) => Err("it answered something else".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it did not answer".to_owned()),
    }
}

/// As the leader, do what is due by its date.
async fn keep_dates(cluster: &Cluster) {
    let Ok(node) = cluster.node() else { return };
    if node.forwarder.proposer.not_now().is_some() {
        return;
    }
    let (state, now_ms) = (cluster.view(), (node.config.clock)());
    let membership = node.raft.metrics().borrow().membership_config.membership().clone();
    let votes = |name: &str| {
        let host = state.host_named(name);
        host.is_some_and(|host| membership.voter_ids().any(|voter| voter == host.id))
    };
    for command in state.due(now_ms) {
        // Its vote is taken over first.
        if matches!(&command, Command::HostService(HostCommand::Retire { name, .. }) if votes(name))
        {
            continue;
        }
        let overdue = command == Command::Migration(MigrationCommand::Overdue);
        // Without a quorum it is tried again; a refusal means that somebody was quicker.
        let proposed = cluster.propose(Request::new(random_id(), ACTOR, now_ms, command)).await;
        if overdue && matches!(proposed, Ok(Ok(_))) {
            let customers = state.migration_overdue(now_ms);
            tracing::warn!(customers, "the date of a migration has come, and its old names stay");
        }
    }
}

/// Tell the fleet where this node is and what it runs, if the table says otherwise; and, as the
/// leader, raise the fleet's version to what all hosts speak, and move its clock on.
async fn announce(cluster: &Cluster) {
    let Ok(node) = cluster.node() else { return };
    let now_ms = (node.config.clock)();
    let state = cluster.view();
    let Some(host) = state.host(node.who.node) else { return };
    let address = node.address.to_string();
    let (version, speaks) = (node.config.version.clone(), node.config.speaks);
    let leads = node.forwarder.proposer.not_now().is_none();
    let command = if (&host.address, &host.version, host.speaks) != (&address, &version, speaks) {
        Command::HostAnnounce { id: node.who.node, address, version, speaks }
    } else if let Some(to) = state.version_due().filter(|_| leads) {
        Command::ClusterVersion { to }
    } else if leads && now_ms >= state.clock_ms().saturating_add(TICK_MS) {
        Command::Tick
    } else {
        return;
    };
    // Without a quorum it is tried again.
    let proposed = cluster.propose(Request::new(random_id(), ACTOR, now_ms, command)).await;
    if let Ok(Err(refusal)) = proposed {
        tracing::warn!(%refusal, "the fleet does not take what this node says of itself");
    }
}
