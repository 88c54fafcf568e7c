//! `mxfleet customer`.

use clap::Subcommand;

use super::Output;
use super::output::write_out;
use crate::http::account::LinkRow;
use crate::http::call::{Call, Changed, CustomerRow};
use crate::http::client::Admin;

/// What can be done with customers.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Add a customer.
    #[command(after_help = "Example: mxfleet customer add acme --contact ops@acme.test")]
    Add {
        /// Short and permanent: lowercase letters, digits and hyphens.
        id: String,
        /// A mail address that is told what happens to the service; may be repeated.
        #[arg(long = "contact", value_name = "ADDRESS", required = true)]
        contacts: Vec<String>,
        /// The name people know it by; the id when absent.
        #[arg(long)]
        name: Option<String>,
    },
    /// All customers.
    List,
    /// One customer.
    Show {
        /// Its id.
        id: String,
    },
    /// Change a customer's name or contacts.
    Set {
        /// Its id.
        id: String,
        /// The new name.
        #[arg(long)]
        name: Option<String>,
        /// The new contacts, all of them.
        #[arg(long = "contact", value_name = "ADDRESS")]
        contacts: Vec<String>,
        /// The MX names it is to use, in order, separated by commas.
        #[arg(long = "names", value_name = "NAME,...", value_delimiter = ',')]
        names: Vec<String>,
    },
    /// Turn mail for its domains away for now (450); queued mail still goes out.
    Suspend {
        /// Its id.
        id: String,
    },
    /// Take mail for its domains again.
    Resume {
        /// Its id.
        id: String,
    },
    /// Make a link to its own view, and print it, this once. Whoever has the link sees the
    /// customer's domains, queue and refused recipients, and can pardon those.
    #[command(after_help = "Example: mxfleet customer link acme\n\n\
        It is good for as long as the setting customer.link_life says. Customers get links by \
        themselves at /customer on the status page, by mail, once site.url is set.")]
    Link {
        /// Its id.
        id: String,
    },
    /// Remove a customer without domains.
    Remove {
        /// Its id.
        id: String,
    },
}

pub(super) fn call(verb: Verb, admin: &Admin, output: Output) -> anyhow::Result<()> {
    let change = |call: Call, words: String| {
        let changed: Changed = admin.call(&call)?;
        output.say(&changed, &words)
    };
    match verb {
        Verb::List => rows(&admin.call(&Call::CustomerList)?, output),
        Verb::Show { id } => {
            let row: CustomerRow = admin.call(&Call::CustomerShow { id })?;
            match output {
                Output::Table => rows(&vec![row], output),
                Output::Json => write_out(&serde_json::to_string_pretty(&row)?),
            }
        }
        Verb::Add { id, contacts, name } => {
            let words = format!("customer {id} added");
            change(Call::CustomerAdd { id, name, contacts }, words)
        }
        Verb::Set { id, name, contacts, names } => {
            let words = format!("customer {id} changed");
            let is_more = name.is_some() || !contacts.is_empty();
            let contacts = (!contacts.is_empty()).then_some(contacts);
            let set = Call::CustomerSet { id: id.clone(), name, contacts };
            if names.is_empty() {
                return change(set, words);
            }
            let mut changed: Changed = admin.call(&Call::CustomerNames { id, names })?;
            if is_more {
                // A second change has an id of its own.
                changed = admin.again().call(&set)?;
            }
            output.say(&changed, &words)
        }
        Verb::Suspend { id } => {
            let words = format!("customer {id} suspended: mail for its domains is answered 450");
            change(Call::CustomerSuspend { id }, words)
        }
        Verb::Resume { id } => {
            let words = format!("customer {id} active again");
            change(Call::CustomerResume { id }, words)
        }
        Verb::Link { id } => link(&admin.call(&Call::CustomerLink { id })?, output),
        Verb::Remove { id } => {
            let words = format!("customer {id} removed");
            change(Call::CustomerRemove { id }, words)
        }
    }
}

/// The link alone on standard output, so that it can be passed on.
fn link(row: &LinkRow, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        return write_out(&serde_json::to_string_pretty(row)?);
    }
    write_out(&row.link)?;
    eprintln!("good until {}", row.ends);
    if row.link.starts_with('/') {
        eprintln!("set site.url, or put the address of a status page in front");
    }
    Ok(())
}

fn rows(customers: &Vec<CustomerRow>, output: Output) -> anyhow::Result<()> {
    let header = ["CUSTOMER", "STATUS", "NAME", "CONTACTS", "MX NAMES"];
    output.print(customers, &header, |customers| {
        let row = |c: &CustomerRow| {
            let (contacts, names) = (c.contacts.join(" "), c.names.join(" "));
            vec![c.id.clone(), c.status.clone(), c.name.clone(), contacts, names]
        };
        customers.iter().map(row).collect()
    })
}
