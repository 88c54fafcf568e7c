//! A plain SMTP client that sends exactly the octets a test asks for.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::ca::Ca;

/// How long the client waits for a reply.
const PATIENCE: Duration = Duration::from_secs(20);

trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// A reply: code and lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// 0 when the server closed instead.
    pub code: u16,
    /// All lines without codes, joined by newlines.
    pub text: String,
}

impl Reply {
    /// The server closed the connection.
    pub fn is_closed(&self) -> bool {
        self.code == 0
    }

    /// Code and text in one line, for comparing and for messages.
    pub fn line(&self) -> String {
        format!("{} {}", self.code, self.text)
    }

    /// Whether code and enhanced code (or any beginning of the text) are these.
    pub fn is(&self, code: u16, text: &str) -> bool {
        self.code == code && self.text.starts_with(text)
    }
}

/// One connection.
pub struct Smtp {
    wire: Box<dyn Wire>,
    socket: TcpStream,
    pending: Vec<u8>,
}

impl std::fmt::Debug for Smtp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Smtp").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Smtp {
    /// Connect, and read nothing yet.
    pub fn open(server: SocketAddr) -> std::io::Result<Self> {
        let socket = TcpStream::connect(server)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { wire: Box::new(socket.try_clone()?), socket, pending: Vec::new() })
    }

    /// Connect and read the banner, which must welcome us.
    pub fn connect(server: SocketAddr) -> Self {
        let mut client = Self::open(server).unwrap();
        let banner = client.reply();
        assert_eq!(banner.code, 220, "{banner:?}");
        client
    }

    /// Connect, banner, EHLO.
    pub fn greeted(server: SocketAddr) -> Self {
        let mut client = Self::connect(server);
        let reply = client.command("EHLO client.test");
        assert_eq!(reply.code, 250, "{reply:?}");
        client
    }

    /// Where the client's end is.
    pub fn local(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// Send octets; an error is left for the next `reply` to find.
    pub fn send(&mut self, octets: &[u8]) {
        let _ = self.wire.write_all(octets).and_then(|()| self.wire.flush());
    }

    /// Send a line with its CRLF and read the reply.
    pub fn command(&mut self, line: &str) -> Reply {
        self.send(format!("{line}\r\n").as_bytes());
        self.reply()
    }

    /// Read one reply; code 0 when the server closed.
    pub fn reply(&mut self) -> Reply {
        self.try_reply().unwrap_or_else(|error| Reply { code: 0, text: error.to_string() })
    }

    /// Read one reply, or say why not.
    pub fn try_reply(&mut self) -> std::io::Result<Reply> {
        let mut lines = Vec::new();
        loop {
            let line = self.line()?;
            let code = line.get(..3).and_then(|code| code.parse().ok());
            let (Some(code), Some(text)) = (code, line.get(3..)) else {
                return Err(std::io::Error::other(format!("not a reply line: {line:?}")));
            };
            lines.push(text.get(1..).unwrap_or_default().to_owned());
            if !text.starts_with('-') {
                return Ok(Reply { code, text: lines.join("\n") });
            }
        }
    }

    fn line(&mut self) -> std::io::Result<String> {
        loop {
            if let Some(end) = self.pending.iter().position(|&octet| octet == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                let line = line.strip_suffix(b"\r\n").ok_or_else(|| {
                    std::io::Error::other("a reply line that does not end in CRLF")
                })?;
                return Ok(String::from_utf8_lossy(line).into_owned());
            }
            let mut piece = [0; 4096];
            match self.wire.read(&mut piece)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                count => self.pending.extend_from_slice(&piece[..count]),
            }
        }
    }

    /// Whether nothing arrives for `pause`: the server is not a reply ahead of us.
    pub fn is_silent(&mut self, pause: Duration) -> bool {
        self.socket.set_read_timeout(Some(pause)).unwrap();
        let mut piece = [0; 4096];
        let silent = match self.wire.read(&mut piece) {
            Ok(count) => {
                self.pending.extend_from_slice(&piece[..count]);
                false
            }
            Err(_) => self.pending.is_empty(),
        };
        self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        silent
    }

    /// MAIL and RCPT for each recipient; the replies.
    pub fn envelope(&mut self, from: &str, to: &[&str]) -> Vec<Reply> {
        let mut replies = vec![self.command(&format!("MAIL FROM:<{from}>"))];
        replies.extend(to.iter().map(|to| self.command(&format!("RCPT TO:<{to}>"))));
        replies
    }

    /// A whole transaction with DATA; the reply to the final dot (or the one that ended it early).
    /// The text is the message as it is; dots are stuffed here.
    pub fn deliver(&mut self, from: &str, to: &[&str], text: &[u8]) -> Reply {
        for reply in self.envelope(from, to) {
            if reply.code != 250 {
                return reply;
            }
        }
        let go = self.command("DATA");
        if go.code != 354 {
            return go;
        }
        let mut wire = stuffed(text);
        wire.extend_from_slice(b".\r\n");
        self.send(&wire);
        self.reply()
    }

    /// One chunk of a message (RFC 3030).
    pub fn bdat(&mut self, chunk: &[u8], last: bool) -> Reply {
        let last = if last { " LAST" } else { "" };
        let mut wire = format!("BDAT {}{last}\r\n", chunk.len()).into_bytes();
        wire.extend_from_slice(chunk);
        self.send(&wire);
        self.reply()
    }

    /// STARTTLS, then speak TLS with what this authority signed; the certificate is checked for
    /// `name`.
    pub fn starttls(mut self, ca: &Ca, name: &str) -> Self {
        let go = self.command("STARTTLS");
        assert_eq!(go.code, 220, "{go:?}");
        self.secured(&Arc::new(ca.client()), name)
    }

    /// Speak TLS from here; a certificate that is not `name`'s is an error of the next reply.
    pub fn secured(self, client: &Arc<rustls::ClientConfig>, name: &str) -> Self {
        let server = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
        let connection = rustls::ClientConnection::new(Arc::clone(client), server).unwrap();
        let stream = rustls::StreamOwned::new(connection, self.socket.try_clone().unwrap());
        Self { wire: Box::new(stream), socket: self.socket, pending: Vec::new() }
    }

    /// Everything that still comes until the server closes.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = std::mem::take(&mut self.pending);
        // A reset ends it as well; what came before it is there.
        let _ = self.wire.read_to_end(&mut rest);
        rest
    }

    /// End our side; what the server still says can be read.
    pub fn close_writing(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Reset the connection, as a client that dies does.
    pub fn vanish(self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// The text as it goes over the wire: a dot before each line that begins with one. A text that
/// does not end in CRLF gets one, as the final dot needs a line of its own.
pub fn stuffed(text: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(text.len() + 64);
    for line in text.split_inclusive(|&octet| octet == b'\n') {
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
    }
    if !wire.is_empty() && !wire.ends_with(b"\r\n") {
        wire.extend_from_slice(b"\r\n");
    }
    wire
}
