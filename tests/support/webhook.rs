//! A webhook by Python's own HTTP server over TLS, as whoever wakes people up may have one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::ca::Ca;
use super::process::Process;
use super::{await_listening, free_address, scratch};

/// What nobody may see.
pub const SECRET: &str = "sEcReT-t0ken";

const SCRIPT: &str = r#"
import http.server, ssl, sys
port, cert, key, took, status = sys.argv[1:]
class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        code = int(open(status).read())
        if code < 300 and self.headers["content-type"] == "application/json":
            with open(took, "ab") as out:
                out.write(self.path.encode() + b" " + body + b"\n")
        self.send_response(code)
        self.send_header("content-length", "0")
        self.end_headers()
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Hook)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"#;

/// The server, running or not.
pub struct Webhook {
    address: SocketAddr,
    ca: Ca,
    certificate: (PathBuf, PathBuf),
    process: Option<Process>,
    folder: tempfile::TempDir,
}

impl Webhook {
    /// One that does not run yet.
    pub fn stopped() -> Self {
        let folder = scratch();
        let ca = Ca::new(folder.path());
        let (address, certificate) = (free_address(), ca.issue(&["localhost"]));
        let webhook = Self { address, ca, certificate, process: None, folder };
        webhook.answer(200);
        let url = format!("https://localhost:{}/hook/{SECRET}\n", address.port());
        std::fs::write(webhook.url_file(), url).unwrap();
        webhook
    }

    /// The file with its address.
    pub fn url_file(&self) -> PathBuf {
        self.folder.path().join("url")
    }

    /// The file with the root of its certificate.
    pub fn ca_file(&self) -> &Path {
        self.ca.file()
    }

    /// Answer with this status from now on.
    pub fn answer(&self, status: u16) {
        std::fs::write(self.folder.path().join("status"), status.to_string()).unwrap();
    }

    /// It runs from now on.
    pub fn start(&mut self) {
        let shown = |path: &Path| path.display().to_string();
        let (cert, key) = &self.certificate;
        let words = [
            "python3".to_owned(),
            "-c".to_owned(),
            SCRIPT.to_owned(),
            self.address.port().to_string(),
            shown(cert),
            shown(key),
            shown(&self.folder.path().join("took")),
            shown(&self.folder.path().join("status")),
        ];
        self.process = Some(Process::start(&words, &self.folder.path().join("log")));
        await_listening(self.address);
    }

    /// What it took.
    pub fn pages(&self) -> Vec<Value> {
        let took = std::fs::read_to_string(self.folder.path().join("took")).unwrap_or_default();
        let page = |line: &str| {
            let body = line.strip_prefix(&format!("/hook/{SECRET} ")).unwrap();
            serde_json::from_str(body).unwrap()
        };
        took.lines().map(page).collect()
    }
}
