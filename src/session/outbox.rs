//! Replies on their way out: one buffer, so that the answers to a pipelined group leave in one
//! write.

use std::fmt;

use crate::smtp::{Canned, Refusals, Reply};

/// The replies that were not sent yet, and their codes; and what was refused since it is there.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    codes: Vec<u16>,
    /// What was refused, sent or not.
    pub refusals: Refusals,
}

impl Outbox {
    /// Add a canned reply.
    pub fn canned(&mut self, reply: Canned) {
        self.refusals.reply(reply);
        self.line(reply.code(), reply.line());
    }

    /// Add a made reply; whoever made it tells [`Refusals`] of it.
    pub fn reply(&mut self, reply: &Reply) {
        self.codes.push(reply.code);
        reply.write_to(&mut self.bytes);
    }

    /// Add a reply whose line or lines are complete.
    pub fn line(&mut self, code: u16, lines: &str) {
        self.codes.push(code);
        self.bytes.extend_from_slice(lines.as_bytes());
    }

    /// Add a reply whose line is complete, and made of parts.
    pub fn format(&mut self, code: u16, line: fmt::Arguments<'_>) {
        use std::io::Write as _;
        self.codes.push(code);
        // Writing to a Vec cannot fail.
        let _ = self.bytes.write_fmt(line);
    }

    /// Take the replies out for a while, but not what was refused; [`Outbox::resume`] ends it.
    pub fn set_aside(&mut self) -> Self {
        let refusals = std::mem::take(&mut self.refusals);
        std::mem::replace(self, Self { refusals, ..Self::default() })
    }

    /// Go on with replies that were set aside.
    pub fn resume(&mut self, aside: Self) {
        self.bytes = aside.bytes;
        self.codes = aside.codes;
    }

    /// What goes on the wire.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The codes of the replies in it.
    pub fn codes(&self) -> &[u16] {
        &self.codes
    }

    /// Everything was sent.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.codes.clear();
    }
}
