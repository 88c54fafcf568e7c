//! What one node knows of a customer's mail: what waits in its queue, and what failed without
//! anybody being told.

use std::collections::BTreeSet;
use std::time::Duration;

use mxfleet_cluster::{Cluster, Topic};
use serde::{Deserialize, Serialize};

use crate::fleet_wide::Answers;
use crate::telemetry::journal::{Journal, JournalLine, Tally};
use crate::worker::{Deliveries, DestinationView};

/// Domains with waiting mail in one answer, those with the most first.
const WAITING_MAX: usize = 200;
/// Domains with suppressed reports in one answer, those with the most first.
const COUNTS_MAX: usize = 200;
/// The newest suppressed reports in one answer.
const NEWEST_MAX: usize = 10;
/// How much of a reply is passed on.
const REPLY_CHARACTERS_MAX: usize = 300;
/// How long the journal is read.
const READING: Duration = Duration::from_secs(2);

/// Whose mail it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The customer's id.
    pub customer: String,
}

/// What a node knows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Found {
    /// Messages that wait for any of the customer's domains.
    pub messages: usize,
    /// Age of the oldest.
    pub oldest_seconds: Option<u64>,
    /// The same by domain.
    pub waiting: Vec<Waiting>,
    /// What nobody was told of.
    pub suppressed: Suppressed,
}

impl Found {
    /// Since when failures are counted, if not for as long as the journal goes back.
    pub fn counted_since(&self) -> Option<&str> {
        self.suppressed.since.as_deref()
    }
}

/// Mail that waits for one domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// The domain.
    pub domain: String,
    /// Messages.
    pub messages: usize,
    /// Age of the oldest that is neither held nor on its way.
    pub oldest_seconds: Option<u64>,
    /// What went wrong last.
    pub error: Option<String>,
}

/// Failures that nobody was told of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Suppressed {
    /// How many in each domain.
    pub counts: Vec<(String, u64)>,
    /// The newest, the oldest of them first.
    pub newest: Vec<JournalLine>,
    /// Since when they are counted, if not for as long as the journal goes back.
    pub since: Option<String>,
}

/// This node. Clones are handles to the same.
#[derive(Clone)]
pub struct Here {
    cluster: Cluster,
    deliveries: Deliveries,
    journal: Journal,
}

impl Here {
    /// A node with this queue and this journal.
    pub fn new(cluster: Cluster, deliveries: Deliveries, journal: Journal) -> Self {
        Self { cluster, deliveries, journal }
    }

    /// Reads files, so it runs where it may take its time.
    fn look(&self, customer: &str) -> Result<Found, String> {
        let state = self.cluster.view();
        let theirs = state.domains_of(customer);
        let domains: BTreeSet<&str> = theirs.map(|domain| domain.name.as_str()).collect();
        let is_theirs = |domain: &str| domains.contains(domain);
        let mut found = waiting(self.deliveries.destinations(is_theirs));
        let tally = self.journal.tally(is_theirs, NEWEST_MAX, READING);
        found.suppressed = suppressed(tally.map_err(|error| {
            tracing::warn!(%error, "the journal cannot be read for a customer");
            "its journal cannot be read now".to_owned()
        })?);
        Ok(found)
    }
}

impl std::fmt::Debug for Here {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Here").finish_non_exhaustive()
    }
}

impl Answers for Here {
    const TOPIC: Topic = Topic::CUSTOMER;
    type Question = Question;
    type Answer = Found;

    async fn answer(&self, question: Question) -> Result<Found, String> {
        let this = self.clone();
        let look = move || this.look(&question.customer);
        tokio::task::spawn_blocking(look).await.map_err(|error| error.to_string())?
    }
}

/// Destinations come with the most messages first.
fn waiting(destinations: Vec<DestinationView>) -> Found {
    let mut found = Found::default();
    for view in destinations {
        found.messages += view.messages;
        found.oldest_seconds = found.oldest_seconds.max(view.oldest_seconds);
        if view.messages > 0 && found.waiting.len() < WAITING_MAX {
            found.waiting.push(Waiting {
                domain: view.domain,
                messages: view.messages,
                oldest_seconds: view.oldest_seconds,
                error: view.error.map(clipped),
            });
        }
    }
    found
}

fn suppressed(tally: Tally) -> Suppressed {
    let mut counts: Vec<_> = tally.counts.into_iter().collect();
    counts.sort_by(|(a, most), (b, more)| more.cmp(most).then_with(|| a.cmp(b)));
    counts.truncate(COUNTS_MAX);
    let clip = |line: JournalLine| JournalLine { reply: clipped(line.reply), ..line };
    Suppressed { counts, newest: tally.newest.into_iter().map(clip).collect(), since: tally.since }
}

fn clipped(text: String) -> String {
    match text.char_indices().nth(REPLY_CHARACTERS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(domain: &str, messages: usize, oldest_seconds: Option<u64>) -> DestinationView {
        DestinationView {
            domain: domain.to_owned(),
            state: "ok".into(),
            messages,
            recipients: messages as u64,
            due: 0,
            running: 0,
            held: 0,
            oldest_seconds,
            next_due_seconds: None,
            connections: 0,
            window: 1,
            failing_seconds: None,
            next_probe_seconds: None,
            error: Some("e".repeat(1000)),
            last_reply: None,
        }
    }

    #[test]
    fn queues_are_told_and_not_without_end() {
        let views = vec![
            view("acme.test", 3, Some(60)),
            view("acme.example", 1, Some(90)),
            view("acme.org", 0, None),
        ];
        let found = waiting(views);
        assert_eq!((found.messages, found.oldest_seconds), (4, Some(90)));
        let names: Vec<&str> = found.waiting.iter().map(|row| row.domain.as_str()).collect();
        assert_eq!(names, ["acme.test", "acme.example"]);
        let error = found.waiting[0].error.as_ref().unwrap();
        assert_eq!(error.len(), REPLY_CHARACTERS_MAX + 3);
        let names: Vec<String> = (0..500).map(|n| format!("d{n}.test")).collect();
        let found = waiting(names.iter().map(|name| view(name, 1, None)).collect());
        assert_eq!((found.messages, found.waiting.len()), (500, WAITING_MAX));
    }
}
