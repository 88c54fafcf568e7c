//! What a customer's view is made of: from the last applied state, from every node, and from DNS.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mxfleet_cluster::State as Tables;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::Shared;
use super::super::records::wanted;
use super::Known;
use super::records::Changes;
use crate::account::{Found, Question};
use crate::fleet_wide::Heard;
use crate::system::clock::wall_ms;

/// Domains that are shown; those with waiting mail come first.
const DOMAINS_MAX: usize = 100;
/// Of those, how many are looked up.
const LOOKED_UP_MAX: usize = 10;
/// Refused recipients that are shown of each kind.
const REFUSED_MAX: usize = 50;
/// How long other nodes, and name servers, have to answer.
const WITHIN: Duration = Duration::from_secs(4);

/// All that is shown.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) now_ms: u64,
    pub(super) domains: Vec<Domain>,
    /// Domains that are not shown.
    pub(super) more_domains: usize,
    /// Refused by the fleet, those that end last first.
    pub(super) listed: Refusals,
    /// Refused by the customer's server, the newest first.
    pub(super) refused: Refusals,
    /// What each node answered, in order of name.
    pub(super) heard: Vec<Heard<Found>>,
}

/// One of the customer's domains.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Domain {
    pub(super) name: String,
    pub(super) route: String,
    /// Messages that wait, on all nodes that answered.
    pub(super) messages: usize,
    pub(super) oldest_seconds: Option<u64>,
    /// What went wrong last on some node.
    pub(super) error: Option<String>,
    /// What its records lack, if they were looked up.
    pub(super) records: Option<Result<Changes, String>>,
}

/// Recipients that were refused.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Refusals {
    pub(super) rows: Vec<Refusal>,
    /// Those that are not shown.
    pub(super) more: usize,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) address: String,
    pub(super) last_ms: u64,
    pub(super) times: usize,
    pub(super) until_ms: Option<u64>,
}

/// Ask everybody at once; nobody is waited for longer than a few seconds. `None` when this node
/// cannot look at its own tables.
pub(super) async fn gather(shared: &Shared, known: &Known) -> Option<Gathered> {
    let customer = known.customer.id.clone();
    let mut asked = shared.account.everywhere.ask(&Question { customer: customer.clone() }, WITHIN);
    let (tables, now_ms) = (Arc::clone(&known.tables), wall_ms());
    let looking = tokio::task::spawn_blocking(move || tabled(&tables, &customer, now_ms));
    let mut heard = Vec::new();
    while let Some(one) = asked.answers.recv().await {
        heard.push(one);
    }
    heard.sort_by(|one, other| one.node.cmp(&other.node));
    let looked = looking.await.inspect_err(|error| {
        tracing::error!(%error, "a customer's tables could not be looked at");
    });
    let mut gathered = looked.ok()?;
    add_up(&mut gathered.domains, &heard);
    gathered.heard = heard;
    gathered.more_domains = gathered.domains.len().saturating_sub(DOMAINS_MAX);
    gathered.domains.truncate(DOMAINS_MAX);
    look_up(shared, &known.tables, &mut gathered.domains).await;
    Some(gathered)
}

/// What the state says. Looks at every domain and every address.
fn tabled(tables: &Tables, customer: &str, now_ms: u64) -> Gathered {
    let theirs: Vec<_> = tables.domains_of(customer).collect();
    let names: BTreeSet<&str> = theirs.iter().map(|domain| domain.name.as_str()).collect();
    let (mut listed, mut refused) = (Vec::new(), Vec::new());
    for row in tables.refused_in(&names, now_ms) {
        let to = if row.listed_until_ms.is_some() { &mut listed } else { &mut refused };
        to.push((row.listed_until_ms, row.last_ms, row.address, row.times));
    }
    let domain = |row: &&mxfleet_cluster::Domain| Domain {
        name: row.name.clone(),
        route: row.route.to_string(),
        ..Domain::default()
    };
    Gathered {
        now_ms,
        domains: theirs.iter().map(domain).collect(),
        listed: newest(listed),
        refused: newest(refused),
        ..Gathered::default()
    }
}

fn newest(mut rows: Vec<(Option<u64>, u64, &str, usize)>) -> Refusals {
    rows.sort_unstable_by(|one, other| other.cmp(one));
    let more = rows.len().saturating_sub(REFUSED_MAX);
    let row = |(until_ms, last_ms, address, times): (_, _, &str, _)| Refusal {
        address: address.to_owned(),
        last_ms,
        times,
        until_ms,
    };
    Refusals { rows: rows.into_iter().take(REFUSED_MAX).map(row).collect(), more }
}

/// What waits, over all nodes; domains with the most come first.
fn add_up(domains: &mut [Domain], heard: &[Heard<Found>]) {
    let mut at: BTreeMap<String, &mut Domain> =
        domains.iter_mut().map(|domain| (domain.name.clone(), domain)).collect();
    for found in heard.iter().filter_map(|one| one.answer.as_ref().ok()) {
        for row in &found.waiting {
            let Some(domain) = at.get_mut(&row.domain) else { continue };
            domain.messages += row.messages;
            domain.oldest_seconds = domain.oldest_seconds.max(row.oldest_seconds);
            domain.error = domain.error.take().or_else(|| row.error.clone());
        }
    }
    domains.sort_by(|a, b| b.messages.cmp(&a.messages).then_with(|| a.name.cmp(&b.name)));
}

/// What the first domains' records say, all asked for at once.
async fn look_up(shared: &Shared, tables: &Tables, domains: &mut [Domain]) {
    let mut asking = JoinSet::new();
    for (place, domain) in domains.iter().take(LOOKED_UP_MAX).enumerate() {
        let (prober, name) = (shared.probes.here().clone(), domain.name.clone());
        let wanted = wanted(tables, &name);
        asking.spawn(async move {
            let late = || Err("Name servers do not answer.".to_owned());
            let records = match timeout(WITHIN, prober.records(&name)).await {
                Ok(now) => now.map_err(|error| error.to_string()),
                Err(_) => late(),
            };
            (place, records.map(|now| Changes::between(&name, &now, &wanted)))
        });
    }
    while let Some(ended) = asking.join_next().await {
        let Ok((place, records)) = ended else { continue };
        if let Some(domain) = domains.get_mut(place) {
            domain.records = Some(records);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::Waiting;
    use crate::fleet_wide::NoAnswer;

    #[test]
    fn what_waits_is_added_up_over_the_nodes_that_answer() {
        let domain = |name: &str| Domain { name: name.to_owned(), ..Domain::default() };
        let mut domains = vec![domain("acme.org"), domain("acme.test")];
        let waiting = |domain: &str, messages, oldest: u64, error: Option<&str>| Waiting {
            domain: domain.to_owned(),
            messages,
            oldest_seconds: Some(oldest),
            error: error.map(str::to_owned),
        };
        let heard = |node: &str, answer| Heard { node: node.to_owned(), answer };
        let found = |waiting| Ok(Found { waiting, ..Found::default() });
        let all = [
            heard("mx1", found(vec![waiting("acme.test", 2, 60, None)])),
            heard("mx2", Err(NoAnswer::Silent)),
            heard(
                "mx3",
                found(vec![
                    waiting("acme.test", 3, 20, Some("refused")),
                    waiting("strange.test", 9, 9, None),
                ]),
            ),
        ];
        add_up(&mut domains, &all);
        assert_eq!(domains[0].name, "acme.test");
        assert_eq!((domains[0].messages, domains[0].oldest_seconds), (5, Some(60)));
        assert_eq!(domains[0].error.as_deref(), Some("refused"));
        assert_eq!((domains[1].messages, domains[1].oldest_seconds), (0, None));
    }

    #[test]
    fn the_newest_refusals_are_shown_and_the_rest_is_counted() {
        let addresses: Vec<String> = (0..60).map(|n| format!("u{n}@acme.test")).collect();
        let rows = (0..60).zip(&addresses).map(|(n, address)| (None, n, address.as_str(), 1));
        let shown = newest(rows.collect());
        assert_eq!((shown.rows.len(), shown.more), (50, 10));
        assert_eq!((shown.rows[0].last_ms, shown.rows[49].last_ms), (59, 10));
    }
}
