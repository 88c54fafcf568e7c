//! A load generator for the benchmark in `ops/bench`: what `smtp-source` can not do.
//!
//! ```text
//! mxfleet-load refuse   server=HOST:PORT to=ADDRESS connections=50 seconds=5 [kept=yes]
//! mxfleet-load latency  server=HOST:PORT to=ADDRESS rate=100 seconds=20 octets=4096
//! mxfleet-load fill     server=HOST:PORT to=ADDRESS connections=9 count=100000 octets=600 [rate=9]
//! mxfleet-load mix      server=HOST:PORT to=ADDRESS unknown=ADDRESS count=100000 spread=1000
//! mxfleet-load dictionary server=HOST:PORT to=ADDRESS count=100000 first=0 each=100 rate=1000
//! mxfleet-load sink     listen=HOST:PORT refuse=PREFIX [messages=100]
//! ```
//!
//! `to` may have `{}` where the number of the message goes, modulo `spread`. Commands wait for
//! their replies, as `smtp-source` does it, except in `fill`, which pipelines. The result is one
//! line of JSON. It runs on one thread: more would take from the server under test.
#![expect(clippy::print_stdout, reason = "the result is for a script to read")]

mod attack;
mod sink;

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, LocalSet};

/// Words of the command line: `name=value`.
struct Options(BTreeMap<String, String>);

impl Options {
    fn text(&self, name: &str) -> Result<&str> {
        self.0.get(name).map(String::as_str).with_context(|| format!("{name}=... is missing"))
    }

    fn number(&self, name: &str, default: u64) -> Result<u64> {
        self.0.get(name).map_or(Ok(default), |text| text.parse().with_context(|| name.to_owned()))
    }
}

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let Some(mode) = words.next() else {
        println!("usage: mxfleet-load MODE name=value... (see ops/bench/run)");
        return Ok(());
    };
    let options = words
        .map(|word| match word.split_once('=') {
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => bail!("{word} is not name=value"),
        })
        .collect::<Result<_>>()?;
    let options = Rc::new(Options(options));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(LocalSet::new().run_until(async {
        match mode.as_str() {
            "refuse" => refuse(options).await,
            "latency" => latency(options).await,
            "fill" => fill(options).await,
            "mix" => attack::mix(options).await,
            "dictionary" => attack::dictionary(options).await,
            "sink" => sink::sink(options).await,
            _ => bail!("no mode {mode}"),
        }
    }))
}

/// One client connection.
struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Octets of the buffer that are read and not used.
    filled: usize,
}

impl Client {
    async fn connect(server: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let mut client = Self { stream, buffer: vec![0; 4096], filled: 0 };
        client.expect(b'2').await?;
        client.command(b"EHLO load.test\r\n", b'2').await?;
        Ok(client)
    }

    async fn command(&mut self, line: &[u8], class: u8) -> io::Result<()> {
        self.stream.write_all(line).await?;
        self.expect(class).await
    }

    /// Send one message, pipelined; all recipients must be taken.
    async fn message(&mut self, from: &str, to: &[String], text: &[u8]) -> io::Result<()> {
        let mut head = format!("MAIL FROM:<{from}>\r\n");
        to.iter().for_each(|address| head.push_str(&format!("RCPT TO:<{address}>\r\n")));
        head.push_str("DATA\r\n");
        self.command(head.as_bytes(), b'2').await?;
        for _ in to {
            self.expect(b'2').await?;
        }
        self.expect(b'3').await?;
        self.command(text, b'2').await
    }

    /// Read one reply, which must be of this class.
    async fn expect(&mut self, class: u8) -> io::Result<()> {
        loop {
            if let Some(end) = reply_end(&self.buffer[..self.filled]) {
                let got = self.buffer[0];
                if got != class {
                    let text = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                    return Err(io::Error::other(text));
                }
                self.buffer.copy_within(end..self.filled, 0);
                self.filled -= end;
                return Ok(());
            }
            let count = self.stream.read(&mut self.buffer[self.filled..]).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.filled += count;
        }
    }
}

/// The length of the reply at the start, when it is all there.
fn reply_end(octets: &[u8]) -> Option<usize> {
    let mut start = 0;
    loop {
        let end = start + memchr::memchr(b'\n', &octets[start..])? + 1;
        if octets.get(start + 3) != Some(&b'-') {
            return Some(end);
        }
        start = end;
    }
}

async fn refuse(options: Rc<Options>) -> Result<()> {
    let kept = options.number("kept", 0)? != 0;
    let seconds = options.number("seconds", 5)?;
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    let mut clients = JoinSet::new();
    for _ in 0..options.number("connections", 50)? {
        let options = Rc::clone(&options);
        clients.spawn_local(async move {
            let server = options.text("server")?;
            let to = options.text("to")?;
            if kept {
                refusals_kept(server, to, end).await
            } else {
                refusals(server, to, end).await
            }
        });
    }
    let mut refused = 0;
    while let Some(done) = clients.join_next().await {
        refused += done??;
    }
    println!("{}", json!({ "count": refused, "seconds": start.elapsed().as_secs_f64() }));
    Ok(())
}

async fn refusals(server: &str, to: &str, end: Instant) -> Result<u64> {
    let rcpt = format!("RCPT TO:<{to}>\r\n");
    let mut refused = 0;
    while Instant::now() < end {
        let mut client = Client::connect(server).await?;
        client.command(b"MAIL FROM:<s@load.test>\r\n", b'2').await?;
        client.command(rcpt.as_bytes(), b'5').await?;
        client.command(b"QUIT\r\n", b'2').await?;
        refused += 1;
    }
    Ok(refused)
}

async fn refusals_kept(server: &str, to: &str, end: Instant) -> Result<u64> {
    let rcpt = format!("RCPT TO:<{to}>\r\n");
    let mut client = Client::connect(server).await?;
    let mut refused = 0;
    while Instant::now() < end {
        client.command(b"MAIL FROM:<s@load.test>\r\n", b'2').await?;
        client.command(rcpt.as_bytes(), b'5').await?;
        client.command(b"RSET\r\n", b'2').await?;
        refused += 1;
    }
    Ok(refused)
}

/// Message `number` of this many octets, its end included.
fn wire(number: u64, octets: usize) -> Vec<u8> {
    let mut wire =
        format!("Subject: {number}\r\nMessage-ID: <{number}@load.test>\r\n\r\n").into_bytes();
    while wire.len() + 72 < octets {
        wire.extend_from_slice(&[b'x'; 70]);
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

async fn latency(options: Rc<Options>) -> Result<()> {
    let rate = options.number("rate", 100)?;
    let count = rate * options.number("seconds", 20)?;
    let octets = usize::try_from(options.number("octets", 4096)?)?;
    let rcpt = format!("RCPT TO:<{}>\r\n", options.text("to")?);
    let server = options.text("server")?;
    let pause = Duration::from_secs_f64(1.0 / rate as f64);
    let mut client = Client::connect(server).await?;
    let mut tick = tokio::time::interval(pause);
    let mut waits = Vec::new();
    for number in 0..count {
        tick.tick().await;
        client.command(b"MAIL FROM:<s@load.test>\r\n", b'2').await?;
        client.command(rcpt.as_bytes(), b'2').await?;
        client.command(b"DATA\r\n", b'3').await?;
        let text = wire(number, octets);
        let (body, dot) = text.split_at(text.len() - 3);
        client.stream.write_all(body).await?;
        // The body has to be read by the time of the dot: its transfer is not what is measured.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let start = Instant::now();
        client.command(dot, b'2').await?;
        waits.push(start.elapsed());
    }
    waits.sort_unstable();
    let at = |share: usize| waits[(waits.len() - 1) * share / 1000].as_secs_f64() * 1000.0;
    println!(
        "{}",
        json!({ "count": count, "p50_ms": at(500), "p99_ms": at(990), "max_ms": at(1000) })
    );
    Ok(())
}

async fn fill(options: Rc<Options>) -> Result<()> {
    let count = options.number("count", 10_000)?;
    let connections = options.number("connections", 50)?;
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for first in 0..connections {
        let options = Rc::clone(&options);
        clients.spawn_local(async move {
            let mut client = Client::connect(options.text("server")?).await?;
            let octets = usize::try_from(options.number("octets", 600)?)?;
            let (to, spread) = (options.text("to")?, options.number("spread", u64::MAX)?);
            let step = usize::try_from(connections)?;
            let rate = options.number("rate", 0)?;
            let mut tick = (rate > 0).then(|| {
                tokio::time::interval(Duration::from_secs_f64(connections as f64 / rate as f64))
            });
            for number in (first..count).step_by(step) {
                if let Some(tick) = &mut tick {
                    tick.tick().await;
                }
                let to = to.replace("{}", &(number % spread).to_string());
                let from = format!("n{number}@load.test");
                client.message(&from, &[to], &wire(number, octets)).await?;
            }
            client.command(b"QUIT\r\n", b'2').await?;
            anyhow::Ok(())
        });
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    println!("{}", json!({ "count": count, "seconds": start.elapsed().as_secs_f64() }));
    Ok(())
}
