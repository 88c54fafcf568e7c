//! Whether a host serves: takes mail, is being emptied, or is out.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::names::Pointing;

/// Whether a host serves.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum HostState {
    /// It takes mail.
    #[default]
    InService,
    /// It is being emptied.
    Draining(Drain),
    /// It takes no mail, votes no more, and may be switched off.
    Retired {
        /// Since when: milliseconds since 1970, UTC.
        at_ms: u64,
        /// The names it had when it was drained.
        moved: Vec<MovedName>,
        /// Whether others had taken its queue: nothing was lost with it.
        empty: bool,
    },
}

impl HostState {
    /// Whether the host shall follow the others, and not vote: it is empty, or out of service.
    pub fn stands_down(&self) -> bool {
        match self {
            Self::InService => false,
            Self::Draining(drain) => drain.mail_left == Some(0),
            Self::Retired { .. } => true,
        }
    }
}

/// How far a host is emptied: names first, then its queue, then its vote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Since when: milliseconds since 1970, UTC.
    pub since_ms: u64,
    /// When it is to be empty; if it is not, people are told.
    pub deadline_ms: Option<u64>,
    /// The names it had; they come back if the host does.
    pub moved: Vec<MovedName>,
    /// Messages in its queue when it was first counted.
    pub mail_first: Option<u64>,
    /// Messages in its queue when it was last counted.
    pub mail_left: Option<u64>,
}

impl Drain {
    /// Whether the host should be empty and retired by `now_ms`.
    pub fn is_late(&self, now_ms: u64) -> bool {
        self.deadline_ms.is_some_and(|by| now_ms > by)
    }
}

/// A name that a host had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedName {
    /// Which.
    pub name: String,
    /// Whether it pointed at the host, or was to at once; otherwise it was to at a date.
    pub was_here: bool,
    /// What was to come of it.
    pub before: Option<Pointing>,
    /// The id of its home.
    pub home: u64,
    /// The id of the host it went to.
    pub to: u64,
}

/// What can be done with a host's service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostCommand {
    /// Say where mail reaches it.
    Set {
        /// Which.
        name: String,
        /// All of its addresses.
        addresses: Vec<IpAddr>,
    },
    /// Empty it: its names go to other hosts, then its queue.
    Drain {
        /// Which.
        name: String,
        /// When it is to be empty.
        deadline_ms: Option<u64>,
        /// For each of its names, the host that takes it.
        moves: Vec<(String, String)>,
    },
    /// Take it into service again, with the names it had.
    Resume {
        /// Which.
        name: String,
    },
    /// A draining host counts its queue.
    MailLeft {
        /// Its id.
        id: u64,
        /// Messages.
        messages: u64,
    },
    /// It is out.
    Retire {
        /// Which.
        name: String,
        /// Even if it has names or mail, which is then lost.
        force: bool,
        /// For each of its names, the host that takes it; with `force` only.
        moves: Vec<(String, String)>,
    },
}

impl HostCommand {
    pub(super) fn summary(&self) -> Option<String> {
        Some(match self {
            Self::Set { name, addresses } => {
                let addresses = addresses.iter().map(|address| format!(" --address {address}"));
                format!("host set {name}{}", addresses.collect::<String>())
            }
            Self::Drain { name, .. } => format!("host drain {name}"),
            Self::Resume { name } => format!("host resume {name}"),
            Self::Retire { name, force: true, .. } => format!("host retire {name} --force"),
            Self::Retire { name, .. } => format!("host retire {name}"),
            Self::MailLeft { .. } => return None,
        })
    }
}
