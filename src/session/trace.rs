//! The Received field we add (RFC 5321 section 4.4), and the counting of those that are there.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use crate::smtp::{Address, date};

/// A field of this many octets is looked at; what is behind it tells nothing about loops.
const LINE_OCTETS_MAX: usize = 1024;

/// What a Received field tells.
pub(super) struct Trace<'a> {
    pub(super) helo: &'a str,
    pub(super) ip: IpAddr,
    pub(super) hostname: &'a str,
    pub(super) protocol: &'static str,
    pub(super) id: &'a dyn fmt::Display,
    pub(super) recipient: Option<&'a Address>,
    pub(super) now_us: u64,
}

/// The keyword of RFC 3848 and RFC 6531 section 4.3.
pub(super) fn protocol(extended: bool, tls: bool, utf8: bool) -> &'static str {
    match (utf8, extended, tls) {
        (true, _, true) => "UTF8SMTPS",
        (true, _, false) => "UTF8SMTP",
        (false, _, true) => "ESMTPS",
        (false, true, false) => "ESMTP",
        (false, false, false) => "SMTP",
    }
}

/// The field, folded, with its CRLF.
pub(super) fn received(trace: &Trace<'_>) -> String {
    let mut field = String::with_capacity(256);
    // Writing to a String cannot fail.
    let _ = write!(field, "Received: from {} (", trace.helo);
    let _ = match trace.ip {
        IpAddr::V4(ip) => write!(field, "[{ip}]"),
        IpAddr::V6(ip) => write!(field, "[IPv6:{ip}]"),
    };
    let _ = write!(
        field,
        ")\r\n\tby {} (mxfleet) with {} id {}",
        trace.hostname, trace.protocol, trace.id
    );
    if let Some(recipient) = trace.recipient {
        let _ = write!(field, "\r\n\tfor <{recipient}>");
    }
    let _ = write!(field, ";\r\n\t{}\r\n", date(trace.now_us));
    field
}

/// Counts the Received fields of a header while it streams by, in bounded memory.
#[derive(Debug)]
pub(super) struct Hops {
    hostname: Box<str>,
    /// The start of a line whose end has not come yet.
    partial: Vec<u8>,
    in_header: bool,
    in_received: bool,
    /// The last word was `by`, so the next one is who wrote the field.
    after_by: bool,
    all: usize,
    own: usize,
}

impl Hops {
    pub(super) fn new(hostname: &str) -> Self {
        Self {
            hostname: hostname.into(),
            partial: Vec::new(),
            in_header: true,
            in_received: false,
            after_by: false,
            all: 0,
            own: 0,
        }
    }

    /// Received fields so far.
    pub(super) fn all(&self) -> usize {
        self.all
    }

    /// Those that say they were written by this host.
    pub(super) fn own(&self) -> usize {
        self.own
    }

    /// The next piece of the message.
    pub(super) fn feed(&mut self, mut text: &[u8]) {
        while self.in_header && !text.is_empty() {
            let Some(end) = memchr::memchr(b'\n', text) else {
                self.keep(text);
                return;
            };
            let (line, rest) = text.split_at(end + 1);
            if self.partial.is_empty() {
                self.line(&line[..line.len().min(LINE_OCTETS_MAX)]);
            } else {
                self.keep(line);
                let partial = std::mem::take(&mut self.partial);
                self.line(&partial);
                self.partial = partial;
                self.partial.clear();
            }
            text = rest;
        }
    }

    fn keep(&mut self, text: &[u8]) {
        let room = LINE_OCTETS_MAX.saturating_sub(self.partial.len());
        self.partial.extend_from_slice(&text[..text.len().min(room)]);
    }

    fn line(&mut self, line: &[u8]) {
        let line = line.trim_ascii_end();
        match line.first() {
            None => self.in_header = false,
            Some(b' ' | b'\t') => self.words(line),
            Some(_) => {
                let name_end = memchr::memchr(b':', line).unwrap_or(0);
                let (name, value) = line.split_at(name_end);
                self.in_received = name.trim_ascii_end().eq_ignore_ascii_case(b"Received");
                self.after_by = false;
                self.all += usize::from(self.in_received);
                self.words(value.get(1..).unwrap_or_default());
            }
        }
    }

    fn words(&mut self, text: &[u8]) {
        if !self.in_received {
            return;
        }
        for word in text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()) {
            if self.after_by {
                let name = word.strip_suffix(b";").unwrap_or(word);
                self.own += usize::from(name.eq_ignore_ascii_case(self.hostname.as_bytes()));
            }
            self.after_by = word.eq_ignore_ascii_case(b"by");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hops(text: &str, size: usize) -> (usize, usize) {
        let mut hops = Hops::new("mx1.relay.example");
        text.as_bytes().chunks(size).for_each(|piece| hops.feed(piece));
        (hops.all(), hops.own())
    }

    #[test]
    fn the_field_is_folded_and_names_the_only_recipient() {
        let recipient = Address::parse("user@example.test", false).unwrap();
        let trace = Trace {
            helo: "client.example",
            ip: "2001:db8::1".parse().unwrap(),
            hostname: "mx1.relay.example",
            protocol: protocol(true, true, false),
            id: &"4gB1",
            recipient: Some(&recipient),
            now_us: 1_795_536_000_000_000,
        };
        assert_eq!(
            received(&trace),
            "Received: from client.example ([IPv6:2001:db8::1])\r\n\
             \tby mx1.relay.example (mxfleet) with ESMTPS id 4gB1\r\n\
             \tfor <user@example.test>;\r\n\
             \tTue, 24 Nov 2026 16:00:00 +0000\r\n"
        );
    }

    #[test]
    fn hops_are_counted_the_same_however_the_header_is_cut() {
        let text = "Received: from a\r\n\tby mx1.relay.example (x) with ESMTP;\r\n\t date\r\n\
                    Subject: Received: by mx1.relay.example\r\n\
                    RECEIVED : from b by\r\n MX1.relay.example; date\r\n\
                    X-Received: by mx1.relay.example\r\n\
                    Received: by mx1.relay.example.org\r\n\
                    \r\n\
                    Received: in the body\r\n";
        for size in 1..text.len() {
            assert_eq!(hops(text, size), (3, 2), "in pieces of {size}");
        }
    }

    #[test]
    fn a_header_line_of_any_length_takes_bounded_memory() {
        let mut hops = Hops::new("mx1");
        for _ in 0..10_000 {
            hops.feed(&[b'x'; 1000]);
        }
        assert!(hops.partial.capacity() <= 2 * LINE_OCTETS_MAX);
        hops.feed(b"\r\nReceived: by mx1\r\n\r\n");
        assert_eq!((hops.all(), hops.own()), (1, 1));
    }

    #[test]
    fn each_way_to_come_in_has_its_keyword() {
        assert_eq!(protocol(false, false, false), "SMTP");
        assert_eq!(protocol(true, false, false), "ESMTP");
        assert_eq!(protocol(true, true, true), "UTF8SMTPS");
    }
}
