//! Calls about notices.

use mxfleet_cluster::{Command, Notice, NoticeCommand, NoticeStatus};

use super::super::call::Terms;
use super::call::{NoticeCall, NoticeRow, NoticeUpdateRow};
use super::{Answer, RotationAdmin, time};
use crate::system::clock::wall_ms;

impl RotationAdmin {
    pub(super) async fn notice(&self, call: NoticeCall, terms: &Terms) -> Answer {
        let command = match call {
            NoticeCall::List => {
                let rows: Vec<_> = self.view().notices().map(notice_row).collect();
                return Ok(serde_json::json!(rows));
            }
            NoticeCall::Open { title, text, component, starts_ms, ends_ms } => {
                NoticeCommand::Open { title, text, component, starts_ms, ends_ms }
            }
            NoticeCall::Update { id, text, starts_ms, ends_ms } => {
                NoticeCommand::Update { id, text, starts_ms, ends_ms }
            }
            NoticeCall::Resolve { id, text } => NoticeCommand::Resolve { id, text },
        };
        self.propose(Command::Notice(command), terms).await
    }
}

/// A notice as it is shown.
pub(in crate::http) fn notice_row(notice: &Notice) -> NoticeRow {
    let state = match notice.status(wall_ms()) {
        NoticeStatus::Planned => "planned",
        NoticeStatus::Open => "open",
        NoticeStatus::Resolved => "resolved",
    };
    let update = |update: &mxfleet_cluster::NoticeUpdate| NoticeUpdateRow {
        at: time(update.at_ms),
        text: update.text.clone(),
    };
    NoticeRow {
        id: notice.id,
        state: state.to_owned(),
        title: notice.title.clone(),
        text: notice.text.clone(),
        component: notice.component.clone(),
        starts: time(notice.starts_ms),
        ends: notice.ends_ms.map(time),
        resolved: notice.resolved_ms.map(time),
        updates: notice.updates.iter().map(update).collect(),
    }
}
