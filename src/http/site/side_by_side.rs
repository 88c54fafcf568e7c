//! What each node saw of a customer's servers, in a column of its own, and what all of it means.

use maud::{Markup, html};

use super::board::Level;
use super::layout::{class, mark};
use crate::client::{Grade, Speaker, Step};
use crate::fleet_wide::Heard;
use crate::probe::{Finding, Report, Seen, SideBySide, Tool, What};

/// Begins the columns; a `</div>` ends them.
pub(super) const OPENING: &str = "<div class=\"nodes\">";

/// The columns that have a place of their own in the style; others stand where they come.
const PLACES_MAX: usize = 10;

/// The column of one node; `nodes` are all that were asked, in order.
pub(super) fn section(nodes: &[String], heard: &Heard<Report>) -> Markup {
    let place = nodes.iter().take_while(|node| **node != heard.node).count() + 1;
    let id = format!("node-{place}");
    html! {
        section .node .{ "at-" (place.min(PLACES_MAX)) } aria-labelledby=(id) {
            h2 id=(id) { "From " (heard.node) }
            @match &heard.answer {
                Err(why) => p .silent { (mark(Level::Reduced)) " " (heard.node) " " (why) "." },
                Ok(report) => {
                    @for seen in &report.servers { (server(seen)) }
                }
            }
        }
    }
}

fn server(seen: &Seen) -> Markup {
    html! {
        h3 {
            (seen.server)
            @if let Some(address) = seen.address { " " small { (address) } }
        }
        ul .findings { @for finding in &seen.findings { (row(finding)) } }
    }
}

fn row(finding: &Finding) -> Markup {
    html! {
        li .(kind(&finding.what)) {
            @if let Some(grade) = finding.grade { (mark(level(grade))) }
            @else { span .mark {} }
            strong { (label(&finding.what)) }
            span .said { (finding.words) }
        }
    }
}

/// What all nodes' answers mean: a sentence, what differs, and a table of nodes and servers.
pub(super) fn conclusion(tool: Tool, nodes: Vec<String>, heard: &[Heard<Report>]) -> Markup {
    let mut seen = SideBySide::of(nodes);
    for (node, one) in heard.iter().flat_map(|one| {
        one.answer.iter().flat_map(|report| &report.servers).map(|seen| (&one.node, seen))
    }) {
        let address = one.address.map(|address| address.to_string());
        seen.add(node, &one.server, address.as_deref(), one.grade());
    }
    let differences = seen.differences();
    let (worst, words) = match seen.worst() {
        None if heard.iter().any(|one| one.answer.is_ok()) => {
            (Grade::Bad, "There is no server to test.")
        }
        None => (Grade::Bad, "None of our servers has an answer."),
        Some(Grade::Bad) if !differences.is_empty() => {
            (Grade::Bad, "It depends on where your servers are seen from.")
        }
        Some(worst) => (worst, verdict(tool, worst)),
    };
    html! {
        section .banner .(class(level(worst))) aria-labelledby="result" {
            h2 #result { (mark(level(worst))) " " (words) }
            @for difference in &differences { p { strong { (difference) } } }
            @if seen.nodes.len() > 1 && !seen.rows.is_empty() { (table(&seen)) }
        }
    }
}

fn table(seen: &SideBySide) -> Markup {
    html! {
        div .wide tabindex="0" role="region" aria-label="Servers and nodes" {
            table {
                thead { tr {
                    th scope="col" { "Your server" }
                    @for node in &seen.nodes { th scope="col" { (node) } }
                } }
                tbody { @for row in &seen.rows { tr {
                    th scope="row" {
                        (row.server)
                        @if let Some(address) = &row.address { " " small { (address) } }
                    }
                    @for grade in &row.grades { td { (cell(*grade)) } }
                } } }
            }
        }
    }
}

fn cell(grade: Option<Grade>) -> Markup {
    let word = match grade {
        Some(Grade::Good) => "well",
        Some(Grade::Fair) => "fair",
        Some(Grade::Bad) => "fails",
        None => "–",
    };
    html! { @if let Some(grade) = grade { (mark(level(grade))) " " } (word) }
}

fn verdict(tool: Tool, worst: Grade) -> &'static str {
    match (tool, worst) {
        (Tool::Mx | Tool::Smtp, Grade::Good) => "All is well: your mail comes through.",
        (Tool::Mx | Tool::Smtp, Grade::Fair) => {
            "Your mail comes through. Something could be better."
        }
        (Tool::Mx | Tool::Smtp, Grade::Bad) => "Mail does not come through at some server now.",
        (Tool::Ping | Tool::Traceroute, Grade::Good) => "All is well: your servers are reached.",
        (Tool::Ping | Tool::Traceroute, Grade::Fair) => {
            "Your servers are reached. Something could be better."
        }
        (Tool::Ping | Tool::Traceroute, Grade::Bad) => "Some server cannot be reached now.",
    }
}

fn level(grade: Grade) -> Level {
    match grade {
        Grade::Good => Level::Good,
        Grade::Fair => Level::Reduced,
        Grade::Bad => Level::Issue,
    }
}

/// How the style calls it.
fn kind(what: &What) -> &'static str {
    match what {
        What::Line { by: Speaker::Node } => "line ours",
        What::Line { .. } => "line",
        What::Step { .. } | What::Echo { .. } | What::Port { .. } | What::Hop { .. } => "step",
    }
}

fn label(what: &What) -> String {
    let word = match what {
        What::Step { step } => match step {
            Step::Resolve => "Address",
            Step::Connect => "Connection",
            Step::Banner => "Greeting",
            Step::Helo => "Extensions",
            Step::StartTls => "Encryption",
            Step::Certificate => "Certificate",
            Step::Mail => "Sender",
            Step::Rcpt => "Postmaster",
            Step::Quit => "Goodbye",
        },
        What::Line { by: Speaker::Node } => "We",
        What::Line { by: Speaker::Server } => "Server",
        What::Line { by: Speaker::Note } => "Note",
        What::Echo { .. } => "Echoes",
        What::Port { .. } => "SMTP port",
        What::Hop { hop, .. } => return format!("Hop {hop}"),
    };
    word.to_owned()
}
