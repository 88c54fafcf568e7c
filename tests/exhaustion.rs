//! Full disks, failing syncs, no more files: a temporary failure for the client, never a false
//! acknowledgement, and good again without a restart when the cause is gone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::time::{Duration, Instant};

use support::disk::Disk;
use support::load::{Acked, Load, Plan, tally};
use support::node::{Node, Setup};
use support::process::injected;
use support::sink::Sink;
use support::smtp::Smtp;
use support::{SOON, eventually};

const USER: &str = "user@acme.test";
const TEXT: &[u8] = b"Subject: hello\r\n\r\nhello\r\n";

fn relay(setup: &Setup) -> (Node, Sink) {
    let sink = Sink::start();
    let node = Node::with(setup);
    node.serve("acme.test", &sink.route());
    (node, sink)
}

fn small_spool(data_dir: Option<std::path::PathBuf>) -> Setup {
    let limits = [("disk_reserve_octets", "4194304"), ("segment_octets", "1048576")];
    let limits = limits.map(|(name, value)| (name, value.to_owned())).to_vec();
    Setup { data_dir, limits, ..Setup::default() }
}

/// A message is taken, on a fresh connection.
fn takes_mail(node: &Node) -> bool {
    let Ok(mut client) = Smtp::open(node.smtp()) else { return false };
    client.reply().code == 220
        && client.command("EHLO client.test").code == 250
        && client.deliver("s@client.test", &[USER], TEXT).code == 250
}

/// Whatever was acknowledged arrives, also over a kill and a restart.
fn assert_all_arrive(node: &mut Node, sink: &Sink, acked: &[Acked]) {
    node.kill();
    node.restart();
    node.await_empty_queue(SOON);
    let tally = tally_numbered(acked, sink);
    assert!(tally.is_empty(), "lost: {tally:?}");
}

fn tally_numbered(acked: &[Acked], sink: &Sink) -> Vec<u64> {
    let mut others = 0;
    sink.each(|received| others += usize::from(received.number().is_none()));
    println!("{} acknowledged, {others} of other kinds", acked.len());
    tally(acked, sink, |_| 600).lost
}

#[test]
fn a_full_disk_is_a_temporary_failure_until_there_is_room() {
    let mut disk = Disk::memory(24);
    let (mut node, sink) = relay(&small_spool(Some(disk.path().join("data"))));
    let load = Load::start(node.smtp(), &Plan::to(USER));
    eventually("a load", SOON, || load.count() > 50);
    disk.fill();
    eventually("refusals", SOON, || load.refused().len() > 50);
    for reply in load.refused() {
        assert!(reply.is(452, "4.3.1"), "{reply:?}");
    }
    assert!(!node.is_ready(), "a node that takes no mail is not ready");
    let taken = load.count();
    disk.free();
    eventually("mail again", SOON, || load.count() > taken + 50);
    assert!(node.is_ready());
    let acked = load.stop();
    assert_all_arrive(&mut node, &sink, &acked);
}

#[test]
fn a_disk_without_free_inodes_is_a_temporary_failure_until_there_are_some() {
    let mut disk = Disk::ext4_for(200, 64);
    let (mut node, sink) = relay(&small_spool(Some(disk.path().join("data"))));
    let load = Load::start(node.smtp(), &Plan::to(USER));
    eventually("a load", SOON, || load.count() > 50);
    disk.fill_with_files();
    eventually("refusals", SOON, || load.refused().len() > 50);
    for reply in load.refused() {
        assert!([451, 452].contains(&reply.code), "{reply:?}");
    }
    eventually("a node that takes no mail and is not ready", SOON, || {
        // A segment that is done with gives its inode back.
        disk.fill_with_files();
        !node.is_ready()
    });
    // The tables' files are there already.
    node.admin(&["customer", "add", "bravo", "--contact", "ops@bravo.test"]);
    let taken = load.count();
    disk.free();
    eventually("mail again", SOON, || load.count() > taken + 50);
    assert!(node.is_ready());
    for words in ["cannot make a segment of the spool", "could be made again"] {
        assert!(node.process().words().contains(words), "{words}: the operator is told");
    }
    let acked = load.stop();
    assert_all_arrive(&mut node, &sink, &acked);
}

#[test]
fn a_sync_that_fails_acknowledges_nothing_and_heals_alone() {
    for error in ["EIO", "ENOSPC"] {
        let fault = failing("fdatasync,fsync,sync_file_range", error);
        heals_after(&fault, |node| {
            assert!(node.metric("mxfleet_spool_fsync_errors_total") >= 1.0, "it is counted");
        });
    }
}

#[test]
fn a_write_that_fails_acknowledges_nothing_and_heals_alone() {
    for error in ["ENOSPC", "EIO"] {
        heals_after(&failing("pwrite64,pwritev,pwritev2", error), |_| ());
    }
}

/// Let some of these calls fail in each thread.
fn failing(calls: &str, error: &str) -> Vec<String> {
    injected(calls, &format!("error={error}:when=30..33"))
}

/// Under a load, the fault shows as temporary failures, and is over by itself.
fn heals_after(fault: &[String], check: impl Fn(&Node)) {
    let (mut node, sink) = relay(&small_spool(None));
    node.terminate();
    node.wrapper = fault.to_vec();
    node.restart();
    let load = Load::start(node.smtp(), &Plan::to(USER));
    eventually("a refusal", SOON, || !load.refused().is_empty());
    for reply in load.refused() {
        assert!([451, 452].contains(&reply.code), "{reply:?}");
    }
    let taken = load.count();
    eventually("mail again", SOON, || load.count() > taken + 20);
    check(&node);
    let acked = load.stop();
    node.wrapper.clear();
    assert_all_arrive(&mut node, &sink, &acked);
}

#[test]
fn without_free_files_the_node_waits_instead_of_spinning() {
    let (mut node, sink) = relay(&Setup::default());
    let mut old = node.client();
    let id = node.process().id().to_string();
    let files = std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count();
    let limit = files + 12;
    support::process::output("prlimit", &["--pid", &id, &format!("--nofile={limit}:{limit}")]);
    let clients: Vec<Smtp> = (0..100).map(|_| Smtp::open(node.smtp()).unwrap()).collect();
    let (start, ticks) = (Instant::now(), node.process().cpu_ticks());
    // The time over which the CPU is measured.
    std::thread::sleep(Duration::from_secs(2));
    let busy = node.process().cpu_ticks() - ticks;
    let elapsed = u64::try_from(start.elapsed().as_millis() / 10).unwrap();
    assert!(busy * 4 < elapsed, "{busy} of {elapsed} ticks on the CPU while starved");
    let reply = old.deliver("s@client.test", &[USER], TEXT);
    assert!(reply.code == 250 || reply.code / 100 == 4, "a session goes on: {reply:?}");
    drop(clients);
    eventually("mail again", SOON, || takes_mail(&node));
    // Deliveries need files too, and had none.
    node.await_empty_queue(Duration::from_secs(60));
    assert!(sink.count() >= 1);
}
