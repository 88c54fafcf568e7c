//! Notices on the status page: issues, and outages that are planned.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Outcome, Refusal};

const TITLE_OCTETS_MAX: usize = 200;
pub(super) const TEXT_OCTETS_MAX: usize = 10_000;
const COMPONENT_OCTETS_MAX: usize = 100;
const UPDATES_MAX: usize = 200;
/// The oldest resolved ones go when there are more.
const NOTICES_MAX: usize = 500;

/// An issue, or an outage that is planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Counted from 1.
    pub id: u64,
    /// In one line.
    pub title: String,
    /// What it is about; plain text of several lines.
    pub text: String,
    /// The part of the service it is about, for example a host's or a name's.
    pub component: Option<String>,
    /// When it starts: milliseconds since 1970, UTC. An issue starts when it is opened.
    pub starts_ms: u64,
    /// When it is expected to end, if that is known.
    pub ends_ms: Option<u64>,
    /// When it was opened.
    pub opened_ms: u64,
    /// It tells what was decided, and no trouble: that a migration is under way.
    pub is_decided: bool,
    /// When it was resolved.
    pub resolved_ms: Option<u64>,
    /// What was added since, the oldest first.
    pub updates: Vec<NoticeUpdate>,
}

/// Something added to a notice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticeUpdate {
    /// When: milliseconds since 1970, UTC.
    pub at_ms: u64,
    /// What; plain text.
    pub text: String,
}

/// How a notice is at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NoticeStatus {
    /// It starts later.
    Planned,
    /// It is going on.
    Open,
    /// It is over.
    Resolved,
}

/// What can be done with notices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoticeCommand {
    /// Open one; the outcome is its id.
    Open {
        /// In one line.
        title: String,
        /// Plain text.
        text: String,
        /// The part of the service it is about.
        component: Option<String>,
        /// When it starts; now when absent.
        starts_ms: Option<u64>,
        /// When it is expected to end.
        ends_ms: Option<u64>,
    },
    /// Add to one, or change its times.
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

impl NoticeCommand {
    pub(super) fn summary(&self) -> String {
        match self {
            Self::Open { title, .. } => format!("notice open {title}"),
            Self::Update { id, .. } => format!("notice update {id}"),
            Self::Resolve { id, .. } => format!("notice resolve {id}"),
        }
    }
}

impl Notice {
    /// Whether it is no trouble that nobody foresaw.
    pub fn is_planned(&self) -> bool {
        self.is_decided || self.starts_ms > self.opened_ms
    }

    /// How it is at `now_ms`. A planned outage begins and ends by its times; an issue without an
    /// end is over when somebody says so.
    pub fn status(&self, now_ms: u64) -> NoticeStatus {
        if self.resolved_ms.is_some() || self.ends_ms.is_some_and(|ends_ms| ends_ms <= now_ms) {
            NoticeStatus::Resolved
        } else if self.starts_ms > now_ms {
            NoticeStatus::Planned
        } else {
            NoticeStatus::Open
        }
    }
}

/// The table of notices.
#[derive(Debug, Clone, Default)]
pub(super) struct Notices {
    rows: Arc<BTreeMap<u64, Arc<Notice>>>,
    last_id: u64,
}

impl Notices {
    pub(super) fn get(&self, id: u64) -> Option<&Notice> {
        self.rows.get(&id).map(Arc::as_ref)
    }

    /// From the newest to the oldest.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Notice> {
        self.rows.values().rev().map(Arc::as_ref)
    }

    pub(super) fn apply(&mut self, command: &NoticeCommand, now_ms: u64) -> Outcome {
        match command.clone() {
            NoticeCommand::Open { title, text, component, starts_ms, ends_ms } => {
                let mut notice = self.new(title, text, component, now_ms);
                notice.starts_ms = starts_ms.unwrap_or(now_ms);
                notice.ends_ms = ends_ms;
                self.open(notice, now_ms)
            }
            NoticeCommand::Update { id, text, starts_ms, ends_ms } => {
                let mut notice = self.unresolved(id, now_ms)?.clone();
                notice.starts_ms = starts_ms.unwrap_or(notice.starts_ms);
                notice.ends_ms = ends_ms.or(notice.ends_ms);
                notice.updates.push(NoticeUpdate { at_ms: now_ms, text });
                check(&notice, now_ms)?;
                self.put(notice)
            }
            NoticeCommand::Resolve { id, text } => {
                let mut notice = self.unresolved(id, now_ms)?.clone();
                notice.updates.extend(text.map(|text| NoticeUpdate { at_ms: now_ms, text }));
                check(&notice, 0)?;
                notice.resolved_ms = Some(now_ms);
                self.put(notice)
            }
        }
    }

    /// Tell customers what was decided; the outcome is the notice's id.
    pub(super) fn tell(&mut self, title: &str, text: &str, about: &str, now_ms: u64) -> Outcome {
        let (title, text) = (title.to_owned(), text.to_owned());
        let mut notice = self.new(title, text, Some(about.to_owned()), now_ms);
        notice.is_decided = true;
        self.open(notice, now_ms)
    }

    fn new(&self, title: String, text: String, component: Option<String>, now_ms: u64) -> Notice {
        Notice {
            id: self.last_id + 1,
            title,
            text,
            component,
            starts_ms: now_ms,
            ends_ms: None,
            opened_ms: now_ms,
            is_decided: false,
            resolved_ms: None,
            updates: Vec::new(),
        }
    }

    fn open(&mut self, notice: Notice, now_ms: u64) -> Outcome {
        check(&notice, now_ms)?;
        if self.rows.len() >= NOTICES_MAX {
            let over = self.rows.values().find(|n| n.status(now_ms) == NoticeStatus::Resolved);
            let Some(oldest) = over.map(|notice| notice.id) else {
                return Err(Refusal::conflict("500 notices are open; resolve some first"));
            };
            Arc::make_mut(&mut self.rows).remove(&oldest);
        }
        self.last_id = notice.id;
        self.put(notice)?;
        Ok(self.last_id)
    }

    fn unresolved(&self, id: u64, now_ms: u64) -> Result<&Notice, Refusal> {
        let notice = self.get(id);
        let notice =
            notice.ok_or_else(|| Refusal::not_found(format!("there is no notice {id}")))?;
        if notice.status(now_ms) == NoticeStatus::Resolved {
            return Err(Refusal::conflict(format!("notice {id} is resolved; open a new one")));
        }
        Ok(notice)
    }

    fn put(&mut self, notice: Notice) -> Outcome {
        Arc::make_mut(&mut self.rows).insert(notice.id, Arc::new(notice));
        Ok(1)
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = Notice> {
        self.rows.values().map(|notice| Notice::clone(notice))
    }

    pub(super) fn last_id(&self) -> u64 {
        self.last_id
    }

    pub(super) fn absorb(&mut self, rows: Vec<Notice>, last_id: u64) {
        self.last_id = last_id;
        let table = Arc::make_mut(&mut self.rows);
        table.extend(rows.into_iter().map(|notice| (notice.id, Arc::new(notice))));
    }
}

/// Whether all of it is plain and fits. Times that are over at `now_ms` are refused.
fn check(notice: &Notice, now_ms: u64) -> Result<(), Refusal> {
    let one_line = |text: &str, max: usize| {
        (1..=max).contains(&text.trim().len()) && !text.chars().any(char::is_control)
    };
    if !one_line(&notice.title, TITLE_OCTETS_MAX) {
        return Err(Refusal::invalid("a title is one line of 1 to 200 octets of plain text"));
    }
    if notice.component.as_ref().is_some_and(|c| !one_line(c, COMPONENT_OCTETS_MAX)) {
        return Err(Refusal::invalid("a component is one line of at most 100 octets"));
    }
    let last = notice.updates.last().map(|update| &update.text);
    for text in std::iter::once(&notice.text).chain(last) {
        let plain = !text.chars().any(|c| c.is_control() && c != '\n');
        if !plain || text.len() > TEXT_OCTETS_MAX {
            return Err(Refusal::invalid("a text is at most 10,000 octets of plain text"));
        }
    }
    if notice.updates.len() > UPDATES_MAX {
        return Err(Refusal::conflict("the notice has 200 updates; open a new one"));
    }
    if notice.ends_ms.is_some_and(|ends_ms| ends_ms <= notice.starts_ms) {
        return Err(Refusal::invalid("it would end before it starts"));
    }
    if notice.ends_ms.is_some_and(|ends_ms| ends_ms <= now_ms) {
        return Err(Refusal::invalid("its end is in the past"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(starts_ms: Option<u64>, ends_ms: Option<u64>) -> NoticeCommand {
        let (title, text) = ("mx1 is moved".to_owned(), "Mail is late.\nSorry.".to_owned());
        NoticeCommand::Open { title, text, component: Some("mx1".to_owned()), starts_ms, ends_ms }
    }

    #[test]
    fn a_planned_outage_begins_and_ends_by_its_times() {
        let mut notices = Notices::default();
        assert_eq!(notices.apply(&open(Some(100), Some(200)), 10), Ok(1));
        let at = |now| notices.get(1).unwrap().status(now);
        assert_eq!(
            [99, 100, 199, 200].map(at),
            [NoticeStatus::Planned, NoticeStatus::Open, NoticeStatus::Open, NoticeStatus::Resolved]
        );
    }

    #[test]
    fn an_issue_is_open_until_it_is_resolved_and_keeps_its_history() {
        let mut notices = Notices::default();
        let id = notices.apply(&open(None, None), 10).unwrap();
        let text = "found it".to_owned();
        let update = NoticeCommand::Update { id, text, starts_ms: None, ends_ms: None };
        assert_eq!(notices.apply(&update, 20), Ok(1));
        let resolve = NoticeCommand::Resolve { id, text: Some("fixed".to_owned()) };
        assert_eq!(notices.apply(&resolve, 30), Ok(1));
        assert!(notices.apply(&update, 40).is_err());
        let texts: Vec<_> = notices.get(id).unwrap().updates.iter().map(|u| &u.text).collect();
        assert_eq!(texts, ["found it", "fixed"]);
    }

    #[test]
    fn bad_times_and_control_characters_are_refused() {
        let mut notices = Notices::default();
        assert!(notices.apply(&open(Some(100), Some(100)), 10).is_err());
        assert!(notices.apply(&open(Some(5), Some(9)), 10).is_err());
        let NoticeCommand::Open { text, component, .. } = open(None, None) else { panic!() };
        let title = "a\r\nb".to_owned();
        let (starts_ms, ends_ms) = (None, None);
        let bad = NoticeCommand::Open { title, text, component, starts_ms, ends_ms };
        assert!(notices.apply(&bad, 10).is_err());
        assert_eq!(notices.iter().count(), 0);
    }

    #[test]
    fn the_oldest_resolved_one_makes_room() {
        let mut notices = Notices::default();
        for n in 0..NOTICES_MAX as u64 {
            notices.apply(&open(None, Some(1000 + n)), 10).unwrap();
        }
        assert!(notices.apply(&open(None, None), 11).is_err());
        assert!(notices.apply(&open(None, None), 1001).is_ok());
        assert!(notices.get(1).is_none() && notices.get(2).is_some());
    }
}
