//! What the tests of this stage share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mxfleet_cluster::TlsPolicy;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::{Client, Hop, Outgoing, Response, Roots, Text};
use crate::config::Limits;
use crate::smtp::{Address, Answer, BodyType, Envelope, Recipient, envelope::Origin};

/// An envelope from `sender@example.test` to these recipients.
pub(crate) fn envelope(recipients: &[&str]) -> Envelope {
    let recipient = |text: &&str| Recipient {
        address: Address::parse(text, true).unwrap(),
        notify: None,
        orcpt: None,
    };
    Envelope {
        mail_from: Some(Address::parse("sender@example.test", false).unwrap()),
        recipients: recipients.iter().map(recipient).collect(),
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        authentication: None,
        about: None,
        letter: None,
        origin: Origin {
            ip: None,
            helo: "client.example.test".to_owned(),
            received_at_us: 0,
            mx_name: None,
        },
    }
}

/// What a scripted server saw.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The texts it was sent, as on the wire, final dot included.
    pub(crate) texts: Vec<String>,
    /// How often it had to read from the socket, in all.
    pub(crate) reads: usize,
    /// How many connections were upgraded to TLS.
    pub(crate) handshakes: usize,
}

/// A server on loopback that plays one script per connection, in turn, and fails the test when
/// the client strays from it. A script line is one of
///
/// - `> 250 ok`: send that line; `>> bytes` sends without a line end, with `\r` and `\n`
/// - `~ 250 ok`: send it octet by octet
/// - `< MAIL`: a line that starts so must come
/// - `<.`: a text must come, up to the final dot
/// - `tls`: upgrade
/// - `reset`: close with RST
/// - `silence`: say nothing until the client closes
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    task: JoinHandle<Seen>,
}

impl Server {
    pub(crate) async fn start(scripts: &[&str]) -> Self {
        Self::with_tls(scripts, None).await
    }

    pub(crate) async fn with_tls(scripts: &[&str], tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let scripts: Vec<String> = scripts.iter().map(|s| (*s).to_owned()).collect();
        let task = tokio::spawn(async move {
            let mut seen = Seen::default();
            for script in scripts {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                if script.contains("reset") {
                    stream.set_zero_linger().unwrap();
                }
                let mut peer = Peer { stream: Box::new(stream), inbox: Vec::new() };
                peer.play(&script, tls.as_ref(), &mut seen).await;
            }
            seen
        });
        Self { address, task }
    }

    /// This server under the name `mx.example.test`.
    pub(crate) fn hop(&self, tls: TlsPolicy) -> Hop {
        Hop { name: "mx.example.test".to_owned(), address: self.address, tls }
    }

    /// Wait for the end of all scripts.
    pub(crate) async fn seen(self) -> Seen {
        timeout(Duration::from_secs(20), self.task).await.expect("the scripts end").unwrap()
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

struct Peer {
    stream: Box<dyn Stream>,
    inbox: Vec<u8>,
}

impl Peer {
    async fn play(&mut self, script: &str, tls: Option<&TlsAcceptor>, seen: &mut Seen) {
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
            match verb {
                ">" => self.send(format!("{rest}\r\n").as_bytes()).await,
                ">>" => self.send(rest.replace("\\r", "\r").replace("\\n", "\n").as_bytes()).await,
                "~" => {
                    for byte in format!("{rest}\r\n").bytes() {
                        self.send(&[byte]).await;
                        // So that each octet is a segment of its own.
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
                "<" => {
                    let got = self.until(b"\r\n", seen).await;
                    assert!(got.starts_with(rest), "expected {rest:?}, got {got:?}");
                }
                "<." => {
                    let text = self.text(seen).await;
                    seen.texts.push(text);
                }
                "tls" => {
                    assert!(self.inbox.is_empty(), "the client spoke before the handshake");
                    let plain = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
                    match tls.expect("an acceptor").accept(plain).await {
                        Ok(stream) => {
                            seen.handshakes += 1;
                            self.stream = Box::new(stream);
                        }
                        Err(_) => return,
                    }
                }
                "silence" => while self.fill(seen).await > 0 {},
                "reset" => return,
                other => panic!("no such script line: {other}"),
            }
        }
        let _ = self.stream.shutdown().await;
    }

    async fn send(&mut self, bytes: &[u8]) {
        // The client may have gone; what it did before is asserted by what it returned.
        let _ = self.stream.write_all(bytes).await;
        let _ = self.stream.flush().await;
    }

    async fn fill(&mut self, seen: &mut Seen) -> usize {
        seen.reads += 1;
        self.inbox.reserve(64 * 1024);
        self.stream.read_buf(&mut self.inbox).await.unwrap_or(0)
    }

    async fn until(&mut self, end: &[u8], seen: &mut Seen) -> String {
        loop {
            if let Some(at) = self.inbox.windows(end.len()).position(|window| window == end) {
                let line: Vec<u8> = self.inbox.drain(..at + end.len()).collect();
                return String::from_utf8(line).unwrap();
            }
            if self.fill(seen).await == 0 {
                return format!("(closed) {}", String::from_utf8_lossy(&self.inbox));
            }
        }
    }

    async fn text(&mut self, seen: &mut Seen) -> String {
        while self.inbox.len() < 3 && self.fill(seen).await > 0 {}
        if self.inbox.starts_with(b".\r\n") {
            return self.until(b".\r\n", seen).await;
        }
        self.until(b"\r\n.\r\n", seen).await
    }
}

/// A client that trusts `roots`, with timeouts a test can wait for.
pub(crate) fn client_with(roots: &Roots, limits: Limits) -> Client {
    Client::new("client.example.test".to_owned(), Arc::new(limits), roots).unwrap()
}

/// A client with the default limits.
pub(crate) fn client() -> Client {
    client_with(&Roots::System, Limits::default())
}

/// Offer `text` to all recipients of `envelope`.
pub(crate) fn outgoing<'a>(
    envelope: &'a Envelope,
    recipients: &'a [u32],
    text: &'static str,
) -> Outgoing<'a> {
    let octets = u64::try_from(text.len()).unwrap();
    Outgoing { envelope, recipients, octets, text: Text::Whole(text.into()) }
}

/// Responses in short: `rcpt 550`, `final-dot broken`, `mail unfit 5.6.7`, `untried`.
pub(crate) fn short(responses: &[Response]) -> Vec<String> {
    let one = |response: &Response| match &response.answer {
        Answer::Reply(reply) => format!("{} {}", response.stage, reply.code),
        Answer::Broken(_) => format!("{} broken", response.stage),
        Answer::Unfit { enhanced, .. } => format!("{} unfit {enhanced}", response.stage),
        Answer::NotTried => "untried".to_owned(),
    };
    responses.iter().map(one).collect()
}
