//! The world's mail servers: each looks up a customer's exchangers and their addresses, and goes on
//! to the next one until its message is taken.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::ca::Ca;
use super::dns::NameServer;
use super::load::Acked;
use super::message;
use super::smtp::{Reply, Smtp, stuffed};

/// Senders at the same time.
const SENDERS: usize = 3;
/// Between two messages of one sender.
const PAUSE: Duration = Duration::from_millis(40);
/// Between two looks at addresses: their time to live.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// One message in so many goes over TLS.
const TLS_EVERY: u64 = 4;

/// What senders know.
pub struct World {
    exchangers: Mutex<BTreeMap<String, Vec<String>>>,
    addresses: Mutex<BTreeMap<String, Ipv4Addr>>,
    names: Vec<String>,
    client: Arc<rustls::ClientConfig>,
}

impl World {
    /// Senders trust `ca`; these are all names there may be.
    pub fn new(ca: &Ca, names: &[&str]) -> Self {
        Self {
            exchangers: Mutex::default(),
            addresses: Mutex::default(),
            names: names.iter().map(|&name| name.to_owned()).collect(),
            client: Arc::new(ca.client()),
        }
    }

    /// A domain has these exchangers, in order of preference.
    pub fn set_exchangers(&self, domain: &str, names: &[String]) {
        self.exchangers.lock().unwrap().insert(domain.to_owned(), names.to_vec());
    }

    fn domain(&self, number: u64) -> Option<(String, Vec<String>)> {
        let exchangers = self.exchangers.lock().unwrap();
        let count = u64::try_from(exchangers.len()).unwrap();
        let place = usize::try_from(number % count.max(1)).unwrap();
        exchangers.iter().nth(place).map(|(domain, names)| (domain.clone(), names.clone()))
    }

    fn address(&self, name: &str) -> Option<Ipv4Addr> {
        self.addresses.lock().unwrap().get(name).copied()
    }

    /// As a resolver does whose cache has run out.
    fn look(&self, server: &NameServer) {
        for name in &self.names {
            let answer = server.ask(name, "A").parse().ok();
            let mut addresses = self.addresses.lock().unwrap();
            match answer {
                Some(address) => addresses.insert(name.clone(), address),
                None => addresses.remove(name),
            };
        }
    }
}

#[derive(Default)]
struct Book {
    acked: Mutex<Vec<Acked>>,
    by_name: Mutex<BTreeMap<String, u64>>,
    refused: Mutex<Vec<String>>,
    next: AtomicU64,
    stop: AtomicBool,
}

/// Senders at work; they stop when dropped.
pub struct Senders {
    book: Arc<Book>,
    threads: Vec<JoinHandle<()>>,
}

impl Senders {
    /// Start sending numbered messages to all domains in turn.
    pub fn start(world: &Arc<World>, server: &Arc<NameServer>, octets: fn(u64) -> usize) -> Self {
        let book = Arc::<Book>::default();
        world.look(server);
        let mut threads = Vec::new();
        let (its, at, of) = (Arc::clone(&book), Arc::clone(server), Arc::clone(world));
        threads.push(std::thread::spawn(move || {
            while !its.stop.load(Ordering::SeqCst) {
                std::thread::sleep(LOOK_EVERY);
                of.look(&at);
            }
        }));
        for _ in 0..SENDERS {
            let (book, world) = (Arc::clone(&book), Arc::clone(world));
            threads.push(std::thread::spawn(move || {
                while !book.stop.load(Ordering::SeqCst) {
                    let number = book.next.fetch_add(1, Ordering::SeqCst);
                    send(&world, &book, number, octets(number));
                    std::thread::sleep(PAUSE);
                }
            }));
        }
        Self { book, threads }
    }

    /// How many messages were taken so far.
    pub fn count(&self) -> usize {
        self.book.acked.lock().unwrap().len()
    }

    /// How many were taken by each name so far.
    pub fn by_name(&self) -> BTreeMap<String, u64> {
        self.book.by_name.lock().unwrap().clone()
    }

    /// Stop; what was taken, and what was refused for good.
    pub fn stop(mut self) -> (Vec<Acked>, Vec<String>) {
        self.book.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        let acked = std::mem::take(&mut *self.book.acked.lock().unwrap());
        (acked, std::mem::take(&mut *self.book.refused.lock().unwrap()))
    }
}

impl Drop for Senders {
    fn drop(&mut self) {
        self.book.stop.store(true, Ordering::SeqCst);
    }
}

/// Try until it is taken, or refused for good.
fn send(world: &World, book: &Book, number: u64, octets: usize) {
    while let Some((domain, names)) = world.domain(number) {
        for name in names {
            let Some(address) = world.address(&name) else { continue };
            let place = SocketAddr::from((address, 25));
            match transaction(world, place, &name, &domain, number, octets) {
                Ok(reply) if reply.code == 250 => {
                    book.acked.lock().unwrap().push(Acked { number, at: Instant::now() });
                    *book.by_name.lock().unwrap().entry(name).or_default() += 1;
                    return;
                }
                Ok(reply) if reply.code >= 500 => {
                    book.refused.lock().unwrap().push(format!("{name}: {}", reply.line()));
                    return;
                }
                // A certificate that is not this name's.
                Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                    book.refused.lock().unwrap().push(format!("{name}: {error}"));
                    return;
                }
                // Another exchanger, or later.
                Ok(_) | Err(_) => {}
            }
        }
        if book.stop.load(Ordering::SeqCst) {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}

/// The last reply, or the first that is not a yes. A host that takes no mail at all (421, or 521 of
/// RFC 7504) is as one that is not there: there are others.
fn transaction(
    world: &World,
    place: SocketAddr,
    name: &str,
    domain: &str,
    number: u64,
    octets: usize,
) -> std::io::Result<Reply> {
    let mut client = Smtp::open(place)?;
    if client.try_reply()?.code != 220 {
        return Err(std::io::ErrorKind::ConnectionRefused.into());
    }
    let mut lines = vec!["EHLO world.test".to_owned()];
    if number.is_multiple_of(TLS_EVERY) {
        for (line, yes) in [("EHLO world.test\r\n", 250), ("STARTTLS\r\n", 220)] {
            client.send(line.as_bytes());
            if client.try_reply()?.code != yes {
                return Err(std::io::ErrorKind::ConnectionAborted.into());
            }
        }
        client = client.secured(&world.client, name);
    }
    lines.push(format!("MAIL FROM:<{}> BODY=8BITMIME", message::sender(number)));
    lines.push(format!("RCPT TO:<user@{domain}>"));
    for line in lines {
        client.send(format!("{line}\r\n").as_bytes());
        let reply = client.try_reply()?;
        if reply.code != 250 {
            return Ok(reply);
        }
    }
    client.send(b"DATA\r\n");
    let go = client.try_reply()?;
    if go.code != 354 {
        return Ok(go);
    }
    let mut wire = stuffed(&message::text(number, octets));
    wire.extend_from_slice(b".\r\n");
    client.send(&wire);
    let reply = client.try_reply()?;
    client.send(b"QUIT\r\n");
    Ok(reply)
}
