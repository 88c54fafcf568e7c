//! What customers' MX records say: who has moved, and who still has a name that ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mxfleet_cluster::{
    Cluster, Command, Domain, Migration, MigrationCommand, MigrationStage, MigrationStep, Request,
    State, Survey, random_id,
};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::adoption::{Names, Records, Whose, adopted, judge};
use crate::route::{Dns, RouteFailure};
use crate::system::clock::wall_ms;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What has not answered within this time of a survey is not known.
const SURVEY_MAX: Duration = Duration::from_secs(600);
/// The same while an operator waits.
const ASK_MAX: Duration = Duration::from_secs(20);
/// Questions on their way at a time.
const QUESTIONS_MAX: usize = 32;
/// Hosts of a domain that are not ours by their name and are looked up; more are not.
const HOSTS_MAX: usize = 16;
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
        let names = Arc::new(Names::new(state, migration));
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
                    look(&dns, &names, &name).await.ok()
                };
                (customer, timeout_at(until, ask).await.ok().flatten())
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

/// What a domain's MX records lead to, also where they have names of the customer's own.
async fn look(dns: &Dns, names: &Names, domain: &str) -> Result<Records, RouteFailure> {
    let spelled = |host: &str| host.trim_end_matches('.').to_ascii_lowercase();
    let mut hosts: Vec<String> =
        dns.exchangers(domain).await?.iter().map(|(_, host)| spelled(host)).collect();
    let found = names.sort(&hosts, &[]);
    if found.whose == Whose::Old {
        return Ok(found);
    }
    if hosts.is_empty() {
        hosts.push(domain.to_owned()); // mail goes by its address (RFC 5321 section 5.1)
    }
    let others = hosts.iter().filter(|host| !host.is_empty() && !names.has(host));
    let others: Vec<String> = others.take(HOSTS_MAX).cloned().collect();
    let mut addresses = Vec::new();
    for host in others {
        let (aliases, at) = dns.leads_to(&host).await?;
        hosts.extend(aliases.iter().map(|host| spelled(host)));
        addresses.extend(at);
    }
    Ok(names.sort(&hosts, &addresses))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::Ipv4Addr;

    use hickory_resolver::proto::rr::rdata::{A, CNAME, MX};
    use hickory_resolver::proto::rr::{Name, RData};
    use mxfleet_cluster::{HostCommand, NameCommand};

    use super::*;
    use crate::config::Limits;
    use crate::fleet::tests::new_host;
    use crate::route::testing::{Zone, serve};

    const DAY_MS: u64 = 86_400_000;

    /// A state with mx1.relay.test and mx2.relay.test on a host each; the first ends.
    fn state() -> State {
        let mut state = State::default();
        let mut index = 0;
        let mut must = |command: Command| {
            index += 1;
            let request = Request::new(index.into(), "test", DAY_MS, command);
            state.apply(index, &request).unwrap()
        };
        let zone = Some("relay.test".to_owned());
        must(Command::SettingSet { name: "rotation.zone".to_owned(), value: zone });
        must(Command::HostFound { host: new_host(1), seed: 1 });
        let (hash, expires_ms) = ([2; 32], DAY_MS + 1000);
        must(Command::HostToken { hash, name: "mx2".to_owned(), expires_ms });
        must(Command::HostJoin { token: hash, host: new_host(2) });
        for n in 1..=2_u8 {
            let (host, name) = (format!("mx{n}"), format!("mx{n}.relay.test"));
            let addresses = vec![Ipv4Addr::new(192, 0, 2, n).into()];
            must(Command::HostService(HostCommand::Set { name: host.clone(), addresses }));
            must(Command::Name(NameCommand::Add { name: name.clone(), host, from_ms: None }));
            let (host, ttl_s, addresses) = (Some(n.into()), 60, Vec::new());
            must(Command::Name(NameCommand::Published { name, host, ttl_s, addresses }));
        }
        let (retire, introduce) = (vec!["mx1.relay.test".to_owned()], Vec::new());
        let (ends_ms, text) = (9 * DAY_MS, String::new());
        must(Command::Migration(MigrationCommand::Plan { retire, introduce, ends_ms, text }));
        state
    }

    #[tokio::test]
    async fn an_exchanger_that_is_an_alias_or_an_address_of_ours_is_one_of_ours() {
        let name = |text: &str| Name::from_ascii(format!("{text}.")).unwrap();
        let mx = |host: &str| RData::MX(MX::new(10, name(host)));
        let alias = |of: &str| Zone::Has(vec![RData::CNAME(CNAME(name(of)))]);
        let at = |n: u8| Zone::Has(vec![RData::A(A(Ipv4Addr::new(192, 0, 2, n)))]);
        let zones = HashMap::from(
            [
                ("mx1.relay.test", at(1)),
                ("mx2.relay.test", at(2)),
                ("plain.test", Zone::Has(vec![mx("MX1.relay.test")])),
                ("alias.test", Zone::Has(vec![mx("mx.alias.test")])),
                ("mx.alias.test", alias("hop.alias.test")),
                ("hop.alias.test", alias("Mx1.Relay.Test")),
                ("address.test", Zone::Has(vec![mx("mx.address.test")])),
                ("mx.address.test", at(1)),
                ("bare.test", at(1)),
                ("half.test", Zone::Has(vec![mx("mx2.relay.test"), mx("mx.alias.test")])),
                ("moved.test", Zone::Has(vec![mx("mx.moved.test")])),
                ("mx.moved.test", alias("mx2.relay.test")),
                ("other.test", Zone::Has(vec![mx("mx.other.test"), mx("gone.other.test")])),
                ("mx.other.test", at(99)),
                ("null.test", Zone::Has(vec![RData::MX(MX::new(0, Name::root()))])),
                ("broken.test", Zone::Has(vec![mx("mx.broken.test")])),
                ("mx.broken.test", Zone::ServFail),
            ]
            .map(|(name, zone)| (name.to_owned(), zone)),
        );
        let (address, _) = serve(zones).await;
        let dns = Dns::uncached(&[address], &Limits::default()).unwrap();
        let state = state();
        let names = Names::new(&state, state.migrations().next().unwrap());
        for (domain, expected) in [
            ("plain.test", Some(Whose::Old)),
            ("alias.test", Some(Whose::Old)),
            ("address.test", Some(Whose::Old)),
            ("bare.test", Some(Whose::Old)),
            ("half.test", Some(Whose::Old)),
            ("moved.test", Some(Whose::Ours)),
            ("other.test", Some(Whose::Others)),
            ("null.test", Some(Whose::Others)),
            ("nowhere.test", Some(Whose::Others)),
            ("broken.test", None),
        ] {
            let found = look(&dns, &names, domain).await.ok();
            assert_eq!(found.map(|records| records.whose), expected, "{domain}");
        }
    }
}
