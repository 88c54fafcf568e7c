//! What is known of the author of a message to those who run the service, and of its customer.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use mxfleet_cluster::{Customer, Domain, State, domain_of};

use super::Inner;
use super::roles::Handing;
use crate::contacts;
use crate::roles::diagnostics::{
    self, Arrival, CUSTOMERS_MAX, CustomerFacts, DOMAINS_MAX, DomainFacts, FAILURES_MAX,
};
use crate::smtp::{Address, date};
use crate::system::clock::wall_ms;
use crate::telemetry::journal::JournalLine;

/// Days of the journal that are looked through, today included.
const JOURNAL_DAYS: usize = 2;
/// Queue, blacklist and journal are looked at for so long.
const LOOK_WITHIN: Duration = Duration::from_secs(5);
/// What operators read instead of what was not looked at in time.
const NOT_LOOKED_AT: &str = "not looked at: it takes too long now";

impl Inner {
    /// In words. The message does not wait for long: whoever writes in a customer's name, again and
    /// again, must not hold up what others write.
    pub(super) async fn diagnosed(self: &Arc<Self>, handing: &Handing<'_>) -> String {
        let envelope = &handing.message.envelope;
        let origin = &envelope.origin;
        let client = origin
            .ip
            .map_or_else(|| "this fleet itself".to_owned(), |ip| format!("{}[{ip}]", origin.helo));
        let mail_from = envelope.mail_from.as_ref().map_or("", Address::as_str);
        let view = self.parts.cluster.view();
        let author = handing.mail.author.as_ref();
        let customers = match author {
            Some(author) => customers_of(&view, author).await,
            None => Vec::new(),
        };
        let looks = if customers.is_empty() {
            Looks::default()
        } else {
            let names = customers.iter().flat_map(|(_, names)| names).cloned().collect();
            let look = tokio::time::timeout(LOOK_WITHIN, self.look_alone(&view, names)).await;
            look.ok().flatten().unwrap_or_else(Looks::busy)
        };
        let facts = customers
            .iter()
            .filter_map(|(id, names)| Some(looks.facts(&view, view.customer(id)?, names)));
        let facts: Vec<CustomerFacts<'_>> = facts.collect();
        let arrival = Arrival {
            host: &self.parts.hostname,
            id: &handing.id.to_string(),
            date: &date(origin.received_at_us),
            client: &client,
            mail_from,
            author,
            found: handing.found.as_ref(),
            is_authors: handing.is_authors(),
        };
        diagnostics::text(&arrival, &facts)
    }

    /// One at a time: the blacklist and the journal may be long.
    async fn look_alone(
        self: &Arc<Self>,
        view: &Arc<State>,
        names: HashSet<String>,
    ) -> Option<Looks> {
        let turn = Arc::clone(&self.diagnosing).acquire_owned().await.ok()?;
        let (inner, view) = (Arc::clone(self), Arc::clone(view));
        let look = tokio::task::spawn_blocking(move || {
            let looks = inner.look(&view, &names);
            drop(turn); // also when nobody waits for it any more
            looks
        });
        look.await.ok()
    }

    /// Look at what is not in the tables by domain. Blocks.
    fn look(&self, view: &State, names: &HashSet<String>) -> Looks {
        let now_ms = wall_ms();
        let mut looks = Looks { queues: self.queues(names), ..Looks::default() };
        for (address, _) in view.blacklisted(now_ms) {
            if let Some(name) = names.get(domain_of(address)) {
                *looks.blacklisted.entry(name.clone()).or_default() += 1;
            }
        }
        let frozen = view.blacklist_frozen(now_ms).filter(|row| names.contains(row.domain));
        looks.frozen = frozen.map(|row| (row.domain.to_owned(), row.since_ms)).collect();
        let is_theirs = |line: &JournalLine| names.contains(&*domain_of(&line.to).to_lowercase());
        match self.parts.journal.newest(is_theirs, FAILURES_MAX, JOURNAL_DAYS) {
            Ok(lines) => looks.failures = lines,
            Err(error) => tracing::warn!(%error, "diagnostics go without what failed"),
        }
        looks
    }

    fn queues(&self, names: &HashSet<String>) -> HashMap<String, String> {
        let theirs = self.destinations(|domain| names.contains(domain)).into_iter();
        let words = theirs.map(|queue| {
            let oldest = queue.oldest_seconds.map(|age_s| format!(", the oldest {age_s} s old"));
            let failing = queue.failing_seconds.zip(queue.error);
            let failing = failing.map(|(s, error)| format!("; failing for {s} s: {error}"));
            let (oldest, failing) = (oldest.unwrap_or_default(), failing.unwrap_or_default());
            (queue.domain, format!("{} messages{oldest}{failing}", queue.messages))
        });
        words.collect()
    }
}

/// What was found, by domain.
#[derive(Default)]
struct Looks {
    queues: HashMap<String, String>,
    blacklisted: HashMap<String, u64>,
    frozen: HashMap<String, u64>,
    failures: Vec<JournalLine>,
    /// Nothing was looked at.
    is_busy: bool,
}

impl Looks {
    fn busy() -> Self {
        Self { is_busy: true, ..Self::default() }
    }

    /// `names` are those of all its domains.
    fn facts<'a>(
        &self,
        view: &'a State,
        customer: &'a Customer,
        names: &[String],
    ) -> CustomerFacts<'a> {
        let domain = |row: &'a Domain| DomainFacts {
            row,
            blacklisted: (!self.is_busy)
                .then(|| self.blacklisted.get(&row.name).copied().unwrap_or_default()),
            frozen_since_ms: self.frozen.get(&row.name).copied(),
            queue: match self.queues.get(&row.name) {
                Some(words) => words.clone(),
                None => if self.is_busy { NOT_LOOKED_AT } else { "empty" }.to_owned(),
            },
        };
        let is_own = |line: &&JournalLine| {
            let name = domain_of(&line.to).to_lowercase();
            view.domain(&name).is_some_and(|row| row.customer == customer.id)
        };
        let rows = names.iter().filter_map(|name| view.domain(name));
        let number = view.migrations().next().map(|migration| migration.id);
        CustomerFacts {
            customer,
            names: view.names_of(&customer.id),
            migration: number.zip(view.migration_step(&customer.id)),
            domains: rows.take(DOMAINS_MAX).map(domain).collect(),
            domains_in_all: names.len(),
            failures: match self.is_busy {
                true => vec![NOT_LOOKED_AT.to_owned()],
                false => self.failures.iter().filter(is_own).map(line).collect(),
            },
        }
    }
}

/// The customers that an address is a contact of, by id, and the names of their domains.
async fn customers_of(view: &Arc<State>, author: &Address) -> Vec<(String, Vec<String>)> {
    let (view, author) = (Arc::clone(view), author.clone());
    let look = move || {
        let found = contacts::customers_of(&view, &author, CUSTOMERS_MAX).into_iter();
        let names = |id: &str| view.domains_of(id).map(|row| row.name.clone()).collect();
        found.map(|(customer, _)| (customer.id.clone(), names(&customer.id))).collect()
    };
    // It looks at every row.
    tokio::task::spawn_blocking(look).await.unwrap_or_else(|error| {
        tracing::error!(%error, "diagnostics go without the author's customers");
        Vec::new()
    })
}

fn line(line: &JournalLine) -> String {
    let JournalLine { at, id, from, to, outcome, because, dsn, reply, .. } = line;
    let because = because.as_deref().unwrap_or_default();
    format!("{at} {id} <{from}> to <{to}>: {outcome} {because} {dsn} {reply}")
}
