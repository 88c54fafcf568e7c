//! What customers' MX records say: who has moved, and who still has a name that ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mxfleet_cluster::{
    Cluster, Command, Domain, Migration, MigrationCommand, MigrationStage, MigrationStep, MxName,
    NameStage, Request, State, Survey, random_id,
};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use crate::route::Dns;
use crate::system::clock::wall_ms;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What has not answered within this time of a survey is not known.
const SURVEY_MAX: Duration = Duration::from_secs(600);
/// The same while an operator waits.
const ASK_MAX: Duration = Duration::from_secs(20);
/// Questions on their way at a time.
const QUESTIONS_MAX: usize = 32;
/// Customers in one command.
const BATCH: usize = 500;
/// Who reports, for the audit trail.
const ACTOR: &str = "survey";

/// Asks DNS about customers' domains: from time to time while this node leads and a migration is
/// announced, and before a decision that hangs on it.
#[derive(Clone)]
pub struct Surveyor {
    pub(in crate::rotation) cluster: Cluster,
    pub(in crate::rotation) dns: Dns,
}

impl Surveyor {
    pub(in crate::rotation) async fn run(self) {
        let mut last: Option<(u64, Instant)> = None;
        loop {
            sleep(LOOK_EVERY).await;
            let state = self.cluster.view();
            let Some(migration) = announced(&state).filter(|_| self.cluster.leads()) else {
                last = None;
                continue;
            };
            let every =
                Duration::from_millis(state.settings().duration_ms("rotation.survey_every"));
            let due = last.is_none_or(|(id, at)| id != migration.id || at.elapsed() >= every);
            if due {
                last = Some((migration.id, Instant::now()));
                self.survey(&state, migration, SURVEY_MAX).await;
            }
        }
    }

    /// Ask now, if a migration is announced; what has not answered soon is not known.
    pub async fn ask(&self) {
        let state = self.cluster.view();
        if let Some(migration) = announced(&state) {
            self.survey(&state, migration, ASK_MAX).await;
        }
    }

    /// Ask about every customer: what MX records have is not always what was given out. Those whose
    /// names change come first.
    async fn survey(&self, state: &State, migration: &Migration, within: Duration) {
        let is_ours = |row: &&MxName| !matches!(row.stage, NameStage::Removed { .. });
        let names = Arc::new(Names {
            retire: migration.retire.clone(),
            introduce: migration.introduce.clone(),
            ours: state.names().filter(is_ours).map(|row| row.name.clone()).collect(),
        });
        let until = Instant::now() + within;
        let (mut tasks, questions) = (JoinSet::new(), Arc::new(Semaphore::new(QUESTIONS_MAX)));
        let mut found: BTreeMap<String, Vec<Option<Records>>> =
            state.customers().map(|customer| (customer.id.clone(), Vec::new())).collect();
        let stays = |customer: &str| !state.migration_step(customer).is_some_and(changes);
        let mut domains: Vec<&Domain> = state.domains().collect();
        domains.sort_by_cached_key(|domain| stays(&domain.customer));
        for domain in domains {
            let (dns, questions) = (self.dns.clone(), Arc::clone(&questions));
            let names = Arc::clone(&names);
            let (name, customer) = (domain.name.clone(), domain.customer.clone());
            tasks.spawn(async move {
                let ask = async {
                    let _turn = questions.acquire().await;
                    dns.exchangers(&name).await.ok()
                };
                let records = timeout_at(until, ask).await.ok().flatten();
                (customer, records.map(|records| names.sort(&records)))
            });
        }
        while let Some(answered) = tasks.join_next().await {
            if let Ok((customer, answer)) = answered {
                found.entry(customer).or_default().push(answer);
            }
        }
        let at_ms = wall_ms();
        let rows = found
            .into_iter()
            .map(|(customer, answers)| (customer, judge(&answers, at_ms), adopted(&answers)));
        self.tell(migration.id, &rows.collect::<Vec<_>>(), at_ms).await;
    }

    async fn tell(&self, migration: u64, rows: &[(String, Survey, Vec<String>)], at_ms: u64) {
        for rows in rows.chunks(BATCH) {
            let rows = rows.to_vec();
            let command = Command::Migration(MigrationCommand::Surveyed { migration, rows });
            let request = Request::new(random_id(), ACTOR, at_ms, command);
            if let Err(error) = self.cluster.propose(request).await {
                tracing::debug!(%error, "a survey could not be told; the next one is");
            }
        }
    }
}

fn changes(step: &MigrationStep) -> bool {
    step.before != step.after
}

fn announced(state: &State) -> Option<&Migration> {
    let newest = state.migrations().next();
    newest.filter(|migration| matches!(migration.stage, MigrationStage::Announced { .. }))
}

/// Names of ours that MX records may have.
#[derive(Debug)]
struct Names {
    retire: Vec<String>,
    introduce: Vec<String>,
    ours: Vec<String>,
}

impl Names {
    fn sort(&self, records: &[(u16, String)]) -> Records {
        let hosts: Vec<String> = records
            .iter()
            .map(|(_, host)| host.trim_end_matches('.').to_ascii_lowercase())
            .collect();
        let has = |names: &[String]| names.iter().any(|name| hosts.contains(name));
        let whose = match () {
            () if has(&self.retire) => Whose::Old,
            () if has(&self.ours) => Whose::Ours,
            () => Whose::Others,
        };
        let adopted = self.introduce.iter().filter(|name| hosts.contains(name));
        Records { whose, adopted: adopted.cloned().collect() }
    }
}

/// What a domain's MX records say.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Records {
    whose: Whose,
    /// Names in them that begin.
    adopted: Vec<String>,
}

/// Whose names a domain's MX records have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// One that ends.
    Old,
    /// Of ours, only such that stay.
    Ours,
    /// None of ours, or there are no records.
    Others,
}

/// One domain with an old name is enough; one without an answer leaves it open; and one that has
/// moved tells from a customer that has none of our names.
fn judge(answers: &[Option<Records>], at_ms: u64) -> Survey {
    let any = |whose| answers.iter().flatten().any(|records| records.whose == whose);
    match () {
        () if any(Whose::Old) => Survey::Old { at_ms },
        () if answers.contains(&None) => Survey::Unknown,
        () if any(Whose::Ours) => Survey::Moved { at_ms },
        () => Survey::Elsewhere { at_ms },
    }
}

/// Names that begin, and that one of the domains has.
fn adopted(answers: &[Option<Records>]) -> Vec<String> {
    let names = answers.iter().flatten().flat_map(|records| records.adopted.iter().cloned());
    names.collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn one_domain_with_an_old_name_is_enough_and_one_without_an_answer_leaves_it_open() {
        let at_ms = 5;
        let records = |whose| Some(Records { whose, adopted: Vec::new() });
        let (old, ours, others) =
            (records(Whose::Old), records(Whose::Ours), records(Whose::Others));
        for (answers, expected) in [
            (vec![], Survey::Elsewhere { at_ms }),
            (vec![others.clone(), others.clone()], Survey::Elsewhere { at_ms }),
            (vec![ours.clone(), others.clone()], Survey::Moved { at_ms }),
            (vec![ours.clone(), None], Survey::Unknown),
            (vec![others, None], Survey::Unknown),
            (vec![None, old, ours], Survey::Old { at_ms }),
        ] {
            assert_eq!(judge(&answers, at_ms), expected, "{answers:?}");
        }
    }

    #[test]
    fn records_are_told_apart_by_whose_names_they_have() {
        let known = Names {
            retire: names(&["mx1.test"]),
            introduce: names(&["mx2.test"]),
            ours: names(&["mx1.test", "mx2.test", "mx3.test"]),
        };
        for (hosts, whose, adopted) in [
            (&["MX1.test.", "mx2.test."][..], Whose::Old, &["mx2.test"][..]),
            (&["mx2.TEST.", "mail.other.example."], Whose::Ours, &["mx2.test"]),
            (&["mx3.test."], Whose::Ours, &[]),
            (&["mail.other.example."], Whose::Others, &[]),
            (&[], Whose::Others, &[]), // mail goes by the domain's address
        ] {
            let records: Vec<_> = hosts.iter().map(|host| (10, (*host).to_owned())).collect();
            let expected = Records { whose, adopted: names(adopted) };
            assert_eq!(known.sort(&records), expected, "{hosts:?}");
        }
    }

    #[test]
    fn a_name_that_one_domain_has_is_adopted_even_while_another_keeps_an_old_one() {
        let records = |whose, has: &[&str]| Some(Records { whose, adopted: names(has) });
        let answers = [records(Whose::Old, &[]), None, records(Whose::Ours, &["mx2.test"])];
        assert_eq!(adopted(&answers), ["mx2.test"]);
    }
}
