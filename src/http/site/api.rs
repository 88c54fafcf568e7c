//! The same as the first page for programs.

use mxfleet_cluster::Notice;
use serde::Serialize;

use super::board::{Board, Level, Server};
use super::when::rfc3339;
use crate::http::rotation::call::NoticeRow;
use crate::http::rotation::notice_row;

/// The newest updates of a notice.
const UPDATES_MAX: usize = 10;

#[derive(Serialize)]
struct Status<'a> {
    service: &'a str,
    status: Level,
    summary: &'a str,
    seen_from: &'a str,
    at: String,
    /// When a quorum last agreed with this; null is never since the host was started.
    agreed_seconds_ago: Option<u64>,
    servers: &'a [Server],
    open: Vec<NoticeRow>,
    planned: Vec<NoticeRow>,
    lately: Vec<NoticeRow>,
}

pub(super) fn render(board: &Board) -> String {
    let status = Status {
        service: &board.title,
        status: board.level,
        summary: &board.sentence,
        seen_from: &board.seen.from,
        at: rfc3339(board.seen.now_ms),
        agreed_seconds_ago: board.seen.agreed_ms_ago.map(|ms| ms / 1000),
        servers: &board.servers,
        open: board.open().map(row).collect(),
        planned: board.planned().into_iter().map(row).collect(),
        lately: board.lately().map(row).collect(),
    };
    serde_json::json!(status).to_string()
}

fn row(notice: &Notice) -> NoticeRow {
    let mut row = notice_row(notice);
    row.updates.drain(..row.updates.len().saturating_sub(UPDATES_MAX));
    row
}
