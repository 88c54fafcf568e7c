//! Replies on their way out: one buffer, so that the answers to a pipelined group leave in one
//! write.

use std::fmt;

use crate::smtp::{Canned, Reply};

/// The replies that were not sent yet, and their codes.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    codes: Vec<u16>,
}

impl Outbox {
    /// Add a canned reply.
    pub fn canned(&mut self, reply: Canned) {
        self.line(reply.code(), reply.line());
    }

    /// Add a made reply.
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
