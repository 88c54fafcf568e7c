//! The words of calls about names, hosts, migrations and notices.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// About a host's service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum HostCall {
    /// All hosts.
    List,
    /// One host.
    Show {
        /// Its name.
        name: String,
    },
    /// Say where mail reaches it.
    Set {
        /// Its name.
        name: String,
        /// All of its addresses.
        addresses: Vec<IpAddr>,
    },
    /// Empty it.
    Drain {
        /// Its name.
        name: String,
        /// When it is to be empty.
        deadline_ms: Option<u64>,
    },
    /// Take it into service again.
    Resume {
        /// Its name.
        name: String,
    },
    /// It is out.
    Retire {
        /// Its name.
        name: String,
        /// Even if it has names or mail.
        force: bool,
    },
}

/// About MX names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum NameCall {
    /// All names.
    List,
    /// One name.
    Show {
        /// Which.
        name: String,
    },
    /// Add one.
    Add {
        /// Which.
        name: String,
        /// Its home.
        host: String,
        /// Not before this time.
        from_ms: Option<u64>,
        /// DNS says so already; somebody made sure.
        published: bool,
    },
    /// Point one at a host.
    Point {
        /// Which.
        name: String,
        /// The host.
        host: String,
        /// Not before this time.
        from_ms: Option<u64>,
        /// Whether the host becomes its home.
        home: bool,
        /// DNS says so already; somebody made sure.
        published: bool,
    },
    /// Take back a change of where one points.
    Stay {
        /// Which.
        name: String,
    },
    /// Give one an end.
    Retire {
        /// Which.
        name: String,
        /// When.
        at_ms: u64,
    },
    /// Take an end back.
    Keep {
        /// Which.
        name: String,
    },
    /// Take one out of DNS for good.
    Remove {
        /// Which.
        name: String,
        /// Even before its end, and if customers still use it.
        force: bool,
        /// DNS says so already; somebody made sure.
        published: bool,
    },
    /// The records of all names, as a zone file.
    Zone,
    /// Certificates of names.
    CertList,
    /// Add a certificate, or replace the one called by the same name.
    CertAdd {
        /// The chain, leaf first, as PEM.
        chain_pem: String,
        /// Its key, as PEM.
        key_pem: KeyPem,
        /// DNS says its key already; somebody made sure.
        published: bool,
    },
    /// Remove a certificate, or take back the one that waits to replace it.
    CertRemove {
        /// The name it is called by.
        name: String,
        /// DNS has no TLSA records of its names any more; somebody made sure.
        published: bool,
    },
    /// Move names so that hosts have equal loads.
    Rebalance {
        /// Only show what would be done.
        dry_run: bool,
    },
}

/// A private key on its way to a node; never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyPem(pub String);

impl std::fmt::Debug for KeyPem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(a key)")
    }
}

/// About migrations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum MigrationCall {
    /// Plan one.
    Plan {
        /// Names that end.
        retire: Vec<String>,
        /// Names that begin, with their hosts.
        introduce: Vec<(String, String)>,
        /// When names end.
        ends_ms: u64,
        /// Why, in the operator's words.
        text: String,
    },
    /// Tell customers, and let the names have their dates.
    Announce,
    /// How the newest one is.
    Status,
    /// Write again to those who have not moved.
    Remind,
    /// The old names end.
    Finish {
        /// Even if customers still use them.
        force: bool,
    },
    /// Everything goes back to how it was.
    Cancel,
}

/// About notices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum NoticeCall {
    /// All notices.
    List,
    /// Open one.
    Open {
        /// In one line.
        title: String,
        /// Plain text.
        text: String,
        /// The part of the service it is about.
        component: Option<String>,
        /// When it starts.
        starts_ms: Option<u64>,
        /// When it is expected to end.
        ends_ms: Option<u64>,
    },
    /// Add to one.
    Update {
        /// Which.
        id: u64,
        /// What is new.
        text: String,
        /// A new start.
        starts_ms: Option<u64>,
        /// A new end.
        ends_ms: Option<u64>,
    },
    /// It is over.
    Resolve {
        /// Which.
        id: u64,
        /// What is to be said at the end.
        text: Option<String>,
    },
}

/// A host as it is printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRow {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: u64,
    /// `in service`, `draining` or `retired`.
    pub state: String,
    /// Whether it answers: `up`, `down`, or `unknown` where only a leader would know.
    pub answers: String,
    /// Where mail reaches it.
    pub addresses: Vec<IpAddr>,
    /// Names that lead to it, or will.
    pub names: Vec<String>,
    /// Names that led to it: resolvers may not have forgotten that yet.
    pub former_names: Vec<String>,
    /// Its part of all mail as it comes now: messages a day of the customers of its names, three
    /// parts for a customer's first name and one for each other; one message for who gets none.
    pub load: u64,
    /// The version of the program it runs.
    pub version: String,
    /// Since when it is retired, if so.
    pub retired: Option<String>,
    /// Whether it was retired with nothing in its queue.
    pub retired_empty: bool,
    /// How its drain goes.
    pub drain: Option<DrainRow>,
    /// What its vote waits for, in words, if it is to vote no more and still does: the fleet needs
    /// it until then, so it must not be switched off.
    pub vote_waits_for: Option<String>,
}

/// How the drain of a host goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainRow {
    /// `names`, `mail` or `votes`.
    pub step: String,
    /// What it waits for, in words.
    pub waits_for: String,
    /// Since when.
    pub since: String,
    /// When it is to be empty.
    pub deadline: Option<String>,
    /// Whether that has passed.
    pub late: bool,
    /// Messages in its queue when it was first counted.
    pub mail_first: Option<u64>,
    /// Messages in its queue when it was last counted.
    pub mail_left: Option<u64>,
}

/// A name as it is printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRow {
    /// The name.
    pub name: String,
    /// `planned`, `active`, `redirected`, `retiring` or `removed`.
    pub state: String,
    /// The host it belongs to.
    pub home: String,
    /// The host DNS says.
    pub points_at: Option<String>,
    /// Whether that host is known not to answer.
    pub is_down: bool,
    /// Where it will point, when that differs.
    pub moves_to: Option<String>,
    /// Not before this time.
    pub moves_from: Option<String>,
    /// What it waits for, in words.
    pub waits_for: Option<String>,
    /// Why DNS is not as wanted, if so: about this name, or about all.
    pub dns_fault: Option<String>,
    /// When the certificate for it ends that lasts longest; none if there is none.
    pub certificate_ends: Option<String>,
    /// Why the ACME server gives it none, if so.
    pub certificate_fault: Option<String>,
    /// What a certificate for it with another key waits for, if there is one.
    pub certificate_waits_for: Option<String>,
    /// When it ends or ended.
    pub ends: Option<String>,
    /// How many customers are to have it, or are not seen to have left it for another.
    pub customers: u64,
    /// How many of them have another of their names where it leads, or will.
    pub customers_on_one_host: u64,
    /// The time to live DNS was last seen to give, in seconds.
    pub ttl_seconds: u32,
}

/// A certificate as it is printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertRow {
    /// The names it is for; the first is what it is called by.
    pub names: Vec<String>,
    /// When it ends.
    pub ends: String,
    /// What it waits for, in words, if it is not shown yet.
    pub waits_for: Option<String>,
}

/// A certificate was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertAdded {
    /// How many.
    pub changed: u64,
    /// What it waits for, in words, if it is not shown yet.
    pub waits_for: Option<String>,
}

/// Loads and moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebalanceRow {
    /// Whether the moves were begun.
    pub done: bool,
    /// Names that move.
    pub moves: Vec<MoveRow>,
    /// What each host has.
    pub loads: Vec<LoadRow>,
    /// Customers that had too few names and have more now, or will.
    pub customers: u64,
}

/// A name that moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveRow {
    /// Which.
    pub name: String,
    /// The host it is on.
    pub from: Option<String>,
    /// The host it goes to.
    pub to: String,
}

/// What a host has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadRow {
    /// The host.
    pub host: String,
    /// Before.
    pub before: u64,
    /// After.
    pub after: u64,
}

/// A migration as it is printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationRow {
    /// Its number.
    pub id: u64,
    /// `planned`, `announced`, `finished` or `cancelled`.
    pub state: String,
    /// Names that end.
    pub retire: Vec<String>,
    /// Names that begin.
    pub introduce: Vec<String>,
    /// When names end.
    pub ends: String,
    /// Why, in the operator's words.
    pub text: String,
    /// Its notice on the status page.
    pub notice: Option<u64>,
    /// How many times customers were written to.
    pub rounds: u32,
    /// What letters to customers wait for, if they do.
    pub waits_for: Option<String>,
    /// What each host has.
    pub loads: Vec<LoadRow>,
    /// Names that `name rebalance` would move after a plan as this one, for hosts to have equal
    /// loads; none if they have, or once it is announced.
    pub rebalance: Vec<MoveRow>,
    /// Every customer's part.
    pub customers: Vec<StepRow>,
}

/// What the end of a migration leaves behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishRow {
    /// Rows that changed.
    pub changed: u64,
    /// Suspended customers that lose mail once they are resumed.
    pub left_out: Vec<String>,
}

/// A customer's part in a migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRow {
    /// The customer.
    pub customer: String,
    /// Its names before.
    pub before: Vec<String>,
    /// Its names after.
    pub after: Vec<String>,
    /// `not yet`, `sending`, `accepted`, `bounced`, `no contact`; `-` if nothing is to be told.
    pub told: String,
    /// What the server said when it bounced.
    pub why_not_told: Option<String>,
    /// What its MX records were last seen to have: `old` names, `moved` to names that stay,
    /// `elsewhere` (no name of ours), or `unknown`.
    pub records: String,
    /// Whether it would lose mail if the old names ended now, and so holds their end up.
    pub would_break: bool,
    /// Why; of a suspended customer, why it would lose mail once it is resumed.
    pub why: Option<String>,
    /// Whether it is suspended: it gets no letter and holds nothing up.
    pub suspended: bool,
}

/// A notice as it is printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticeRow {
    /// Its number.
    pub id: u64,
    /// `planned`, `open` or `resolved`.
    pub state: String,
    /// In one line.
    pub title: String,
    /// Plain text.
    pub text: String,
    /// The part of the service it is about.
    pub component: Option<String>,
    /// When it starts or started.
    pub starts: String,
    /// When it is expected to end.
    pub ends: Option<String>,
    /// When it was resolved.
    pub resolved: Option<String>,
    /// What was added since.
    pub updates: Vec<NoticeUpdateRow>,
}

/// Something added to a notice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticeUpdateRow {
    /// When.
    pub at: String,
    /// What.
    pub text: String,
}
