//! Calls about hosts' service.

use std::net::IpAddr;

use mxfleet_cluster::{Command, Drain, Host, HostCommand, HostState, Member, MxName, State};

use super::super::call::{Refused, RefusedKind, Terms};
use super::call::{DrainRow, HostCall, HostRow};
use super::names::waits_for;
use super::votes::{quorum_objection, vote_waits_for};
use super::{Answer, Answers, RotationAdmin, time};
use crate::system::clock::wall_ms;

impl RotationAdmin {
    pub(super) async fn host(&self, call: HostCall, terms: &Terms) -> Answer {
        let state = self.view();
        let command = match call {
            HostCall::List => {
                return Ok(serde_json::json!(host_rows(&state, &self.members().await?)));
            }
            HostCall::Show { name } => {
                let members = self.members().await?;
                let row = host_rows(&state, &members).into_iter().find(|row| row.name == name);
                let row = row.ok_or_else(|| {
                    Refused::not_found(format!("there is no host {}", name.escape_debug()))
                })?;
                return Ok(serde_json::json!(row));
            }
            HostCall::Set { name, addresses } => {
                self.check_addresses(&addresses)?;
                HostCommand::Set { name, addresses }
            }
            HostCall::Drain { name, deadline_ms } => {
                let answers = self.answers_in_time(|host| host != name).await?;
                self.require_quorum_without(&name).await?;
                let moves = moves_from(&state, &name, &answers);
                HostCommand::Drain { name, deadline_ms, moves }
            }
            HostCall::Resume { name } => {
                self.require_up(&name).await?;
                HostCommand::Resume { name }
            }
            HostCall::Retire { name, force } => {
                let answers = self.answers_in_time(|host| force && host != name).await?;
                if force {
                    self.require_quorum_without(&name).await?;
                } else {
                    self.require_no_vote(&name).await?;
                }
                let moves = if force { moves_from(&state, &name, &answers) } else { Vec::new() };
                HostCommand::Retire { name, force, moves }
            }
        };
        self.propose(Command::HostService(command), terms).await
    }

    /// Refuse to take a host out that the fleet needs to decide anything.
    async fn require_quorum_without(&self, host: &str) -> Result<(), Refused> {
        let why = quorum_objection(&self.view(), &self.members().await?, host);
        why.map_or(Ok(()), |why| Err(Refused { error: why, kind: RefusedKind::Conflict }))
    }

    /// Refuse to call a host retired, which may be switched off then, while it is up and votes.
    async fn require_no_vote(&self, name: &str) -> Result<(), Refused> {
        let (state, members) = (self.view(), self.members().await?);
        let host = state.host_named(name).filter(|_| !Answers::of_members(&members).is_down(name));
        match host.and_then(|host| vote_waits_for(&state, &members, host)) {
            None => Ok(()),
            Some(what) => Err(Refused {
                error: format!(
                    "host {name} still votes, and is retired by itself when it does no more; it \
                     waits for {what}"
                ),
                kind: RefusedKind::Conflict,
            }),
        }
    }

    fn check_addresses(&self, addresses: &[IpAddr]) -> Result<(), Refused> {
        match addresses.iter().find(|ip| ip.is_loopback() && !self.allow_loopback) {
            Some(ip) => Err(Refused::invalid(format!("no other host can reach {ip}"))),
            None => Ok(()),
        }
    }
}

/// Where the names of a host that leaves go: to hosts that answer. What is wrong with that, the
/// state says.
fn moves_from(state: &State, host: &str, answers: &Answers) -> Vec<(String, String)> {
    let plan = answers.without_down(state.fleet_left_by(host, wall_ms())).evacuate(host);
    let moves = plan.map(|plan| plan.moves).unwrap_or_default();
    moves.into_iter().map(|step| (step.name, step.to)).collect()
}

fn host_rows(state: &State, members: &[Member]) -> Vec<HostRow> {
    let fleet = state.fleet_as_seen(wall_ms());
    let load = |name: &str| {
        let at = fleet.hosts.iter().position(|host| host.name == name);
        let on = fleet.names.iter().filter(|row| row.host.is_some() && row.host == at);
        on.map(|row| row.load).sum()
    };
    let answers = Answers::of_members(members);
    let row = |host: &Host| {
        let vote = vote_waits_for(state, members, host);
        host_row(state, host, load(&host.name), (answers.of(&host.name), vote))
    };
    state.hosts().map(row).collect()
}

fn host_row(
    state: &State,
    host: &Host,
    load: u64,
    (answers, vote_waits_for): (&str, Option<String>),
) -> HostRow {
    let now_ms = wall_ms();
    let leads_here = |row: &&MxName| [row.target, row.aim()].contains(&Some(host.id));
    let (names, former): (Vec<_>, Vec<_>) = state.names_on(host.id, now_ms).partition(leads_here);
    let listed = |rows: Vec<&MxName>| rows.iter().map(|row| row.name.clone()).collect();
    let (word, drain) = match &host.state {
        HostState::InService => ("in service", None),
        HostState::Draining(drain) => {
            let vote = vote_waits_for.as_deref();
            let drain = drain_row(state, host, drain, (now_ms, answers == "down", vote));
            ("draining", Some(drain))
        }
        HostState::Retired { .. } => ("retired", None),
    };
    HostRow {
        name: host.name.clone(),
        id: host.id,
        state: word.to_owned(),
        answers: answers.to_owned(),
        addresses: host.addresses.clone(),
        names: listed(names),
        former_names: listed(former),
        load,
        version: host.version.clone(),
        retired: match host.state {
            HostState::Retired { at_ms, .. } => Some(time(at_ms)),
            _ => None,
        },
        retired_empty: matches!(host.state, HostState::Retired { empty: true, .. }),
        drain,
        vote_waits_for,
    }
}

fn drain_row(
    state: &State,
    host: &Host,
    drain: &Drain,
    (now_ms, is_down, vote_waits_for): (u64, bool, Option<&str>),
) -> DrainRow {
    let names = state.names_on(host.id, now_ms);
    let names = names.map(|row| (row, forgotten_ms(row, host.id, now_ms)));
    // What DNS is still to say ends at no known time, so it is waited for longest.
    let name = names.max_by_key(|(_, until_ms)| until_ms.unwrap_or(u64::MAX));
    let (step, waits_for) = match (name, drain.mail_left) {
        (Some((name, Some(until_ms))), _) => {
            let late = if drain.is_late(until_ms) { ", after the deadline" } else { "" };
            let (name, host, until) = (&name.name, &host.name, time(until_ms));
            ("names", format!("{name} waits for resolvers to forget {host}, until {until}{late}"))
        }
        (Some((name, None)), _) => {
            let what = waits_for(state, name, now_ms).unwrap_or_else(|| "its turn".to_owned());
            ("names", format!("{} waits for {what}", name.name))
        }
        (None, Some(0)) if !is_down => {
            ("votes", vote_waits_for.unwrap_or("the fleet to say that it is empty").to_owned())
        }
        (None, _) if is_down => {
            let name = &host.name;
            let what = format!(
                "{name} to answer; if it is lost, `mxfleet host retire {name} --force` gives up \
                 what is in its queue"
            );
            ("mail", what)
        }
        (None, None) => ("mail", format!("{} to count its queue", host.name)),
        (None, Some(left)) => {
            let plural = if left == 1 { "" } else { "s" };
            ("mail", format!("{left} message{plural} to be handed over"))
        }
    };
    DrainRow {
        step: step.to_owned(),
        waits_for,
        since: time(drain.since_ms),
        deadline: drain.deadline_ms.map(time),
        late: drain.is_late(now_ms),
        mail_first: drain.mail_first,
        mail_left: drain.mail_left,
    }
}

/// When resolvers have forgotten the host, if nothing else leads to it by this name.
fn forgotten_ms(row: &MxName, host: u64, now_ms: u64) -> Option<u64> {
    let known = row.remembered(now_ms).find(|former| former.host == host)?;
    let leads = row.hosts(now_ms).filter(|known| *known == host).count() > 1;
    Some(known.until_ms).filter(|until_ms| !leads && *until_ms < u64::MAX)
}

#[cfg(test)]
mod tests {
    use mxfleet_cluster::{Fleet, FleetHost, FleetName};

    use super::*;

    #[test]
    fn names_go_to_hosts_that_answer_only() {
        let host = |name: &str| FleetHost { name: name.to_owned(), usable: true };
        let names = vec![FleetName { name: "mx-a".to_owned(), host: Some(0), load: 5 }];
        let hosts = ["mx1", "mx2", "mx3"].map(host).to_vec();
        let fleet = Fleet { hosts, names, apart: Vec::new() };
        let answers = |states: [&'static str; 3]| {
            let names = ["mx1", "mx2", "mx3"].map(str::to_owned);
            Answers(names.into_iter().zip(states).collect())
        };
        let goes_to = |answers: Answers| {
            let plan = answers.without_down(fleet.clone()).evacuate("mx1");
            plan.map(|plan| plan.moves[0].to.clone())
        };
        assert_eq!(goes_to(answers(["up", "up", "up"])).as_deref(), Some("mx2"));
        assert_eq!(goes_to(answers(["up", "down", "up"])).as_deref(), Some("mx3"));
        assert_eq!(goes_to(answers(["up", "down", "down"])), None);
    }
}
