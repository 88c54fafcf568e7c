//! Real parts around a real node: senders, customers' servers, name servers, disks that fail.
//!
//! Each module wraps one of them so that a test reads as a story. Whatever is started is stopped
//! when its value is dropped, also when the test fails.
#![allow(dead_code, reason = "each test file uses its own part of the harness")]
#![allow(unreachable_pub, reason = "every test file is a crate of its own, with no outside")]

pub mod browser;
pub mod ca;
pub mod dane;
pub mod disk;
pub mod dkim;
pub mod dns;
pub mod fleet;
pub mod hosts;
pub mod load;
pub mod maildir;
pub mod message;
pub mod network;
pub mod node;
pub mod opensmtpd;
pub mod postfix;
pub mod process;
pub mod prometheus;
pub mod senders;
pub mod sink;
pub mod smtp;
pub mod way;
pub mod webhook;
pub mod writer;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// How long a test waits for something that must happen soon. Generous: two cores run it all.
pub const SOON: Duration = Duration::from_secs(30);

/// A loopback address that nobody listens on.
///
/// Taken from below the ephemeral ports, so that no outgoing connection gets it between this call
/// and the server's bind, and spread by process, so that test programs do not meet.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let spread = u16::try_from(std::process::id() % 180).unwrap() * 100;
    loop {
        let port = 12_000 + spread + NEXT.fetch_add(1, Ordering::Relaxed) % 2000;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// For dates that are to come, and soon enough to be planned for.
pub fn next_year() -> i64 {
    let now = jiff::Timestamp::now().to_string();
    now[..4].parse::<i64>().unwrap() + 1
}

/// A fresh folder that is removed with the value.
pub fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("mxfleet-test-").tempdir().unwrap()
}

/// Where `tests/run` unpacked what can not be installed beside the rest.
pub fn unpacked(package: &str) -> PathBuf {
    let cache = std::env::var_os("MXFLEET_TEST_CACHE").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/mxfleet-test"),
        PathBuf::from,
    );
    let folder = cache.join(package);
    assert!(folder.is_dir(), "{} is missing: run `tests/run tools`", folder.display());
    folder
}

/// Ask again and again until the answer is yes; fails loudly with `what` after `patience`.
pub fn eventually(what: &str, patience: Duration, mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < patience, "not within {patience:?}: {what}");
        // Polling is the only way to watch another process.
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Wait until a server takes connections.
pub fn await_listening(address: SocketAddr) {
    eventually(&format!("a server on {address}"), SOON, || {
        std::net::TcpStream::connect(address).is_ok()
    });
}

/// A small seeded generator (xorshift64*): the same seed tells the same story.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Every seed gives another sequence.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.roll() % bound as u64).unwrap()
    }
}
