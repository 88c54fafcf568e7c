//! Loads as mail comes now, for people to look at. The planner looks at where it is to come.

use super::{Fleet, State};
use crate::state::migrations::{MigrationStage, Survey};

impl State {
    /// What each customer is seen to use: while a migration is announced, the names before, until
    /// its MX records were seen to have moved.
    pub fn names_as_seen(&self) -> impl Iterator<Item = (&str, &[String])> {
        let is_announced =
            |stage: MigrationStage| matches!(stage, MigrationStage::Announced { .. });
        let open = self.migrations().next().is_some_and(|newest| is_announced(newest.stage));
        self.customers().map(move |customer| {
            let step = self.migration_step(&customer.id).filter(|step| {
                open && !step.before.is_empty() && !matches!(step.survey, Survey::Moved { .. })
            });
            let names =
                step.map_or_else(|| self.names_of(&customer.id), |step| step.before.as_slice());
            (customer.id.as_str(), names)
        })
    }

    /// The same as [`State::fleet`], by what customers are seen to use and where DNS says that it
    /// leads: what is only planned, or still on its way, counts when it has come about.
    pub fn fleet_as_seen(&self, now_ms: u64) -> Fleet {
        let mut fleet = self.fleet_with(now_ms, &|_| None, self.names_as_seen());
        for name in &mut fleet.names {
            let Some(target) = self.name(&name.name).and_then(|row| row.target) else { continue };
            let host = self.host(target).map(|host| host.name.as_str());
            name.host = fleet.hosts.iter().position(|row| Some(row.name.as_str()) == host);
        }
        fleet
    }
}
