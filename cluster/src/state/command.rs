//! What can be asked of the state, and what it answers.

use serde::{Deserialize, Serialize};

use super::{Customer, CustomerStatus, Domain, DomainChange};

/// A command with what makes it traceable and repeatable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by whoever asks; the same id is applied once.
    pub id: u128,
    /// Who asks, for the audit trail.
    pub actor: String,
    /// When it was proposed: milliseconds since 1970, UTC.
    pub at_ms: u64,
    /// What to do.
    pub command: Command,
}

/// A change of the replicated state. Variants are only ever appended: their order is the format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Add a customer.
    CustomerAdd(Customer),
    /// Change a customer's name or contacts.
    CustomerSet {
        /// Which customer.
        id: String,
        /// The new name.
        name: Option<String>,
        /// The new contact addresses, all of them.
        contacts: Option<Vec<String>>,
    },
    /// Suspend or resume a customer.
    CustomerStatus {
        /// Which customer.
        id: String,
        /// The new status.
        status: CustomerStatus,
    },
    /// Remove a customer that has no domains.
    CustomerRemove {
        /// Which customer.
        id: String,
    },
    /// Add a domain to a customer.
    DomainAdd(Domain),
    /// Change a domain.
    DomainSet {
        /// Which domain.
        name: String,
        /// What is to change.
        change: DomainChange,
    },
    /// Remove a domain.
    DomainRemove {
        /// Which domain.
        name: String,
    },
    /// Add many domains, or bring them to what is given; all or none.
    DomainImport {
        /// The domains as they shall be.
        domains: Vec<Domain>,
    },
    /// Change a fleet-wide setting; `None` brings back its default.
    SettingSet {
        /// The setting, for example `queue.lifetime`.
        name: String,
        /// Its new value as text.
        value: Option<String>,
    },
}

/// What a command did: the number of rows it changed, or why it was refused.
pub type Outcome = Result<u64, Refusal>;

/// Why a command was refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// What it names does not exist.
    #[error("{0}")]
    NotFound(String),
    /// It contradicts what is there.
    #[error("{0}")]
    Conflict(String),
    /// A value is not valid.
    #[error("{0}")]
    Invalid(String),
}

impl Refusal {
    pub(super) fn not_found(text: impl Into<String>) -> Self {
        Self::NotFound(text.into())
    }

    pub(super) fn conflict(text: impl Into<String>) -> Self {
        Self::Conflict(text.into())
    }

    pub(super) fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }
}
