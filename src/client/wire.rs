//! Bytes and replies over one socket, each step within its time.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf};
use tokio::time::timeout;

use super::socket::Socket;
use crate::config::Limits;
use crate::smtp::{Garbage, Reply, ReplyParser};

/// Room for the replies to one batch of commands, so that one read takes them all.
const READ_OCTETS: usize = 4096;

/// Why no reply came, or why bytes did not leave.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    /// The far end closed.
    #[error("lost connection")]
    Closed,
    /// The network, or TLS.
    #[error("lost connection: {0}")]
    Io(io::Error),
    /// It took too long.
    #[error("timed out")]
    Timeout,
    /// Not SMTP.
    #[error(transparent)]
    Garbage(#[from] Garbage),
}

/// A socket with what was received and not yet read.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: Socket,
    parser: ReplyParser,
    inbox: BytesMut,
}

impl Wire {
    /// Speak over `socket`, with nothing received yet.
    pub(crate) fn new(socket: Socket, limits: &Limits) -> Self {
        Self {
            socket,
            parser: ReplyParser::new(limits.reply_octets_max, limits.reply_lines_max),
            inbox: BytesMut::new(),
        }
    }

    /// The socket, to be looked at.
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The socket, to be upgraded to TLS. Bytes that arrived ahead of the handshake were not
    /// protected by it; that there are any is an attack or a broken server (CVE-2011-0411).
    pub(crate) fn into_socket(self) -> Result<Socket, &'static str> {
        if self.inbox.is_empty() && !self.parser.is_midway() {
            Ok(self.socket)
        } else {
            Err("the server sent something between its answer to STARTTLS and the handshake")
        }
    }

    /// One reply. The time is for all of it, however slowly it drips.
    pub(crate) async fn read_reply(&mut self, within: Duration) -> Result<Reply, WireError> {
        if let Some(reply) = self.parse()? {
            return Ok(reply);
        }
        let reading = async {
            loop {
                self.inbox.reserve(READ_OCTETS);
                match self.socket.read_buf(&mut self.inbox).await {
                    Ok(0) => return Err(WireError::Closed),
                    Ok(_) => {}
                    Err(error) => return Err(WireError::Io(error)),
                }
                if let Some(reply) = self.parse()? {
                    return Ok(reply);
                }
            }
        };
        timeout(within, reading).await.unwrap_or(Err(WireError::Timeout))
    }

    /// Write all of `bytes`.
    pub(crate) async fn write(
        &mut self,
        mut bytes: impl Buf,
        within: Duration,
    ) -> Result<(), WireError> {
        let writing = async {
            self.socket.write_all_buf(&mut bytes).await?;
            self.socket.flush().await
        };
        timeout(within, writing).await.unwrap_or(Err(io::ErrorKind::TimedOut.into())).map_err(
            |error| match error.kind() {
                io::ErrorKind::TimedOut => WireError::Timeout,
                _ => WireError::Io(error),
            },
        )
    }

    /// Whether nothing is known against sending another command: no unread bytes, not closed.
    /// Costs no system call while the kernel has reported nothing.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut room = [0; 1];
        let mut room = ReadBuf::new(&mut room);
        let mut context = Context::from_waker(Waker::noop());
        let quiet = self.inbox.is_empty() && !self.parser.is_midway();
        quiet && Pin::new(&mut self.socket).poll_read(&mut context, &mut room).is_pending()
    }

    /// Take leave: the socket is shut down as far as it lets us at once.
    pub(crate) async fn close(mut self) {
        poll_fn(|context| {
            let _ = Pin::new(&mut self.socket).poll_shutdown(context);
            Poll::Ready(())
        })
        .await;
    }

    fn parse(&mut self) -> Result<Option<Reply>, Garbage> {
        if self.inbox.is_empty() {
            return Ok(None);
        }
        let (taken, reply) = self.parser.push(&self.inbox)?;
        self.inbox.advance(taken);
        Ok(reply)
    }
}
