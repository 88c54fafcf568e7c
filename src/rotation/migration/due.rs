//! Who is to get a letter of a migration now. Pure.

use std::collections::BTreeSet;

use mxfleet_cluster::{
    Customer, CustomerStatus, Migration, MigrationStage, MigrationStep, State, Told,
};

use crate::contacts::contacts;

/// Letters that are on their way when a migration is cancelled are withdrawn within this time, and
/// whom they would have told has nothing to hear.
const WITHDRAWAL_MS: u64 = 60_000;

/// Whether customers can be written to at `now_ms`: what they are told to use is in DNS. After the
/// end there may be some that were suspended before.
pub(super) fn is_ready(state: &State, migration: &Migration, now_ms: u64) -> bool {
    let in_dns = |name: &String| state.name(name).is_some_and(|row| row.target.is_some());
    match migration.stage {
        MigrationStage::Announced { .. } => migration.introduce.iter().all(in_dns),
        MigrationStage::Cancelled { .. } => migration.tells_of_cancellation(now_ms),
        MigrationStage::Finished { .. } => true,
        MigrationStage::Planned => false,
    }
}

/// Active customers whose letter of the newest round is nobody's yet, or of a host that is gone.
/// Whoever has a letter on its way that is to be withdrawn waits for what becomes of that.
pub(super) fn due<'a>(
    state: &'a State,
    migration: &'a Migration,
    now_ms: u64,
) -> impl Iterator<Item = &'a Customer> {
    let withdraws = match migration.stage {
        MigrationStage::Cancelled { at_ms } => now_ms < at_ms.saturating_add(WITHDRAWAL_MS),
        _ => false,
    };
    let untold = |(id, step): (&str, &MigrationStep)| {
        let customer = state.customer(id);
        step.round == 0 && customer.is_some_and(|row| row.status == CustomerStatus::Active)
    };
    let matters = match migration.stage {
        MigrationStage::Announced { .. } => migration.rounds > 1,
        MigrationStage::Finished { .. } => state.migration_steps().any(untold),
        MigrationStage::Planned | MigrationStage::Cancelled { .. } => false,
    };
    let late = if matters { state.migration_breaks() } else { Vec::new() };
    let late: BTreeSet<String> = late.into_iter().map(|(customer, _)| customer).collect();
    state.migration_steps().filter_map(move |(id, step)| {
        let customer = state.customer(id)?;
        let is_active = customer.status == CustomerStatus::Active;
        let waits = withdraws && matches!(step.told, Told::Sending { .. });
        let is_due = || is_due(state, migration, (customer, step), &late);
        (is_active && !waits && is_due()).then_some(customer)
    })
}

fn is_due(
    state: &State,
    migration: &Migration,
    (customer, step): (&Customer, &MigrationStep),
    late: &BTreeSet<String>,
) -> bool {
    let is_next = step.round < migration.rounds;
    let is_lost = match step.told {
        Told::Sending { node, .. } => state.host(node).is_none(),
        _ => false,
    };
    match () {
        () if !migration.concerns(step) => false,
        () if migration.is_cancelled() => is_next || is_lost,
        // Who was told could move in time; who was suspended could not know.
        () if !migration.is_open() => step.round == 0 && late.contains(&customer.id),
        // Who had no contact may have one by now.
        () if step.first_round == 0 => is_next || !contacts(customer).is_empty(),
        () if is_lost && step.round == step.first_round => true,
        () => (is_next || is_lost) && late.contains(&customer.id),
    }
}
