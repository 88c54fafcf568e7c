//! The command line: one file a noun. Data goes to standard output, words to standard error.

mod blacklist;
mod classify;
mod cluster;
mod customer;
mod domain;
mod drain;
mod explain;
mod generate;
mod health;
mod host;
mod import;
mod journal;
mod migration;
mod name;
mod notice;
mod output;
mod probe;
mod queue;
mod run;
mod settings;
mod when;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{CommandFactory as _, Parser, Subcommand};

use crate::http::call::Terms;
use crate::http::client::Admin;

pub use output::Output;

/// Exit code of a command that failed.
pub const EXIT_FAILED: u8 = 1;
/// Exit code of a configuration that is wrong (`EX_CONFIG`).
pub const EXIT_CONFIG: u8 = 78;

/// A fleet of MX hosts that behaves as one mail relay.
#[derive(Debug, Parser)]
#[command(name = "mxfleet", version, about, long_about = LONG_ABOUT, max_term_width = 100)]
struct Cli {
    /// The node's admin socket.
    #[arg(long, global = true, env = "MXFLEET_ADMIN", value_name = "PATH", value_parser = path())]
    #[arg(help_heading = GLOBAL)]
    admin: Option<PathBuf>,
    /// How data is printed.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORM")]
    #[arg(help_heading = GLOBAL)]
    output: Output,
    /// Retry a change whose outcome is unknown with the id it had; it is done once.
    #[arg(long, global = true, value_name = "HEX", value_parser = request_id)]
    #[arg(help_heading = GLOBAL)]
    request_id: Option<u128>,
    /// Change only what still has this version (`--output json` shows it; 0: is not there yet).
    #[arg(long, global = true, value_name = "VERSION", help_heading = GLOBAL)]
    expect_version: Option<u64>,
    #[command(subcommand)]
    noun: Noun,
}

/// Stands above what every command takes, below what is its own.
const GLOBAL: &str = "Options of all commands";

/// A path; an empty one (a variable that is set to nothing) is none.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

const LONG_ABOUT: &str = "A fleet of MX hosts that behaves as one mail relay.\n\n\
    Every host runs a node that accepts mail for customers' domains, keeps it safe on disk and \
    relays it to each customer's own server.\n\n\
    Try it:  mxfleet dev";

#[derive(Debug, Subcommand)]
enum Noun {
    /// Run one node until it is told to stop.
    Run(run::RunArgs),
    /// Read a configuration file and print every problem in it.
    CheckConfig(run::CheckArgs),
    /// Run a fleet on this machine to try things out, with a stand-in customer server.
    Dev(run::DevArgs),
    /// The fleet: its hosts, who may join, backup and recovery.
    #[command(subcommand)]
    Cluster(cluster::Verb),
    /// Customers: who owns domains, and whom to tell.
    #[command(subcommand)]
    Customer(customer::Verb),
    /// Domains: where their mail goes, and how.
    #[command(subcommand)]
    Domain(domain::Verb),
    /// Hosts: which serve, which are being emptied, where mail reaches them.
    #[command(subcommand)]
    Host(host::Verb),
    /// MX names: the names customers put in their MX records, and where they point.
    #[command(subcommand)]
    Name(name::Verb),
    /// Migrations: changes of MX names that customers are told of.
    #[command(subcommand)]
    Migration(migration::Verb),
    /// Notices on the status page: issues and planned outages.
    #[command(subcommand)]
    Notice(notice::Verb),
    /// Settings that the whole fleet shares.
    #[command(subcommand)]
    Settings(settings::Verb),
    /// Recipients that are refused because of too many rejections.
    #[command(subcommand)]
    Blacklist(blacklist::Verb),
    /// What SMTP replies say of a recipient: one a line in, a JSON object a line out.
    Classify(classify::ClassifyArgs),
    /// What delivery reports say of their recipients: a JSON object a line out.
    ClassifyDsn(classify::ClassifyDsnArgs),
    /// Mail that waits on this node.
    #[command(subcommand)]
    Queue(queue::Verb),
    /// What became of mail that was not delivered, and who was told.
    #[command(subcommand)]
    Journal(journal::Verb),
    /// What the node would answer, and why.
    #[command(subcommand)]
    Explain(explain::Verb),
    /// Look at customers' servers as a sender would, without sending anything.
    #[command(subcommand)]
    Probe(probe::Verb),
    /// Ask the node of a configuration file how it is.
    Health(health::HealthArgs),
    /// Print a script that completes command lines in a shell.
    Completions(generate::CompletionsArgs),
    /// Write manual pages into a folder.
    #[command(hide = true)]
    Man(generate::ManArgs),
}

/// Parse the command line and do what it says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let terms = Terms {
        // Behind sudo it is root who asks; the trail is to name the operator.
        actor: std::env::var("SUDO_USER")
            .ok()
            .filter(|name| name.chars().all(|c| c.is_ascii_graphic()))
            .unwrap_or_default(),
        request_id: cli.request_id,
        expected_version: cli.expect_version,
    };
    let socket = cli.admin.filter(|socket| !socket.as_os_str().is_empty());
    let admin = || Admin::at(socket.clone()).map(|admin| admin.on(terms.clone()));
    let done = match cli.noun {
        Noun::Run(args) => return run::run(&args),
        Noun::CheckConfig(args) => return run::check_config(&args),
        Noun::Dev(args) => return run::dev(&args),
        Noun::Cluster(verb) => match cluster::offline(&verb) {
            Some(code) => return code,
            None => admin().and_then(|admin| cluster::call(verb, &admin, cli.output)),
        },
        Noun::Customer(verb) => admin().and_then(|admin| customer::call(verb, &admin, cli.output)),
        Noun::Domain(verb) => admin().and_then(|admin| domain::call(verb, &admin, cli.output)),
        Noun::Host(verb) => admin().and_then(|admin| host::call(verb, &admin, cli.output)),
        Noun::Name(verb) => admin().and_then(|admin| name::call(verb, &admin, cli.output)),
        Noun::Migration(verb) => {
            admin().and_then(|admin| migration::call(verb, &admin, cli.output))
        }
        Noun::Notice(verb) => admin().and_then(|admin| notice::call(verb, &admin, cli.output)),
        Noun::Settings(verb) => admin().and_then(|admin| settings::call(verb, &admin, cli.output)),
        Noun::Blacklist(verb) => {
            admin().and_then(|admin| blacklist::call(verb, &admin, cli.output))
        }
        Noun::Classify(args) => classify::classify(&args),
        Noun::ClassifyDsn(args) => classify::dsn(&args),
        Noun::Queue(verb) => admin().and_then(|admin| queue::call(verb, &admin, cli.output)),
        Noun::Journal(verb) => admin().and_then(|admin| journal::call(verb, &admin, cli.output)),
        Noun::Explain(verb) => admin().and_then(|admin| explain::call(verb, &admin, cli.output)),
        Noun::Probe(verb) => admin().and_then(|admin| probe::call(verb, &admin, cli.output)),
        Noun::Health(args) => return health::health(&args),
        Noun::Completions(args) => generate::completions(Cli::command(), &args),
        Noun::Man(args) => generate::man(Cli::command(), &args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mxfleet: {}", output::clean(&output::reasons(&error)));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn request_id(text: &str) -> Result<u128, String> {
    u128::from_str_radix(text, 16).map_err(|_| "is not a hexadecimal number".to_owned())
}
