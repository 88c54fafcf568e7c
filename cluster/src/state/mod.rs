//! The replicated state and the one function that changes it.
//!
//! **Invariant:** no clock, no randomness, no I/O, no iteration over unordered maps. The same log
//! gives the same bytes on every node; time comes stamped inside a [`Request`].

mod answers;
mod assignments;
mod audit;
mod blacklist;
mod certificates;
mod command;
mod customers;
mod domains;
mod hosts;
mod imports;
mod links;
mod lists;
mod migrations;
mod names;
mod news;
mod notices;
mod operators;
mod parts;
mod plan;
mod recent;
mod recipients;
mod return_paths;
mod ring;
mod rotation;
mod service;
mod settings;
mod sharded;
#[cfg(test)]
mod tests;
mod traffic;
mod version;

use std::collections::BTreeSet;

pub use audit::AuditRecord;
pub use blacklist::{
    BlacklistCounts, BlacklistEntry, Exemption, FrozenDomain, RecipientEvent, RefusedRecipient,
    RejectionNote,
};
use blacklist::{Numbers, Terms};
pub use certificates::{Certificate, CertificateCommand, Fault, NextCertificate};
pub use command::{Command, Outcome, Refusal, Request};
pub use customers::{Customer, CustomerStatus};
pub use domains::{Domain, DomainChange, Route, RouteError, Server, TlsPolicy, domain_of};
use hosts::Hosts;
pub(crate) use hosts::{Hash, TOKEN_LIFE_MS_MAX};
pub use hosts::{Host, NewHost};
pub use links::LinkCommand;
pub use lists::RecipientList;
pub use migrations::{Migration, MigrationCommand, MigrationStage, MigrationStep, Survey, Told};
pub use names::{FormerHost, MxName, NameStage, NameStatus, Pointing, Ttl};
pub use news::{RecipientNews, Verification};
pub use notices::{Notice, NoticeCommand, NoticeStatus, NoticeUpdate};
pub(crate) use parts::Part;
pub use plan::{Fleet, FleetHost, FleetName, Move, Plan};
pub use recipients::{RecipientChange, RecipientPolicy, Verify};
pub use return_paths::{ReturnKey, Secret};
pub use rotation::{NameCommand, TRAFFIC_COUNTS_MAX, some_of};
pub use service::{Drain, HostCommand, HostState, MovedName};
pub use settings::{SETTINGS, Setting, SettingKind, Settings, parse_duration_ms, render_duration};
#[cfg(test)]
pub(crate) use sharded::mix;
pub use traffic::TrafficCount;
pub use version::CLUSTER_VERSION;

/// All replicated tables. Cloning is cheap: tables share what did not change.
#[derive(Debug, Clone, Default)]
pub struct State {
    customers: customers::Customers,
    domains: domains::Domains,
    settings: Settings,
    /// What follows from the settings.
    numbers: Numbers,
    hosts: Hosts,
    blacklist: blacklist::Blacklist,
    imports: imports::Imports<Domain>,
    lists: lists::Lists,
    rotation: rotation::Rotation,
    answers: answers::Answers,
    audit: audit::Audit,
    recent: recent::Recent,
    /// The cluster version the fleet runs, once it has a host.
    version: Option<u16>,
    return_paths: return_paths::ReturnPaths,
    links: links::Links,
    /// The newest time any command was stamped with; never goes back.
    clock_ms: u64,
    /// The log index of the last applied command.
    applied_index: u64,
}

impl State {
    /// Apply one command at log index `index`. Total: whatever the command says, the state stays
    /// consistent, and the outcome tells what happened. A refused command changes nothing; a
    /// request that was applied before is answered as it was then, and changes nothing either.
    pub fn apply(&mut self, index: u64, request: &Request) -> Outcome {
        self.applied_index = index;
        if let Some(outcome) = self.recent.outcome(request.id) {
            return outcome.clone();
        }
        self.clock_ms = self.clock_ms.max(request.at_ms);
        let outcome = self
            .allows(&request.command)
            .and_then(|()| self.check_version(request.expected_version, &request.command))
            .and_then(|()| self.change(index, &request.command))
            .map_err(Refusal::clipped);
        self.recent.remember(request.id, index, &outcome);
        self.audit.note(index, self.clock_ms, request, &outcome);
        outcome
    }

    fn change(&mut self, at: u64, command: &Command) -> Outcome {
        match command {
            Command::CustomerAdd(customer) => {
                self.customers.add(at, customer)?;
                self.assign_new(&customer.id);
                Ok(1)
            }
            Command::CustomerSet { id, name, contacts } => {
                self.set_customer(at, id, name.as_deref(), contacts.as_deref())
            }
            Command::CustomerStatus { id, status } => self.customers.set_status(at, id, *status),
            Command::CustomerRemove { id } => self.remove_customer(id),
            Command::DomainAdd(domain) => {
                self.customers.require(&domain.customer)?;
                self.check_not_service(std::slice::from_ref(domain))?;
                self.domains.add(at, domain)
            }
            Command::DomainSet { name, change } => {
                if let Some(customer) = &change.customer {
                    self.customers.require(customer)?;
                }
                self.domains.set(at, name, change)
            }
            Command::DomainRemove { name } => {
                self.domains.remove(name)?;
                self.lists.remove(name)?;
                self.answers.forget_domain(name);
                let _ = self.return_paths.set(name, false); // what is off can always be set off
                Ok(1)
            }
            Command::DomainImport { domains } => self.import(at, domains),
            // Decided already; the rows would wait for a commit that does not come again.
            Command::DomainStage { import, .. } if self.recent.outcome(*import).is_some() => Ok(0),
            Command::DomainStage { import, part, domains } => {
                self.imports.stage(*import, *part, domains, self.clock_ms)
            }
            Command::DomainCommit { import, parts } => {
                let domains = self.imports.finish(*import, *parts)?;
                self.import(at, &domains)
            }
            Command::SettingSet { name, value } => self.set(at, name, value.as_deref()),
            Command::Tick => {
                let terms = Terms { numbers: self.numbers, domains: &self.domains };
                self.blacklist.sweep(terms, self.clock_ms);
                self.links.sweep(self.link_life_ms(), self.clock_ms);
                Ok(0)
            }
            Command::BlacklistReport { node, incarnation, sequence, events } => {
                let id = (*node, *incarnation, *sequence);
                let terms = Terms { numbers: self.numbers, domains: &self.domains };
                self.blacklist.report(terms, self.clock_ms, id, events)
            }
            Command::BlacklistPardon { address } => {
                let had_answer = self.answers.forget(address);
                Ok(self.blacklist.pardon(address)?.max(u64::from(had_answer)))
            }
            Command::BlacklistExempt { address, exemption } => {
                self.blacklist.set_exempt(address, exemption.as_ref(), self.clock_ms)
            }
            Command::BlacklistFreeze { domain, frozen } => {
                let terms = Terms { numbers: self.numbers, domains: &self.domains };
                self.blacklist.set_frozen(terms, domain, *frozen, self.clock_ms)
            }
            Command::RecipientNews { news } => self.learn(news),
            _ => self.change_lists(at, command),
        }
    }

    fn change_lists(&mut self, at: u64, command: &Command) -> Outcome {
        match command {
            Command::RecipientsStage { upload, part, entries } => {
                self.lists.stage(*upload, *part, entries, self.clock_ms)
            }
            Command::RecipientsCommit { domain, upload, parts } => {
                self.domains.require(domain)?;
                let count = self.lists.commit(at, domain, *upload, *parts)?;
                self.domains.touch(at, domain)?;
                Ok(count)
            }
            Command::RecipientsRemove { domain } => {
                self.domains.require(domain)?;
                let changed = self.lists.remove(domain)?;
                if changed > 0 {
                    self.domains.touch(at, domain)?;
                }
                Ok(changed)
            }
            Command::Name(_)
            | Command::HostService(_)
            | Command::Assign { .. }
            | Command::Migration(_)
            | Command::Notice(_)
            | Command::Traffic { .. }
            | Command::Certificate(_) => self.change_rotation(at, command),
            Command::ReturnPathSet { domain, tagged } => {
                self.domains.require(domain)?;
                self.return_paths.set(domain, *tagged)
            }
            Command::ReturnKeyAdd { number, secret } => {
                self.return_paths.add_key(*number, secret, self.clock_ms)
            }
            Command::CustomerLink(command) => self.change_links(command),
            _ => self.change_hosts(command),
        }
    }

    fn change_hosts(&mut self, command: &Command) -> Outcome {
        let now_ms = self.clock_ms;
        match command {
            Command::HostFound { host, seed } => {
                let id = self.hosts.found(host, now_ms)?;
                self.blacklist.set_seed(*seed);
                self.answers.set_seed(*seed);
                self.version = Some(host.speaks);
                Ok(id)
            }
            Command::HostToken { hash, name, expires_ms } => {
                self.hosts.issue(*hash, name, *expires_ms, now_ms)
            }
            Command::HostJoin { token, host } => {
                self.is_new_enough(&host.version, host.speaks)?;
                self.hosts.join(token, host, now_ms)
            }
            Command::HostAnnounce { id, address, version, speaks } => {
                self.is_new_enough(version, *speaks)?;
                self.hosts.announce(*id, address, version, *speaks)
            }
            Command::ClusterVersion { to } => self.raise_version(*to),
            Command::HostPrefer { name, preferred } => self.hosts.prefer(name, *preferred),
            Command::HostRemove { name, force } => {
                self.release_host(name, *force)?;
                self.hosts.remove(name)
            }
            _ => Err(Refusal::invalid("this command is not one about hosts")),
        }
    }

    fn is_new_enough(&self, program: &str, speaks: u16) -> Result<(), Refusal> {
        self.too_old(program, speaks).map_or(Ok(()), |why| Err(Refusal::conflict(why)))
    }

    /// What the blacklist goes by.
    fn terms(&self) -> Terms<'_> {
        Terms { numbers: self.numbers, domains: &self.domains }
    }

    fn import(&mut self, at: u64, domains: &[Domain]) -> Outcome {
        for domain in domains {
            self.customers.require(&domain.customer)?;
        }
        self.check_not_service(domains)?;
        self.domains.import(at, domains)
    }

    fn set_customer(
        &mut self,
        at: u64,
        id: &str,
        name: Option<&str>,
        contacts: Option<&[String]>,
    ) -> Outcome {
        let changed = self.customers.set(at, id, name, contacts)?;
        if contacts.is_some() {
            self.links.forget(id);
        }
        Ok(changed)
    }

    fn remove_customer(&mut self, id: &str) -> Outcome {
        if let Some(domain) = self.domains.first_of(id) {
            return Err(Refusal::conflict(format!(
                "customer {id} still has domain {domain}; remove its domains first"
            )));
        }
        self.customers.remove(id)?;
        self.forget_customer(id);
        self.links.forget(id);
        Ok(1)
    }

    fn set(&mut self, at: u64, name: &str, value: Option<&str>) -> Outcome {
        self.check_setting(name, value.unwrap_or_default())?;
        let published = self.publishes_keys();
        let changed = self.settings.set(at, name, value)?;
        self.numbers = Numbers::of(&self.settings);
        self.tlsa_was_set(published);
        Ok(changed)
    }

    /// Whether the setting may be changed now.
    fn check_setting(&self, name: &str, value: &str) -> Result<(), Refusal> {
        if name == "rotation.zone" && self.names().next().is_some() {
            return Err(Refusal::conflict("there are MX names in the zone; it cannot change"));
        }
        self.check_service(name, value)
    }

    fn check_version(&self, expected: Option<u64>, command: &Command) -> Result<(), Refusal> {
        let Some(expected) = expected else { return Ok(()) };
        let (what, version) = match command {
            Command::CustomerAdd(customer) => (&customer.id, self.customers.version(&customer.id)),
            Command::CustomerSet { id, .. }
            | Command::CustomerStatus { id, .. }
            | Command::CustomerRemove { id } => (id, self.customers.version(id)),
            Command::DomainAdd(domain) => (&domain.name, self.domains.version(&domain.name)),
            Command::DomainSet { name, .. }
            | Command::DomainRemove { name }
            | Command::RecipientsCommit { domain: name, .. }
            | Command::RecipientsRemove { domain: name } => (name, self.domains.version(name)),
            Command::SettingSet { name, .. } => (name, self.settings.version(name)),
            _ => return Err(Refusal::invalid("this command cannot expect a version")),
        };
        if version != expected {
            return Err(Refusal::conflict(format!(
                "{what} was changed meanwhile: it has version {version}, not {expected}"
            )));
        }
        Ok(())
    }

    /// The domain `name` (lowercase A-label), if a customer has it.
    pub fn domain(&self, name: &str) -> Option<&Domain> {
        self.domains.get(name)
    }

    /// All domains, in order of name.
    pub fn domains(&self) -> impl Iterator<Item = &Domain> {
        self.domains.iter()
    }

    /// A customer's domains, in order of name. Looks at every domain.
    pub fn domains_of<'a>(&'a self, customer: &'a str) -> impl Iterator<Item = &'a Domain> {
        self.domains.iter().filter(move |domain| domain.customer == customer)
    }

    /// The version of a domain's row for [`Request::expecting`]; 0 when there is none.
    pub fn domain_version(&self, name: &str) -> u64 {
        self.domains.version(name)
    }

    /// The recipients that a domain's customer has named, if they have: everybody else is unknown.
    pub fn recipient_list(&self, domain: &str) -> Option<&RecipientList> {
        self.lists.get(domain)
    }

    /// Whether mail for a domain leaves with a return path of ours, so that its server's reports
    /// come to us.
    pub fn has_tagged_return_path(&self, domain: &str) -> bool {
        self.return_paths.is_tagged(domain)
    }

    /// Whether that is so for any domain.
    pub fn has_tagged_return_paths(&self) -> bool {
        self.return_paths.any_tagged()
    }

    /// The keys that sign return paths, the newest first.
    pub fn return_keys(&self) -> &[ReturnKey] {
        self.return_paths.keys()
    }

    /// The customer with this id.
    pub fn customer(&self, id: &str) -> Option<&Customer> {
        self.customers.get(id)
    }

    /// All customers, in order of id.
    pub fn customers(&self) -> impl Iterator<Item = &Customer> {
        self.customers.iter()
    }

    /// The version of a customer's row for [`Request::expecting`]; 0 when there is none.
    pub fn customer_version(&self, id: &str) -> u64 {
        self.customers.version(id)
    }

    /// Fleet-wide settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The version of a setting for [`Request::expecting`]; 0 when it is at its default.
    pub fn setting_version(&self, name: &str) -> u64 {
        self.settings.version(name)
    }

    /// Whether a RCPT for `address` is to be refused at `now_ms`, for too many rejections.
    /// The address: domain as lowercase A-label, local part in NFC and case-folded.
    pub fn is_blacklisted(&self, address: &str, now_ms: u64) -> bool {
        self.blacklist.is_listed(self.terms(), address, now_ms)
    }

    /// Whether an address has rejections, so that a message taken for it is news.
    pub fn is_blacklist_tracked(&self, address: &str) -> bool {
        self.blacklist.is_tracked(address)
    }

    /// What is known of an address: its rejections, its listing, its exemption.
    pub fn blacklist_entry(&self, address: &str, now_ms: u64) -> Option<BlacklistEntry> {
        self.blacklist.entry(self.terms(), address, now_ms)
    }

    /// Listed addresses with the end of their listing, in no useful order.
    pub fn blacklisted(&self, now_ms: u64) -> impl Iterator<Item = (&str, u64)> {
        self.blacklist.listed(self.terms(), now_ms)
    }

    /// Recipients of these domains (lowercase A-labels) that were refused as unknown, listed or
    /// not, in no useful order. Looks at every address, unless nothing is known of the domains.
    pub fn refused_in<'a>(
        &'a self,
        domains: &'a BTreeSet<&str>,
        now_ms: u64,
    ) -> impl Iterator<Item = RefusedRecipient<'a>> {
        self.blacklist.refused_in(self.terms(), domains, now_ms)
    }

    /// Whether it is worth telling that mail was taken for an address without rejections.
    pub fn is_taken_news(&self, address: &str, now_ms: u64) -> bool {
        self.blacklist.is_taken_news(self.terms(), address, now_ms)
    }

    /// How many addresses are known, and what was kept from being listed.
    pub fn blacklist_counts(&self) -> BlacklistCounts {
        self.blacklist.counted()
    }

    /// Addresses that are never listed, in order.
    pub fn blacklist_exempt(&self, now_ms: u64) -> impl Iterator<Item = (&str, &Exemption)> {
        self.blacklist.exempt(now_ms)
    }

    /// Domains in which nothing new is listed, in order.
    pub fn blacklist_frozen(&self, now_ms: u64) -> impl Iterator<Item = FrozenDomain<'_>> {
        self.blacklist.frozen(self.terms(), now_ms)
    }

    /// All hosts, in order of id.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter()
    }

    /// The host with this id.
    pub fn host(&self, id: u64) -> Option<&Host> {
        self.hosts.get(id)
    }

    /// Whether the host is out, or was removed, and others had taken its queue by then.
    pub fn left_empty(&self, id: u64) -> bool {
        self.hosts.left_empty(id)
    }

    /// The host of this name.
    pub fn host_named(&self, name: &str) -> Option<&Host> {
        self.hosts.named(name)
    }

    /// Who changed what, from the newest to the oldest.
    pub fn audit(&self) -> impl Iterator<Item = &AuditRecord> {
        self.audit.iter()
    }

    /// The newest time a command was stamped with: milliseconds since 1970, UTC. Never goes back.
    pub fn clock_ms(&self) -> u64 {
        self.clock_ms
    }

    /// The log index of the last applied command.
    pub fn applied_index(&self) -> u64 {
        self.applied_index
    }

    pub(crate) fn was_removed(&self, id: u64) -> bool {
        self.hosts.was_removed(id)
    }

    pub(crate) fn token_is_good(&self, hash: &Hash, now_ms: u64) -> bool {
        self.hosts.token_is_good(hash, now_ms.max(self.clock_ms))
    }

    /// Every host but this one is lost for good; how a fleet is recovered, outside the log.
    pub(crate) fn keep_only(&mut self, id: u64) {
        self.hosts.keep_only(id);
    }

    /// All hosts are lost for good, and a new one carries on; outside the log.
    pub(crate) fn refound(&mut self, host: &NewHost) -> Outcome {
        self.hosts.keep_only(0);
        self.hosts.found(host, self.clock_ms)
    }

    /// An entry of Raft's own was applied: only the index moves.
    pub(crate) fn skip_to(&mut self, index: u64) {
        self.applied_index = index;
    }
}
