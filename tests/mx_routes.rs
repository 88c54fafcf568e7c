//! Routes by MX, answered by real name servers: only to exchangers better than ourselves, and
//! never to ourselves under any name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::net::SocketAddr;

use support::dns::{NameServer, Software};
use support::free_address;
use support::node::{Node, Setup};
use support::sink::{Manner, Sink};

const TEXT: &[u8] = b"Subject: route\r\n\r\nroute\r\n";

/// The relay's own names, all of which lead to 127.0.0.1, where it listens on the exchangers' port.
const RELAY: &str = "\
    mx1     A 127.0.0.1\n\
    alias   A 127.0.0.1\n\
    cname   CNAME mx1";

/// Customers' domains: name, records, and what must happen.
const DOMAINS: &[(&str, &str, Expected)] = &[
    ("best.test", "@ MX 10 a\n@ MX 20 b\na A 127.0.0.2\nb A 127.0.0.3", At(2)),
    ("second.test", "@ MX 10 dead\n@ MX 20 b\ndead A 127.0.0.9\nb A 127.0.0.3", At(3)),
    ("gone.test", "@ MX 10 gone\n@ MX 20 b\nb A 127.0.0.3", At(3)),
    (
        "better.test",
        "@ MX 10 a\n@ MX 20 mx1.relay.example.\n@ MX 30 b\na A 127.0.0.2\nb A 127.0.0.3",
        At(2),
    ),
    ("worse.test", "@ MX 10 mx1.relay.example.\n@ MX 30 b\nb A 127.0.0.3", Fails("5.4.6")),
    ("equal.test", "@ MX 10 mx1.relay.example.\n@ MX 10 b\nb A 127.0.0.3", Fails("5.4.6")),
    (
        "byaddress.test",
        "@ MX 10 other\n@ MX 20 b\nother A 127.0.0.1\nb A 127.0.0.3",
        Fails("5.4.6"),
    ),
    ("alias.test", "@ MX 10 alias.relay.example.", Fails("5.4.6")),
    ("cnameself.test", "@ MX 10 cname.relay.example.", Fails("5.4.6")),
    ("cname.test", "@ MX 10 a\na CNAME b\nb CNAME c\nc A 127.0.0.2", At(2)),
    ("cnameloop.test", "@ MX 10 a\na CNAME b\nb CNAME a", Fails("4.4")),
    ("null.test", "@ MX 0 .", Fails("5.1.10")),
    ("implicit.test", "@ A 127.0.0.2", At(2)),
    ("six.test", "@ MX 10 a\na AAAA ::1", At(6)),
    ("dual.test", "@ MX 10 a\na A 127.0.0.9\na AAAA ::1", At(6)),
];

/// Where the message must arrive, or the beginning of the status with which it must not.
enum Expected {
    At(u8),
    Fails(&'static str),
}
use Expected::{At, Fails};

#[test]
fn mail_goes_where_bind_says() {
    mail_goes_where_it_says(Software::Bind);
}

#[test]
fn mail_goes_where_knot_says() {
    mail_goes_where_it_says(Software::Knot);
}

fn mail_goes_where_it_says(software: Software) {
    let mut zones = vec![("relay.example", RELAY)];
    zones.extend(DOMAINS.iter().map(|&(domain, records, _)| (domain, records)));
    let names = NameServer::start(software, &zones);
    let port = free_address().port();
    let exchangers: Vec<(u8, Sink)> = [(2, "127.0.0.2"), (3, "127.0.0.3"), (6, "::1")]
        .map(|(number, ip)| {
            let listen = Some(SocketAddr::new(ip.parse().unwrap(), port));
            (number, Sink::with(Manner { listen, ..Manner::default() }))
        })
        .into();
    let node = Node::with(&Setup {
        dns: Some(names.address()),
        mx_port: Some(port),
        listen: vec![SocketAddr::from(([127, 0, 0, 1], port))],
        ..Setup::default()
    });
    for (domain, _, _) in DOMAINS {
        node.serve(domain, "mx");
        let reply = node.client().deliver("s@client.test", &[&format!("u@{domain}")], TEXT);
        assert_eq!(reply.code, 250, "{domain}: {reply:?}");
    }
    for (domain, _, expected) in DOMAINS {
        let recipient = format!("to=<u@{domain}>");
        let line = node.await_log(&recipient);
        match expected {
            At(number) => assert!(line.contains("status=sent"), "{domain} to {number}: {line}"),
            Fails(status) => {
                assert!(line.contains(&format!("dsn={status}")), "{domain}: {line}");
            }
        }
        assert_eq!(arrived_at(&exchangers, domain), wanted(expected), "{software:?} {domain}");
    }
    for (_, sink) in &exchangers {
        sink.each(|received| {
            let hops = received.text.windows(10).filter(|w| w.starts_with(b"Received: ")).count();
            assert_eq!(hops, 1, "it went through us once");
        });
    }
}

fn wanted(expected: &Expected) -> Vec<u8> {
    match expected {
        At(number) => vec![*number],
        Fails(_) => Vec::new(),
    }
}

fn arrived_at(exchangers: &[(u8, Sink)], domain: &str) -> Vec<u8> {
    let mut places = Vec::new();
    for (number, sink) in exchangers {
        sink.each(|received| {
            places.extend(
                received
                    .to()
                    .iter()
                    .filter(|to| to.ends_with(&format!("@{domain}")))
                    .map(|_| *number),
            );
        });
    }
    places
}

#[test]
fn a_silent_name_server_delays_mail_and_loses_none() {
    // Bound and never read: questions vanish.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let node = Node::with(&Setup {
        dns: Some(silent.local_addr().unwrap()),
        limits: vec![("dns_timeout_ms", "300".into())],
        ..Setup::default()
    });
    node.serve("acme.test", "mx");
    let reply = node.client().deliver("s@client.test", &["u@acme.test"], TEXT);
    assert_eq!(reply.code, 250);
    let line = node.await_log("to=<u@acme.test>");
    assert!(line.contains("dsn=4.4.3") && line.contains("status=deferred"), "{line}");
    assert_eq!(node.queued(), 1);
}
