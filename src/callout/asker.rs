//! Who asks: a connection to a domain's server, for one question after the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mxfleet_cluster::RecipientNews;

use super::{Finding, Inner};
use crate::client::{Answer, Connection, Response, Stage};
use crate::smtp::Address;
use crate::system::clock;
use crate::system::random::random_u64;
use crate::telemetry::metrics::METRICS;
use crate::verdict::{Class, classify};

/// Ask until there is nothing to ask for a while, or the server gives no answer.
pub(super) async fn run(inner: Arc<Inner>, domain: String) {
    let mut asker = Asker { inner, domain, connection: None };
    loop {
        let next = asker.inner.lock().next(&asker.domain);
        match next {
            Some((key, recipient)) => asker.answer(&key, &recipient).await,
            None => asker.wait().await,
        }
        // What came in the last moment is asked for by a new connection.
        let is_open = asker.connection.is_some();
        if !is_open && asker.inner.lock().may_leave(&asker.domain, Instant::now()) {
            return;
        }
    }
}

struct Asker {
    inner: Arc<Inner>,
    domain: String,
    connection: Option<Connection>,
}

impl Asker {
    /// Ask one question, and tell who asked and the fleet.
    async fn answer(&mut self, key: &str, recipient: &Address) {
        // An answer is worth what the table said when it was asked for.
        let version = self.inner.parts.cluster.view().domain_version(&self.domain);
        let finding = self.ask(recipient).await;
        if let Finding::Known | Finding::Unknown = finding {
            self.inner.parts.news.tell(RecipientNews::Answered {
                address: key.to_owned(),
                is_known: finding == Finding::Known,
                version,
                at_ms: clock::wall_ms(),
            });
        }
        self.inner.lock().answer(&self.domain, key, finding);
        match finding {
            Finding::Known => self.probe(version).await,
            Finding::Down => self.give_up().await,
            Finding::Unknown | Finding::Vague => {}
        }
    }

    /// Whether the server knows any name, if nobody has found that out lately.
    async fn probe(&mut self, version: u64) {
        let parts = &self.inner.parts;
        let known = parts.cluster.view().is_catch_all(&self.domain, clock::wall_ms());
        if known.is_some() || parts.news.of(&self.domain).is_some() {
            return;
        }
        if !self.inner.lock().may_probe(&self.domain) {
            return;
        }
        let nobody = format!("{:016x}-nobody@{}", random_u64(), self.domain);
        let finding = match Address::parse(&nobody, false) {
            Ok(nobody) => self.ask(&nobody).await,
            Err(_) => Finding::Vague,
        };
        METRICS.callouts_total.with_label_values(&["probe"]).inc();
        if let Finding::Known | Finding::Unknown = finding {
            self.inner.parts.news.tell(RecipientNews::CatchAll {
                domain: self.domain.clone(),
                is_catch_all: finding == Finding::Known,
                version,
                at_ms: clock::wall_ms(),
            });
        }
        self.inner.lock().probed(&self.domain);
        if finding == Finding::Down {
            self.give_up().await;
        }
    }

    /// Ask, in the time there is for it. A kept connection that has gone says nothing.
    async fn ask(&mut self, recipient: &Address) -> Finding {
        let within = Duration::from_millis(self.inner.parts.limits.callout_timeout_ms);
        let asked = tokio::time::timeout(within, async {
            loop {
                let was_kept = self.connection.is_some();
                let Some(response) = self.put(recipient).await else { return Finding::Down };
                if response.answer != Answer::NotTried || !was_kept {
                    return judge(&response);
                }
                self.connection = None;
            }
        });
        match asked.await {
            Ok(finding) => finding,
            Err(_) => {
                // Nothing is known of a connection in the middle of something.
                self.connection = None;
                Finding::Down
            }
        }
    }

    /// Put the question to the server; `None` when there is none.
    async fn put(&mut self, recipient: &Address) -> Option<Response> {
        let is_usable = self.connection.as_mut().is_some_and(Connection::is_usable);
        if !is_usable {
            self.connection = self.connect().await;
        }
        Some(self.connection.as_mut()?.verify(recipient).await)
    }

    /// The first server that answers, as for a delivery.
    async fn connect(&self) -> Option<Connection> {
        let parts = &self.inner.parts;
        for hop in parts.router.hops(&self.domain).await.ok()? {
            match parts.client.connect(&hop).await {
                Ok(connection) => return Some(connection),
                Err(response) => {
                    tracing::debug!(relay = hop.relay(), ?response, "cannot be asked");
                }
            }
        }
        None
    }

    /// Wait for a question, for as long as a connection may be idle.
    async fn wait(&mut self) {
        let Some(more) = self.inner.lock().wait(&self.domain) else { return };
        let idle = Duration::from_millis(self.inner.parts.limits.connection_idle_ms);
        let came = tokio::time::timeout(idle, more.notified()).await;
        self.inner.lock().go_on(&self.domain);
        if came.is_err()
            && let Some(connection) = self.connection.take()
        {
            connection.quit().await;
        }
    }

    /// Nobody asks this server for a while.
    async fn give_up(&mut self) {
        let pause = Duration::from_millis(self.inner.parts.limits.callout_pause_ms);
        self.inner.lock().is_silent(&self.domain, Instant::now() + pause);
        if let Some(connection) = self.connection.take() {
            connection.quit().await;
        }
    }
}

/// What an answer says of a recipient. Only the words for an unknown user are taken for a no: a
/// server may refuse questions, or us, for other reasons.
pub(super) fn judge(response: &Response) -> Finding {
    match &response.answer {
        Answer::Reply(reply) if response.stage == Stage::Rcpt && reply.code != 421 => {
            match classify(Stage::Rcpt, reply).class {
                _ if reply.is_positive() => Finding::Known,
                Class::UnknownUser => Finding::Unknown,
                Class::OtherPermanent | Class::Temporary => Finding::Vague,
            }
        }
        // It cannot be given this name.
        Answer::Unfit { .. } => Finding::Vague,
        // Before RCPT, or no answer: the server as a whole.
        Answer::Reply(_) | Answer::Broken(_) | Answer::NotTried => Finding::Down,
    }
}
