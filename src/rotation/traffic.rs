//! What this node tells the fleet of its traffic: how much mail came for each customer, and by
//! which names.
//!
//! Bounded and slow: of some minutes one command. What comes by a name that ends goes first, by
//! turns, however little it is, because it holds the end up; then the largest counts. What has no
//! room, or finds no quorum, is added to the next report.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mxfleet_cluster::{
    Cluster, Command, NameStage, Request, State, TRAFFIC_COUNTS_MAX, TrafficCount, random_id,
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::smtp::Envelope;
use crate::system::clock::wall_ms;

/// Customers that are counted between two reports; more are left out.
const CUSTOMERS_MAX: usize = 20_000;
/// Counts by names that end which go before larger ones.
const ENDING_MAX: usize = TRAFFIC_COUNTS_MAX / 2;
/// Names that are told apart for one customer.
const NAMES_MAX: usize = 32;
/// Who reports, for the audit trail.
const ACTOR: &str = "node";

/// Counts what comes. Clones are handles to the same one.
#[derive(Clone)]
pub struct TrafficMeter {
    cluster: Cluster,
    tally: Arc<Mutex<Tally>>,
}

/// What is not reported yet.
#[derive(Debug, Default)]
struct Tally {
    customers: HashMap<Box<str>, Counts>,
    /// How often was reported.
    reports: u64,
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
    named: Vec<Named>,
}

#[derive(Debug)]
struct Named {
    name: Box<str>,
    messages: u64,
    /// The report before which the first of them came.
    since: u64,
}

impl Counts {
    fn add(&mut self, name: Option<&str>, messages: u64, since: u64) {
        let Some(name) = name else {
            self.unnamed += messages;
            return;
        };
        let room = self.named.len() < NAMES_MAX;
        match self.named.iter_mut().find(|known| *known.name == *name) {
            Some(known) => {
                known.messages += messages;
                known.since = known.since.min(since);
            }
            None if room => self.named.push(Named { name: name.into(), messages, since }),
            None => self.unnamed += messages,
        }
    }
}

impl TrafficMeter {
    /// Customers are looked up in, and reports go to, `cluster`.
    pub fn new(cluster: Cluster) -> Self {
        Self { cluster, tally: Arc::default() }
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
        let mut tally = self.lock();
        for customer in seen {
            tally.add(customer, envelope.origin.mx_name.as_deref(), 1);
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
        let view = self.cluster.view();
        let customers = self.lock().take();
        let (counts, waits) = chosen(customers, &ending(&view));
        self.lock().put_back(waits);
        if counts.is_empty() {
            return;
        }
        let command = Command::Traffic { counts: counts.clone() };
        let request = Request::new(random_id(), ACTOR, wall_ms(), command);
        if let Err(error) = self.cluster.propose(request).await {
            tracing::debug!(%error, "a report of traffic waits");
            let mut tally = self.lock();
            for count in counts {
                tally.add(&count.customer, count.name.as_deref(), count.messages);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names whose end is announced.
fn ending(state: &State) -> BTreeSet<&str> {
    let ends = |stage| matches!(stage, NameStage::Retiring { .. });
    state.names().filter(|row| ends(row.stage)).map(|row| row.name.as_str()).collect()
}

impl Tally {
    fn add(&mut self, customer: &str, name: Option<&str>, messages: u64) {
        self.put(customer, name, messages, self.reports);
    }

    fn put(&mut self, customer: &str, name: Option<&str>, messages: u64, since: u64) {
        if let Some(known) = self.customers.get_mut(customer) {
            known.add(name, messages, since);
        } else if self.customers.len() < CUSTOMERS_MAX {
            self.customers.entry(customer.into()).or_default().add(name, messages, since);
        }
    }

    fn take(&mut self) -> HashMap<Box<str>, Counts> {
        self.reports += 1;
        std::mem::take(&mut self.customers)
    }

    fn put_back(&mut self, waits: Vec<(TrafficCount, u64)>) {
        for (count, since) in waits {
            self.put(&count.customer, count.name.as_deref(), count.messages, since);
        }
    }
}

/// What is reported now, and what waits and since when; of names that do not end only how much it
/// is.
fn chosen(
    customers: HashMap<Box<str>, Counts>,
    ending: &BTreeSet<&str>,
) -> (Vec<TrafficCount>, Vec<(TrafficCount, u64)>) {
    let (mut first, mut rest) = (Vec::new(), Vec::new());
    let ends = |name: &Option<String>| name.as_deref().is_some_and(|name| ending.contains(name));
    for (customer, Counts { unnamed, named }) in customers {
        let named =
            named.into_iter().map(|row| (Some(String::from(row.name)), row.messages, row.since));
        let rows = named.chain([(None, unnamed, 0)]).filter(|(_, messages, _)| *messages > 0);
        for (name, messages, since) in rows {
            let count = TrafficCount { customer: customer.to_string(), name, messages };
            if ends(&count.name) { &mut first } else { &mut rest }.push((count, since));
        }
    }
    first.sort_unstable_by(|(a, a_since), (b, b_since)| {
        (a_since, &a.customer, &a.name).cmp(&(b_since, &b.customer, &b.name))
    });
    rest.append(&mut first.split_off(first.len().min(ENDING_MAX)));
    rest.sort_unstable_by(|(a, _), (b, _)| {
        (b.messages, &a.customer, &a.name).cmp(&(a.messages, &b.customer, &b.name))
    });
    let mut waits = rest.split_off(rest.len().min(TRAFFIC_COUNTS_MAX - first.len()));
    for (count, _) in waits.iter_mut().filter(|(count, _)| !ends(&count.name)) {
        count.name = None;
    }
    (first.into_iter().chain(rest).map(|(count, _)| count).collect(), waits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(tally: &mut Tally, ending: &BTreeSet<&str>) -> Vec<TrafficCount> {
        let (counts, waits) = chosen(tally.take(), ending);
        tally.put_back(waits);
        counts
    }

    #[test]
    fn the_largest_counts_are_reported_first_none_is_lost_and_names_are_few() {
        let (mut tally, ending) = (Tally::default(), BTreeSet::new());
        for n in 0..600_u64 {
            tally.add(&format!("c{n}"), Some("mx-a.relay.test"), n + 1);
        }
        tally.add("c1", None, 5000);
        let counts = report(&mut tally, &ending);
        assert_eq!(counts.len(), TRAFFIC_COUNTS_MAX);
        assert_eq!((counts[0].customer.as_str(), counts[0].messages), ("c1", 5000));
        let rest = report(&mut tally, &ending);
        let all: u64 = counts.iter().chain(&rest).map(|count| count.messages).sum();
        assert_eq!((rest.len(), all), (101, 5000 + 600 * 601 / 2));
        assert!(report(&mut tally, &ending).is_empty());
        for n in 0..100 {
            tally.add("c1", Some(&format!("n{n}.test")), 1);
        }
        let counts = report(&mut tally, &ending);
        assert_eq!(counts.len(), NAMES_MAX + 1);
        assert_eq!(counts.iter().map(|count| count.messages).sum::<u64>(), 100, "none is lost");
    }

    #[test]
    fn every_small_customer_that_uses_a_name_that_ends_is_heard_of_in_its_turn() {
        const CUSTOMERS: usize = 10_000;
        const LARGE: usize = 1000;
        const OLD: &str = "mx-old.relay.test";
        let (mut tally, ending) = (Tally::default(), BTreeSet::from([OLD]));
        let mut heard = BTreeSet::new();
        for n in 0..CUSTOMERS {
            tally.add(&format!("small{n}"), Some(OLD), 1);
        }
        for number in 1..=(CUSTOMERS + LARGE) / ENDING_MAX {
            // Others get more, by that name and by another one, and send on.
            for n in 0..LARGE {
                tally.add(&format!("large{n}"), Some(OLD), 1000);
                tally.add(&format!("large{n}"), Some("mx-new.relay.test"), 2000);
            }
            let counts = report(&mut tally, &ending);
            assert!(counts.len() <= TRAFFIC_COUNTS_MAX);
            let large = counts.iter().filter(|count| count.messages >= 2000).count();
            assert!(large >= TRAFFIC_COUNTS_MAX - ENDING_MAX, "{large} in report {number}");
            let small = counts.into_iter().filter(|count| count.customer.starts_with("small"));
            heard.extend(small.map(|count| count.customer));
        }
        assert_eq!(heard.len(), CUSTOMERS);
    }
}
