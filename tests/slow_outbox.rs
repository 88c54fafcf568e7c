//! A disk that takes its time over the blacklist's outbox: deliveries do not wait for it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::SOON;
use support::node::{Node, Setup};
use support::sink::{Act, Sink, Step};

/// Each sync of the outbox takes this long.
const SYNC: Duration = Duration::from_secs(2);
const MESSAGES: u32 = 12;
const TEXT: &[u8] = b"Subject: hello\r\n\r\nhello\r\n";

#[test]
fn one_connection_is_refused_many_recipients_while_the_outbox_is_synced() {
    let refused: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let seen = Arc::clone(&refused);
    let sink = Sink::scripted(move |step| match step {
        Step::Rcpt(_) => {
            seen.lock().unwrap().push(Instant::now());
            Act::Say("550 5.1.1 User unknown".to_owned())
        }
        _ => Act::Usual,
    });
    let data = support::scratch();
    // The file is named by the first event in it.
    let outbox = data.path().join("data/outbox/0000000000000001.outbox").display().to_string();
    let delay = format!("inject=fdatasync:delay_enter={}", SYNC.as_micros());
    let words = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-P", &outbox, "-e", &delay];
    let setup = Setup {
        data_dir: Some(data.path().join("data")),
        wrapper: words.map(str::to_owned).to_vec(),
        ..Setup::default()
    };
    let node = Node::with(&setup);
    node.serve("acme.test", &sink.route());
    node.admin(&["domain", "set", "acme.test", "--connections-max", "1"]);
    let mut client = node.client();
    for n in 0..MESSAGES {
        let to = format!("u{n}@acme.test");
        assert_eq!(client.deliver("s@client.test", &[&to], TEXT).code, 250);
    }
    node.await_empty_queue(SOON);
    let at = refused.lock().unwrap().clone();
    assert_eq!(at.len(), MESSAGES as usize);
    let took = *at.last().unwrap() - at[0];
    println!("{MESSAGES} refusals took {took:?}, each sync of the outbox {SYNC:?}");
    // One after the other would take a sync each.
    assert!(took < SYNC * (MESSAGES - 1) / 2, "{took:?}");
    let stats = || node.json(&["blacklist", "stats"]);
    support::eventually("all counted", SOON, || stats()["tracked"] == MESSAGES);
    let syncs = Instant::now() - at[0];
    assert!(syncs >= SYNC, "the disk was slow indeed: {syncs:?}");
}
