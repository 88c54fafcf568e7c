//! A customer's server that does as it is told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// How it behaves; can be changed at any time.
#[derive(Debug, Clone, Default)]
pub(super) struct Manners {
    /// What it says instead of a greeting; then it closes.
    pub(super) greeting: Option<&'static str>,
    /// A line of its answer to EHLO.
    pub(super) offer: Option<&'static str>,
    /// It closes instead of answering the final dot, though it keeps the message.
    pub(super) forgets_to_answer: bool,
    /// What it says to MAIL instead of 250.
    pub(super) mail: Option<&'static str>,
    /// What it says to RCPT for addresses that begin so.
    pub(super) rcpt: BTreeMap<&'static str, &'static str>,
    /// It closes without a word after so many messages on one connection.
    pub(super) messages_max: Option<usize>,
    /// How long it thinks about a message.
    pub(super) pause: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Recipients and text of each message taken.
    pub(super) taken: Vec<(Vec<String>, String)>,
    /// MAIL and RCPT commands, as they came.
    pub(super) commands: Vec<String>,
    /// Recipients of each message, by how often it was offered.
    pub(super) offered: BTreeMap<String, usize>,
    pub(super) connections: usize,
    pub(super) open: usize,
    pub(super) open_max: usize,
    pub(super) quits: usize,
}

#[derive(Clone)]
pub(super) struct CustomerServer {
    pub(super) address: SocketAddr,
    pub(super) manners: Arc<Mutex<Manners>>,
    pub(super) seen: Arc<Mutex<Seen>>,
    closed: CancellationToken,
}

impl CustomerServer {
    pub(super) async fn start(manners: Manners) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), manners).await
    }

    pub(super) async fn start_at(address: SocketAddr, manners: Manners) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            manners: Arc::new(Mutex::new(manners)),
            seen: Arc::default(),
            closed: CancellationToken::new(),
        };
        let serving = server.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap(),
                    () = serving.closed.cancelled() => return,
                };
                let one = serving.clone();
                tokio::spawn(async move { one.connection(stream).await });
            }
        });
        server
    }

    pub(super) fn behave(&self, change: impl FnOnce(&mut Manners)) {
        change(&mut self.manners.lock().unwrap());
    }

    /// Take no more connections, and drop those there are.
    pub(super) fn close(&self) {
        self.closed.cancel();
    }

    pub(super) fn taken(&self) -> usize {
        self.seen.lock().unwrap().taken.len()
    }

    /// Every recipient of every message taken, in order of address.
    pub(super) fn recipients(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        let mut all: Vec<String> = seen.taken.iter().flat_map(|(to, _)| to.clone()).collect();
        all.sort();
        all
    }

    async fn connection(&self, stream: TcpStream) {
        {
            let mut seen = self.seen.lock().unwrap();
            seen.connections += 1;
            seen.open += 1;
            seen.open_max = seen.open_max.max(seen.open);
        }
        tokio::select! {
            _ = self.talk(stream) => {}
            () = self.closed.cancelled() => {}
        }
        self.seen.lock().unwrap().open -= 1;
    }

    async fn talk(&self, stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        let greeting = self.manners.lock().unwrap().greeting;
        write.write_all(format!("{}\r\n", greeting.unwrap_or("220 here")).as_bytes()).await?;
        if greeting.is_some() {
            return Ok(());
        }
        let mut to = Vec::new();
        let mut messages = 0;
        while let Some(line) = lines.next_line().await? {
            let manners = self.manners.lock().unwrap().clone();
            if line.starts_with("MAIL") || line.starts_with("RCPT") {
                self.seen.lock().unwrap().commands.push(line.clone());
            }
            let reply = match line.split_at_checked(4).map_or("", |(verb, _)| verb) {
                "EHLO" => {
                    let offer = manners.offer.unwrap_or("8BITMIME");
                    format!("250-here\r\n250-PIPELINING\r\n250 {offer}")
                }
                "MAIL" => manners.mail.unwrap_or("250 2.1.0 ok").to_owned(),
                "RCPT" => self.recipient(&manners, &line, &mut to),
                "DATA" if to.is_empty() => "554 5.5.1 no valid recipients".to_owned(),
                "DATA" => {
                    write.write_all(b"354 go on\r\n").await?;
                    let mut text = String::new();
                    while let Some(line) = lines.next_line().await?.filter(|line| line != ".") {
                        text.push_str(&line);
                        text.push('\n');
                    }
                    // Stands for a server that scans for viruses.
                    tokio::time::sleep(manners.pause).await;
                    self.seen.lock().unwrap().taken.push((std::mem::take(&mut to), text));
                    messages += 1;
                    if self.manners.lock().unwrap().forgets_to_answer {
                        return Ok(());
                    }
                    "250 2.0.0 taken".to_owned()
                }
                "QUIT" => {
                    self.seen.lock().unwrap().quits += 1;
                    write.write_all(b"221 2.0.0 bye\r\n").await?;
                    return Ok(());
                }
                _ => {
                    to.clear();
                    "250 2.0.0 ok".to_owned()
                }
            };
            write.write_all(format!("{reply}\r\n").as_bytes()).await?;
            if reply.starts_with("421") || manners.messages_max.is_some_and(|max| messages >= max) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn recipient(&self, manners: &Manners, line: &str, to: &mut Vec<String>) -> String {
        let address = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
        *self.seen.lock().unwrap().offered.entry(address.clone()).or_default() += 1;
        let refusal = manners.rcpt.iter().find(|(start, _)| address.starts_with(**start));
        match refusal {
            Some((_, reply)) => (*reply).to_owned(),
            None => {
                to.push(address);
                "250 2.1.5 ok".to_owned()
            }
        }
    }
}
