//! `mxfleet name`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Subcommand;

use super::Output;
use super::output::{clean, counted, print_one, write_out};
use super::when::when;
use crate::connection::CertificatePair;
use crate::http::call::{
    Call, CertAdded, CertRow, Changed, KeyPem, LoadRow, NameCall, NameRow, RebalanceRow,
};
use crate::http::client::Admin;

/// What is in the way in DNS is said of so many names; `name show` says it of each.
const FAULTS_SHOWN_MAX: usize = 5;

/// What can be done with MX names.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Add a name. It goes into DNS, and once it is there new customers are given it; those who
    /// have too few names get it by `name rebalance`.
    #[command(after_help = "Example: mxfleet name add mx-a.relay.example --host mx1")]
    Add {
        /// The name, below the service's zone (the setting rotation.zone).
        name: String,
        /// The host it belongs to.
        #[arg(long)]
        host: String,
        /// Not before this time.
        #[arg(long = "at", value_name = "TIME", value_parser = when)]
        from_ms: Option<u64>,
        /// DNS has it already, on every server: I made sure.
        #[arg(long)]
        published: bool,
    },
    /// All names: where they point, who has them, what they wait for.
    List {
        /// Those that were removed, too; they are never used again.
        #[arg(long)]
        all: bool,
    },
    /// One name.
    Show {
        /// Which.
        name: String,
    },
    /// Point a name at another host. It counts as moved once every name server says so.
    #[command(after_help = "Examples:\n  \
        mxfleet name point mx-a.relay.example mx2              until mx1 is back\n  \
        mxfleet name point mx-a.relay.example mx2 --home       for good\n  \
        mxfleet name point mx-a.relay.example --cancel")]
    Point {
        /// Which.
        name: String,
        /// The host.
        #[arg(required_unless_present = "cancel")]
        host: Option<String>,
        /// Not before this time; the time to live is lowered ahead of it.
        #[arg(long = "at", value_name = "TIME", value_parser = when)]
        from_ms: Option<u64>,
        /// It belongs to that host from now on.
        #[arg(long)]
        home: bool,
        /// DNS says so already, on every server: I made sure.
        #[arg(long)]
        published: bool,
        /// Take back a change that has not come about.
        #[arg(long, conflicts_with_all = ["host", "from_ms", "home", "published"])]
        cancel: bool,
    },
    /// Give a name an end. At that time it leaves DNS, unless customers still use it.
    Retire {
        /// Which.
        name: String,
        /// When: a time, a day, or 30d from now.
        #[arg(long = "at", value_name = "TIME", value_parser = when)]
        #[arg(required_unless_present = "cancel")]
        at_ms: Option<u64>,
        /// Take the end back.
        #[arg(long, conflicts_with = "at_ms")]
        cancel: bool,
    },
    /// Take a name out of DNS for good; it is never used again.
    Remove {
        /// Which.
        name: String,
        /// Even before its end, and if customers still use it: their mail is lost. They are not
        /// told; `name rebalance` gives them another.
        #[arg(long)]
        force: bool,
        /// DNS has forgotten it already, on every server: I made sure.
        #[arg(long)]
        published: bool,
    },
    /// The records of all names, as a zone file.
    Zone,
    /// Certificates of names: every node shows them, wherever the names point.
    #[command(subcommand)]
    Cert(CertVerb),
    /// Move the fewest names so that no host has much more to do than it must, and give more names
    /// to customers who have fewer than rotation.names_per_customer.
    Rebalance {
        /// Only show what would be done.
        #[arg(long)]
        dry_run: bool,
    },
}

/// What can be done with certificates.
#[derive(Debug, Subcommand)]
pub(super) enum CertVerb {
    /// Add a certificate, or replace the one whose first name is the same. The key is kept sealed.
    ///
    /// While senders know keys of its names from TLSA records (rotation.tlsa), one with another key
    /// waits: DNS says both keys first. `list` shows what it waits for, `remove` takes it back.
    #[command(after_help = "Example: mxfleet name cert add --cert chain.pem --key key.pem")]
    Add {
        /// The chain, leaf first, as PEM.
        #[arg(long, value_name = "FILE")]
        cert: PathBuf,
        /// Its key, as PEM.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// DNS says its key already, on every server: I made sure.
        #[arg(long)]
        published: bool,
    },
    /// All certificates, when they end, and what those wait for that are not shown yet.
    List,
    /// Remove a certificate; if another waits to replace it, only that one.
    Remove {
        /// The first of its names.
        name: String,
        /// DNS has no TLSA records of its names any more, on every server: I made sure.
        #[arg(long)]
        published: bool,
    },
}

fn cert(verb: CertVerb, admin: &Admin, output: Output) -> anyhow::Result<()> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    match verb {
        CertVerb::Add { cert, key, published } => {
            let (chain_pem, key_pem) = (read(&cert)?, KeyPem(read(&key)?));
            let names = names_in(&chain_pem, &key_pem)?;
            let call = Call::Name(NameCall::CertAdd { chain_pem, key_pem, published });
            let added: CertAdded = admin.call(&call)?;
            let words = match &added.waits_for {
                Some(waits_for) => format!("the certificate is kept, and waits for {waits_for}"),
                None => "every node shows the certificate from now on".to_owned(),
            };
            output.say(&added, &words)?;
            warn_of_foreign(&names, admin)
        }
        CertVerb::Remove { name, published } => {
            let words = format!("the certificate called by {name} is removed");
            let call = Call::Name(NameCall::CertRemove { name, published });
            let changed: Changed = admin.call(&call)?;
            output.say(&changed, &words)
        }
        CertVerb::List => {
            let rows: Vec<CertRow> = admin.call(&Call::Name(NameCall::CertList))?;
            output.print(&rows, &["ENDS", "NAMES", "WAITS FOR"], |rows| {
                let row = |row: &CertRow| {
                    let waits_for = or_dash(row.waits_for.as_ref());
                    vec![row.ends.clone(), row.names.join(" "), waits_for]
                };
                rows.iter().map(row).collect()
            })
        }
    }
}

/// The names a certificate is for.
fn names_in(chain_pem: &str, key_pem: &KeyPem) -> anyhow::Result<Vec<String>> {
    let names = CertificatePair::parse(chain_pem.as_bytes(), key_pem.0.as_bytes())?.names;
    if names.is_empty() {
        bail!(
            "the certificate has no DNS name among its subject alternative names, and senders look \
             at nothing else, also at no CN"
        );
    }
    Ok(names)
}

/// A certificate for names of others is of use only if they become ours.
fn warn_of_foreign(names: &[String], admin: &Admin) -> anyhow::Result<()> {
    let rows: Vec<NameRow> = admin.call(&Call::Name(NameCall::List))?;
    let is_ours = |name: &&String| {
        rows.iter().any(|row| {
            let parent = row.name.split_once('.').map_or("", |(_, parent)| parent);
            row.name == **name || name.strip_prefix("*.") == Some(parent)
        })
    };
    let foreign: Vec<&str> =
        names.iter().filter(|name| !is_ours(name)).map(String::as_str).collect();
    if !foreign.is_empty() {
        let words = format!("warning: the fleet has no MX name {}", foreign.join(", "));
        eprintln!("{}", clean(&words));
    }
    Ok(())
}

pub(super) fn call(verb: Verb, admin: &Admin, output: Output) -> anyhow::Result<()> {
    let change = |call: NameCall, words: String| {
        let changed: Changed = admin.call(&Call::Name(call))?;
        output.say(&changed, &words)
    };
    match verb {
        Verb::List { all } => {
            let mut names: Vec<NameRow> = admin.call(&Call::Name(NameCall::List))?;
            names.retain(|row| all || row.state != "removed");
            rows(&names, output)
        }
        Verb::Show { name } => {
            let row: NameRow = admin.call(&Call::Name(NameCall::Show { name }))?;
            print_one(row, output, rows)
        }
        Verb::Cert(verb) => cert(verb, admin, output),
        Verb::Zone => {
            let zone: String = admin.call(&Call::Name(NameCall::Zone))?;
            match output {
                Output::Table => write_out(zone.trim_end()),
                Output::Json => write_out(&serde_json::to_string_pretty(&zone)?),
            }
        }
        Verb::Rebalance { dry_run } => {
            rebalance(&admin.call(&Call::Name(NameCall::Rebalance { dry_run }))?, output)
        }
        Verb::Add { name, host, from_ms, published } => {
            let add = NameCall::Add { name: name.clone(), host: host.clone(), from_ms, published };
            point_at(&name, &host, add, admin, output)
        }
        Verb::Point { name, host: None, .. } => {
            let words = format!("{name} stays where it is");
            change(NameCall::Stay { name }, words)
        }
        Verb::Point { name, host: Some(host), from_ms, home, published, .. } => {
            let point = NameCall::Point {
                name: name.clone(),
                host: host.clone(),
                from_ms,
                home,
                published,
            };
            point_at(&name, &host, point, admin, output)
        }
        Verb::Retire { name, at_ms: Some(at_ms), .. } => {
            let words = format!("{name} has an end; `mxfleet name list` shows it");
            change(NameCall::Retire { name, at_ms }, words)
        }
        Verb::Retire { name, .. } => {
            let words = format!("{name} stays");
            change(NameCall::Keep { name }, words)
        }
        Verb::Remove { name, force, published } => {
            let words = format!("{name} is gone once DNS has forgotten it");
            change(NameCall::Remove { name, force, published }, words)
        }
    }
}

/// Point a name, new or not, at a host, and say what comes of it.
fn point_at(
    name: &str,
    host: &str,
    call: NameCall,
    admin: &Admin,
    output: Output,
) -> anyhow::Result<()> {
    let changed: Changed = admin.call(&Call::Name(call))?;
    let row: NameRow = admin.call(&Call::Name(NameCall::Show { name: name.to_owned() }))?;
    output.say(&changed, &pointed(&row, host, changed.changed))?;
    if row.customers_on_one_host > 0 {
        let customers = counted(row.customers_on_one_host, "customer");
        let words = format!(
            "warning: {customers} then have two of their names at {host}, and no mail when it fails"
        );
        eprintln!("{}", clean(&words));
    }
    Ok(())
}

/// What comes of pointing a name at a host.
fn pointed(row: &NameRow, host: &str, changed: u64) -> String {
    let name = &row.name;
    match (&row.moves_to, &row.moves_from) {
        (Some(_), Some(date)) => {
            format!("{name} will point at {host} from {date} on, once DNS says so")
        }
        (Some(_), None) => format!("{name} will point at {host} once DNS says so"),
        (None, _) if changed == 0 => format!("{name} points at {host} already"),
        (None, _) => format!("{name} points at {host}"),
    }
}

fn rows(names: &Vec<NameRow>, output: Output) -> anyhow::Result<()> {
    let header =
        ["NAME", "STATE", "HOME", "POINTS AT", "CUSTOMERS", "ENDS", "CERTIFICATE", "WAITS FOR"];
    output.print(names, &header, |names| {
        let row = |row: &NameRow| {
            let points_at = match (&row.points_at, &row.moves_to) {
                (Some(at), None) if row.is_down => format!("{at} (down)"),
                (at, None) => or_dash(at.as_ref()),
                (None, Some(to)) => format!("-> {to}"),
                (Some(at), Some(to)) if row.is_down => format!("{at} (down) -> {to}"),
                (Some(at), Some(to)) => format!("{at} -> {to}"),
            };
            // What is in the way is said below, of all names once.
            let waits_for = row.waits_for.as_ref().map(|waits| {
                let faults = [&row.dns_fault, &row.certificate_fault].into_iter().flatten();
                let mut short =
                    faults.filter_map(|fault| waits.strip_suffix(&format!(": {fault}")));
                short.next().unwrap_or(waits).to_owned()
            });
            vec![
                row.name.clone(),
                row.state.clone(),
                row.home.clone(),
                points_at,
                row.customers.to_string(),
                or_dash(row.ends.as_ref()),
                or_dash(row.certificate_ends.as_ref()),
                or_dash(waits_for.as_ref()),
            ]
        };
        names.iter().map(row).collect()
    })?;
    if output == Output::Table {
        let faults: BTreeSet<&String> =
            names.iter().filter_map(|row| row.dns_fault.as_ref()).collect();
        for fault in faults.into_iter().take(FAULTS_SHOWN_MAX) {
            write_out(&clean(&format!("\nDNS is not as it shall be: {fault}")))?;
        }
        for row in names {
            if let Some(fault) = &row.certificate_fault {
                write_out(&clean(&format!("\n{} gets no certificate: {fault}", row.name)))?;
            }
            if let Some(what) = &row.certificate_waits_for {
                let words =
                    format!("\na certificate of {} with another key waits for {what}", row.name);
                write_out(&clean(&words))?;
            }
        }
    }
    Ok(())
}

fn rebalance(row: &RebalanceRow, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        return write_out(&serde_json::to_string_pretty(row)?);
    }
    print_loads(&row.loads, output)?;
    let will = if row.done { "" } else { "would " };
    if row.customers > 0 {
        let get = if row.done { "got" } else { "get" };
        let customers = counted(row.customers, "customer");
        write_out(&format!("\n{customers} with too few names {will}{get} more"))?;
    }
    if row.moves.is_empty() {
        return write_out("\nno name needs to move");
    }
    write_out(&format!("\nmoves that {}:", if row.done { "were begun" } else { "would be made" }))?;
    output.print(&row.moves, &["NAME", "FROM", "TO"], |moves| {
        let row = |row: &crate::http::call::MoveRow| {
            vec![row.name.clone(), or_dash(row.from.as_ref()), row.to.clone()]
        };
        moves.iter().map(row).collect()
    })
}

pub(super) fn print_loads(loads: &Vec<LoadRow>, output: Output) -> anyhow::Result<()> {
    output.print(loads, &["HOST", "LOAD", "LOAD AFTER"], |loads| {
        let row =
            |row: &LoadRow| vec![row.host.clone(), row.before.to_string(), row.after.to_string()];
        loads.iter().map(row).collect()
    })
}

fn or_dash(text: Option<&String>) -> String {
    text.cloned().unwrap_or_else(|| "-".to_owned())
}
