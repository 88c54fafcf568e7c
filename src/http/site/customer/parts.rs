//! The longer parts of a customer's view: domains, refused recipients, failures. Pure.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::super::board::Level;
use super::super::layout::{mark, time};
use super::super::when::length;
use super::Known;
use super::gather::{Domain, Gathered, Refusal};
use super::records::Changes;
use crate::account::Found;
use crate::telemetry::journal::JournalLine;

/// The newest failures over all nodes.
const FAILURES_MAX: usize = 20;
/// Domains with failures that are shown.
const COUNTS_MAX: usize = 50;

fn answered(gathered: &Gathered) -> impl Iterator<Item = &Found> {
    gathered.heard.iter().filter_map(|one| one.answer.as_ref().ok())
}

/// Who did not answer, in words: what they know is missing.
fn silent(gathered: &Gathered) -> Markup {
    html! {
        @for one in &gathered.heard {
            @if let Err(why) = &one.answer {
                p .aside {
                    (mark(Level::Reduced)) " " strong { (one.node) } " " (why)
                    ": what it has is not counted here."
                }
            }
        }
    }
}

fn age(seconds: u64) -> String {
    length(seconds.saturating_mul(1000)).unwrap_or_else(|| "less than a minute".to_owned())
}

pub(super) fn domains(known: &Known, gathered: &Gathered) -> Markup {
    let messages: usize = answered(gathered).map(|found| found.messages).sum();
    let oldest = answered(gathered).filter_map(|found| found.oldest_seconds).max();
    html! {
        section aria-labelledby="domains" {
            h2 #domains { "Your domains" }
            p {
                @match (messages, oldest) {
                    (0, _) => { (mark(Level::Good)) " No mail waits for them." }
                    (1, Some(oldest)) => { "One message waits for them, for " (age(oldest)) "." }
                    (_, Some(oldest)) => {
                        (messages) " messages wait for them, the oldest for " (age(oldest)) "."
                    }
                    (1, None) => "One message for them is on its way.",
                    (_, None) => { (messages) " messages for them are on their way." }
                }
            }
            (silent(gathered))
            ul .servers { @for domain in &gathered.domains { (domain_row(known, domain)) } }
            @if gathered.more_domains > 0 {
                p .aside { "And " (gathered.more_domains) " more, those with least mail." }
            }
        }
    }
}

fn domain_row(known: &Known, domain: &Domain) -> Markup {
    html! {
        li {
            div .line {
                h3 { (domain.name) }
                span { (waiting(domain)) }
            }
            p .facts {
                span { "passed on to " code { (domain.route) } }
                span { a href={ "/help/mx?domain=" (domain.name) } { "MX records" } }
                span {
                    a href={ (known.secret.path()) "/tools/mx?domain=" (domain.name) } {
                        "Test your servers"
                    }
                }
            }
            @if let Some(error) = &domain.error {
                p .facts { span { "Your server last said: " (error) } }
            }
            @match &domain.records {
                Some(Ok(changes)) if changes.is_none() => p .facts {
                    span { (mark(Level::Good)) " Its MX records are as they should be." }
                },
                Some(Ok(changes)) => (records(&domain.name, changes)),
                Some(Err(why)) => p .facts {
                    span { (mark(Level::Reduced)) " Its MX records are not known: " (why) }
                },
                None => {}
            }
        }
    }
}

fn waiting(domain: &Domain) -> Markup {
    html! {
        @match (domain.messages, domain.oldest_seconds) {
            (0, _) => "nothing waits",
            (count, Some(oldest)) => { (count) " waiting, the oldest for " (age(oldest)) }
            (count, None) => { (count) " on their way" }
        }
    }
}

fn records(domain: &str, changes: &Changes) -> Markup {
    html! {
        @for (words, lines) in [("Add", &changes.add), ("Take away", &changes.remove)] {
            @if !lines.is_empty() {
                p .facts { span { (mark(Level::Reduced)) " " (words) " in your DNS:" } }
                pre tabindex="0" aria-label={ (words) " in the DNS of " (domain) } {
                    code { (lines.join("\n")) }
                }
            }
        }
    }
}

pub(super) fn recipients(known: &Known, gathered: &Gathered, may_pardon: bool) -> Markup {
    let (listed, refused) = (&gathered.listed, &gathered.refused);
    let pardon = format!("{}/pardon", known.secret.path());
    html! {
        section aria-labelledby="recipients" {
            h2 #recipients { "Refused recipients" }
            p {
                "Recipients that your server keeps refusing as unknown are refused here for some \
                 days. A pardon lets mail for one in again at once."
            }
            @if listed.rows.is_empty() && refused.rows.is_empty() {
                p { (mark(Level::Good)) " None." }
            }
            form action=(pardon) method="post" {
                @if !listed.rows.is_empty() {
                    h3 { "Refused here" }
                    ul .findings {
                        @for row in &listed.rows { (refusal(row, may_pardon)) }
                    }
                    (more(listed.more))
                }
                @if !refused.rows.is_empty() {
                    h3 { "Refused by your server, and not here yet" }
                    ul .findings {
                        @for row in &refused.rows { (refusal(row, may_pardon)) }
                    }
                    (more(refused.more))
                }
            }
        }
    }
}

fn more(count: usize) -> Markup {
    html! { @if count > 0 { p .aside { "And " (count) " more." } } }
}

fn refusal(row: &Refusal, may_pardon: bool) -> Markup {
    html! {
        li {
            (mark(if row.until_ms.is_some() { Level::Issue } else { Level::Reduced }))
            code { (row.address) }
            span .said {
                @if let Some(until_ms) = row.until_ms { "until " (time(until_ms)) "; " }
                @if row.times == 1 {
                    "refused once, "
                } @else {
                    "refused " (row.times) " times, last "
                }
                (time(row.last_ms))
            }
            @if may_pardon {
                button .quiet name="address" value=(row.address)
                    aria-label={ "Pardon " (row.address) } { "Pardon" }
            }
        }
    }
}

/// What failed and nobody was told of, over all nodes.
pub(super) fn failures(gathered: &Gathered) -> Markup {
    let (mut counts, mut lines) = (BTreeMap::<&str, u64>::new(), Vec::new());
    for found in answered(gathered).map(|found| &found.suppressed) {
        for (domain, count) in &found.counts {
            *counts.entry(domain).or_default() += count;
        }
        lines.extend(&found.newest);
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by(|(a, most), (b, more)| more.cmp(most).then_with(|| a.cmp(b)));
    lines.sort_by(|one: &&JournalLine, other| other.at.cmp(&one.at));
    let hidden = counts.len().saturating_sub(COUNTS_MAX);
    html! {
        section aria-labelledby="failures" {
            h2 #failures { "Failures that nobody was told of" }
            p {
                "Most mail that your server refuses has a forged sender, so that a report would \
                 trouble a stranger. So many had none in the last 30 days:"
            }
            (silent(gathered))
            (partly(gathered))
            @if counts.is_empty() {
                p { "None." }
            } @else {
                ul .findings {
                    @for (domain, count) in counts.iter().take(COUNTS_MAX) {
                        li { strong { (count) } code { (domain) } }
                    }
                }
                (more(hidden))
                h3 { "The newest" }
                ul .findings { @for line in lines.iter().take(FAILURES_MAX) { (failure(line)) } }
            }
        }
    }
}

/// Of a large journal only the newest part is read.
fn partly(gathered: &Gathered) -> Markup {
    html! {
        @for one in &gathered.heard {
            @if let Some(since) = one.answer.as_ref().ok().and_then(Found::counted_since) {
                p .aside {
                    "Of " strong { (one.node) } " only "
                    @if since.is_empty() { "nothing" } @else { "what came after " (since) }
                    " is counted: it has much to read."
                }
            }
        }
    }
}

fn failure(line: &JournalLine) -> Markup {
    let at_ms = line.at.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond);
    let at_ms = at_ms.and_then(|ms| u64::try_from(ms).ok());
    html! {
        li {
            code { (line.to) }
            span {
                "from "
                @if line.from.is_empty() { "the null sender" } @else { code { (line.from) } }
            }
            span .said {
                @match at_ms { Some(ms) => { (time(ms)) } None => { (line.at) } }
                ": " (line.reply)
            }
        }
    }
}
