//! Real name servers, BIND and Knot, that answer for a test's zones on a loopback port.

use std::fmt::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;

use super::process::Process;
use super::{SOON, eventually, free_address, scratch};

/// Which program answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Software {
    /// ISC BIND.
    Bind,
    /// Knot DNS.
    Knot,
}

/// A running name server; stopped when dropped.
#[derive(Debug)]
pub struct NameServer {
    address: SocketAddr,
    words: Vec<String>,
    origin: String,
    copies: bool,
    process: Process,
    folder: tempfile::TempDir,
}

/// What a name server does besides answering.
#[derive(Debug, Default, Clone)]
pub struct Duties {
    /// It takes updates signed with this key (`tsig-keygen` text).
    pub key: Option<String>,
    /// It copies its zones from this server, and asks for news only when it is started.
    pub copies: Option<SocketAddr>,
}

/// A key as `tsig-keygen` writes it, of this name.
pub fn tsig_key(name: &str) -> String {
    super::process::output("tsig-keygen", &["-a", "hmac-sha256", name])
}

impl NameServer {
    /// Serve these zones: origin and records in zone file syntax. SOA and NS are added.
    pub fn start(software: Software, zones: &[(&str, &str)]) -> Self {
        Self::with(software, zones, &Duties::default())
    }

    /// Serve these zones with these duties.
    pub fn with(software: Software, zones: &[(&str, &str)], duties: &Duties) -> Self {
        let folder = scratch();
        let address = free_address();
        for (origin, records) in zones {
            if duties.copies.is_some() {
                continue;
            }
            write_zone(folder.path(), origin, records, 1);
        }
        let origins = zones.iter().map(|&(origin, _)| origin);
        let words = match software {
            Software::Bind => bind(folder.path(), address, origins, duties),
            Software::Knot => knot(folder.path(), address, origins, duties),
        };
        let process = Process::start(&words, &folder.path().join("log"));
        let origin = zones[0].0.to_owned();
        let copies = duties.copies.is_some();
        let mut server = Self { address, words, origin, copies, process, folder };
        server.await_answers();
        server
    }

    /// It does not answer any more.
    pub fn stop(&mut self) {
        self.process.kill();
    }

    /// It answers again; one that copies asks for news first.
    pub fn restart(&mut self) {
        self.process.kill();
        if self.copies {
            std::fs::remove_file(zone_file(self.folder.path(), &self.origin)).unwrap();
        }
        self.process = Process::start(&self.words, &self.folder.path().join("log"));
        self.await_answers();
    }

    /// Serve other records for a zone of its own, at once.
    pub fn replace(&mut self, origin: &str, records: &str) {
        write_zone(self.folder.path(), origin, records, 2);
        self.process.kill();
        self.process = Process::start(&self.words, &self.folder.path().join("log"));
        self.await_answers();
    }

    /// What it answers, one record a line: data only.
    pub fn ask(&self, name: &str, kind: &str) -> String {
        let port = self.address.port().to_string();
        let server = format!("@{}", self.address.ip());
        super::process::output("dig", &[&server, "-p", &port, "+short", "+norec", name, kind])
            .trim()
            .to_owned()
    }

    /// The time to live it gives, in seconds.
    pub fn ttl(&self, name: &str) -> Option<u32> {
        let port = self.address.port().to_string();
        let server = format!("@{}", self.address.ip());
        let words = [&server, "-p", &port, "+noall", "+answer", "+norec", name, "A"];
        let answer = super::process::output("dig", &words);
        answer.split_whitespace().nth(1).map(|ttl| ttl.parse().unwrap())
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn await_answers(&mut self) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
        let question = soa_question(&self.origin);
        eventually("a name server that answers", SOON, || {
            assert!(self.process.is_running(), "it ended:\n{}", self.process.words());
            let _ = socket.send_to(&question, self.address);
            let mut answer = [0; 512];
            let got = socket.recv(&mut answer).unwrap_or(0);
            got > 12 && answer[3] & 0x0f == 0
        });
    }
}

fn write_zone(folder: &Path, origin: &str, records: &str, serial: u32) {
    let head = format!(
        "$ORIGIN {origin}.\n$TTL 1\n@ SOA ns host {serial} 3600 600 86400 1\n@ NS ns\n\
         ns A 127.0.0.1\n"
    );
    std::fs::write(zone_file(folder, origin), head + records + "\n").unwrap();
}

fn zone_file(folder: &Path, origin: &str) -> std::path::PathBuf {
    folder.join(format!("{origin}.zone"))
}

fn bind<'a>(
    folder: &Path,
    address: SocketAddr,
    origins: impl Iterator<Item = &'a str>,
    duties: &Duties,
) -> Vec<String> {
    let mut text = format!(
        "options {{ directory \"{folder}\"; pid-file none; session-keyfile \"{folder}/key\";\n\
         listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};\n\
         recursion no; dnssec-validation no; minimal-responses yes; notify no; }};\n\
         controls {{ }};\n",
        folder = folder.display(),
        port = address.port(),
    );
    let mut role = "type primary; allow-transfer { any; };".to_owned();
    if let Some(key) = &duties.key {
        text.push_str(key);
        write!(role, " allow-update {{ key {}; }};", key_name(key)).unwrap();
    }
    if let Some(from) = duties.copies {
        role = format!("type secondary; primaries {{ {} port {}; }};", from.ip(), from.port());
    }
    for origin in origins {
        let file = zone_file(folder, origin);
        writeln!(text, "zone \"{origin}\" {{ {role} file \"{}\"; }};", file.display()).unwrap();
    }
    let config = folder.join("named.conf");
    std::fs::write(&config, text).unwrap();
    words(&["/usr/sbin/named", "-g", "-n", "1", "-c"], &config)
}

fn knot<'a>(
    folder: &Path,
    address: SocketAddr,
    origins: impl Iterator<Item = &'a str>,
    duties: &Duties,
) -> Vec<String> {
    let mut text = format!(
        "server:\n  rundir: \"{folder}\"\n  listen: {ip}@{port}\n\
         database:\n  storage: \"{folder}\"\n\
         log:\n  - target: stderr\n    any: info\n",
        folder = folder.display(),
        ip = address.ip(),
        port = address.port(),
    );
    assert!(duties.copies.is_none(), "BIND is the one that copies");
    let mut role = "";
    if let Some(key) = &duties.key {
        let secret = key.split('"').nth(3).unwrap();
        write!(
            text,
            "key:\n  - id: {name}\n    algorithm: hmac-sha256\n    secret: {secret}\n\
             acl:\n  - id: update\n    key: {name}\n    action: update\n",
            name = key_name(key),
        )
        .unwrap();
        role = "    acl: update\n";
    }
    text.push_str("zone:\n");
    for origin in origins {
        let file = zone_file(folder, origin);
        write!(text, "  - domain: {origin}\n    file: \"{}\"\n{role}", file.display()).unwrap();
    }
    let config = folder.join("knot.conf");
    std::fs::write(&config, text).unwrap();
    words(&["/usr/sbin/knotd", "-c"], &config)
}

/// `key "NAME" { ... };`
fn key_name(key: &str) -> &str {
    key.split('"').nth(1).unwrap()
}

fn words(program: &[&str], config: &Path) -> Vec<String> {
    let mut words: Vec<String> = program.iter().map(|&word| word.to_owned()).collect();
    words.push(config.display().to_string());
    words
}

/// A query for the SOA record, written by hand: the test's own resolver would prove nothing.
fn soa_question(origin: &str) -> Vec<u8> {
    let mut question = vec![0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in origin.split('.') {
        question.push(u8::try_from(label.len()).unwrap());
        question.extend_from_slice(label.as_bytes());
    }
    question.extend_from_slice(&[0, 0, 6, 0, 1]);
    question
}
