//! One line per recipient and attempt, and one each when a message comes and goes, in the shape
//! that Postfix's users know.
//!
//! ```text
//! 2026-11-24T10:00:00.123456Z 0bVxK2pqzr001: to=<a@acme.test>, relay=mail.acme.test[192.0.2.7]:25,
//!   delay=1.2, delays=0.1/0/0.4/0.7, dsn=2.0.0, status=sent (250 2.0.0 ok)
//! ```
//!
//! A connection that was refused anything has one line as well, whatever became of it else; see
//! [`Refused`]. Where nobody can keep up, these are lost before those of messages are.
//!
//! The four delays are: until it was due, until an attempt began, for the connection, for the
//! transaction. Lines go to a thread of their own through a bounded channel; a log that is slower
//! than the mail loses lines, which are counted, and never holds up a delivery or a stop.

mod refused;
mod writer;

use std::fmt::{self, Write as _};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

pub use self::refused::Refused;
use self::writer::Writer;
pub use self::writer::{Target, open};
use super::metrics::METRICS;
use crate::smtp::{Enhanced, is_unprintable};
use crate::system::clock::wall_us;

/// Text of a far server is cut at so many octets.
const REPLY_OCTETS_MAX: usize = 400;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// As Postfix writes them.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// How an attempt ended for one recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The next hop took it.
    Sent,
    /// It will be tried again.
    Deferred,
    /// It failed for good.
    Bounced,
    /// An operator removed it.
    Removed,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Deferred => "deferred",
            Self::Bounced => "bounced",
            Self::Removed => "removed",
        }
    }
}

/// Where the time went, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delays {
    /// From the beginning of the message until it was due.
    pub due_us: u64,
    /// Until an attempt began.
    pub queued_us: u64,
    /// DNS, connection, greeting and TLS.
    pub connect_us: u64,
    /// The transaction.
    pub transmit_us: u64,
}

impl Delays {
    /// All together.
    pub fn total_us(&self) -> u64 {
        let Self { due_us, queued_us, connect_us, transmit_us } = self;
        due_us.saturating_add(*queued_us).saturating_add(*connect_us).saturating_add(*transmit_us)
    }
}

/// One attempt for one recipient.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// The queue id.
    pub id: &'a str,
    /// The recipient's address.
    pub to: &'a str,
    /// `host[ip]:port`; `None` when none was reached.
    pub relay: Option<&'a str>,
    /// Where the time went.
    pub delays: Delays,
    /// The status code.
    pub dsn: Enhanced,
    /// How it ended.
    pub status: Status,
    /// What the far server said, or why there was nothing to hear.
    pub reply: &'a str,
}

/// A message that is in the queue from now on.
#[derive(Debug, Clone, Copy)]
pub struct Acceptance<'a> {
    /// The queue id.
    pub id: &'a str,
    /// The sender's address; empty for a report.
    pub from: &'a str,
    /// Octets of the text.
    pub octets: u64,
    /// How many recipients were accepted.
    pub recipients: usize,
    /// The client's address; `None` for mail we wrote.
    pub client: Option<IpAddr>,
    /// What it called itself; empty for mail we wrote.
    pub helo: &'a str,
}

/// Takes lines and has them written. Clones write to the same place.
#[derive(Debug, Clone)]
pub struct DeliveryLog {
    format: Format,
    writer: Arc<Writer>,
}

impl DeliveryLog {
    /// A log that keeps at most `lines_max` lines for a slow target.
    pub fn start(format: Format, target: Target, lines_max: usize) -> io::Result<Self> {
        Ok(Self { format, writer: Arc::new(Writer::start(target, lines_max)?) })
    }

    /// Log that a message was accepted.
    pub fn accepted(&self, acceptance: &Acceptance<'_>) {
        let line = match self.format {
            Format::Text => accepted_text(acceptance, Time(wall_us())),
            Format::Json => accepted_json(acceptance, Time(wall_us())),
        };
        self.writer.send(line);
    }

    /// Log an attempt.
    pub fn attempt(&self, attempt: &Attempt<'_>) {
        let line = match self.format {
            Format::Text => text_line(attempt, Time(wall_us())),
            Format::Json => json_line(attempt, Time(wall_us())),
        };
        self.writer.send(line);
    }

    /// Log that a message has left the queue: all its recipients are done with.
    pub fn removed(&self, id: &str) {
        let time = Time(wall_us());
        let line = match self.format {
            Format::Text => format!("{time} {id}: removed\n"),
            Format::Json => {
                format!("{{\"time\":\"{time}\",\"id\":\"{id}\",\"event\":\"removed\"}}\n")
            }
        };
        self.writer.send(line);
    }

    /// Log what an operator did to a message, or without an id to several, and who that was.
    pub fn operated(&self, id: Option<&str>, what: &str, by: &str) {
        let time = Time(wall_us());
        let line = match self.format {
            Format::Text => {
                let id = id.unwrap_or("NOQUEUE");
                format!("{time} {id}: {} by an operator: {}\n", Clean(what), Clean(by))
            }
            Format::Json => {
                let (time, event) = (time.to_string(), "operated");
                json(&OperatedLine { time, id, event, what, by })
            }
        };
        self.writer.send(line);
    }

    /// Log what a connection was refused.
    pub fn refused(&self, refused: &Refused<'_>) {
        let line = || match self.format {
            Format::Text => refused.text(Time(wall_us())),
            Format::Json => refused.json(Time(wall_us())),
        };
        self.writer.send_refusal(line);
    }

    /// Go on at another target, behind what is being written.
    pub fn replace(&self, target: Target) {
        self.writer.replace(target);
    }

    /// Wait until everything logged so far is written, but not longer than `within`; what is not
    /// written then is given up as lost, counted, and said. Blocks.
    pub fn flush(&self, within: Duration) {
        let lost = self.writer.flush(within);
        if lost > 0 {
            METRICS.delivery_log_dropped_total.inc_by(lost);
            tracing::error!("the reader of the delivery log stalls: {lost} lines are lost");
        }
    }
}

fn text_line(attempt: &Attempt<'_>, time: Time) -> String {
    let Attempt { id, to, relay, delays, dsn, status, reply } = attempt;
    let mut line = String::with_capacity(256);
    // Writing to a String cannot fail.
    let _ = writeln!(
        line,
        "{time} {id}: to=<{}>, relay={}, delay={}, delays={}/{}/{}/{}, dsn={dsn}, status={} ({})",
        Clean(to),
        Clean(relay.unwrap_or("none")),
        Seconds(delays.total_us()),
        Seconds(delays.due_us),
        Seconds(delays.queued_us),
        Seconds(delays.connect_us),
        Seconds(delays.transmit_us),
        status.as_str(),
        Clean(cut(reply)),
    );
    line
}

fn accepted_text(acceptance: &Acceptance<'_>, time: Time) -> String {
    let Acceptance { id, from, octets, recipients, client, helo } = acceptance;
    let mut line = String::with_capacity(160);
    // Writing to a String cannot fail.
    let _ = write!(
        line,
        "{time} {id}: from=<{}>, size={octets}, nrcpt={recipients}, client=",
        Clean(from)
    );
    let _ = match client {
        Some(client) => writeln!(line, "{client}, helo=<{}>", Clean(helo)),
        None => writeln!(line, "none"),
    };
    line
}

#[derive(Serialize)]
struct OperatedLine<'a> {
    time: String,
    id: Option<&'a str>,
    event: &'static str,
    what: &'a str,
    by: &'a str,
}

#[derive(Serialize)]
struct AcceptedLine<'a> {
    time: String,
    id: &'a str,
    event: &'static str,
    from: &'a str,
    size: u64,
    nrcpt: usize,
    client: Option<IpAddr>,
    helo: Option<&'a str>,
}

fn accepted_json(acceptance: &Acceptance<'_>, time: Time) -> String {
    let Acceptance { id, from, octets, recipients, client, helo } = *acceptance;
    let (time, event) = (time.to_string(), "accepted");
    let (size, nrcpt, helo) = (octets, recipients, client.map(|_| helo));
    json(&AcceptedLine { time, id, event, from, size, nrcpt, client, helo })
}

fn json(line: &impl Serialize) -> String {
    let mut line = serde_json::to_string(line).unwrap_or_default();
    line.push('\n');
    line
}

#[derive(Serialize)]
struct JsonLine<'a> {
    time: String,
    id: &'a str,
    event: &'static str,
    to: &'a str,
    relay: Option<&'a str>,
    delay: f64,
    delays: [f64; 4],
    dsn: String,
    status: Status,
    reply: &'a str,
}

fn json_line(attempt: &Attempt<'_>, time: Time) -> String {
    let Delays { due_us, queued_us, connect_us, transmit_us } = attempt.delays;
    let seconds = |us: u64| Duration::from_micros(us).as_secs_f64();
    let line = JsonLine {
        time: time.to_string(),
        id: attempt.id,
        event: "attempt",
        to: attempt.to,
        relay: attempt.relay,
        delay: seconds(attempt.delays.total_us()),
        delays: [due_us, queued_us, connect_us, transmit_us].map(seconds),
        dsn: attempt.dsn.to_string(),
        status: attempt.status,
        reply: cut(attempt.reply),
    };
    json(&line)
}

/// At most [`REPLY_OCTETS_MAX`] octets, and no half of a character.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(REPLY_OCTETS_MAX)]
}

/// Text of others, with what drives a terminal escaped, so that nobody writes lines of ours.
struct Clean<'a>(&'a str);

impl fmt::Display for Clean<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.contains(is_unprintable) {
            return f.write_str(self.0);
        }
        self.0.chars().try_for_each(|c| {
            if is_unprintable(c) { write!(f, "{}", c.escape_default()) } else { f.write_char(c) }
        })
    }
}

/// Seconds with two digits that count, as Postfix rounds them.
struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0..5_000 => f.write_str("0"),
            us @ 5_000..995_000 => write!(f, "0.{:02}", (us + 5_000) / 10_000),
            us @ 995_000..9_950_000 => {
                let tenths = (us + 50_000) / 100_000;
                write!(f, "{}.{}", tenths / 10, tenths % 10)
            }
            us => write!(f, "{}", (us + 500_000) / 1_000_000),
        }
    }
}

/// Microseconds since 1970 as RFC 3339.
#[derive(Clone, Copy)]
struct Time(u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = i64::try_from(self.0).unwrap_or(i64::MAX);
        let time = jiff::Timestamp::from_microsecond(us).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        write!(f, "{time:.6}")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const ATTEMPT: Attempt<'static> = Attempt {
        id: "0bVxK2pqzr001",
        to: "a@acme.test",
        relay: Some("mail.acme.test[192.0.2.7]:25"),
        delays: Delays { due_us: 104_000, queued_us: 0, connect_us: 400_000, transmit_us: 700_000 },
        dsn: Enhanced(2, 0, 0),
        status: Status::Sent,
        reply: "250 2.0.0 ok",
    };

    const TIME: Time = Time(1_795_514_400_123_456);

    #[test]
    fn a_line_has_the_shape_that_postfix_has() {
        assert_eq!(
            text_line(&ATTEMPT, TIME),
            "2026-11-24T10:00:00.123456Z 0bVxK2pqzr001: to=<a@acme.test>, \
             relay=mail.acme.test[192.0.2.7]:25, delay=1.2, delays=0.10/0/0.40/0.70, dsn=2.0.0, \
             status=sent (250 2.0.0 ok)\n"
        );
    }

    #[test]
    fn an_accepted_message_has_a_line_in_both_forms() {
        let client = Some("192.0.2.9".parse().unwrap());
        let (id, from) = ("0bVxK2pqzr001", "s@load.test");
        let helo = "client.example";
        let acceptance = Acceptance { id, from, octets: 4096, recipients: 2, client, helo };
        assert_eq!(
            accepted_text(&acceptance, TIME),
            "2026-11-24T10:00:00.123456Z 0bVxK2pqzr001: from=<s@load.test>, size=4096, nrcpt=2, \
             client=192.0.2.9, helo=<client.example>\n"
        );
        let line: serde_json::Value =
            serde_json::from_str(&accepted_json(&acceptance, TIME)).unwrap();
        assert_eq!((&line["event"], &line["nrcpt"]), (&"accepted".into(), &2.into()));
        assert_eq!((&line["client"], &line["size"]), (&"192.0.2.9".into(), &4096.into()));
        assert_eq!(line["helo"], "client.example");
    }

    #[test]
    fn a_json_line_says_the_same() {
        let line: serde_json::Value = serde_json::from_str(&json_line(&ATTEMPT, TIME)).unwrap();
        assert_eq!(line["time"], "2026-11-24T10:00:00.123456Z");
        assert_eq!((&line["to"], &line["status"]), (&"a@acme.test".into(), &"sent".into()));
        assert_eq!(line["delays"], serde_json::json!([0.104, 0.0, 0.4, 0.7]));
        assert_eq!(line["dsn"], "2.0.0");
    }

    #[test]
    fn what_a_server_said_cannot_make_a_line_and_is_cut() {
        let reply = format!("550 no\r\n1 2: to=<x@y.test>\x1b[31m{}", "é".repeat(300));
        let line = text_line(&Attempt { relay: None, reply: &reply, ..ATTEMPT }, TIME);
        assert!(line.contains(r"(550 no\r\n1 2: to=<x@y.test>\u{1b}[31mé"), "{line}");
        assert!(line.contains("relay=none, ") && line.ends_with("é)\n"));
        assert!(line.len() < 600);
        assert_eq!(line.lines().count(), 1);
    }

    #[test]
    fn seconds_have_two_digits_that_count() {
        for (us, text) in [
            (0, "0"),
            (4_999, "0"),
            (5_000, "0.01"),
            (994_999, "0.99"),
            (995_000, "1.0"),
            (1_249_000, "1.2"),
            (9_949_999, "9.9"),
            (9_950_000, "10"),
            (61_500_000, "62"),
        ] {
            assert_eq!(Seconds(us).to_string(), text);
        }
    }

    #[test]
    fn lines_are_written_in_order() {
        let target = Shared::default();
        let log = DeliveryLog::start(Format::Text, Box::new(target.clone()), 100).unwrap();
        log.attempt(&ATTEMPT);
        log.removed("0bVxK2pqzr001");
        log.flush(Duration::from_secs(20));
        let text = String::from_utf8(target.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(text.ends_with(" 0bVxK2pqzr001: removed\n"));
    }
}
