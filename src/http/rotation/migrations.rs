//! Calls about migrations.

use std::collections::BTreeMap;

use mxfleet_cluster::{
    Command, Customer, CustomerStatus, Fleet, Migration, MigrationCommand, MigrationStage,
    MigrationStep, State, Survey, Told,
};

use super::super::call::{Refused, Terms};
use super::call::{FinishRow, LoadRow, MigrationCall, MigrationRow, StepRow};
use super::names::{moves, spelling, waits_for};
use super::{Answer, RotationAdmin, host_name, time};
use crate::post::moment;
use crate::system::clock::wall_ms;

impl RotationAdmin {
    pub(super) async fn migration(&self, call: MigrationCall, terms: &Terms) -> Answer {
        let command = match call {
            MigrationCall::Status => return self.migration_status().await,
            MigrationCall::Plan { retire, introduce, ends_ms, text } => {
                let retire = retire.iter().map(|name| spelling(name)).collect::<Result<_, _>>()?;
                let introduce = introduce
                    .into_iter()
                    .map(|(name, host)| Ok((spelling(&name)?, host)))
                    .collect::<Result<Vec<(String, String)>, Refused>>()?;
                for (_, host) in &introduce {
                    self.require_up(host).await?;
                }
                let plan = MigrationCommand::Plan { retire, introduce, ends_ms, text };
                self.propose(Command::Migration(plan), terms).await?;
                return self.migration_status().await;
            }
            MigrationCall::Announce => {
                let state = self.view();
                let migration = state.migrations().next().ok_or_else(none)?;
                for name in migration.introduce.iter().filter_map(|name| state.name(name)) {
                    self.require_up(&host_name(&state, name.home)).await?;
                }
                let (title, text) = notice(migration);
                MigrationCommand::Announce { title, text }
            }
            MigrationCall::Remind => MigrationCommand::Remind,
            MigrationCall::Finish { force } => {
                // Who has moved since the last survey would be in the way.
                self.surveyor.ask().await;
                return self.finish_migration(force, terms).await;
            }
            MigrationCall::Cancel => {
                self.surveyor.ask().await; // and who uses a new name by now must keep it
                MigrationCommand::Cancel
            }
        };
        self.propose(Command::Migration(command), terms).await
    }

    async fn finish_migration(&self, force: bool, terms: &Terms) -> Answer {
        let finish = Command::Migration(MigrationCommand::Finish { force });
        let done = self.propose(finish, terms).await?;
        let left_out = self.view().migration_left_out().into_iter().map(|(customer, _)| customer);
        let (changed, left_out) =
            (done["changed"].as_u64().unwrap_or_default(), left_out.collect());
        Ok(serde_json::json!(FinishRow { changed, left_out }))
    }

    /// Looks at every customer, so it runs where it may take its time.
    async fn migration_status(&self) -> Answer {
        let state = self.view();
        let look = move || {
            let migration = state.migrations().next().ok_or_else(none)?;
            Ok(serde_json::json!(migration_row(&state, migration)))
        };
        let row = tokio::task::spawn_blocking(look).await;
        row.map_err(|error| Refused::unavailable(error.to_string()))?
    }
}

fn none() -> Refused {
    Refused::not_found("there is no migration; `mxfleet migration plan` begins one")
}

/// What the status page says of a migration.
fn notice(migration: &Migration) -> (String, String) {
    let (retire, introduce) = (migration.retire.join(", "), migration.introduce.join(", "));
    let ends = moment(migration.ends_ms);
    let title = match (migration.retire.is_empty(), migration.introduce.is_empty()) {
        (true, _) => "New MX names".to_owned(),
        (false, _) => format!("MX names end on {ends}"),
    };
    let mut text = migration.text.clone();
    let mut add = |line: String| {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&line);
    };
    if !introduce.is_empty() {
        add(format!("New names: {introduce}."));
    }
    if !retire.is_empty() {
        add(format!("These end on {ends}: {retire}."));
    }
    add("Every customer is told its own names by mail.".to_owned());
    (title, text)
}

fn migration_row(state: &State, migration: &Migration) -> MigrationRow {
    let now_ms = wall_ms();
    let is_finished = matches!(migration.stage, MigrationStage::Finished { .. });
    let known = |rows: Vec<(String, String)>, shown: bool| -> BTreeMap<String, String> {
        rows.into_iter().filter(|_| shown).collect()
    };
    let breaks = known(state.migration_breaks(), migration.is_open());
    // They are not over it when the migration is.
    let left_out = known(state.migration_left_out(), migration.is_open() || is_finished);
    let step = |(customer, step): (&str, &MigrationStep)| {
        let told = match step.told {
            Told::NotYet if migration.retire.is_empty() && step.before == step.after => "-",
            _ => told(&step.told),
        };
        let row = step_row(customer, step);
        let why = breaks.get(customer).cloned();
        let once_resumed = left_out.get(customer).map(|why| format!("once it is resumed: {why}"));
        let is_active = |row: &Customer| row.status == CustomerStatus::Active;
        StepRow {
            told: told.to_owned(),
            would_break: why.is_some(),
            why: why.or(once_resumed),
            suspended: state.customer(customer).is_some_and(|row| !is_active(row)),
            ..row
        }
    };
    // Who came after the announcement, and mail comes by an old name.
    let later = breaks.keys().filter(|customer| state.migration_step(customer).is_none());
    let later = later.map(|customer| {
        let names = state.names_of(customer).to_vec();
        let row = MigrationStep { before: names.clone(), after: names, ..MigrationStep::default() };
        StepRow { told: "-".to_owned(), ..step((customer, &row)) }
    });
    let stage = match migration.stage {
        MigrationStage::Planned => "planned",
        MigrationStage::Announced { .. } => "announced",
        MigrationStage::Finished { .. } => "finished",
        MigrationStage::Cancelled { .. } => "cancelled",
    };
    let after = state.fleet_after(now_ms);
    // Customers keep the names that stay. To move these instead asks nothing of anybody.
    let is_plan = migration.stage == MigrationStage::Planned;
    let plan = is_plan.then(|| after.rebalance()).flatten();
    MigrationRow {
        id: migration.id,
        state: stage.to_owned(),
        retire: migration.retire.clone(),
        introduce: migration.introduce.clone(),
        ends: time(migration.ends_ms),
        text: migration.text.clone(),
        notice: migration.notice,
        rounds: migration.rounds,
        waits_for: letters_wait_for(state, migration, now_ms),
        loads: loads(&state.fleet_as_seen(now_ms), &after),
        rebalance: plan.map(|plan| moves(&plan)).unwrap_or_default(),
        customers: state.migration_steps().map(step).chain(later).collect(),
    }
}

/// Letters tell of names that are in DNS only.
fn letters_wait_for(state: &State, migration: &Migration, now_ms: u64) -> Option<String> {
    if !matches!(migration.stage, MigrationStage::Announced { .. }) {
        return None;
    }
    let missing = migration.introduce.iter().filter_map(|name| state.name(name));
    let missing = missing.filter(|row| row.target.is_none()).max_by_key(|row| &row.name)?;
    let what = waits_for(state, missing, now_ms).unwrap_or_else(|| "DNS".to_owned());
    Some(format!("{}, which waits for {what}", missing.name))
}

fn told(told: &Told) -> &'static str {
    match told {
        Told::NotYet => "not yet",
        Told::NoContact => "no contact",
        Told::Sending { .. } => "sending",
        Told::Accepted { .. } => "accepted",
        Told::Bounced { .. } => "bounced",
    }
}

fn step_row(customer: &str, step: &MigrationStep) -> StepRow {
    let why_not_told = match &step.told {
        Told::Bounced { why, .. } => Some(why.clone()),
        _ => None,
    };
    let records = match step.survey {
        Survey::Unknown => "unknown",
        Survey::Old { .. } => "old",
        Survey::Moved { .. } => "moved",
        Survey::Elsewhere { .. } => "elsewhere",
    };
    StepRow {
        customer: customer.to_owned(),
        before: step.before.clone(),
        after: step.after.clone(),
        told: told(&step.told).to_owned(),
        why_not_told,
        records: records.to_owned(),
        would_break: false,
        why: None,
        suspended: false,
    }
}

fn loads(before: &Fleet, after: &Fleet) -> Vec<LoadRow> {
    let load = |fleet: &Fleet, at: usize| {
        let on = fleet.names.iter().filter(|name| name.host == Some(at));
        on.map(|name| name.load).sum()
    };
    let row = |(at, host): (usize, &mxfleet_cluster::FleetHost)| LoadRow {
        host: host.name.clone(),
        before: load(before, at),
        after: load(after, at),
    };
    after.hosts.iter().enumerate().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_says_little_beside_the_names_and_the_reason() {
        let (retire, introduce) = (vec!["a.test".to_owned()], vec!["b.test".to_owned()]);
        let migration = Migration {
            id: 1,
            retire,
            introduce,
            ends_ms: 1_275_264_000_000,
            text: "Why.".to_owned(),
            stage: MigrationStage::Planned,
            planned_ms: 0,
            notice: None,
            rounds: 0,
            overdue_ms: None,
        };
        let (title, text) = notice(&migration);
        assert!(title.len() < 200, "{title}");
        // The plan of a migration is refused if more than 500 do not fit.
        assert!(text.len() - "a.testb.testWhy.".len() < 500, "{text}");
    }
}
