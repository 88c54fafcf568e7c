//! Migrations: planned, announced, finished or cancelled.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::super::migrations::{
    Migration, MigrationCommand, MigrationStage, MigrationStep, Survey, Told,
};
use super::super::names::{MxName, NameStage};
use super::super::notices::{self, NoticeCommand};
use super::super::plan::{Place, SHARE_FIRST, Spread};
use super::super::{CustomerStatus, Outcome, Refusal, State};
use super::names::{counted, some_of};

const NAMES_MAX: usize = 100;
const TEXT_OCTETS_MAX: usize = 4000;
/// What a notice says beside the names and the reason is shorter.
const NOTICE_WORDS_OCTETS: usize = 500;
const WHY_OCTETS_MAX: usize = 300;

impl State {
    pub(super) fn change_migration(&mut self, command: &MigrationCommand) -> Outcome {
        match command {
            MigrationCommand::Plan { retire, introduce, ends_ms, text } => {
                self.plan_migration(retire, introduce, *ends_ms, text)
            }
            MigrationCommand::Announce { title, text } => self.announce(title, text),
            MigrationCommand::Told { rows } => self.told(rows),
            MigrationCommand::Surveyed { migration, rows } => Ok(self.surveyed(*migration, rows)),
            MigrationCommand::Remind => self.remind(),
            MigrationCommand::Finish { force } => self.finish(*force),
            MigrationCommand::Cancel => self.cancel(),
            MigrationCommand::Overdue => self.overdue(),
        }
    }

    fn plan_migration(
        &mut self,
        retire: &[String],
        introduce: &[(String, String)],
        ends_ms: u64,
        text: &str,
    ) -> Outcome {
        if let Some(open) = self.rotation.migrations.open() {
            return Err(Refusal::conflict(format!(
                "migration {} is under way; finish or cancel it first",
                open.id
            )));
        }
        self.require_cancellation_told()?;
        let names: BTreeSet<&String> =
            retire.iter().chain(introduce.iter().map(|i| &i.0)).collect();
        if names.is_empty() || names.len() > NAMES_MAX {
            return Err(Refusal::invalid("a migration retires or introduces 1 to 100 names"));
        }
        if names.len() < retire.len() + introduce.len() {
            return Err(Refusal::invalid("a name is given twice"));
        }
        if ends_ms <= self.clock_ms {
            return Err(Refusal::invalid("the date the names end is in the past"));
        }
        if text.len() > TEXT_OCTETS_MAX || text.chars().any(|c| c.is_control() && c != '\n') {
            return Err(Refusal::invalid("the reason is at most 4000 octets of plain text"));
        }
        // Each name is followed by a comma and a space.
        let octets: usize = names.iter().map(|name| name.len() + 2).sum();
        if octets + text.len() + NOTICE_WORDS_OCTETS > notices::TEXT_OCTETS_MAX {
            return Err(Refusal::invalid(
                "the names and the reason are too long for one notice; plan fewer names at a time, \
                 or give the reason in fewer words",
            ));
        }
        let id = self.rotation.migrations.last().map_or(1, |last| last.id + 1);
        for name in retire {
            let row = self.require_name(name)?;
            if row.stage != NameStage::Active {
                return Err(Refusal::conflict(format!(
                    "{name} is not active, so a migration cannot retire it"
                )));
            }
        }
        for (name, host) in introduce {
            let home = self.check_new_name(name, host)?;
            self.rotation.names.put(MxName::new(name, home));
        }
        self.rotation.migrations.forget_steps();
        let migration = Migration {
            id,
            retire: retire.to_vec(),
            introduce: introduce.iter().map(|(name, _)| name.clone()).collect(),
            ends_ms,
            text: text.to_owned(),
            stage: MigrationStage::Planned,
            planned_ms: self.clock_ms,
            notice: None,
            rounds: 0,
            overdue_ms: None,
        };
        self.plan_steps(&migration)?;
        self.rotation.migrations.put(migration);
        Ok(id)
    }

    /// What each customer's names will be. Steps that still fit are left as they were shown.
    fn plan_steps(&mut self, migration: &Migration) -> Result<(), Refusal> {
        let now_ms = self.clock_ms;
        let new = migration.introduce.iter().filter_map(|name| self.rotation.names.get(name));
        let stays =
            self.names_on_offer().filter(|(name, _)| !migration.retire.contains(&name.name));
        let offered = stays.chain(new.map(|name| (name, name.home)));
        let offered = offered.map(|(name, host)| (name.name.clone(), host, 0));
        let mut spread = Spread::new(offered, SHARE_FIRST);
        let want = self.names_wanted();
        let mut open = Vec::new();
        for customer in self.customers.iter() {
            let id = customer.id.as_str();
            let (before, load) =
                (self.rotation.assignments.of(id), 1 + self.customer_load(id, now_ms));
            match self.rotation.migrations.step(id) {
                Some(step)
                    if step.before == before && step.after.iter().all(|n| spread.offers(n)) =>
                {
                    spread.take(&step.after, load);
                }
                _ => open.push((load, id.to_owned(), before.to_vec())),
            }
        }
        // Who keeps its names first, then the largest: the small ones even out what is left.
        let moves = |names: &[String]| names.iter().any(|name| !spread.offers(name));
        open.sort_by_cached_key(|(load, customer, before)| {
            (before.is_empty() || moves(before), Reverse(*load), customer.clone())
        });
        let (mut left, mut places) = (Vec::new(), Vec::new());
        for (load, customer, before) in open {
            let want = if before.is_empty() { want } else { before.len() };
            let names = spread.choose(&before, want, load);
            if names.is_empty() && !before.is_empty() {
                left.push(customer);
                continue;
            }
            places.push((Place { names, load }, customer, before));
        }
        // With nothing that ends nobody must move, and new names would have nothing to do.
        if migration.retire.is_empty() {
            let places = places.iter_mut().map(|(place, ..)| place).collect();
            spread.even_out(&migration.introduce, places);
        }
        for (Place { names: after, .. }, customer, before) in places {
            let step = MigrationStep { before, after, ..MigrationStep::default() };
            self.rotation.migrations.put_step(&customer, step);
        }
        refuse_without_names(left)
    }

    fn announce(&mut self, title: &str, text: &str) -> Outcome {
        let mut migration = self.require_open()?.clone();
        let now_ms = self.clock_ms;
        if migration.stage != MigrationStage::Planned {
            return Err(Refusal::conflict(format!("migration {} is announced", migration.id)));
        }
        if migration.ends_ms <= now_ms {
            return Err(Refusal::conflict("the date it was planned for has passed; plan it again"));
        }
        for name in &migration.introduce {
            let home = self.host_name(self.require_name(name)?.home);
            let home = self.require_target(&home)?.id;
            self.edit_name(name, |row, now_ms| row.point(Some(home), now_ms, true, now_ms))?;
        }
        self.plan_steps(&migration)?;
        let at_ms = migration.ends_ms;
        for name in &migration.retire {
            self.edit_name(name, |row, _| row.stage = NameStage::Retiring { at_ms })?;
        }
        for (customer, step) in self.rotation.migrations.step_rows().collect::<Vec<_>>() {
            self.rotation.assignments.put(&customer, step.after);
        }
        migration.notice = Some(self.rotation.notices.tell(title, text, "mx names", now_ms)?);
        migration.stage = MigrationStage::Announced { at_ms: now_ms };
        migration.rounds = 1;
        self.rotation.migrations.put(migration);
        Ok(1)
    }

    fn told(&mut self, rows: &[(String, u32, Told)]) -> Outcome {
        let rounds = self.rotation.migrations.last().map_or(0, |migration| migration.rounds);
        let mut changed = 0;
        for (customer, round, told) in rows {
            let Some(step) = self.rotation.migrations.step(customer) else { continue };
            let mut told = told.clone();
            // Who began a mail ends it: what another node says of the same round is not heard.
            let begins = matches!(told, Told::Sending { .. } | Told::NoContact);
            let again = begins && *round == step.round && !self.may_begin_again(step, &told);
            // One server that took it outweighs another that did not.
            let weaker = *round == step.round
                && matches!((&step.told, &told), (Told::Accepted { .. }, Told::Bounced { .. }));
            if *round > rounds || *round < step.round || again || weaker {
                continue;
            }
            if let Told::Bounced { why, .. } = &mut told {
                let plain = why.chars().map(|c| if c.is_control() { ' ' } else { c });
                let plain: String = plain.collect();
                *why = super::super::audit::clip(&plain, WHY_OCTETS_MAX).to_owned();
            }
            let begins_first = match &told {
                Told::NotYet | Told::NoContact => false,
                _ if step.first_round == 0 => true,
                Told::Sending { .. } => self.is_orphaned(step) && step.round == step.first_round,
                Told::Accepted { .. } | Told::Bounced { .. } => false,
            };
            let first_round = if begins_first { *round } else { step.first_round };
            let step = MigrationStep { told, round: *round, first_round, ..step.clone() };
            self.rotation.migrations.put_step(customer, step);
            changed += 1;
        }
        Ok(changed)
    }

    /// Whether the mail of a round may be begun though it was before.
    fn may_begin_again(&self, step: &MigrationStep, told: &Told) -> bool {
        let fits = match (&step.told, told) {
            // A customer that had no contact was given one.
            (Told::NoContact, Told::Sending { .. }) => true,
            // The same mail, handed over to another node.
            (Told::Sending { message, .. }, Told::Sending { message: same, .. }) => message == same,
            _ => false,
        };
        fits || self.is_orphaned(step)
    }

    /// The next migration begins with steps of its own, so what the last one owes comes first.
    fn require_cancellation_told(&self) -> Result<(), Refusal> {
        let last = self.rotation.migrations.last();
        let Some(last) = last.filter(|last| last.tells_of_cancellation(self.clock_ms)) else {
            return Ok(());
        };
        let untold = self.rotation.migrations.steps().filter(|(customer, step)| {
            step.round < last.rounds && last.concerns(step) && self.is_active(customer)
        });
        let untold: Vec<&str> = untold.map(|(customer, _)| customer).collect();
        if untold.is_empty() {
            return Ok(());
        }
        Err(Refusal::conflict(format!(
            "{} must hear first that migration {} is cancelled: {}; plan this one when they have, \
             `mxfleet migration status` shows how far that is",
            counted(untold.len()),
            last.id,
            some_of(&untold)
        )))
    }

    fn is_active(&self, customer: &str) -> bool {
        self.customers.get(customer).is_some_and(|row| row.status == CustomerStatus::Active)
    }

    /// Whether the mail of a step is a host's that is gone.
    fn is_orphaned(&self, step: &MigrationStep) -> bool {
        matches!(step.told, Told::Sending { node, .. } if self.hosts.get(node).is_none())
    }

    fn remind(&mut self) -> Outcome {
        let mut migration = self.require_announced()?.clone();
        let late: BTreeSet<String> =
            self.migration_breaks().into_iter().map(|(customer, _)| customer).collect();
        let untold = self.rotation.migrations.steps().filter(|(customer, step)| {
            let first = step.round == 0 && migration.concerns(step);
            let last = step.round < migration.rounds && late.contains(*customer);
            (first || last) && self.is_active(customer)
        });
        let untold: Vec<&str> = untold.map(|(customer, _)| customer).collect();
        if !untold.is_empty() {
            return Err(Refusal::conflict(format!(
                "the last letter has not gone to {} yet: {}; remind when it has: `mxfleet \
                 migration status` says what letters wait for",
                counted(untold.len()),
                some_of(&untold)
            )));
        }
        if late.is_empty() {
            return Err(Refusal::conflict(
                "no customer would lose mail if the old names ended now, so none is reminded",
            ));
        }
        migration.rounds += 1;
        let text = "Customers who still use the old names are reminded by mail.";
        self.update_notice(&migration, text)?;
        self.rotation.migrations.put(migration);
        Ok(u64::try_from(late.len()).unwrap_or(u64::MAX))
    }

    fn finish(&mut self, force: bool) -> Outcome {
        let mut migration = self.require_announced()?.clone();
        let now_ms = self.clock_ms;
        if !force && migration.ends_ms > now_ms {
            return Err(Refusal::conflict(
                "the announced date has not come; --force ends the names now",
            ));
        }
        let breaks = self.migration_breaks();
        if !force && !breaks.is_empty() {
            let breaks: Vec<&str> = breaks.iter().map(|(customer, _)| customer.as_str()).collect();
            return Err(Refusal::conflict(format!(
                "{} would lose mail: {}; `mxfleet migration status --all` names all and says why, \
                 `remind` writes to them, --force ends the names all the same",
                counted(breaks.len()),
                some_of(&breaks)
            )));
        }
        for name in &migration.retire {
            if self.require_name(name)?.aim().is_some() {
                self.take_out(name)?;
            }
        }
        self.resolve_notice(&migration, "The old names have ended.")?;
        migration.stage = MigrationStage::Finished { at_ms: now_ms };
        self.rotation.migrations.put(migration);
        Ok(1)
    }

    /// Say once that the date has come and the old names stay.
    fn overdue(&mut self) -> Outcome {
        let mut migration = self.require_announced()?.clone();
        if migration.overdue_ms.is_some() || self.migration_overdue(self.clock_ms) == 0 {
            return Err(Refusal::conflict("nothing new keeps the old names alive"));
        }
        migration.overdue_ms = Some(self.clock_ms);
        let text = "The date has come, and some customers still use the old names. So these go on \
                    working until that has ended.";
        self.update_notice(&migration, text)?;
        self.rotation.migrations.put(migration);
        Ok(1)
    }

    fn cancel(&mut self) -> Outcome {
        let mut migration = self.require_open()?.clone();
        let now_ms = self.clock_ms;
        let announced = migration.stage != MigrationStage::Planned;
        if announced {
            for (customer, step) in self.rotation.migrations.step_rows().collect::<Vec<_>>() {
                // A name may have been removed by hand meanwhile.
                let left = |name: &&String| self.name(name).is_some_and(|row| row.aim().is_some());
                let before: Vec<String> = step.before.iter().filter(left).cloned().collect();
                let lost = before.is_empty() && !step.before.is_empty();
                if self.rotation.assignments.of(&customer) == step.after && !lost {
                    self.rotation.assignments.put(&customer, before);
                }
            }
            for name in &migration.retire {
                self.edit_name(name, |row, _| row.stage = NameStage::Active)?;
            }
            self.resolve_notice(&migration, "The change is cancelled; all names stay.")?;
            migration.rounds += 1; // who was written to is told this, too
        }
        for name in &migration.introduce {
            // Who has moved already must not lose mail because others need not any more.
            if self.rotation.names.get(name).is_none() || self.in_use(name) {
                continue;
            }
            self.take_out(name)?;
            if self.rotation.names.get(name).is_some() {
                self.edit_name(name, |row, _| row.stage = NameStage::Planned)?;
            }
        }
        migration.stage = MigrationStage::Cancelled { at_ms: now_ms };
        self.rotation.migrations.put(migration);
        Ok(1)
    }

    /// Whether a customer has the name, has it in its MX records or may have, or got mail by it
    /// lately. Of whom nobody knows, what counts is whether it was written to.
    fn in_use(&self, name: &str) -> bool {
        self.rotation.assignments.count(name) > 0
            || self.rotation.migrations.steps().any(|(customer, step)| {
                let has = |names: &[String]| names.iter().any(|known| known == name);
                let may_have = step.was_told() && matches!(step.survey, Survey::Unknown);
                has(&step.adopted)
                    || has(&step.after) && (may_have || self.used_lately(customer, name))
            })
    }

    /// The step of a customer in the newest migration.
    pub fn migration_step(&self, customer: &str) -> Option<&MigrationStep> {
        self.rotation.migrations.step(customer)
    }

    fn update_notice(&mut self, migration: &Migration, text: &str) -> Outcome {
        let Some(id) = migration.notice else { return Ok(0) };
        let (text, starts_ms, ends_ms) = (text.to_owned(), None, None);
        let update = NoticeCommand::Update { id, text, starts_ms, ends_ms };
        // An operator may have resolved it by hand; the migration goes on.
        Ok(self.rotation.notices.apply(&update, self.clock_ms).unwrap_or_default())
    }

    fn resolve_notice(&mut self, migration: &Migration, text: &str) -> Outcome {
        let Some(id) = migration.notice else { return Ok(0) };
        let resolve = NoticeCommand::Resolve { id, text: Some(text.to_owned()) };
        Ok(self.rotation.notices.apply(&resolve, self.clock_ms).unwrap_or_default())
    }

    fn require_open(&self) -> Result<&Migration, Refusal> {
        self.rotation.migrations.open().ok_or_else(|| {
            Refusal::not_found("no migration is under way; `mxfleet migration plan` begins one")
        })
    }

    fn require_announced(&self) -> Result<&Migration, Refusal> {
        let open = self.require_open()?;
        if open.stage == MigrationStage::Planned {
            return Err(Refusal::conflict(format!(
                "migration {} is not announced; `mxfleet migration announce` does that",
                open.id
            )));
        }
        Ok(open)
    }
}

fn refuse_without_names(mut left: Vec<String>) -> Result<(), Refusal> {
    if left.is_empty() {
        return Ok(());
    }
    left.sort_unstable();
    let left: Vec<&str> = left.iter().map(String::as_str).collect();
    Err(Refusal::conflict(format!(
        "{} would have no name left: {}; introduce more names",
        counted(left.len()),
        some_of(&left)
    )))
}
