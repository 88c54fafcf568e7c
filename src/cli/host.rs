//! `mxfleet host`.

use std::io::IsTerminal as _;
use std::net::IpAddr;

use anyhow::bail;
use clap::Subcommand;

use super::output::{counted, print_one, write_out};
use super::when::when;
use super::{Output, drain};
use crate::http::call::{Call, Changed, HostCall, HostRow};
use crate::http::client::Admin;

/// What can be done with hosts.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// All hosts: whether they serve, what they carry, how a drain goes.
    ///
    /// LOAD is what comes now: messages a day of the customers of a host's names, three parts for a
    /// customer's first name, one for each other, and one message for a customer who gets none.
    List,
    /// One host.
    Show {
        /// Its name.
        name: String,
    },
    /// Say where mail reaches a host: the addresses that DNS shall say of the MX names that point
    /// at it.
    #[command(after_help = "Example: mxfleet host set mx1 --address 192.0.2.1 \
        --address 2001:db8::1")]
    Set {
        /// Its name.
        name: String,
        /// An address; all of them, each with its own --address.
        #[arg(long = "address", value_name = "ADDRESS", required = true)]
        addresses: Vec<IpAddr>,
    },
    /// Empty a host: its names go to others, then it takes no new mail and hands over its queue,
    /// then its lead and its vote. `host resume` takes it back at any time. Given again, it shows how
    /// far it is, as on a terminal or with --watch; with --deadline it changes the deadline.
    Drain {
        /// Its name.
        name: String,
        /// When it must be empty: a time, or 48h from now. Shown beside the progress; past it the
        /// drain goes on, is shown as late, and raises an alert.
        #[arg(long, value_name = "TIME", value_parser = when)]
        deadline: Option<u64>,
        /// Show how far it is until it is done, as on a terminal anyway; with --output json a line
        /// for each step. Whoever stops watching stops nothing.
        #[arg(long)]
        watch: bool,
    },
    /// Take a host into service again, with the names it had.
    Resume {
        /// Its name.
        name: String,
    },
    /// Take a host out of service. Refused while it has names or mail, unless forced.
    Retire {
        /// Its name.
        name: String,
        /// Even if it has names or mail, as when it is lost: the mail in its queue is not
        /// delivered, and its names fail until DNS says another host.
        #[arg(long)]
        force: bool,
    },
}

pub(super) fn call(verb: Verb, admin: &Admin, output: Output) -> anyhow::Result<()> {
    let change = |call: HostCall, words: String| {
        let changed: Changed = admin.call(&Call::Host(call))?;
        output.say(&changed, &words)
    };
    match verb {
        Verb::List => rows(&admin.call(&Call::Host(HostCall::List))?, output),
        Verb::Show { name } => {
            let row: HostRow = admin.call(&Call::Host(HostCall::Show { name }))?;
            print_one(row, output, rows)
        }
        Verb::Set { name, addresses } => {
            let set = Call::Host(HostCall::Set { name: name.clone(), addresses });
            let changed: Changed = admin.call(&set)?;
            let row: HostRow = admin.call(&Call::Host(HostCall::Show { name: name.clone() }))?;
            let words = match row.names.is_empty() {
                true => format!("{name} has these addresses; no MX name points at it yet"),
                false => format!(
                    "{name} has these addresses. DNS is still to say them of {}; `mxfleet name \
                     list` shows what is in its way, if anything is",
                    row.names.join(", ")
                ),
            };
            output.say(&changed, &words)
        }
        Verb::Drain { name, deadline, watch } => {
            let row = not_retired(&name, admin)?;
            let drain = HostCall::Drain { name: name.clone(), deadline_ms: deadline };
            let person = output == Output::Table && std::io::stderr().is_terminal();
            if !watch && !person {
                let words =
                    format!("{name} is being drained; `mxfleet host show {name}` shows how far");
                return change(drain, words);
            }
            // Whoever was cut off from watching may watch again.
            if row.drain.is_none() || deadline.is_some() {
                admin.call::<Changed>(&Call::Host(drain))?;
            }
            drain::watch(&name, admin, output)
        }
        Verb::Resume { name } => {
            let words = format!("{name} is in service, and gets back the names it had");
            change(HostCall::Resume { name }, words)
        }
        Verb::Retire { name, force } => {
            not_retired(&name, admin)?;
            if force {
                warn_of_loss(&name, admin)?;
            }
            retire(&name, force, admin, output)
        }
    }
}

/// Whoever empties a host that is out already hears how it is.
fn not_retired(name: &str, admin: &Admin) -> anyhow::Result<HostRow> {
    let row = admin.call::<HostRow>(&Call::Host(HostCall::Show { name: name.to_owned() }))?;
    match retired(&row) {
        Some(words) => bail!("{words}; `mxfleet host resume {name}` takes it into service again"),
        None => Ok(row),
    }
}

/// How a retired host is.
fn retired(row: &HostRow) -> Option<String> {
    let (name, since) = (&row.name, row.retired.as_ref()?);
    Some(match (row.retired_empty, &row.vote_waits_for) {
        (true, None) => {
            format!("{name} is retired since {since}: it was empty, and may be switched off")
        }
        (true, Some(what)) => format!(
            "{name} is retired since {since}: it was empty; it still votes, so leave it on: that \
             waits for {what}"
        ),
        (false, _) => format!(
            "{name} is retired since {since}, by force: mail that was in its queue is on its disk, \
             and only there"
        ),
    })
}

fn retire(name: &str, force: bool, admin: &Admin, output: Output) -> anyhow::Result<()> {
    let retire = Call::Host(HostCall::Retire { name: name.to_owned(), force });
    let changed: Changed = admin.call(&retire)?;
    let row: HostRow = admin.call(&Call::Host(HostCall::Show { name: name.to_owned() }))?;
    let words = match row.vote_waits_for {
        Some(what) if row.answers != "down" => format!(
            "{name} is out of service; it still votes, so leave it on until `mxfleet host show \
             {name}` says no more of that; it waits for {what}"
        ),
        _ => format!("{name} is out of service; it may be switched off"),
    };
    output.say(&changed, &words)
}

/// What is lost by force is said, whatever comes of it.
fn warn_of_loss(name: &str, admin: &Admin) -> anyhow::Result<()> {
    let row: HostRow = admin.call(&Call::Host(HostCall::Show { name: name.to_owned() }))?;
    let left = row.drain.and_then(|drain| drain.mail_left);
    let mail = match left {
        Some(left) => format!("{} in its queue", counted(left, "message")),
        None => "whatever is in its queue".to_owned(),
    };
    let names: Vec<&str> = row.names.iter().chain(&row.former_names).map(String::as_str).collect();
    let names = match names.is_empty() {
        true => String::new(),
        false => format!("; mail by {} fails until DNS says another host", names.join(", ")),
    };
    eprintln!("{}", super::output::clean(&format!("lost with {name}: {mail}{names}")));
    Ok(())
}

fn rows(hosts: &Vec<HostRow>, output: Output) -> anyhow::Result<()> {
    let header = ["HOST", "STATE", "NAMES", "LOAD", "ADDRESSES", "VERSION"];
    output.print(hosts, &header, |hosts| {
        let row = |host: &HostRow| {
            let addresses: Vec<String> = host.addresses.iter().map(ToString::to_string).collect();
            vec![
                host.name.clone(),
                match host.answers.as_str() {
                    "down" => format!("{}, down", host.state),
                    _ => host.state.clone(),
                },
                or_dash(names_of(host)),
                host.load.to_string(),
                or_dash(addresses.join(" ")),
                host.version.clone(),
            ]
        };
        hosts.iter().map(row).collect()
    })?;
    if output == Output::Table {
        if hosts.iter().any(|host| !host.former_names.is_empty()) {
            write_out("\n(in brackets): led there before, and resolvers may not have forgotten")?;
        }
        for words in hosts.iter().filter_map(retired) {
            write_out(&super::output::clean(&format!("\n{words}")))?;
        }
        for host in hosts {
            let Some(drain) = &host.drain else { continue };
            let by = match &drain.deadline {
                Some(by) if drain.late => format!(", LATE, it was to be empty by {by}"),
                Some(by) => format!(", to be empty by {by}"),
                None => String::new(),
            };
            let line =
                format!("\n{} drains since {}{by}: {}", host.name, drain.since, drain.waits_for);
            write_out(&super::output::clean(&line))?;
        }
        for host in hosts.iter().filter(|host| host.drain.is_none()) {
            let Some(what) = &host.vote_waits_for else { continue };
            let line =
                format!("\n{} still votes: leave it on; its vote waits for {what}", host.name);
            write_out(&super::output::clean(&line))?;
        }
    }
    Ok(())
}

/// Names that lead to a host, and in brackets those that did.
fn names_of(host: &HostRow) -> String {
    let former = host.former_names.iter().map(|name| format!("({name})"));
    host.names.iter().cloned().chain(former).collect::<Vec<_>>().join(" ")
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}
