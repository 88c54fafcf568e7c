//! `mxfleet migration`.

use clap::Subcommand;

use super::Output;
use super::name::print_loads;
use super::output::{clean, counted, write_out};
use super::when::when;
use crate::http::call::{Call, Changed, FinishRow, MigrationCall, MigrationRow, StepRow};
use crate::http::client::Admin;

/// Customers that a table shows, unless all are asked for.
const SHOWN_MAX: usize = 50;
/// Suspended customers that are named when names end.
const LEFT_OUT_MAX: usize = 10;

/// What can be done with migrations.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Plan a change of MX names. Shows every customer's new names and every host's load; nothing
    /// changes and nobody is told yet.
    #[command(after_help = "Example:\n  \
        mxfleet migration plan --retire mx1.relay.example \\\n    \
        --introduce mx-e.relay.example=mx5 --ends 2010-05-31 --text \"mx1 goes away.\"")]
    Plan {
        /// A name that ends; may be repeated.
        #[arg(long, value_name = "NAME")]
        retire: Vec<String>,
        /// A name that begins, and its host; may be repeated. Where none ends, customers change to
        /// it for balance, as few as that takes, and only they are told.
        #[arg(long, value_name = "NAME=HOST", value_parser = introduced)]
        introduce: Vec<(String, String)>,
        /// When names end: a time, a day, or 35d from now.
        #[arg(long, value_name = "TIME", value_parser = when)]
        ends: u64,
        /// Why, in your words; it is in the mail to customers.
        #[arg(long, default_value = "")]
        text: String,
    },
    /// Put new names into DNS, tell every active customer by mail, open a notice.
    Announce,
    /// Who was told, who has moved, who would break.
    ///
    /// LOAD is what hosts carry now (see `host list`), LOAD AFTER when all customers have moved.
    Status {
        /// Every customer, and not only those there is something to say about.
        #[arg(long)]
        all: bool,
    },
    /// Write again to those who have not moved.
    Remind,
    /// The old names end. Happens by itself at the date, unless a customer would break.
    Finish {
        /// Even if customers still use the old names: their mail is lost.
        #[arg(long)]
        force: bool,
    },
    /// Put everything back to how it was, and tell who was written to. A new name that a customer
    /// was seen to use stays.
    Cancel,
}

pub(super) fn call(verb: Verb, admin: &Admin, output: Output) -> anyhow::Result<()> {
    let change = |call: MigrationCall, words: &str| {
        let changed: Changed = admin.call(&Call::Migration(call))?;
        output.say(&changed, words)
    };
    match verb {
        Verb::Plan { retire, introduce, ends, text } => {
            let plan = MigrationCall::Plan { retire, introduce, ends_ms: ends, text };
            show(&admin.call(&Call::Migration(plan))?, true, output)
        }
        Verb::Status { all } => {
            show(&admin.call(&Call::Migration(MigrationCall::Status))?, all, output)
        }
        Verb::Announce => change(
            MigrationCall::Announce,
            "announced: customers are told once DNS has the new names; `mxfleet migration status` \
             shows how far",
        ),
        Verb::Remind => change(MigrationCall::Remind, "who has not moved is written to again"),
        Verb::Finish { force } => {
            let row: FinishRow = admin.call(&Call::Migration(MigrationCall::Finish { force }))?;
            output.say(&row, &format!("the old names leave DNS{}", left_out(&row.left_out)))
        }
        Verb::Cancel => {
            // If there is none, the cancellation says so.
            let known = admin.call::<MigrationRow>(&Call::Migration(MigrationCall::Status));
            let words = match known.is_ok_and(|row| row.state == "planned") {
                true => "cancelled: nobody was told of the plan, and nothing had changed",
                false => "cancelled: everything goes back; who was written to is told by mail",
            };
            change(MigrationCall::Cancel, words)
        }
    }
}

/// Customers that the end of names leaves out, in words.
fn left_out(customers: &[String]) -> String {
    if customers.is_empty() {
        return String::new();
    }
    let shown = customers.iter().take(LEFT_OUT_MAX).cloned().collect::<Vec<_>>().join(", ");
    let more = if customers.len() > LEFT_OUT_MAX { ", ..." } else { "" };
    format!(
        "; {} with these names or none that are known ({shown}{more}) lose mail once they are \
         resumed, and are told then; `mxfleet migration status` names all",
        counted(customers.len() as u64, "suspended customer")
    )
}

fn introduced(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, host)) if !name.is_empty() && !host.is_empty() => {
            Ok((name.to_owned(), host.to_owned()))
        }
        _ => Err("is not NAME=HOST, such as mx-e.relay.example=mx5".to_owned()),
    }
}

fn show(row: &MigrationRow, all: bool, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        return write_out(&serde_json::to_string_pretty(row)?);
    }
    let told = |word: &str| row.customers.iter().filter(|step| step.told == word).count();
    let breaks = row.customers.iter().filter(|step| step.would_break).count();
    let records = |word: &str| row.customers.iter().filter(|step| step.records == word).count();
    let moves = row.customers.iter().filter(|step| step.before != step.after).count();
    write_out(&clean(&format!(
        "migration {}, {}: {} end {}, {} begin",
        row.id,
        row.state,
        listed(&row.retire),
        row.ends,
        listed(&row.introduce)
    )))?;
    write_out(&format!(
        "names change for {}\n\
         {}: {} accepted, {} on their way, {} bounced, {} without contact, {} not told\n\
         MX records: {} moved, {} with old names, {} with none of ours, {} not known\n\
         {breaks} would lose mail if the old names ended now\n",
        counted(moves as u64, "customer"),
        counted(row.customers.len() as u64, "customer"),
        told("accepted"),
        told("sending"),
        told("bounced"),
        told("no contact"),
        told("not yet"),
        records("moved"),
        records("old"),
        records("elsewhere"),
        records("unknown"),
    ))?;
    let left_out = row.customers.iter().filter(|step| is_left_out(step)).count();
    if left_out > 0 {
        write_out(&format!(
            "{} would lose mail once resumed; nobody tells them before, and they hold no end up\n",
            counted(left_out as u64, "suspended customer")
        ))?;
    }
    if let Some(waits_for) = &row.waits_for {
        write_out(&clean(&format!("letters wait for {waits_for}\n")))?;
    }
    print_loads(&row.loads, output)?;
    if let Some(words) = rebalance(row) {
        write_out(&clean(&words))?;
    }
    let stands_out = |step: &StepRow| {
        let told_badly = matches!(step.told.as_str(), "bounced" | "no contact");
        step.would_break || is_left_out(step) || told_badly || step.records == "elsewhere"
    };
    let steps: Vec<&StepRow> =
        row.customers.iter().filter(|step| all || stands_out(step)).collect();
    if steps.is_empty() {
        return Ok(());
    }
    write_out("")?;
    print_steps(&steps, all, output)
}

/// What evens out the hosts' loads after a plan that leaves them uneven.
fn rebalance(row: &MigrationRow) -> Option<String> {
    let moves: Vec<String> =
        row.rebalance.iter().map(|step| format!("{} to {}", step.name, step.to)).collect();
    (!moves.is_empty()).then(|| {
        format!(
            "\nfor equal loads, when customers have changed, `mxfleet name rebalance` would move \
             {}; that asks nothing of customers",
            moves.join(", ")
        )
    })
}

fn is_left_out(step: &StepRow) -> bool {
    step.suspended && step.why.is_some()
}

fn print_steps(steps: &[&StepRow], all: bool, output: Output) -> anyhow::Result<()> {
    let most = if all { usize::MAX } else { SHOWN_MAX };
    let header = ["CUSTOMER", "NAMES", "NEW NAMES", "TOLD", "MX RECORDS", "WOULD BREAK"];
    let shown: Vec<&StepRow> = steps.iter().take(most).copied().collect();
    output.print(&shown, &header, |steps| {
        let row = |step: &&StepRow| {
            let told = match &step.why_not_told {
                Some(why) => format!("{}: {why}", step.told),
                None => step.told.clone(),
            };
            vec![
                step.customer.clone(),
                step.before.join(" "),
                step.after.join(" "),
                told,
                step.records.clone(),
                step.why.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        };
        steps.iter().map(row).collect()
    })?;
    if steps.len() > most {
        write_out(&format!("and {} more; --all shows every customer", steps.len() - most))?;
    }
    Ok(())
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
