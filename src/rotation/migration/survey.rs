//! What customers' MX records say: who has moved, and who still has a name that ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mxfleet_cluster::{
    Cluster, Command, Migration, MigrationCommand, MigrationStage, MxName, NameStage, Request,
    State, Survey, random_id,
};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::route::Dns;
use crate::system::clock::wall_ms;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Questions on their way at a time.
const QUESTIONS_MAX: usize = 32;
/// Customers in one command.
const BATCH: usize = 500;
/// Who reports, for the audit trail.
const ACTOR: &str = "survey";

/// Asks DNS about customers' domains while this node leads and a migration is announced.
#[derive(Clone)]
pub(in crate::rotation) struct Surveyor {
    pub(in crate::rotation) cluster: Cluster,
    pub(in crate::rotation) dns: Dns,
}

impl Surveyor {
    pub(in crate::rotation) async fn run(self) {
        let mut last: Option<(u64, Instant)> = None;
        loop {
            sleep(LOOK_EVERY).await;
            let state = self.cluster.view();
            let announced = |m: &&Migration| matches!(m.stage, MigrationStage::Announced { .. });
            let migration = state.migrations().next().filter(announced);
            let Some(migration) = migration.filter(|_| self.cluster.leads()) else {
                last = None;
                continue;
            };
            let every =
                Duration::from_millis(state.settings().duration_ms("rotation.survey_every"));
            let due = last.is_none_or(|(id, at)| id != migration.id || at.elapsed() >= every);
            if due {
                last = Some((migration.id, Instant::now()));
                self.survey(&state, migration).await;
            }
        }
    }

    /// Ask about every customer who has, or had, a name that ends.
    async fn survey(&self, state: &State, migration: &Migration) {
        let retire = Arc::new(migration.retire.clone());
        let is_ours = |row: &&MxName| !matches!(row.stage, NameStage::Removed { .. });
        let ours: Vec<String> = state.names().filter(is_ours).map(|row| row.name.clone()).collect();
        let ours = Arc::new(ours);
        let concerned = |customer: &str| {
            let step = state.migration_step(customer);
            step.is_some_and(|step| step.before.iter().any(|name| retire.contains(name)))
        };
        let (mut tasks, questions) = (JoinSet::new(), Arc::new(Semaphore::new(QUESTIONS_MAX)));
        let mut found: BTreeMap<String, Vec<Option<Records>>> = BTreeMap::new();
        for (customer, _) in state.migration_steps().filter(|(customer, _)| concerned(customer)) {
            found.insert(customer.to_owned(), Vec::new());
        }
        for domain in state.domains().filter(|domain| found.contains_key(&domain.customer)) {
            let (dns, questions) = (self.dns.clone(), Arc::clone(&questions));
            let (retire, ours) = (Arc::clone(&retire), Arc::clone(&ours));
            let (name, customer) = (domain.name.clone(), domain.customer.clone());
            tasks.spawn(async move {
                let _turn = questions.acquire().await;
                let records = dns.exchangers(&name).await.ok();
                (customer, records.map(|records| sort(&records, &retire, &ours)))
            });
        }
        while let Some(answered) = tasks.join_next().await {
            if let Ok((customer, answer)) = answered {
                found.entry(customer).or_default().push(answer);
            }
        }
        let at_ms = wall_ms();
        let rows: Vec<(String, Survey)> = found
            .into_iter()
            .map(|(customer, answers)| (customer, judge(&answers, at_ms)))
            .collect();
        for rows in rows.chunks(BATCH) {
            let command = Command::Migration(MigrationCommand::Surveyed { rows: rows.to_vec() });
            let request = Request::new(random_id(), ACTOR, at_ms, command);
            if let Err(error) = self.cluster.propose(request).await {
                tracing::debug!(%error, "a survey could not be told; the next one is");
            }
        }
    }
}

/// Whose names a domain's MX records have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Records {
    /// One that ends.
    Old,
    /// Of ours, only such that stay.
    Ours,
    /// None of ours, or there are no records.
    Others,
}

fn sort(records: &[(u16, String)], retire: &[String], ours: &[String]) -> Records {
    let has = |names: &[String]| {
        records.iter().any(|(_, host)| {
            let host = host.trim_end_matches('.').to_ascii_lowercase();
            names.contains(&host)
        })
    };
    match () {
        () if has(retire) => Records::Old,
        () if has(ours) => Records::Ours,
        () => Records::Others,
    }
}

/// One domain with an old name is enough; one without an answer leaves it open; and one that has
/// moved tells from a customer that has none of our names.
fn judge(answers: &[Option<Records>], at_ms: u64) -> Survey {
    let any = |what| answers.contains(&what);
    match () {
        () if any(Some(Records::Old)) => Survey::Old { at_ms },
        () if any(None) => Survey::Unknown,
        () if any(Some(Records::Ours)) => Survey::Moved { at_ms },
        () => Survey::Elsewhere { at_ms },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_domain_with_an_old_name_is_enough_and_one_without_an_answer_leaves_it_open() {
        let (at_ms, old, ours, others) =
            (5, Some(Records::Old), Some(Records::Ours), Some(Records::Others));
        for (answers, expected) in [
            (&[][..], Survey::Elsewhere { at_ms }),
            (&[others, others], Survey::Elsewhere { at_ms }),
            (&[ours, others], Survey::Moved { at_ms }),
            (&[ours, None], Survey::Unknown),
            (&[others, None], Survey::Unknown),
            (&[None, old, ours], Survey::Old { at_ms }),
        ] {
            assert_eq!(judge(answers, at_ms), expected, "{answers:?}");
        }
    }

    #[test]
    fn records_are_told_apart_by_whose_names_they_have() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let records = |hosts: &[&str]| {
            hosts.iter().map(|host| (10, (*host).to_owned())).collect::<Vec<(u16, String)>>()
        };
        let (retire, ours) = (names(&["mx1.test"]), names(&["mx1.test", "mx2.test"]));
        let sorted = |hosts: &[&str]| sort(&records(hosts), &retire, &ours);
        assert_eq!(sorted(&["MX1.test.", "mx2.test."]), Records::Old);
        assert_eq!(sorted(&["mx2.TEST.", "mail.other.example."]), Records::Ours);
        assert_eq!(sorted(&["mail.other.example."]), Records::Others);
        assert_eq!(sorted(&[]), Records::Others, "mail goes by the domain's address");
    }
}
