//! What this node tells the fleet of its traffic: how much mail came for each customer, and by
//! which names.
//!
//! Bounded and slow: the largest counts of some minutes go into one command. A report that finds no
//! quorum is added to the next one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mxfleet_cluster::{
    Cluster, Command, Request, State, TRAFFIC_COUNTS_MAX, TrafficCount, random_id,
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::smtp::Envelope;
use crate::system::clock::wall_ms;

/// Customers that are counted between two reports; more are left out.
const CUSTOMERS_MAX: usize = 10_000;
/// Names that are told apart for one customer.
const NAMES_MAX: usize = 32;
/// Who reports, for the audit trail.
const ACTOR: &str = "node";

/// Counts what comes. Clones are handles to the same one.
#[derive(Clone)]
pub struct TrafficMeter {
    cluster: Cluster,
    counts: Arc<Mutex<HashMap<Box<str>, Counts>>>,
}

impl std::fmt::Debug for TrafficMeter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrafficMeter").finish_non_exhaustive()
    }
}

/// Messages for one customer: by no name, and by each name.
#[derive(Debug, Default)]
struct Counts {
    unnamed: u64,
    named: Vec<(Box<str>, u64)>,
}

impl Counts {
    fn add(&mut self, name: Option<&str>, messages: u64) {
        let Some(name) = name else {
            self.unnamed += messages;
            return;
        };
        let room = self.named.len() < NAMES_MAX;
        match self.named.iter_mut().find(|(known, _)| **known == *name) {
            Some((_, count)) => *count += messages,
            None if room => self.named.push((name.into(), messages)),
            None => self.unnamed += messages,
        }
    }
}

impl TrafficMeter {
    /// Customers are looked up in, and reports go to, `cluster`.
    pub fn new(cluster: Cluster) -> Self {
        Self { cluster, counts: Arc::default() }
    }

    /// Count a message that was taken, once for each customer it is for.
    pub fn count(&self, envelope: &Envelope) {
        let view = self.cluster.view();
        let mut seen: Vec<&str> = Vec::with_capacity(1);
        for recipient in &envelope.recipients {
            let Some(domain) = view.domain(recipient.address.domain()) else { continue };
            if !seen.contains(&domain.customer.as_str()) {
                seen.push(&domain.customer);
            }
        }
        let mut counts = self.lock();
        for customer in seen {
            add(&mut counts, customer, envelope.origin.mx_name.as_deref(), 1);
        }
    }

    /// Report to the fleet until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let every_ms = self.cluster.view().settings().duration_ms("rotation.report_every");
            tokio::select! {
                () = sleep(Duration::from_millis(every_ms)) => self.report().await,
                () = self.changed_before(every_ms) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Waits until the setting is another one.
    async fn changed_before(&self, every_ms: u64) {
        let mut moved = self.cluster.watch();
        let now = |state: &State| state.settings().duration_ms("rotation.report_every");
        while now(&self.cluster.view()) == every_ms {
            if moved.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn report(&self) {
        let counts = self.take();
        if counts.is_empty() {
            return;
        }
        let command = Command::Traffic { counts: counts.clone() };
        let request = Request::new(random_id(), ACTOR, wall_ms(), command);
        if let Err(error) = self.cluster.propose(request).await {
            tracing::debug!(%error, "a report of traffic waits");
            let mut kept = self.lock();
            for count in counts {
                add(&mut kept, &count.customer, count.name.as_deref(), count.messages);
            }
        }
    }

    /// The largest counts; what is left of the others is forgotten.
    fn take(&self) -> Vec<TrafficCount> {
        let counts = std::mem::take(&mut *self.lock());
        let mut all: Vec<TrafficCount> = Vec::new();
        for (customer, Counts { unnamed, named }) in counts {
            let named =
                named.into_iter().map(|(name, messages)| (Some(String::from(name)), messages));
            for (name, messages) in named.chain([(None, unnamed)]).filter(|(_, count)| *count > 0) {
                all.push(TrafficCount { customer: customer.to_string(), name, messages });
            }
        }
        all.sort_unstable_by(|a, b| {
            (b.messages, &a.customer, &a.name).cmp(&(a.messages, &b.customer, &b.name))
        });
        all.truncate(TRAFFIC_COUNTS_MAX);
        all
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Counts>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add(counts: &mut HashMap<Box<str>, Counts>, customer: &str, name: Option<&str>, messages: u64) {
    if let Some(known) = counts.get_mut(customer) {
        known.add(name, messages);
    } else if counts.len() < CUSTOMERS_MAX {
        counts.entry(customer.into()).or_default().add(name, messages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_counts_are_reported_and_names_are_few() {
        let meter = TrafficMeter::new(Cluster::detached());
        for n in 0..600_u64 {
            add(&mut meter.lock(), &format!("c{n}"), Some("mx-a.relay.test"), n + 1);
        }
        add(&mut meter.lock(), "c1", None, 5000);
        let counts = meter.take();
        assert_eq!(counts.len(), TRAFFIC_COUNTS_MAX);
        assert_eq!((counts[0].customer.as_str(), counts[0].messages), ("c1", 5000));
        assert!(meter.take().is_empty());
        for n in 0..100 {
            add(&mut meter.lock(), "c1", Some(&format!("n{n}.test")), 1);
        }
        let counts = meter.take();
        assert_eq!(counts.len(), NAMES_MAX + 1);
        assert_eq!(counts.iter().map(|count| count.messages).sum::<u64>(), 100, "none is lost");
    }
}
