//! The server's side of the SMTP dialog as a state machine: one line and what is known now in, a
//! reply and the next step out. Pure: no I/O, no clock.
//!
//! The connection feeds it lines cut by [`LineReader`] and does what the [`Step`] says. A message's
//! text runs through [`Text`], not through the session.

mod forged;
mod lines;
mod outbox;
mod site;
mod text;
mod trace;
mod transaction;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

pub use forged::ForgedResults;
pub use lines::{Framed, LineReader};
pub use outbox::Outbox;
pub use site::Site;
pub use text::Text;
pub use transaction::{Incoming, Transaction};

use crate::smtp::canned::{self, Canned};
use crate::smtp::command::{self, Chunk, Command, Mail, Rcpt};
use crate::smtp::{Recipient, Reply, ReversePath};

/// What the session cannot know by itself when a line arrives.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// The time, for the duration of a transaction.
    pub now: Instant,
    /// More input lies behind the line already.
    pub buffered: bool,
    /// The spool takes mail.
    pub writable: bool,
    /// The node is stopping.
    pub stopping: bool,
    /// There is a certificate to show.
    pub tls: bool,
}

/// What is to be done after a line.
#[derive(Debug)]
pub enum Step {
    /// Send what is in the outbox, and read on.
    Read,
    /// Ask stage 3 about this recipient, and tell [`Session::ruled`].
    Rcpt(Rcpt),
    /// Send, then shake hands, then tell [`Session::secured`].
    StartTls,
    /// Open a draft, send 354 and read the text; tell [`Session::accepted`] or
    /// [`Session::refuse`].
    Data(Box<Incoming>),
    /// Read this chunk; with the first one of a message comes the message itself.
    Chunk(Chunk, Option<Box<Incoming>>),
    /// Read so many octets, then send this reply: a chunk that was refused.
    Discard(u64, Canned),
    /// Send, and close: the client said QUIT.
    Quit,
    /// Send, and close; the client may be in the middle of something.
    Close,
}

/// One client's dialog.
#[derive(Debug)]
pub struct Session {
    site: Arc<Site>,
    ip: IpAddr,
    helo: Option<Helo>,
    tls: Option<Tls>,
    transaction: Option<Box<Transaction>>,
    /// Between the first chunk of a message and its end.
    chunking: bool,
    commands: u32,
    errors: u32,
    messages: u32,
}

/// How the client introduced itself.
#[derive(Debug)]
struct Helo {
    name: String,
    extended: bool,
}

/// What the TLS handshake told.
#[derive(Debug)]
struct Tls {
    mx_name: Option<String>,
}

impl Session {
    /// A session with the client at `ip`.
    pub fn new(site: Arc<Site>, ip: IpAddr) -> Self {
        Self {
            site,
            ip,
            helo: None,
            tls: None,
            transaction: None,
            chunking: false,
            commands: 0,
            errors: 0,
            messages: 0,
        }
    }

    /// The banner.
    pub fn greet(&self, out: &mut Outbox) {
        out.line(220, self.site.banner());
    }

    /// One line, without its CRLF.
    pub fn line(&mut self, line: &[u8], facts: &Facts, out: &mut Outbox) -> Step {
        self.commands = self.commands.saturating_add(1);
        let utf8 = self.transaction.as_ref().is_some_and(|t| t.mail.parameters.smtputf8);
        let command = command::parse(line, utf8);
        if facts.stopping && !(self.chunking && matches!(command, Ok(Command::Bdat(_)))) {
            return Self::close(canned::STOPPING, out);
        }
        if self.commands > self.site.limits().session_commands_max {
            return Self::close(canned::TOO_MANY_COMMANDS, out);
        }
        match command {
            Ok(command) => self.command(command, facts, out),
            Err(reply) => {
                // A recipient that is no address was a recipient all the same, for DATA.
                if command::is_rcpt(line)
                    && let Some(transaction) = &mut self.transaction
                {
                    transaction.refused_any = true;
                }
                self.refuse(reply, out)
            }
        }
    }

    fn command(&mut self, command: Command<'_>, facts: &Facts, out: &mut Outbox) -> Step {
        match command {
            Command::Rcpt(rcpt) => self.rcpt(rcpt, out),
            Command::Mail(mail) => self.mail(mail, facts, out),
            Command::Ehlo(name) => self.hello(name, true, facts, out),
            Command::Helo(name) => self.hello(name, false, facts, out),
            Command::Data => self.data(facts, out),
            Command::Bdat(chunk) => self.bdat(chunk),
            Command::BdatBroken => Self::close(canned::BDAT_SYNTAX, out),
            Command::Rset => {
                self.reset();
                say(canned::OK, out)
            }
            Command::Noop => say(canned::OK, out),
            Command::Help => say(canned::HELP, out),
            Command::Vrfy => say(canned::VRFY, out),
            Command::StartTls => self.start_tls(facts, out),
            Command::Quit => {
                out.canned(canned::BYE);
                Step::Quit
            }
            Command::Unsupported => self.refuse(canned::UNSUPPORTED, out),
            Command::Foreign => Self::close(canned::FOREIGN, out),
        }
    }

    /// EHLO or HELO. RFC 5321 section 4.1.4: both drop the transaction; RFC 2920 section 3.1:
    /// nothing may be sent behind them.
    fn hello(&mut self, name: &str, extended: bool, facts: &Facts, out: &mut Outbox) -> Step {
        if facts.buffered {
            return Self::close(canned::TALKED_EARLY, out);
        }
        self.reset();
        self.helo = Some(Helo { name: name.to_owned(), extended });
        out.line(250, self.site.hello(extended, facts.tls && self.tls.is_none()));
        Step::Read
    }

    fn mail(&mut self, mail: Mail, facts: &Facts, out: &mut Outbox) -> Step {
        let limits = self.site.limits();
        if self.helo.is_none() {
            return self.refuse(canned::NEED_HELO, out);
        }
        if self.chunking {
            return self.refuse(canned::AFTER_BDAT, out);
        }
        if self.transaction.is_some() {
            return self.refuse(canned::NESTED_MAIL, out);
        }
        if mail.parameters.size.is_some_and(|size| size > limits.message_octets_max) {
            return self.refuse(canned::TOO_BIG, out);
        }
        if self.messages >= limits.session_messages_max {
            return Self::close(canned::TOO_MANY_MESSAGES, out);
        }
        if !facts.writable {
            return say(canned::SPOOL_FULL, out);
        }
        self.messages += 1;
        self.transaction = Some(Box::new(Transaction::new(mail, facts.now)));
        say(canned::MAIL_OK, out)
    }

    fn rcpt(&mut self, rcpt: Rcpt, out: &mut Outbox) -> Step {
        if self.chunking {
            return self.refuse(canned::AFTER_BDAT, out);
        }
        match &self.transaction {
            None => self.refuse(canned::NEED_MAIL, out),
            // Not an error of the client: a long list comes in several transactions.
            Some(t) if t.taken >= self.site.limits().recipients_max => {
                say(canned::TOO_MANY_RECIPIENTS, out)
            }
            Some(_) => Step::Rcpt(rcpt),
        }
    }

    /// What the client calls itself, if it has said it.
    pub fn helo(&self) -> Option<&str> {
        self.helo.as_ref().map(|helo| helo.name.as_str())
    }

    /// Whether it came by TLS.
    pub fn is_secured(&self) -> bool {
        self.tls.is_some()
    }

    /// The reverse-path of the open transaction; `None` also when there is none open.
    pub fn sender(&self) -> &ReversePath {
        const NOBODY: &ReversePath = &None;
        self.transaction.as_ref().map_or(NOBODY, |t| &t.mail.from)
    }

    /// What stage 3 said about the recipient that [`Step::Rcpt`] asked for.
    pub fn ruled(&mut self, ruling: Result<Recipient, Reply>, out: &mut Outbox) -> Step {
        match (ruling, &mut self.transaction) {
            (Ok(recipient), Some(transaction)) => {
                transaction.add(recipient);
                say(canned::RCPT_OK, out)
            }
            (Ok(_), None) => self.refuse(canned::NEED_MAIL, out),
            (Err(reply), transaction) => {
                if let Some(transaction) = transaction {
                    transaction.refused_any = true;
                }
                match self.count_error() {
                    Some(last_word) => Self::close(last_word, out),
                    None => {
                        out.reply(&reply);
                        Step::Read
                    }
                }
            }
        }
    }

    /// DATA. RFC 2920 section 3.1: it is the last of its group, so text that is there before our
    /// 354 was written by somebody who does not read our replies.
    fn data(&mut self, facts: &Facts, out: &mut Outbox) -> Step {
        if facts.buffered {
            return Self::close(canned::TALKED_EARLY, out);
        }
        match self.incoming() {
            Ok(incoming) => Step::Data(incoming),
            Err(reply) => self.refuse(reply, out),
        }
    }

    /// BDAT (RFC 3030 section 2): whatever we think of it, the chunk follows.
    fn bdat(&mut self, chunk: Chunk) -> Step {
        if self.chunking {
            return Step::Chunk(chunk, None);
        }
        match self.incoming() {
            Ok(incoming) => {
                self.chunking = true;
                Step::Chunk(chunk, Some(incoming))
            }
            Err(reply) => Step::Discard(chunk.octets, reply),
        }
    }

    /// Close the transaction's envelope, because its text follows.
    fn incoming(&mut self) -> Result<Box<Incoming>, Canned> {
        if self.chunking {
            return Err(canned::AFTER_BDAT);
        }
        let (Some(transaction), Some(helo)) = (&self.transaction, &self.helo) else {
            return Err(canned::NEED_RCPT);
        };
        if transaction.recipients.is_empty() {
            let refused = transaction.refused_any;
            return Err(if refused { canned::NO_RECIPIENTS } else { canned::NEED_RCPT });
        }
        let protocol = trace::protocol(
            helo.extended,
            self.tls.is_some(),
            transaction.mail.parameters.smtputf8,
        );
        let mx_name = self.tls.as_ref().and_then(|tls| tls.mx_name.clone());
        let helo = helo.name.clone();
        let transaction = self.transaction.take().ok_or(canned::NEED_RCPT)?;
        Ok(Box::new(Incoming { transaction: *transaction, helo, ip: self.ip, protocol, mx_name }))
    }

    fn start_tls(&mut self, facts: &Facts, out: &mut Outbox) -> Step {
        if self.tls.is_some() {
            return self.refuse(canned::TLS_ALREADY, out);
        }
        if !facts.tls {
            return self.refuse(canned::UNSUPPORTED, out);
        }
        if self.helo.is_none() {
            return self.refuse(canned::NEED_HELO, out);
        }
        if facts.buffered {
            return Self::close(canned::TALKED_EARLY, out);
        }
        out.canned(canned::START_TLS);
        Step::StartTls
    }

    /// The handshake is done; the client starts anew (RFC 3207 section 4.2). `mx_name` is the
    /// name it asked for, when it is one of ours.
    pub fn secured(&mut self, mx_name: Option<String>) {
        self.reset();
        self.helo = None;
        self.tls = Some(Tls { mx_name });
    }

    /// A message is safe in the spool.
    pub fn accepted(&mut self, id: &dyn std::fmt::Display, out: &mut Outbox) {
        self.chunking = false;
        self.errors = 0;
        out.format(250, format_args!("250 2.0.0 Ok: queued as {id}\r\n"));
    }

    /// The message whose text was read has ended without being accepted.
    pub fn rejected(&mut self, reply: Canned, out: &mut Outbox) -> Step {
        self.chunking = false;
        self.refuse(reply, out)
    }

    /// Whether a message is between two chunks.
    pub fn is_chunking(&self) -> bool {
        self.chunking
    }

    /// Answer a refusal; the one too many ends the session.
    pub fn refuse(&mut self, reply: Canned, out: &mut Outbox) -> Step {
        match self.count_error() {
            Some(last_word) => Self::close(last_word, out),
            None => say(reply, out),
        }
    }

    /// Answer with `reply` and end the session.
    pub fn close(reply: Canned, out: &mut Outbox) -> Step {
        out.canned(reply);
        Step::Close
    }

    fn count_error(&mut self) -> Option<Canned> {
        self.errors = self.errors.saturating_add(1);
        (self.errors > self.site.limits().session_errors_max).then_some(canned::TOO_MANY_ERRORS)
    }

    fn reset(&mut self) {
        self.transaction = None;
        self.chunking = false;
    }
}

fn say(reply: Canned, out: &mut Outbox) -> Step {
    out.canned(reply);
    Step::Read
}

#[cfg(test)]
mod tests;
