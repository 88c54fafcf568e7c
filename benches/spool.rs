//! What the spool costs: `cargo bench --bench spool [-- --dir DIR] [--entries N]`.
//!
//! First 1, 8, 50 and 64 writers commit messages of 4 KiB, each waiting for its own; then a
//! spool with
//! a million entries is opened. Figures are of this disk and this hour; compare with the device's
//! own limits in the same run (the lines that say so: one file, one writer).

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on should stop")]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mxfleet::config::Limits;
use mxfleet::smtp::envelope::Origin;
use mxfleet::smtp::{Address, BodyType, Envelope, Recipient};
use mxfleet::spool::{Mark, OsFs, Outcome, Recovered, Spool, SpoolConfig};
use mxfleet::telemetry::metrics::METRICS;

const MESSAGE_OCTETS: usize = 4096;
const BACKLOG_OCTETS: usize = 1024;
/// Between messages at low load.
const PAUSE: Duration = Duration::from_millis(10);
/// Set for the process that only opens the spool.
const CHILD: &str = "SPOOL_BENCH_CHILD";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let dir = option("--dir").map_or_else(|| PathBuf::from("target/bench-spool"), PathBuf::from);
    let entries = option("--entries").map_or(1_000_000, |entries| entries.parse().unwrap());
    if std::env::var_os(CHILD).is_some() {
        return restart(&dir);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    clean(&dir);
    device(&dir, "device, append + fdatasync", Duration::ZERO);
    for writers in [1, 8, 50, 64] {
        runtime.block_on(commits(&dir, writers));
        clean(&dir);
    }
    device(&dir, "device, 100 a second", PAUSE);
    runtime.block_on(paced(&dir));
    clean(&dir);
    runtime.block_on(backlog(&dir, entries));
    drop(runtime);
    // A process of its own, so that its memory is only what a restart needs.
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--dir", dir.to_str().unwrap()])
        .env(CHILD, "1")
        .status();
    assert!(child.unwrap().success());
    clean(&dir);
}

fn clean(dir: &Path) {
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir_all(dir).unwrap();
}

fn open(dir: &Path) -> (Spool, Recovered) {
    let limits = Arc::new(Limits::default());
    let config = SpoolConfig { dir: dir.join("spool"), node_id: 1, limits };
    Spool::open(config, Arc::new(OsFs)).unwrap()
}

fn envelope(number: u64) -> Envelope {
    Envelope {
        mail_from: Some(Address::parse("sender@elsewhere.test", false).unwrap()),
        recipients: vec![Recipient {
            address: Address::parse(&format!("user{number}@d{}.test", number % 1000), false)
                .unwrap(),
            notify: None,
            orcpt: None,
        }],
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        authentication: None,
        about: None,
        letter: None,
        origin: Origin {
            ip: Some("192.0.2.1".parse().unwrap()),
            helo: "client.elsewhere.test".into(),
            received_at_us: 1_780_000_000_000_000,
            mx_name: None,
        },
    }
}

/// What the device itself can do: write and sync, one after the other, into space that was written
/// before.
fn device(dir: &Path, what: &str, pause: Duration) {
    let file = File::create(dir.join("device")).unwrap();
    let octets = [7; MESSAGE_OCTETS];
    let rounds = if pause.is_zero() { 2000 } else { 300 };
    file.write_all_at(&vec![0; MESSAGE_OCTETS * rounds], 0).unwrap();
    file.sync_all().unwrap();
    let mut times = Vec::new();
    for number in 0..rounds {
        std::thread::sleep(pause);
        let start = Instant::now();
        file.write_all_at(&octets, (number * MESSAGE_OCTETS) as u64).unwrap();
        file.sync_data().unwrap();
        times.push(start.elapsed());
    }
    print(what, &mut times, 1, None);
}

/// Closed loop: each writer begins, pushes, commits and marks, and then the next.
async fn commits(dir: &Path, writers: u64) {
    let (spool, _) = open(dir);
    let rounds = if writers == 1 { 5000 } else { 60_000 / writers };
    let syncs = METRICS.spool_fsync_duration_seconds.get_sample_count();
    let start = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let spool = spool.clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                for _ in 0..rounds {
                    times.push(one(&spool, writer, MESSAGE_OCTETS, true).await);
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    let elapsed = start.elapsed();
    let syncs = METRICS.spool_fsync_duration_seconds.get_sample_count() - syncs;
    print(&format!("{writers} writers"), &mut times, writers, Some((elapsed, syncs)));
    spool.close().await.unwrap();
}

/// Low load: 100 messages a second.
async fn paced(dir: &Path) {
    let (spool, _) = open(dir);
    let mut times = Vec::new();
    let mut tick = tokio::time::interval(PAUSE);
    for _ in 0..500 {
        tick.tick().await;
        times.push(one(&spool, 1, MESSAGE_OCTETS, true).await);
    }
    print("100 messages a second", &mut times, 1, None);
    spool.close().await.unwrap();
}

/// One message; gives the time from its last octet to the answer.
async fn one(spool: &Spool, number: u64, octets: usize, deliver: bool) -> Duration {
    let mut draft = spool.begin(octets as u64).unwrap();
    let text = vec![b'x'; octets];
    draft.push(&text).await.unwrap();
    let envelope = envelope(number);
    let start = Instant::now();
    let queued = draft.commit(envelope).await.unwrap();
    let elapsed = start.elapsed();
    if deliver {
        let (recipient, reply) = (0, "250 2.0.0 Ok: queued as 12345678".to_owned());
        let (outcome, dsn) = (Outcome::Delivered, mxfleet::smtp::Enhanced(2, 0, 0));
        spool.record(queued.id, vec![Mark::Final { recipient, outcome, dsn, reply, at_us: 1 }]);
    }
    elapsed
}

fn print(what: &str, times: &mut [Duration], writers: u64, total: Option<(Duration, u64)>) {
    times.sort();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    let sum: Duration = times.iter().sum();
    let alone = sum / u32::try_from(writers).unwrap();
    let (elapsed, syncs) = total.unwrap_or((alone, 0));
    println!(
        "{what:28} {:>8.0}/s  p50 {:>7.3} ms  p99 {:>7.3} ms  {:.3} syncs a message",
        times.len() as f64 / elapsed.as_secs_f64(),
        at(50).as_secs_f64() * 1e3,
        at(99).as_secs_f64() * 1e3,
        syncs as f64 / times.len() as f64,
    );
}

async fn backlog(dir: &Path, entries: u64) {
    let (spool, _) = open(dir);
    let start = Instant::now();
    let tasks: Vec<_> = (0..64)
        .map(|writer| {
            let spool = spool.clone();
            tokio::spawn(async move {
                for number in 0..entries / 64 {
                    one(&spool, number * 64 + writer, BACKLOG_OCTETS, false).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    println!("backlog of {entries} entries written in {:.1} s", start.elapsed().as_secs_f64());
    // Let the last sidecars be written, as in a node that runs.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = resident_kib();
    println!("resident with the backlog in the index {} MiB", before / 1024);
    spool.close().await.unwrap();
}

fn restart(dir: &Path) {
    let start = Instant::now();
    let (spool, recovered) = open(dir);
    let opened = start.elapsed();
    println!("{:?}", recovered.report());
    let mut destinations = 0;
    let count = recovered.map(|entry| destinations += entry.unwrap().destinations.len()).count();
    println!(
        "restart with {count} entries ({destinations} destinations): open {:.2} s, handed out \
         after {:.2} s, resident {} MiB, {} octets an entry",
        opened.as_secs_f64(),
        start.elapsed().as_secs_f64(),
        resident_kib() / 1024,
        resident_kib() * 1024 / u64::try_from(count.max(1)).unwrap(),
    );
    drop(spool);
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
