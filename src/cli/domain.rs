//! `mxfleet domain`.

use std::path::PathBuf;

use clap::Subcommand;

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
    },
    /// Remove a domain: mail for it is refused. What is queued for it has no route any more, and
    /// fails after queue.lifetime: empty the queue first (`mxfleet queue list --domain NAME`).
    Remove {
        /// The domain.
        name: String,
    },
    /// Add many domains, or bring them to what the file says; all or none.
    #[command(after_help = "The file is CSV with a header: \
        name,customer,route[,tls][,connections_max]\n\
        An import that was broken off changed nothing; it goes on with the --request-id it told.")]
    Import {
        /// The CSV file.
        file: PathBuf,
    },
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
            let row = DomainRow { name, customer, route, tls, connections_max, version: 0 };
            change(Call::DomainAdd(row), words)
        }
        Verb::Set { name, customer, route, tls, connections_max } => {
            let words = format!("domain {name} changed");
            change(Call::DomainSet { name, customer, route, tls, connections_max }, words)
        }
        Verb::Remove { name } => {
            let words = format!("domain {name} removed");
            change(Call::DomainRemove { name }, words)
        }
        Verb::Import { file } => super::import::import(&file, admin, output),
    }
}

fn rows(domains: &Vec<DomainRow>, output: Output) -> anyhow::Result<()> {
    output.print(domains, &["DOMAIN", "CUSTOMER", "ROUTE", "TLS", "CONNECTIONS"], |domains| {
        let row = |d: &DomainRow| {
            let connections = d.connections_max.map_or("-".to_owned(), |n| n.to_string());
            let (name, customer) = (d.name.clone(), d.customer.clone());
            vec![name, customer, d.route.clone(), d.tls.clone(), connections]
        };
        domains.iter().map(row).collect()
    })
}
