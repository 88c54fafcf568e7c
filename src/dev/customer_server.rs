//! The stand-in for a customer's mail server: it takes what a node relays and keeps it in a
//! folder, one file a message. It trusts its client, which is our own node.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::system::clock;

/// The port that is tried first.
const FIRST_PORT: u16 = 2600;

struct Mailbox {
    dir: PathBuf,
    next: AtomicU64,
}

/// Kept beside each message, in a file that ends in `.env`.
#[derive(Debug, Default, Serialize)]
struct Delivery {
    mail_from: String,
    rcpt_to: Vec<String>,
    /// The name the node gave in EHLO, first label.
    received_by: String,
}

/// Start listening; messages go to `mailbox`.
pub(super) async fn start(mailbox: &Path) -> anyhow::Result<SocketAddr> {
    std::fs::create_dir_all(mailbox)?;
    let port_file = mailbox.with_file_name("customer-server.port");
    // Routes in the nodes' tables name this port, so it stays the same in one folder.
    let port = match std::fs::read_to_string(&port_file) {
        Ok(text) => text.trim().parse()?,
        Err(_) => super::fleet_file::free_address(FIRST_PORT)?.port(),
    };
    let listener = TcpListener::bind(("127.0.0.1", port)).await.with_context(|| {
        format!("port {port}, which is the stand-in customer server's in this folder, is taken")
    })?;
    std::fs::write(&port_file, port.to_string())?;
    let address = listener.local_addr()?;
    let mailbox = Mailbox { dir: mailbox.to_owned(), next: AtomicU64::new(clock::wall_us()) };
    tokio::spawn(accept(listener, Arc::new(mailbox)));
    Ok(address)
}

async fn accept(listener: TcpListener, mailbox: Arc<Mailbox>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let mailbox = Arc::clone(&mailbox);
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, &mailbox).await {
                        tracing::debug!("stand-in customer server: {error}");
                    }
                });
            }
            Err(error) => {
                tracing::warn!("stand-in customer server: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, mailbox: &Mailbox) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut replies: Vec<u8> = Vec::new();
    let mut delivery = Delivery::default();
    let mut line = Vec::new();
    replies.extend(b"220 mail.example.test stand-in customer server\r\n");
    loop {
        // Answers to a pipelined batch leave together.
        if stream.buffer().is_empty() {
            stream.write_all(&replies).await?;
            replies.clear();
        }
        line.clear();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&line);
        let verb = text.split([' ', ':', '\r']).next().unwrap_or_default().to_ascii_uppercase();
        let reply = match verb.as_str() {
            "EHLO" | "HELO" => {
                let name = text.split_whitespace().nth(1).unwrap_or_default();
                delivery.received_by = name.split('.').next().unwrap_or_default().to_owned();
                "250-mail.example.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n\
                 250 ENHANCEDSTATUSCODES"
            }
            "MAIL" => {
                delivery.mail_from = address(&text);
                delivery.rcpt_to.clear();
                "250 2.1.0 ok"
            }
            "RCPT" => rcpt(&mut delivery, address(&text)),
            "DATA" if delivery.rcpt_to.is_empty() => "554 5.5.1 no valid recipients",
            "DATA" => {
                replies.extend(b"354 go on\r\n");
                stream.write_all(&replies).await?;
                replies.clear();
                let message = read_message(&mut stream).await?;
                mailbox.keep(&message, &delivery)?;
                delivery.rcpt_to.clear();
                "250 2.0.0 kept"
            }
            "RSET" => {
                delivery.rcpt_to.clear();
                "250 2.0.0 ok"
            }
            "NOOP" => "250 2.0.0 ok",
            "QUIT" => {
                replies.extend(b"221 2.0.0 bye\r\n");
                return stream.write_all(&replies).await;
            }
            _ => "502 5.5.1 not here",
        };
        replies.extend(reply.as_bytes());
        replies.extend(b"\r\n");
    }
}

fn rcpt(delivery: &mut Delivery, recipient: String) -> &'static str {
    if recipient.starts_with("unknown") {
        "550 5.1.1 User unknown"
    } else if recipient.starts_with("busy") {
        "450 4.2.1 Mailbox busy, try again later"
    } else {
        delivery.rcpt_to.push(recipient);
        "250 2.1.5 ok"
    }
}

fn address(line: &str) -> String {
    let inside = line.split_once('<').and_then(|(_, rest)| rest.rsplit_once('>'));
    inside.map(|(address, _)| address).unwrap_or_default().to_owned()
}

async fn read_message(stream: &mut BufReader<TcpStream>) -> std::io::Result<Vec<u8>> {
    let mut message = Vec::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if line == b".\r\n" {
            return Ok(message);
        }
        message.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
    }
}

impl Mailbox {
    /// Written under another name first, so that whoever looks sees whole messages only.
    fn keep(&self, message: &[u8], delivery: &Delivery) -> std::io::Result<()> {
        let name = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let place = |ending: &str| self.dir.join(format!("{name}{ending}"));
        std::fs::write(place(".env"), serde_json::to_vec(delivery)?)?;
        let beside = self.dir.join(format!(".{name}"));
        std::fs::write(&beside, message)?;
        std::fs::rename(beside, place(".eml"))
    }
}
