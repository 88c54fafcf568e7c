//! Clients that say nothing, or a little at a time for ever.

use std::time::{Duration, Instant};

use super::support::smtp::Smtp;
use super::{Relay, assert_refused};

/// Short enough to wait for, long enough for a busy machine.
const LIMITS: &[(&str, &str)] = &[
    ("command_timeout_ms", "1500"),
    ("data_idle_timeout_ms", "1500"),
    ("data_timeout_ms", "2500"),
];

/// Cut within this time, whatever it drips.
const CUT: Duration = Duration::from_secs(8);

#[test]
fn an_idle_client_is_dismissed() {
    let relay = Relay::limited(LIMITS);
    let mut client = relay.client();
    let start = Instant::now();
    let reply = client.reply();
    assert!(reply.is(421, "4.4.2"), "{reply:?}");
    assert!(start.elapsed() < CUT);
}

#[test]
fn a_command_that_drips_is_cut() {
    let relay = Relay::limited(LIMITS);
    let mut client = relay.client();
    assert_cut(&mut client, || b"x".to_vec());
}

#[test]
fn a_text_that_drips_is_cut_and_never_delivered() {
    let relay = Relay::limited(LIMITS);
    let mut client = relay.client_in_data();
    assert_cut(&mut client, || b"line\r\n".to_vec());
    relay.assert_nothing_arrives();
}

#[test]
fn a_text_that_stops_is_cut_and_never_delivered() {
    let relay = Relay::limited(LIMITS);
    let mut client = relay.client_in_data();
    client.send(b"Subject: half\r\n\r\nhalf a li");
    let reply = client.reply();
    assert!(reply.is(421, "4.4.2") || reply.is_closed(), "{reply:?}");
    relay.assert_nothing_arrives();
}

#[test]
fn a_chunk_that_drips_is_cut() {
    let relay = Relay::limited(LIMITS);
    let mut client = relay.client();
    client.envelope("s@client.test", &[super::USER]);
    client.send(b"BDAT 1000000 LAST\r\n");
    assert_cut(&mut client, || b"line\r\n".to_vec());
    relay.assert_nothing_arrives();
}

#[test]
fn silence_before_ehlo_is_not_endless() {
    let relay = Relay::limited(LIMITS);
    let mut client = Smtp::connect(relay.node.smtp());
    assert_eq!(client.reply().code, 421);
    assert!(client.reply().is_closed());
    let mut client = relay.client();
    assert_refused("nonsense", &client.command("NONSENSE"));
}

/// Send a little every 100 ms until the server ends it, which must be soon.
fn assert_cut(client: &mut Smtp, mut drip: impl FnMut() -> Vec<u8>) {
    let start = Instant::now();
    loop {
        client.send(&drip());
        // The pause is what is tested: shorter than any limit on silence.
        if !client.is_silent(Duration::from_millis(100)) {
            break;
        }
        assert!(start.elapsed() < CUT, "still welcome after {:?}", start.elapsed());
    }
    let reply = client.reply();
    assert!(reply.is(421, "4.4.2") || reply.is_closed(), "{reply:?}");
}
