//! What was: all notices by month, and each on a page of its own.

use maud::{Markup, html};
use mxfleet_cluster::{Notice, NoticeStatus};

use super::board::Board;
use super::home::{facts, past, updates};
use super::layout::{Page, paragraphs};
use super::when::month;

/// Notices on one page.
const PAGE: usize = 50;

/// Notices with a smaller number than `before`, the newest first.
pub(super) fn render(board: &Board, before: Option<u64>) -> Markup {
    let older = board.seen.state.notices().filter(|notice| before.is_none_or(|id| notice.id < id));
    let rows: Vec<&Notice> = older.take(PAGE + 1).collect();
    let (shown, rest) = rows.split_at(rows.len().min(PAGE));
    let months = shown.chunk_by(|a, b| month(a.opened_ms) == month(b.opened_ms));
    let content = html! {
        h1 { "History" }
        @if shown.is_empty() { p .aside { "There has been no notice yet." } }
        @for rows in months {
            section {
                h2 { (month(rows[0].opened_ms)) }
                ul .past { @for notice in rows { (row(board, notice)) } }
            }
        }
        @if let (Some(last), Some(_)) = (shown.last(), rest.first()) {
            p { a href={ "/history?before=" (last.id) } rel="next" { "Older" } }
        }
    };
    Page { service: &board.title, title: "History", place: "/history" }.around(&content)
}

fn row(board: &Board, notice: &Notice) -> Markup {
    if board.status(notice) == NoticeStatus::Resolved {
        return past(notice);
    }
    html! {
        li {
            a href={ "/notice/" (notice.id) } { (notice.title) }
            (facts(board, notice))
        }
    }
}

/// All of one notice.
pub(super) fn notice(board: &Board, notice: &Notice) -> Markup {
    let content = html! {
        article {
            h1 { (notice.title) }
            (facts(board, notice))
            (paragraphs(&notice.text))
            @if !notice.updates.is_empty() { h2 { "What was said since" } }
            (updates(notice, usize::MAX))
        }
        p { a href="/history" { "All notices" } }
    };
    let page = Page { service: &board.title, title: &notice.title, place: "" };
    page.around(&content)
}
