//! The cluster version: which commands the fleet may use yet.
//!
//! Hosts are upgraded one at a time, and a host that cannot read a command must stop. So each host
//! says which version it speaks, the leader raises the fleet's version once all of them speak it,
//! and a command of a newer version is refused until then. **Invariant:** it is never lowered.

use std::cmp::Reverse;

use super::{Command, Hosts, Outcome, Refusal, State};

/// The newest cluster version this program speaks. It grows with every release that adds commands,
/// or anything else to what is kept or sent.
///
/// 1: the first release.
pub const CLUSTER_VERSION: u16 = 1;

impl Command {
    /// The cluster version this command needs. Who adds a command adds it here, with the version
    /// of the next release.
    pub fn since(&self) -> u16 {
        match self {
            // What a fleet needs to come to a version at all is understood by all of them.
            Self::HostFound { .. }
            | Self::HostToken { .. }
            | Self::HostJoin { .. }
            | Self::HostAnnounce { .. }
            | Self::HostPrefer { .. }
            | Self::HostRemove { .. }
            | Self::ClusterVersion { .. }
            | Self::Tick => 0,
            Self::CustomerAdd(_)
            | Self::CustomerSet { .. }
            | Self::CustomerStatus { .. }
            | Self::CustomerRemove { .. }
            | Self::DomainAdd(_)
            | Self::DomainSet { .. }
            | Self::DomainRemove { .. }
            | Self::DomainImport { .. }
            | Self::DomainStage { .. }
            | Self::DomainCommit { .. }
            | Self::SettingSet { .. }
            | Self::BlacklistReport { .. }
            | Self::BlacklistPardon { .. }
            | Self::BlacklistExempt { .. }
            | Self::BlacklistFreeze { .. }
            | Self::Name(_)
            | Self::HostService(_)
            | Self::Assign { .. }
            | Self::Migration(_)
            | Self::Notice(_)
            | Self::Traffic { .. }
            | Self::Certificate(_)
            | Self::RecipientNews { .. }
            | Self::RecipientsStage { .. }
            | Self::RecipientsCommit { .. }
            | Self::RecipientsRemove { .. }
            | Self::ReturnPathSet { .. }
            | Self::ReturnKeyAdd { .. }
            | Self::CustomerLink(_) => 1,
        }
    }
}

impl State {
    /// The version the fleet runs; `None` for a state that no host was founded in, which takes
    /// any command.
    pub fn cluster_version(&self) -> Option<u16> {
        self.version
    }

    /// Whether the fleet takes this command yet; if not, who must be upgraded for it.
    pub(crate) fn allows(&self, command: &Command) -> Result<(), Refusal> {
        self.allows_since(command.since())
    }

    fn allows_since(&self, needed: u16) -> Result<(), Refusal> {
        if self.version.is_none_or(|version| version >= needed) {
            return Ok(());
        }
        Err(Refusal::conflict(match behind(&self.hosts, needed) {
            Some(behind) => format!("this needs cluster version {needed}: {behind}"),
            None => format!("the fleet is just coming to cluster version {needed}; try again"),
        }))
    }

    /// Run `to` from now on, if everybody speaks it.
    pub(super) fn raise_version(&mut self, to: u16) -> Outcome {
        let Some(version) = self.version else {
            return Err(Refusal::invalid("the fleet has no host yet"));
        };
        if to <= version {
            return Ok(0);
        }
        if let Some(behind) = behind(&self.hosts, to) {
            return Err(Refusal::conflict(behind));
        }
        self.version = Some(to);
        Ok(1)
    }

    /// The version the fleet could run, if that is more than it does.
    pub(crate) fn version_due(&self) -> Option<u16> {
        let spoken = self.hosts.iter().map(|host| host.speaks).min()?;
        self.version.is_some_and(|version| version < spoken).then_some(spoken)
    }

    /// Why a program that speaks `speaks` cannot be in this fleet, if so, and what to do.
    pub(crate) fn too_old(&self, program: &str, speaks: u16) -> Option<String> {
        let version = self.version.filter(|version| *version > speaks)?;
        Some(format!(
            "the fleet runs cluster version {version}, and this program, mxfleet {program}, speaks \
             only {speaks}: {}",
            self.remedy()
        ))
    }

    /// What to install when this program turns out to be too old.
    pub(crate) fn remedy(&self) -> String {
        let newest = self.hosts.iter().min_by_key(|host| Reverse(host.speaks));
        match newest.filter(|host| !host.version.is_empty()) {
            Some(host) => format!("install mxfleet {}, which {} runs", host.version, host.name),
            None => "install the mxfleet the other hosts run".to_owned(),
        }
    }
}

fn behind(hosts: &Hosts, version: u16) -> Option<String> {
    let host = hosts.iter().find(|host| host.speaks < version)?;
    let (name, speaks) = (&host.name, host.speaks);
    Some(format!("{name} still runs version {speaks}; upgrade it first, or remove it"))
}

#[cfg(test)]
mod tests {
    use super::super::{NewHost, Request};
    use super::*;

    fn host(name: &str, speaks: u16) -> NewHost {
        NewHost {
            name: name.to_owned(),
            address: "192.0.2.1:4190".to_owned(),
            version: format!("0.{speaks}.0"),
            key: [0; 32],
            speaks,
        }
    }

    struct Fleet(State);

    impl Fleet {
        fn of(speaks: u16) -> Self {
            let mut fleet = Self(State::default());
            assert_eq!(fleet.0.cluster_version(), None);
            let host = host("mx1", speaks);
            fleet.ask(Command::HostFound { host, seed: 1 }).unwrap();
            fleet
        }

        fn ask(&mut self, command: Command) -> Outcome {
            let index = self.0.applied_index() + 1;
            self.0.apply(index, &Request::new(index.into(), "ops", index, command))
        }

        fn join(&mut self, name: &str, speaks: u16) -> Outcome {
            let (hash, token) = ([9; 32], [9; 32]);
            let expires_ms = self.0.clock_ms() + 1000;
            self.ask(Command::HostToken { hash, name: name.to_owned(), expires_ms }).unwrap();
            self.ask(Command::HostJoin { token, host: host(name, speaks) })
        }

        fn announce(&mut self, id: u64, speaks: u16) -> Outcome {
            let host = host("", speaks);
            let (address, version) = (host.address, host.version);
            self.ask(Command::HostAnnounce { id, address, version, speaks })
        }
    }

    fn text(outcome: Outcome) -> String {
        outcome.unwrap_err().to_string()
    }

    #[test]
    fn a_newer_command_waits_until_every_host_speaks_it() {
        let mut fleet = Fleet::of(1);
        fleet.join("mx2", 0).unwrap_err();
        fleet.join("mx2", 1).unwrap();
        assert_eq!(fleet.announce(1, 2), Ok(1));
        let behind = "mx2 still runs version 1; upgrade it first, or remove it";
        assert_eq!(text(fleet.ask(Command::ClusterVersion { to: 2 })), behind);
        let refused = fleet.0.allows_since(2).unwrap_err().to_string();
        assert_eq!(refused, format!("this needs cluster version 2: {behind}"));
        assert_eq!(fleet.0.version_due(), None);
        fleet.announce(2, 3).unwrap();
        assert_eq!(fleet.0.version_due(), Some(2));
        assert!(fleet.0.allows_since(2).is_err(), "not before it is raised");
        assert_eq!(fleet.ask(Command::ClusterVersion { to: 2 }), Ok(1));
        assert_eq!(fleet.0.allows_since(2), Ok(()));
        assert_eq!(fleet.ask(Command::ClusterVersion { to: 1 }), Ok(0), "never lowered");
        assert_eq!(fleet.0.cluster_version(), Some(2));
    }

    #[test]
    fn a_refused_command_is_the_same_on_every_node_and_changes_nothing() {
        let mut fleet = Fleet::of(0);
        let set = || Command::SettingSet { name: "queue.lifetime".to_owned(), value: None };
        let needed = "this needs cluster version 1: mx1 still runs version 0; upgrade it first, or \
                      remove it";
        assert_eq!(text(fleet.ask(set())), needed);
        fleet.announce(1, 1).unwrap();
        fleet.ask(Command::ClusterVersion { to: 1 }).unwrap();
        assert!(fleet.ask(set()).is_ok());
        let mut copy = State::default();
        fleet.0.parts().for_each(|part| copy.absorb(part));
        assert_eq!(copy.cluster_version(), Some(1));
    }

    #[test]
    fn a_host_that_is_too_old_stays_out_and_hears_what_to_install() {
        let mut fleet = Fleet::of(2);
        let why = "the fleet runs cluster version 2, and this program, mxfleet 0.1.0, speaks only \
                   1: install mxfleet 0.2.0, which mx1 runs";
        assert_eq!(text(fleet.join("mx2", 1)), why);
        assert_eq!(fleet.join("mx2", 2), Ok(2), "the token is still good");
        assert_eq!(text(fleet.announce(2, 1)), why);
        assert_eq!(fleet.0.too_old("0.1.0", 1).as_deref(), Some(why));
        assert_eq!(fleet.0.too_old("0.2.0", 2), None);
    }
}
