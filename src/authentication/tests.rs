//! Messages signed by another hand, checked against a name server of the test's own.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;

use hickory_resolver::proto::rr::RData;
use hickory_resolver::proto::rr::rdata::{A, MX, TXT};
use mail_auth::common::crypto::Ed25519Key;
use mail_auth::common::headers::HeaderWriter as _;
use mail_auth::dkim::{Canonicalization, DkimSigner};
use mxfleet_cluster::{
    Command, Customer, CustomerStatus, Domain, RecipientPolicy, Request, Route, TlsPolicy,
};
use rcgen::{KeyPair, PKCS_ED25519};

use super::*;
use crate::route::Dns;
use crate::route::testing::{Zone, serve};

const MESSAGE: &str = "From: <a@acme.test>\r\nTo: <b@bravo.test>\r\nSubject: hello  \r\n there\r\n\
    Date: Mon, 24 Nov 2025 16:00:01 +0000\r\n\r\n.dots\r\n\r\nbody  of \t two lines \r\n\r\n\r\n";

fn txt(text: &str) -> Zone {
    let pieces = text.as_bytes().chunks(200);
    let pieces = pieces.map(|piece| String::from_utf8(piece.to_vec()).unwrap()).collect();
    Zone::Has(vec![RData::TXT(TXT::new(pieces))])
}

struct World {
    authenticator: Authenticator,
    asked: Arc<AtomicUsize>,
}

fn limits() -> Limits {
    Limits { dns_timeout_ms: 600, authentication_timeout_ms: 900, ..Limits::default() }
}

impl World {
    async fn with(zones: Vec<(String, Zone)>, limits: Limits) -> Self {
        let cluster = Cluster::detached();
        let (id, name) = ("acme".to_owned(), "acme.test".to_owned());
        let (contacts, status) = (Vec::new(), CustomerStatus::Active);
        let customer = Customer { id: id.clone(), name: String::new(), contacts, status };
        let (route, tls, connections_max) = (Route::Mx, TlsPolicy::Opportunistic, None);
        let recipients = RecipientPolicy::default();
        let domain = Domain { name, customer: id, route, tls, connections_max, recipients };
        let commands = [Command::CustomerAdd(customer), Command::DomainAdd(domain)];
        for (id, command) in (1..).zip(commands) {
            let request = Request::new(id, "test", 1, command);
            cluster.propose(request).await.unwrap().unwrap();
        }
        let (server, asked) = serve(zones.into_iter().collect::<HashMap<_, _>>()).await;
        let dns = Dns::new(&[server], &limits).unwrap();
        let limits = Arc::new(limits);
        let authenticator = Authenticator::new(cluster, dns.resolver(), "mx1.relay.test", limits);
        Self { authenticator, asked }
    }

    async fn new(zones: Vec<(String, Zone)>) -> Self {
        Self::with(zones, limits()).await
    }

    /// What is found of a text as it is on the wire, fed in pieces of `size`.
    async fn check_in(&self, text: &str, ip: &str, from: &str, size: usize) -> Authentication {
        let sender = address(from);
        let mut evidence = self.authenticator.evidence(&sender);
        text.as_bytes().chunks(size).for_each(|piece| evidence.see(piece));
        let client = Client { ip: ip.parse().unwrap(), helo: "client.test" };
        self.authenticator.check(evidence, client, &sender).await
    }

    async fn check(&self, text: &str, ip: &str, from: &str) -> Authentication {
        self.check_in(text, ip, from, 4096).await
    }
}

fn address(text: &str) -> Address {
    Address::parse(text, true).unwrap()
}

fn recipient(notify: Option<crate::smtp::Notify>) -> Recipient {
    Recipient { address: address("b@bravo.test"), notify, orcpt: None }
}

fn on_the_wire(text: &str) -> String {
    text.replace("\r\n.", "\r\n..")
}

/// A key, and the record that publishes it.
struct Signer(KeyPair);

impl Signer {
    fn new() -> Self {
        Self(KeyPair::generate_for(&PKCS_ED25519).unwrap())
    }

    fn key(&self) -> Ed25519Key {
        Ed25519Key::from_pkcs8_maybe_unchecked_der(&self.0.serialize_der()).unwrap()
    }

    fn record(&self) -> Zone {
        // In front of the key stand twelve octets, which are sixteen digits of base64.
        let pem = self.0.public_key_pem();
        let key = &pem.lines().find(|line| !line.starts_with('-')).unwrap()[16..];
        txt(&format!("v=DKIM1; k=ed25519; p={key}"))
    }

    /// The message with a signature of `domain` above it.
    fn sign(&self, domain: &str, message: &str, form: Canonicalization) -> String {
        let signer = DkimSigner::from_key(self.key())
            .domain(domain)
            .selector("s")
            .headers(["From", "Subject", "Date"])
            .header_canonicalization(form)
            .body_canonicalization(form);
        let signature = signer.sign(message.as_bytes()).unwrap();
        let mut header = Vec::new();
        signature.write_header(&mut header);
        String::from_utf8(header).unwrap() + message
    }
}

#[tokio::test]
async fn spf_says_who_may_send_for_a_domain() {
    let world = World::new(vec![
        ("acme.test".into(), txt("v=spf1 ip4:192.0.2.1 ?ip4:192.0.2.2 ~ip4:192.0.2.3 -all")),
        ("xn--bcher-kva.test".into(), txt("v=spf1 include:acme.test -all")),
        ("broken.test".into(), txt("v=spf1 include:nowhere.test -all")),
        ("down.test".into(), Zone::ServFail),
    ])
    .await;
    for (ip, from, expected) in [
        ("192.0.2.1", "a@acme.test", Finding::Pass),
        ("192.0.2.1", "a@ACME.test", Finding::Pass),
        ("192.0.2.1", "jürgen@bücher.test", Finding::Pass),
        ("192.0.2.2", "a@acme.test", Finding::Neutral),
        ("192.0.2.3", "a@acme.test", Finding::SoftFail),
        ("192.0.2.4", "a@acme.test", Finding::Fail),
        ("2001:db8::1", "a@acme.test", Finding::Fail),
        ("192.0.2.1", "a@sub.acme.test", Finding::None),
        ("192.0.2.1", "a@broken.test", Finding::PermError),
        ("192.0.2.1", "a@down.test", Finding::TempError),
    ] {
        let found = world.check(MESSAGE, ip, from).await;
        assert_eq!(found.spf, expected, "{ip} {from}");
        assert_eq!(found.is_of(address(from).domain()), expected == Finding::Pass);
        assert!(found.dkim.is_empty() && found.by == "mx1.relay.test");
    }
}

#[tokio::test]
async fn a_signature_passes_however_the_text_is_cut_and_fails_when_anything_is_changed() {
    let signer = Signer::new();
    let world = World::new(vec![
        ("s._domainkey.acme.test".into(), signer.record()),
        ("acme.test".into(), txt("v=spf1 -all")),
    ])
    .await;
    for form in [Canonicalization::Relaxed, Canonicalization::Simple] {
        let signed = on_the_wire(&signer.sign("acme.test", MESSAGE, form));
        assert!(signed.contains("\r\n..dots"));
        for size in [1, 2, 3, 7, 100, signed.len()] {
            let found = world.check_in(&signed, "192.0.2.9", "a@acme.test", size).await;
            let expected =
                vec![Signature { result: Finding::Pass, domain: "acme.test".to_owned() }];
            assert_eq!(found.dkim, expected, "{form:?} in pieces of {size}");
            assert!(found.is_of("acme.test") && found.is_of("sub.acme.test"));
            assert!(!found.is_of("bravo.test") && !found.is_by_spf());
        }
        for (a, b) in [("hello", "hallo"), ("body", "bodies"), ("..dots", "..dot")] {
            let changed = signed.replacen(a, b, 1);
            assert_ne!(changed, signed);
            let found = world.check(&changed, "192.0.2.9", "a@acme.test").await;
            assert_ne!(found.dkim[0].result, Finding::Pass, "{form:?} {a}");
            assert!(!found.is_of("acme.test"));
        }
    }
}

#[tokio::test]
async fn of_many_signatures_those_of_the_sender_are_looked_at_first() {
    let (signer, other) = (Signer::new(), Signer::new());
    let world = World::new(vec![
        ("s._domainkey.acme.test".into(), signer.record()),
        ("s._domainkey.other.test".into(), other.record()),
    ])
    .await;
    let mut message = signer.sign("acme.test", MESSAGE, Canonicalization::Relaxed);
    for _ in 0..20 {
        message = other.sign("other.test", &message, Canonicalization::Relaxed);
    }
    message = format!("DKIM-Signature: nonsense\r\n{message}");
    let found = world.check(&on_the_wire(&message), "192.0.2.9", "a@acme.test").await;
    assert_eq!(found.dkim.len(), Limits::default().authentication_signatures_max);
    assert!(found.is_of("acme.test"), "{found:?}");
    // SPF, and one key for each signature at most; the resolver remembers the second of two.
    assert!(world.asked.load(std::sync::atomic::Ordering::Relaxed) <= 3);
}

#[tokio::test]
async fn what_cannot_be_looked_at_in_bounds_is_not_authentic() {
    let signer = Signer::new();
    let mut zones = vec![("s._domainkey.acme.test".to_owned(), signer.record())];
    // Without a bound this asks 111 questions, and passes at the last.
    let exchangers: Vec<RData> = (0..10)
        .map(|n| RData::MX(MX::new(n, format!("m{n}.acme.test.").parse().unwrap())))
        .collect();
    let record = "v=spf1 mx:a.test mx:b.test mx:c.test mx:d.test mx:e.test mx:f.test +all";
    zones.push(("acme.test".to_owned(), txt(record)));
    for name in ["a", "b", "c", "d", "e", "f"] {
        zones.push((format!("{name}.test"), Zone::Has(exchangers.clone())));
    }
    for n in 0..10 {
        let address = RData::A(A::new(198, 51, 100, n));
        zones.push((format!("m{n}.acme.test"), Zone::Has(vec![address])));
    }
    let world = World::new(zones).await;
    let signed = on_the_wire(&signer.sign("acme.test", MESSAGE, Canonicalization::Relaxed));
    let found = world.check(&signed, "192.0.2.9", "a@acme.test").await;
    assert_eq!(found.spf, Finding::PermError);

    let long = format!("X: {}\r\n{signed}", "x".repeat(70_000));
    let found = world.check(&long, "192.0.2.9", "a@nowhere.test").await;
    assert_eq!(found.dkim, [unknown(Finding::Neutral)]);
    let odd = format!("X: y\r\nthis is no field\r\n{signed}");
    let found = world.check(&odd, "192.0.2.9", "a@nowhere.test").await;
    assert_eq!(found.dkim, [unknown(Finding::Neutral)]);
    let partial = signed.replace("; t=", "; l=3; t=");
    assert_ne!(partial, signed);
    let found = world.check(&partial, "192.0.2.9", "a@nowhere.test").await;
    assert!(found.dkim.iter().all(|signature| signature.result != Finding::Pass));
}

/// A message that waits in vain for its domain's records.
async fn wait_in_vain(world: &World) {
    let signed = Signer::new().sign("acme.test", MESSAGE, Canonicalization::Relaxed);
    let found = world.check(&on_the_wire(&signed), "192.0.2.1", "a@acme.test").await;
    assert_eq!((found.spf, found.dkim[0].result), (Finding::TempError, Finding::TempError));
}

#[tokio::test]
async fn a_domain_whose_servers_are_silent_costs_its_own_mail_time_and_no_other() {
    let zones = vec![
        ("acme.test".to_owned(), Zone::Silent),
        ("s._domainkey.acme.test".to_owned(), Zone::Silent),
    ];
    let world = World::with(zones, Limits { authentication_timeout_ms: 200, ..limits() }).await;
    wait_in_vain(&world).await;
    world.authenticator.clone().listen().await;
    let sender = Some(address("a@acme.test"));
    assert!(world.authenticator.arrival(&sender, &[recipient(None)]).is_some());
}

#[tokio::test]
async fn while_our_name_servers_are_silent_nothing_waits_for_them() {
    let mut world = World::new(Vec::new()).await;
    // Bound and never read: questions vanish.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let limits = Limits { authentication_timeout_ms: 200, ..limits() };
    let dns = Dns::new(&[silent.local_addr().unwrap()], &limits).unwrap();
    world.authenticator.checks = MessageAuthenticator(dns.resolver());
    world.authenticator.limits = Arc::new(limits);
    wait_in_vain(&world).await;
    world.authenticator.clone().listen().await;
    let sender = address("a@acme.test");
    let arrival = world.authenticator.arrival(&Some(sender.clone()), &[recipient(None)]);
    assert!(arrival.is_none() && world.authenticator.later(&sender).is_none());
}

#[tokio::test]
async fn messages_about_which_nobody_is_told_are_not_looked_at() {
    let world = World::new(Vec::new()).await;
    let never = recipient(Some(crate::smtp::Notify::NEVER));
    let matters = |sender: Option<&str>, recipients: &[Recipient]| {
        world.authenticator.arrival(&sender.map(address), recipients).is_some()
    };
    assert!(matters(Some("a@acme.test"), &[never.clone(), recipient(None)]));
    assert!(!matters(Some("a@acme.test"), &[never]));
    assert!(!matters(Some("a@elsewhere.test"), &[recipient(None)]));
    assert!(!matters(None, &[recipient(None)]));
}
