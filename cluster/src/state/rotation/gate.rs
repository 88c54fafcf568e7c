//! Who would lose mail if the names that a migration retires ended now, as far as anybody can see:
//! by customers' MX records, and by the names mail came by.

use std::collections::BTreeSet;

use super::super::migrations::{
    Migration, MigrationCommand, MigrationStage, MigrationStep, Survey,
};
use super::super::names::{MxName, NameStage};
use super::super::{Command, CustomerStatus, State};

/// How long it counts that a customer had no old name, while nobody answers any more.
const SEEN_MS_MAX: u64 = 3 * 86_400_000;

impl State {
    /// Take in what MX records say of this migration's names; how many rows that changed.
    pub(super) fn surveyed(&mut self, of: u64, rows: &[(String, Survey, Vec<String>)]) -> u64 {
        let newest = self.rotation.migrations.last().filter(|migration| migration.id == of);
        let Some(begins) = newest.map(|migration| migration.introduce.clone()) else { return 0 };
        let mut changed = 0;
        for (customer, survey, adopted) in rows {
            let Some(step) = self.step_of(customer, *survey) else { continue };
            let unseen = matches!(survey, Survey::Unknown);
            let survey = match step.survey {
                known @ (Survey::Moved { at_ms } | Survey::Elsewhere { at_ms })
                    if unseen && self.counts(at_ms) =>
                {
                    known
                }
                _ => *survey,
            };
            let has =
                |name: &&String| adopted.contains(name) || unseen && step.adopted.contains(name);
            let adopted = begins.iter().filter(has).cloned().collect();
            let step = MigrationStep { survey, adopted, ..step };
            self.rotation.migrations.put_step(customer, step);
            changed += 1;
        }
        changed
    }

    /// A customer's step. Who came after the announcement has none until it has an old name.
    fn step_of(&self, customer: &str, survey: Survey) -> Option<MigrationStep> {
        if let Some(step) = self.rotation.migrations.step(customer) {
            return Some(step.clone());
        }
        let has_old = matches!(survey, Survey::Old { .. });
        self.customers.get(customer).filter(|_| has_old)?;
        let names = self.names_of(customer).to_vec();
        Some(MigrationStep { before: names.clone(), after: names, ..MigrationStep::default() })
    }

    fn counts(&self, at_ms: u64) -> bool {
        at_ms.saturating_add(SEEN_MS_MAX) > self.clock_ms
    }

    /// Active customers who would lose mail if the migration's old names ended now, and why, in
    /// order of customer.
    pub fn migration_breaks(&self) -> Vec<(String, String)> {
        self.breaks(CustomerStatus::Active)
    }

    /// Suspended customers who would lose mail once they are resumed, and why. They hold no end up:
    /// nobody tells them, and they may be suspended for good.
    pub fn migration_left_out(&self) -> Vec<(String, String)> {
        self.breaks(CustomerStatus::Suspended)
    }

    fn breaks(&self, status: CustomerStatus) -> Vec<(String, String)> {
        let Some(migration) = self.rotation.migrations.last() else { return Vec::new() };
        let retire = migration.retire.iter().map(String::as_str).collect();
        let customers = self.customers.iter().filter(|customer| customer.status == status);
        let broken = customers.filter_map(|customer| {
            Some((customer.id.clone(), self.break_of(&customer.id, &retire)?))
        });
        broken.collect()
    }

    /// Why a customer would lose mail without these names. What names it was given is no proof: its
    /// MX records may have others.
    fn break_of(&self, customer: &str, retire: &BTreeSet<&str>) -> Option<String> {
        let step = self.rotation.migrations.step(customer);
        let had_old =
            step.is_some_and(|step| step.before.iter().any(|name| retire.contains(name.as_str())));
        match step.map_or(Survey::Unknown, |step| step.survey) {
            Survey::Old { .. } => Some("its MX records still lead to an old name".to_owned()),
            Survey::Unknown if had_old => Some("its MX records are not known".to_owned()),
            _ => {
                let names = self.rotation.traffic.names_of(customer);
                let used = names.filter(|(name, _)| retire.contains(name));
                let used = used.filter(|(_, at_ms)| self.is_lately(*at_ms)).min();
                used.map(|(name, _)| format!("mail still comes by {name}"))
            }
        }
    }

    /// The migration whose date has come.
    fn past_its_date(&self, now_ms: u64) -> Option<&Migration> {
        let open = self.rotation.migrations.open()?;
        let is_announced = matches!(open.stage, MigrationStage::Announced { .. });
        (is_announced && open.ends_ms <= now_ms).then_some(open)
    }

    /// What is due for a migration whose date has come: its end, or to say what is in the way.
    pub(super) fn due_migration(&self, now_ms: u64) -> impl Iterator<Item = Command> {
        let past = self.past_its_date(now_ms);
        let finish = past.map(|_| MigrationCommand::Finish { force: false });
        let overdue = past.filter(|migration| migration.overdue_ms.is_none());
        let overdue = overdue.map(|_| MigrationCommand::Overdue);
        finish.into_iter().chain(overdue).map(Command::Migration)
    }

    /// Customers who use a name that was to end by itself by now, and so keep it alive. A name of a
    /// migration ends with that.
    pub fn overdue_users(&self, row: &MxName, now_ms: u64) -> Vec<&str> {
        let is_over = matches!(row.stage, NameStage::Retiring { at_ms } if at_ms <= now_ms);
        let ends_alone = row.aim().is_some() && self.require_not_migrating(&row.name).is_ok();
        if is_over && ends_alone { self.users(&row.name) } else { Vec::new() }
    }

    /// Names that customers keep alive although the end has come that was given to them alone.
    pub fn names_overdue(&self, now_ms: u64) -> impl Iterator<Item = &MxName> {
        let is_used = move |row: &&MxName| !self.overdue_users(row, now_ms).is_empty();
        self.rotation.names.iter().filter(is_used)
    }

    /// Customers who would lose mail and so keep names alive whose date has come.
    pub fn migration_overdue(&self, now_ms: u64) -> usize {
        self.past_its_date(now_ms).map_or(0, |_| self.migration_breaks().len())
    }
}
