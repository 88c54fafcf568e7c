//! The receiver's side.

use std::pin::Pin;
use std::time::Instant;

use mxfleet_cluster::{HostState, PeerHandler, PeerTail, Topic};
use tokio::time::{sleep, timeout};

use super::send::parse;
use super::words::{Ask, Offer, Owner, Reply};
use super::{ASK_AFTER, Busy, Inner, lock};
use crate::spool::{Copied, EntryId, Hold};
use crate::telemetry::metrics::METRICS;

/// Messages in one question.
const IDS_MAX: usize = 500;

impl PeerHandler for Inner {
    fn answer<'a>(
        &'a self,
        from: u64,
        body: Vec<u8>,
        tail: PeerTail,
    ) -> Pin<Box<dyn Future<Output = Vec<u8>> + Send + 'a>> {
        Box::pin(async move {
            let reply = match serde_json::from_slice(&body) {
                Ok(Ask::Offer(offer)) => self.take_in(from, *offer, tail).await,
                Ok(Ask::Yours { ids }) => self.own(from, &ids).await,
                Ok(Ask::Whose { ids }) => self.owners(from, &ids).await,
                Err(error) => Reply::refused(format!("it is not understood: {error}")),
            };
            reply.encode()
        })
    }
}

impl Inner {
    /// Store a message that node `from` offers, on hold.
    async fn take_in(&self, from: u64, offer: Offer, mut tail: PeerTail) -> Reply {
        let state = self.parts.cluster.view();
        let serves = |id| state.host(id).is_some_and(|host| host.state == HostState::InService);
        if !serves(self.parts.node) {
            return Reply::refused("this host is not in service");
        }
        let Some(_busy) = self.begin(offer.id) else {
            return Reply::refused("it is being offered already");
        };
        let id = offer.id;
        lock(&self.touched).insert(id, Instant::now());
        match self.make_room(id).await {
            Ok(false) => {}
            Ok(true) => {
                // Two have it, and one will. The text is read all the same.
                while let Ok(Some(_)) = tail.next().await {}
                return self.stored();
            }
            Err(why) => return Reply::refused(why),
        }
        match self.store(from, offer, tail).await {
            Ok(()) => {
                METRICS.handed_over_total.with_label_values(&["received"]).inc();
                self.stored()
            }
            Err(why) => {
                lock(&self.touched).remove(&id);
                Reply::refused(why)
            }
        }
    }

    /// Whether the message is this node's already. A copy that came before, and whose sender did
    /// not hear that, or that was handed over and comes back, is forgotten: what became of it since
    /// is in what comes now.
    pub(super) async fn make_room(&self, id: EntryId) -> Result<bool, String> {
        match self.parts.spool.hold_of(id) {
            None => Ok(false),
            Some(hold) if hold.is_ours() => Ok(true),
            Some(_) => self.forget(id).await.map(|()| false),
        }
    }

    async fn store(&self, from: u64, offer: Offer, mut tail: PeerTail) -> Result<(), String> {
        let from = u16::try_from(from).map_err(|error| error.to_string())?;
        let hold = Hold::Arriving { from, held: offer.held };
        let draft = self.parts.spool.begin_copy(offer.id, offer.octets);
        let mut draft = draft.map_err(|error| error.to_string())?;
        let mut octets = 0_u64;
        while let Some(piece) = tail.next().await.map_err(|error| error.to_string())? {
            octets += piece.len() as u64;
            if octets > offer.octets {
                break;
            }
            draft.push(&piece).await.map_err(|error| error.to_string())?;
        }
        if octets != offer.octets {
            return Err(format!("{octets} octets came instead of {}", offer.octets));
        }
        let copied = Copied { envelope: offer.envelope, states: offer.states, hold };
        draft.commit_copy(copied).await.map(drop).map_err(|error| error.to_string())
    }

    fn stored(&self) -> Reply {
        Reply::Stored { queued: self.parts.spool.stats().messages }
    }

    /// Messages that node `from` has recorded as ours: deliver them.
    pub(super) async fn own(&self, from: u64, ids: &[EntryId]) -> Reply {
        // Until it is recorded that they are ours, nobody else decides about them.
        let busy: Vec<Busy<'_>> = ids.iter().filter_map(|id| self.begin(*id)).collect();
        for Busy { id, .. } in &busy {
            match self.parts.spool.hold_of(*id) {
                Some(hold @ Hold::Arriving { from: sender, .. }) if u64::from(sender) == from => {
                    self.parts.spool.set_hold(*id, hold.operators());
                    lock(&self.owned).insert(*id);
                }
                _ => {} // it was told before
            }
        }
        if let Err(why) = self.adopt_owned().await {
            return Reply::refused(why);
        }
        if busy.len() < ids.len() {
            return Reply::refused("some are being looked at; say it again");
        }
        Reply::Done
    }

    /// Record durably that messages are ours, and schedule them. What fails is tried again: by then
    /// their holds do not show any more that nobody has scheduled them.
    async fn adopt_owned(&self) -> Result<(), String> {
        let owned: Vec<EntryId> = lock(&self.owned).iter().copied().collect();
        self.parts.spool.flush().await.map_err(|error| error.to_string())?;
        let mut failed = Ok(());
        for id in owned {
            if !lock(&self.owned).remove(&id) {
                continue;
            }
            lock(&self.touched).remove(&id);
            if let Err(error) = self.parts.deliveries.adopt(id).await {
                tracing::error!(%id, %error, "a message that was handed over cannot be read");
                lock(&self.owned).insert(id);
                failed = Err(error.to_string());
            }
        }
        failed
    }

    /// Ask whose the messages are that wait for their sender's word.
    pub(super) async fn resolve(&self) {
        loop {
            sleep(ASK_AFTER).await;
            if !lock(&self.owned).is_empty()
                && let Err(why) = self.adopt_owned().await
            {
                tracing::warn!("messages that were handed over are not delivered yet: {why}");
            }
            let arriving = |hold| match hold {
                Hold::Arriving { from, .. } => Some(from),
                _ => None,
            };
            for (from, ids) in self.on_their_way(arriving) {
                let silent = |id: &EntryId| {
                    lock(&self.touched).get(id).is_none_or(|at| at.elapsed() >= ASK_AFTER)
                };
                let ids: Vec<EntryId> = ids.into_iter().filter(silent).collect();
                for ids in ids.chunks(IDS_MAX) {
                    self.ask_about(u64::from(from), ids).await;
                }
            }
        }
    }

    pub(super) async fn ask_about(&self, from: u64, ids: &[EntryId]) {
        let asked_at = Instant::now();
        let (state, count) = (self.parts.cluster.view(), ids.len());
        if state.host(from).is_none() {
            // Who left empty has handed them to others; else they are here, and maybe nowhere else.
            if !state.left_empty(from) {
                tracing::warn!(from, "the sender of {count} messages is gone; they are ours");
                self.own(from, ids).await;
                return;
            }
            return self.let_all_go(from, ids, asked_at).await;
        }
        let ask = Ask::Whose { ids: ids.to_vec() };
        let answered = timeout(
            ASK_AFTER,
            self.parts.cluster.ask_peer(from, Topic::HAND_OVER, ask.encode(), None),
        )
        .await;
        let Ok(Ok(Reply::Owners { owners })) = answered.map(parse) else {
            // It may be switched off.
            if self.parts.cluster.view().left_empty(from) {
                self.let_all_go(from, ids, asked_at).await;
            }
            return;
        };
        let (mut ours, mut not_ours) = (Vec::new(), Vec::new());
        for (id, owner) in ids.iter().zip(owners) {
            match owner {
                Owner::Yours => ours.push(*id),
                Owner::NotYours => not_ours.push(*id),
                Owner::Undecided => {}
            }
        }
        if !ours.is_empty() {
            self.own(from, &ours).await;
        }
        self.let_all_go(from, &not_ours, asked_at).await;
    }

    async fn let_all_go(&self, from: u64, ids: &[EntryId], asked_at: Instant) {
        for id in ids {
            self.let_go(from, *id, asked_at).await;
        }
    }

    /// Forget a message that arrives from `from`, unless it was offered again, or told to be ours,
    /// since that was asked. When this ends it is durably gone, so that another offer stores it
    /// anew.
    pub(super) async fn let_go(&self, from: u64, id: EntryId, asked_at: Instant) {
        let Some(_busy) = self.begin(id) else { return };
        let arrives = match self.parts.spool.hold_of(id) {
            Some(Hold::Arriving { from: sender, .. }) => u64::from(sender) == from,
            _ => false,
        };
        let is_touched = lock(&self.touched).get(&id).is_some_and(|touched| *touched >= asked_at);
        if !arrives || is_touched {
            return;
        }
        while let Err(why) = self.forget(id).await {
            tracing::warn!(%id, "a message that is not ours is not forgotten yet: {why}");
            sleep(ASK_AFTER).await;
        }
        lock(&self.touched).remove(&id);
    }

    /// Forget a copy; `Ok` when it is durably gone.
    async fn forget(&self, id: EntryId) -> Result<(), String> {
        self.parts.spool.forget_copy(id);
        self.parts.spool.flush().await.map_err(|error| error.to_string())
    }
}
