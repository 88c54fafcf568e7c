//! `mxfleet domain`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;

use super::Output;
use crate::http::call::{Call, Changed, DomainRow, RecipientTerms};
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
        #[command(flatten)]
        recipients: RecipientArgs,
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
        #[command(flatten)]
        recipients: RecipientArgs,
    },
    /// Remove a domain: mail for it is refused. What is queued for it has no route any more, and
    /// fails after queue.lifetime: empty the queue first (`mxfleet queue list --domain NAME`).
    Remove {
        /// The domain.
        name: String,
    },
    /// Add many domains, or bring them to what the file says; all or none.
    #[command(after_help = "The file is CSV with a header: \
        name,customer,route[,tls][,connections_max][,blacklist][,blacklist_threshold]\
        [,blacklist_window][,blacklist_hold]\nA column that is not there has its default.")]
    Import {
        /// The CSV file.
        file: PathBuf,
    },
}

/// How the domain's recipients are judged.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Recipients")]
pub(super) struct RecipientArgs {
    /// Whether recipients that its server keeps refusing are refused by the fleet: `on` or `off`.
    #[arg(long, value_name = "ON|OFF")]
    blacklist: Option<String>,
    /// So many rejections list a recipient; 0 goes back to the setting blacklist.threshold.
    #[arg(long, value_name = "COUNT")]
    blacklist_threshold: Option<u64>,
    /// Older rejections do not count; 0s goes back to the setting blacklist.window.
    #[arg(long, value_name = "DURATION")]
    blacklist_window: Option<String>,
    /// So long a recipient stays listed; 0s goes back to the setting blacklist.hold.
    #[arg(long, value_name = "DURATION")]
    blacklist_hold: Option<String>,
}

impl RecipientArgs {
    fn terms(self) -> RecipientTerms {
        let Self { blacklist, blacklist_threshold, blacklist_window, blacklist_hold } = self;
        RecipientTerms { blacklist, blacklist_threshold, blacklist_window, blacklist_hold }
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
        Verb::Add { name, customer, route, tls, connections_max, recipients } => {
            let words = format!("domain {name} added; its mail goes to {route}");
            let own = recipients.terms();
            let row = DomainRow {
                tls,
                connections_max,
                blacklist: own.blacklist.unwrap_or_else(|| "on".to_owned()),
                blacklist_threshold: own.blacklist_threshold,
                blacklist_window: own.blacklist_window,
                blacklist_hold: own.blacklist_hold,
                ..DomainRow::new(name, customer, route)
            };
            change(Call::DomainAdd(row), words)
        }
        Verb::Set { name, customer, route, tls, connections_max, recipients } => {
            let words = format!("domain {name} changed");
            let recipients = recipients.terms();
            let call = Call::DomainSet { name, customer, route, tls, connections_max, recipients };
            change(call, words)
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
    let header = ["DOMAIN", "CUSTOMER", "ROUTE", "TLS", "CONNECTIONS", "BLACKLIST"];
    output.print(domains, &header, |domains| {
        let row = |d: &DomainRow| {
            let connections = d.connections_max.map_or("-".to_owned(), |n| n.to_string());
            let (name, customer) = (d.name.clone(), d.customer.clone());
            vec![name, customer, d.route.clone(), d.tls.clone(), connections, blacklist(d)]
        };
        domains.iter().map(row).collect()
    })
}

/// What a domain has of its own.
fn blacklist(domain: &DomainRow) -> String {
    if domain.blacklist == "off" {
        return "off".to_owned();
    }
    let own = [
        ("threshold", domain.blacklist_threshold.map(|count| count.to_string())),
        ("window", domain.blacklist_window.clone()),
        ("hold", domain.blacklist_hold.clone()),
    ];
    let own = own.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?)));
    let own: Vec<String> = own.collect();
    if own.is_empty() { "-".to_owned() } else { own.join(", ") }
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
