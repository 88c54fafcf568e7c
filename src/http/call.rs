//! The words between the `mxfleet` command and a node: calls and what they answer.
//!
//! A call is one JSON object, posted to `/api/v1/admin/call` on the node's admin socket.

mod blacklist;

use serde::{Deserialize, Serialize};

pub use self::blacklist::*;
pub use super::rotation::call::*;
use crate::probe::Tool;

/// Path of the admin API on the admin socket.
pub const CALL_PATH: &str = "/api/v1/admin/call";
/// Largest body either side reads: a list of 100,000 domains fits.
pub const BODY_OCTETS_MAX: usize = 64 * 1024 * 1024;

/// What an operator can ask of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub enum Call {
    /// Add a customer.
    CustomerAdd {
        /// Its id.
        id: String,
        /// Its name; the id when absent.
        name: Option<String>,
        /// Its contact addresses.
        contacts: Vec<String>,
    },
    /// All customers.
    CustomerList,
    /// One customer.
    CustomerShow {
        /// Its id.
        id: String,
    },
    /// Change a customer.
    CustomerSet {
        /// Its id.
        id: String,
        /// A new name.
        name: Option<String>,
        /// New contacts, all of them.
        contacts: Option<Vec<String>>,
    },
    /// Turn mail for a customer's domains away for now.
    CustomerSuspend {
        /// Its id.
        id: String,
    },
    /// Take mail for a customer's domains again.
    CustomerResume {
        /// Its id.
        id: String,
    },
    /// Give a customer these MX names.
    CustomerNames {
        /// Its id.
        id: String,
        /// Its names, in order.
        names: Vec<String>,
    },
    /// Remove a customer without domains.
    CustomerRemove {
        /// Its id.
        id: String,
    },
    /// Add a domain.
    DomainAdd(DomainRow),
    /// All domains.
    DomainList,
    /// One domain.
    DomainShow {
        /// Its name.
        name: String,
    },
    /// Change a domain.
    DomainSet {
        /// Its name.
        name: String,
        /// A new owner.
        customer: Option<String>,
        /// A new route.
        route: Option<String>,
        /// A new TLS policy.
        tls: Option<String>,
        /// A new limit of connections; 0 goes back to the fleet's setting.
        connections_max: Option<u32>,
        /// What is to change in how its recipients are judged.
        #[serde(default)]
        recipients: RecipientTerms,
    },
    /// Name a domain's recipients: everybody else is unknown.
    DomainRecipients {
        /// The domain.
        name: String,
        /// Local parts, addresses and patterns; `None` lets everybody in again.
        entries: Option<Vec<String>>,
    },
    /// Remove a domain.
    DomainRemove {
        /// Its name.
        name: String,
    },
    /// Add many domains, or bring them to what is given; all or none.
    DomainImport {
        /// The domains as they shall be.
        domains: Vec<DomainRow>,
    },
    /// A part of an import; nothing changes yet.
    DomainStage {
        /// The id of the request that will commit it, in hexadecimal.
        import: String,
        /// Counted from 0.
        part: u32,
        /// The domains as they shall be.
        domains: Vec<DomainRow>,
    },
    /// The parts of an import go in, all or none.
    DomainCommit {
        /// As in `DomainStage`.
        import: String,
        /// How many parts there are.
        parts: u32,
    },
    /// All settings.
    SettingsList,
    /// One setting.
    SettingsGet {
        /// Its name.
        name: String,
    },
    /// Change a setting; without a value its default comes back.
    SettingsSet {
        /// Its name.
        name: String,
        /// Its new value.
        value: Option<String>,
    },
    /// What the queue holds, by destination.
    QueueSummary,
    /// Queued messages, oldest first.
    QueueList {
        /// Only this destination.
        domain: Option<String>,
        /// Only after this queue id.
        after: Option<String>,
        /// At most so many.
        limit: usize,
    },
    /// One message: envelope, recipients, last replies.
    QueueShow {
        /// Its queue id.
        id: String,
    },
    /// Try now.
    QueueRetry(Which),
    /// Try no more until released.
    QueueHold(Which),
    /// End a hold.
    QueueRelease(Which),
    /// Remove without a report.
    QueueDelete(Which),
    /// Give up, as if the customer's server had refused.
    QueueBounce(Which),
    /// How the fleet is, as this node sees it.
    ClusterStatus,
    /// A token that lets a host join.
    ClusterToken {
        /// The name of the host.
        name: String,
        /// How long it is good for, in milliseconds.
        life_ms: u64,
    },
    /// Remove a host for good.
    ClusterRemove {
        /// Its name.
        name: String,
        /// Even if it is not retired, as when it is lost.
        force: bool,
    },
    /// Let a host vote before others.
    ClusterPromote {
        /// Its name.
        name: String,
    },
    /// Who changed what, the newest first.
    ClusterAudit {
        /// At most so many.
        limit: usize,
    },
    /// Write the replicated state to a file on the node's host.
    ClusterBackup {
        /// An absolute path that does not exist yet.
        path: std::path::PathBuf,
    },
    /// Recipients that are refused now.
    BlacklistList {
        /// Only of this domain.
        domain: Option<String>,
        /// At most so many.
        limit: usize,
    },
    /// Recipients that are never listed.
    BlacklistExemptions {
        /// Only of this domain.
        domain: Option<String>,
        /// At most so many.
        limit: usize,
    },
    /// What is known of a recipient.
    BlacklistShow {
        /// The recipient.
        address: String,
    },
    /// Forget the rejections of a recipient.
    BlacklistPardon {
        /// The recipient.
        address: String,
    },
    /// Never list a recipient.
    BlacklistExempt {
        /// The recipient.
        address: String,
        /// Why, for people.
        reason: String,
        /// Until when, in milliseconds since 1970; `None` is for ever.
        until_ms: Option<u64>,
    },
    /// List a recipient as any other.
    BlacklistUnexempt {
        /// The recipient.
        address: String,
    },
    /// List nothing new in a domain until it is thawed, or do so again.
    BlacklistFreeze {
        /// The domain.
        domain: String,
        /// Whether nothing new is listed.
        frozen: bool,
    },
    /// How many are tracked, listed, exempt.
    BlacklistStats,
    /// What became of mail that was not delivered by this node.
    JournalSearch {
        /// Only of this sender; empty is the null reverse-path.
        from: Option<String>,
        /// Only to this recipient.
        to: Option<String>,
        /// At most so many, the newest.
        limit: usize,
    },
    /// What RCPT TO would be answered, and why.
    ExplainRcpt {
        /// RCPT TO.
        address: String,
        /// MAIL FROM; the null reverse-path when absent.
        from: Option<String>,
    },
    /// About hosts' service.
    Host(HostCall),
    /// About MX names.
    Name(NameCall),
    /// About migrations.
    Migration(MigrationCall),
    /// About notices.
    Notice(NoticeCall),
    /// Give mail for a domain return paths of ours, or leave them as they are.
    DomainReturnPath {
        /// The domain.
        name: String,
        /// `tagged` or `plain`.
        return_path: String,
    },
    /// A link to a customer's own view; the answer is a [`LinkRow`](super::account::LinkRow).
    CustomerLink {
        /// The customer's id.
        id: String,
    },
    /// Look at the servers of a customer's domain from every node; the answer is a list of
    /// [`ProbeRow`](super::probe::ProbeRow).
    Probe {
        /// How.
        tool: Tool,
        /// The domain.
        domain: String,
    },
}

/// The header that carries [`Terms::request_id`], in hexadecimal.
pub const REQUEST_ID_HEADER: &str = "x-request-id";
/// The header that carries [`Terms::expected_version`].
pub const EXPECTED_VERSION_HEADER: &str = "x-expected-version";
/// Header with the name of who asks, beside the one the system knows.
pub const ACTOR_HEADER: &str = "x-actor";

/// On which terms a change is made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Terms {
    /// Who asks, for the audit trail; a name that the asker gives itself, or none.
    pub actor: String,
    /// Chosen by who asks; the same id is done once, however often it is asked.
    pub request_id: Option<u128>,
    /// Only if the row was last changed at this version (0: is not there yet).
    pub expected_version: Option<u64>,
}

/// A token as it is printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    /// The host it is for.
    pub name: String,
    /// Whoever holds it can join under that name, once.
    pub token: String,
    /// How long it is good for, in seconds.
    pub life_seconds: u64,
}

/// Which messages a queue command is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// All of them.
    All,
    /// Those for one destination.
    Domain(String),
    /// One, by queue id.
    Id(String),
}

/// A customer as it is printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustomerRow {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `active` or `suspended`.
    pub status: String,
    /// Contact addresses.
    pub contacts: Vec<String>,
    /// The names to put in its MX records, in order.
    #[serde(default)]
    pub names: Vec<String>,
    /// When it was last changed, as a log index.
    #[serde(default)]
    pub version: u64,
}

/// A domain as it is typed and printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainRow {
    /// Its name.
    pub name: String,
    /// Who owns it.
    pub customer: String,
    /// `mx` or `host:port,...`.
    pub route: String,
    /// `opportunistic`, `require` or `pinned:NAME,...`.
    #[serde(default = "opportunistic")]
    pub tls: String,
    /// Limit of connections from one node; the fleet's setting when absent.
    #[serde(default)]
    pub connections_max: Option<u32>,
    /// `on`, or `off` when its rejections are not counted.
    #[serde(default = "on")]
    pub blacklist: String,
    /// Instead of the setting `blacklist.threshold`.
    #[serde(default)]
    pub blacklist_threshold: Option<u64>,
    /// Instead of the setting `blacklist.window`.
    #[serde(default)]
    pub blacklist_window: Option<String>,
    /// Instead of the setting `blacklist.hold`.
    #[serde(default)]
    pub blacklist_hold: Option<String>,
    /// `callout`, or `off` when its server is not asked about recipients.
    #[serde(default = "off")]
    pub verify: String,
    /// The recipients that were named, if any were; ignored where a domain is given.
    #[serde(default)]
    pub recipients: Option<RecipientListRow>,
    /// `plain`, or `tagged` when its mail leaves with return paths of ours; ignored where a domain
    /// is given.
    #[serde(default = "plain")]
    pub return_path: String,
    /// When it was last changed, as a log index; ignored where a domain is given.
    #[serde(default)]
    pub version: u64,
}

impl DomainRow {
    /// A domain with all defaults.
    pub fn new(name: String, customer: String, route: String) -> Self {
        Self {
            name,
            customer,
            route,
            tls: opportunistic(),
            connections_max: None,
            blacklist: on(),
            blacklist_threshold: None,
            blacklist_window: None,
            blacklist_hold: None,
            verify: off(),
            return_path: plain(),
            recipients: None,
            version: 0,
        }
    }
}

/// How many recipients were named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientListRow {
    /// Exact ones.
    pub addresses: usize,
    /// Patterns.
    pub patterns: usize,
    /// When the list was uploaded, as a log index.
    pub version: u64,
}

fn plain() -> String {
    "plain".to_owned()
}

fn opportunistic() -> String {
    "opportunistic".to_owned()
}

fn on() -> String {
    "on".to_owned()
}

fn off() -> String {
    "off".to_owned()
}

/// How a domain's recipients are judged, as it is typed; what is absent stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RecipientTerms {
    /// `on` or `off`.
    pub blacklist: Option<String>,
    /// 0 goes back to the fleet's setting.
    pub blacklist_threshold: Option<u64>,
    /// `0s` goes back to the fleet's setting.
    pub blacklist_window: Option<String>,
    /// `0s` goes back to the fleet's setting.
    pub blacklist_hold: Option<String>,
    /// `callout` or `off`.
    pub verify: Option<String>,
}

/// A setting as it is printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingRow {
    /// Its name.
    pub name: String,
    /// The value in force.
    pub value: String,
    /// Its default.
    pub default: String,
    /// What it does.
    pub about: String,
    /// What breaks when it is too low or too high.
    pub caution: String,
    /// When it was last changed, as a log index; 0 is never.
    #[serde(default)]
    pub version: u64,
}

/// What a change did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Rows or messages that changed.
    pub changed: u64,
}

/// What a change of queued messages did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct QueueChanged {
    /// Messages that changed.
    pub changed: u64,
    /// That were so before, or stay held.
    pub as_before: u64,
    /// That cannot be changed at this moment, because they are on their way.
    pub busy: u64,
}

impl QueueChanged {
    /// Count one more message.
    pub fn count(&mut self, has_changed: bool) {
        match has_changed {
            true => self.changed += 1,
            false => self.as_before += 1,
        }
    }
}

/// What RCPT TO would be answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Whether the recipient would be accepted.
    pub accepted: bool,
    /// The check that decides.
    pub check: String,
    /// The reply as a client would see it.
    pub reply: String,
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{error}")]
pub struct Refused {
    /// In plain words.
    pub error: String,
    /// For programs.
    pub kind: RefusedKind,
}

/// Why a call has no answer, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedKind {
    /// What it names does not exist.
    NotFound,
    /// It contradicts what is there.
    Conflict,
    /// A value is not valid.
    Invalid,
    /// The node cannot do it now.
    Unavailable,
}

impl Refused {
    /// A value is not valid.
    pub fn invalid(error: impl Into<String>) -> Self {
        Self { error: error.into(), kind: RefusedKind::Invalid }
    }

    /// What it names does not exist.
    pub fn not_found(error: impl Into<String>) -> Self {
        Self { error: error.into(), kind: RefusedKind::NotFound }
    }

    /// The node cannot do it now.
    pub fn unavailable(error: impl Into<String>) -> Self {
        Self { error: error.into(), kind: RefusedKind::Unavailable }
    }
}
