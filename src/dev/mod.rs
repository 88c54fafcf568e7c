//! `mxfleet dev`: a fleet on loopback, with a stand-in customer server, to try things out.
//!
//! Nodes are separate processes of this same program, so that one can be killed and started again
//! as on a real host.

mod customer_server;
mod fleet_file;

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use mxfleet_cluster::Cluster;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::fleet;
use crate::http::call::{Call, Changed, DomainRow, RecipientTerms, Refused, RefusedKind, TokenRow};
use crate::http::client::{Admin, AdminError};
use fleet_file::{CustomerServer, FleetFile, NodeEntry};

/// Longest wait for a node to answer on its admin socket.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between two looks at a node: while it starts, and whether it still runs.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// How long nodes may take to stop before they are killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(40);

/// A token is used at once.
const TOKEN_LIFE_MS: u64 = 60_000;

/// The default of `cluster.voters_max`: more nodes than these do not vote.
const VOTERS_MAX: usize = 5;

const DEMO_CUSTOMER: &str = "demo";
const DEMO_DOMAIN: &str = "example.test";

/// Run the fleet until Ctrl-C or SIGTERM.
pub async fn run(dir: &Path, nodes: u16) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let dir = dir.canonicalize()?;
    let mut told_to_stop = Stop::new()?;
    let mut children = Vec::new();
    let outcome = tokio::select! {
        outcome = serve(&dir, nodes, &mut children) => outcome,
        () = told_to_stop.wait() => Ok(()),
    };
    // Whoever read this may be gone (`| head`); the nodes must not be left behind for that.
    let _ = writeln!(std::io::stderr(), "stopping the fleet");
    for child in children {
        stop(child).await;
    }
    outcome
}

/// Start everything, then keep `fleet.json` true; ends only when something is wrong.
async fn serve(dir: &Path, nodes: u16, children: &mut Vec<Child>) -> anyhow::Result<()> {
    let mut entries = Vec::new();
    for id in 1..=nodes {
        let entry = NodeEntry::prepare(dir, id)?;
        if let Some(pid) = entry.running_pid() {
            bail!(
                "node {} already runs (process {pid}); stop it, or give another --dir",
                entry.name
            );
        }
        entries.push(entry);
    }
    let mailbox = dir.join("mailbox");
    let smtp = customer_server::start(&mailbox).await?;
    // Nodes that are in the fleet already need each other to decide anything, so they start first.
    let mut settled = Vec::new();
    let mut new = Vec::new();
    for entry in &entries {
        let place = fleet::config(&entry.read_config()?);
        if Cluster::is_settled(&place) { settled.push(entry) } else { new.push(entry) }
    }
    for entry in &settled {
        children.push(start(entry)?);
    }
    for (entry, child) in settled.iter().zip(children.iter_mut()) {
        wait_until_it_answers(entry, child).await?;
    }
    let mut through = settled.first().copied();
    for entry in new {
        enter_fleet(entry, through).await?;
        let mut child = start(entry)?;
        let answered = wait_until_it_answers(entry, &mut child).await;
        children.push(child);
        answered?;
        through = through.or(Some(entry));
    }
    if let Some(entry) = through {
        set_up_demo(entry, &smtp.to_string()).await?;
        wait_until_all_vote(entry, entries.len()).await?;
    }
    let customer_server = CustomerServer { smtp: smtp.to_string(), mailbox };
    let mut file = FleetFile::new(dir, entries, customer_server);
    file.refresh();
    file.write()?;
    print(&cheat_sheet(&file));
    let mut ticks = interval(LOOK_PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for child in children.iter_mut() {
            // Only to take a dead child off the process table; `refresh` tells who runs.
            child.try_wait()?;
        }
        if file.refresh() {
            file.write()?;
        }
    }
}

/// Begin the fleet with this node, or join it through one that runs.
async fn enter_fleet(entry: &NodeEntry, through: Option<&NodeEntry>) -> anyhow::Result<()> {
    let config = entry.read_config()?;
    let (place, name) = (fleet::config(&config), &entry.name);
    let Some(through) = through else {
        return Cluster::init(&place, name).with_context(|| format!("a fleet with {name}"));
    };
    let admin = Admin::at(Some(through.admin.clone()))?;
    let call = Call::ClusterToken { name: name.clone(), life_ms: TOKEN_LIFE_MS };
    let row: TokenRow = retry(|| admin.ask(&call)).await?;
    let peer = through.cluster.parse()?;
    Cluster::join(&place, name, peer, &row.token.parse()?)
        .await
        .with_context(|| format!("{name} does not join"))
}

/// A fleet that has just begun, or has just taken a host in, may need a moment to decide.
async fn retry<T, F>(mut ask: impl FnMut() -> F) -> Result<T, AdminError>
where
    F: Future<Output = Result<T, AdminError>>,
{
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        match ask().await {
            Err(AdminError::Refused(Refused { kind: RefusedKind::Unavailable, .. }))
                if Instant::now() < deadline =>
            {
                sleep(LOOK_PAUSE).await;
            }
            answered => return answered,
        }
    }
}

fn start(entry: &NodeEntry) -> anyhow::Result<Child> {
    let program = std::env::current_exe()?;
    let log = std::fs::File::create(entry.data.with_file_name("node.log"))?;
    Command::new(program)
        .arg("run")
        .arg("--config")
        .arg(&entry.config)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C in the terminal is for `dev`, which then stops its nodes in order.
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start node {}", entry.name))
}

async fn wait_until_it_answers(entry: &NodeEntry, child: &mut Child) -> anyhow::Result<()> {
    let deadline = Instant::now() + START_TIMEOUT;
    let admin = Admin::at(Some(entry.admin.clone()))?;
    let log = entry.data.with_file_name("node.log");
    loop {
        match admin.ask::<serde_json::Value>(&Call::CustomerList).await {
            Ok(_) => return Ok(()),
            // Broken: it may be ending just now; then its own words say more.
            Err(AdminError::Unreachable { .. } | AdminError::Broken(_)) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(status) = child.try_wait()? {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            bail!("node {} did not start ({status}):\n{}", entry.name, said.trim_end());
        }
        if Instant::now() > deadline {
            bail!("node {} does not answer; see {}", entry.name, log.display());
        }
        sleep(LOOK_PAUSE / 4).await;
    }
}

/// How many nodes vote in a fleet of so many: an odd number, except in one of two.
fn voters(nodes: usize) -> usize {
    match nodes.min(VOTERS_MAX) {
        nodes @ 0..=2 => nodes,
        nodes => nodes - (nodes + 1) % 2,
    }
}

/// From then on any one node of three can be killed.
async fn wait_until_all_vote(entry: &NodeEntry, nodes: usize) -> anyhow::Result<()> {
    let deadline = Instant::now() + START_TIMEOUT;
    let admin = Admin::at(Some(entry.admin.clone()))?;
    loop {
        let status: serde_json::Value = admin.ask(&Call::ClusterStatus).await?;
        let members = status["members"].as_array();
        let votes = members.map_or(0, |m| m.iter().filter(|m| m["role"] == "voter").count());
        let wanted = voters(nodes);
        if votes >= wanted {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("only {votes} of {nodes} nodes vote, not {wanted}; see `mxfleet cluster status`");
        }
        sleep(LOOK_PAUSE).await;
    }
}

/// Customer `demo` with `example.test`, whose mail goes to the stand-in server.
async fn set_up_demo(entry: &NodeEntry, smtp: &str) -> anyhow::Result<()> {
    let admin = Admin::at(Some(entry.admin.clone()))?;
    let customer = Call::CustomerAdd {
        id: DEMO_CUSTOMER.to_owned(),
        name: Some("Demo".to_owned()),
        contacts: vec![format!("ops@{DEMO_DOMAIN}")],
    };
    unless_there(retry(|| admin.ask::<Changed>(&customer)).await)?;
    let (name, customer) = (DEMO_DOMAIN.to_owned(), DEMO_CUSTOMER.to_owned());
    let domain = Call::DomainAdd(DomainRow::new(name.clone(), customer, smtp.to_owned()));
    unless_there(retry(|| admin.ask::<Changed>(&domain)).await)?;
    // One that was there leads to where the stand-in server was then; the rest may be the user's.
    let route = Call::DomainSet {
        name,
        customer: None,
        route: Some(smtp.to_owned()),
        tls: None,
        connections_max: None,
        recipients: RecipientTerms::default(),
    };
    retry(|| admin.ask::<Changed>(&route)).await?;
    Ok(())
}

fn unless_there(added: Result<Changed, AdminError>) -> Result<(), AdminError> {
    match added {
        Err(AdminError::Refused(Refused { kind: RefusedKind::Conflict, .. })) | Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Ask with SIGTERM, insist with SIGKILL.
async fn stop(mut child: Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
        // A child that has died meanwhile cannot be signalled, which is what we want of it.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if timeout(STOP_TIMEOUT, child.wait()).await.is_err()
        && let Err(error) = child.kill().await
    {
        let _ = writeln!(std::io::stderr(), "a node could not be killed: {error}");
    }
}

/// Ctrl-C or SIGTERM.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// What makes `mxfleet` this very program in another terminal; nothing when it is so already.
fn path_line() -> Option<String> {
    let program = std::env::current_exe().ok()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut named = std::env::split_paths(&path).map(|folder| folder.join("mxfleet"));
    let found = named.find(|file| file.is_file()).and_then(|file| file.canonicalize().ok());
    let folder = program.parent()?.display();
    (found.as_ref() != Some(&program)).then(|| format!("export PATH={folder}:$PATH"))
}

/// A reader that went away (`| head`) is no reason to end: the fleet runs, and Ctrl-C stops it.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn cheat_sheet(file: &FleetFile) -> String {
    let Some(node) = file.nodes.first() else { return String::new() };
    let (host, port) = node.smtp.rsplit_once(':').unwrap_or((&node.smtp, "25"));
    let mut lines = vec!["\nThe fleet is up. Try, in another terminal:\n".to_owned()];
    let commands = [
        format!("swaks --server {host}:{port} --to anybody@{DEMO_DOMAIN} --from me@sender.test"),
        format!("ls {}", file.customer_server.mailbox.display()),
        format!("swaks --server {host}:{port} --to unknown-1@{DEMO_DOMAIN} --from me@sender.test"),
        format!("curl http://{}/readyz", node.http),
        format!("curl http://{}/metrics", node.metrics),
        format!("export MXFLEET_ADMIN={}", node.admin.display()),
        "mxfleet cluster status".to_owned(),
        "mxfleet queue summary".to_owned(),
        "mxfleet explain rcpt somebody@elsewhere.test".to_owned(),
        "mxfleet customer add acme --contact ops@acme.test".to_owned(),
        format!(
            "mxfleet domain add acme.test --customer acme --route {}",
            file.customer_server.smtp
        ),
    ];
    lines.extend(path_line().into_iter().chain(commands).map(|command| format!("  {command}")));
    lines.push(format!("\nThe status page is http://{}/, for a browser.", node.http));
    lines.push("The stand-in customer server refuses unknown* and is busy for busy*.".to_owned());
    lines.extend(file.nodes.iter().map(|node| {
        let pid = node.pid.map_or("-".to_owned(), |pid| pid.to_string());
        let (name, smtp, config) = (&node.name, &node.smtp, node.config.display());
        format!("{name}: smtp {smtp}, process {pid}; after kill -9: mxfleet run --config {config}")
    }));
    lines.push("\nCtrl-C stops everything; the state stays.\n".to_owned());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_fleet_has_a_node_that_does_not_vote() {
        assert_eq!([1, 2, 3, 4, 5, 6, 9].map(voters), [1, 2, 3, 3, 5, 5, 5]);
    }
}
