//! `mxfleet explain`.

use clap::Subcommand;

use super::Output;
use crate::http::call::{Call, Explanation};
use crate::http::client::Admin;

/// What can be explained.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// What RCPT TO would be answered now, and which check decides.
    Rcpt {
        /// The recipient.
        address: String,
        /// The sender; the null reverse-path when absent. Anybody may write to a customer, so that
        /// only its form decides anything.
        #[arg(long, value_name = "ADDRESS")]
        from: Option<String>,
    },
}

pub(super) fn call(verb: Verb, admin: &Admin, output: Output) -> anyhow::Result<()> {
    let Verb::Rcpt { address, from } = verb;
    let explanation: Explanation = admin.call(&Call::ExplainRcpt { address, from })?;
    output.print(&explanation, &["ANSWER", "DECIDED BY", "REPLY"], |e| {
        let answer = if e.accepted { "accepted" } else { "refused" };
        vec![vec![answer.to_owned(), e.check.clone(), e.reply.clone()]]
    })
}
