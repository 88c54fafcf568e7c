//! One mail transaction as the client sees it: what to send next, given what the server can do
//! and what it answered. Pure: bytes and replies in, bytes and steps out.
//!
//! With PIPELINING all commands up to DATA leave in one write, and each reply is attributed to its
//! command in order (RFC 2920 section 3.1). Without it they go one at a time.

use std::collections::VecDeque;

use super::capabilities::Capabilities;
use super::commands;
use crate::smtp::{Answer, Enhanced, Envelope, Reply, Response, Stage};

/// What the connection has to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Write the commands that were appended to the buffer.
    Send,
    /// Read one reply and hand it to [`Transaction::answer`].
    Read(Stage),
    /// Write the text and the final dot.
    SendText,
    /// Write the final dot alone: the server waits for a text that nobody would get
    /// (RFC 2920 section 3.1).
    SendDot,
    /// Nothing; [`Transaction::finish`] has the answers.
    Done,
}

/// What is asked of a connection in one transaction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    /// The message's envelope.
    pub(crate) envelope: &'a Envelope,
    /// Which of its recipients, as indexes.
    pub(crate) recipients: &'a [u32],
    /// The size to declare.
    pub(crate) octets: u64,
}

/// What the connection was used for so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    /// Nothing.
    Fresh,
    /// Other transactions. It may have been closed since, without a fault.
    Kept,
    /// Other transactions, and the server still holds the last one.
    Unfinished,
}

/// How a transaction left its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Ready for the next MAIL.
    Clean,
    /// The server still holds a transaction; RSET goes before the next MAIL.
    NeedsReset,
    /// Out of step or closing.
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Rset,
    Mail,
    Rcpt(usize),
    Data,
    /// Text and final dot.
    Text,
    /// The final dot without a text.
    Dot,
}

impl Command {
    fn stage(self) -> Stage {
        match self {
            Self::Rset | Self::Mail => Stage::Mail,
            Self::Rcpt(_) => Stage::Rcpt,
            Self::Data => Stage::Data,
            Self::Text | Self::Dot => Stage::FinalDot,
        }
    }
}

/// One transaction in progress.
#[derive(Debug)]
pub(crate) struct Transaction<'a> {
    request: Request<'a>,
    capabilities: &'a Capabilities,
    before: Before,
    /// Commands sent together.
    batch_max: usize,
    /// Commands not sent yet, in order.
    script: VecDeque<Command>,
    /// Commands sent whose replies have not come.
    pending: VecDeque<Command>,
    /// One per recipient; `None` until it is known.
    answers: Vec<Option<Answer>>,
    stages: Vec<Stage>,
    accepted: Vec<bool>,
    /// It ends with the replies to RCPT; they are the answers.
    is_question: bool,
    /// So many recipients may be refused before no more are asked for.
    refusals_max: usize,
    /// DATA waits until it is known that somebody is accepted.
    hold_data: bool,
    /// Refusals so far, of whatever was asked.
    refusals: usize,
    /// The server's refusal of MAIL, which is every recipient's.
    mail_refused: Option<Reply>,
    /// The server holds a transaction of ours.
    open: bool,
    closed: bool,
}

impl<'a> Transaction<'a> {
    /// Begin. An `Err` is our own refusal for all recipients: the message does not fit the server.
    pub(crate) fn new(
        request: Request<'a>,
        capabilities: &'a Capabilities,
        batch_max: usize,
        before: Before,
    ) -> Result<Self, Response> {
        commands::check_fit(&request, capabilities)?;
        let count = request.recipients.len();
        let taken = count.min(capabilities.recipients_max.unwrap_or(count));
        let mut script = VecDeque::with_capacity(taken + 3);
        let reset = before == Before::Unfinished;
        script.extend(reset.then_some(Command::Rset));
        script.push_back(Command::Mail);
        let (mut answers, mut stages) = (vec![None; count], vec![Stage::Rcpt; count]);
        for (at, index) in request.recipients.iter().enumerate().take(taken) {
            if commands::is_unspeakable(request.envelope, *index, capabilities) {
                let unfit = commands::needs_smtputf8();
                (answers[at], stages[at]) = (Some(unfit.answer), unfit.stage);
            } else {
                script.push_back(Command::Rcpt(at));
            }
        }
        script.push_back(Command::Data);
        Ok(Self {
            request,
            capabilities,
            before,
            batch_max: if capabilities.pipelining { batch_max.max(1) } else { 1 },
            script,
            pending: VecDeque::with_capacity(taken + 3),
            answers,
            stages,
            accepted: vec![false; count],
            is_question: false,
            refusals_max: usize::MAX,
            hold_data: false,
            refusals: 0,
            mail_refused: None,
            open: reset,
            closed: false,
        })
    }

    /// Ask about the recipients, and offer no message.
    pub(crate) fn question(
        request: Request<'a>,
        capabilities: &'a Capabilities,
        batch_max: usize,
        before: Before,
    ) -> Result<Self, Response> {
        let mut question = Self::new(request, capabilities, batch_max, before)?;
        question.script.retain(|command| *command != Command::Data);
        question.is_question = true;
        Ok(question)
    }

    /// Ask for no more recipients once so many have been refused: servers slow down and cut off
    /// whoever asks for many that do not exist, and mail for those that do would wait with them.
    /// `was_refused`: it has happened on this connection, so that DATA without anybody, which is
    /// one error more, is not sent.
    pub(crate) fn cautious(mut self, refusals_max: usize, was_refused: bool) -> Self {
        self.refusals_max = refusals_max;
        self.hold_data = was_refused;
        self
    }

    /// What the server has refused so far.
    pub(crate) fn refusals(&self) -> usize {
        self.refusals
    }

    /// What to do next; commands are appended to `out`.
    pub(crate) fn next(&mut self, out: &mut Vec<u8>) -> Step {
        if self.closed {
            return Step::Done;
        }
        if let Some(command) = self.pending.front() {
            return Step::Read(command.stage());
        }
        if self.mail_refused.is_some() {
            self.script.retain(|command| matches!(command, Command::Dot));
        }
        if self.refusals >= self.refusals_max {
            self.script.retain(|command| !matches!(command, Command::Rcpt(_)));
        }
        match self.script.front() {
            None => Step::Done,
            Some(Command::Text | Command::Dot) => {
                let command = self.script.pop_front();
                self.pending.extend(command);
                if command == Some(Command::Dot) { Step::SendDot } else { Step::SendText }
            }
            Some(Command::Data) if !self.accepted.contains(&true) => Step::Done,
            Some(_) => {
                // The more are accepted, the more are asked for together.
                let accepted = self.accepted.iter().filter(|accepted| **accepted).count();
                let refusals_left = self.refusals_max.saturating_sub(self.refusals);
                let mut rcpt_left = refusals_left.saturating_add(accepted);
                while self.pending.len() < self.batch_max
                    && let Some(command) = self.script.pop_front_if(|command| match command {
                        Command::Rcpt(_) => rcpt_left > 0,
                        Command::Data => !self.hold_data || self.pending.is_empty(),
                        _ => true,
                    })
                {
                    rcpt_left -= usize::from(matches!(command, Command::Rcpt(_)));
                    self.write(command, out);
                    self.pending.push_back(command);
                }
                Step::Send
            }
        }
    }

    /// Take the reply to the oldest command whose reply has not come.
    pub(crate) fn answer(&mut self, reply: Reply) {
        let Some(command) = self.pending.pop_front() else { return };
        self.refusals += usize::from(reply.code >= 400);
        if reply.code == 421 {
            return self.closing(command, &reply);
        }
        match command {
            // A server that cannot forget cannot be trusted with the next message.
            Command::Rset if !reply.is_positive() => self.closed = true,
            Command::Rset => self.open = false,
            Command::Mail if reply.is_positive() => self.open = true,
            Command::Mail => self.mail_refused = Some(reply),
            Command::Rcpt(index) => self.recipient(index, reply),
            Command::Data => self.data(&reply),
            Command::Text => {
                self.open = false;
                self.settle_from(Stage::FinalDot, &Answer::Reply(reply));
            }
            Command::Dot => self.open = false,
        }
    }

    /// The connection failed while a reply, or the text, was under way.
    pub(crate) fn fail(&mut self, why: &str) {
        let stage = self.pending.front().map_or(Stage::Mail, |command| command.stage());
        self.closed = true;
        if self.mail_refused.is_none() && !self.is_untouched(stage) {
            self.settle_from(stage, &Answer::Broken(why.to_owned()));
        }
    }

    /// We cannot go on, for a reason of our own; the connection must be closed without a final
    /// dot.
    pub(crate) fn abandon(&mut self, enhanced: Enhanced, text: &str) {
        self.closed = true;
        self.settle_from(Stage::Data, &Answer::Unfit { enhanced, text: text.to_owned() });
    }

    /// One response per recipient, in the request's order, and the state of the connection.
    pub(crate) fn finish(mut self) -> (Vec<Response>, Ending) {
        if let Some(reply) = self.mail_refused.take() {
            self.settle_from(Stage::Mail, &Answer::Reply(reply));
        }
        let ending = match (self.closed, self.open) {
            (true, _) => Ending::Closed,
            (false, true) => Ending::NeedsReset,
            (false, false) => Ending::Clean,
        };
        let answers = self.answers.into_iter().map(|answer| answer.unwrap_or(Answer::NotTried));
        let response = |(stage, answer)| Response { stage, answer };
        (self.stages.into_iter().zip(answers).map(response).collect(), ending)
    }

    fn write(&self, command: Command, out: &mut Vec<u8>) {
        match command {
            Command::Rset => out.extend_from_slice(b"RSET\r\n"),
            Command::Mail => commands::write_mail(&self.request, self.capabilities, out),
            Command::Rcpt(index) => {
                let recipient = self.request.recipients.get(index);
                commands::write_rcpt(self.request.envelope, recipient, self.capabilities, out);
            }
            Command::Data => out.extend_from_slice(b"DATA\r\n"),
            Command::Text | Command::Dot => {}
        }
    }

    fn recipient(&mut self, index: usize, reply: Reply) {
        if self.mail_refused.is_some() {
            return; // it only says that there is no transaction
        }
        if self.is_question {
            self.answers[index] = Some(Answer::Reply(reply));
        } else if reply.is_positive() {
            self.accepted[index] = true;
        } else if is_too_many(&reply) && self.accepted.contains(&true) {
            // RFC 5321 section 4.5.3.1.10: the others go into another transaction, at once.
            self.script.retain(|command| !matches!(command, Command::Rcpt(_)));
        } else {
            self.answers[index] = Some(Answer::Reply(reply));
        }
    }

    fn data(&mut self, reply: &Reply) {
        let any = self.accepted.contains(&true);
        match reply.code / 100 {
            3 if any => self.script.push_back(Command::Text),
            3 => self.script.push_back(Command::Dot),
            // Neither "go on" nor a refusal: guessing could lose the message.
            2 => {
                self.closed = true;
                let why = "the server answered DATA with neither 354 nor a refusal";
                self.settle_from(Stage::Data, &Answer::Broken(why.to_owned()));
            }
            // Without a valid recipient this only repeats the replies to RCPT.
            _ => self.settle_from(Stage::Data, &Answer::Reply(reply.clone())),
        }
    }

    /// 421: the server closes, whatever it was asked (RFC 5321 section 3.8).
    fn closing(&mut self, command: Command, reply: &Reply) {
        self.closed = true;
        let stage = command.stage();
        if self.mail_refused.is_none() && !self.is_untouched(stage) {
            self.settle_from(stage, &Answer::Reply(reply.clone()));
        }
    }

    /// An idle connection that the server closed before it heard of the message has told us
    /// nothing about the message, nor about the server's health: a fresh connection will.
    fn is_untouched(&self, stage: Stage) -> bool {
        self.before != Before::Fresh && stage == Stage::Mail
    }

    /// Give an answer that fell at `stage` to every recipient it concerns and who has none:
    /// from DATA on those who were accepted, before that everybody.
    fn settle_from(&mut self, stage: Stage, answer: &Answer) {
        for (index, slot) in self.answers.iter_mut().enumerate() {
            if slot.is_none() && (stage < Stage::Data || self.accepted[index]) {
                *slot = Some(answer.clone());
                self.stages[index] = stage;
            }
        }
    }
}

/// "Too many recipients", not "too full": 452 4.5.3, its old spelling 552, or in words.
fn is_too_many(reply: &Reply) -> bool {
    let code = matches!(reply.code, 452 | 552);
    code && match reply.enhanced {
        Some(Enhanced(_, 5, 3)) => true,
        Some(Enhanced(_, subject, _)) if subject != 0 => false,
        _ => reply.text().to_ascii_lowercase().contains("too many"),
    }
}

#[cfg(test)]
mod tests;
