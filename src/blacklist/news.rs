//! What this node learns of recipients by the way, on its way to the fleet.
//!
//! Nothing of it is counted, so it needs no disk: what a crash loses is learnt again. It is told
//! together with what else came within a moment, and kept until the fleet knows it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mxfleet_cluster::{Cluster, Command, ProposeError, RecipientNews, Request, random_id};
use tokio::sync::Notify;

use crate::config::Limits;
use crate::system::clock;
use crate::telemetry::metrics::METRICS;

/// A batch has at most so many news,
const BATCH_NEWS_MAX: usize = 1000;
/// and so many octets.
const BATCH_OCTETS_MAX: usize = 44 << 10;
/// What one takes beside its address, at most.
const FRAME_OCTETS: usize = 16;
/// After the fleet could not be told.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Who tells, for the audit trail.
const ACTOR: &str = "node";

/// The node's news. Clones are handles to the same ones.
#[derive(Debug, Clone)]
pub struct News {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// By address, the newest of each.
    waiting: Mutex<HashMap<String, RecipientNews>>,
    waiting_max: usize,
    linger: Duration,
    more: Notify,
}

impl News {
    pub(super) fn new(limits: &Limits) -> Self {
        let shared = Shared {
            waiting: Mutex::default(),
            waiting_max: limits.news_waiting_max,
            linger: Duration::from_millis(limits.news_linger_ms),
            more: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Tell the fleet soon. When too much waits, it is dropped: it will be learnt again.
    pub fn tell(&self, news: RecipientNews) {
        let mut waiting = self.lock();
        let key = news.subject();
        if waiting.len() >= self.shared.waiting_max && !waiting.contains_key(key) {
            METRICS.recipient_news_dropped_total.inc();
            return;
        }
        waiting.insert(key.to_owned(), news);
        drop(waiting);
        self.shared.more.notify_one();
    }

    /// What the fleet will be told of this address.
    pub fn of(&self, address: &str) -> Option<RecipientNews> {
        self.lock().get(address).cloned()
    }

    /// Tell until dropped.
    pub(super) async fn run(&self, cluster: &Cluster) {
        loop {
            while self.lock().is_empty() {
                self.shared.more.notified().await;
            }
            tokio::time::sleep(self.shared.linger).await;
            let batch = self.next_batch();
            let command = Command::RecipientNews { news: batch.clone() };
            let request = Request::new(random_id(), ACTOR, clock::wall_ms(), command);
            match cluster.propose(request).await {
                Ok(Ok(_)) => self.told(&batch),
                Ok(Err(refusal)) => {
                    tracing::error!(%refusal, "news of recipients were refused");
                    self.told(&batch);
                }
                Err(error @ ProposeError::TooLarge { .. }) => {
                    tracing::error!(%error, "news of recipients are dropped");
                    self.told(&batch);
                }
                Err(error) => {
                    tracing::debug!(%error, "news of recipients wait");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    fn next_batch(&self) -> Vec<RecipientNews> {
        let mut octets = 0;
        let fits = |news: &&RecipientNews| {
            octets += news.subject().len() + FRAME_OCTETS;
            octets <= BATCH_OCTETS_MAX
        };
        let waiting = self.lock();
        waiting.values().take(BATCH_NEWS_MAX).take_while(fits).cloned().collect()
    }

    /// The fleet knows these; what came meanwhile stays.
    fn told(&self, batch: &[RecipientNews]) {
        let mut waiting = self.lock();
        for news in batch {
            if waiting.get(news.subject()) == Some(news) {
                waiting.remove(news.subject());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, RecipientNews>> {
        self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(n: usize) -> RecipientNews {
        RecipientNews::Taken { address: format!("u{n}@x.test"), at_ms: clock::wall_ms() }
    }

    #[tokio::test]
    async fn news_are_told_in_batches_and_kept_until_then() {
        let limits = Limits { news_linger_ms: 1, ..Limits::default() };
        let (news, cluster) = (News::new(&limits), Cluster::detached());
        (0..2500).for_each(|n| news.tell(taken(n)));
        assert!(news.of("u7@x.test").is_some());
        let done = async {
            while !news.lock().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = news.run(&cluster) => {}
            () = done => {}
        }
        assert_eq!(cluster.view().blacklist_counts().trusted, 2500);
        assert_eq!(cluster.view().applied_index(), 3, "a thousand in each command");
        assert!(news.of("u7@x.test").is_none());
    }

    #[tokio::test]
    async fn too_many_news_are_dropped_and_newer_ones_of_an_address_take_its_place() {
        let news = News::new(&Limits { news_waiting_max: 2, ..Limits::default() });
        (0..3).for_each(|n| news.tell(taken(n)));
        assert!(news.of("u2@x.test").is_none());
        let newer = RecipientNews::Taken { address: "u1@x.test".into(), at_ms: 7 };
        news.tell(newer.clone());
        assert_eq!(news.of("u1@x.test"), Some(newer));
    }
}
