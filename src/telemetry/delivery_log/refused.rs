//! The line of a connection that was refused something.
//!
//! ```text
//! 2026-11-24T10:00:00.123456Z NOQUEUE: reject: client=192.0.2.9, helo=<client.example>, tls=no,
//!   from=<s@load.test>, to=<x@acme.test>, refused=blacklist:20/served_domain:1/too_many_errors:1
//!   (550 5.7.1 <x@acme.test>... too many failures for this recipient)
//! ```
//!
//! One line for a connection and not for a recipient, since most of what comes is refused. The
//! kinds are the checks of stage 3 as metrics and `explain rcpt` name them, and the few that are
//! about commands; sender, recipient and reply are those of the first recipient refused.

use std::fmt::Write as _;
use std::net::IpAddr;

use serde::Serialize;

use super::{Clean, Time, cut, json};
use crate::smtp::Refusals;

/// A connection that was refused something.
#[derive(Debug, Clone, Copy)]
pub struct Refused<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// What it called itself last, if it did.
    pub helo: Option<&'a str>,
    /// Whether it came by TLS.
    pub tls: bool,
    /// What it was refused.
    pub refusals: &'a Refusals,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    event: &'static str,
    client: IpAddr,
    helo: Option<&'a str>,
    tls: bool,
    from: Option<&'a str>,
    to: Option<&'a str>,
    refused: serde_json::Map<String, serde_json::Value>,
    reply: &'a str,
}

impl Refused<'_> {
    pub(super) fn text(&self, time: Time) -> String {
        let mut line = String::with_capacity(256);
        let (tls, helo) = (if self.tls { "yes" } else { "no" }, self.helo.unwrap_or_default());
        // Writing to a String cannot fail.
        let _ = write!(
            line,
            "{time} NOQUEUE: reject: client={}, helo=<{}>, tls={tls}, ",
            self.client,
            Clean(cut(helo)),
        );
        if let Some(first) = self.refusals.first_recipient() {
            let _ = write!(line, "from=<{}>, to=<{}>, ", Clean(&first.from), Clean(&first.to));
        }
        for (index, (kind, count)) in self.refusals.counts().iter().enumerate() {
            let before = if index == 0 { "refused=" } else { "/" };
            let _ = write!(line, "{before}{kind}:{count}");
        }
        let _ = writeln!(line, " ({})", Clean(cut(self.reply())));
        line
    }

    pub(super) fn json(&self, time: Time) -> String {
        let first = self.refusals.first_recipient();
        let counts = self.refusals.counts().iter();
        json(&Line {
            time: time.to_string(),
            event: "refused",
            client: self.client,
            helo: self.helo,
            tls: self.tls,
            from: first.map(|first| first.from.as_str()),
            to: first.map(|first| first.to.as_str()),
            refused: counts.map(|(kind, count)| ((*kind).to_owned(), (*count).into())).collect(),
            reply: cut(self.reply()),
        })
    }

    /// To the first recipient refused, or else the first refusal.
    fn reply(&self) -> &str {
        match self.refusals.first_recipient() {
            Some(first) => &first.reply,
            None => self.refusals.first_reply().map_or("", |reply| reply.line().trim_ascii_end()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::{Address, Enhanced, Reply, canned};

    const TIME: Time = Time(1_795_514_400_123_456);

    fn refusals() -> Refusals {
        let mut refusals = Refusals::default();
        let to = Address::parse("x@acme.test", false).unwrap();
        let from = Some(Address::parse("s@load.test", false).unwrap());
        let reply = Reply::new(550, Enhanced(5, 1, 1), "<x@acme.test>... no such user here");
        refusals.recipient("recipient_list", &from, Some(&to), &reply);
        refusals.recipient("recipient_list", &from, Some(&to), &reply);
        refusals.reply(canned::TOO_MANY_ERRORS);
        refusals
    }

    #[test]
    fn a_refused_connection_has_a_line_in_both_forms() {
        let refusals = refusals();
        let client = "192.0.2.9".parse().unwrap();
        let refused =
            Refused { client, helo: Some("client.example"), tls: true, refusals: &refusals };
        assert_eq!(
            refused.text(TIME),
            "2026-11-24T10:00:00.123456Z NOQUEUE: reject: client=192.0.2.9, \
             helo=<client.example>, tls=yes, from=<s@load.test>, to=<x@acme.test>, \
             refused=recipient_list:2/too_many_errors:1 \
             (550 5.1.1 <x@acme.test>... no such user here)\n"
        );
        let line: serde_json::Value = serde_json::from_str(&refused.json(TIME)).unwrap();
        assert_eq!((&line["event"], &line["to"]), (&"refused".into(), &"x@acme.test".into()));
        assert_eq!(line["refused"], serde_json::json!({"recipient_list": 2, "too_many_errors": 1}));
    }

    #[test]
    fn a_client_that_names_no_recipient_has_the_first_reply() {
        let mut refusals = Refusals::default();
        refusals.reply(canned::BARE_LF);
        let client = "2001:db8::1".parse().unwrap();
        let refused = Refused { client, helo: None, tls: false, refusals: &refusals };
        assert_eq!(
            refused.text(TIME),
            "2026-11-24T10:00:00.123456Z NOQUEUE: reject: client=2001:db8::1, helo=<>, tls=no, \
             refused=bare_newline:1 (500 5.5.2 A command ends with CRLF, not LF)\n"
        );
    }
}
