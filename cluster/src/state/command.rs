//! What can be asked of the state, and what it answers.

use serde::{Deserialize, Serialize};

use super::audit::clip;
use super::{
    CertificateCommand, Customer, CustomerStatus, Domain, DomainChange, Exemption, HostCommand,
    LinkCommand, MigrationCommand, NameCommand, NewHost, NoticeCommand, RecipientEvent,
    RecipientNews, Secret, TrafficCount,
};

const REFUSAL_OCTETS_MAX: usize = 1024;

/// A command with what makes it traceable and repeatable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by whoever asks; the same id is applied once.
    pub id: u128,
    /// Who asks, for the audit trail.
    pub actor: String,
    /// When it was proposed: milliseconds since 1970, UTC.
    pub at_ms: u64,
    /// Do it only if the row it names was last changed at this log index (0: does not exist yet),
    /// so that two operators do not overwrite each other. `None` does it in any case.
    pub expected_version: Option<u64>,
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
    /// The first host of a new fleet.
    HostFound {
        /// The host.
        host: NewHost,
        /// A secret of the fleet that keys its hash tables.
        seed: u64,
    },
    /// A token that lets one host of this name join.
    HostToken {
        /// SHA-256 of the secret in the token.
        hash: [u8; 32],
        /// The name it is for.
        name: String,
        /// Until when: milliseconds since 1970, UTC.
        expires_ms: u64,
    },
    /// A host joins with a token; the outcome is its id.
    HostJoin {
        /// SHA-256 of the secret in the token.
        token: [u8; 32],
        /// Who joins.
        host: NewHost,
    },
    /// A host says where it is now and what it runs.
    HostAnnounce {
        /// Which host.
        id: u64,
        /// Where other nodes reach it.
        address: String,
        /// What it runs.
        version: String,
        /// The newest cluster version it speaks.
        speaks: u16,
    },
    /// Whether a host shall vote before others.
    HostPrefer {
        /// Which host.
        name: String,
        /// Before others, or as any other.
        preferred: bool,
    },
    /// A host leaves the fleet for good; its certificate is refused from then on.
    HostRemove {
        /// Which host.
        name: String,
        /// Even if it is not retired: it is lost, with the mail that is in its queue.
        force: bool,
    },
    /// Moves the fleet's clock on, and forgets some of what no longer matters.
    Tick,
    /// What customers' servers said of recipients, from one node. Taken once for each node,
    /// incarnation and sequence, in order: a node has one report on its way at a time.
    BlacklistReport {
        /// The node that reports.
        node: u64,
        /// Grows with every start of the node.
        incarnation: u64,
        /// Grows with every report of an incarnation.
        sequence: u64,
        /// What happened.
        events: Vec<RecipientEvent>,
    },
    /// Forget the rejections of an address.
    BlacklistPardon {
        /// Domain as lowercase A-label, local part in NFC and case-folded.
        address: String,
    },
    /// Never list an address, or, with `None`, list it as any other.
    BlacklistExempt {
        /// As in `BlacklistPardon`.
        address: String,
        /// Why, and until when.
        exemption: Option<Exemption>,
    },
    /// List nothing new in a domain whose server refuses too much, or do so again.
    BlacklistFreeze {
        /// Lowercase A-label.
        domain: String,
        /// Whether nothing new is listed.
        frozen: bool,
    },
    /// A part of an import that is too large for one command. Nothing changes yet.
    DomainStage {
        /// The id of the request that will commit it, chosen by whoever imports. The same part may
        /// be staged again.
        import: u128,
        /// Counted from 0, without gaps.
        part: u32,
        /// The domains as they shall be.
        domains: Vec<Domain>,
    },
    /// The staged domains go in, all or none.
    DomainCommit {
        /// Which import.
        import: u128,
        /// How many parts it has.
        parts: u32,
    },
    /// All hosts speak this cluster version: the fleet runs it from now on. Never lowered.
    ClusterVersion {
        /// The version.
        to: u16,
    },
    /// About MX names.
    Name(NameCommand),
    /// About a host's service.
    HostService(HostCommand),
    /// Give a customer these names to put in its MX records.
    Assign {
        /// Which customer.
        customer: String,
        /// The names, in order.
        names: Vec<String>,
    },
    /// About migrations.
    Migration(MigrationCommand),
    /// About notices.
    Notice(NoticeCommand),
    /// Mail that one node took since it last reported.
    Traffic {
        /// The largest counts.
        counts: Vec<TrafficCount>,
    },
    /// What nodes learnt of recipients by the way. Taken as often as it comes.
    RecipientNews {
        /// All of it.
        news: Vec<RecipientNews>,
    },
    /// A part of a list of recipients. Nothing changes yet.
    RecipientsStage {
        /// Chosen by whoever uploads.
        upload: u128,
        /// Counted from 0, without gaps.
        part: u32,
        /// Local parts in NFC and case-folded; a `*` stands for anything.
        entries: Vec<String>,
    },
    /// The staged list is a domain's from now on: everybody else in it is unknown.
    RecipientsCommit {
        /// Which domain.
        domain: String,
        /// Which upload.
        upload: u128,
        /// How many parts it has.
        parts: u32,
    },
    /// A domain has no list of recipients any more.
    RecipientsRemove {
        /// Which domain.
        domain: String,
    },
    /// Whether mail for a domain leaves with a return path of ours.
    ReturnPathSet {
        /// Which domain.
        domain: String,
        /// Whether it does.
        tagged: bool,
    },
    /// The key that signs return paths from now on.
    ReturnKeyAdd {
        /// One more than the one before.
        number: u32,
        /// The key.
        secret: Secret,
    },
    /// About certificates of MX names.
    Certificate(CertificateCommand),
    /// About links to customers' own views.
    CustomerLink(LinkCommand),
}

impl Command {
    /// What it asks, for the audit trail; `None` for what nodes do by themselves.
    pub fn summary(&self) -> Option<String> {
        Some(match self {
            Self::CustomerAdd(customer) => {
                let (name, contacts) = (Some(&customer.name), Some(&customer.contacts));
                format!("customer add {}{}", customer.id, customer_options(name, contacts))
            }
            Self::CustomerSet { id, name, contacts } => {
                let options = customer_options(name.as_ref(), contacts.as_ref());
                format!("customer set {id}{options}")
            }
            Self::CustomerStatus { id, status: CustomerStatus::Active } => {
                format!("customer resume {id}")
            }
            Self::CustomerStatus { id, .. } => format!("customer suspend {id}"),
            Self::CustomerRemove { id } => format!("customer remove {id}"),
            Self::DomainAdd(domain) => format!(
                "domain add {} --customer {} --route {}",
                domain.name, domain.customer, domain.route
            ),
            Self::DomainSet { name, change } => format!("domain set {name}{change}"),
            Self::DomainRemove { name } => format!("domain remove {name}"),
            Self::DomainImport { domains } => format!("domain import of {}", domains.len()),
            Self::SettingSet { name, value: Some(value) } => format!("settings set {name} {value}"),
            Self::SettingSet { name, value: None } => format!("settings set {name} to its default"),
            Self::HostFound { host, .. } => format!("cluster init {}", host.name),
            Self::HostToken { name, .. } => format!("cluster token {name}"),
            Self::HostJoin { host, .. } => format!("cluster join {}", host.name),
            Self::HostPrefer { name, .. } => format!("cluster promote {name}"),
            Self::HostRemove { name, force: true } => format!("cluster remove {name} --force"),
            Self::HostRemove { name, .. } => format!("cluster remove {name}"),
            Self::BlacklistPardon { address } => format!("blacklist pardon {address}"),
            Self::BlacklistExempt { address, exemption: Some(exemption) } => {
                format!("blacklist exempt {address}: {}", exemption.reason)
            }
            Self::BlacklistExempt { address, .. } => format!("blacklist unexempt {address}"),
            Self::BlacklistFreeze { domain, frozen: true } => format!("blacklist freeze {domain}"),
            Self::BlacklistFreeze { domain, .. } => format!("blacklist thaw {domain}"),
            Self::DomainCommit { .. } => "domain import, all of it".to_owned(),
            Self::ClusterVersion { to } => format!("cluster version {to}"),
            Self::Name(command) => return command.summary(),
            Self::HostService(command) => return command.summary(),
            Self::Assign { customer, names } => {
                format!("customer set {customer} --names {}", names.join(","))
            }
            Self::Migration(command) => return command.summary(),
            Self::Notice(command) => command.summary(),
            Self::Certificate(command) => return command.summary(),
            Self::CustomerLink(command) => command.summary(),
            Self::RecipientsCommit { domain, .. } => format!("domain set {domain} --recipients"),
            Self::RecipientsRemove { domain } => format!("domain set {domain} --no-recipients"),
            Self::ReturnPathSet { domain, tagged: true } => {
                format!("domain set {domain} --return-path tagged")
            }
            Self::ReturnPathSet { domain, .. } => {
                format!("domain set {domain} --return-path plain")
            }
            Self::ReturnKeyAdd { .. }
            | Self::HostAnnounce { .. }
            | Self::Tick
            | Self::BlacklistReport { .. }
            | Self::DomainStage { .. }
            | Self::RecipientNews { .. }
            | Self::RecipientsStage { .. }
            | Self::Traffic { .. } => return None,
        })
    }
}

/// What is set of a customer, as options of a command line.
fn customer_options(name: Option<&String>, contacts: Option<&Vec<String>>) -> String {
    let name = name.map(|name| format!(" --name '{name}'"));
    let contacts = contacts.into_iter().flatten().map(|contact| format!(" --contact {contact}"));
    name.into_iter().chain(contacts).collect()
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

impl Request {
    /// A request that is done whatever the version of the row it names.
    pub fn new(id: u128, actor: impl Into<String>, at_ms: u64, command: Command) -> Self {
        Self { id, actor: actor.into(), at_ms, expected_version: None, command }
    }

    /// The same, to be done only if the row it names has this version.
    #[must_use]
    pub fn expecting(self, version: u64) -> Self {
        Self { expected_version: Some(version), ..self }
    }
}

impl Refusal {
    /// The same, no longer than somebody reads: it may repeat what was asked, and is remembered.
    pub(super) fn clipped(self) -> Self {
        let clipped = |text: String| clip(&text, REFUSAL_OCTETS_MAX).to_owned();
        match self {
            Self::NotFound(text) => Self::NotFound(clipped(text)),
            Self::Conflict(text) => Self::Conflict(clipped(text)),
            Self::Invalid(text) => Self::Invalid(clipped(text)),
        }
    }

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
