//! The receiver's side.

use std::pin::Pin;
use std::time::Instant;

use mxfleet_cluster::{HostState, PeerHandler, PeerTail, Topic};
use tokio::time::{sleep, timeout};

use super::send::parse;
use super::words::{Ask, Offer, Owner, Reply};
use super::{ASK_AFTER, Inner, lock};
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
        if self.parts.spool.hold_of(id).is_some() {
            // It came before, and its sender did not hear that. The text is read all the same.
            while let Ok(Some(_)) = tail.next().await {}
            return self.stored();
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
        for id in ids {
            match self.parts.spool.hold_of(*id) {
                Some(Hold::Arriving { from: sender, held }) if u64::from(sender) == from => {
                    self.parts.spool.set_hold(*id, if held { Hold::Operator } else { Hold::No });
                    lock(&self.owned).insert(*id);
                }
                _ => {} // it was told before
            }
        }
        self.adopt_owned().await.map_or_else(Reply::refused, |()| Reply::Done)
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

    async fn ask_about(&self, from: u64, ids: &[EntryId]) {
        if self.parts.cluster.view().host(from).is_none() {
            tracing::warn!(from, "the sender of {} messages is gone; they are ours", ids.len());
            self.own(from, ids).await;
            return;
        }
        let asked_at = Instant::now();
        let ask = Ask::Whose { ids: ids.to_vec() };
        let answered = timeout(
            ASK_AFTER,
            self.parts.cluster.ask_peer(from, Topic::HAND_OVER, ask.encode(), None),
        )
        .await;
        let Ok(Ok(Reply::Owners { owners })) = answered.map(parse) else { return };
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
        for id in not_ours {
            self.let_go(id, asked_at).await;
        }
    }

    /// Forget an arriving message, unless it was offered again since it was asked about. When this
    /// ends it is durably gone, so that another offer stores it anew.
    async fn let_go(&self, id: EntryId, asked_at: Instant) {
        let Some(_busy) = self.begin(id) else { return };
        if lock(&self.touched).get(&id).is_some_and(|touched| *touched >= asked_at) {
            return;
        }
        self.parts.spool.forget_copy(id);
        while let Err(error) = self.parts.spool.flush().await {
            tracing::warn!(%id, %error, "a message that is not ours is not forgotten yet");
            sleep(ASK_AFTER).await;
        }
        lock(&self.touched).remove(&id);
    }
}
