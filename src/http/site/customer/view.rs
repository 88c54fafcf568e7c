//! The page that a link leads to. Pure.

use maud::{Markup, html};
use mxfleet_cluster::{
    CustomerStatus, MigrationStage, MigrationStep, NameStage, NameStatus, State as Tables, Survey,
    Told,
};

use super::super::board::{Board, Level};
use super::super::layout::{Page, class, mark, time};
use super::super::when::ago;
use super::Known;
use super::gather::Gathered;
use super::parts::{domains, failures, recipients};
use crate::rotation::records::preferences;

pub(super) fn render(board: &Board, known: &Known, gathered: &Gathered) -> Markup {
    let (customer, now_ms) = (&known.customer, gathered.now_ms);
    let is_suspended = customer.status == CustomerStatus::Suspended;
    let content = html! {
        h1 { "Mail of " (customer.name) }
        p .aside {
            "Seen from " strong { (board.seen.from) } " at " (time(now_ms)) ". This link is good \
             until " (time(known.ends_ms)) "; whoever has it sees this."
        }
        @if is_suspended { (suspended(&known.tables)) }
        @if let Some(stale) = board.stale() {
            p .stale role="note" {
                "This server is cut off from most of the others: what you see was "
                strong { (stale) } ", and nothing can be changed here just now."
            }
        }
        (to_do(known, now_ms))
        (names(known, now_ms))
        (domains(known, gathered))
        (recipients(known, gathered, !is_suspended))
        (failures(gathered))
        section aria-labelledby="link" {
            h2 #link { "This link" }
            p { "If others may have seen it, end it, and ask for a new one." }
            form action={ (known.secret.path()) "/end" } method="post" {
                button .quiet { "End this link" }
            }
        }
    };
    Page { service: &board.title, title: "Your own view", place: "/customer" }.around(&content)
}

fn suspended(tables: &Tables) -> Markup {
    let ask = tables.settings().get("service.address").filter(|address| !address.is_empty());
    html! {
        section .banner .(class(Level::Issue)) aria-labelledby="suspended" {
            h2 #suspended { (mark(Level::Issue)) " Your service is suspended" }
            p {
                "Mail for your domains is answered 450 for now: senders keep it and try again. \
                 What waits here still goes out. You can look, and change nothing. "
                @match ask {
                    Some(address) => {
                        "Please write to " a href={ "mailto:" (address) } { (address) } "."
                    }
                    None => "Please ask those who run this service.",
                }
            }
        }
    }
}

/// What the newest migration still wants of the customer.
fn to_do(known: &Known, now_ms: u64) -> Markup {
    let tables = &known.tables;
    let step = tables.migrations().next().zip(tables.migration_step(&known.customer.id));
    let open = step.filter(|(migration, step)| {
        matches!(migration.stage, MigrationStage::Announced { .. }) && step.before != step.after
    });
    let Some((migration, step)) = open else {
        return html! {};
    };
    let ending: Vec<&String> =
        step.before.iter().filter(|name| migration.retire.contains(name)).collect();
    let last = |name: &str| tables.last_by_name(&known.customer.id, name);
    let used = ending.iter().filter_map(|name| Some((name, last(name)?)));
    html! {
        section aria-labelledby="to-do" {
            h2 #to-do { "To be done" }
            p { "MX names change, and some of them are yours. " (told(step)) }
            ul .findings {
                @for name in &ending {
                    li {
                        (mark(Level::Reduced)) code { (name) }
                        span { "ends " (time(migration.ends_ms)) }
                    }
                }
                @for name in step.after.iter().filter(|name| !step.before.contains(name)) {
                    li { (mark(Level::Planned)) code { (name) } span { "is new: add it" } }
                }
            }
            @match step.survey {
                Survey::Moved { at_ms } => {
                    p {
                        (mark(Level::Good)) " Your records were seen without the names that end, "
                        (ago(now_ms.saturating_sub(at_ms))) "."
                    }
                    @for (name, at_ms) in used {
                        p .aside {
                            "Mail last came by " code { (name) } " "
                            (ago(now_ms.saturating_sub(at_ms))) "; it follows within a few days."
                        }
                    }
                }
                Survey::Old { at_ms } => p {
                    (mark(Level::Reduced)) " Some of your records still have a name that ends; "
                    "seen "
                    (ago(now_ms.saturating_sub(at_ms))) ". What to change stands with each domain."
                },
                Survey::Elsewhere { at_ms } => p {
                    (mark(Level::Reduced)) " Your records have no name of ours; seen "
                    (ago(now_ms.saturating_sub(at_ms))) ". What to change stands with each domain."
                },
                Survey::Unknown => p {
                    (mark(Level::Reduced)) " Your records have not been seen yet. What to change \
                     stands with each domain."
                },
            }
        }
    }
}

fn told(step: &MigrationStep) -> Markup {
    html! {
        @match step.told {
            Told::Accepted { at_ms } => { "We wrote to you about it on " (time(at_ms)) "." }
            Told::Sending { .. } => "A letter to you about it is on its way.",
            Told::Bounced { at_ms, .. } => {
                "Our letter to you about it came back on " (time(at_ms)) ": please check the \
                 contacts that we have of you."
            }
            Told::NoContact => "We have no contact of yours that mail can be sent to.",
            Told::NotYet => "We will write to you about it.",
        }
    }
}

/// The names the customer was given, and those it had before while they still work.
fn names(known: &Known, now_ms: u64) -> Markup {
    let tables = &known.tables;
    let given = tables.names_of(&known.customer.id);
    let before = tables.migration_step(&known.customer.id).map_or(&[][..], |step| &step.before);
    let is_left = |name: &&String| {
        let is_gone = |row: &mxfleet_cluster::MxName| row.status() == NameStatus::Removed;
        !given.contains(name) && tables.name(name).is_some_and(|row| !is_gone(row))
    };
    html! {
        section aria-labelledby="names" {
            h2 #names { "Your MX names" }
            @if given.is_empty() {
                p { "You have not been given names yet. Please ask us for them." }
            } @else {
                ul .findings {
                    @for (preference, name) in preferences().zip(given) {
                        (name_row(known, name, &format!("preference {preference}"), now_ms))
                    }
                    @for name in before.iter().filter(is_left) {
                        (name_row(known, name, "not yours any more", now_ms))
                    }
                }
            }
        }
    }
}

fn name_row(known: &Known, name: &str, place: &str, now_ms: u64) -> Markup {
    let row = known.tables.name(name);
    let last = known.tables.last_by_name(&known.customer.id, name);
    let (level, words) = match row.map(|row| (row.stage, row.status())) {
        Some((NameStage::Retiring { at_ms }, _)) => {
            (Level::Reduced, html! { "in use until it ends, " (time(at_ms)) })
        }
        Some((_, NameStatus::Active)) => (Level::Good, html! { "in use" }),
        Some((_, NameStatus::Redirected)) => {
            (Level::Planned, html! { "in use, for now on another server than its own" })
        }
        Some((_, NameStatus::Planned)) => (Level::Planned, html! { "not in use yet" }),
        _ => (Level::Issue, html! { "has ended" }),
    };
    html! {
        li {
            (mark(level)) code { (name) } span { (words) }
            span .said {
                (place)
                @if let Some(at_ms) = last {
                    "; mail for you last came by it " (ago(now_ms.saturating_sub(at_ms)))
                }
            }
        }
    }
}
