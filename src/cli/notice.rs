//! `mxfleet notice`.

use clap::Subcommand;

use super::Output;
use super::when::when;
use crate::http::call::{Call, Changed, NoticeCall, NoticeRow};
use crate::http::client::Admin;

/// What can be done with notices on the status page.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Tell of an issue, or of an outage that is planned.
    #[command(after_help = "Examples:\n  \
        mxfleet notice open --title \"mx1 is slow\" --text \"We are looking into it.\"\n  \
        mxfleet notice open --title \"mx1 moves\" --text \"Mail may be late.\" --component mx1 \
        --starts 2010-04-28 --ends 2010-04-29")]
    Open {
        /// In one line.
        #[arg(long)]
        title: String,
        /// What it is about.
        #[arg(long)]
        text: String,
        /// The part of the service it is about: a host, a name.
        #[arg(long)]
        component: Option<String>,
        /// When a planned outage starts; now when absent.
        #[arg(long, value_name = "TIME", value_parser = when)]
        starts: Option<u64>,
        /// When it is expected to end; it is resolved then.
        #[arg(long, value_name = "TIME", value_parser = when)]
        ends: Option<u64>,
    },
    /// Add to a notice, or change its times.
    Update {
        /// Its number.
        id: u64,
        /// What is new.
        #[arg(long)]
        text: String,
        /// A new start.
        #[arg(long, value_name = "TIME", value_parser = when)]
        starts: Option<u64>,
        /// A new end.
        #[arg(long, value_name = "TIME", value_parser = when)]
        ends: Option<u64>,
    },
    /// It is over.
    Resolve {
        /// Its number.
        id: u64,
        /// What is to be said at the end.
        #[arg(long)]
        text: Option<String>,
    },
    /// All notices, the newest first.
    List,
}

pub(super) fn call(verb: Verb, admin: &Admin, output: Output) -> anyhow::Result<()> {
    let change = |call: NoticeCall| admin.call::<Changed>(&Call::Notice(call));
    match verb {
        Verb::Open { title, text, component, starts, ends } => {
            let (starts_ms, ends_ms) = (starts, ends);
            let opened = change(NoticeCall::Open { title, text, component, starts_ms, ends_ms })?;
            let id = opened.changed;
            output.say(&serde_json::json!({ "id": id }), &format!("notice {id} is open"))
        }
        Verb::Update { id, text, starts, ends } => {
            let (starts_ms, ends_ms) = (starts, ends);
            let done = change(NoticeCall::Update { id, text, starts_ms, ends_ms })?;
            output.say(&done, &format!("notice {id} is updated"))
        }
        Verb::Resolve { id, text } => {
            let done = change(NoticeCall::Resolve { id, text })?;
            output.say(&done, &format!("notice {id} is resolved"))
        }
        Verb::List => {
            let rows: Vec<NoticeRow> = admin.call(&Call::Notice(NoticeCall::List))?;
            let header = ["NOTICE", "STATE", "COMPONENT", "STARTS", "ENDS", "TITLE", "LAST WORD"];
            output.print(&rows, &header, |rows| rows.iter().map(cells).collect())
        }
    }
}

fn cells(row: &NoticeRow) -> Vec<String> {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let last = row.updates.last().map_or(&row.text, |update| &update.text);
    vec![
        row.id.to_string(),
        row.state.clone(),
        or_dash(&row.component),
        row.starts.clone(),
        or_dash(row.resolved.as_ref().map_or(&row.ends, |_| &row.resolved)),
        row.title.clone(),
        last.lines().next().unwrap_or_default().to_owned(),
    ]
}
