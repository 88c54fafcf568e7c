//! Who is to get a letter of a migration now. Pure.

use std::collections::BTreeSet;

use mxfleet_cluster::{
    Customer, CustomerStatus, Migration, MigrationStage, MigrationStep, State, Told,
};

use crate::contacts::contacts;

/// Nobody is told of a cancellation that is longer ago.
const CANCELLATION_MS_MAX: u64 = 86_400_000;

/// Whether customers can be written to at `now_ms`: what they are told to use is in DNS.
pub(super) fn is_ready(state: &State, migration: &Migration, now_ms: u64) -> bool {
    let in_dns = |name: &String| state.name(name).is_some_and(|row| row.target.is_some());
    match migration.stage {
        MigrationStage::Announced { .. } => migration.introduce.iter().all(in_dns),
        MigrationStage::Cancelled { at_ms } => now_ms < at_ms.saturating_add(CANCELLATION_MS_MAX),
        MigrationStage::Planned | MigrationStage::Finished { .. } => false,
    }
}

pub(super) fn is_cancelled(migration: &Migration) -> bool {
    matches!(migration.stage, MigrationStage::Cancelled { .. })
}

/// Active customers whose letter of the newest round is nobody's yet, or of a host that is gone.
pub(super) fn due<'a>(
    state: &'a State,
    migration: &'a Migration,
) -> impl Iterator<Item = &'a Customer> {
    let late: BTreeSet<String> = match migration.rounds {
        2.. if !is_cancelled(migration) => {
            state.migration_breaks().into_iter().map(|(customer, _)| customer).collect()
        }
        _ => BTreeSet::new(),
    };
    state.migration_steps().filter_map(move |(id, step)| {
        let customer = state.customer(id)?;
        let is_active = customer.status == CustomerStatus::Active;
        (is_active && is_due(state, migration, (customer, step), &late)).then_some(customer)
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
        () if is_cancelled(migration) => was_to_move(step) && (is_next || is_lost),
        // Who had no contact may have one by now.
        () if step.first_round == 0 => is_next || !contacts(customer).is_empty(),
        () if is_lost && step.round == step.first_round => true,
        () => (is_next || is_lost) && late.contains(&customer.id),
    }
}

/// Whether the customer was told, or is just being told, to change its records.
fn was_to_move(step: &MigrationStep) -> bool {
    let told = matches!(step.told, Told::Sending { .. } | Told::Accepted { .. });
    told && step.before != step.after
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_told_to_move_is_told_that_it_is_cancelled() {
        let list = |name: &str| vec![name.to_owned()];
        let step = MigrationStep {
            before: list("mx1"),
            after: list("mx5"),
            told: Told::Accepted { at_ms: 5 },
            ..MigrationStep::default()
        };
        assert!(was_to_move(&step));
        assert!(!was_to_move(&MigrationStep { after: list("mx1"), ..step.clone() }));
        assert!(!was_to_move(&MigrationStep { told: Told::NotYet, ..step }));
    }
}
