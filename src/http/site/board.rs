//! What there is to say about the service, judged from the replicated state. Pure.

use std::sync::Arc;

use mxfleet_cluster::{HostState, Member, NameStatus, Notice, NoticeStatus, State};
use serde::Serialize;

use super::when::ago;

/// What was agreed longer ago is said to be old.
pub(super) const STALE_MS: u64 = 60_000;
/// Notices of one kind that a page shows; the rest is in the history.
pub(super) const NOTICES_SHOWN_MAX: usize = 50;
/// How long a resolved notice stays on the first page.
const LATELY_MS: u64 = 14 * 86_400_000;
const LATELY_MAX: usize = 10;

/// What a node sees of the fleet at some time.
pub(super) struct Seen {
    /// The last applied state.
    pub(super) state: Arc<State>,
    /// Everybody in the fleet.
    pub(super) members: Vec<Member>,
    /// The name of the node that looks.
    pub(super) from: String,
    /// When a quorum last agreed with the state, in milliseconds; `None` is never since the start.
    pub(super) agreed_ms_ago: Option<u64>,
    /// When it looked: milliseconds since 1970, UTC.
    pub(super) now_ms: u64,
}

/// What there is to say about the service.
pub(super) struct Board {
    pub(super) seen: Seen,
    pub(super) title: String,
    pub(super) level: Level,
    /// How it is, in one sentence.
    pub(super) sentence: String,
    pub(super) servers: Vec<Server>,
}

/// How good it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Good,
    /// Work that was announced is going on.
    Planned,
    /// Some of it is not as it should be; mail still comes through.
    Reduced,
    /// Something is wrong.
    Issue,
}

/// A host of the fleet.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Server {
    pub(super) name: String,
    pub(super) level: Level,
    /// How it is, in a few words.
    pub(super) condition: &'static str,
    /// It does not answer the others.
    #[serde(skip)]
    is_away: bool,
    /// The MX names that point at it.
    pub(super) names: Vec<Name>,
}

/// An MX name as customers have it in their records.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Name {
    pub(super) name: String,
    /// What is special about it.
    pub(super) remark: Option<String>,
}

impl Board {
    pub(super) fn judge(seen: Seen) -> Self {
        let servers: Vec<Server> =
            seen.members.iter().filter_map(|member| server(&seen, member)).collect();
        let title = seen.state.settings().get("site.title").unwrap_or_default().to_owned();
        let mut board = Self { seen, title, level: Level::Good, sentence: String::new(), servers };
        (board.level, board.sentence) = board.overall();
        board
    }

    /// When a quorum last agreed, if that is so long ago that it must be said.
    pub(super) fn stale(&self) -> Option<String> {
        match self.seen.agreed_ms_ago {
            Some(ms) if ms < STALE_MS => None,
            Some(ms) => Some(format!("last agreed {}", ago(ms))),
            None => Some("last agreed before this server was started".to_owned()),
        }
    }

    /// Issues, and outages that are going on.
    pub(super) fn open(&self) -> impl Iterator<Item = &Notice> {
        self.with_status(NoticeStatus::Open).take(NOTICES_SHOWN_MAX)
    }

    /// Outages that are to come, the next one first.
    pub(super) fn planned(&self) -> Vec<&Notice> {
        let mut planned: Vec<_> = self.with_status(NoticeStatus::Planned).collect();
        planned.sort_by_key(|notice| (notice.starts_ms, notice.id));
        planned.truncate(NOTICES_SHOWN_MAX);
        planned
    }

    /// What is over since a short time.
    pub(super) fn lately(&self) -> impl Iterator<Item = &Notice> {
        let since_ms = self.seen.now_ms.saturating_sub(LATELY_MS);
        let resolved = self.with_status(NoticeStatus::Resolved);
        resolved.filter(move |notice| over_ms(notice) >= since_ms).take(LATELY_MAX)
    }

    pub(super) fn status(&self, notice: &Notice) -> NoticeStatus {
        notice.status(self.seen.now_ms)
    }

    fn with_status(&self, status: NoticeStatus) -> impl Iterator<Item = &Notice> {
        self.seen.state.notices().filter(move |notice| self.status(notice) == status)
    }

    fn overall(&self) -> (Level, String) {
        let mut open = self.open();
        if let Some(issue) = open.find(|notice| !notice.is_planned()) {
            return (Level::Issue, issue.title.clone());
        }
        if self.stale().is_some() {
            return (Level::Reduced, "This server is cut off from most of the others".to_owned());
        }
        let mut orphans = self.seen.state.orphaned_names(self.seen.now_ms);
        if let Some(row) = orphans.next() {
            return (Level::Reduced, format!("{} leads to a server that is gone", row.name));
        }
        let away: Vec<&str> = self.named(|server| server.is_away).collect();
        match away[..] {
            [] => {}
            [one] => return (Level::Reduced, format!("{one} does not answer")),
            _ => return (Level::Reduced, format!("{} servers do not answer", away.len())),
        }
        if self.named(|server| server.level == Level::Reduced).next().is_some() {
            let why = "Some servers have not been heard of just now";
            return (Level::Reduced, why.to_owned());
        }
        if let Some(outage) = self.open().next() {
            return (Level::Planned, outage.title.clone());
        }
        match self.named(|server| server.level == Level::Planned).next() {
            Some(one) if self.servers.len() == 1 => {
                (Level::Planned, format!("{one} is being emptied"))
            }
            Some(one) => (Level::Planned, format!("{one} is being emptied; the others take mail")),
            None => (Level::Good, "All servers take mail".to_owned()),
        }
    }

    fn named(&self, is_one: impl Fn(&Server) -> bool) -> impl Iterator<Item = &str> {
        self.servers.iter().filter(move |server| is_one(server)).map(|server| server.name.as_str())
    }
}

/// When it was over, of one that is.
pub(super) fn over_ms(notice: &Notice) -> u64 {
    notice.resolved_ms.or(notice.ends_ms).unwrap_or(notice.opened_ms)
}

/// A member that serves, or did until lately.
fn server(seen: &Seen, member: &Member) -> Option<Server> {
    let host = seen.state.host(member.id)?;
    let names: Vec<Name> = seen
        .state
        .names()
        .filter(|row| row.aim() == Some(host.id))
        .filter(|row| !matches!(row.status(), NameStatus::Planned | NameStatus::Removed))
        .map(|row| Name { name: row.name.clone(), remark: remark(seen, row) })
        .collect();
    let (level, condition) = match (&host.state, member.state) {
        (HostState::Retired { .. }, _) => return None,
        (_, "down") => (Level::Reduced, "Does not answer"),
        (_, "unknown") => (Level::Reduced, "Not known"),
        (HostState::Draining(_), _) => (Level::Planned, "Being emptied"),
        (HostState::InService, _) => (Level::Good, "Takes mail"),
    };
    let is_away = member.state == "down";
    let mut server = Server { name: host.name.clone(), level, condition, is_away, names };
    let about = |notice: &&Notice| {
        notice.status(seen.now_ms) == NoticeStatus::Open
            && notice.component.as_deref().is_some_and(|component| server.is_called(component))
    };
    let (mut planned, mut issue) = (false, false);
    for notice in seen.state.notices().filter(about) {
        *if notice.is_planned() { &mut planned } else { &mut issue } = true;
    }
    if issue {
        (server.level, server.condition) = (Level::Issue, "Has an issue");
    } else if planned {
        // It was announced that it may be away.
        (server.level, server.condition, server.is_away) = (Level::Planned, "Planned work", false);
    }
    Some(server)
}

impl Server {
    /// Whether a notice about this component is about this host, or a name on it.
    fn is_called(&self, component: &str) -> bool {
        let names = self.names.iter().map(|name| name.name.as_str());
        names.chain([self.name.as_str()]).any(|name| name.eq_ignore_ascii_case(component))
    }
}

fn remark(seen: &Seen, row: &mxfleet_cluster::MxName) -> Option<String> {
    use mxfleet_cluster::NameStage;
    match (row.stage, row.status()) {
        (NameStage::Retiring { at_ms }, _) => Some(format!("ends {}", super::when::moment(at_ms))),
        (_, NameStatus::Redirected) => {
            let home = seen.state.host(row.home).map(|host| host.name.as_str());
            Some(format!("usually on {}", home.unwrap_or("another server")))
        }
        _ => None,
    }
}
