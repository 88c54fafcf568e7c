//! The replicated state and the one function that changes it.
//!
//! **Invariant:** no clock, no randomness, no I/O, no iteration over unordered maps. The same log
//! gives the same bytes on every node; time comes stamped inside a [`Request`].

mod command;
mod customers;
mod domains;
mod settings;

pub use command::{Command, Outcome, Refusal, Request};
pub use customers::{Customer, CustomerStatus};
pub use domains::{Domain, DomainChange, Route, RouteError, Server, TlsPolicy};
pub use settings::{SETTINGS, Setting, SettingKind, Settings, parse_duration_ms, render_duration};

use serde::{Deserialize, Serialize};

/// All replicated tables. Cloning is cheap: tables share what did not change.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct State {
    customers: customers::Customers,
    domains: domains::Domains,
    settings: Settings,
    /// The newest time any command was stamped with; never goes back.
    clock_ms: u64,
    /// The log index of the last applied command.
    applied_index: u64,
}

impl State {
    /// Apply one command at log index `index`. Total: whatever the command says, the state stays
    /// consistent, and the outcome tells what happened. A refused command changes nothing.
    pub fn apply(&mut self, index: u64, request: &Request) -> Outcome {
        self.applied_index = index;
        self.clock_ms = self.clock_ms.max(request.at_ms);
        match &request.command {
            Command::CustomerAdd(customer) => self.customers.add(customer),
            Command::CustomerSet { id, name, contacts } => {
                self.customers.set(id, name.as_deref(), contacts.as_deref())
            }
            Command::CustomerStatus { id, status } => self.customers.set_status(id, *status),
            Command::CustomerRemove { id } => {
                if let Some(domain) = self.domains.first_of(id) {
                    return Err(Refusal::conflict(format!(
                        "customer {id} still has domain {domain}; remove its domains first"
                    )));
                }
                self.customers.remove(id)
            }
            Command::DomainAdd(domain) => {
                self.customers.require(&domain.customer)?;
                self.domains.add(domain)
            }
            Command::DomainSet { name, change } => {
                if let Some(customer) = &change.customer {
                    self.customers.require(customer)?;
                }
                self.domains.set(name, change)
            }
            Command::DomainRemove { name } => self.domains.remove(name),
            Command::DomainImport { domains } => {
                for domain in domains {
                    self.customers.require(&domain.customer)?;
                }
                self.domains.import(domains)
            }
            Command::SettingSet { name, value } => self.settings.set(name, value.as_deref()),
        }
    }

    /// The domain `name` (lowercase A-label), if a customer has it.
    pub fn domain(&self, name: &str) -> Option<&Domain> {
        self.domains.get(name)
    }

    /// All domains, in order of name.
    pub fn domains(&self) -> impl Iterator<Item = &Domain> {
        self.domains.iter()
    }

    /// The customer with this id.
    pub fn customer(&self, id: &str) -> Option<&Customer> {
        self.customers.get(id)
    }

    /// All customers, in order of id.
    pub fn customers(&self) -> impl Iterator<Item = &Customer> {
        self.customers.iter()
    }

    /// Fleet-wide settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The log index of the last applied command.
    pub fn applied_index(&self) -> u64 {
        self.applied_index
    }
}
