//! What customers' MX records say: who has moved, and who still has a name that ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mxfleet_cluster::{
    Cluster, Command, Migration, MigrationCommand, MigrationStage, Request, State, Survey,
    random_id,
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
        let concerned = |customer: &str| {
            let step = state.migration_step(customer);
            step.is_some_and(|step| step.before.iter().any(|name| retire.contains(name)))
        };
        let (mut tasks, questions) = (JoinSet::new(), Arc::new(Semaphore::new(QUESTIONS_MAX)));
        let mut found: BTreeMap<String, Vec<Option<bool>>> = BTreeMap::new();
        for (customer, _) in state.migration_steps().filter(|(customer, _)| concerned(customer)) {
            found.insert(customer.to_owned(), Vec::new());
        }
        for domain in state.domains().filter(|domain| found.contains_key(&domain.customer)) {
            let (dns, retire, questions) =
                (self.dns.clone(), Arc::clone(&retire), Arc::clone(&questions));
            let (name, customer) = (domain.name.clone(), domain.customer.clone());
            tasks.spawn(async move {
                let _turn = questions.acquire().await;
                (customer, has_old(&dns, &name, &retire).await)
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

/// Whether a domain's MX records have a name that ends; `None` when nobody answers.
async fn has_old(dns: &Dns, domain: &str, retire: &[String]) -> Option<bool> {
    let records = dns.exchangers(domain).await.ok()?;
    let is_old = |host: &str| {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        retire.contains(&host)
    };
    Some(records.iter().any(|(_, host)| is_old(host)))
}

/// One domain with an old name is enough; one without an answer leaves it open.
fn judge(answers: &[Option<bool>], at_ms: u64) -> Survey {
    if answers.contains(&Some(true)) {
        Survey::Old { at_ms }
    } else if answers.contains(&None) {
        Survey::Unknown
    } else {
        Survey::Moved { at_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_domain_with_an_old_name_is_enough_and_one_without_an_answer_leaves_it_open() {
        let at_ms = 5;
        assert_eq!(judge(&[], at_ms), Survey::Moved { at_ms });
        assert_eq!(judge(&[Some(false), Some(false)], at_ms), Survey::Moved { at_ms });
        assert_eq!(judge(&[Some(false), None], at_ms), Survey::Unknown);
        assert_eq!(judge(&[None, Some(true)], at_ms), Survey::Old { at_ms });
    }
}
