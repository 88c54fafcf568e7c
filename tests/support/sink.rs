//! A customer's server inside the test: it keeps the exact octets it gets and does what a script
//! says at each step of the dialog.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use memchr::memmem;

use super::{eventually, message};

/// A message as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    /// The argument of MAIL: address in angle brackets, then parameters.
    pub mail: String,
    /// The arguments of the RCPTs that were taken.
    pub rcpt: Vec<String>,
    /// The text, dots unstuffed.
    pub text: Vec<u8>,
    /// Which connection, counted from 0.
    pub connection: usize,
    /// Whether it came over TLS.
    pub tls: bool,
    /// When the reply to the final dot was written.
    pub at: Instant,
}

impl Received {
    /// The sender's address without brackets.
    pub fn from(&self) -> &str {
        address(&self.mail)
    }

    /// The recipients' addresses without brackets.
    pub fn to(&self) -> Vec<&str> {
        self.rcpt.iter().map(|argument| address(argument)).collect()
    }

    /// The message's number, if it is a numbered one.
    pub fn number(&self) -> Option<u64> {
        message::number(self.from())
    }

    /// What the client of the relay had sent.
    pub fn original(&self) -> &[u8] {
        message::below_trace(&self.text)
    }
}

fn address(argument: &str) -> &str {
    argument.strip_prefix('<').and_then(|rest| rest.split('>').next()).unwrap_or(argument)
}

/// A step of the dialog, before the sink answers.
#[derive(Debug)]
pub enum Step<'a> {
    /// A connection was made.
    Connect,
    /// EHLO or HELO, and what the client calls itself.
    Hello(&'a str),
    /// The argument of MAIL.
    Mail(&'a str),
    /// The argument of RCPT.
    Rcpt(&'a str),
    /// DATA.
    Data,
    /// The final dot of this message.
    Dot(&'a Received),
}

/// What a script may want.
#[derive(Debug)]
pub enum Act {
    /// The usual, friendly answer.
    Usual,
    /// This answer; a 2xx to the final dot keeps the message.
    Say(String),
    /// These octets, whatever they are, instead of a reply line.
    Raw(Vec<u8>),
    /// Keep the message, if it is at that step, and drop the connection without an answer.
    Drop,
}

type Script = dyn Fn(&Step<'_>) -> Act + Send + Sync;

/// How a sink differs from the usual one.
#[derive(Default)]
pub struct Manner {
    /// EHLO keywords; the usual set when empty.
    pub keywords: Vec<&'static str>,
    /// Where to listen, when it matters.
    pub listen: Option<SocketAddr>,
    /// For STARTTLS.
    pub tls: Option<rustls::ServerConfig>,
    /// What to do at each step.
    pub script: Option<Box<Script>>,
}

/// The kernel chooses the port.
const ANYWHERE: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

const USUAL: &[&str] =
    &["PIPELINING", "SIZE 104857600", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES"];

struct Shared {
    manner: Manner,
    tls: Option<Arc<rustls::ServerConfig>>,
    received: Mutex<Vec<Received>>,
    open: Mutex<Vec<TcpStream>>,
    connections: AtomicUsize,
    now: AtomicUsize,
    most: AtomicUsize,
    stopped: AtomicBool,
}

/// The server; it stops when dropped.
pub struct Sink {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Sink {
    /// A sink that takes everything.
    pub fn start() -> Self {
        Self::with(Manner::default())
    }

    /// A sink that asks `script` at each step.
    pub fn scripted(script: impl Fn(&Step<'_>) -> Act + Send + Sync + 'static) -> Self {
        Self::with(Manner { script: Some(Box::new(script)), ..Manner::default() })
    }

    /// A sink with these manners.
    pub fn with(mut manner: Manner) -> Self {
        let listener = TcpListener::bind(manner.listen.unwrap_or(ANYWHERE)).unwrap();
        let address = listener.local_addr().unwrap();
        let tls = manner.tls.take().map(Arc::new);
        let shared = Arc::new(Shared {
            manner,
            tls,
            received: Mutex::default(),
            open: Mutex::default(),
            connections: AtomicUsize::new(0),
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, &serving));
        Self { address, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The route that leads here.
    pub fn route(&self) -> String {
        self.address.to_string()
    }

    /// Everything received so far.
    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    /// How many messages were received so far.
    pub fn count(&self) -> usize {
        self.shared.received.lock().unwrap().len()
    }

    /// Connections made so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many connections there are.
    pub fn open(&self) -> usize {
        self.shared.now.load(Ordering::SeqCst)
    }

    /// The most connections at one time.
    pub fn most_at_once(&self) -> usize {
        self.shared.most.load(Ordering::SeqCst)
    }

    /// Wait until `count` messages are here, and return them all.
    pub fn await_count(&self, count: usize, patience: Duration) -> Vec<Received> {
        eventually(&format!("{count} messages at the sink"), patience, || self.count() >= count);
        self.received()
    }

    /// Look at each message without copying it.
    pub fn each(&self, look: impl FnMut(&Received)) {
        self.shared.received.lock().unwrap().iter().for_each(look);
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let connection = shared.connections.fetch_add(1, Ordering::SeqCst);
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            let now = shared.now.fetch_add(1, Ordering::SeqCst) + 1;
            shared.most.fetch_max(now, Ordering::SeqCst);
            if let Ok(copy) = stream.try_clone() {
                let mut open = shared.open.lock().unwrap();
                // Those that ended are let go, so that a long test does not run out of files.
                open.retain(|stream| stream.peer_addr().is_ok());
                open.push(copy);
            }
            let _ = Dialog::new(&stream, &shared, connection).run();
            let _ = stream.shutdown(Shutdown::Both);
            shared.now.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}

/// One connection. An error is its end.
struct Dialog<'a> {
    wire: Box<dyn Wire + 'a>,
    stream: &'a TcpStream,
    shared: &'a Shared,
    connection: usize,
    tls: bool,
    pending: Vec<u8>,
    replies: Vec<u8>,
    mail: Option<String>,
    rcpt: Vec<String>,
}

impl<'a> Dialog<'a> {
    fn new(stream: &'a TcpStream, shared: &'a Shared, connection: usize) -> Self {
        let _ = stream.set_nodelay(true);
        Self {
            wire: Box::new(stream),
            stream,
            shared,
            connection,
            tls: false,
            pending: Vec::new(),
            replies: Vec::new(),
            mail: None,
            rcpt: Vec::new(),
        }
    }

    fn run(&mut self) -> std::io::Result<()> {
        self.answer(&Step::Connect, "220 sink.test ESMTP")?;
        loop {
            let line = self.line()?;
            let (verb, argument) = line.split_once(' ').unwrap_or((&line, ""));
            match verb.to_ascii_uppercase().as_str() {
                "EHLO" | "HELO" => self.hello(argument)?,
                "STARTTLS" => self.starttls()?,
                "MAIL" => self.mail(argument)?,
                "RCPT" => self.rcpt(argument)?,
                "DATA" => self.data()?,
                "RSET" => {
                    self.forget();
                    self.say("250 2.0.0 reset");
                }
                "NOOP" => self.say("250 2.0.0 yes"),
                "QUIT" => {
                    self.say("221 2.0.0 bye");
                    return self.flush();
                }
                _ => self.say("502 5.5.1 what"),
            }
        }
    }

    fn hello(&mut self, client: &str) -> std::io::Result<()> {
        self.forget();
        let own = &self.shared.manner.keywords;
        let mut lines = vec!["sink.test"];
        lines.extend(if own.is_empty() { USUAL } else { own.as_slice() });
        if self.shared.tls.is_some() && !self.tls {
            lines.push("STARTTLS");
        }
        let last = lines.pop().unwrap_or_default();
        let mut reply: String = lines.iter().map(|line| format!("250-{line}\r\n")).collect();
        reply.push_str(&format!("250 {last}"));
        self.answer(&Step::Hello(client), &reply).map(drop)
    }

    fn starttls(&mut self) -> std::io::Result<()> {
        let Some(config) = self.shared.tls.clone() else {
            self.say("502 5.5.1 no TLS here");
            return Ok(());
        };
        self.say("220 2.0.0 go ahead");
        self.flush()?;
        assert!(self.pending.is_empty(), "plain text behind STARTTLS: {:?}", self.pending);
        let connection = rustls::ServerConnection::new(config).map_err(std::io::Error::other)?;
        self.wire = Box::new(rustls::StreamOwned::new(connection, self.stream));
        self.tls = true;
        self.forget();
        Ok(())
    }

    fn mail(&mut self, argument: &str) -> std::io::Result<()> {
        let argument = after_colon(argument);
        if self.answer(&Step::Mail(&argument), "250 2.1.0 ok")? {
            self.mail = Some(argument);
        }
        Ok(())
    }

    fn rcpt(&mut self, argument: &str) -> std::io::Result<()> {
        let argument = after_colon(argument);
        if self.answer(&Step::Rcpt(&argument), "250 2.1.5 ok")? {
            self.rcpt.push(argument);
        }
        Ok(())
    }

    fn data(&mut self) -> std::io::Result<()> {
        if self.rcpt.is_empty() {
            self.say("554 5.5.1 no recipients");
            return Ok(());
        }
        if !self.answer(&Step::Data, "354 go on")? {
            return Ok(());
        }
        let text = unstuffed(&self.text()?);
        let received = Received {
            mail: self.mail.take().unwrap_or_default(),
            rcpt: std::mem::take(&mut self.rcpt),
            text,
            connection: self.connection,
            tls: self.tls,
            at: Instant::now(),
        };
        let act = self.act(&Step::Dot(&received));
        let (kept, reply) = match act {
            Act::Usual => (true, Some(b"250 2.0.0 taken\r\n".to_vec())),
            Act::Say(line) => (line.starts_with('2'), Some(format!("{line}\r\n").into_bytes())),
            Act::Raw(octets) => (false, Some(octets)),
            Act::Drop => (true, None),
        };
        if kept {
            // The script may have taken its time.
            let received = Received { at: Instant::now(), ..received };
            self.shared.received.lock().unwrap().push(received);
        }
        let reply = reply.ok_or(std::io::ErrorKind::ConnectionAborted)?;
        self.replies.extend_from_slice(&reply);
        Ok(())
    }

    fn forget(&mut self) {
        self.mail = None;
        self.rcpt.clear();
    }

    fn act(&self, step: &Step<'_>) -> Act {
        self.shared.manner.script.as_ref().map_or(Act::Usual, |script| script(step))
    }

    /// Answer a step as the script wants; whether the answer was friendly.
    fn answer(&mut self, step: &Step<'_>, usual: &str) -> std::io::Result<bool> {
        let line = match self.act(step) {
            Act::Usual => usual.to_owned(),
            Act::Say(line) => line,
            Act::Raw(octets) => {
                self.replies.extend_from_slice(&octets);
                return Ok(false);
            }
            Act::Drop => return Err(std::io::ErrorKind::ConnectionAborted.into()),
        };
        self.say(&line);
        Ok(line.starts_with(['2', '3']))
    }

    fn say(&mut self, line: &str) {
        self.replies.extend_from_slice(line.as_bytes());
        self.replies.extend_from_slice(b"\r\n");
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.wire.write_all(&self.replies)?;
        self.replies.clear();
        self.wire.flush()
    }

    fn read(&mut self) -> std::io::Result<()> {
        self.flush()?;
        let mut piece = [0; 65_536];
        match self.wire.read(&mut piece)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.pending.extend_from_slice(&piece[..count]);
                Ok(())
            }
        }
    }

    fn line(&mut self) -> std::io::Result<String> {
        loop {
            if let Some(end) = memmem::find(&self.pending, b"\r\n") {
                let line: Vec<u8> = self.pending.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.read()?;
        }
    }

    /// The text with its dots, as on the wire, without the final dot's line. Only CRLF.CRLF ends
    /// it: what else a smuggler tries is text.
    fn text(&mut self) -> std::io::Result<Vec<u8>> {
        let mut looked = 0;
        loop {
            if self.pending.starts_with(b".\r\n") {
                self.pending.drain(..3);
                return Ok(Vec::new());
            }
            if let Some(end) = memmem::find(&self.pending[looked..], b"\r\n.\r\n") {
                let rest = self.pending.split_off(looked + end + 5);
                let mut text = std::mem::replace(&mut self.pending, rest);
                text.truncate(looked + end + 2);
                return Ok(text);
            }
            looked = self.pending.len().saturating_sub(4);
            self.read()?;
        }
    }
}

fn after_colon(argument: &str) -> String {
    argument.split_once(':').map_or(argument, |(_, rest)| rest).trim().to_owned()
}

fn unstuffed(wire: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(wire.len());
    let mut rest = wire.strip_prefix(b".").unwrap_or(wire);
    while let Some(at) = memmem::find(rest, b"\r\n.") {
        text.extend_from_slice(&rest[..at + 2]);
        rest = &rest[at + 3..];
    }
    text.extend_from_slice(rest);
    text
}
