//! The first page: how it is now, what is planned, the servers, and what is lately over.

use maud::{Markup, html};
use mxfleet_cluster::{Notice, NoticeStatus};

use super::board::{Board, Level, Server, over_ms};
use super::layout::{Page, class, mark, paragraphs, time};
use super::when::{ago, ahead, length, rfc3339, span};

/// The newest updates that are shown with a notice; its own page has all.
const UPDATES_SHOWN_MAX: usize = 3;

pub(super) fn render(board: &Board) -> Markup {
    let planned = board.planned();
    let content = html! {
        (banner(board))
        @if board.open().next().is_some() {
            section aria-labelledby="now" {
                h2 #now { "Now" }
                @for notice in board.open() { (card(board, notice)) }
            }
        }
        @if !planned.is_empty() {
            section aria-labelledby="planned" {
                h2 #planned { "Planned" }
                p .aside { "Times are approximate and may change." }
                @for notice in planned { (card(board, notice)) }
            }
        }
        section aria-labelledby="servers" {
            h2 #servers { "Servers" }
            ul .servers { @for server in &board.servers { (row(server)) } }
        }
        (lately(board))
    };
    Page { service: &board.title, title: &board.sentence, place: "/" }.around(&content)
}

fn banner(board: &Board) -> Markup {
    html! {
        div .banner .(class(board.level)) {
            h1 { (mark(board.level)) span { (board.sentence) } }
            p {
                "Seen from " strong { (board.seen.from) } " at " (time(board.seen.now_ms)) "."
            }
            @if let Some(stale) = board.stale() {
                p .stale role="note" {
                    "What you see was " strong { (stale) } ". This server goes on taking and \
                     delivering mail; newer notices may be missing here."
                }
            }
        }
    }
}

fn lately(board: &Board) -> Markup {
    html! {
        section aria-labelledby="recent" {
            h2 #recent { "Recent" }
            @if board.lately().next().is_none() {
                p .aside { "Nothing in the last two weeks." }
            } @else {
                ul .past { @for notice in board.lately() { (past(notice)) } }
            }
            p { a href="/history" { "All notices" } }
        }
    }
}

fn row(server: &Server) -> Markup {
    html! {
        li {
            div .line {
                h3 { (server.name) }
                span .condition .(class(server.level)) {
                    (mark(server.level)) (server.condition)
                }
            }
            @if !server.names.is_empty() {
                ul .names {
                    @for name in &server.names {
                        li { code { (name.name) } @if let Some(remark) = &name.remark {
                            " " small { (remark) }
                        } }
                    }
                }
            }
        }
    }
}

/// A notice that is not over, with what was said last.
fn card(board: &Board, notice: &Notice) -> Markup {
    let hidden = notice.updates.len().saturating_sub(UPDATES_SHOWN_MAX);
    html! {
        article .notice .(class(level(notice))) {
            h3 { a href={ "/notice/" (notice.id) } { (notice.title) } }
            (facts(board, notice))
            (paragraphs(&notice.text))
            (updates(notice, UPDATES_SHOWN_MAX))
            @if hidden > 0 {
                p { a href={ "/notice/" (notice.id) } { (hidden) " more before" } }
            }
        }
    }
}

fn level(notice: &Notice) -> Level {
    if notice.is_planned() { Level::Planned } else { Level::Issue }
}

/// One line: what kind, about what, from when to when.
pub(super) fn facts(board: &Board, notice: &Notice) -> Markup {
    let now_ms = board.seen.now_ms;
    let kind = if notice.is_planned() { "Planned work" } else { "Issue" };
    let status = board.status(notice);
    html! {
        p .facts {
            span .kind { (kind) }
            @if let Some(component) = &notice.component { span { (component) } }
            span { (when(notice, status)) }
            span .relative {
                @match status {
                    NoticeStatus::Planned => {
                        (ahead(notice.starts_ms.saturating_sub(now_ms)))
                    }
                    NoticeStatus::Open => {
                        "began " (ago(now_ms.saturating_sub(notice.starts_ms)))
                    }
                    NoticeStatus::Resolved => {
                        "over " (ago(now_ms.saturating_sub(over_ms(notice))))
                    }
                }
            }
        }
    }
}

fn when(notice: &Notice, status: NoticeStatus) -> Markup {
    let from = notice.starts_ms;
    match (status, notice.ends_ms) {
        (NoticeStatus::Resolved, _) => {
            let over_ms = over_ms(notice);
            // One that is withdrawn before it began has no span.
            html! { @if over_ms > from { (span(from, over_ms)) } @else { (time(over_ms)) } }
        }
        (_, Some(ends_ms)) => html! {
            "about " time datetime=(rfc3339(from)) { (span(from, ends_ms)) }
        },
        (NoticeStatus::Planned, None) => html! { "about " (time(from)) },
        (NoticeStatus::Open, None) => html! { "since " (time(from)) },
    }
}

/// The newest `most` of what was added, the newest first.
pub(super) fn updates(notice: &Notice, most: usize) -> Markup {
    html! {
        @if !notice.updates.is_empty() {
            ol .updates reversed {
                @for update in notice.updates.iter().rev().take(most) {
                    li { p .facts { (time(update.at_ms)) } (paragraphs(&update.text)) }
                }
            }
        }
    }
}

/// A notice that is over, in one line.
pub(super) fn past(notice: &Notice) -> Markup {
    let lasted = length(over_ms(notice).saturating_sub(notice.starts_ms));
    html! {
        li {
            a href={ "/notice/" (notice.id) } { (notice.title) }
            p .facts {
                span .kind { @if notice.is_planned() { "Planned work" } @else { "Issue" } }
                @if let Some(component) = &notice.component { span { (component) } }
                span { (when(notice, NoticeStatus::Resolved)) }
                @if let Some(lasted) = lasted { span .relative { (lasted) } }
            }
        }
    }
}
