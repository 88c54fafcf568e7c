//! Clients that send numbered messages without pause and write down what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::message;
use super::sink::Sink;
use super::smtp::{Reply, Smtp, stuffed};

/// A message that the relay took responsibility for.
#[derive(Debug, Clone, Copy)]
pub struct Acked {
    /// Its number.
    pub number: u64,
    /// When the client had read the 250.
    pub at: Instant,
}

/// What to send.
#[derive(Debug, Clone)]
pub struct Plan {
    /// To whom.
    pub to: String,
    /// Clients at the same time.
    pub connections: usize,
    /// Octets of a message's body, by its number.
    pub octets: fn(u64) -> usize,
    /// Messages on one connection.
    pub per_connection: usize,
    /// The first number.
    pub first: u64,
    /// Stop at this number, if not told to stop before.
    pub end: u64,
}

impl Plan {
    /// Small messages on a few connections.
    pub fn to(recipient: &str) -> Self {
        Self {
            to: recipient.to_owned(),
            connections: 8,
            octets: |_| 600,
            per_connection: 20,
            first: 0,
            end: u64::MAX,
        }
    }
}

#[derive(Debug, Default)]
struct Book {
    acked: Mutex<Vec<Acked>>,
    refused: Mutex<Vec<Reply>>,
    next: AtomicU64,
    stop: AtomicBool,
}

/// Clients at work; `stop` ends them.
#[derive(Debug)]
pub struct Load {
    book: Arc<Book>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Start sending. A server that is away is tried again until it is back.
    pub fn start(server: SocketAddr, plan: &Plan) -> Self {
        let book = Arc::new(Book { next: AtomicU64::new(plan.first), ..Book::default() });
        let clients = (0..plan.connections)
            .map(|_| {
                let (book, plan) = (Arc::clone(&book), plan.clone());
                std::thread::spawn(move || send_until_stopped(server, &plan, &book))
            })
            .collect();
        Self { book, clients }
    }

    /// What was acknowledged so far.
    pub fn acked(&self) -> Vec<Acked> {
        self.book.acked.lock().unwrap().clone()
    }

    /// How many were acknowledged so far.
    pub fn count(&self) -> usize {
        self.book.acked.lock().unwrap().len()
    }

    /// Replies other than 250 to a transaction, so far.
    pub fn refused(&self) -> Vec<Reply> {
        self.book.refused.lock().unwrap().clone()
    }

    /// Wait until all numbers are sent; what was acknowledged.
    pub fn finish(self) -> Vec<Acked> {
        for client in self.clients {
            client.join().unwrap();
        }
        std::mem::take(&mut self.book.acked.lock().unwrap())
    }

    /// Stop all clients; what was acknowledged in all.
    pub fn stop(self) -> Vec<Acked> {
        self.book.stop.store(true, Ordering::SeqCst);
        self.finish()
    }
}

fn send_until_stopped(server: SocketAddr, plan: &Plan, book: &Book) {
    while !book.stop.load(Ordering::SeqCst) {
        if one_connection(server, plan, book).is_err() {
            // The server is away or just died: give it a moment instead of a storm.
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn one_connection(server: SocketAddr, plan: &Plan, book: &Book) -> std::io::Result<()> {
    let mut client = Smtp::open(server)?;
    client.try_reply()?;
    client.send(b"EHLO load.test\r\n");
    client.try_reply()?;
    for _ in 0..plan.per_connection {
        if book.stop.load(Ordering::SeqCst) {
            break;
        }
        let number = book.next.fetch_add(1, Ordering::SeqCst);
        if number >= plan.end {
            book.stop.store(true, Ordering::SeqCst);
            break;
        }
        let reply = transaction(&mut client, number, plan)?;
        if reply.code == 250 {
            book.acked.lock().unwrap().push(Acked { number, at: Instant::now() });
        } else {
            book.refused.lock().unwrap().push(reply.clone());
            if reply.code == 421 {
                break;
            }
            client.send(b"RSET\r\n");
            client.try_reply()?;
        }
    }
    client.send(b"QUIT\r\n");
    client.try_reply().map(drop)
}

/// A pipelined transaction (RFC 2920); the first reply that is not a yes, or the last one.
fn transaction(client: &mut Smtp, number: u64, plan: &Plan) -> std::io::Result<Reply> {
    let (from, to) = (message::sender(number), &plan.to);
    let commands = format!("MAIL FROM:<{from}> BODY=8BITMIME\r\nRCPT TO:<{to}>\r\nDATA\r\n");
    client.send(commands.as_bytes());
    let replies = [client.try_reply()?, client.try_reply()?, client.try_reply()?];
    if replies[2].code != 354 {
        let refusal = replies.into_iter().find(|reply| reply.code != 250);
        return refusal.ok_or_else(|| std::io::Error::other("no reply to DATA"));
    }
    let mut wire = stuffed(&message::text(number, (plan.octets)(number)));
    wire.extend_from_slice(b".\r\n");
    client.send(&wire);
    client.try_reply()
}

/// From when a node could no longer write to when it was no more.
pub type Stop = RangeInclusive<Instant>;

/// What became of numbered messages.
#[derive(Debug, Default)]
pub struct Tally {
    /// Acknowledged, and not at the sink.
    pub lost: Vec<u64>,
    /// At the sink more than once: when each copy was taken.
    pub doubled: BTreeMap<u64, Vec<Instant>>,
}

impl Tally {
    /// Nothing is lost, and a message is there twice only when its first copy was taken so
    /// shortly before one of the `stops` began, or while it went on, that the node could not have
    /// written that down.
    pub fn assert_only_the_final_dot_doubles(&self, stops: &[Stop], window: Duration) {
        assert!(self.lost.is_empty(), "lost {} messages: {:?}", self.lost.len(), self.lost);
        let first = stops.first().map(|stop| *stop.start());
        let after = |at: Instant| first.map(|first| at.saturating_duration_since(first));
        for (number, copies) in &self.doubled {
            for copy in &copies[..copies.len() - 1] {
                let next = stops.iter().find(|stop| stop.end() >= copy);
                let before = next.map(|stop| stop.start().saturating_duration_since(*copy));
                assert!(
                    before.is_some_and(|before| before <= window),
                    "message {number} came {:?} after the first stop, once {before:?} before one",
                    copies.iter().map(|at| after(*at)).collect::<Vec<_>>(),
                );
            }
        }
    }
}

/// Compare what was acknowledged with what arrived. Every arrived text must be whole.
pub fn tally(acked: &[Acked], sink: &Sink, octets: fn(u64) -> usize) -> Tally {
    let mut arrived: BTreeMap<u64, Vec<Instant>> = BTreeMap::new();
    sink.each(|received| {
        let number = received.number().unwrap();
        let expected = message::text(number, octets(number));
        message::assert_same(&format!("message {number}"), received.original(), &expected);
        arrived.entry(number).or_default().push(received.at);
    });
    let lost = acked.iter().map(|acked| acked.number).filter(|n| !arrived.contains_key(n));
    let lost = lost.collect::<BTreeSet<u64>>().into_iter().collect();
    arrived.retain(|_, copies| copies.len() > 1);
    Tally { lost, doubled: arrived }
}
