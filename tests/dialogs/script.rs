//! Reads and plays the text dialogs.
//!
//! ```text
//! == What this case shows
//! > limits recipients_max=2         how the server differs (before the first C: or S:)
//! C: MAIL FROM:<a@b.test>           the client sends this line and CRLF
//! c: half a li                      the client sends exactly this
//! C*3: NOOP                         three times
//! c*100: xyz                        a hundred times, without CRLF
//! S: 250 2.1.0 *                    the server's next line; * stands for anything
//! S*3: 250 2.0.0 Ok                 three such lines
//! S: <closed>                       the server has closed
//! > connect                         a new connection
//! > hello                           the banner, and EHLO with its answer
//! > envelope                        MAIL from a@sender.test, RCPT to user@customer.test
//! > starttls mx-a.relay.test        shake hands, asking for this name
//! M: <a@b.test> -> <u@customer.test>   the next accepted message; further words, such as
//!                                   `envid=x`, must be what its envelope says
//! T: Subject: x                     the next line of its text, below our Received field
//! ```
//!
//! `\r \n \0 \t \\ \xNN` are octets. Messages that no `M:` names fail the case.

use mxfleet::config::Limits;

use crate::client::Client;
use crate::server::{Accepted, Server, Setup, SpoolState};

/// One case of a dialog file.
pub(crate) struct Case {
    pub(crate) title: String,
    lines: Vec<(usize, String)>,
}

/// The cases of a file.
pub(crate) fn parse(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if let Some(title) = line.strip_prefix("== ") {
            cases.push(Case { title: title.to_owned(), lines: Vec::new() });
        } else if !line.is_empty() && !line.starts_with('#') {
            let case = cases.last_mut().expect("a case begins with ==");
            case.lines.push((index + 1, line.to_owned()));
        }
    }
    cases
}

/// Play one case; `Err` says at which line what went wrong.
pub(crate) async fn play(case: &Case) -> Result<(), String> {
    let setup = setup(case);
    let server = Server::start(setup).await;
    let mut player =
        Player { client: Client::connect(server.address).await, server, seen: 0, text: Vec::new() };
    for (number, line) in &case.lines {
        player.step(line).await.map_err(|why| format!("line {number}: {line}\n    {why}"))?;
    }
    player.nothing_is_left()
}

fn setup(case: &Case) -> Setup {
    let mut setup = Setup::default();
    for (_, line) in &case.lines {
        match line.split_once(' ') {
            Some((">", "tls")) => setup.tls = true,
            Some((">", "spool full")) => setup.spool = SpoolState::Full,
            Some((">", "spool full at DATA")) => setup.spool = SpoolState::FullAtBegin,
            Some((">", "spool fails at write")) => setup.spool = SpoolState::FailsAtPush,
            Some((">", "spool fails at sync")) => setup.spool = SpoolState::FailsAtCommit,
            Some((">", rest)) if rest.starts_with("limits ") => {
                rest.split(' ').skip(1).for_each(|word| set_limit(&mut setup.limits, word));
            }
            _ => {}
        }
    }
    setup
}

fn set_limit(limits: &mut Limits, word: &str) {
    let (name, value) = word.split_once('=').expect("name=value");
    let value: u32 = value.parse().expect("a number");
    match name {
        "recipients_max" => limits.recipients_max = value as usize,
        "session_errors_max" => limits.session_errors_max = value,
        "session_commands_max" => limits.session_commands_max = value,
        "session_messages_max" => limits.session_messages_max = value,
        "sessions_max" => limits.sessions_max = value as usize,
        "sessions_per_network_max" => limits.sessions_per_network_max = value as usize,
        "message_octets_max" => limits.message_octets_max = u64::from(value),
        "discard_octets_max" => limits.discard_octets_max = u64::from(value),
        "command_timeout_ms" => limits.command_timeout_ms = u64::from(value),
        "data_timeout_ms" => limits.data_timeout_ms = u64::from(value),
        "data_idle_timeout_ms" => limits.data_idle_timeout_ms = u64::from(value),
        "greet_pause_ms" => limits.greet_pause_ms = u64::from(value),
        "hops_max" => limits.hops_max = value as usize,
        "own_hops_max" => limits.own_hops_max = value as usize,
        _ => panic!("no such limit here: {name}"),
    }
}

struct Player {
    client: Client,
    server: Server,
    /// Messages that were named by `M:`.
    seen: usize,
    /// Lines of the last one that were not named by `T:`.
    text: Vec<Vec<u8>>,
}

impl Player {
    async fn step(&mut self, line: &str) -> Result<(), String> {
        let (head, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (verb, times) = match head.trim_end_matches(':').split_once('*') {
            Some((verb, times)) => (verb, times.parse().map_err(|_| "how often?")?),
            None => (head.trim_end_matches(':'), 1),
        };
        match verb {
            "C" => self.client.send(&[&octets(rest)[..], b"\r\n"].concat().repeat(times)).await,
            "c" => self.client.send(&octets(rest).repeat(times)).await,
            "S" => {
                for _ in 0..times {
                    self.expect(rest).await?;
                }
            }
            "M" => self.message(rest)?,
            "T" => self.text_line(&octets(rest))?,
            ">" => self.direction(rest).await?,
            _ => return Err("what is this?".to_owned()),
        }
        Ok(())
    }

    async fn direction(&mut self, words: &str) -> Result<(), String> {
        if words == "connect" {
            // The old one goes first, so that it does not count any longer.
            self.client = Client::connect(self.server.address).await;
        } else if words == "stop" {
            self.server.stop.cancel();
        } else if words == "hello" {
            self.expect("220 mx1.relay.test ESMTP *").await?;
            self.client.send(b"EHLO client.test\r\n").await;
            self.client.reply().await.filter(|r| r[0] == "250-mx1.relay.test").ok_or("EHLO")?;
        } else if words == "envelope" {
            self.client.send(b"MAIL FROM:<a@sender.test>\r\n").await;
            self.expect("250 2.1.0 Ok").await?;
            self.client.send(b"RCPT TO:<user@customer.test>\r\n").await;
            self.expect("250 2.1.5 Ok").await?;
        } else if let Some(name) = words.strip_prefix("starttls ") {
            self.client.start_tls(name).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    async fn expect(&mut self, pattern: &str) -> Result<(), String> {
        let got = self.client.line().await.unwrap_or_else(|| "<closed>".to_owned());
        if matches(pattern, &got) { Ok(()) } else { Err(format!("got: {got}")) }
    }

    fn message(&mut self, words: &str) -> Result<(), String> {
        let accepted = self.server.accepted.lock().unwrap();
        let message = accepted.get(self.seen).ok_or("no message was accepted")?;
        self.seen += 1;
        let got = describe(message);
        self.text = text_below_trace(&message.text)?;
        let mut rest = got.as_str();
        for word in words.split(' ') {
            let at = rest.find(word).ok_or_else(|| format!("got: {got}"))?;
            rest = &rest[at + word.len()..];
        }
        Ok(())
    }

    fn text_line(&mut self, expected: &[u8]) -> Result<(), String> {
        if self.text.is_empty() {
            return Err("the text has ended".to_owned());
        }
        let got = self.text.remove(0);
        if got == expected { Ok(()) } else { Err(format!("got: {}", got.escape_ascii())) }
    }

    fn nothing_is_left(&self) -> Result<(), String> {
        let accepted = self.server.accepted.lock().unwrap();
        match accepted.get(self.seen) {
            None => Ok(()),
            Some(message) => Err(format!("a message too many: {}", describe(message))),
        }
    }
}

/// An envelope in one line.
fn describe(message: &Accepted) -> String {
    let envelope = &message.envelope;
    let from = envelope.mail_from.as_ref().map(ToString::to_string).unwrap_or_default();
    let to: Vec<String> = envelope
        .recipients
        .iter()
        .map(|r| {
            let notify = r.notify.map(|n| format!(" notify={}{}{}", n.success, n.failure, n.delay));
            let orcpt = r.orcpt.as_ref().map(|o| format!(" orcpt={o}"));
            format!("<{}>{}{}", r.address, notify.unwrap_or_default(), orcpt.unwrap_or_default())
        })
        .collect();
    format!(
        "<{from}> -> {} body={:?} utf8={} ret={:?} envid={} mx={} helo={} ip={}",
        to.join(" "),
        envelope.body,
        envelope.smtputf8,
        envelope.ret,
        envelope.envid.as_deref().unwrap_or_default(),
        envelope.origin.mx_name.as_deref().unwrap_or_default(),
        envelope.origin.helo,
        envelope.origin.ip.map(|ip| ip.to_string()).unwrap_or_default(),
    )
}

/// The lines of a message below the Received field that we wrote.
fn text_below_trace(text: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let text = String::from_utf8_lossy(text).into_owned();
    if !text.starts_with("Received: from ") {
        return Err(format!("no Received field: {text}"));
    }
    let mut lines = text.split("\r\n").skip(1).skip_while(|line| line.starts_with('\t'));
    let below: Vec<Vec<u8>> = lines.by_ref().map(|line| line.as_bytes().to_vec()).collect();
    Ok(below)
}

/// `*` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, rest)) => text.strip_prefix(head).is_some_and(|text| {
            (0..=text.len()).any(|skip| text.get(skip..).is_some_and(|t| matches(rest, t)))
        }),
    }
}

fn octets(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match bytes.next().expect("an escape") {
            b'r' => out.push(b'\r'),
            b'n' => out.push(b'\n'),
            b't' => out.push(b'\t'),
            b'0' => out.push(0),
            b'x' => {
                let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                let digits = str::from_utf8(&digits).unwrap();
                out.push(u8::from_str_radix(digits, 16).unwrap());
            }
            other => out.push(other),
        }
    }
    out
}
