//! Notices as an Atom feed (RFC 4287).

use maud::{Markup, PreEscaped, html};
use mxfleet_cluster::Notice;

use super::board::Board;
use super::when::{rfc3339, span};

/// The newest notices that a feed has.
const ENTRIES: usize = 30;

pub(super) fn render(board: &Board) -> String {
    let settings = board.seen.state.settings();
    let site = settings.get("site.url").unwrap_or_default();
    // Ids are for ever (RFC 4287 section 4.2.6), so they name neither the host nor the site's
    // address but the zone, which a fleet is given once.
    let zone = settings.get("rotation.zone").filter(|zone| !zone.is_empty());
    let id = format!("tag:{},2010:mxfleet", zone.unwrap_or("mxfleet.invalid"));
    let notices: Vec<&Notice> = board.seen.state.notices().take(ENTRIES).collect();
    let changed = notices.iter().map(|notice| changed_ms(notice)).max();
    let changed_ms = changed.or_else(|| board.seen.state.hosts().map(|host| host.joined_ms).min());
    let feed = html! {
        (PreEscaped("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n"))
        feed xmlns="http://www.w3.org/2005/Atom" {
            title { (printable(&board.title)) ": notices" }
            id { (id) }
            updated { (rfc3339(changed_ms.unwrap_or_default())) }
            author { name { (printable(&board.title)) } }
            link rel="self" href={ (site) "/feed.atom" } {}
            link rel="alternate" type="text/html" href={ (site) "/" } {}
            @for notice in notices { (entry(notice, &id, site)) }
        }
    };
    feed.into_string()
}

fn entry(notice: &Notice, feed: &str, site: &str) -> Markup {
    html! {
        entry {
            title { (printable(&notice.title)) }
            id { (feed) "/" (notice.id) }
            published { (rfc3339(notice.opened_ms)) }
            updated { (rfc3339(changed_ms(notice))) }
            link rel="alternate" type="text/html" href={ (site) "/notice/" (notice.id) } {}
            category term=(if notice.is_planned() { "planned" } else { "issue" }) {}
            content type="text" { (printable(&text(notice))) }
        }
    }
}

/// What it is about, and what was said since.
fn text(notice: &Notice) -> String {
    let mut text = String::new();
    if let Some(ends_ms) = notice.ends_ms {
        text.push_str(&format!("About {}\n\n", span(notice.starts_ms, ends_ms)));
    }
    text.push_str(&notice.text);
    if let Some(update) = notice.updates.last() {
        text.push_str(&format!("\n\n{}\n{}", rfc3339(update.at_ms), update.text));
    }
    if let Some(resolved_ms) = notice.resolved_ms {
        text.push_str(&format!("\n\nResolved {}", rfc3339(resolved_ms)));
    }
    text
}

fn changed_ms(notice: &Notice) -> u64 {
    let said_ms = notice.updates.last().map(|update| update.at_ms);
    notice.resolved_ms.or(said_ms).unwrap_or(notice.opened_ms)
}

/// Without the two characters of Unicode's that no XML text may have and that are not controls.
fn printable(text: &str) -> String {
    text.replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}")
}
