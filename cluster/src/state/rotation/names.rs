//! Names: added, pointed elsewhere, given an end, removed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::super::domains::is_host_name;
use super::super::names::{MxName, NameStage};
use super::super::service::HostState;
use super::super::{Command, Outcome, Refusal, State};
use super::Fault;
use super::addresses::ADDRESSES_MAX;

const NAMES_MAX: usize = 1000;
/// Removed names that are remembered, so that nobody gets mail that is meant for another; those
/// that were removed last.
const REMOVED_MAX: usize = 1000;
/// Customers that a refusal names.
const SHOWN_MAX: usize = 10;

/// What can be done with MX names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NameCommand {
    /// Add a name; it goes into DNS, and then customers may be given it.
    Add {
        /// Lowercase A-label below the service's zone.
        name: String,
        /// Its home.
        host: String,
        /// Not before this time: milliseconds since 1970, UTC. Now when absent.
        from_ms: Option<u64>,
    },
    /// Point names at hosts, all of them or none.
    Point {
        /// Name and host.
        moves: Vec<(String, String)>,
        /// Not before this time: milliseconds since 1970, UTC. Now when absent.
        from_ms: Option<u64>,
        /// Whether the host becomes the name's home.
        rehome: bool,
    },
    /// Take back a change of where a name points.
    Stay {
        /// Which.
        name: String,
    },
    /// Give a name an end.
    Retire {
        /// Which.
        name: String,
        /// When: milliseconds since 1970, UTC.
        at_ms: u64,
    },
    /// Take an end back.
    Keep {
        /// Which.
        name: String,
    },
    /// Take a name out of DNS for good.
    Remove {
        /// Which.
        name: String,
        /// Even before its end, and if customers still use it.
        force: bool,
    },
    /// Every authority says this.
    Published {
        /// Of which name.
        name: String,
        /// The id of the host; `None` when the name is not in DNS.
        host: Option<u64>,
        /// The time to live, in seconds.
        ttl_s: u32,
        /// The addresses.
        addresses: Vec<IpAddr>,
    },
    /// Why DNS is not as wanted, in plain words; nothing when it is.
    DnsFaults {
        /// What is the matter with all of it.
        all: Option<String>,
        /// Names, and what is the matter with each.
        names: Vec<(String, String)>,
    },
    /// Give names to customers that have too few.
    Spread,
    /// Servers are about to be told these times to live, longer than what they were known to give.
    Telling {
        /// Names and seconds.
        ttls: Vec<(String, u32)>,
    },
}

impl NameCommand {
    pub(in crate::state) fn summary(&self) -> Option<String> {
        Some(match self {
            Self::Add { name, host, .. } => format!("name add {name} --host {host}"),
            Self::Point { moves, rehome, .. } => {
                let moves: Vec<String> =
                    moves.iter().map(|(name, host)| format!("{name} {host}")).collect();
                format!("name point {}{}", moves.join(", "), if *rehome { " --home" } else { "" })
            }
            Self::Stay { name } => format!("name point {name} --cancel"),
            Self::Retire { name, .. } => format!("name retire {name}"),
            Self::Keep { name } => format!("name retire {name} --cancel"),
            Self::Remove { name, force: true } => format!("name remove {name} --force"),
            Self::Remove { name, .. } => format!("name remove {name}"),
            Self::Published { name, host: Some(host), ttl_s, .. } => {
                format!("{name} is in DNS for host {host}, {ttl_s} s")
            }
            Self::Published { name, .. } => format!("{name} is out of DNS"),
            Self::Spread => "name rebalance: names for customers with too few".to_owned(),
            Self::DnsFaults { .. } | Self::Telling { .. } => return None,
        })
    }
}

impl State {
    pub(super) fn change_name(&mut self, command: &NameCommand) -> Outcome {
        match command {
            NameCommand::Add { name, host, from_ms } => self.add_name(name, host, *from_ms),
            NameCommand::Point { moves, from_ms, rehome } => {
                let from_ms = self.not_in_the_past(*from_ms)?;
                let mut changed = 0;
                for (name, host) in moves {
                    changed += self.point_name(name, host, from_ms, *rehome)?;
                }
                Ok(changed)
            }
            NameCommand::Stay { name } => {
                let row = self.require_name(name)?;
                if row.pointing.is_none() || row.target.is_none() || row.aim().is_none() {
                    return Err(Refusal::conflict(format!("{name} is not about to move")));
                }
                self.require_place_to_stay(row, self.clock_ms).map_err(|why| {
                    Refusal::conflict(format!(
                        "{why}; `mxfleet name point {name} HOST` takes it elsewhere"
                    ))
                })?;
                self.edit_name(name, |row, now_ms| row.stay(now_ms))
            }
            NameCommand::Retire { name, at_ms } => self.retire_name(name, *at_ms),
            NameCommand::Keep { name } => {
                self.require_not_migrating(name)?;
                let row = self.require_name(name)?;
                if !matches!(row.stage, NameStage::Retiring { .. }) {
                    return Err(Refusal::conflict(format!("{name} has no end to take back")));
                }
                if row.aim().is_none() {
                    self.require_place_to_stay(row, self.clock_ms)?;
                }
                self.edit_name(name, |row, now_ms| {
                    row.stage = NameStage::Active;
                    if row.aim().is_none() {
                        row.stay(now_ms);
                    }
                })
            }
            NameCommand::Remove { name, force } => self.remove_name(name, *force),
            NameCommand::Published { name, host, ttl_s, addresses } => {
                self.published(name, *host, *ttl_s, addresses)
            }
            NameCommand::DnsFaults { all, names } => self.dns_faults(all.as_deref(), names),
            NameCommand::Spread => Ok(self.assign_all_short()),
            NameCommand::Telling { ttls } => self.telling(ttls),
        }
    }

    fn add_name(&mut self, name: &str, host: &str, from_ms: Option<u64>) -> Outcome {
        let from_ms = self.not_in_the_past(from_ms)?;
        let home = self.check_new_name(name, host)?;
        let mut row = MxName::new(name, home);
        row.point(Some(home), from_ms, true, self.clock_ms);
        self.rotation.names.put(row);
        Ok(1)
    }

    /// Whether a name can be added, and the id of its home.
    pub(super) fn check_new_name(&self, name: &str, host: &str) -> Result<u64, Refusal> {
        let zone = self.settings.get("rotation.zone").unwrap_or_default();
        if zone.is_empty() {
            return Err(Refusal::conflict(
                "the service has no zone; `mxfleet settings set rotation.zone ZONE` first",
            ));
        }
        if !is_host_name(name) || name.bytes().any(|b| b.is_ascii_uppercase() || b == b'_') {
            return Err(Refusal::invalid(format!(
                "{} is not a host name in lowercase A-label form",
                name.escape_debug()
            )));
        }
        if name.strip_suffix(zone).is_none_or(|label| !label.ends_with('.')) {
            return Err(Refusal::invalid(format!(
                "{name} is not below the service's zone, {zone}"
            )));
        }
        match self.rotation.names.get(name).map(|row| row.stage) {
            None => {}
            Some(NameStage::Removed { .. }) => {
                return Err(Refusal::conflict(format!(
                    "{name} was removed, and somebody may still send to it: take another name"
                )));
            }
            Some(_) => return Err(Refusal::conflict(format!("{name} is in use"))),
        }
        let in_use = |row: &&MxName| !matches!(row.stage, NameStage::Removed { .. });
        if self.rotation.names.iter().filter(in_use).count() >= NAMES_MAX {
            return Err(Refusal::conflict(
                "the fleet has 1000 names; `mxfleet name remove` one that nobody uses",
            ));
        }
        Ok(self.require_target(host)?.id)
    }

    fn point_name(&mut self, name: &str, host: &str, from_ms: u64, rehome: bool) -> Outcome {
        let target = self.require_target(host)?.id;
        let row = self.require_name(name)?;
        let fresh = row.stage == NameStage::Planned;
        match row.stage {
            NameStage::Removed { .. } => {
                return Err(Refusal::conflict(format!("{name} was removed")));
            }
            NameStage::Planned if row.pointing.is_none() => {
                return Err(Refusal::conflict(format!(
                    "{name} waits for its migration to be announced"
                )));
            }
            _ if row.aim().is_none() => {
                return Err(Refusal::conflict(format!("{name} is being removed")));
            }
            _ => {}
        }
        let rehome = rehome || fresh;
        if row.aim() == Some(target) && row.pointing.is_none() {
            let moves_home = rehome && row.home != target;
            self.edit_name(name, |row, _| {
                if rehome {
                    row.home = target;
                }
            })?;
            return Ok(u64::from(moves_home));
        }
        self.edit_name(name, |row, now_ms| row.point(Some(target), from_ms, rehome, now_ms))
    }

    /// Refuse to leave a name at a host that takes no mail, or will not for long.
    fn require_place_to_stay(&self, row: &MxName, now_ms: u64) -> Result<(), Refusal> {
        let Some(id) = row.stays_at(now_ms) else { return Ok(()) };
        let (name, host) = (&row.name, self.host_name(id));
        if self.hosts.get(id).is_none() {
            return Err(Refusal::conflict(format!("{name} would stay at {host}, which is gone")));
        }
        let Err(why) = self.require_target(&host) else { return Ok(()) };
        let resume = match self.hosts.get(id).map(|host| &host.state) {
            Some(HostState::InService) | None => String::new(),
            Some(_) => format!("; `mxfleet host resume {host}` first"),
        };
        Err(Refusal::conflict(format!("{name} would stay where it is, but {why}{resume}")))
    }

    fn retire_name(&mut self, name: &str, at_ms: u64) -> Outcome {
        self.require_not_migrating(name)?;
        if at_ms <= self.clock_ms {
            return Err(Refusal::invalid("that date is in the past"));
        }
        match self.require_name(name)?.stage {
            NameStage::Active | NameStage::Retiring { .. } => {}
            NameStage::Planned => {
                return Err(Refusal::conflict(format!(
                    "{name} is not in use yet; `mxfleet name remove {name}` drops it"
                )));
            }
            NameStage::Removed { .. } => {
                return Err(Refusal::conflict(format!("{name} was removed")));
            }
        }
        let stays = |other: &String| {
            let row = self.rotation.names.get(other);
            other != name && row.is_some_and(|row| row.stage == NameStage::Active)
        };
        let left = self.rotation.assignments.iter();
        let left =
            left.filter(|(_, names)| names.iter().any(|n| n == name) && !names.iter().any(stays));
        let left: Vec<&str> = left.map(|(customer, _)| customer).collect();
        if !left.is_empty() {
            return Err(Refusal::conflict(format!(
                "{} would have no name left: {}; `mxfleet migration plan --retire {name}` gives \
                 them others",
                counted(left.len()),
                some_of(&left)
            )));
        }
        self.edit_name(name, |row, _| row.stage = NameStage::Retiring { at_ms })
    }

    fn remove_name(&mut self, name: &str, force: bool) -> Outcome {
        self.require_not_migrating(name)?;
        let row = self.require_name(name)?;
        let has_end = match row.stage {
            NameStage::Removed { .. } => {
                return Err(Refusal::conflict(format!("{name} was removed already")));
            }
            NameStage::Planned => true,
            NameStage::Retiring { at_ms } => at_ms <= self.clock_ms,
            NameStage::Active => false,
        };
        if row.pointing.is_some() && row.aim().is_none() {
            return Ok(0); // it is being removed, and waits for DNS to forget it
        }
        if !has_end && !force {
            return Err(Refusal::conflict(format!(
                "the end of {name} was not announced, or has not come; `mxfleet name retire {name} \
                 --at DATE` announces it, --force removes it now"
            )));
        }
        let users = self.users(name);
        if !users.is_empty() && !force {
            return Err(Refusal::conflict(format!(
                "{} would lose mail: {}; assign other names first, or --force",
                counted(users.len()),
                some_of(&users)
            )));
        }
        self.take_out(name)
    }

    /// Begin to take a name out of DNS, and from customers' lists.
    pub(super) fn take_out(&mut self, name: &str) -> Outcome {
        let holders = self.rotation.assignments.iter();
        let holders = holders.filter(|(_, names)| names.iter().any(|known| known == name));
        let holders: Vec<(String, Vec<String>)> = holders
            .map(|(customer, names)| {
                let rest = names.iter().filter(|known| *known != name).cloned().collect();
                (customer.to_owned(), rest)
            })
            .collect();
        for (customer, rest) in holders {
            self.rotation.assignments.put(&customer, rest);
        }
        let row = self.require_name(name)?;
        let untold = row.target.is_none()
            && row.pointing.as_ref().is_none_or(|pointing| pointing.from_ms > self.clock_ms);
        if untold {
            self.rotation.names.forget(name); // nobody ever saw it
            return Ok(1);
        }
        self.edit_name(name, |row, now_ms| row.point(None, now_ms, false, now_ms))
    }

    fn published(
        &mut self,
        name: &str,
        host: Option<u64>,
        ttl_s: u32,
        addresses: &[IpAddr],
    ) -> Outcome {
        if addresses.len() > ADDRESSES_MAX {
            return Err(Refusal::invalid("a host has at most 16 addresses"));
        }
        let now_ms = self.clock_ms;
        let row = self.require_name(name)?;
        if row.host_at(now_ms) != host && row.target != host {
            return Err(Refusal::conflict(format!("DNS is no longer to say this of {name}")));
        }
        let is_known = row.is_known_to_give(ttl_s) && row.is_known_to_say(addresses);
        if row.pointing.is_none() && is_known {
            return Ok(0);
        }
        let fresh = row.stage == NameStage::Planned;
        self.edit_name(name, |row, now_ms| {
            row.seen(host, ttl_s, now_ms);
            row.addresses = addresses.to_vec();
        })?;
        self.rotation.names.forget_removed(REMOVED_MAX);
        if fresh && host.is_none() && self.require_name(name)?.pointing.is_none() {
            self.rotation.names.forget(name); // its introduction was cancelled
        }
        Ok(1)
    }

    fn telling(&mut self, ttls: &[(String, u32)]) -> Outcome {
        if ttls.len() > NAMES_MAX {
            return Err(Refusal::invalid("there are at most 1000 names"));
        }
        let mut changed = 0;
        for (name, ttl_s) in ttls {
            // It may have been removed meanwhile.
            let Some(row) = self.rotation.names.get_mut(name) else { continue };
            row.telling(*ttl_s);
            changed += 1;
        }
        Ok(changed)
    }

    fn dns_faults(&mut self, all: Option<&str>, names: &[(String, String)]) -> Outcome {
        if names.len() > NAMES_MAX {
            return Err(Refusal::invalid("there are at most 1000 names"));
        }
        let now_ms = self.clock_ms;
        let mut changed = u64::from(Fault::tell(&mut self.rotation.dns_fault, all, now_ms));
        let of: BTreeMap<_, _> = names.iter().map(|(name, text)| (name, text.as_str())).collect();
        for row in self.rotation.names.iter_mut() {
            let text = of.get(&row.name).copied();
            changed += u64::from(Fault::tell(&mut row.dns_fault, text, now_ms));
        }
        Ok(changed)
    }

    /// Whether this is what the fleet knows to be the matter with DNS.
    pub fn knows_dns_faults(&self, all: Option<&str>, names: &BTreeMap<String, String>) -> bool {
        let of = |name: &str| names.get(name).map(String::as_str);
        let mut rows = self.rotation.names.iter();
        Fault::is_known(self.rotation.dns_fault.as_ref(), all)
            && rows.all(|row| Fault::is_known(row.dns_fault.as_ref(), of(&row.name)))
    }

    /// Customers who have the name, or got mail by it lately.
    pub(super) fn users(&self, name: &str) -> Vec<&str> {
        let mut users: Vec<&str> = self
            .customers
            .iter()
            .map(|customer| customer.id.as_str())
            .filter(|id| {
                let has = self.rotation.assignments.of(id).iter().any(|known| known == name);
                has || self.used_lately(id, name)
            })
            .collect();
        users.sort_unstable();
        users
    }

    pub(super) fn used_lately(&self, customer: &str, name: &str) -> bool {
        self.rotation.traffic.last_by(customer, name).is_some_and(|at_ms| self.is_lately(at_ms))
    }

    /// Whether mail that came then means that it goes on.
    pub(super) fn is_lately(&self, at_ms: u64) -> bool {
        let quiet_ms = self.settings.duration_ms("rotation.quiet");
        at_ms.saturating_add(quiet_ms) > self.clock_ms
    }

    /// Names whose end has come.
    pub(super) fn due_names(&self, now_ms: u64) -> impl Iterator<Item = Command> {
        let over = move |name: &&MxName| {
            matches!(name.stage, NameStage::Retiring { at_ms } if at_ms <= now_ms)
                && name.aim().is_some()
        };
        let remove = |name: &MxName| {
            Command::Name(NameCommand::Remove { name: name.name.clone(), force: false })
        };
        self.rotation.names.iter().filter(over).map(remove)
    }

    pub(super) fn require_name(&self, name: &str) -> Result<&MxName, Refusal> {
        self.rotation.names.get(name).ok_or_else(|| {
            Refusal::not_found(format!("there is no MX name {}", name.escape_debug()))
        })
    }

    pub(super) fn edit_name(&mut self, name: &str, edit: impl FnOnce(&mut MxName, u64)) -> Outcome {
        self.require_name(name)?;
        let now_ms = self.clock_ms;
        if let Some(row) = self.rotation.names.get_mut(name) {
            edit(row, now_ms);
        }
        Ok(1)
    }

    pub(super) fn require_not_migrating(&self, name: &str) -> Result<(), Refusal> {
        let Some(open) = self.rotation.migrations.open() else { return Ok(()) };
        if open.retire.iter().chain(&open.introduce).any(|known| known == name) {
            return Err(Refusal::conflict(format!(
                "{name} is part of migration {}; `mxfleet migration finish` or `cancel` decides it",
                open.id
            )));
        }
        Ok(())
    }

    fn not_in_the_past(&self, from_ms: Option<u64>) -> Result<u64, Refusal> {
        match from_ms {
            Some(from_ms) if from_ms < self.clock_ms => {
                Err(Refusal::invalid("that date is in the past"))
            }
            from_ms => Ok(from_ms.unwrap_or(self.clock_ms)),
        }
    }
}

/// `1 customer`, `7 customers`.
pub(super) fn counted(customers: usize) -> String {
    if customers == 1 { "1 customer".to_owned() } else { format!("{customers} customers") }
}

/// The first few of them.
pub fn some_of(customers: &[&str]) -> String {
    let shown = customers.iter().take(SHOWN_MAX).copied().collect::<Vec<_>>().join(", ");
    if customers.len() > SHOWN_MAX { format!("{shown}, ...") } else { shown }
}
