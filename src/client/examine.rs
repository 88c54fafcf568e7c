//! Looking at a server as a sender would see it, step by step, without sending anything.

use std::time::Duration;

use mxfleet_cluster::TlsPolicy;
use rustls::ProtocolVersion::TLSv1_3;
use rustls::pki_types::UnixTime;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::capabilities::Capabilities;
use super::connect::{Failure, Passed};
use super::connection::Connection;
use super::socket::Socket;
use super::wire::Wire;
use super::{Client, Hop};
use crate::smtp::{Address, Answer, Reply, Response, Stage, is_unprintable};
use crate::system::clock::wall_ms;

/// What is shown of a reply: it may be long, and none of it is ours.
const WORDS_MAX: usize = 300;

/// A step of the dialog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// The name in DNS.
    Resolve,
    /// The TCP connection.
    Connect,
    /// The greeting.
    Banner,
    /// EHLO.
    Helo,
    /// STARTTLS and the handshake.
    StartTls,
    /// The certificate that was shown.
    Certificate,
    /// MAIL FROM:<>.
    Mail,
    /// RCPT TO postmaster.
    Rcpt,
    /// QUIT.
    Quit,
}

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should.
    Good,
    /// Mail comes through, and something could be better.
    Fair,
    /// Mail does not come through.
    Bad,
}

/// What was found at one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// At which.
    pub step: Step,
    /// How it went.
    pub grade: Grade,
    /// What the server said, or what is known. Nothing in it drives a terminal, and it is not ours.
    pub words: String,
}

impl Finding {
    /// A finding; of long words the beginning.
    pub fn new(step: Step, grade: Grade, words: &str) -> Self {
        let plain = words.chars().take(WORDS_MAX).map(|c| if is_unprintable(c) { '?' } else { c });
        Self { step, grade, words: plain.collect() }
    }
}

impl Client {
    /// Look at the server at `hop`, within `within` in all, and tell each finding as it comes. No
    /// message is offered: the dialog ends after RCPT for `postmaster`. Whoever listens no more
    /// ends it.
    pub async fn examine(
        &self,
        hop: &Hop,
        postmaster: &Address,
        within: Duration,
        tell: &mpsc::Sender<Finding>,
    ) {
        let examination = Examination { client: self, hop, tell };
        if tokio::time::timeout(within, examination.run(postmaster)).await.is_err() {
            let words = format!("no end after {} seconds, broken off", within.as_secs());
            examination.found(Step::Quit, Grade::Bad, &words);
        }
    }
}

struct Examination<'a> {
    client: &'a Client,
    hop: &'a Hop,
    tell: &'a mpsc::Sender<Finding>,
}

impl Examination<'_> {
    fn found(&self, step: Step, grade: Grade, words: &str) {
        // There is room for every step. Whoever does not listen any more has ended it all.
        let _ = self.tell.try_send(Finding::new(step, grade, words));
    }

    fn must_be_secure(&self) -> bool {
        self.hop.tls != TlsPolicy::Opportunistic
    }

    async fn run(&self, postmaster: &Address) {
        // Any certificate will do to go on; what it is worth is said.
        let any = Hop { tls: TlsPolicy::Opportunistic, ..self.hop.clone() };
        let mut opened = self.client.open(&any, true, &|passed| self.passed(&passed)).await;
        if let Err(Failure::Tls(why)) = &opened
            && !self.must_be_secure()
        {
            self.found(Step::StartTls, Grade::Fair, &format!("{why}: mail is sent in the clear"));
            opened = self.client.open(&any, false, &|_| ()).await;
        }
        match opened {
            Ok(connection) => self.ask(connection, postmaster).await,
            Err(Failure::Final(response)) => {
                self.found(step(response.stage), grade(&response), &words(&response));
            }
            Err(Failure::Tls(why)) => self.found(Step::StartTls, Grade::Bad, &why),
        }
    }

    fn passed(&self, passed: &Passed<'_>) {
        match passed {
            Passed::Connected => {
                self.found(Step::Connect, Grade::Good, &self.hop.address.to_string());
            }
            Passed::Banner(banner) => self.found(Step::Banner, Grade::Good, &banner.to_string()),
            Passed::Offers(capabilities) => {
                let (grade, offers) = offers(capabilities);
                self.found(Step::Helo, grade, &offers);
                match (capabilities.starttls, self.must_be_secure()) {
                    (true, _) => {}
                    (false, true) => self.found(Step::StartTls, Grade::Bad, "not offered"),
                    (false, false) => {
                        let words = "not offered: mail is sent in the clear";
                        self.found(Step::StartTls, Grade::Fair, words);
                    }
                }
            }
            Passed::Secured(wire) => self.secured(wire),
            Passed::Said(_) | Passed::Heard(_) | Passed::InTheClear(_) => {}
        }
    }

    fn secured(&self, wire: &Wire) {
        let Socket::Tls(stream) = wire.socket() else { return };
        let tls = stream.get_ref().1;
        self.found(Step::StartTls, Grade::Good, version(wire));
        let chain = tls.peer_certificates().unwrap_or_default();
        let now = UnixTime::since_unix_epoch(Duration::from_millis(wall_ms()));
        let names = match &self.hop.tls {
            TlsPolicy::Pinned(names) => names.as_slice(),
            TlsPolicy::Opportunistic | TlsPolicy::Require => std::slice::from_ref(&self.hop.name),
        };
        let mut fault = "no name is asked for".to_owned();
        for name in names {
            match self.client.tls.judge(chain, name, now) {
                Ok(()) => {
                    return self.found(
                        Step::Certificate,
                        Grade::Good,
                        &format!("valid for {name}"),
                    );
                }
                Err(why) => fault = format!("not valid for {name}: {why}"),
            }
        }
        let grade = if self.must_be_secure() { Grade::Bad } else { Grade::Fair };
        self.found(Step::Certificate, grade, &fault);
    }

    async fn ask(&self, mut connection: Connection, postmaster: &Address) {
        let response = connection.verify(postmaster).await;
        if response.stage != Stage::Mail {
            self.found(Step::Mail, Grade::Good, "MAIL FROM:<> is taken");
        }
        self.found(step(response.stage), grade(&response), &words(&response));
        if connection.quit().await {
            self.found(Step::Quit, Grade::Good, "nothing was sent");
        }
    }
}

/// What an answer is worth: a refusal for now is one that mail outlasts.
fn grade(response: &Response) -> Grade {
    match &response.answer {
        Answer::Reply(reply) => grade_of(reply),
        _ => Grade::Bad,
    }
}

pub(super) fn grade_of(reply: &Reply) -> Grade {
    match reply {
        reply if reply.is_positive() => Grade::Good,
        reply if reply.is_transient() => Grade::Fair,
        _ => Grade::Bad,
    }
}

/// What the server can do of what matters to mail.
fn offers(capabilities: &Capabilities) -> (Grade, String) {
    let mut offers = Vec::new();
    for (offered, word) in [
        (capabilities.starttls, "STARTTLS"),
        (capabilities.pipelining, "PIPELINING"),
        (capabilities.eight_bit_mime, "8BITMIME"),
        (capabilities.smtputf8, "SMTPUTF8"),
        (capabilities.dsn, "DSN"),
    ] {
        offers.extend(offered.then_some(word));
    }
    match offers[..] {
        [] => (Grade::Fair, "offers no extension".to_owned()),
        _ => (Grade::Good, format!("offers {}", offers.join(", "))),
    }
}

fn step(stage: Stage) -> Step {
    match stage {
        Stage::Connect => Step::Connect,
        Stage::Banner => Step::Banner,
        Stage::Helo => Step::Helo,
        Stage::StartTls => Step::StartTls,
        Stage::Mail => Step::Mail,
        Stage::Rcpt | Stage::Data | Stage::FinalDot => Step::Rcpt,
    }
}

/// Which TLS is spoken.
pub(super) fn version(wire: &Wire) -> &'static str {
    match wire.socket() {
        Socket::Tls(stream) if stream.get_ref().1.protocol_version() == Some(TLSv1_3) => "TLS 1.3",
        Socket::Tls(_) => "TLS 1.2",
        Socket::Plain(_) => "no TLS",
    }
}

pub(super) fn words(response: &Response) -> String {
    match &response.answer {
        Answer::Reply(reply) => reply.to_string(),
        Answer::Broken(why) => why.clone(),
        Answer::Unfit { text, .. } => text.clone(),
        Answer::NotTried => "the server closed the connection".to_owned(),
    }
}
