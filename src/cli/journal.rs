//! `mxfleet journal`.

use clap::Subcommand;

use super::Output;
use crate::http::call::Call;
use crate::http::client::Admin;
use crate::telemetry::journal::JournalLine;

/// What can be asked about mail that was not delivered, and about what senders were told.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// What became of mail from a sender, to a recipient, at this node, in the last 30 days.
    #[command(after_help = "Outcomes: `suppressed` (it failed, nobody was told, and why), \
        `returned` (it failed, and the sender got this report), `delayed` and `relayed` (the \
        sender got this report), `forged` (a report to a return path of ours that counts for \
        nothing). \
        Delivered mail is in the delivery log.\n\n\
        Example: mxfleet journal search --to jane@acme.test")]
    Search {
        /// Only mail of this sender; empty is the null reverse-path.
        #[arg(long, value_name = "ADDRESS")]
        from: Option<String>,
        /// Only mail to this recipient.
        #[arg(long, value_name = "ADDRESS")]
        to: Option<String>,
        /// At most so many, the newest.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
}

pub(super) fn call(verb: Verb, admin: &Admin, output: Output) -> anyhow::Result<()> {
    let Verb::Search { from, to, limit } = verb;
    let lines: Vec<JournalLine> = admin.call(&Call::JournalSearch { from, to, limit })?;
    let header = ["WHEN", "ID", "FROM", "TO", "OUTCOME", "WHY / REPORT", "STATUS", "REPLY"];
    output.print(&lines, &header, |lines| {
        let row = |line: &JournalLine| {
            let because = line.because.clone().or_else(|| line.report.clone());
            let because = because.unwrap_or_else(|| "-".to_owned());
            let (when, id) = (line.at.clone(), line.id.clone());
            let (from, to) = (format!("<{}>", line.from), format!("<{}>", line.to));
            let (outcome, dsn) = (line.outcome.clone(), line.dsn.clone());
            vec![when, id, from, to, outcome, because, dsn, line.reply.clone()]
        };
        lines.iter().map(row).collect()
    })
}
