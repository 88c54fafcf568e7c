//! What moves names, hosts' service, assignments and migrations: the transitions that concern more
//! than one table.
//!
//! **Invariant:** a refused command changes nothing. **Invariant 7:** a name that is in DNS points
//! at a host that accepts mail, unless an operator forced it otherwise.

mod addresses;
mod gate;
mod hosts;
mod keys;
mod migrations;
mod names;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use self::names::{NameCommand, some_of};
use super::assignments::{Assigned, Assignments};
use super::certificates::{Certificate, Certificates, Fault, FormerKey, NextCertificate};
use super::migrations::Migrations;
use super::names::{MxName, NameStage, Names, Ttl};
use super::notices::Notices;
use super::plan::Spread;
use super::service::HostState;
use super::traffic::{Seen, Traffic, TrafficCount};
use super::{Command, Host, Migration, MigrationStep, Notice, Outcome, Refusal, State};

/// Rows of one report; a node reports its largest.
pub const TRAFFIC_COUNTS_MAX: usize = 500;
/// How much more a name carries by a customer's first place than by another one, before there is
/// mail to be counted: so much that no name is left with other places only.
const FIRST_PLACE: u64 = 1 << 32;
const NAMES_OF_CUSTOMER_MAX: usize = 8;
/// A certificate with its key may have some 80 KiB, a part must stay far below the codec's limit.
const CERTIFICATES_OF_PART: usize = 8;

/// All tables of this kind.
#[derive(Debug, Clone, Default)]
pub(super) struct Rotation {
    names: Names,
    assignments: Assignments,
    traffic: Traffic,
    migrations: Migrations,
    notices: Notices,
    certificates: Certificates,
    dns_fault: Option<Fault>,
}

/// Pieces of these tables for a snapshot. Variants are only ever appended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum RotationPart {
    Names { names: Names, dns_fault: Option<Fault> },
    Assigned(Vec<Assigned>),
    Traffic(Vec<(String, Seen)>),
    Migrations(Vec<Migration>),
    Steps(Vec<(String, MigrationStep)>),
    Notices { rows: Vec<Notice>, last_id: u64 },
    Certificates { rows: Vec<Certificate>, version: u64 },
    CertificateFaults(Vec<(String, Fault)>),
    NextCertificates(Vec<NextCertificate>),
    FormerKeys(Vec<FormerKey>),
}

impl Rotation {
    pub(super) fn parts(&self, rows: usize) -> impl Iterator<Item = RotationPart> {
        use super::parts::in_pieces;
        let (names, dns_fault) = (self.names.clone(), self.dns_fault.clone());
        let last_id = self.notices.last_id();
        // A notice with all its updates may be large.
        let notices = in_pieces(self.notices.rows(), 1);
        let version = self.certificates.version();
        let certificates = in_pieces(self.certificates.rows(), CERTIFICATES_OF_PART);
        let next = in_pieces(self.certificates.next_rows(), CERTIFICATES_OF_PART);
        let former = in_pieces(self.certificates.former_rows(), CERTIFICATES_OF_PART);
        std::iter::once(RotationPart::Names { names, dns_fault })
            .chain(in_pieces(self.migrations.rows(), rows).map(RotationPart::Migrations))
            .chain(notices.map(move |rows| RotationPart::Notices { rows, last_id }))
            .chain(certificates.map(move |rows| RotationPart::Certificates { rows, version }))
            .chain(in_pieces(self.certificates.faults(), 1).map(RotationPart::CertificateFaults))
            .chain(in_pieces(self.assignments.rows(), rows).map(RotationPart::Assigned))
            .chain(in_pieces(self.traffic.rows(), rows).map(RotationPart::Traffic))
            .chain(in_pieces(self.migrations.step_rows(), rows).map(RotationPart::Steps))
            .chain(next.map(RotationPart::NextCertificates))
            .chain(former.map(RotationPart::FormerKeys))
    }

    pub(super) fn absorb(&mut self, part: RotationPart) {
        match part {
            RotationPart::Names { names, dns_fault } => {
                (self.names, self.dns_fault) = (names, dns_fault);
            }
            RotationPart::Assigned(rows) => self.assignments.absorb(rows),
            RotationPart::Traffic(rows) => self.traffic.absorb(rows),
            RotationPart::Migrations(rows) => self.migrations.absorb(rows),
            RotationPart::Steps(rows) => self.migrations.absorb_steps(rows),
            RotationPart::Notices { rows, last_id } => self.notices.absorb(rows, last_id),
            RotationPart::Certificates { rows, version } => {
                self.certificates.absorb(rows, version);
            }
            RotationPart::CertificateFaults(rows) => self.certificates.absorb_faults(rows),
            RotationPart::NextCertificates(rows) => self.certificates.absorb_next(rows),
            RotationPart::FormerKeys(rows) => self.certificates.absorb_former(rows),
        }
    }
}

impl State {
    /// Do a command about names, service, assignments, migrations, notices or traffic.
    pub(super) fn change_rotation(&mut self, at: u64, command: &Command) -> Outcome {
        let (rotation, hosts) = (self.rotation.clone(), self.hosts.clone());
        let outcome = match command {
            Command::Name(command) => self.change_name(command),
            Command::HostService(command) => self.change_service(command),
            Command::Assign { customer, names } => self.assign(customer, names),
            Command::Migration(command) => self.change_migration(command),
            Command::Notice(command) => self.rotation.notices.apply(command, self.clock_ms),
            Command::Traffic { counts } => self.count_traffic(counts),
            Command::Certificate(command) => self.change_certificate(at, command),
            _ => Err(Refusal::invalid("this command is not one about rotation")),
        };
        if outcome.is_err() {
            (self.rotation, self.hosts) = (rotation, hosts);
        }
        outcome
    }

    fn assign(&mut self, customer: &str, names: &[String]) -> Outcome {
        self.customers.require(customer)?;
        if names.is_empty() || names.len() > NAMES_OF_CUSTOMER_MAX {
            return Err(Refusal::invalid("a customer has 1 to 8 names"));
        }
        let mut taken: Vec<(u64, &str)> = Vec::new();
        for name in names {
            let row = self.require_name(name)?;
            if matches!(row.stage, NameStage::Removed { .. }) || row.aim().is_none() {
                return Err(Refusal::conflict(format!("{name} is not in use")));
            }
            let has_it = self.rotation.assignments.of(customer).contains(name);
            if matches!(row.stage, NameStage::Retiring { .. }) && !has_it {
                return Err(Refusal::conflict(format!(
                    "the end of {name} is announced; give {customer} names that stay"
                )));
            }
            let host = row.aim().unwrap_or(row.home);
            if let Some((_, other)) = taken.iter().find(|(known, _)| *known == host) {
                return Err(Refusal::conflict(format!(
                    "{other} and {name} point at the same host, {}; a customer's names are on \
                     different ones",
                    self.host_name(host)
                )));
            }
            taken.push((host, name));
        }
        self.rotation.assignments.put(customer, names.to_vec());
        Ok(1)
    }

    /// A new customer gets the names that have the least to do.
    pub(super) fn assign_new(&mut self, customer: &str) {
        let mut spread = self.spread();
        let names = spread.choose(&[], self.names_wanted(), 1);
        self.rotation.assignments.put(customer, names);
    }

    /// Customers with fewer names than they could be given, on hosts of their own.
    pub fn customers_short_of_names(&self) -> impl Iterator<Item = &str> {
        let offered: BTreeMap<&str, u64> =
            self.names_on_offer().map(|(row, host)| (row.name.as_str(), host)).collect();
        let hosts: BTreeSet<u64> = offered.values().copied().collect();
        let want = self.names_wanted().min(hosts.len());
        // While a migration is under way it says who has which names.
        let is_planned = self.rotation.migrations.open().is_some();
        let is_short = move |names: &[String]| {
            let stay = || names.iter().all(|name| offered.contains_key(name.as_str()));
            names.len() < want && (names.is_empty() || (!is_planned && stay()))
        };
        let ids = self.customers.iter().map(|customer| customer.id.as_str());
        ids.filter(move |id| is_short(self.rotation.assignments.of(id)))
    }

    /// Every customer that is short of names gets more; how many did.
    fn assign_all_short(&mut self) -> u64 {
        let mut spread = self.spread();
        let ids: Vec<String> = self.customers_short_of_names().map(Into::into).collect();
        let mut changed = 0;
        for id in ids {
            let before = self.rotation.assignments.of(&id).to_vec();
            let names = spread.choose(&before, self.names_wanted(), 1);
            changed += u64::from(names != before);
            self.rotation.assignments.put(&id, names);
        }
        changed
    }

    /// Names on offer, with what they carry.
    fn spread(&self) -> Spread {
        let burden = |name: &str| {
            let (all, first) = (
                self.rotation.assignments.count(name),
                self.rotation.assignments.count_first(name),
            );
            first.saturating_mul(FIRST_PLACE).saturating_add(all - first)
        };
        let offered = self.names_on_offer();
        let offered = offered.map(|(row, host)| (row.name.clone(), host, burden(&row.name)));
        Spread::new(offered, FIRST_PLACE)
    }

    fn names_wanted(&self) -> usize {
        let want = self.settings.count("rotation.names_per_customer");
        usize::try_from(want).unwrap_or(NAMES_OF_CUSTOMER_MAX)
    }

    /// Names that customers may be given, and the hosts they are on.
    fn names_on_offer(&self) -> impl Iterator<Item = (&MxName, u64)> {
        self.rotation.names.iter().filter_map(|name| {
            let host = name.aim()?;
            let serves = self.hosts.get(host).is_some_and(|h| h.state == HostState::InService);
            (serves && name.stage == NameStage::Active).then_some((name, host))
        })
    }

    pub(super) fn forget_customer(&mut self, customer: &str) {
        self.rotation.assignments.put(customer, Vec::new());
        self.rotation.traffic.forget(customer);
        self.rotation.migrations.forget_step(customer);
    }

    fn count_traffic(&mut self, counts: &[TrafficCount]) -> Outcome {
        if counts.len() > TRAFFIC_COUNTS_MAX {
            return Err(Refusal::invalid("a report has at most 500 counts"));
        }
        let mut changed = 0;
        for count in counts {
            if self.customers.get(&count.customer).is_none() {
                continue; // it was removed meanwhile
            }
            let name = count.name.clone().filter(|name| self.rotation.names.get(name).is_some());
            let count = TrafficCount { name, ..count.clone() };
            self.rotation.traffic.add(&count, self.clock_ms);
            changed += 1;
        }
        Ok(changed)
    }

    /// What the fleet would do by itself at `now_ms`, because a date has come.
    pub fn due(&self, now_ms: u64) -> Vec<Command> {
        let possible =
            |command: &Command| self.clone().at(now_ms).change_rotation(0, command).is_ok();
        let names = self.due_names(now_ms).chain(self.due_hosts());
        let certificates = self.due_certificates(now_ms);
        let all = self.due_migration(now_ms).chain(names).chain(certificates);
        all.filter(possible).collect()
    }

    fn at(mut self, now_ms: u64) -> Self {
        self.clock_ms = self.clock_ms.max(now_ms);
        self
    }

    /// The times to live of names' records.
    pub fn ttl(&self) -> Ttl {
        let seconds = |name| u32::try_from(self.settings.duration_ms(name) / 1000);
        let normal_s = seconds("rotation.ttl").unwrap_or(u32::MAX);
        let low_s = seconds("rotation.ttl_low").unwrap_or(u32::MAX).min(normal_s);
        Ttl { normal_s, low_s }
    }

    /// Whether the host takes mail: it serves, or names that are leaving it still lead to it.
    pub fn accepts_mail(&self, host: u64, now_ms: u64) -> bool {
        self.hosts.get(host).is_some_and(|row| match row.state {
            HostState::InService => true,
            HostState::Draining(_) => self.names_on(host, now_ms).next().is_some(),
            HostState::Retired { .. } => false,
        })
    }

    /// Names by which mail may come to the host.
    pub fn names_on(&self, host: u64, now_ms: u64) -> impl Iterator<Item = &MxName> {
        let carried = move |name: &&MxName| name.hosts(now_ms).any(|id| id == host);
        self.rotation.names.iter().filter(carried)
    }

    /// Names in DNS whose host accepts no mail: none, unless somebody forced it.
    pub fn stranded(&self, now_ms: u64) -> impl Iterator<Item = &MxName> {
        let stranded =
            move |name: &&MxName| name.target.is_some_and(|host| !self.accepts_mail(host, now_ms));
        self.rotation.names.iter().filter(stranded)
    }

    /// All MX names, in order, with those that were removed.
    pub fn names(&self) -> impl Iterator<Item = &MxName> {
        self.rotation.names.iter()
    }

    /// The MX name of this spelling (lowercase A-label).
    pub fn name(&self, name: &str) -> Option<&MxName> {
        self.rotation.names.get(name)
    }

    /// The names a customer is to put in its MX records, in order.
    pub fn names_of(&self, customer: &str) -> &[String] {
        self.rotation.assignments.of(customer)
    }

    /// How many customers have a name.
    pub fn customers_of_name(&self, name: &str) -> u64 {
        self.rotation.assignments.count(name)
    }

    /// All customers that have names, with them, in order of id.
    pub fn assignments(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.rotation.assignments.iter()
    }

    /// Messages a day for a customer.
    pub fn customer_load(&self, customer: &str, now_ms: u64) -> u64 {
        self.rotation.traffic.a_day(customer, now_ms)
    }

    /// When mail for the customer last came by this name.
    pub fn last_by_name(&self, customer: &str, name: &str) -> Option<u64> {
        self.rotation.traffic.last_by(customer, name)
    }

    /// Migrations, from the newest to the oldest.
    pub fn migrations(&self) -> impl Iterator<Item = &Migration> {
        self.rotation.migrations.iter()
    }

    /// The customers' steps of the newest migration, in order of customer.
    pub fn migration_steps(&self) -> impl Iterator<Item = (&str, &MigrationStep)> {
        self.rotation.migrations.steps()
    }

    /// Notices, from the newest to the oldest.
    pub fn notices(&self) -> impl Iterator<Item = &Notice> {
        self.rotation.notices.iter()
    }

    /// Why a name gets no certificate from the ACME server, if so.
    pub fn certificate_fault(&self, name: &str) -> Option<&Fault> {
        self.rotation.certificates.fault(name)
    }

    /// The log index at which a certificate last changed.
    pub fn certificates_version(&self) -> u64 {
        self.rotation.certificates.version()
    }

    /// Why nothing in DNS can be made as wanted, if so; of one name see [`MxName::dns_fault`].
    pub fn dns_fault(&self) -> Option<&Fault> {
        self.rotation.dns_fault.as_ref()
    }

    pub(super) fn host_name(&self, id: u64) -> String {
        self.hosts.get(id).map_or_else(|| format!("host {id}"), |host| host.name.clone())
    }

    /// A host that can be a name's target.
    fn require_target(&self, name: &str) -> Result<&Host, Refusal> {
        let id = self.hosts.require(name)?;
        let host = self.hosts.get(id);
        let host = host.ok_or_else(|| Refusal::not_found(format!("there is no host {name}")))?;
        match host.state {
            HostState::InService => {}
            HostState::Draining(_) => {
                return Err(Refusal::conflict(format!("host {name} is being drained")));
            }
            HostState::Retired { .. } => {
                return Err(Refusal::conflict(format!("host {name} is retired")));
            }
        }
        if host.addresses.is_empty() {
            return Err(Refusal::conflict(format!(
                "host {name} has no address mail could come to; \
                 `mxfleet host set {name} --address ADDRESS`"
            )));
        }
        Ok(host)
    }
}
