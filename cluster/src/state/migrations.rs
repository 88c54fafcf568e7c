//! Migrations: planned changes of MX names, announced to customers by mail, with what each customer
//! was told and has done.
//!
//! One is under way at a time. The rows of its customers stay until the next one is planned.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::sharded::Sharded;

/// Migrations that are remembered, the newest ones.
const MIGRATIONS_MAX: usize = 1000;

/// Nobody is told of a cancellation that is longer ago.
const CANCELLATION_MS_MAX: u64 = 86_400_000;

/// A planned change of MX names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migration {
    /// Counted from 1.
    pub id: u64,
    /// Names that end.
    pub retire: Vec<String>,
    /// Names that begin, and that this migration added.
    pub introduce: Vec<String>,
    /// When the names end: milliseconds since 1970, UTC.
    pub ends_ms: u64,
    /// Why, in the operator's words; part of the mail to customers.
    pub text: String,
    /// How far it has gone.
    pub stage: MigrationStage,
    /// When it was planned.
    pub planned_ms: u64,
    /// Its notice on the status page.
    pub notice: Option<u64>,
    /// How many times customers were written to: the announcement, reminders, that it is cancelled.
    pub rounds: u32,
    /// Since when its date has come and customers keep the old names alive; `None` until then.
    pub overdue_ms: Option<u64>,
}

/// How far a migration has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MigrationStage {
    /// Nobody was told, and nothing changed.
    Planned,
    /// Customers are told; both old and new names work.
    Announced {
        /// Since when: milliseconds since 1970, UTC.
        at_ms: u64,
    },
    /// The old names have ended.
    Finished {
        /// Since when: milliseconds since 1970, UTC.
        at_ms: u64,
    },
    /// All is as before.
    Cancelled {
        /// Since when: milliseconds since 1970, UTC.
        at_ms: u64,
    },
}

/// One customer's part in a migration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MigrationStep {
    /// Its names before.
    pub before: Vec<String>,
    /// Its names after.
    pub after: Vec<String>,
    /// What became of the mail to its contacts.
    pub told: Told,
    /// The round of that mail, counted from 1; 0 is none.
    pub round: u32,
    /// The round of the first mail that was begun; 0 is none.
    pub first_round: u32,
    /// What its MX records were last seen to say.
    pub survey: Survey,
    /// Names that begin, and that its MX records were last seen to have.
    pub adopted: Vec<String>,
}

/// What became of the mail to a customer's contacts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Told {
    /// Nothing was sent.
    #[default]
    NotYet,
    /// It has no contact mail could be sent to.
    NoContact,
    /// A node has it in its queue, or is about to.
    Sending {
        /// The id of that node.
        node: u64,
        /// The number of the message, which makes it exactly one.
        message: u128,
    },
    /// Its server took it.
    Accepted {
        /// When: milliseconds since 1970, UTC.
        at_ms: u64,
    },
    /// It came back.
    Bounced {
        /// When: milliseconds since 1970, UTC.
        at_ms: u64,
        /// What the server said.
        why: String,
    },
}

/// What a customer's MX records were last seen to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Survey {
    /// Nobody has looked, or nobody answered.
    #[default]
    Unknown,
    /// They still have a name that ends.
    Old {
        /// When: milliseconds since 1970, UTC.
        at_ms: u64,
    },
    /// They have names of ours, and none that ends.
    Moved {
        /// When: milliseconds since 1970, UTC.
        at_ms: u64,
    },
    /// They have no name of ours, or there are none.
    Elsewhere {
        /// When: milliseconds since 1970, UTC.
        at_ms: u64,
    },
}

/// What can be done with migrations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MigrationCommand {
    /// Plan one; the outcome is its id.
    Plan {
        /// Names that end.
        retire: Vec<String>,
        /// Names that begin, with their hosts.
        introduce: Vec<(String, String)>,
        /// When names end: milliseconds since 1970, UTC.
        ends_ms: u64,
        /// Why, in the operator's words.
        text: String,
    },
    /// New names go into DNS, customers are told, old names get their date.
    Announce {
        /// The title of the notice.
        title: String,
        /// The text of the notice.
        text: String,
    },
    /// What became of mail to customers.
    Told {
        /// By customer, for the round it is about.
        rows: Vec<(String, u32, Told)>,
    },
    /// What customers' MX records say.
    Surveyed {
        /// The id of the migration whose names were looked for.
        migration: u64,
        /// By customer, with the names in them that begin.
        rows: Vec<(String, Survey, Vec<String>)>,
    },
    /// Write again to those who have not moved.
    Remind,
    /// The old names end; refused while a customer would break, unless forced.
    Finish {
        /// Even if customers still use the old names.
        force: bool,
    },
    /// Everything goes back to how it was.
    Cancel,
    /// The date has come, and customers keep the old names alive.
    Overdue,
}

impl MigrationCommand {
    pub(super) fn summary(&self) -> Option<String> {
        Some(match self {
            Self::Plan { retire, introduce, .. } => {
                let introduce: Vec<&str> =
                    introduce.iter().map(|(name, _)| name.as_str()).collect();
                let (retire, introduce) = (retire.join(","), introduce.join(","));
                format!("migration plan --retire {retire} --introduce {introduce}")
            }
            Self::Announce { .. } => "migration announce".to_owned(),
            Self::Remind => "migration remind".to_owned(),
            Self::Finish { force: true } => "migration finish --force".to_owned(),
            Self::Finish { .. } => "migration finish".to_owned(),
            Self::Cancel => "migration cancel".to_owned(),
            Self::Overdue => "migration overdue: customers use old names".to_owned(),
            Self::Told { .. } | Self::Surveyed { .. } => return None,
        })
    }

    /// What it tells people.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Plan { text, .. } | Self::Announce { text, .. } => text,
            _ => "",
        }
    }
}

impl MigrationStep {
    /// Whether mail has told the customer of its new names, or may have.
    pub fn was_told(&self) -> bool {
        let came_back = matches!(self.told, Told::Bounced { .. }) && self.round == self.first_round;
        self.first_round > 0 && !came_back
    }
}

impl Migration {
    /// Whether it is under way.
    pub fn is_open(&self) -> bool {
        matches!(self.stage, MigrationStage::Planned | MigrationStage::Announced { .. })
    }

    /// Whether it is cancelled.
    pub fn is_cancelled(&self) -> bool {
        matches!(self.stage, MigrationStage::Cancelled { .. })
    }

    /// Whether it is cancelled, and customers are told that at `now_ms`.
    pub fn tells_of_cancellation(&self, now_ms: u64) -> bool {
        match self.stage {
            MigrationStage::Cancelled { at_ms } => {
                now_ms < at_ms.saturating_add(CANCELLATION_MS_MAX)
            }
            _ => false,
        }
    }

    /// Whether the customer of this step is to be written to at all.
    pub fn concerns(&self, step: &MigrationStep) -> bool {
        let moves = step.before != step.after;
        match self.stage {
            MigrationStage::Cancelled { .. } => moves && step.was_told(),
            // Names that only begin are nothing to who does not get one.
            _ => moves || !self.retire.is_empty(),
        }
    }
}

/// The table of migrations, with the customers' steps of the newest.
#[derive(Debug, Clone, Default)]
pub(super) struct Migrations {
    rows: Arc<BTreeMap<u64, Migration>>,
    steps: Sharded<Arc<str>, Arc<MigrationStep>>,
}

impl Migrations {
    /// From the newest to the oldest.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Migration> {
        self.rows.values().rev()
    }

    /// The newest.
    pub(super) fn last(&self) -> Option<&Migration> {
        self.iter().next()
    }

    /// The one under way.
    pub(super) fn open(&self) -> Option<&Migration> {
        self.last().filter(|migration| migration.is_open())
    }

    pub(super) fn put(&mut self, migration: Migration) {
        let rows = Arc::make_mut(&mut self.rows);
        rows.insert(migration.id, migration);
        while rows.len() > MIGRATIONS_MAX {
            rows.pop_first();
        }
    }

    pub(super) fn step(&self, customer: &str) -> Option<&MigrationStep> {
        self.steps.get(customer).map(|row| row.value.as_ref())
    }

    /// In order of customer.
    pub(super) fn steps(&self) -> impl Iterator<Item = (&str, &MigrationStep)> {
        self.steps.sorted().into_iter().map(|row| (row.key.as_ref(), row.value.as_ref()))
    }

    pub(super) fn put_step(&mut self, customer: &str, step: MigrationStep) {
        self.steps.put(customer.into(), 0, Arc::new(step));
    }

    pub(super) fn forget_step(&mut self, customer: &str) {
        self.steps.remove(customer);
    }

    pub(super) fn forget_steps(&mut self) {
        self.steps = Sharded::default();
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = Migration> {
        self.rows.values().cloned()
    }

    pub(super) fn absorb(&mut self, rows: Vec<Migration>) {
        for migration in rows {
            self.put(migration);
        }
    }

    pub(super) fn step_rows(&self) -> impl Iterator<Item = (String, MigrationStep)> {
        self.steps().map(|(customer, step)| (customer.to_owned(), step.clone()))
    }

    pub(super) fn absorb_steps(&mut self, rows: Vec<(String, MigrationStep)>) {
        for (customer, step) in rows {
            self.put_step(&customer, step);
        }
    }
}
