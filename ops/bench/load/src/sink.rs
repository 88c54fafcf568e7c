//! A customer's server that refuses some recipients as unknown, and keeps nothing.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Instant;

use anyhow::Result;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::Options;

const HELLO: &[u8] = b"250-sink.test\r\n250-PIPELINING\r\n250-SIZE 104857600\r\n\
    250-8BITMIME\r\n250-SMTPUTF8\r\n250 ENHANCEDSTATUSCODES\r\n";

/// What all connections share.
struct Counts {
    taken: Cell<u64>,
    refused: Cell<u64>,
    more: Notify,
}

/// Serve until so many messages were taken; 0 is for ever.
pub(crate) async fn sink(options: Rc<Options>) -> Result<()> {
    let listener = TcpListener::bind(options.text("listen")?).await?;
    let messages = options.number("messages", 0)?;
    let refuse: Rc<str> = format!("<{}", options.text("refuse")?).into();
    let counts =
        Rc::new(Counts { taken: Cell::new(0), refused: Cell::new(0), more: Notify::new() });
    let start = Instant::now();
    let serving = Rc::clone(&counts);
    let serve = async move {
        loop {
            let (stream, _) = listener.accept().await?;
            let (counts, refuse) = (Rc::clone(&serving), Rc::clone(&refuse));
            tokio::task::spawn_local(async move {
                // A client that goes away ends its own connection only.
                let _ = converse(stream, &refuse, &counts).await;
            });
        }
    };
    let done = async {
        while messages == 0 || counts.taken.get() < messages {
            counts.more.notified().await;
        }
    };
    tokio::select! {
        failed = serve => return failed,
        () = done => {}
    }
    let (taken, refused) = (counts.taken.get(), counts.refused.get());
    let seconds = start.elapsed().as_secs_f64();
    println!("{}", json!({ "taken": taken, "refused": refused, "seconds": seconds }));
    Ok(())
}

async fn converse(mut stream: TcpStream, refuse: &str, counts: &Counts) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(b"220 sink.test ESMTP\r\n").await?;
    let (mut input, mut out) = (Vec::with_capacity(16 * 1024), Vec::new());
    let (mut accepted, mut in_text) = (0_u32, false);
    loop {
        let end: &[u8] = if in_text { b"\r\n.\r\n" } else { b"\r\n" };
        let Some(at) = memchr::memmem::find(&input, end) else {
            stream.write_all(&out).await?;
            out.clear();
            if stream.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let line: Vec<u8> = input.drain(..at + end.len()).collect();
        if in_text {
            in_text = false;
            counts.taken.set(counts.taken.get() + 1);
            counts.more.notify_one();
            out.extend_from_slice(b"250 2.0.0 taken\r\n");
            continue;
        }
        match line.get(..4).map(<[u8]>::to_ascii_uppercase).as_deref() {
            Some(b"EHLO" | b"HELO") => out.extend_from_slice(HELLO),
            Some(b"RCPT") if String::from_utf8_lossy(&line).contains(refuse) => {
                counts.refused.set(counts.refused.get() + 1);
                out.extend_from_slice(b"550 5.1.1 User unknown\r\n");
            }
            Some(b"RCPT") => {
                accepted += 1;
                out.extend_from_slice(b"250 2.1.5 ok\r\n");
            }
            Some(b"DATA") if accepted == 0 => out.extend_from_slice(b"554 5.5.1 nobody\r\n"),
            Some(b"DATA") => {
                in_text = true;
                out.extend_from_slice(b"354 go\r\n");
            }
            Some(b"QUIT") => {
                out.extend_from_slice(b"221 2.0.0 bye\r\n");
                return stream.write_all(&out).await;
            }
            _ => {
                accepted = 0;
                out.extend_from_slice(b"250 2.0.0 ok\r\n");
            }
        }
    }
}
