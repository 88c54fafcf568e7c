//! `mxfleet queue`.

use clap::{Args, Subcommand};

use super::Output;
use crate::http::call::{Call, QueueChanged, Which};
use crate::http::client::Admin;
use crate::worker::{DestinationView, EntryView, QueueSummary};

/// Of a reply, so much is shown in a table of many.
const REPLY_CHARS_MAX: usize = 100;

/// What can be done with mail that waits.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// What waits, by destination.
    Summary,
    /// The messages that wait, oldest first.
    List {
        /// Only those for this domain.
        #[arg(long)]
        domain: Option<String>,
        /// Only those after this queue id, to see the next page.
        #[arg(long, value_name = "ID")]
        after: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// One message: envelope, recipients, last replies.
    Show {
        /// Its queue id.
        id: String,
    },
    /// Try now what waits for its time.
    Retry(Selection),
    /// Set messages aside until they are released.
    Hold(Selection),
    /// Let messages go on that were set aside.
    Release(Selection),
    /// Remove messages; nobody is told.
    Delete(Selection),
    /// Give messages up now, as if their time had expired.
    Bounce(Selection),
}

/// Which messages: exactly one of the three.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Selection {
    /// A queue id.
    id: Option<String>,
    /// All messages for this domain.
    #[arg(long)]
    domain: Option<String>,
    /// All messages.
    #[arg(long)]
    all: bool,
}

impl Selection {
    fn which(self) -> Which {
        match (self.id, self.domain) {
            (Some(id), _) => Which::Id(id),
            (None, Some(domain)) => Which::Domain(domain),
            (None, None) => Which::All,
        }
    }
}

pub(super) fn call(verb: Verb, admin: &Admin, output: Output) -> anyhow::Result<()> {
    let change = |call: Call, done: &str, before: &str| {
        let counts: QueueChanged = admin.call(&call)?;
        output.say(&counts, &words(counts, done, before))
    };
    match verb {
        Verb::Summary => summary(&admin.call(&Call::QueueSummary)?, output),
        Verb::List { domain, after, limit } => {
            list(&admin.call(&Call::QueueList { domain, after, limit })?, output)
        }
        Verb::Show { id } => show(&admin.call(&Call::QueueShow { id })?, output),
        Verb::Retry(which) => {
            change(Call::QueueRetry(which.which()), "due now", "held; release them first")
        }
        Verb::Hold(which) => change(Call::QueueHold(which.which()), "held", "held already"),
        Verb::Release(which) => change(Call::QueueRelease(which.which()), "released", "not held"),
        Verb::Delete(which) => change(Call::QueueDelete(which.which()), "removed", ""),
        Verb::Bounce(which) => change(Call::QueueBounce(which.which()), "given up", ""),
    }
}

/// What was changed, and what was not.
fn words(counts: QueueChanged, done: &str, before: &str) -> String {
    let mut words = format!("{} message(s) {done}", counts.changed);
    if counts.as_before > 0 {
        words += &format!("; {} stay as they were: {before}", counts.as_before);
    }
    if counts.busy > 0 {
        words += &format!("; {} are on their way at this moment: ask again for those", counts.busy);
    }
    words
}

fn summary(summary: &QueueSummary, output: Output) -> anyhow::Result<()> {
    if output == Output::Table {
        let oldest = summary.oldest_seconds.map_or("none".to_owned(), age);
        super::output::write_out(&format!(
            "{} messages, {} recipients, {} held, {} octets; oldest {oldest}; {} connections\n",
            summary.messages, summary.recipients, summary.held, summary.bytes, summary.connections
        ))?;
    }
    let header = [
        "DESTINATION",
        "STATE",
        "MESSAGES",
        "DUE",
        "OLDEST",
        "NEXT IN",
        "CONNECTIONS",
        "LAST REPLY OR ERROR",
    ];
    output.print(summary, &header, |summary| {
        let row = |d: &DestinationView| {
            vec![
                d.domain.clone(),
                d.state.to_string(),
                d.messages.to_string(),
                d.due.to_string(),
                d.oldest_seconds.map_or("-".to_owned(), age),
                d.next_probe_seconds.or(d.next_due_seconds).map_or("-".to_owned(), age),
                format!("{}/{}", d.connections, d.window),
                brief_reply(d.error.as_ref().or(d.last_reply.as_ref())),
            ]
        };
        summary.destinations.iter().map(row).collect()
    })
}

fn list(entries: &Vec<EntryView>, output: Output) -> anyhow::Result<()> {
    let header =
        ["ID", "AGE", "OCTETS", "FROM", "RECIPIENT", "STATE", "NEXT IN", "LAST REPLY OR ERROR"];
    output.print(entries, &header, |entries| {
        let mut rows = Vec::new();
        for entry in entries {
            for (index, recipient) in entry.recipients.iter().enumerate() {
                let first = |text: String| if index == 0 { text } else { String::new() };
                rows.push(vec![
                    first(entry.id.to_string()),
                    first(age(entry.age_seconds)),
                    first(entry.bytes.to_string()),
                    first(format!("<{}>", entry.mail_from)),
                    recipient.address.clone(),
                    recipient.state.to_string(),
                    recipient.due_seconds.map_or("-".to_owned(), age),
                    brief_reply(recipient.last_reply.as_ref()),
                ]);
            }
        }
        rows
    })
}

fn show(entry: &EntryView, output: Output) -> anyhow::Result<()> {
    if output == Output::Table {
        let client = entry.client.as_deref().unwrap_or("this node");
        let held = if entry.held { ", held" } else { "" };
        super::output::write_out(&format!(
            "{}: from <{}>, {} octets, {} old{held}, handed in by {}\n",
            entry.id,
            super::output::clean(&entry.mail_from),
            entry.bytes,
            age(entry.age_seconds),
            super::output::clean(client),
        ))?;
    }
    output.print(entry, &["RECIPIENT", "STATE", "ATTEMPTS", "DUE IN", "LAST REPLY"], |entry| {
        let mut rows = Vec::new();
        for r in &entry.recipients {
            rows.push(vec![
                r.address.clone(),
                r.state.to_string(),
                r.attempts.to_string(),
                r.due_seconds.map_or("-".to_owned(), age),
                r.last_reply.clone().unwrap_or_default(),
            ]);
        }
        rows
    })
}

/// What fits a row of many; `queue show` and JSON have all of it.
fn brief_reply(reply: Option<&String>) -> String {
    reply.map(|reply| super::output::brief(reply, REPLY_CHARS_MAX)).unwrap_or_default()
}

/// Seconds as a person says them: `42s`, `5m`, `3h`, `2d`.
fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}
