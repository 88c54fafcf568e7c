//! A real `mxfleet run` with its configuration, killed and started again at will.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output};
use std::time::Duration;

use serde_json::Value;

use super::process::{Process, attempt, attempt_with};
use super::smtp::Smtp;
use super::{SOON, eventually, free_address, scratch};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_mxfleet");

/// What a node under test has that differs from the defaults.
#[derive(Debug, Default, Clone)]
pub struct Setup {
    /// Its name in the fleet; `mx1` when absent.
    pub name: Option<String>,
    /// Where other nodes reach it; without it the node is a fleet of one.
    pub cluster: Option<SocketAddr>,
    /// An address of its own, with the usual ports; loopback with free ports when absent.
    pub ip: Option<Ipv4Addr>,
    /// `[limits]`, as written in the file.
    pub limits: Vec<(&'static str, String)>,
    /// Certificate and key files.
    pub certificates: Vec<(PathBuf, PathBuf)>,
    /// The only name server it asks.
    pub dns: Option<SocketAddr>,
    /// The key changes of DNS are signed with, as `tsig-keygen` writes it.
    pub tsig_key: Option<String>,
    /// Root of the ACME server it asks.
    pub acme_ca: Option<PathBuf>,
    /// Port of exchangers found by MX.
    pub mx_port: Option<u16>,
    /// Roots for customers' servers.
    pub ca_file: Option<PathBuf>,
    /// The file with the webhook's address, and the root of its certificate.
    pub webhook: Option<(PathBuf, PathBuf)>,
    /// A folder of its own for the data, such as a small disk.
    pub data_dir: Option<PathBuf>,
    /// Other listening addresses than a free one.
    pub listen: Vec<SocketAddr>,
    /// Whether loopback clients are counted as one network.
    pub count_loopback: bool,
    /// Whether routes to this machine are refused, as in production.
    pub production_routes: bool,
    /// What stands before the program: `strace -D ...`, `prlimit ...`.
    pub wrapper: Vec<String>,
}

/// One node, its files and its process.
#[derive(Debug)]
pub struct Node {
    process: Option<Process>,
    /// Before each start, so that a test can trace one life and not the next.
    pub wrapper: Vec<String>,
    name: String,
    smtp: SocketAddr,
    http: SocketAddr,
    metrics: SocketAddr,
    cluster: Option<SocketAddr>,
    folder: tempfile::TempDir,
}

impl Node {
    /// A node with the defaults, ready.
    pub fn start() -> Self {
        Self::with(&Setup::default())
    }

    /// A node with this set-up, ready.
    pub fn with(setup: &Setup) -> Self {
        let mut node = Self::stopped(setup);
        node.begin();
        node.await_ready();
        node
    }

    /// A node that is configured and not started.
    pub fn stopped(setup: &Setup) -> Self {
        let place = |port| match setup.ip {
            Some(ip) => SocketAddr::from((ip, port)),
            None => free_address(),
        };
        let listen = if setup.listen.is_empty() { vec![place(25)] } else { setup.listen.clone() };
        let node = Self {
            process: None,
            wrapper: setup.wrapper.clone(),
            name: setup.name.clone().unwrap_or_else(|| "mx1".into()),
            smtp: listen[0],
            http: place(8080),
            metrics: place(9090),
            cluster: setup.cluster,
            folder: scratch(),
        };
        std::fs::write(node.config(), node.configuration(setup, &listen)).unwrap();
        node
    }

    fn configuration(&self, setup: &Setup, listen: &[SocketAddr]) -> String {
        let folder = self.folder.path();
        let data = setup.data_dir.clone().unwrap_or_else(|| folder.join("data"));
        let listen: Vec<String> = listen.iter().map(|address| format!("\"{address}\"")).collect();
        let exempt = if setup.count_loopback { "" } else { "\"127.0.0.0/8\"" };
        let mut text = format!(
            "[node]\nname = \"{name}\"\nhostname = \"{name}.relay.example\"\n\
             data_dir = \"{data}\"\n\
             [smtp]\nlisten = [{listen}]\nexempt_networks = [{exempt}]\n\
             [admin]\nsocket = \"{socket}\"\n\
             [http]\nlisten = \"{http}\"\n\
             [metrics]\nlisten = \"{metrics}\"\n\
             [log]\nformat = \"text\"\ndeliveries = \"{deliveries}\"\n\
             [delivery]\nallow_loopback_routes = {loopback}\n",
            name = self.name,
            loopback = !setup.production_routes,
            data = data.display(),
            listen = listen.join(", "),
            socket = self.socket().display(),
            http = self.http,
            metrics = self.metrics,
            deliveries = self.delivery_log().display(),
        );
        if let Some(port) = setup.mx_port {
            writeln!(text, "mx_port = {port}").unwrap();
        }
        if let Some(file) = &setup.ca_file {
            writeln!(text, "ca_file = \"{}\"", file.display()).unwrap();
        }
        if let Some((url_file, ca_file)) = &setup.webhook {
            let (url_file, ca_file) = (url_file.display(), ca_file.display());
            write!(
                text,
                "[service]\nwebhook_url_file = \"{url_file}\"\nwebhook_ca_file = \"{ca_file}\"\n"
            )
            .unwrap();
        }
        for (cert, key) in &setup.certificates {
            let (cert, key) = (cert.display(), key.display());
            write!(text, "[[smtp.certificates]]\ncert = \"{cert}\"\nkey = \"{key}\"\n").unwrap();
        }
        if let Some(address) = setup.cluster {
            write!(text, "[cluster]\nlisten = \"{address}\"\n").unwrap();
        }
        text.push_str(&self.dns_configuration(setup));
        if !setup.limits.is_empty() {
            text.push_str("[limits]\n");
        }
        for (name, value) in &setup.limits {
            writeln!(text, "{name} = {value}").unwrap();
        }
        text
    }

    fn dns_configuration(&self, setup: &Setup) -> String {
        let mut text = "[dns]\n".to_owned();
        if let Some(server) = setup.dns {
            writeln!(text, "servers = [\"{server}\"]").unwrap();
        }
        if let Some(key) = &setup.tsig_key {
            std::fs::write(self.tsig_key(), key).unwrap();
            writeln!(text, "tsig_key_file = \"{}\"", self.tsig_key().display()).unwrap();
        }
        if let Some(file) = &setup.acme_ca {
            writeln!(text, "acme_ca_file = \"{}\"", file.display()).unwrap();
        }
        text
    }

    /// The file with the key changes of DNS are signed with.
    pub fn tsig_key(&self) -> PathBuf {
        self.folder.path().join("tsig.key")
    }

    /// Start the process, without waiting for it to be ready.
    pub fn begin(&mut self) {
        let mut words = self.wrapper.clone();
        let config = self.config().display().to_string();
        words.extend([PROGRAM.into(), "run".into(), "--config".into(), config]);
        self.process = Some(Process::start(&words, &self.log()));
    }

    /// Wait until `/readyz` says so.
    pub fn await_ready(&mut self) {
        eventually("a node that is ready", SOON, || {
            assert!(self.process().is_running(), "the node ended:\n{}", self.process().words());
            self.is_ready()
        });
    }

    /// Whether the node would accept mail.
    pub fn is_ready(&self) -> bool {
        http_get(self.http, "/readyz").is_some_and(|(status, _)| status == 200)
    }

    /// SIGKILL: what it had not written is gone.
    pub fn kill(&mut self) {
        self.process().kill();
    }

    /// SIGTERM, and how it ended.
    pub fn terminate(&mut self) -> ExitStatus {
        self.process().signal("TERM");
        self.process().wait()
    }

    /// Start again after `kill` or `terminate`, until ready.
    pub fn restart(&mut self) {
        self.begin();
        self.await_ready();
    }

    /// The process that runs.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().unwrap()
    }

    /// Its name in the fleet.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where other nodes reach it.
    pub fn cluster(&self) -> SocketAddr {
        self.cluster.unwrap()
    }

    /// Whether its process runs.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_running)
    }

    /// Run a command on this host that works on the stopped node's folder; `input` is what it
    /// reads. Its configuration is the last argument.
    pub fn offline(&self, arguments: &[&str], input: &str) -> Output {
        let config = self.config().display().to_string();
        // Under the same address and clock as the node itself.
        let mut words = self.wrapper.clone();
        words.push(PROGRAM.into());
        words.extend(arguments.iter().map(|&word| word.to_owned()));
        words.extend(["--config".to_owned(), config]);
        attempt_with(&words, input)
    }

    /// Where clients send mail.
    pub fn smtp(&self) -> SocketAddr {
        self.smtp
    }

    /// Where it serves health.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where Prometheus reads its metrics.
    pub fn metrics(&self) -> SocketAddr {
        self.metrics
    }

    /// A greeted client connection.
    pub fn client(&self) -> Smtp {
        Smtp::greeted(self.smtp)
    }

    /// The node's own folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("mxfleet.toml")
    }

    /// The file of delivery log lines.
    pub fn delivery_log(&self) -> PathBuf {
        self.folder.path().join("deliveries.log")
    }

    /// The file of what the process says.
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("node.log")
    }

    /// The admin socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }

    /// Give a domain to a customer of its own, with this route.
    pub fn serve(&self, domain: &str, route: &str) {
        let customer = domain.split('.').next().unwrap();
        self.admin(&["customer", "add", customer, "--contact", &format!("ops@{domain}")]);
        self.admin(&["domain", "add", domain, "--customer", customer, "--route", route]);
    }

    /// Run an administration command that must succeed; its standard output.
    pub fn admin(&self, arguments: &[&str]) -> String {
        let done = self.try_admin(arguments);
        assert!(
            done.status.success(),
            "mxfleet {arguments:?}: {}: {}",
            done.status,
            String::from_utf8_lossy(&done.stderr)
        );
        String::from_utf8(done.stdout).unwrap()
    }

    /// Run an administration command that may fail.
    pub fn try_admin(&self, arguments: &[&str]) -> Output {
        let socket = self.socket();
        let mut words = vec!["--admin", socket.to_str().unwrap()];
        words.extend(arguments);
        attempt(PROGRAM, &words)
    }

    /// Run an administration command and read its JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut words = vec!["--output", "json"];
        words.extend(arguments);
        serde_json::from_str(&self.admin(&words)).unwrap()
    }

    /// Wait for the delivery log's first line that has `words`. The log is written by a thread
    /// of its own, so that a line may come after its effect.
    pub fn await_log(&self, words: &str) -> String {
        let mut found = None;
        eventually(&format!("{words} in the delivery log"), SOON, || {
            let log = std::fs::read_to_string(self.delivery_log()).unwrap_or_default();
            found = log.lines().find(|line| line.contains(words)).map(str::to_owned);
            found.is_some()
        });
        found.unwrap()
    }

    /// Messages in the queue.
    pub fn queued(&self) -> u64 {
        self.json(&["queue", "summary"])["messages"].as_u64().unwrap()
    }

    /// Wait until every accepted message has its outcome.
    pub fn await_empty_queue(&self, patience: Duration) {
        eventually("an empty queue", patience, || self.queued() == 0);
    }

    /// The value of a metric, labels as in the text format; 0 when there is no such series yet.
    pub fn metric(&self, series: &str) -> f64 {
        let (_, text) = http_get(self.metrics, "/metrics").unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }
}

/// One HTTP request; status and body, or nothing when nobody answers.
pub fn http_get(server: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(server).ok()?;
    stream.set_read_timeout(Some(SOON)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}
