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
    process: Process,
    _folder: tempfile::TempDir,
}

impl NameServer {
    /// Serve these zones: origin and records in zone file syntax. SOA and NS are added.
    pub fn start(software: Software, zones: &[(&str, &str)]) -> Self {
        let folder = scratch();
        let address = free_address();
        for (origin, records) in zones {
            let head = format!(
                "$ORIGIN {origin}.\n$TTL 1\n@ SOA ns host 1 3600 600 86400 1\n@ NS ns\n\
                 ns A 127.0.0.1\n"
            );
            std::fs::write(zone_file(folder.path(), origin), head + records + "\n").unwrap();
        }
        let origins = zones.iter().map(|&(origin, _)| origin);
        let words = match software {
            Software::Bind => bind(folder.path(), address, origins),
            Software::Knot => knot(folder.path(), address, origins),
        };
        let process = Process::start(&words, &folder.path().join("log"));
        let mut server = Self { address, process, _folder: folder };
        server.await_answers(zones[0].0);
        server
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn await_answers(&mut self, origin: &str) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
        let question = soa_question(origin);
        eventually("a name server that answers", SOON, || {
            assert!(self.process.is_running(), "it ended:\n{}", self.process.words());
            let _ = socket.send_to(&question, self.address);
            let mut answer = [0; 512];
            let got = socket.recv(&mut answer).unwrap_or(0);
            got > 12 && answer[3] & 0x0f == 0
        });
    }
}

fn zone_file(folder: &Path, origin: &str) -> std::path::PathBuf {
    folder.join(format!("{origin}.zone"))
}

fn bind<'a>(
    folder: &Path,
    address: SocketAddr,
    origins: impl Iterator<Item = &'a str>,
) -> Vec<String> {
    let mut text = format!(
        "options {{ directory \"{folder}\"; pid-file none; session-keyfile \"{folder}/key\";\n\
         listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};\n\
         recursion no; dnssec-validation no; minimal-responses yes; }};\n\
         controls {{ }};\n",
        folder = folder.display(),
        port = address.port(),
    );
    for origin in origins {
        let file = zone_file(folder, origin);
        writeln!(text, "zone \"{origin}\" {{ type primary; file \"{}\"; }};", file.display())
            .unwrap();
    }
    let config = folder.join("named.conf");
    std::fs::write(&config, text).unwrap();
    words(&["/usr/sbin/named", "-g", "-n", "1", "-c"], &config)
}

fn knot<'a>(
    folder: &Path,
    address: SocketAddr,
    origins: impl Iterator<Item = &'a str>,
) -> Vec<String> {
    let mut text = format!(
        "server:\n  rundir: \"{folder}\"\n  listen: {ip}@{port}\n\
         database:\n  storage: \"{folder}\"\n\
         log:\n  - target: stderr\n    any: info\nzone:\n",
        folder = folder.display(),
        ip = address.ip(),
        port = address.port(),
    );
    for origin in origins {
        let file = zone_file(folder, origin);
        write!(text, "  - domain: {origin}\n    file: \"{}\"\n", file.display()).unwrap();
    }
    let config = folder.join("knot.conf");
    std::fs::write(&config, text).unwrap();
    words(&["/usr/sbin/knotd", "-c"], &config)
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
