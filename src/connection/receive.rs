//! The text of a message: DATA and BDAT, from the wire into a draft.

use std::time::Duration;

use bytes::Buf as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::conversation::{Conversation, End};
use super::intake::{Draft, Intake};
use super::message::Message;
use crate::session::{Incoming, Step};
use crate::smtp::canned;
use crate::smtp::command::Chunk;
use crate::telemetry::metrics::METRICS;

impl<S, I> Conversation<'_, '_, '_, S, I>
where
    S: AsyncRead + AsyncWrite + Unpin,
    I: Intake,
{
    /// DATA: 354, and the text up to its final dot. A text whose end somebody may see elsewhere
    /// ends the session.
    pub(super) async fn data(&mut self, incoming: Box<Incoming>) -> Result<(), End> {
        let mut message = match self.open(incoming).await {
            Ok(message) => message,
            Err(step) => return self.settle(&step),
        };
        self.out.canned(canned::START_DATA);
        self.send().await?;
        loop {
            self.read_text(&mut message.due).await?;
            let scan = message.text.scan(&self.input);
            message.keep(&self.input[..scan.text]).await;
            self.input.advance(scan.consumed);
            if scan.end {
                // What lies behind an end that is in doubt may be text, so it is no command.
                return match message.text.doubt() {
                    Some(doubt) => self.close(doubt),
                    None => self.finish(message).await,
                };
            }
            self.check_size(&message)?;
        }
    }

    /// BDAT: one chunk, whatever becomes of it.
    pub(super) async fn chunk(
        &mut self,
        chunk: Chunk,
        incoming: Option<Box<Incoming>>,
    ) -> Result<(), End> {
        let opened = match incoming {
            Some(incoming) => self.open(incoming).await.map(Some),
            None => Ok(self.message.take()),
        };
        let mut message = match opened {
            Ok(Some(message)) => message,
            // The session lets a chunk pass only with its message.
            Ok(None) => return self.close(canned::AFTER_BDAT),
            Err(step) => {
                self.settle(&step)?;
                // The answer to a chunk comes after the chunk.
                let aside = self.out.set_aside();
                self.discard(chunk.octets).await?;
                self.out.resume(aside);
                return Ok(());
            }
        };
        let mut left = chunk.octets;
        while left > 0 {
            if self.input.is_empty() {
                self.send().await?;
                self.read_text(&mut message.due).await?;
            }
            let take = self.part_of_input(left);
            let mut input = &self.input[..take];
            while let Some(piece) = message.text.stuff(&mut input) {
                message.keep(piece).await;
            }
            self.input.advance(take);
            left -= take as u64;
            self.check_size(&message)?;
        }
        if chunk.last {
            let missing = message.text.finish_chunks();
            message.keep(missing).await;
            return self.finish(message).await;
        }
        let fault = message.text.fault();
        self.message = Some(message);
        self.command_is_due();
        match fault {
            None => {
                self.out.canned(canned::CHUNK_OK);
                Ok(())
            }
            Some(fault) => {
                let step = self.session.refuse(fault, &mut self.out);
                self.settle(&step)
            }
        }
    }

    /// Read a chunk that nobody wants.
    pub(super) async fn discard(&mut self, octets: u64) -> Result<(), End> {
        let limits = self.inbound.limits();
        if octets > limits.message_octets_max.saturating_add(limits.discard_octets_max) {
            return self.close(canned::TOO_MUCH);
        }
        let mut due = self.text_is_due();
        let mut left = octets;
        while left > 0 {
            if self.input.is_empty() {
                self.send().await?;
                self.read_text(&mut due).await?;
            }
            let take = self.part_of_input(left);
            self.input.advance(take);
            left -= take as u64;
        }
        self.command_is_due();
        Ok(())
    }

    async fn open(&mut self, incoming: Box<Incoming>) -> Result<Message<I::Draft>, Step> {
        let due = self.text_is_due();
        Message::open(self.inbound, incoming, due)
            .await
            .map_err(|reply| self.session.rejected(reply, &mut self.out))
    }

    /// The end of a text: the answer to a whole message.
    async fn finish(&mut self, message: Message<I::Draft>) -> Result<(), End> {
        let stored = message.commit(self.inbound.authenticator.as_ref()).await;
        self.shrink_input();
        self.command_is_due();
        match stored {
            Ok(stored) => {
                (self.inbound.accepted)(stored.queued);
                self.session.accepted(&stored.id, &mut self.out);
                METRICS.message_size_bytes.observe(stored.octets as f64);
                let seconds = stored.started.elapsed().as_secs_f64();
                METRICS.smtp_transaction_duration_seconds.observe(seconds);
                Ok(())
            }
            Err(reply) => {
                let step = self.session.rejected(reply, &mut self.out);
                self.settle(&step)
            }
        }
    }

    /// A text far beyond the limit is not read to its end.
    fn check_size(&mut self, message: &Message<impl Draft>) -> Result<(), End> {
        let limits = self.inbound.limits();
        let most = limits.message_octets_max.saturating_add(limits.discard_octets_max);
        if message.text.octets() > most { self.close(canned::TOO_MUCH) } else { Ok(()) }
    }

    fn text_is_due(&self) -> Instant {
        let limits = self.inbound.limits();
        let stopping = self.deadline.is_stopping();
        let ms = if stopping { limits.drain_timeout_ms } else { limits.data_timeout_ms };
        Instant::now() + Duration::from_millis(ms)
    }

    fn part_of_input(&self, most: u64) -> usize {
        usize::try_from(most).unwrap_or(usize::MAX).min(self.input.len())
    }
}
