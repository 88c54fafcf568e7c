//! The sender's side.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mxfleet_cluster::{HostState, PeerError, Topic};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::words::{Ask, Offer, Owner, Reply};
use super::{Busy, Inner, LOOK_EVERY, lock};
use crate::letters::News;
use crate::spool::{EntryId, Hold, Message};
use crate::system::clock::wall_ms;
use crate::telemetry::metrics::METRICS;

/// Messages on their way at a time.
const FLIGHTS_MAX: usize = 32;
/// Text on its way at a time, in KiB: far below what a connection buffers, so that the fleet's
/// consensus, which shares it, never waits.
const FLIGHT_KIB_MAX: u32 = 4096;
/// A host that did not take a message is left alone for this.
const PAUSE: Duration = Duration::from_secs(5);
/// Messages in one call that is about ids only.
const IDS_MAX: usize = 1000;
/// Pieces of a text that wait for the network.
const PIECES: usize = 4;

/// What is known of the hosts that can take messages.
#[derive(Debug, Default)]
pub(super) struct Receivers {
    /// Messages they have, as last told, and offered since.
    queued: HashMap<u64, u64>,
    pause_until: HashMap<u64, Instant>,
}

impl Inner {
    /// Hand over everything, for as long as this host is not in service.
    pub(super) async fn empty(self: &Arc<Self>) {
        let (flights, room) = (
            Arc::new(Semaphore::new(FLIGHTS_MAX)),
            Arc::new(Semaphore::new(FLIGHT_KIB_MAX as usize)),
        );
        loop {
            sleep(LOOK_EVERY).await;
            if self.parts.service.is_serving() {
                continue;
            }
            let mut tasks = JoinSet::new();
            for id in self.parts.spool.ids() {
                if self.parts.service.is_serving() {
                    break;
                }
                if self.parts.spool.hold_of(id).is_none_or(|hold| !hold.is_ours()) {
                    continue;
                }
                let Ok(flight) = Arc::clone(&flights).acquire_owned().await else { return };
                let (inner, room) = (Arc::clone(self), Arc::clone(&room));
                tasks.spawn(async move {
                    inner.hand_over(id, &room).await;
                    drop(flight);
                });
                while tasks.try_join_next().is_some() {}
            }
            while tasks.join_next().await.is_some() {}
        }
    }

    /// Hand over one message; whatever fails leaves it in the queue.
    async fn hand_over(&self, id: EntryId, room: &Semaphore) {
        let Some(to) = self.receiver() else { return sleep(LOOK_EVERY).await };
        let Some(_busy) = self.begin(id) else { return };
        if self.parts.spool.hold_of(id).is_none_or(|hold| !hold.is_ours()) {
            return; // it was decided meanwhile
        }
        let message = match self.parts.deliveries.take(id).await {
            Ok(Some(message)) => message,
            Ok(None) => return,
            // It is looked at again in the next pass.
            Err(error) => return tracing::debug!(%id, %error, "a message stays for now"),
        };
        let kib = u32::try_from(message.octets / 1024 + 1).unwrap_or(u32::MAX).min(FLIGHT_KIB_MAX);
        let Ok(_room) = room.acquire_many(kib).await else { return };
        if let Err(why) = self.offer(&message, to).await {
            tracing::info!(%id, to, "a message was not handed over: {why}");
            lock(&self.receivers).pause_until.insert(to, Instant::now() + PAUSE);
            return self.give_back(id).await;
        }
        if let Some(letter) = message.envelope.migration_letter()
            && let Err(error) = self.parts.letters.keep(letter, News::Moved, wall_ms()).await
        {
            // The other one lets it go when it asks.
            tracing::error!(%id, %error, "a letter stays: that it moves is not remembered");
            return self.give_back(id).await;
        }
        let to = u16::try_from(to).unwrap_or_default();
        let held = message.hold.is_operators();
        self.parts.spool.set_hold(id, Hold::Handed { to, held });
        METRICS.handed_over_total.with_label_values(&["sent"]).inc();
        self.tell(to, vec![id]).await;
    }

    async fn give_back(&self, id: EntryId) {
        while let Err(error) = self.parts.deliveries.adopt(id).await {
            tracing::error!(%id, %error, "a message that was not handed over cannot be read");
            sleep(PAUSE).await;
        }
    }

    /// Offer a message; `Ok` when the other has it on stable storage.
    async fn offer(&self, message: &Message, to: u64) -> Result<(), String> {
        let ask = Ask::Offer(Box::new(Offer {
            id: message.id,
            octets: message.octets,
            held: message.hold.is_operators(),
            envelope: message.envelope.as_ref().clone(),
            states: message.states.clone(),
        }));
        let (pieces, tail) = mpsc::channel(PIECES);
        let text = send_text(message, pieces);
        let call = self.parts.cluster.ask_peer(to, Topic::HAND_OVER, ask.encode(), Some(tail));
        let (read, answered) = tokio::join!(text, call);
        read?;
        match parse(answered)? {
            Reply::Stored { queued } => {
                lock(&self.receivers).queued.insert(to, queued);
                Ok(())
            }
            Reply::Refused { why } => Err(why),
            _ => Err("it answered something else".to_owned()),
        }
    }

    /// Tell a node that messages are its own, once that is recorded here; and forget them. What
    /// fails is done again by [`Inner::settle`].
    async fn tell(&self, to: u16, ids: Vec<EntryId>) {
        if let Err(error) = self.parts.spool.flush().await {
            return tracing::warn!(%error, "what was handed over is not recorded yet");
        }
        for ids in ids.chunks(IDS_MAX) {
            let ask = Ask::Yours { ids: ids.to_vec() };
            match parse(
                self.parts
                    .cluster
                    .ask_peer(u64::from(to), Topic::HAND_OVER, ask.encode(), None)
                    .await,
            ) {
                Ok(Reply::Done) => ids.iter().for_each(|id| self.parts.spool.forget_copy(*id)),
                Ok(other) => tracing::info!(to, ?other, "a node does not take yet what is its own"),
                Err(why) => tracing::debug!(to, "a node was not told what is its own: {why}"),
            }
        }
    }

    /// Tell nodes what is theirs, where that was cut short.
    pub(super) async fn settle(&self) {
        loop {
            sleep(LOOK_EVERY).await;
            for (to, ids) in self.on_their_way(handed) {
                let busy: Vec<Busy<'_>> = ids.into_iter().filter_map(|id| self.begin(id)).collect();
                let still = |id: &EntryId| self.parts.spool.hold_of(*id).and_then(handed);
                let ids = busy.iter().map(|busy| busy.id).filter(|id| still(id) == Some(to));
                self.settle_with(to, ids.collect()).await;
            }
        }
    }

    pub(super) async fn settle_with(&self, to: u16, ids: Vec<EntryId>) {
        let (state, host) = (self.parts.cluster.view(), u64::from(to));
        match () {
            () if state.host(host).is_some() => self.tell(to, ids).await,
            // It knew that they were its own, or it would not have been empty.
            () if state.left_empty(host) => {
                ids.iter().for_each(|id| self.parts.spool.forget_copy(*id));
            }
            () => self.take_back(to, &ids).await,
        }
    }

    /// Messages of a host that is lost are ours again: it may have delivered some of them, but
    /// nobody knows which.
    async fn take_back(&self, to: u16, ids: &[EntryId]) {
        tracing::warn!(to, "the receiver of {} messages is lost; they are ours again", ids.len());
        for id in ids {
            if let Some(hold) = self.parts.spool.hold_of(*id) {
                self.parts.spool.set_hold(*id, hold.operators());
            }
        }
        if let Err(error) = self.parts.spool.flush().await {
            tracing::warn!(%error, "that messages are ours again is not recorded yet");
        }
        for id in ids {
            self.give_back(*id).await;
        }
    }

    /// Whose messages are that this node once offered to `from`.
    pub(super) async fn owners(&self, from: u64, ids: &[EntryId]) -> Reply {
        if let Err(error) = self.parts.spool.flush().await {
            return Reply::refused(error.to_string()); // what we know might be forgotten
        }
        let owner = |id: &EntryId| {
            if self.is_busy(*id) {
                return Owner::Undecided;
            }
            match self.parts.spool.hold_of(*id) {
                Some(Hold::Handed { to, .. }) if u64::from(to) == from => Owner::Yours,
                _ => Owner::NotYours,
            }
        };
        Reply::Owners { owners: ids.iter().map(owner).collect() }
    }

    /// The host in service that has the least to do.
    fn receiver(&self) -> Option<u64> {
        let state = self.parts.cluster.view();
        let mut receivers = lock(&self.receivers);
        let now = Instant::now();
        receivers.pause_until.retain(|_, until| *until > now);
        let serves = |host: &&mxfleet_cluster::Host| {
            host.id != self.parts.node && host.state == HostState::InService
        };
        let ids = state.hosts().filter(serves).map(|host| host.id);
        let free = ids.filter(|id| !receivers.pause_until.contains_key(id));
        let chosen = free.min_by_key(|id| receivers.queued.get(id).copied().unwrap_or_default())?;
        *receivers.queued.entry(chosen).or_default() += 1;
        Some(chosen)
    }
}

fn handed(hold: Hold) -> Option<u16> {
    match hold {
        Hold::Handed { to, .. } => Some(to),
        _ => None,
    }
}

/// The text of a message, as the spool has it. An end before its end is seen by the receiver.
async fn send_text(message: &Message, pieces: mpsc::Sender<Bytes>) -> Result<(), String> {
    let mut text = message.text();
    while let Some(piece) = text.next_chunk().await.map_err(|error| error.to_string())? {
        if pieces.send(piece).await.is_err() {
            break; // the call has ended, and says why
        }
    }
    Ok(())
}

pub(super) fn parse(answered: Result<Vec<u8>, PeerError>) -> Result<Reply, String> {
    let body = answered.map_err(|error| error.to_string())?;
    serde_json::from_slice(&body).map_err(|error| error.to_string())
}
