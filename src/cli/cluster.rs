//! `mxfleet cluster`.

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use mxfleet_cluster::{Cluster, Token, parse_duration_ms, some_of};
use serde_json::Value;

use super::Output;
use super::output::write_out;
use super::run::{in_runtime, load};
use crate::config::Config;
use crate::fleet;
use crate::http::call::{Call, Changed, TokenRow};
use crate::http::client::Admin;
use crate::http::members::AuditRow;

/// Longer than anybody needs to carry a token from one host to another.
const TOKEN_LIFE_MS_MAX: u64 = 3_600_000;

/// A cell of the audit table is cut here; JSON has all of it.
const AUDIT_CELL_CHARS_MAX: usize = 100;

/// What can be done with the fleet.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Begin a fleet with this host as its first; then `mxfleet run`.
    Init {
        /// The node's configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Make a token that lets one host join, once.
    Token {
        /// The name of the host, as in its configuration.
        name: String,
        /// How long it is good for, an hour at most.
        #[arg(long, default_value = "1h", value_parser = token_life)]
        life: u64,
    },
    /// Join a fleet; the token is read from standard input or a file. Then `mxfleet run`.
    #[command(after_help = "Example, on the new host:\n  \
        mxfleet cluster join --config /etc/mxfleet.toml --peer 192.0.2.1:4190 < token")]
    Join {
        /// The node's configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Any node of the fleet: its `cluster.advertise` address.
        #[arg(long, value_name = "ADDRESS")]
        peer: SocketAddr,
        /// A file with the token; standard input when absent.
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
    },
    /// Who leads, who is there, who is behind.
    Status,
    /// The hosts of the fleet.
    Members,
    /// Who changed what, and when; the newest first.
    Audit {
        /// At most so many changes.
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Remove a host for good; it can come back only as a new host. It must be retired, which
    /// `host drain` does when it is empty.
    Remove {
        /// Its name.
        name: String,
        /// It is lost: it does not answer, and the mail in its queue is given up with its disk.
        #[arg(long)]
        force: bool,
    },
    /// Let a host vote before others.
    Promote {
        /// Its name.
        name: String,
    },
    /// Write the replicated state to a new file. It holds the fleet's secrets: keep it safe.
    Backup {
        /// The file, on the node's host.
        file: PathBuf,
    },
    /// Begin a new fleet with the state in a backup, on a host that is in none.
    Restore {
        /// The node's configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The backup.
        file: PathBuf,
    },
    /// When most voters are lost for good: go on with this stopped node alone.
    #[command(after_help = "What only the lost hosts knew is lost. What this host knew but no \
        quorum had confirmed counts from then on. The lost hosts must never be started again; \
        they can join as new ones. Try first to bring a lost host back.")]
    Recover {
        /// The node's configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Yes, the other hosts are lost for good.
        #[arg(long, required = true)]
        yes: bool,
    },
}

/// Verbs that work on a stopped node's folder; `None` for the others.
pub(super) fn offline(verb: &Verb) -> Option<ExitCode> {
    let (Verb::Init { config }
    | Verb::Join { config, .. }
    | Verb::Restore { config, .. }
    | Verb::Recover { config, .. }) = verb
    else {
        return None;
    };
    let config = match load(config) {
        Ok(config) => config,
        Err(code) => return Some(code),
    };
    Some(in_runtime(async { on_folder(verb, &config).await }))
}

async fn on_folder(verb: &Verb, config: &Config) -> anyhow::Result<()> {
    let (place, name) = (fleet::config(config), &config.node.name);
    anyhow::ensure!(
        config.cluster.listen.is_some(),
        "the configuration has no cluster.listen, where other nodes would reach this one"
    );
    match verb {
        Verb::Init { .. } => {
            Cluster::init(&place, name)?;
            eprintln!("a fleet begins with {name}; start it with `mxfleet run`");
        }
        Verb::Join { peer, token_file, .. } => {
            let token: Token = read_token(token_file.as_deref())?.parse()?;
            Cluster::join(&place, name, *peer, &token).await?;
            eprintln!("{name} is in the fleet; start it with `mxfleet run`");
        }
        Verb::Restore { file, .. } => {
            let (place, name, file) = (place, name.clone(), file.clone());
            let restore = move || Cluster::restore(&place, &file, &name);
            let orphaned = tokio::task::spawn_blocking(restore).await??;
            eprintln!("the backup is a new fleet with this host; start it with `mxfleet run`");
            warn_of_orphans(&orphaned);
        }
        Verb::Recover { .. } => {
            let recovered = tokio::task::spawn_blocking(move || Cluster::recover(&place)).await??;
            write_out(&serde_json::to_string_pretty(&recovered)?)?;
            eprintln!("this host is a fleet of its own now; start it with `mxfleet run`");
            warn_of_orphans(&recovered.orphaned);
        }
        _ => {}
    }
    Ok(())
}

/// MX names whose hosts are gone need others, and only the operator knows which.
fn warn_of_orphans(names: &[String]) {
    if names.is_empty() {
        return;
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    eprintln!(
        "{} MX names lead to hosts that are not in this fleet: {}. DNS keeps what it says of them \
         until you have given them others: when hosts have joined and have addresses (`mxfleet \
         host set NAME --address ADDRESS`), `mxfleet name rebalance` does so for all, and \
         `--dry-run` shows how",
        names.len(),
        some_of(&names)
    );
}

pub(super) fn call(verb: Verb, admin: &Admin, output: Output) -> anyhow::Result<()> {
    let change = |call: Call, words: String| {
        let changed: Changed = admin.call(&call)?;
        output.say(&changed, &words)
    };
    match verb {
        Verb::Status => status(&admin.call(&Call::ClusterStatus)?, output),
        Verb::Members => {
            let mut status: Value = admin.call(&Call::ClusterStatus)?;
            members(&status["members"].take(), output)
        }
        Verb::Audit { limit } => audit(&admin.call(&Call::ClusterAudit { limit })?, output),
        Verb::Token { name, life } => {
            let row: TokenRow = admin.call(&Call::ClusterToken { name, life_ms: life })?;
            match output {
                Output::Table => write_out(&row.token),
                Output::Json => write_out(&serde_json::to_string_pretty(&row)?),
            }
        }
        Verb::Remove { name, force } => {
            let lost = match force {
                true => "; mail that was in its queue is on its disk, and only there",
                false => "",
            };
            let words = format!("{name} is removed; its certificate is refused from now on{lost}");
            change(Call::ClusterRemove { name, force }, words)
        }
        Verb::Promote { name } => {
            let words = format!("{name} votes before others");
            change(Call::ClusterPromote { name }, words)
        }
        Verb::Backup { file } => {
            let path = std::path::absolute(&file)?;
            let words = format!("the state is in {}", path.display());
            change(Call::ClusterBackup { path }, words)
        }
        Verb::Init { .. } | Verb::Join { .. } | Verb::Restore { .. } | Verb::Recover { .. } => {
            Ok(())
        }
    }
}

fn status(status: &Value, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        return write_out(&serde_json::to_string_pretty(status)?);
    }
    let leader = status["leader"].as_str().unwrap_or("none: nothing can be changed now");
    write_out(&format!(
        "leader {leader}, term {}, applied index {}, cluster version {}, state {}\n",
        status["term"],
        status["applied_index"],
        status["cluster_version"],
        status["state_digest"].as_str().unwrap_or_default()
    ))?;
    members(&status["members"], output)
}

fn members(members: &Value, output: Output) -> anyhow::Result<()> {
    let header =
        ["HOST", "ID", "ROLE", "STATE", "BEHIND", "LAST HEARD", "ADDRESS", "VERSION", "SPEAKS"];
    output.print(members, &header, |members| {
        let text = |value: &Value| match value {
            Value::Null => "-".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let row = |member: &Value| {
            let keys = ["name", "id", "role", "state", "lag_entries", "last_contact_seconds"];
            let mut row: Vec<String> = keys.iter().map(|key| text(&member[*key])).collect();
            row.extend(["address", "version", "speaks"].iter().map(|key| text(&member[*key])));
            row
        };
        members.as_array().map(|members| members.iter().map(row).collect()).unwrap_or_default()
    })
}

fn audit(rows: &Vec<AuditRow>, output: Output) -> anyhow::Result<()> {
    output.print(rows, &["WHEN", "WHO", "WHAT", "OUTCOME"], |rows| {
        let row = |row: &AuditRow| {
            let outcome = match &row.refused {
                Some(why) => format!("refused: {why}"),
                None => "done".to_owned(),
            };
            let what = super::output::brief(&row.what, AUDIT_CELL_CHARS_MAX);
            let outcome = super::output::brief(&outcome, AUDIT_CELL_CHARS_MAX);
            vec![row.at.clone(), row.actor.clone(), what, outcome]
        };
        rows.iter().map(row).collect()
    })
}

/// A token is a secret: it never stands on a command line, where `ps` shows it.
fn read_token(file: Option<&Path>) -> anyhow::Result<String> {
    match file {
        Some(path) => {
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
        }
        None => {
            let mut text = String::new();
            std::io::stdin().take(1024).read_to_string(&mut text)?;
            Ok(text)
        }
    }
}

fn token_life(text: &str) -> Result<u64, String> {
    match parse_duration_ms(text) {
        Some(life) if life <= TOKEN_LIFE_MS_MAX => Ok(life),
        Some(_) => Err("is too long: a token is good for an hour at most".to_owned()),
        None => Err("is not a duration such as 30m or 1h".to_owned()),
    }
}
