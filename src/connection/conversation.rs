//! One connection from its banner to its end: reads, cuts into lines, asks the session, and does
//! the step it names.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Inbound;
use super::counters::COUNTERS;
use super::deadline::{Deadline, Interrupt};
use super::intake::Intake;
use super::message::Message;
use super::wire::Wire;
use crate::policy::Decision;
use crate::session::{Facts, Framed, LineReader, Outbox, Session, Step};
use crate::smtp::Recipient;
use crate::smtp::canned::{self, Canned};
use crate::smtp::command::Rcpt;
use crate::system::clock::wall_ms;

/// The read buffer of a client that sends commands.
const INPUT_OCTETS_MIN: usize = 8 * 1024;
/// The read buffer of a client whose text comes fast.
const INPUT_OCTETS_MAX: usize = 64 * 1024;
/// Replies to a pipelined group are sent in between when there are so many of them.
const OUTBOX_OCTETS_MAX: usize = 16 * 1024;
/// What a client may send after we ended its session, before it is cut off.
const LINGER_OCTETS_MAX: u64 = 64 * 1024 * 1024;

/// What the log calls the refusal of a `<Postmaster>` whom nobody reads.
const NO_POSTMASTER: &str = "role_address";

/// How a conversation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The client said QUIT; it awaits only our answer.
    Quit,
    /// We end it; the client may be in the middle of something.
    Close,
    /// The client is gone, or not worth a word.
    Gone,
}

/// Talk with the client at `ip` until it is over.
pub(super) async fn converse<S, I>(
    inbound: &Inbound<I>,
    stream: S,
    ip: IpAddr,
    stop: &CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    I: Intake,
{
    let pause = Duration::from_millis(inbound.limits().greet_pause_ms);
    let sleep = pin!(tokio::time::sleep(pause));
    let stop = pin!(stop.cancelled());
    let mut conversation = Conversation {
        inbound,
        wire: Wire::Clear(stream),
        input: BytesMut::with_capacity(INPUT_OCTETS_MIN),
        input_octets: INPUT_OCTETS_MIN,
        lines: LineReader::default(),
        out: Outbox::default(),
        session: Session::new(Arc::clone(&inbound.site), ip),
        message: None,
        deadline: Deadline::new(sleep, stop),
    };
    let end = match conversation.run().await {
        Ok(never) => match never {},
        Err(end) => end,
    };
    // What a client that never leaves was refused is told now.
    inbound.tell_refused(ip, &conversation.session, &conversation.out.refusals);
    conversation.part(end).await;
}

pub(super) struct Conversation<'a, 'p, 't, S, I: Intake> {
    pub(super) inbound: &'a Inbound<I>,
    pub(super) wire: Wire<S>,
    pub(super) input: BytesMut,
    /// What the next read may bring.
    input_octets: usize,
    lines: LineReader,
    pub(super) out: Outbox,
    pub(super) session: Session,
    /// A message between two chunks.
    pub(super) message: Option<Message<I::Draft>>,
    pub(super) deadline: Deadline<'p, 't>,
}

impl<S, I> Conversation<'_, '_, '_, S, I>
where
    S: AsyncRead + AsyncWrite + Unpin,
    I: Intake,
{
    async fn run(&mut self) -> Result<Infallible, End> {
        let limits = self.inbound.limits();
        self.greet().await?;
        loop {
            let framed = self.lines.next(
                &self.input,
                limits.command_octets_max,
                limits.command_discard_octets_max,
            );
            match framed {
                Framed::Line(octets) => self.line(octets).await?,
                Framed::More { discard } => {
                    self.input.advance(discard);
                    self.read_command().await?;
                }
                Framed::TooLong(octets) => {
                    self.input.advance(octets);
                    self.command_is_due();
                    let step = self.session.refuse(canned::TOO_LONG, &mut self.out);
                    self.settle(&step)?;
                }
                Framed::BareLf => return self.close(canned::BARE_LF),
                Framed::Endless => return self.close(canned::TOO_MUCH),
                Framed::TlsHello => return Err(End::Gone),
            }
        }
    }

    /// A client that talks before our banner is no mail server (RFC 5321 section 4.3.1). The
    /// deadline is set to the end of the pause.
    async fn greet(&mut self) -> Result<(), End> {
        match self.deadline.or_stop(self.wire.read_buf(&mut self.input)).await {
            Err(Interrupt::Late) => {}
            Err(Interrupt::Stop) => return self.close(canned::STOPPING),
            Ok(Ok(octets)) if octets > 0 => {
                COUNTERS.early_talker.inc();
                return self.close(canned::TALKED_EARLY);
            }
            Ok(_) => return Err(End::Gone),
        }
        COUNTERS.accepted.inc();
        self.command_is_due();
        self.session.greet(&mut self.out);
        Ok(())
    }

    /// Answer one command line of `octets` octets, CRLF included.
    async fn line(&mut self, octets: usize) -> Result<(), End> {
        let now = self.command_is_due();
        let facts = Facts {
            now: now.into_std(),
            buffered: self.input.len() > octets,
            writable: self.inbound.intake.is_writable(),
            stopping: self.deadline.is_stopping() || !self.inbound.service.is_serving(),
            tls: self.inbound.tls.as_ref().is_some_and(|tls| tls.is_ready()),
        };
        let step = self.session.line(&self.input[..octets - 2], &facts, &mut self.out);
        self.input.advance(octets);
        if !self.session.is_chunking() {
            self.message = None;
        }
        match step {
            Step::Rcpt(rcpt) => self.rcpt(rcpt).await?,
            Step::StartTls => self.start_tls().await?,
            Step::Data(incoming) => self.data(incoming).await?,
            Step::Chunk(chunk, incoming) => self.chunk(chunk, incoming).await?,
            Step::Discard(octets, reply) => {
                self.discard(octets).await?;
                let step = self.session.refuse(reply, &mut self.out);
                self.settle(&step)?;
            }
            Step::Read | Step::Quit | Step::Close => self.settle(&step)?,
        }
        if self.out.bytes().len() > OUTBOX_OCTETS_MAX { self.send().await } else { Ok(()) }
    }

    /// What is left to do after a step that is its own answer.
    pub(super) fn settle(&self, step: &Step) -> Result<(), End> {
        match step {
            Step::Quit => Err(End::Quit),
            Step::Close => Err(End::Close),
            _ => Ok(()),
        }
    }

    async fn rcpt(&mut self, rcpt: Rcpt) -> Result<(), End> {
        let Rcpt { to, parameters } = rcpt;
        let policy = &self.inbound.policy;
        let ruling = match policy.target(to) {
            Ok(address) => {
                let mut decision = policy.rcpt(self.session.sender(), &address, wall_ms());
                if decision == Decision::Ask {
                    // Whoever waits meanwhile has the replies to what came before.
                    self.send().await?;
                    decision = self.inbound.policy.verify(&address).await;
                }
                match decision {
                    Decision::Refuse { reply, check } => {
                        let refusals = &mut self.out.refusals;
                        refusals.recipient(check, self.session.sender(), Some(&address), &reply);
                        Err(reply)
                    }
                    Decision::Accept | Decision::Ask | Decision::Operators => {
                        let (notify, orcpt) = (parameters.notify, parameters.orcpt);
                        Ok(Recipient { address, notify, orcpt })
                    }
                }
            }
            Err(reply) => {
                let refusals = &mut self.out.refusals;
                refusals.recipient(NO_POSTMASTER, self.session.sender(), None, &reply);
                Err(reply)
            }
        };
        let step = self.session.ruled(ruling, &mut self.out);
        self.settle(&step)
    }

    /// Upgrade to TLS. Nothing is buffered: the session has refused a client that sent more with
    /// STARTTLS (CVE-2011-0411).
    async fn start_tls(&mut self) -> Result<(), End> {
        self.send().await?;
        self.input.clear();
        let Some(identity) = &self.inbound.tls else { return Err(End::Gone) };
        let Wire::Clear(stream) = std::mem::replace(&mut self.wire, Wire::Gone) else {
            return Err(End::Gone);
        };
        let timeout = self.inbound.limits().tls_handshake_timeout_ms;
        self.deadline.set(Instant::now() + Duration::from_millis(timeout));
        match self.deadline.or_late(identity.acceptor().accept(stream)).await {
            Some(Ok(stream)) => {
                COUNTERS.tls_ok(stream.get_ref().1.protocol_version());
                let name = stream.get_ref().1.server_name().map(str::to_ascii_lowercase);
                self.session.secured(name.filter(|name| identity.has_name(name)));
                self.wire = Wire::Tls(Box::new(stream));
                self.command_is_due();
                Ok(())
            }
            // A client that speaks no TLS now gets no word in clear text.
            _ => {
                COUNTERS.tls_failed.inc();
                Err(End::Gone)
            }
        }
    }

    /// Read more of a command line.
    async fn read_command(&mut self) -> Result<(), End> {
        self.send().await?;
        if self.deadline.is_stopping() && !self.session.is_chunking() {
            return self.close(canned::STOPPING);
        }
        self.make_room();
        match self.deadline.or_stop(self.wire.read_buf(&mut self.input)).await {
            Ok(Ok(octets)) if octets > 0 => Ok(()),
            Ok(_) => Err(End::Gone),
            Err(Interrupt::Late) => self.close(canned::TIMED_OUT),
            // The next round asks again, and tells it.
            Err(Interrupt::Stop) => Ok(()),
        }
    }

    /// Read more of a message's text; it has to be complete at `due`.
    pub(super) async fn read_text(&mut self, due: &mut Instant) -> Result<(), End> {
        let limits = self.inbound.limits();
        let now = Instant::now();
        let idle = now + Duration::from_millis(limits.data_idle_timeout_ms);
        self.deadline.set(idle.min(*due));
        self.make_room();
        match self.deadline.or_stop(self.wire.read_buf(&mut self.input)).await {
            Ok(Ok(octets)) if octets > 0 => {
                if self.input.len() >= self.input_octets {
                    self.input_octets = (2 * self.input_octets).min(INPUT_OCTETS_MAX);
                }
                Ok(())
            }
            Ok(_) => Err(End::Gone),
            Err(Interrupt::Late) => self.close(canned::TIMED_OUT),
            Err(Interrupt::Stop) => {
                *due = now + Duration::from_millis(limits.drain_timeout_ms);
                Ok(())
            }
        }
    }

    /// Room for the next read; what was consumed in front is used again.
    fn make_room(&mut self) {
        let missing = self.input_octets.saturating_sub(self.input.len());
        if self.input.capacity() - self.input.len() < missing {
            self.input.reserve(missing);
        }
    }

    /// A message has ended: a large buffer is given back.
    pub(super) fn shrink_input(&mut self) {
        if self.input_octets > INPUT_OCTETS_MIN {
            self.input_octets = INPUT_OCTETS_MIN;
            self.input = BytesMut::from(&self.input[..]);
        }
    }

    /// The client has so long for its next command, counted from the one before.
    pub(super) fn command_is_due(&mut self) -> Instant {
        let now = Instant::now();
        let timeout = Duration::from_millis(self.inbound.limits().command_timeout_ms);
        self.deadline.set(now + timeout);
        now
    }

    pub(super) fn close<T>(&mut self, reply: Canned) -> Result<T, End> {
        self.out.canned(reply);
        Err(End::Close)
    }

    /// Send all replies in one write.
    pub(super) async fn send(&mut self) -> Result<(), End> {
        if self.out.bytes().is_empty() {
            return Ok(());
        }
        let work = async {
            self.wire.write_all(self.out.bytes()).await?;
            self.wire.flush().await
        };
        let sent = self.deadline.or_late(work).await;
        for code in self.out.codes() {
            COUNTERS.reply(*code);
        }
        self.out.clear();
        if matches!(sent, Some(Ok(()))) { Ok(()) } else { Err(End::Gone) }
    }

    /// The last word. A client that was still sending would lose it if we closed at once: the
    /// system answers what it sends then with a reset.
    async fn part(&mut self, end: End) {
        if end == End::Gone {
            return;
        }
        let timeout = Duration::from_millis(self.inbound.limits().linger_timeout_ms);
        self.deadline.set(Instant::now() + timeout);
        if self.send().await.is_err() || (end == End::Quit && matches!(self.wire, Wire::Clear(_))) {
            return;
        }
        let farewell = async {
            self.wire.shutdown().await?;
            let mut left = LINGER_OCTETS_MAX;
            while end == End::Close && left > 0 {
                self.input.clear();
                match self.wire.read_buf(&mut self.input).await? {
                    0 => break,
                    octets => left = left.saturating_sub(octets as u64),
                }
            }
            Ok::<(), std::io::Error>(())
        };
        let _ = self.deadline.or_late(farewell).await;
    }
}
