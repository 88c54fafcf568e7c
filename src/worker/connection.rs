//! One connection, from its first message to its last.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mxfleet_cluster::State;

use super::Inner;
use super::attempt::{Attempted, Loaded, attempt};
use super::core::{After, Waiting, Work};
use super::ending::Trial;
use crate::client::{Connection, Hop};
use crate::route::RouteFailure;
use crate::schedule::Permit;
use crate::smtp::Enhanced;
use crate::smtp::about::{WEBHOOK, domain_of};
use crate::spool::ReadError;
use crate::telemetry::delivery_log::Delays;
use crate::verdict::{Reason, Scope, Verdict, judge};

/// A message that no server took.
struct Refused {
    work: Work,
    relay: Option<String>,
    why: NotTaken,
}

/// Why a server was of no use.
enum NotTaken {
    /// It did not get as far as a transaction: nothing is known against the message.
    Unreached(Verdict),
    /// It refused to work when this message was offered; the message may be the cause.
    Rejected(Arc<Loaded>, Attempted),
}

impl Inner {
    /// Find the servers, connect to the first that answers, and carry messages to it. A server
    /// that refuses to work leaves the message to the next one.
    pub(super) async fn serve(self: &Arc<Self>, permit: Permit, work: Work) {
        if &**permit.domain() == WEBHOOK {
            self.serve_page(&permit, work).await;
        } else if self.is_local(permit.domain()) {
            self.take_local(&permit, work).await;
        } else if let Some(work) = self.vetted(&permit, work).await {
            match self.parts.router.hops(permit.domain()).await {
                Ok(hops) => self.serve_hops(&permit, hops, work).await,
                Err(failure) => self.no_route(&permit, work, &failure).await,
            }
        }
        self.update(|core, now| core.schedule.closed(permit, now));
    }

    async fn serve_hops(self: &Arc<Self>, permit: &Permit, hops: Vec<Hop>, first: Work) {
        let mut work = first;
        let mut last = None;
        for hop in hops {
            let relay = Some(hop.relay());
            match self.parts.client.connect(&hop).await {
                Ok(connection) => match self.carry(permit, connection, work).await {
                    Some((message, refused, attempted)) => {
                        work = refused;
                        last = Some((relay, NotTaken::Rejected(message, attempted)));
                    }
                    None => return,
                },
                Err(response) => {
                    let verdict = judge(&response);
                    tracing::debug!(relay, text = verdict.text(), "not reached");
                    last = Some((relay, NotTaken::Unreached(verdict)));
                }
            }
        }
        match last {
            Some((relay, why)) => self.no_hop_left(permit, Refused { work, relay, why }).await,
            None => self.update(|core, now| core.give_back(work, None, now)),
        }
    }

    /// Carry messages until there is nothing more to carry or the connection is used up. Gives
    /// back the first one if the server took nothing of it and works for nobody.
    async fn carry(
        self: &Arc<Self>,
        permit: &Permit,
        mut connection: Connection,
        first: Work,
    ) -> Option<(Arc<Loaded>, Work, Attempted)> {
        let relay = connection.relay();
        let connected = Instant::now();
        let mut route = RouteInUse::new(self.parts.cluster.view());
        let mut carried = 0;
        let mut next = Some(first);
        while let Some(work) = next.take() {
            let current = route.is_current(permit.domain(), self.parts.cluster.view());
            if carried > 0 && !(current && connection.is_usable()) {
                self.update(|core, now| core.give_back(work, None, now));
                break;
            }
            let Some(mut work) = self.vetted(permit, work).await else { break };
            let Some(message) = self.load(&mut work).await else {
                let after = self.skip(permit, work, Some(carried));
                next = self.follow(permit, after).await;
                continue;
            };
            let began = connected.max(work.taken);
            let recipients = work.ticket.recipients.as_slice();
            let attempted = match self.tagging(permit.domain(), &message) {
                None => attempt(&mut connection, &message, recipients).await,
                Some(tagging) => {
                    let id = work.ticket.id;
                    self.attempt_tagged(&mut connection, id, &message, recipients, tagging).await
                }
            };
            if carried == 0 && attempted.refusal().is_some() {
                connection.quit().await;
                return Some((message, work, attempted));
            }
            if attempted.judged.is_empty() {
                // A kept connection that had gone says nothing of the destination.
                self.update(|core, now| core.give_back(work, Some(message), now));
                break;
            }
            carried += 1;
            let more =
                connection.is_usable() && carried < self.parts.limits.messages_per_connection_max;
            let delays = delays(&work, began);
            let offers_dsn = connection.offers_dsn();
            let relay = Some(relay.as_str());
            let trial = Trial { work, message: &message, relay, offers_dsn, delays };
            let after = self.settle(permit, trial, attempted, more.then_some(carried)).await;
            next = self.follow(permit, after).await;
        }
        connection.quit().await;
        None
    }

    /// What to do next, which may be to wait for it.
    async fn follow(self: &Arc<Self>, permit: &Permit, after: After) -> Option<Work> {
        match after {
            After::Carry(work) => Some(work),
            After::Wait(waiting) => self.wait(permit, waiting).await,
            After::Close => None,
        }
    }

    /// Wait for work, for as long as a connection may be idle.
    async fn wait(&self, permit: &Permit, mut waiting: Waiting) -> Option<Work> {
        let idle = Duration::from_millis(self.parts.limits.connection_idle_ms);
        match tokio::time::timeout(idle, &mut waiting.work).await {
            Ok(given) => given.ok(),
            Err(_) if self.lock().leave(permit.destination(), &waiting) => None,
            // Work came at the last moment.
            Err(_) => waiting.work.await.ok(),
        }
    }

    /// The message, from memory or from the spool; `None` if it cannot be had.
    pub(super) async fn load(&self, work: &mut Work) -> Option<Arc<Loaded>> {
        if let Some(message) = work.message.take() {
            return Some(message);
        }
        let id = work.ticket.id;
        match self.load_entry(id).await {
            Ok(Some(message)) => Some(Arc::new(Loaded::from_spool(message))),
            Ok(None) => None,
            Err(error) => {
                tracing::error!(%id, %error, "a message cannot be read");
                work.unreadable = matches!(error, ReadError::Io { .. });
                None
            }
        }
    }

    /// No server took the message.
    async fn no_hop_left(self: &Arc<Self>, permit: &Permit, refused: Refused) {
        let Refused { mut work, relay, why } = refused;
        let relay = relay.as_deref();
        let delays = delays(&work, Instant::now());
        match why {
            NotTaken::Rejected(message, attempted) => {
                let trial = Trial { work, message: &message, relay, offers_dsn: false, delays };
                self.settle(permit, trial, attempted.untried_as_refused(), None).await;
            }
            NotTaken::Unreached(verdict) => {
                let Some(message) = self.load(&mut work).await else {
                    self.update(|core, now| core.schedule.fails(permit, &verdict.text(), now));
                    self.skip(permit, work, None);
                    return;
                };
                let trial = Trial { work, message: &message, relay, offers_dsn: false, delays };
                self.unreached(permit, trial, &verdict);
            }
        }
    }

    /// There is no server to try.
    async fn no_route(self: &Arc<Self>, permit: &Permit, mut work: Work, failure: &RouteFailure) {
        let (dsn, text) = (failure.dsn(), failure.to_string());
        if !failure.is_permanent() {
            let why = NotTaken::Unreached(unreached(dsn, text));
            return self.no_hop_left(permit, Refused { work, relay: None, why }).await;
        }
        let Some(message) = self.load(&mut work).await else {
            self.skip(permit, work, None);
            return;
        };
        let reason = match failure {
            RouteFailure::LoopsBack => Reason::Loop,
            _ => Reason::Unroutable,
        };
        let verdict = Verdict::Fail { reason, dsn, text };
        let delays = delays(&work, Instant::now());
        let attempted = Attempted::same(work.ticket.recipients.as_slice(), &verdict);
        let trial = Trial { work, message: &message, relay: None, offers_dsn: false, delays };
        self.settle(permit, trial, attempted, None).await;
    }
}

/// Trouble with the destination, in whole.
pub(super) fn unreached(dsn: Enhanced, text: String) -> Verdict {
    Verdict::Retry { dsn, text, scope: Scope::Destination }
}

/// Where the time of an attempt went, which ends now; `began` is when the server was ready.
pub(super) fn delays(work: &Work, began: Instant) -> Delays {
    let micros = |from: Instant, to: Instant| {
        u64::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(u64::MAX)
    };
    let total_us = crate::system::clock::wall_us().saturating_sub(work.ticket.id.micros());
    let queued_us = micros(work.ticket.due, work.taken);
    let connect_us = micros(work.taken, began);
    let transmit_us = micros(began, Instant::now());
    let spent_us = queued_us.saturating_add(connect_us).saturating_add(transmit_us);
    let due_us = total_us.saturating_sub(spent_us);
    Delays { due_us, queued_us, connect_us, transmit_us }
}

/// The route that a connection was made by. When the table says another one, the connection
/// carries no more.
struct RouteInUse {
    view: Arc<State>,
}

impl RouteInUse {
    fn new(view: Arc<State>) -> Self {
        Self { view }
    }

    fn is_current(&mut self, destination: &str, now: Arc<State>) -> bool {
        let (domain, _) = domain_of(destination);
        if !Arc::ptr_eq(&self.view, &now) {
            let route =
                |view: &State| view.domain(domain).map(|row| (row.route.clone(), row.tls.clone()));
            if route(&self.view) != route(&now) {
                return false;
            }
            self.view = now;
        }
        true
    }
}
