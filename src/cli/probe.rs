//! `mxfleet probe`.

use std::collections::HashMap;

use clap::Subcommand;

use super::Output;
use crate::client::Grade;
use crate::http::call::Call;
use crate::http::client::Admin;
use crate::http::probe::ProbeRow;
use crate::probe::{Finding, SideBySide, Tool, What};

/// What can be looked at.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// The servers that mail for a customer's domain is passed on to, from every node side by side.
    /// Nothing is sent: the dialog ends after RCPT for postmaster. Fails when mail does not come
    /// through somewhere, or a node does not answer.
    #[command(after_help = "Examples:\n  mxfleet probe mx acme.test\n  \
        mxfleet probe mx acme.test --output json")]
    Mx {
        /// The domain.
        domain: String,
    },
    /// The dialog with each server as it is said, from every node side by side: EHLO, STARTTLS,
    /// MAIL FROM:<>, RCPT for postmaster, QUIT. Nothing is sent.
    #[command(after_help = "Example:\n  mxfleet probe smtp acme.test")]
    Smtp {
        /// The domain.
        domain: String,
    },
    /// ICMP echoes to each server, and how long a connection to it takes, from every node side by
    /// side.
    #[command(after_help = "Example:\n  mxfleet probe ping acme.test\n\n\
        Echoes need no root where the host's net.ipv4.ping_group_range has the node's group.")]
    Ping {
        /// The domain.
        domain: String,
    },
    /// The routers on the way to each server, and whether its port is open, from every node side by
    /// side.
    #[command(after_help = "Example:\n  mxfleet probe traceroute acme.test")]
    Traceroute {
        /// The domain.
        domain: String,
    },
}

pub(super) fn call(verb: Verb, admin: &Admin, output: Output) -> anyhow::Result<()> {
    let (tool, domain) = match verb {
        Verb::Mx { domain } => (Tool::Mx, domain),
        Verb::Smtp { domain } => (Tool::Smtp, domain),
        Verb::Ping { domain } => (Tool::Ping, domain),
        Verb::Traceroute { domain } => (Tool::Traceroute, domain),
    };
    let rows: Vec<ProbeRow> = admin.call(&Call::Probe { tool, domain })?;
    let mut nodes: Vec<String> = rows.iter().map(|row| row.node.clone()).collect();
    nodes.dedup();
    let columns = nodes.iter().map(String::as_str);
    let header: Vec<&str> =
        ["SERVER", "ADDRESS", heading(tool)].into_iter().chain(columns).collect();
    output.print(&rows, &header, |rows| cells(rows, &nodes))?;
    judge(tool, &rows, nodes)
}

fn heading(tool: Tool) -> &'static str {
    match tool {
        Tool::Mx => "STEP",
        Tool::Smtp => "WHO",
        Tool::Ping => "WHAT",
        Tool::Traceroute => "HOP",
    }
}

/// What is wrong, and for whom.
fn judge(tool: Tool, rows: &[ProbeRow], nodes: Vec<String>) -> anyhow::Result<()> {
    let mut seen = SideBySide::of(nodes);
    for row in rows {
        let grade = row.finding.as_ref().and_then(|finding| finding.grade);
        if let (Some(server), Some(grade)) = (&row.server, grade) {
            seen.add(&row.node, server, row.address.as_deref(), grade);
        }
    }
    let mut faults = seen.differences();
    if faults.is_empty() && seen.worst() == Some(Grade::Bad) {
        faults.push(match tool {
            Tool::Mx | Tool::Smtp => "mail does not come through at some server".to_owned(),
            Tool::Ping | Tool::Traceroute => "some server cannot be reached".to_owned(),
        });
    }
    for row in rows {
        faults.extend(row.silent.as_ref().map(|why| format!("{} {why}", row.node)));
    }
    match faults.is_empty() {
        true => Ok(()),
        false => anyhow::bail!(faults.join("; ")),
    }
}

/// One line for each thing looked at, one column for each node.
fn cells(rows: &[ProbeRow], nodes: &[String]) -> Vec<Vec<String>> {
    let mut table: Vec<Vec<String>> = Vec::new();
    let mut places = HashMap::new();
    // A step may be told of twice, and who speaks has many lines: the nth goes with the nth.
    let mut times: HashMap<_, usize> = HashMap::new();
    for row in rows {
        let Some(finding) = &row.finding else { continue };
        let what = (row.server.clone(), row.address.clone(), label(&finding.what));
        let nth = times.entry((row.node.clone(), what.clone())).or_default();
        *nth += 1;
        let place = *places.entry((what.clone(), *nth)).or_insert_with(|| {
            let cell = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
            let mut line = vec![cell(what.0), cell(what.1), what.2];
            line.resize(3 + nodes.len(), "-".to_owned());
            table.push(line);
            table.len() - 1
        });
        let column = nodes.iter().position(|node| *node == row.node).unwrap_or_default();
        table[place][3 + column] = words(finding);
    }
    table
}

/// Steps and speakers are called as in JSON.
fn label(what: &What) -> String {
    let word = match what {
        What::Step { step } => serde_json::to_value(step),
        What::Line { by } => serde_json::to_value(by),
        What::Echo { .. } => Ok("echo".into()),
        What::Port { .. } => Ok("port".into()),
        What::Hop { hop, .. } => return hop.to_string(),
    };
    word.ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

fn words(finding: &Finding) -> String {
    match finding.grade {
        Some(Grade::Bad) => format!("bad: {}", finding.words),
        Some(Grade::Fair) => format!("fair: {}", finding.words),
        Some(Grade::Good) | None => finding.words.clone(),
    }
}
