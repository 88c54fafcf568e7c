//! A dialog with a server as it is said, line by line, without sending anything.

use std::time::Duration;

use mxfleet_cluster::TlsPolicy;
use rustls::ProtocolVersion::TLSv1_3;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::capabilities::Capabilities;
use super::connect::{Failure, broken};
use super::examine::{Grade, grade_of};
use super::socket::Socket;
use super::wire::Wire;
use super::{Client, Hop};
use crate::smtp::{Address, Answer, Reply, Stage};

/// Lines that are kept of a dialog; a server may have much to say.
const LINES_MAX: usize = 80;

/// Who said something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Speaker {
    /// This node, to the server.
    Node,
    /// The server.
    Server,
    /// This node, about the connection.
    Note,
}

/// A line of a dialog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spoken {
    /// Who said it.
    pub by: Speaker,
    /// Without its line end. It is not ours, and not made plain.
    pub line: String,
    /// What it means for mail, at the end of an answer.
    pub grade: Option<Grade>,
}

impl Client {
    /// Talk with the server at `hop`, within `within` in all: greeting, EHLO, STARTTLS where it is
    /// offered, MAIL FROM:<>, RCPT for `postmaster`, QUIT. No message is offered.
    pub async fn converse(&self, hop: &Hop, postmaster: &Address, within: Duration) -> Vec<Spoken> {
        let mut dialog = Dialog { client: self, hop, said: Vec::new() };
        match timeout(within, dialog.run(postmaster)).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => dialog.failed(&failure),
            Err(_) => {
                let words = format!("no end after {} seconds, broken off", within.as_secs());
                dialog.say(Speaker::Note, &words, Some(Grade::Bad));
            }
        }
        dialog.said
    }
}

struct Dialog<'a> {
    client: &'a Client,
    hop: &'a Hop,
    said: Vec<Spoken>,
}

impl Dialog<'_> {
    fn say(&mut self, by: Speaker, line: &str, grade: Option<Grade>) {
        if self.said.len() < LINES_MAX || grade.is_some() {
            self.said.push(Spoken { by, line: line.to_owned(), grade });
        }
    }

    fn hear(&mut self, reply: &Reply) {
        let mut text = Vec::new();
        reply.write_to(&mut text);
        let text = String::from_utf8_lossy(&text);
        let last = reply.lines.len().saturating_sub(1);
        for (place, line) in text.lines().enumerate() {
            let grade = (place == last).then(|| grade_of(reply));
            self.say(Speaker::Server, line, grade);
        }
    }

    fn failed(&mut self, failure: &Failure) {
        let mut grade = Grade::Bad;
        let words = match failure {
            Failure::Tls(why) => {
                // Then mail is sent in the clear.
                if self.hop.tls == TlsPolicy::Opportunistic {
                    grade = Grade::Fair;
                }
                why.clone()
            }
            Failure::Final(response) => match &response.answer {
                Answer::Reply(reply) => reply.to_string(),
                Answer::Broken(why) | Answer::Unfit { text: why, .. } => why.clone(),
                Answer::NotTried => "the server closed the connection".to_owned(),
            },
        };
        self.say(Speaker::Note, &words, Some(grade));
    }

    async fn ask(
        &mut self,
        wire: &mut Wire,
        command: &str,
        stage: Stage,
    ) -> Result<Reply, Failure> {
        self.say(Speaker::Node, command, None);
        let reply = self.client.ask(wire, &format!("{command}\r\n"), stage).await?;
        self.hear(&reply);
        Ok(reply)
    }

    async fn run(&mut self, postmaster: &Address) -> Result<(), Failure> {
        let dialled = self.client.dial(self.hop.address).await;
        let stream = dialled.map_err(broken(Stage::Connect))?;
        let mut wire = Wire::new(Socket::Plain(stream), &self.client.limits);
        let banner = self.client.read(&mut wire, Stage::Banner).await?;
        self.hear(&banner);
        let mut welcome = banner.is_positive();
        if welcome {
            (wire, welcome) = self.introduce(wire).await?;
        }
        if welcome {
            let mail = self.ask(&mut wire, "MAIL FROM:<>", Stage::Mail).await?;
            if mail.is_positive() {
                let rcpt = format!("RCPT TO:<{postmaster}>");
                self.ask(&mut wire, &rcpt, Stage::Rcpt).await?;
            }
        }
        // Some servers hang up instead of an answer, and nothing hangs on it.
        self.say(Speaker::Node, "QUIT", None);
        if let Ok(reply) = self.client.ask(&mut wire, "QUIT\r\n", Stage::Rcpt).await {
            self.hear(&reply);
        }
        wire.close().await;
        Ok(())
    }

    /// EHLO, and over TLS where the server can do that; whether the server goes on with us.
    async fn introduce(&mut self, mut wire: Wire) -> Result<(Wire, bool), Failure> {
        let mut hello = self.greet(&mut wire).await?;
        let offers = hello.is_positive() && Capabilities::parse(&hello).starttls;
        if offers && self.ask(&mut wire, "STARTTLS", Stage::StartTls).await?.is_positive() {
            // Any certificate will do to go on.
            let any = Hop { tls: TlsPolicy::Opportunistic, ..self.hop.clone() };
            wire = self.client.secure(wire, &any).await?;
            let version = match wire.socket() {
                Socket::Tls(stream) => stream.get_ref().1.protocol_version(),
                Socket::Plain(_) => None,
            };
            let version = if version == Some(TLSv1_3) { "TLS 1.3" } else { "TLS 1.2" };
            self.say(Speaker::Note, &format!("{version} from here on"), Some(Grade::Good));
            // What was said before the handshake is void (RFC 3207 section 4.2).
            hello = self.greet(&mut wire).await?;
        }
        Ok((wire, hello.is_positive()))
    }

    async fn greet(&mut self, wire: &mut Wire) -> Result<Reply, Failure> {
        let ehlo = format!("EHLO {}", self.client.hostname);
        let hello = self.ask(wire, &ehlo, Stage::Helo).await?;
        if !hello.is_permanent() {
            return Ok(hello);
        }
        // RFC 5321 section 3.2.
        self.ask(wire, &format!("HELO {}", self.client.hostname), Stage::Helo).await
    }
}
