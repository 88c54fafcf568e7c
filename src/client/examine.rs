//! Looking at a server as a sender would see it, step by step, without sending anything.

use std::time::Duration;

use mxfleet_cluster::TlsPolicy;
use rustls::ProtocolVersion::TLSv1_3;
use rustls::pki_types::UnixTime;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::capabilities::Capabilities;
use super::connect::Failure;
use super::connection::Connection;
use super::socket::Socket;
use super::wire::Wire;
use super::{Client, Hop};
use crate::smtp::{Address, Answer, Response, Stage};
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    /// What the server said, or what is known. Without control characters, and not ours.
    pub words: String,
}

impl Finding {
    /// A finding; of long words the beginning.
    pub fn new(step: Step, grade: Grade, words: &str) -> Self {
        let plain = words.chars().take(WORDS_MAX).map(|c| if c.is_control() { '?' } else { c });
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
            examination.found(Step::Quit, Grade::Bad, &words).await;
        }
    }
}

struct Examination<'a> {
    client: &'a Client,
    hop: &'a Hop,
    tell: &'a mpsc::Sender<Finding>,
}

impl Examination<'_> {
    async fn found(&self, step: Step, grade: Grade, words: &str) {
        // Nobody listens any more: the next step finds out, too.
        let _ = self.tell.send(Finding::new(step, grade, words)).await;
    }

    async fn run(&self, postmaster: &Address) {
        match self.greet().await {
            Ok((wire, capabilities)) => self.ask(wire, capabilities, postmaster).await,
            Err(failure) => {
                let (stage, words) = match failure {
                    Failure::Final(response) => (response.stage, words(&response)),
                    Failure::Tls(why) => (Stage::StartTls, why),
                };
                self.found(step(stage), Grade::Bad, &words).await;
            }
        }
    }

    /// Up to the EHLO that counts.
    async fn greet(&self) -> Result<(Wire, Capabilities), Failure> {
        let (client, hop) = (self.client, self.hop);
        let broken = |why: String| Failure::Final(Response::broken(Stage::Connect, why));
        let stream = client.dial(hop.address).await.map_err(broken)?;
        self.found(Step::Connect, Grade::Good, &hop.address.to_string()).await;
        let mut wire = Wire::new(Socket::Plain(stream), &client.limits);
        let banner = client.read(&mut wire, Stage::Banner).await?;
        if !banner.is_positive() {
            return Err(Failure::Final(Response::reply(Stage::Banner, banner)));
        }
        self.found(Step::Banner, Grade::Good, &banner.to_string()).await;
        let capabilities = client.greet(&mut wire).await?;
        let (grade, offers) = offers(&capabilities);
        self.found(Step::Helo, grade, &offers).await;
        if !capabilities.starttls {
            let must = hop.tls != TlsPolicy::Opportunistic;
            let grade = if must { Grade::Bad } else { Grade::Fair };
            self.found(Step::StartTls, grade, "not offered: mail is sent in the clear").await;
            return Ok((wire, capabilities));
        }
        // Any certificate will do to go on; what it is worth is said.
        let opportunistic = Hop { tls: TlsPolicy::Opportunistic, ..hop.clone() };
        let mut wire = client.start_tls(wire, &opportunistic).await?;
        self.secured(&wire).await;
        let capabilities = client.greet(&mut wire).await?;
        Ok((wire, capabilities))
    }

    async fn secured(&self, wire: &Wire) {
        let Socket::Tls(stream) = wire.socket() else { return };
        let tls = stream.get_ref().1;
        let is_1_3 = tls.protocol_version() == Some(TLSv1_3);
        let version = if is_1_3 { "TLS 1.3" } else { "TLS 1.2" };
        self.found(Step::StartTls, Grade::Good, version).await;
        let chain = tls.peer_certificates().unwrap_or_default();
        let now = UnixTime::since_unix_epoch(Duration::from_millis(wall_ms()));
        let (grade, words) = match self.client.tls.judge(chain, &self.hop.name, now) {
            Ok(()) => (Grade::Good, format!("valid for {}", self.hop.name)),
            Err(why) if self.hop.tls == TlsPolicy::Opportunistic => {
                (Grade::Fair, format!("not valid for {}: {why}", self.hop.name))
            }
            Err(why) => (Grade::Bad, format!("not valid for {}: {why}", self.hop.name)),
        };
        self.found(Step::Certificate, grade, &words).await;
    }

    async fn ask(&self, wire: Wire, capabilities: Capabilities, postmaster: &Address) {
        let limits = self.client.limits.clone();
        let mut connection = Connection::new(wire, self.hop, capabilities, limits);
        let response = connection.verify(postmaster).await;
        if response.stage != Stage::Mail {
            self.found(Step::Mail, Grade::Good, "MAIL FROM:<> is taken").await;
        }
        let good = matches!(&response.answer, Answer::Reply(reply) if reply.is_positive());
        let grade = if good { Grade::Good } else { Grade::Bad };
        self.found(step(response.stage), grade, &words(&response)).await;
        connection.quit().await;
        if matches!(response.answer, Answer::Reply(_)) {
            self.found(Step::Quit, Grade::Good, "nothing was sent").await;
        }
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

fn words(response: &Response) -> String {
    match &response.answer {
        Answer::Reply(reply) => reply.to_string(),
        Answer::Broken(why) => why.clone(),
        Answer::Unfit { text, .. } => text.clone(),
        Answer::NotTried => "the server closed the connection".to_owned(),
    }
}
