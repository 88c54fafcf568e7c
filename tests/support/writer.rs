//! An operator who never stops: changes through any node that answers, written down when they are
//! acknowledged.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Dice;
use super::node::{Node, PROGRAM};
use super::process::{attempt, said};

/// What the writer knows.
#[derive(Debug, Default)]
struct Book {
    /// Each acknowledged write.
    acked: Mutex<Vec<Acked>>,
    /// Customers that must be there.
    present: Mutex<BTreeSet<String>>,
    stop: AtomicBool,
}

#[derive(Debug)]
struct Acked {
    customer: String,
    at: Instant,
}

/// The writer; `stop` ends it.
#[derive(Debug)]
pub struct Writer {
    book: Arc<Book>,
    work: JoinHandle<()>,
}

impl Writer {
    /// Add customers named `prefix` and a number, and remove every other one again. A request
    /// whose outcome is not known is retried under its id, through another node.
    pub fn start(nodes: &[Node], prefix: &'static str) -> Self {
        let sockets: Vec<PathBuf> = nodes.iter().map(Node::socket).collect();
        let book = Arc::new(Book::default());
        let shared = Arc::clone(&book);
        let work = std::thread::spawn(move || write_until_stopped(&sockets, prefix, &shared));
        Self { book, work }
    }

    /// How many writes were acknowledged so far.
    pub fn count(&self) -> usize {
        self.book.acked.lock().unwrap().len()
    }

    /// How long after `moment` the next write was acknowledged, if one was.
    pub fn resumed_after(&self, moment: Instant) -> Option<Duration> {
        let acked = self.book.acked.lock().unwrap();
        let first = acked.iter().rev().take_while(|acked| acked.at >= moment).last()?;
        Some(first.at.duration_since(moment))
    }

    /// The customers of writes that were acknowledged between two moments.
    pub fn touched(&self, from: Instant, to: Instant) -> BTreeSet<String> {
        let acked = self.book.acked.lock().unwrap();
        let touched = acked.iter().filter(|acked| (from..=to).contains(&acked.at));
        touched.map(|acked| acked.customer.clone()).collect()
    }

    /// Stop; the customers that must be there, and no others of this prefix.
    pub fn stop(self) -> BTreeSet<String> {
        self.book.stop.store(true, Ordering::SeqCst);
        self.work.join().unwrap();
        std::mem::take(&mut self.book.present.lock().unwrap())
    }
}

/// The customers of this prefix that a node knows.
pub fn customers(node: &Node, prefix: &str) -> BTreeSet<String> {
    let rows = node.json(&["customer", "list"]);
    let ids = rows.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned());
    ids.filter(|id| id.starts_with(prefix)).collect()
}

fn write_until_stopped(sockets: &[PathBuf], prefix: &str, book: &Book) {
    // Ids of requests are never used again, not by the next writer either.
    let seed = prefix.bytes().fold(3, |seed: u64, octet| seed.wrapping_mul(257) + u64::from(octet));
    let mut dice = Dice::new(seed);
    for number in 0.. {
        if book.stop.load(Ordering::SeqCst) {
            return;
        }
        let id = format!("{prefix}{number}");
        let add = ["customer", "add", &id, "--contact", "ops@acme.test"];
        decided(sockets, &add, &mut dice, book);
        book.present.lock().unwrap().insert(id.clone());
        if number % 2 == 1 {
            // Were the old request to add it applied once more, it would be back.
            decided(sockets, &["customer", "remove", &id], &mut dice, book);
            book.present.lock().unwrap().remove(&id);
        }
    }
}

/// Ask until it is decided. A decision against it means that it was done twice.
fn decided(sockets: &[PathBuf], arguments: &[&str], dice: &mut Dice, book: &Book) {
    let begun = Instant::now();
    let request = format!("{:x}{:016x}", dice.roll(), dice.roll());
    loop {
        let socket = sockets[dice.below(sockets.len())].display().to_string();
        let mut words = vec!["--admin", &socket, "--request-id", &request];
        words.extend(arguments);
        let done = attempt(PROGRAM, &words);
        if done.status.success() {
            let (customer, at) = (arguments[2].to_owned(), Instant::now());
            book.acked.lock().unwrap().push(Acked { customer, at });
            return;
        }
        let said = said(&done);
        let undecided = ["no node answers", "could not be read", "nothing was changed", "unknown;"];
        assert!(
            undecided.iter().any(|words| said.contains(words)),
            "{arguments:?}: applied twice? {said}"
        );
        assert!(begun.elapsed() < Duration::from_secs(60), "{arguments:?}: {said}");
    }
}
