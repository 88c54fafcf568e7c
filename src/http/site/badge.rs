//! How it is, as a picture for other sites.

use maud::html;

use super::board::{Board, Level};

/// Room for a character, and around a text.
const CHARACTER: usize = 7;
const MARGIN: usize = 10;

pub(super) fn render(board: &Board) -> String {
    let (word, colour) = match (board.level, board.stale()) {
        (Level::Issue, _) => ("issue", "#b3261e"),
        (_, Some(_)) => ("not known", "#5b6470"),
        (Level::Good, _) => ("all well", "#1a7343"),
        (Level::Planned, _) => ("planned work", "#1f5fae"),
        (Level::Reduced, _) => ("reduced", "#8a5a00"),
    };
    let width = |text: &str| text.chars().count() * CHARACTER;
    let (left, right) = (width(&board.title) + 2 * MARGIN, width(word) + 2 * MARGIN);
    let badge = html! {
        svg xmlns="http://www.w3.org/2000/svg" width=(left + right) height="22" role="img"
            aria-label={ (board.title) ": " (word) } {
            title { (board.title) ": " (word) }
            rect width=(left) height="22" fill="#2b3038" {}
            rect x=(left) width=(right) height="22" fill=(colour) {}
            g fill="#fff" font-family="system-ui,sans-serif" font-size="12" {
                text x=(MARGIN) y="15" textLength=(width(&board.title)) { (board.title) }
                text x=(left + MARGIN) y="15" textLength=(width(word)) { (word) }
            }
        }
    };
    badge.into_string()
}
