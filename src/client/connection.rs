//! A connection that takes one message after the other.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};

use super::capabilities::Capabilities;
use super::dialog::{Before, Ending, Request, Step, Transaction};
use super::wire::{Wire, WireError};
use super::{Hop, Outgoing, Text, TextError};
use crate::config::Limits;
use crate::smtp::{Address, Answer, BodyType, Enhanced, Envelope, Reply, Response, Stage};
use crate::telemetry::metrics::METRICS;

/// A text leaves in pieces of this size, each within the time of one block.
const BLOCK_OCTETS: usize = 64 * 1024;

/// An open connection to one server.
#[derive(Debug)]
pub struct Connection {
    wire: Wire,
    relay: String,
    capabilities: Capabilities,
    limits: Arc<Limits>,
    before: Before,
    transactions: u32,
    /// What the server has refused on this connection.
    refusals: usize,
    closed: bool,
    /// Why it is in the clear, though the server offers TLS.
    no_tls: Option<String>,
    /// Commands to be written; kept to be filled again.
    out: Vec<u8>,
    _counted: Counted,
}

impl Connection {
    pub(crate) fn new(
        wire: Wire,
        hop: &Hop,
        capabilities: Capabilities,
        limits: Arc<Limits>,
    ) -> Self {
        Self {
            wire,
            relay: hop.relay(),
            capabilities,
            limits,
            before: Before::Fresh,
            transactions: 0,
            refusals: 0,
            closed: false,
            no_tls: None,
            out: Vec::new(),
            _counted: Counted::new(),
        }
    }

    /// It is in the clear only because TLS failed, and why.
    pub(super) fn without_tls(self, why: String) -> Self {
        Self { no_tls: Some(why), ..self }
    }

    /// What it runs over, for whoever speaks SMTP by themselves.
    pub(super) fn into_wire(self) -> Wire {
        self.wire
    }

    /// Offer one message: one response per recipient, in the order asked for. `NotTried` ones
    /// were not put to the server, or not on a connection it still wanted; they can go into
    /// another transaction at once (on another connection if this one is no longer usable).
    pub async fn deliver(&mut self, outgoing: Outgoing<'_>) -> Vec<Response> {
        let Outgoing { envelope, recipients, octets, text } = outgoing;
        self.transact(Request { envelope, recipients, octets }, Some(text)).await
    }

    /// Ask whether the server would take mail for a recipient: MAIL FROM:<> and RCPT TO, nothing
    /// more. `NotTried` as in [`Connection::deliver`].
    pub async fn verify(&mut self, recipient: &Address) -> Response {
        let envelope = Envelope::question(recipient);
        let request = Request { envelope: &envelope, recipients: &[0], octets: 0 };
        let untried = Response { stage: Stage::Rcpt, answer: Answer::NotTried };
        self.transact(request, None).await.pop().unwrap_or(untried)
    }

    /// Without a text it is a question.
    async fn transact(&mut self, request: Request<'_>, text: Option<Text>) -> Vec<Response> {
        let (batch_max, before) = (self.limits.pipelined_commands_max, self.before);
        // Whoever drops this future leaves a connection of which nothing is known.
        let was_closed = std::mem::replace(&mut self.closed, true);
        let capabilities = std::mem::take(&mut self.capabilities);
        let begun = match &text {
            Some(_) => Transaction::new(request, &capabilities, batch_max, before),
            None => Transaction::question(request, &capabilities, batch_max, before),
        };
        let responses = match begun {
            Err(response) => {
                self.closed = was_closed;
                vec![response; request.recipients.len()]
            }
            Ok(transaction) => {
                let refusals_max = self.limits.refusals_per_connection_max.max(1);
                let refusals_left = refusals_max.saturating_sub(self.refusals).max(1);
                let mut transaction = transaction.cautious(refusals_left, self.refusals > 0);
                if was_closed || !self.wire.is_quiet() {
                    transaction.fail("lost connection");
                }
                self.run(transaction, text.unwrap_or(Text::Whole(Bytes::new()))).await
            }
        };
        self.capabilities = capabilities;
        match &self.no_tls {
            Some(why) => responses.into_iter().map(|response| over_tls(response, why)).collect(),
            None => responses,
        }
    }

    async fn run(&mut self, mut transaction: Transaction<'_>, mut text: Text) -> Vec<Response> {
        let mut broken = false;
        loop {
            self.out.clear();
            let sent = match transaction.next(&mut self.out) {
                Step::Done => break,
                Step::Read(stage) => {
                    match self.read(stage).await {
                        Ok(reply) => transaction.answer(reply),
                        Err(error) => transaction.fail(&error.to_string()),
                    }
                    continue;
                }
                Step::Send => self.send().await,
                Step::SendDot => self.send_block(Bytes::new(), b".\r\n").await,
                Step::SendText => match self.send_text(&mut text).await {
                    Ok(()) => Ok(()),
                    Err(TextFailure::Wire(error)) => Err(error),
                    Err(TextFailure::Source(error)) => {
                        tracing::error!(%error, "a message's text could not be read");
                        transaction.abandon(Enhanced(4, 3, 0), "our copy could not be read");
                        continue;
                    }
                },
            };
            if let Err(error) = sent {
                broken = true;
                // It may have said why before it closed. Only a refusal can be true: it has not
                // seen all we had to say.
                match self.last_words().await {
                    Some(reply) if reply.code >= 400 => transaction.answer(reply),
                    _ => transaction.fail(&error.to_string()),
                }
            }
        }
        self.transactions += 1;
        self.refusals += transaction.refusals();
        let (responses, ending) = transaction.finish();
        self.before = match ending {
            Ending::NeedsReset => Before::Unfinished,
            Ending::Clean | Ending::Closed => Before::Kept,
        };
        self.closed = broken || ending == Ending::Closed;
        responses
    }

    /// Whether another message can be offered: in step, not closed by either side, and neither used
    /// nor refused more often than the server likes.
    pub fn is_usable(&mut self) -> bool {
        let worn = self.capabilities.transactions_max.is_some_and(|max| self.transactions >= max)
            || self.refusals >= self.limits.refusals_per_connection_max;
        !self.closed && !worn && self.wire.is_quiet()
    }

    /// The server, as logs write it: `name[ip]:port`.
    pub fn relay(&self) -> String {
        self.relay.clone()
    }

    /// Whether the server takes messages that are labelled as this one.
    pub fn takes(&self, envelope: &Envelope) -> bool {
        let Capabilities { eight_bit_mime, smtputf8, .. } = self.capabilities;
        (eight_bit_mime || envelope.body != BodyType::EightBitMime)
            && (smtputf8 || !envelope.smtputf8)
    }

    /// Whether the server reports successes and delays itself (RFC 3461). If not, and a sender
    /// asked for a success report, the report ends with us as "relayed".
    pub fn offers_dsn(&self) -> bool {
        self.capabilities.dsn
    }

    /// Say goodbye and close, without waiting long for the answer. Returns whether it came.
    pub async fn quit(mut self) -> bool {
        let mut answered = false;
        if !self.closed && self.wire.is_quiet() {
            let within = Duration::from_millis(self.limits.last_reply_timeout_ms);
            if self.wire.write(&b"QUIT\r\n"[..], within).await.is_ok() {
                let reply = self.wire.read_reply(within).await;
                answered = reply.is_ok_and(|reply| reply.is_positive());
            }
        }
        self.wire.close().await;
        answered
    }

    async fn send(&mut self) -> Result<(), WireError> {
        let within = Duration::from_millis(self.limits.reply_timeout_ms);
        self.wire.write(&self.out[..], within).await
    }

    async fn read(&mut self, stage: Stage) -> Result<Reply, WireError> {
        let within = match stage {
            Stage::Data => self.limits.data_reply_timeout_ms,
            Stage::FinalDot => self.limits.final_reply_timeout_ms,
            _ => self.limits.reply_timeout_ms,
        };
        self.wire.read_reply(Duration::from_millis(within)).await
    }

    async fn last_words(&mut self) -> Option<Reply> {
        let within = Duration::from_millis(self.limits.last_reply_timeout_ms);
        self.wire.read_reply(within).await.ok()
    }

    /// The text and the line that ends it. A small text leaves in one write.
    async fn send_text(&mut self, text: &mut Text) -> Result<(), TextFailure> {
        let mut block = text.next().await?.unwrap_or_default();
        let mut tail = Tail::default();
        loop {
            let following = text.next().await?;
            while block.len() > BLOCK_OCTETS {
                let first = block.split_to(BLOCK_OCTETS);
                tail.see(&first);
                self.send_block(first, b"").await?;
            }
            tail.see(&block);
            let Some(following) = following else {
                return Ok(self.send_block(block, tail.end()).await?);
            };
            self.send_block(block, b"").await?;
            block = following;
        }
    }

    async fn send_block(&mut self, block: Bytes, end: &'static [u8]) -> Result<(), WireError> {
        let within = Duration::from_millis(self.limits.data_block_timeout_ms);
        self.wire.write(block.chain(end), within).await
    }
}

enum TextFailure {
    Source(TextError),
    Wire(WireError),
}

impl From<TextError> for TextFailure {
    fn from(error: TextError) -> Self {
        Self::Source(error)
    }
}

impl From<WireError> for TextFailure {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

/// The answer of a server that may want TLS first, when that failed for `why`. A refusal for lack
/// of TLS (RFC 3207 section 4, RFC 5248 for X.7.10), or of what a server may offer only over TLS,
/// says nothing of the message: with TLS the server will take it.
fn over_tls(response: Response, why: &str) -> Response {
    let (stage, words) = match &response.answer {
        Answer::Reply(reply)
            if reply.code == 530 || matches!(reply.enhanced, Some(Enhanced(5, 7, 10))) =>
        {
            (Stage::StartTls, reply.to_string())
        }
        Answer::Unfit { enhanced: Enhanced(5, 6, _), text } => (response.stage, text.clone()),
        _ => return response,
    };
    let text = format!("{words} (in the clear, because TLS failed: {why})");
    Response::unfit(stage, Enhanced(4, 7, 5), text)
}

/// The last two octets of a text, which decide how it is ended.
#[derive(Default)]
struct Tail(Option<u8>, Option<u8>);

impl Tail {
    fn see(&mut self, block: &[u8]) {
        match block {
            [] => {}
            [only] => *self = Self(self.1, Some(*only)),
            [.., first, second] => *self = Self(Some(*first), Some(*second)),
        }
    }

    /// A text is lines; one that does not end with a line end is given one (RFC 5321 section
    /// 4.1.1.4).
    fn end(&self) -> &'static [u8] {
        match (self.0, self.1) {
            (_, None) | (Some(b'\r'), Some(b'\n')) => b".\r\n",
            _ => b"\r\n.\r\n",
        }
    }
}

/// One in the gauge of open connections, for as long as it lives.
#[derive(Debug)]
struct Counted(());

impl Counted {
    fn new() -> Self {
        METRICS.delivery_connections.inc();
        Self(())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        METRICS.delivery_connections.dec();
    }
}
