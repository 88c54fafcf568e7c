//! `mxfleet domain`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};

use super::Output;
use crate::http::call::{Call, Changed, DomainRow};
use crate::http::client::Admin;

/// What can be done with domains.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Add a domain.
    #[command(after_help = "Examples:\n  \
        mxfleet domain add acme.test --customer acme --route mail.acme.test:25\n  \
        mxfleet domain add acme.test --customer acme --route mx --tls require")]
    Add {
        /// The domain.
        name: String,
        /// Who owns it.
        #[arg(long)]
        customer: String,
        /// `host:port[,host:port]`, the first preferred (`=` between equal ones), or `mx`.
        #[arg(long)]
        route: String,
        /// `opportunistic`, `require`, or `pinned:NAME[,NAME]`.
        #[arg(long, default_value = "opportunistic", value_name = "POLICY")]
        tls: String,
        /// Limit of connections to its servers from one node.
        #[arg(long, value_name = "COUNT")]
        connections_max: Option<u32>,
    },
    /// All domains.
    List,
    /// One domain.
    Show {
        /// The domain.
        name: String,
    },
    /// Change a domain.
    Set {
        /// The domain.
        name: String,
        /// A new owner.
        #[arg(long)]
        customer: Option<String>,
        /// A new route.
        #[arg(long)]
        route: Option<String>,
        /// A new TLS policy.
        #[arg(long, value_name = "POLICY")]
        tls: Option<String>,
        /// A new limit of connections; 0 goes back to the fleet's setting.
        #[arg(long, value_name = "COUNT")]
        connections_max: Option<u32>,
        /// `tagged`: its mail leaves with return paths of ours, so that what its server takes and
        /// reports as unknown later is learnt, too. `plain`: with the senders' own. Not together
        /// with other changes.
        #[arg(long, value_name = "KIND",
            conflicts_with_all = ["customer", "route", "tls", "connections_max"])]
        return_path: Option<ReturnPath>,
    },
    /// Remove a domain: mail for it is refused. What is queued for it has no route any more, and
    /// fails after queue.lifetime: empty the queue first (`mxfleet queue list --domain NAME`).
    Remove {
        /// The domain.
        name: String,
    },
    /// Add many domains, or bring them to what the file says; all or none.
    #[command(after_help = "The file is CSV with a header: \
        name,customer,route[,tls][,connections_max]")]
    Import {
        /// The CSV file.
        file: PathBuf,
    },
}

/// What MAIL FROM is for a domain's server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ReturnPath {
    /// The sender's own address.
    Plain,
    /// A signed address of ours.
    Tagged,
}

const PLAIN: &str = "plain";

impl ReturnPath {
    fn word(self) -> &'static str {
        match self {
            Self::Plain => PLAIN,
            Self::Tagged => "tagged",
        }
    }
}

pub(super) fn call(verb: Verb, admin: &Admin, output: Output) -> anyhow::Result<()> {
    let change = |call: Call, words: String| {
        let changed: Changed = admin.call(&call)?;
        output.say(&changed, &words)
    };
    match verb {
        Verb::List => rows(&admin.call(&Call::DomainList)?, output),
        Verb::Show { name } => {
            let row: DomainRow = admin.call(&Call::DomainShow { name })?;
            match output {
                Output::Table => rows(&vec![row], output),
                Output::Json => super::output::write_out(&serde_json::to_string_pretty(&row)?),
            }
        }
        Verb::Add { name, customer, route, tls, connections_max } => {
            let words = format!("domain {name} added; its mail goes to {route}");
            let return_path = PLAIN.to_owned();
            let version = 0;
            let row =
                DomainRow { name, customer, route, tls, connections_max, return_path, version };
            change(Call::DomainAdd(row), words)
        }
        Verb::Set { name, return_path: Some(kind), .. } => {
            let return_path = kind.word().to_owned();
            let words = format!("mail for {name} leaves with {return_path} return paths");
            change(Call::DomainReturnPath { name, return_path }, words)
        }
        Verb::Set { name, customer, route, tls, connections_max, return_path: None } => {
            let words = format!("domain {name} changed");
            change(Call::DomainSet { name, customer, route, tls, connections_max }, words)
        }
        Verb::Remove { name } => {
            let words = format!("domain {name} removed");
            change(Call::DomainRemove { name }, words)
        }
        Verb::Import { file } => {
            let domains = read_csv(&file)?;
            let count = domains.len();
            let changed: Changed = admin.call(&Call::DomainImport { domains })?;
            output.say(&changed, &format!("{count} domains read, {} changed", changed.changed))
        }
    }
}

fn rows(domains: &Vec<DomainRow>, output: Output) -> anyhow::Result<()> {
    let header = ["DOMAIN", "CUSTOMER", "ROUTE", "TLS", "CONNECTIONS", "RETURN PATH"];
    output.print(domains, &header, |domains| {
        let row = |d: &DomainRow| {
            let connections = d.connections_max.map_or("-".to_owned(), |n| n.to_string());
            let (name, customer) = (d.name.clone(), d.customer.clone());
            let return_path = d.return_path.clone();
            vec![name, customer, d.route.clone(), d.tls.clone(), connections, return_path]
        };
        domains.iter().map(row).collect()
    })
}

/// Every bad line is told, and nothing is sent when there is one.
fn read_csv(file: &Path) -> anyhow::Result<Vec<DomainRow>> {
    let mut reader =
        csv::Reader::from_path(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut domains = Vec::new();
    let mut wrong = Vec::new();
    for row in reader.deserialize::<DomainRow>() {
        match row {
            Ok(row) => domains.push(row),
            Err(error) => wrong.push(error.to_string()),
        }
    }
    anyhow::ensure!(
        wrong.is_empty(),
        "nothing was imported; {} lines of {} are wrong:\n{}",
        wrong.len(),
        file.display(),
        wrong.iter().take(20).cloned().collect::<Vec<_>>().join("\n")
    );
    Ok(domains)
}
