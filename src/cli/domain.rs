//! `mxfleet domain`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};

use super::Output;
use crate::http::call::{Call, Changed, DomainRow, RecipientTerms};
use crate::http::client::Admin;
use crate::policy::list;
use crate::smtp::address::domain_to_ascii;

/// Of the wrong lines of a file, so many are told.
const WRONG_LINES_TOLD: usize = 20;

/// What can be done with domains.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Add a domain.
    #[command(after_help = "Examples:\n  \
        mxfleet domain add acme.test --customer acme --route mail.acme.test:25\n  \
        mxfleet domain add acme.test --customer acme --route mx --tls require\n  \
        mxfleet domain set acme.test --recipients users.txt\n\n\
        A file of recipients has one a line: `jane`, `jane@acme.test`, or a pattern such as \
        `sales-*` (`*` is everybody). Lines that begin with # say nothing.")]
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
        /// Whoever is not on a list is unknown no more.
        #[arg(long, conflicts_with = "file")]
        no_recipients: bool,
        #[command(flatten)]
        recipients: RecipientArgs,
        /// `tagged`: its mail leaves with return paths of ours, so that what its server takes and
        /// reports as unknown later is learnt, too. `plain`: with the senders' own. Not together
        /// with other changes.
        #[arg(long, value_name = "KIND",
            conflicts_with_all = ["customer", "route", "tls", "connections_max", "file",
                "no_recipients", "blacklist", "blacklist_threshold", "blacklist_window",
                "blacklist_hold", "verify"])]
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
        name,customer,route[,tls][,connections_max][,blacklist][,blacklist_threshold]\
        [,blacklist_window][,blacklist_hold][,verify]\n\
        and below that a line for each domain, for example: acme.test,acme,mail.acme.test:25\n\
        A column that is not there has its default.\n\
        An import that was broken off changed nothing; it goes on with the --request-id it told.")]
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

impl ReturnPath {
    fn word(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tagged => "tagged",
        }
    }
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
    /// `callout`: its server is asked whether it knows a recipient, while it is up; or `off`.
    #[arg(long, value_name = "HOW")]
    verify: Option<String>,
    /// Whoever is not in this file is unknown; postmaster is known in any case.
    #[arg(long = "recipients", value_name = "FILE", id = "file")]
    recipients: Option<PathBuf>,
    /// Take a file that names nobody: all mail is refused but postmaster's.
    #[arg(long, requires = "file")]
    allow_empty: bool,
}

impl RecipientArgs {
    fn terms(&self) -> RecipientTerms {
        RecipientTerms {
            blacklist: self.blacklist.clone(),
            blacklist_threshold: self.blacklist_threshold,
            blacklist_window: self.blacklist_window.clone(),
            blacklist_hold: self.blacklist_hold.clone(),
            verify: self.verify.clone(),
        }
    }

    /// Who the file says is known, if there is one.
    fn list(&self, domain: &str) -> anyhow::Result<Option<Vec<String>>> {
        let Some(file) = self.recipients.as_deref() else { return Ok(None) };
        let entries = read_list(domain, file)?;
        anyhow::ensure!(
            self.allow_empty || !entries.is_empty(),
            "nothing was changed; {} names nobody, and all mail for {domain} would be refused but \
             postmaster's. Leave --recipients out to take mail for everybody (`domain set \
             --no-recipients` ends a list), or add --allow-empty to refuse it",
            file.display()
        );
        Ok(Some(entries))
    }
}

pub(super) fn call(verb: Verb, admin: &Admin, output: Output) -> anyhow::Result<()> {
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
            let list = recipients.list(&name)?;
            let own = recipients.terms();
            let row = DomainRow {
                tls,
                connections_max,
                blacklist: own.blacklist.unwrap_or_else(|| "on".to_owned()),
                blacklist_threshold: own.blacklist_threshold,
                blacklist_window: own.blacklist_window,
                blacklist_hold: own.blacklist_hold,
                verify: own.verify.unwrap_or_else(|| "off".to_owned()),
                ..DomainRow::new(name.clone(), customer, route)
            };
            let changed: Changed = admin.call(&Call::DomainAdd(row))?;
            if list.is_some() {
                let call = Call::DomainRecipients { name, entries: list };
                let listed = admin.again().call::<Changed>(&call);
                listed.context("the domain was added, but without its recipients")?;
            }
            output.say(&changed, &words)
        }
        Verb::Set { name, return_path: Some(kind), .. } => {
            let return_path = kind.word().to_owned();
            let words = format!("mail for {name} leaves with {return_path} return paths");
            let changed: Changed = admin.call(&Call::DomainReturnPath { name, return_path })?;
            output.say(&changed, &words)
        }
        Verb::Set {
            name,
            customer,
            route,
            tls,
            connections_max,
            no_recipients,
            recipients,
            return_path: None,
        } => {
            let list = recipients.list(&name)?;
            let terms = recipients.terms();
            let change = Call::DomainSet {
                name: name.clone(),
                customer,
                route,
                tls,
                connections_max,
                recipients: terms,
            };
            let lists = (list.is_some() || no_recipients)
                .then_some(Call::DomainRecipients { name: name.clone(), entries: list });
            set(&name, &change, lists.as_ref(), admin, output)
        }
        Verb::Remove { name } => {
            let words = format!("domain {name} removed");
            let changed: Changed = admin.call(&Call::DomainRemove { name })?;
            output.say(&changed, &words)
        }
        Verb::Import { file } => super::import::import(&file, admin, output),
    }
}

/// Change the row, the list of recipients, or both.
fn set(
    name: &str,
    change: &Call,
    list: Option<&Call>,
    admin: &Admin,
    output: Output,
) -> anyhow::Result<()> {
    let nothing = Call::DomainSet {
        name: name.to_owned(),
        customer: None,
        route: None,
        tls: None,
        connections_max: None,
        recipients: RecipientTerms::default(),
    };
    let changed: Changed = match list {
        Some(list) if *change == nothing => admin.call(list)?,
        Some(list) => {
            admin.call::<Changed>(change)?;
            let listed = admin.again().call(list);
            listed.context("the domain was changed, but not its recipients")?
        }
        None => admin.call(change)?,
    };
    let words = match list {
        Some(Call::DomainRecipients { entries: Some(_), .. }) => {
            format!("domain {name} has {} recipients and no others", changed.changed)
        }
        _ => format!("domain {name} changed"),
    };
    output.say(&changed, &words)
}

fn rows(domains: &Vec<DomainRow>, output: Output) -> anyhow::Result<()> {
    let header = [
        "DOMAIN",
        "CUSTOMER",
        "ROUTE",
        "TLS",
        "CONNECTIONS",
        "BLACKLIST",
        "RECIPIENTS",
        "RETURN PATH",
    ];
    output.print(domains, &header, |domains| {
        let row = |d: &DomainRow| {
            let connections = d.connections_max.map_or("-".to_owned(), |n| n.to_string());
            let (name, customer) = (d.name.clone(), d.customer.clone());
            let (route, tls) = (d.route.clone(), d.tls.clone());
            let (blacklist, recipients) = (blacklist(d), recipients(d));
            let return_path = d.return_path.clone();
            vec![name, customer, route, tls, connections, blacklist, recipients, return_path]
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

/// Who is known.
fn recipients(domain: &DomainRow) -> String {
    let named = domain.recipients.map(|list| match list.patterns {
        0 => format!("{} named", list.addresses),
        patterns => format!("{} named, {patterns} patterns", list.addresses),
    });
    let asked = (domain.verify != "off").then(|| domain.verify.clone());
    let words: Vec<String> = named.into_iter().chain(asked).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}

/// The lines of a list of recipients. Every bad one is told, and nothing is sent then.
fn read_list(name: &str, file: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read {} as text", file.display()))?;
    let domain = domain_to_ascii(name).with_context(|| format!("{name} is not a domain name"))?;
    let mut entries = Vec::new();
    let mut wrong = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        match list::entry(&domain, line) {
            Some(Ok(entry)) => entries.push(entry),
            Some(Err(why)) => wrong.push(format!("line {number}: {why}")),
            None => {}
        }
    }
    refuse_wrong(&wrong, file)?;
    Ok(entries)
}

/// Tell what is wrong, if anything is.
pub(super) fn refuse_wrong(wrong: &[String], file: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(
        wrong.is_empty(),
        "nothing was changed; {} lines of {} are wrong:\n{}",
        wrong.len(),
        file.display(),
        wrong.iter().take(WRONG_LINES_TOLD).cloned().collect::<Vec<_>>().join("\n")
    );
    Ok(())
}
