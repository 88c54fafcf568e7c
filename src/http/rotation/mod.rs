//! Admin calls about names, hosts, migrations and notices.

pub mod call;
mod certificates;
mod holders;
mod hosts;
mod migrations;
mod names;
mod notices;
mod removal;
mod votes;

pub(super) use self::notices::notice_row;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mxfleet_cluster::{Cluster, Command, Fleet, Member, Request, State, random_id};
use tokio::time::{Instant, sleep};

use super::call::{Call, Refused, RefusedKind, Terms};
use super::tables::changed;
use crate::rotation::Surveyor;
use crate::system::clock::wall_ms;

/// How long a host may seem to be down before that is believed.
const HEARING: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Whether hosts answer: `up`, `down` or `unknown`.
struct Answers(BTreeMap<String, &'static str>);

impl Answers {
    fn of_members(members: &[Member]) -> Self {
        Self(members.iter().map(|member| (member.name.clone(), member.state)).collect())
    }

    fn of(&self, host: &str) -> &'static str {
        self.0.get(host).copied().unwrap_or("unknown")
    }

    fn is_down(&self, host: &str) -> bool {
        self.of(host) == "down"
    }

    /// No name is to go to a host that does not answer.
    fn without_down(&self, mut fleet: Fleet) -> Fleet {
        for host in fleet.hosts.iter_mut().filter(|host| self.is_down(&host.name)) {
            host.usable = false;
        }
        fleet
    }
}

type Answer = Result<serde_json::Value, Refused>;

/// What these calls can reach.
pub struct RotationAdmin {
    cluster: Cluster,
    surveyor: Surveyor,
    allow_loopback: bool,
}

impl RotationAdmin {
    /// Calls are answered from, and proposed to, `cluster`; what hangs on customers' MX records is
    /// decided after the surveyor has looked. A host's address may be a loopback one where routes
    /// may.
    pub fn new(cluster: Cluster, surveyor: Surveyor, allow_loopback: bool) -> Self {
        Self { cluster, surveyor, allow_loopback }
    }

    /// Answer a call; `None` when it is about something else.
    pub async fn answer(&self, call: &Call, terms: &Terms) -> Option<Answer> {
        Some(match call.clone() {
            Call::Host(call) => self.host(call, terms).await,
            Call::ClusterRemove { name, force } => self.remove(&name, force, terms).await,
            Call::Name(call) => self.name(call, terms).await,
            Call::Migration(call) => self.migration(call, terms).await,
            Call::Notice(call) => self.notice(call, terms).await,
            Call::CustomerNames { id, names } => {
                let names = names.iter().map(|name| names::spelling(name)).collect();
                match names {
                    Ok(names) => self.propose(Command::Assign { customer: id, names }, terms).await,
                    Err(refused) => Err(refused),
                }
            }
            _ => return None,
        })
    }

    fn view(&self) -> Arc<State> {
        self.cluster.view()
    }

    async fn members(&self) -> Result<Vec<Member>, Refused> {
        let unknown = |why| Refused::unavailable(format!("it is not known who answers: {why}"));
        self.cluster.members().await.map_err(unknown)
    }

    /// Whether each host answers the leader, by name.
    async fn answers(&self) -> Result<Answers, Refused> {
        Ok(Answers::of_members(&self.members().await?))
    }

    /// The same, when it matters: a leader that has just begun has not heard everybody, so hosts
    /// that seem to be down are given a moment; and what no leader says is not known.
    async fn answers_in_time(&self, matters: impl Fn(&str) -> bool) -> Result<Answers, Refused> {
        let until = Instant::now() + HEARING;
        loop {
            let answers = self.answers().await?;
            let is = |word| answers.0.iter().any(|(host, state)| matters(host) && *state == word);
            let is_unknown = is("unknown");
            if !is_unknown && !is("down") {
                return Ok(answers);
            }
            if Instant::now() >= until {
                return if is_unknown { Err(no_leader()) } else { Ok(answers) };
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Refuse a host as a name's target that would take no mail.
    async fn require_up(&self, host: &str) -> Result<(), Refused> {
        if !self.answers_in_time(|name| name == host).await?.is_down(host) {
            return Ok(());
        }
        Err(Refused {
            error: format!(
                "host {host} does not answer, so mail by its names would wait or be lost; start \
                 it, or take another"
            ),
            kind: RefusedKind::Conflict,
        })
    }

    async fn propose(&self, command: Command, terms: &Terms) -> Answer {
        let id = terms.request_id.unwrap_or_else(random_id);
        let mut request = Request::new(id, &terms.actor, wall_ms(), command);
        request.expected_version = terms.expected_version;
        changed(self.cluster.propose(request).await)
    }
}

/// On what terms a call's second change is made: it is as much its asker's as the first.
fn also(terms: &Terms) -> Terms {
    Terms { actor: terms.actor.clone(), ..Terms::default() }
}

fn no_leader() -> Refused {
    Refused::unavailable(
        "it is not known which hosts answer, for there is no leader that says so; try again when \
         there is one (`mxfleet cluster status`)",
    )
}

/// A time as these tables show it, to the second.
fn time(at_ms: u64) -> String {
    super::time(at_ms - at_ms % 1000)
}

fn host_name(state: &State, id: u64) -> String {
    state.host(id).map_or_else(|| format!("host {id}, removed"), |host| host.name.clone())
}
