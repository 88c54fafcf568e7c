//! `mxfleet blacklist`.

use clap::Subcommand;

use super::Output;
use super::output::write_out;
use super::when::when;
use crate::http::call::{
    BlacklistEntryRow, BlacklistRow, BlacklistStats, Call, Changed, ExemptRow, FrozenRow,
};
use crate::http::client::Admin;

/// What can be done with recipients that are refused because of too many rejections.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Recipients that are refused now.
    List {
        /// Only those of this domain.
        #[arg(long)]
        domain: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 1000)]
        limit: usize,
        /// Instead, recipients that are never listed (`blacklist exempt`).
        #[arg(long)]
        exempt: bool,
    },
    /// Why a recipient is refused, and until when.
    Show {
        /// The recipient.
        address: String,
    },
    /// Forget the rejections of a recipient.
    Pardon {
        /// The recipient.
        address: String,
    },
    /// Never list a recipient.
    #[command(after_help = "Examples:\n  \
        mxfleet blacklist exempt ceo@acme.test --reason \"asked us\"\n  \
        mxfleet blacklist exempt new@acme.test --until 30d")]
    Exempt {
        /// The recipient.
        address: String,
        /// Why, for whoever looks at it later.
        #[arg(long, default_value = "")]
        reason: String,
        /// Until when (a time, a day, or so long from now); for ever when absent.
        #[arg(long, value_name = "TIME", value_parser = when)]
        until: Option<u64>,
    },
    /// Count rejections of a recipient again.
    Unexempt {
        /// The recipient.
        address: String,
    },
    /// List nothing new in a domain, until it is thawed. What is listed stays so.
    Freeze {
        /// The domain.
        domain: String,
    },
    /// Count in a domain again, whether an operator froze it, or the fleet, because its server
    /// refused recipients it had taken mail for.
    Thaw {
        /// The domain.
        domain: String,
    },
    /// How many are tracked, listed, trusted and exempt; which domains are frozen, and why.
    Stats,
}

pub(super) fn call(verb: Verb, admin: &Admin, output: Output) -> anyhow::Result<()> {
    let change = |call: Call, done: String, nothing: &str| {
        let changed: Changed = admin.call(&call)?;
        output.say(&changed, if changed.changed == 0 { nothing } else { &done })
    };
    match verb {
        Verb::List { domain, limit, exempt: true } => {
            exemptions(&admin.call(&Call::BlacklistExemptions { domain, limit })?, output)
        }
        Verb::List { domain, limit, exempt: false } => {
            let rows: Vec<BlacklistRow> = admin.call(&Call::BlacklistList { domain, limit })?;
            output.print(&rows, &["ADDRESS", "UNTIL"], |rows| {
                rows.iter().map(|row| vec![row.address.clone(), row.until.clone()]).collect()
            })
        }
        Verb::Show { address } => show(&admin.call(&Call::BlacklistShow { address })?, output),
        Verb::Pardon { address } => {
            let done = format!("the rejections of {address} are forgotten");
            change(Call::BlacklistPardon { address }, done, "there was nothing to forget")
        }
        Verb::Exempt { address, reason, until } => {
            let done = format!("{address} is never listed");
            let call = Call::BlacklistExempt { address, reason, until_ms: until };
            change(call, done, "nothing changed")
        }
        Verb::Unexempt { address } => {
            let done = format!("{address} is listed as any other");
            change(Call::BlacklistUnexempt { address }, done, "it was not exempt")
        }
        Verb::Freeze { domain } => {
            let done = format!("nothing new is listed in {domain} until `blacklist thaw {domain}`");
            change(Call::BlacklistFreeze { domain, frozen: true }, done, "it was frozen already")
        }
        Verb::Thaw { domain } => {
            let done = format!("rejections in {domain} count again");
            change(Call::BlacklistFreeze { domain, frozen: false }, done, "it was not frozen")
        }
        Verb::Stats => stats(&admin.call(&Call::BlacklistStats)?, output),
    }
}

fn exemptions(rows: &Vec<ExemptRow>, output: Output) -> anyhow::Result<()> {
    output.print(rows, &["ADDRESS", "UNTIL", "REASON"], |rows| {
        let until = |row: &ExemptRow| row.exemption.until.clone().unwrap_or("for ever".to_owned());
        let row =
            |row: &ExemptRow| vec![row.address.clone(), until(row), row.exemption.reason.clone()];
        rows.iter().map(row).collect()
    })
}

fn stats(stats: &BlacklistStats, output: Output) -> anyhow::Result<()> {
    let header = ["TRACKED", "LISTED", "TRUSTED", "EXEMPT", "EVENTS THAT WAIT HERE"];
    output.print(stats, &header, |stats| {
        let counts = [
            stats.tracked.to_string(),
            stats.listed.to_string(),
            stats.trusted.to_string(),
            stats.exempt.to_string(),
            stats.waiting.to_string(),
        ];
        vec![counts.to_vec()]
    })?;
    if output == Output::Json || stats.frozen_domains.is_empty() {
        return Ok(());
    }
    output.print(&stats.frozen_domains, &["FROZEN DOMAIN", "SINCE", "UNTIL", "WHY"], |rows| {
        let until = |row: &FrozenRow| row.until.clone().unwrap_or_else(|| "thawed".to_owned());
        let row = |r: &FrozenRow| vec![r.domain.clone(), r.since.clone(), until(r), r.why.clone()];
        rows.iter().map(row).collect()
    })
}

fn show(entry: &BlacklistEntryRow, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        return write_out(&serde_json::to_string_pretty(entry)?);
    }
    let state = match (&entry.until, &entry.exempt) {
        (Some(until), _) => format!("is refused until {until}"),
        (None, Some(exempt)) => match &exempt.until {
            Some(until) => format!("is never listed until {until}: {}", exempt.reason),
            None => format!("is never listed: {}", exempt.reason),
        },
        (None, None) => match &entry.trusted_until {
            Some(until) => format!("got mail, and is not listed until {until} whatever happens"),
            None => "is not listed".to_owned(),
        },
    };
    write_out(&super::output::clean(&format!("{} {state}", entry.address)))?;
    output.print(&entry.rejections, &["REJECTED", "SEEN BY", "REPLY"], |rows| {
        let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        rows.iter().map(|r| vec![r.at.clone(), known(&r.node), known(&r.reply)]).collect()
    })
}
