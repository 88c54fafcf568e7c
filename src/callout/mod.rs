//! Stage 3, where a domain wants it: the customer's server is asked whether it knows a recipient,
//! while the client waits.
//!
//! MAIL FROM:<>, RCPT TO and no more, by the domain's own route and TLS policy, on connections that
//! are kept for the next question. What it says is remembered by the fleet for a while, so that the
//! same name is not asked for twice; it is no rejection and lists nobody. A server that knows any
//! name is found out by one that nobody has.
//!
//! Mail is never held up by it: when the server is down, slow, busy or vague, the recipient is
//! accepted, as it would be without. And nothing is made worse by it: each domain has a few
//! connections for questions and a bounded line of them, and one question costs its server less
//! than the message it may save.

mod asker;
mod desk;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mxfleet_cluster::{Cluster, RecipientNews, Verification};

use crate::blacklist::{self, News};
use crate::client::Client;
use crate::config::Limits;
use crate::route::Router;
use crate::smtp::Address;
use crate::system::clock;
use crate::telemetry::metrics::METRICS;

use desk::{Desk, Ticket};

/// Whether deliveries to this domain fail now.
pub type IsFailing = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// What questions are asked with.
pub struct Parts {
    /// What the fleet knows.
    pub cluster: Cluster,
    /// Finds servers.
    pub router: Router,
    /// Makes connections.
    pub client: Client,
    /// Tells the fleet what was answered.
    pub news: News,
    /// Knows which servers are down.
    pub is_failing: IsFailing,
    /// Bounds.
    pub limits: Arc<Limits>,
}

/// Asks customers' servers. Clones are handles to the same one.
#[derive(Clone)]
pub struct Callout {
    inner: Arc<Inner>,
}

struct Inner {
    parts: Parts,
    desk: Mutex<Desk>,
}

/// What came of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    /// The server would take mail for the recipient.
    Known,
    /// It does not know the recipient, for good.
    Unknown,
    /// Its answer says neither.
    Vague,
    /// It could not be asked.
    Down,
}

impl Callout {
    /// Nothing is asked yet.
    pub fn new(parts: Parts) -> Self {
        let limits = &parts.limits;
        let desk = Desk::new(limits.callout_connections_max, limits.callouts_waiting_max);
        Self { inner: Arc::new(Inner { parts, desk: Mutex::new(desk) }) }
    }

    /// Whether a recipient that the fleet knows nothing of may pass: `false` only if its server
    /// says that it does not know it. Answers within `callout_timeout_ms`.
    pub async fn passes(&self, recipient: &Address) -> bool {
        let key = blacklist::key(recipient);
        let (result, passes) = match self.known(&key) {
            Some(passes) => ("remembered", passes),
            None => self.ask(recipient, key).await,
        };
        METRICS.callouts_total.with_label_values(&[result]).inc();
        passes
    }

    /// What has been answered meanwhile, here or elsewhere.
    fn known(&self, key: &str) -> Option<bool> {
        if let Some(RecipientNews::Answered { is_known, .. }) = self.inner.parts.news.of(key) {
            return Some(is_known);
        }
        match self.inner.parts.cluster.view().verification(key, clock::wall_ms()) {
            Verification::Passes => Some(true),
            Verification::Unknown => Some(false),
            Verification::Ask => None,
        }
    }

    async fn ask(&self, recipient: &Address, key: String) -> (&'static str, bool) {
        let (inner, domain) = (&self.inner, recipient.domain());
        if (inner.parts.is_failing)(domain) {
            return ("down", true);
        }
        let ticket = inner.lock().take_in(recipient, key, Instant::now());
        let answer = match ticket {
            Ticket::Waits { answer, start } => {
                if start {
                    tokio::spawn(asker::run(Arc::clone(inner), domain.to_owned()));
                }
                answer
            }
            Ticket::Silent => return ("down", true),
            Ticket::Full => return ("busy", true),
        };
        let within = Duration::from_millis(inner.parts.limits.callout_timeout_ms);
        match tokio::time::timeout(within, answer).await {
            Ok(Ok(Finding::Known)) => ("known", true),
            Ok(Ok(Finding::Unknown)) => ("unknown", false),
            Ok(Ok(Finding::Vague)) => ("vague", true),
            Ok(Ok(Finding::Down) | Err(_)) => ("down", true),
            Err(_) => ("slow", true),
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Callout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Callout").finish_non_exhaustive()
    }
}
