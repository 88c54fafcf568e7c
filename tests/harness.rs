//! The harness is held to account first: a fault that does not happen proves nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::io::Write as _;
use std::time::Duration;

use support::disk::Disk;
use support::dns::{NameServer, Software};
use support::opensmtpd::OpenSmtpd;
use support::postfix::Postfix;
use support::process::output;
use support::sink::{Act, Sink, Step};
use support::smtp::Smtp;
use support::{SOON, eventually, message};

#[test]
fn a_power_cut_takes_what_was_not_synced_and_nothing_else() {
    let disk = Disk::ext4(16);
    let write = |name: &str| {
        let mut file = std::fs::File::create(disk.path().join(name)).unwrap();
        file.write_all(&[7; 5000]).unwrap();
        file
    };
    write("synced").sync_all().unwrap();
    write("unsynced");
    disk.cut_power();
    disk.power_on();
    assert_eq!(std::fs::read(disk.path().join("synced")).unwrap(), [7; 5000]);
    let unsynced = std::fs::read(disk.path().join("unsynced")).unwrap_or_default();
    assert_eq!(unsynced.len(), 0);
}

#[test]
fn a_filled_disk_has_no_room_until_it_is_freed() {
    let mut disk = Disk::memory(4);
    let file = disk.path().join("file");
    disk.fill();
    assert!(std::fs::write(&file, [7; 100_000]).is_err());
    disk.free();
    std::fs::write(&file, [7; 100_000]).unwrap();
}

#[test]
fn postfix_and_opensmtpd_keep_what_they_get_below_their_headers() {
    let postfix = Postfix::start("acme.test", &["user"]);
    let opensmtpd = OpenSmtpd::start("acme.test", &["user"]);
    for (number, octets) in [(1, 1), (2, 600), (3, 100_000)] {
        let text = message::text(number, octets);
        for server in [postfix.address(), opensmtpd.address()] {
            let reply = Smtp::greeted(server).deliver("a@b.test", &["user@acme.test"], &text);
            assert_eq!(reply.code, 250, "{reply:?}");
        }
    }
    eventually("deliveries", SOON, || {
        postfix.mailbox().count() == 3 && opensmtpd.mailbox().count() == 3
    });
    for mail in [postfix.mailbox().mail(), opensmtpd.mailbox().mail()] {
        for (number, octets) in [(1, 1), (2, 600), (3, 100_000)] {
            let text = message::as_stored(&message::text(number, octets));
            assert!(mail.iter().any(|mail| mail.ends_with(&text)), "message {number}");
        }
    }
    let reply = Smtp::greeted(postfix.address()).envelope("a@b.test", &["nobody@acme.test"]);
    assert_eq!(reply[1].code, 550);
}

#[test]
fn both_name_servers_answer_for_their_zones() {
    for software in [Software::Bind, Software::Knot] {
        let server =
            NameServer::start(software, &[("acme.test", "@ MX 10 mail\nmail A 127.0.0.9")]);
        let port = server.address().port().to_string();
        let answer = output("dig", &["@127.0.0.1", "-p", &port, "+short", "acme.test", "MX"]);
        assert_eq!(answer.trim(), "10 mail.acme.test.", "{software:?}");
    }
}

#[test]
fn the_sink_keeps_the_exact_text_and_follows_its_script() {
    let sink = Sink::scripted(|step| match step {
        Step::Rcpt(to) if to.contains("busy") => Act::Say("450 4.2.1 busy".into()),
        _ => Act::Usual,
    });
    let text = message::text(5, 3000);
    let mut client = Smtp::greeted(sink.address());
    let replies = client.envelope("a@b.test", &["busy@acme.test"]);
    assert_eq!(replies[1].line(), "450 4.2.1 busy");
    client.command("RSET");
    assert_eq!(client.deliver("a@b.test", &["user@acme.test"], &text).code, 250);
    let received = sink.await_count(1, Duration::from_secs(5));
    message::assert_same("the text", &received[0].text, &text);
}
