//! `mxfleet probe`.

use clap::Subcommand;

use super::Output;
use crate::client::{Grade, Step};
use crate::http::call::Call;
use crate::http::client::Admin;
use crate::http::probe::ProbeRow;

/// What can be looked at.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// The servers that mail for a customer's domain is passed on to, from this node. Nothing is
    /// sent: the dialog ends after RCPT for postmaster. Fails when mail does not come through.
    #[command(after_help = "Examples:\n  mxfleet probe mx acme.test\n  \
        mxfleet probe mx acme.test --output json")]
    Mx {
        /// The domain.
        domain: String,
    },
}

pub(super) fn call(verb: Verb, admin: &Admin, output: Output) -> anyhow::Result<()> {
    let Verb::Mx { domain } = verb;
    let rows: Vec<ProbeRow> = admin.call(&Call::ProbeMx { domain })?;
    let header = ["SERVER", "ADDRESS", "STEP", "RESULT", "WHAT WAS SAID"];
    output.print(&rows, &header, |rows| rows.iter().map(cells).collect())?;
    if rows.iter().any(|row| row.finding.grade == Grade::Bad) {
        anyhow::bail!("mail does not come through at some server");
    }
    Ok(())
}

fn cells(row: &ProbeRow) -> Vec<String> {
    let step = match row.finding.step {
        Step::Resolve => "resolve",
        Step::Connect => "connect",
        Step::Banner => "banner",
        Step::Helo => "ehlo",
        Step::StartTls => "starttls",
        Step::Certificate => "certificate",
        Step::Mail => "mail from",
        Step::Rcpt => "rcpt to",
        Step::Quit => "quit",
    };
    let grade = match row.finding.grade {
        Grade::Good => "good",
        Grade::Fair => "fair",
        Grade::Bad => "bad",
    };
    let address = row.address.clone().unwrap_or_else(|| "-".to_owned());
    let words = row.finding.words.clone();
    vec![row.server.clone(), address, step.to_owned(), grade.to_owned(), words]
}
