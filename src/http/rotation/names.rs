//! Calls about MX names.

use std::collections::BTreeMap;

use mxfleet_cluster::{
    Command, Fault, Host, HostState, MxName, NameCommand, NameStage, NameStatus, Plan, Pointing,
    State, some_of,
};

use super::super::call::{Refused, Terms};
use super::call::{LoadRow, MoveRow, NameCall, NameRow, RebalanceRow};
use super::holders::{Holders, holders};
use super::{Answer, Answers, RotationAdmin, also, certificates, host_name, time};
use crate::rotation::records::{records, zone_file};
use crate::smtp::address::domain_to_ascii;
use crate::system::clock::wall_ms;

impl RotationAdmin {
    pub(super) async fn name(&self, call: NameCall, terms: &Terms) -> Answer {
        let command = match call {
            NameCall::List => {
                let (state, answers) = (self.view(), self.answers().await?);
                let holders = holders(&state);
                let row = |row: &MxName| name_row(&state, row, (&answers, &holders));
                return Ok(serde_json::json!(state.names().map(row).collect::<Vec<_>>()));
            }
            NameCall::Show { name } => {
                let (state, name) = (self.view(), spelling(&name)?);
                let row = state.name(&name);
                let row = row.ok_or_else(|| {
                    Refused::not_found(format!("there is no MX name {}", name.escape_debug()))
                })?;
                let (answers, holders) = (self.answers().await?, holders(&state));
                return Ok(serde_json::json!(name_row(&state, row, (&answers, &holders))));
            }
            NameCall::Zone => return self.zone(),
            NameCall::CertList => return self.cert_list(),
            NameCall::CertAdd { chain_pem, key_pem, published } => {
                return self.cert_add(chain_pem, &key_pem, published, terms).await;
            }
            NameCall::CertRemove { name, published } => {
                return self.cert_remove(&name, published, terms).await;
            }
            NameCall::Rebalance { dry_run } => return self.rebalance(dry_run, terms).await,
            NameCall::Add { name, host, from_ms, published } => {
                let name = spelling(&name)?;
                self.require_up(&host).await?;
                let command = NameCommand::Add { name: name.clone(), host, from_ms };
                return self.and_published(command, &name, published, terms).await;
            }
            NameCall::Point { name, host, from_ms, home, published } => {
                let name = spelling(&name)?;
                self.require_up(&host).await?;
                let moves = vec![(name.clone(), host)];
                let command = NameCommand::Point { moves, from_ms, rehome: home };
                return self.and_published(command, &name, published, terms).await;
            }
            NameCall::Remove { name, force, published } => {
                let name = spelling(&name)?;
                let command = NameCommand::Remove { name: name.clone(), force };
                return self.and_published(command, &name, published, terms).await;
            }
            NameCall::Stay { name } => {
                let name = spelling(&name)?;
                self.require_up_to_stay(&name).await?;
                NameCommand::Stay { name }
            }
            NameCall::Retire { name, at_ms } => {
                NameCommand::Retire { name: spelling(&name)?, at_ms }
            }
            NameCall::Keep { name } => NameCommand::Keep { name: spelling(&name)? },
        };
        self.propose(Command::Name(command), terms).await
    }

    /// Propose a change; and, if somebody made sure that DNS says it already, that it does.
    async fn and_published(
        &self,
        command: NameCommand,
        name: &str,
        published: bool,
        terms: &Terms,
    ) -> Answer {
        let changed = self.propose(Command::Name(command), terms).await?;
        let state = self.view();
        let Some(row) = state.name(name).filter(|_| published) else { return Ok(changed) };
        let wanted = row.wanted(wall_ms(), state.ttl());
        let (host, ttl_s) = (wanted.map(|(host, _)| host), wanted.map_or(0, |(_, ttl_s)| ttl_s));
        let addresses = host.and_then(|host| state.host(host));
        let addresses = addresses.map(|row| row.addresses.clone()).unwrap_or_default();
        let name = name.to_owned();
        let command = NameCommand::Published { name, host, ttl_s, addresses };
        self.propose(Command::Name(command), &also(terms)).await?;
        Ok(changed)
    }

    /// Refuse to bring a name that has begun to move back to a host that does not answer.
    async fn require_up_to_stay(&self, name: &str) -> Result<(), Refused> {
        let (state, now_ms) = (self.view(), wall_ms());
        let row = state.name(name).filter(|row| row.is_moving(now_ms));
        match row.and_then(|row| row.stays_at(now_ms)) {
            Some(host) => self.require_up(&host_name(&state, host)).await,
            None => Ok(()),
        }
    }

    fn zone(&self) -> Answer {
        let state = self.view();
        let zone = state.settings().get("rotation.zone").unwrap_or_default();
        if zone.is_empty() {
            return Err(Refused::not_found(
                "the service has no zone; `mxfleet settings set rotation.zone ZONE` first",
            ));
        }
        Ok(serde_json::json!(zone_file(zone, &records(&state, wall_ms()))))
    }

    async fn rebalance(&self, dry_run: bool, terms: &Terms) -> Answer {
        let (state, now_ms) = (self.view(), wall_ms());
        let serves = |name: &str| {
            state.host_named(name).is_some_and(|host| host.state == HostState::InService)
        };
        let fleet = self.answers_in_time(serves).await?.without_down(state.fleet(now_ms));
        let short = state.customers_short_of_names().count();
        let mut customers = u64::try_from(short).unwrap_or(u64::MAX);
        // The search takes its time, and mail does not wait for it.
        let plan = tokio::task::spawn_blocking(move || fleet.rebalance()).await;
        let plan = plan.map_err(|error| Refused::unavailable(error.to_string()))?;
        let plan = plan.ok_or_else(no_host)?;
        if !dry_run {
            if customers > 0 {
                let spread = Command::Name(NameCommand::Spread);
                let spread = self.propose(spread, &also(terms)).await?;
                customers = spread["changed"].as_u64().unwrap_or_default();
            }
            let moves = plan.moves.iter().map(|step| (step.name.clone(), step.to.clone()));
            let moves: Vec<_> = moves.collect();
            if !moves.is_empty() {
                let command = NameCommand::Point { moves, from_ms: None, rehome: true };
                self.propose(Command::Name(command), terms).await?;
            }
        }
        let (moves, loads) = (moves(&plan), loads(&plan));
        Ok(serde_json::json!(RebalanceRow { done: !dry_run, moves, loads, customers }))
    }
}

pub(super) fn no_host() -> Refused {
    Refused::unavailable(
        "no host can take names: one must be in service, answer, and have an address \
         (`mxfleet host set NAME --address ADDRESS`)",
    )
}

pub(super) fn moves(plan: &Plan) -> Vec<MoveRow> {
    let row = |step: &mxfleet_cluster::Move| MoveRow {
        name: step.name.clone(),
        from: step.from.clone(),
        to: step.to.clone(),
    };
    plan.moves.iter().map(row).collect()
}

fn loads(plan: &Plan) -> Vec<LoadRow> {
    let row = |(host, before, after): &(String, u64, u64)| LoadRow {
        host: host.clone(),
        before: *before,
        after: *after,
    };
    plan.loads.iter().map(row).collect()
}

/// A name as the tables spell it: lowercase A-label, no trailing dot.
pub(super) fn spelling(text: &str) -> Result<String, Refused> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let (star, host) = name.strip_prefix("*.").map_or(("", name), |host| ("*.", host));
    domain_to_ascii(host)
        .map(|host| format!("{star}{host}"))
        .map_err(|_| Refused::invalid(format!("{} is not a host name", text.escape_debug())))
}

fn name_row(
    state: &State,
    row: &MxName,
    (answers, holders): (&Answers, &BTreeMap<&str, Holders>),
) -> NameRow {
    let now_ms = wall_ms();
    let held = holders.get(row.name.as_str()).copied().unwrap_or_default();
    let pending = row.pointing.as_ref();
    let ends = match row.stage {
        NameStage::Retiring { at_ms } | NameStage::Removed { at_ms } => Some(time(at_ms)),
        NameStage::Planned | NameStage::Active => None,
    };
    let status = match row.status() {
        NameStatus::Planned => "planned",
        NameStatus::Active => "active",
        NameStatus::Redirected => "redirected",
        NameStatus::Retiring => "retiring",
        NameStatus::Removed => "removed",
    };
    let from_ms = pending.map(|pointing| pointing.from_ms).filter(|from_ms| *from_ms > now_ms);
    let is_removed = matches!(row.stage, NameStage::Removed { .. });
    let moves_to = pending.and_then(|pointing| pointing.to).filter(|to| Some(*to) != row.target);
    let points_at = row.target.map(|host| host_name(state, host));
    let fault = |fault: &Fault| format!("{} (since {})", fault.text, time(fault.since_ms));
    let ends_ms = state.certificates().filter(|known| known.covers(&row.name));
    let ends_ms = ends_ms.map(|known| known.ends_ms).max();
    let next = state.waiting_certificates().find(|next| next.certificate.covers(&row.name));
    let is_asked = state.settings().get("rotation.acme_directory").is_some_and(|d| !d.is_empty());
    let uncertified = state.certificate_fault(&row.name).filter(|_| is_asked && !is_removed);
    NameRow {
        name: row.name.clone(),
        state: status.to_owned(),
        home: host_name(state, row.home),
        is_down: points_at.as_ref().is_some_and(|host| answers.is_down(host)),
        points_at,
        moves_to: moves_to.map(|host| host_name(state, host)),
        moves_from: from_ms.map(time),
        waits_for: waits_for(state, row, now_ms),
        dns_fault: row.dns_fault.as_ref().or(state.dns_fault()).filter(|_| !is_removed).map(fault),
        certificate_ends: ends_ms.map(time),
        certificate_fault: uncertified.map(fault),
        certificate_waits_for: next.map(|next| certificates::waits_for(state, next, now_ms)),
        ends,
        customers: held.all,
        customers_on_one_host: held.on_one_host,
        ttl_seconds: row.ttl_s,
    }
}

/// What DNS is to say, with what is in the way of that, or what is to be done `by_hand` then.
pub(super) fn until_in_dns(
    state: &State,
    row: Option<&MxName>,
    what: String,
    by_hand: &str,
) -> String {
    let settings = state.settings();
    let manual = settings.servers("rotation.dns_servers").is_empty()
        && settings.servers("rotation.dns_primary").is_empty();
    match row.and_then(|row| row.dns_fault.as_ref()).or(state.dns_fault()) {
        Some(fault) => format!("{what}: {} (since {})", fault.text, time(fault.since_ms)),
        None if manual => format!(
            "{what}: rotation.dns_servers is not set; publish `mxfleet name zone` yourself, then \
             {by_hand}"
        ),
        None => what,
    }
}

/// What a name waits for, in words.
pub(super) fn waits_for(state: &State, row: &MxName, now_ms: u64) -> Option<String> {
    if state.lacks_host(row, now_ms) {
        return Some(format!(
            "a host: it was to lead to one that is not in the fleet, or has no address, and DNS is \
             left as it is; `mxfleet name point {} HOST`, or `mxfleet name rebalance` for all",
            row.name
        ));
    }
    if let Some(pointing) = &row.pointing {
        let is_ahead = pointing.from_ms > now_ms;
        if is_ahead && pointing.meanwhile.is_none() {
            if let Some(host) = state.readdressed(row) {
                let date = time(pointing.from_ms);
                return Some(until_in_dns(
                    state,
                    Some(row),
                    addressed(host),
                    &format!("wait until {date}"),
                ));
            }
            return Some(format!("its date, {}", time(pointing.from_ms)));
        }
        if state.awaits_certificate(row, now_ms) {
            let what = "its certificate, from the ACME server or by `mxfleet name cert add`";
            let fault = state.certificate_fault(&row.name);
            return Some(fault.map_or(what.to_owned(), |fault| {
                format!("{what}: {} (since {})", fault.text, time(fault.since_ms))
            }));
        }
        let what = if is_ahead { pointing.meanwhile } else { pointing.to };
        let what = match what {
            Some(host) => format!("DNS to say {}", host_name(state, host)),
            None => "DNS to forget it".to_owned(),
        };
        let by_hand = format!("say so: `mxfleet name {}`", published(state, row, pointing));
        return Some(until_in_dns(state, Some(row), what, &by_hand));
    }
    if let Some(host) = state.readdressed(row) {
        let by_hand =
            format!("say so: `mxfleet name point {} {} --published`", row.name, host.name);
        return Some(until_in_dns(state, Some(row), addressed(host), &by_hand));
    }
    if let Some(until_ms) = row.remembered(now_ms).map(|former| former.until_ms).max() {
        let former = row.remembered(now_ms).map(|former| host_name(state, former.host));
        let former: Vec<String> = former.collect();
        return Some(format!(
            "resolvers to forget {}, until {}",
            former.join(", "),
            time(until_ms)
        ));
    }
    match row.stage {
        NameStage::Planned => Some("its migration to be announced".to_owned()),
        NameStage::Retiring { at_ms } if at_ms <= now_ms => {
            let users = state.overdue_users(row, now_ms);
            let who =
                if users.is_empty() { String::new() } else { format!(": {}", some_of(&users)) };
            Some(format!("customers to stop using it{who}"))
        }
        _ => None,
    }
}

/// That DNS is to say addresses that were changed.
fn addressed(host: &Host) -> String {
    let addresses: Vec<String> = host.addresses.iter().map(ToString::to_string).collect();
    format!("DNS to say where {} is now: {}", host.name, addresses.join(" "))
}

/// What an operator says who has seen the change in DNS, whatever began it.
fn published(state: &State, row: &MxName, pointing: &Pointing) -> String {
    let name = &row.name;
    let Some(host) = pointing.to.map(|host| host_name(state, host)) else {
        return format!("remove {name} --published");
    };
    let home = if pointing.rehome && row.stage != NameStage::Planned { " --home" } else { "" };
    format!("point {name} {host}{home} --published")
}
