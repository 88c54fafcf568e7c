//! A host's service: drained, resumed, retired.

use super::super::names::{MxName, NameStage, Pointing};
use super::super::service::{Drain, HostCommand, HostState, MovedName};
use super::super::{Command, Host, Outcome, Refusal, State};

impl State {
    pub(super) fn change_service(&mut self, command: &HostCommand) -> Outcome {
        match command {
            HostCommand::Set { name, addresses } => {
                let id = self.hosts.require(name)?;
                self.check_addresses(id, addresses)?;
                let now_ms = self.clock_ms;
                let leads = |row: &MxName| [row.aim(), row.host_at(now_ms)].contains(&Some(id));
                if addresses.is_empty() && self.rotation.names.iter().any(leads) {
                    return Err(Refusal::conflict(format!("names point at {name}")));
                }
                self.edit_host(id, |host| host.addresses.clone_from(addresses))
            }
            HostCommand::Drain { name, deadline_ms, moves } => {
                self.drain(name, *deadline_ms, moves)
            }
            HostCommand::Resume { name } => self.resume(name),
            HostCommand::MailLeft { id, messages } => self.mail_left(*id, *messages),
            HostCommand::Retire { name, force: false, .. } => self.retire_empty(name),
            HostCommand::Retire { name, moves, .. } => self.retire_by_force(name, moves),
        }
    }

    fn drain(
        &mut self,
        name: &str,
        deadline_ms: Option<u64>,
        moves: &[(String, String)],
    ) -> Outcome {
        let id = self.hosts.require(name)?;
        if deadline_ms.is_some_and(|deadline_ms| deadline_ms <= self.clock_ms) {
            return Err(Refusal::invalid("the deadline is in the past"));
        }
        match self.hosts.get(id).map(|host| &host.state) {
            Some(HostState::InService) => {}
            Some(HostState::Draining(_)) => return self.set_deadline(id, name, deadline_ms),
            _ => return Err(Refusal::conflict(format!("host {name} is retired"))),
        }
        self.require_another(id, name)?;
        let moved = self.move_names(id, name, moves)?;
        let since_ms = self.clock_ms;
        let drain = Drain { since_ms, deadline_ms, moved, mail_first: None, mail_left: None };
        self.edit_host(id, |host| host.state = HostState::Draining(drain))
    }

    /// A drain that is under way is given another deadline.
    fn set_deadline(&mut self, id: u64, name: &str, deadline_ms: Option<u64>) -> Outcome {
        if deadline_ms.is_none() {
            return Err(Refusal::conflict(format!(
                "host {name} is being drained already; --watch shows how far, and --deadline gives \
                 it another deadline"
            )));
        }
        self.edit_host(id, |host| {
            if let HostState::Draining(drain) = &mut host.state {
                drain.deadline_ms = deadline_ms;
            }
        })
    }

    /// All names that would go on pointing at the host must have another.
    fn move_names(
        &mut self,
        id: u64,
        host: &str,
        moves: &[(String, String)],
    ) -> Result<Vec<MovedName>, Refusal> {
        let now_ms = self.clock_ms;
        let hurried = self.hurry_names(id)?;
        let aimed: Vec<MxName> = self.aimed_at(id).cloned().collect();
        let mut carried: Vec<MovedName> = Vec::new();
        for row in aimed {
            let name = row.name.clone();
            let to = moves.iter().find(|(moved, _)| *moved == name).map(|(_, to)| to);
            let to = to.ok_or_else(|| {
                Refusal::conflict(format!("{name} points at {host}, and no other host is given"))
            })?;
            let target = self.require_target(to)?.id;
            if target == id {
                return Err(Refusal::conflict(format!("{name} would stay at {host}")));
            }
            let planned = row.stage == NameStage::Planned;
            let was_here = row.host_at(now_ms) == Some(id);
            self.edit_name(&name, |row, now_ms| match &mut row.pointing {
                // Nothing leads to the host before its date.
                Some(pointing) if !was_here => pointing.to = Some(target),
                _ => row.point(Some(target), now_ms, planned, now_ms),
            })?;
            let (before, home) = (row.pointing, row.home);
            carried.push(MovedName { name, was_here, before, home, to: target });
        }
        if let Some((other, _)) =
            moves.iter().find(|(name, _)| !carried.iter().any(|moved| moved.name == *name))
        {
            return Err(Refusal::conflict(format!("{other} does not point at {host}")));
        }
        carried.extend(hurried);
        Ok(carried)
    }

    /// Names that would leave the host at a later date leave it now.
    fn hurry_names(&mut self, id: u64) -> Result<Vec<MovedName>, Refusal> {
        let now_ms = self.clock_ms;
        let later = |row: &MxName| {
            let pointing = row.pointing.as_ref().filter(|pointing| pointing.from_ms > now_ms)?;
            let to = pointing.to.filter(|to| *to != id && row.host_at(now_ms) == Some(id))?;
            let (name, before) = (row.name.clone(), Some(pointing.clone()));
            Some(MovedName { name, was_here: true, before, home: row.home, to })
        };
        let later: Vec<MovedName> = self.rotation.names.iter().filter_map(later).collect();
        for moved in &later {
            let rehome = moved.before.as_ref().is_some_and(|before| before.rehome);
            self.edit_name(&moved.name, |row, now_ms| {
                row.point(Some(moved.to), now_ms, rehome, now_ms);
            })?;
        }
        Ok(later)
    }

    fn resume(&mut self, name: &str) -> Outcome {
        let id = self.hosts.require(name)?;
        let state = self.hosts.get(id).map(|host| host.state.clone()).unwrap_or_default();
        let moved = match state {
            HostState::InService => {
                return Err(Refusal::conflict(format!("host {name} is in service")));
            }
            HostState::Draining(Drain { moved, .. }) | HostState::Retired { moved, .. } => moved,
        };
        self.edit_host(id, |host| host.state = HostState::InService)?;
        for moved in moved {
            self.give_back(id, name, moved)?;
        }
        Ok(1)
    }

    /// A host that is in service again gets back a name it had, or was to get.
    fn give_back(&mut self, id: u64, host: &str, moved: MovedName) -> Outcome {
        let MovedName { name, was_here, before, home, to } = moved;
        let now_ms = self.clock_ms;
        let Some(row) = self.rotation.names.get(&name) else { return Ok(0) };
        // One that went on to somewhere else meanwhile comes back only to its home.
        let is_its_own = row.home == id || row.aim() == Some(to);
        if !is_its_own || row.aim().is_none() {
            return Ok(0);
        }
        let leaves = before.as_ref().is_some_and(|before| before.to != Some(id));
        let is_ahead = before.as_ref().is_some_and(|before| before.from_ms > now_ms);
        if leaves && !is_ahead {
            return Ok(0); // it is where it was to be by now
        }
        let stays_at = if was_here { Some(id) } else { row.host_at(now_ms) };
        let is_there = row.aim() == Some(id);
        let takes_names =
            |host: &Host| host.state == HostState::InService && !host.addresses.is_empty();
        let goes_on = |before: &Pointing| {
            let target = before.to.and_then(|to| self.hosts.get(to));
            is_ahead && target.is_some_and(takes_names)
        };
        let rehome = before.as_ref().is_some_and(|before| before.rehome) && !leaves;
        let later = before.filter(goes_on);
        self.require_target(host)?;
        self.edit_name(&name, |row, now_ms| match later {
            Some(later) => {
                if leaves && later.rehome && row.home == to {
                    row.home = home; // the other became it before its time
                }
                row.point_until(stays_at, &later, now_ms);
            }
            None if is_there => {}
            None => row.point(Some(id), now_ms, rehome, now_ms),
        })
    }

    fn mail_left(&mut self, id: u64, messages: u64) -> Outcome {
        let mut changed = 0;
        self.edit_host(id, |host| {
            if let HostState::Draining(drain) = &mut host.state {
                drain.mail_first = drain.mail_first.or(Some(messages)).max(Some(messages));
                drain.mail_left = Some(messages);
                changed = 1;
            }
        })?;
        Ok(changed)
    }

    fn retire_empty(&mut self, name: &str) -> Outcome {
        let id = self.hosts.require(name)?;
        let Some(HostState::Draining(drain)) = self.hosts.get(id).map(|host| &host.state) else {
            return Err(Refusal::conflict(format!(
                "host {name} is not drained; `mxfleet host drain {name}` first, or --force"
            )));
        };
        if let Some(carried) = self.names_on(id, self.clock_ms).next() {
            return Err(Refusal::conflict(format!(
                "mail may still come to {name} by {}; wait, or --force",
                carried.name
            )));
        }
        match drain.mail_left {
            Some(0) => {}
            Some(left) => {
                return Err(Refusal::conflict(format!(
                    "host {name} still has {left} messages; wait, or --force, which loses them"
                )));
            }
            None => {
                return Err(Refusal::conflict(format!(
                    "host {name} has not counted its queue yet; wait, or --force"
                )));
            }
        }
        let (at_ms, moved) = (self.clock_ms, drain.moved.clone());
        self.edit_host(id, |host| host.state = HostState::Retired { at_ms, moved, empty: true })
    }

    fn retire_by_force(&mut self, name: &str, moves: &[(String, String)]) -> Outcome {
        let id = self.hosts.require(name)?;
        let mut moved = match self.hosts.get(id).map(|host| &host.state) {
            Some(HostState::Draining(drain)) => drain.moved.clone(),
            Some(HostState::InService) => Vec::new(),
            _ => return Err(Refusal::conflict(format!("host {name} is retired already"))),
        };
        self.require_another(id, name)?;
        moved.extend(self.move_names(id, name, moves)?);
        let at_ms = self.clock_ms;
        self.edit_host(id, |host| host.state = HostState::Retired { at_ms, moved, empty: false })
    }

    /// Before a host is removed for good: nothing leads to it, its queue is empty or given up, and
    /// nothing has it as its home.
    pub(in crate::state) fn release_host(&mut self, name: &str, force: bool) -> Outcome {
        let id = self.hosts.require(name)?;
        let is_retired = |host: &Host| matches!(host.state, HostState::Retired { .. });
        let is_retired = self.hosts.get(id).is_some_and(is_retired);
        if let Some(carried) = self.names_on(id, self.clock_ms).next()
            && !is_retired
        {
            return Err(Refusal::conflict(format!(
                "mail may come to {name} by {}; `mxfleet host drain {name}` moves its names, or \
                 `mxfleet host retire {name} --force` if it is lost",
                carried.name
            )));
        }
        if !is_retired && !force {
            return Err(Refusal::conflict(format!(
                "host {name} is not retired, and mail may be in its queue; `mxfleet host drain \
                 {name}` first, which retires it when it is empty; if it is lost, `mxfleet cluster \
                 remove {name} --force` gives up what is on its disk"
            )));
        }
        for row in self.rotation.names.iter_mut().filter(|row| row.home == id) {
            row.home = row.aim().unwrap_or(id);
        }
        Ok(1)
    }

    /// Names that point at the host, or are about to.
    pub fn aimed_at(&self, host: u64) -> impl Iterator<Item = &MxName> {
        self.rotation.names.iter().filter(move |name| name.aim() == Some(host))
    }

    fn require_another(&self, id: u64, name: &str) -> Result<(), Refusal> {
        let serves = |host: &Host| host.id != id && host.state == HostState::InService;
        if self.hosts.iter().any(serves) {
            return Ok(());
        }
        Err(Refusal::conflict(format!(
            "no other host is in service: without {name} the fleet takes no mail"
        )))
    }

    fn edit_host(&mut self, id: u64, edit: impl FnOnce(&mut Host)) -> Outcome {
        let host = self.hosts.get_mut(id);
        edit(host.ok_or_else(|| Refusal::not_found(format!("no host has id {id}")))?);
        Ok(1)
    }

    /// Hosts that are empty and may go.
    pub(super) fn due_hosts(&self) -> impl Iterator<Item = Command> {
        let empty =
            |host: &&Host| matches!(&host.state, HostState::Draining(d) if d.mail_left == Some(0));
        self.hosts.iter().filter(empty).map(|host| {
            let (name, moves) = (host.name.clone(), Vec::new());
            Command::HostService(HostCommand::Retire { name, force: false, moves })
        })
    }
}
