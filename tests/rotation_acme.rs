//! A real ACME server gives names their certificates, by records in a real name server; and senders
//! find the keys in DNS.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use support::ca::Ca;
use support::dane::{shown, tlsa};
use support::dns::{Duties, NameServer, Software, tsig_key};
use support::fleet::{Fleet, on_loopback, refused};
use support::node::Setup;
use support::process::{Process, output};
use support::{SOON, eventually, free_address, scratch};

const ZONE: &str = "relay.test";
const NAMES: [&str; 2] = ["mx-a.relay.test", "mx-b.relay.test"];
/// How long the server's certificates last; a third before that they are renewed.
const LIFE: Duration = Duration::from_secs(90);

/// Pebble, the ACME server for tests. It asks `dns`, and trusts nothing but what it sees there.
struct Pebble {
    address: SocketAddr,
    management: SocketAddr,
    _process: Process,
}

impl Pebble {
    fn start(ca: &Ca, dns: &NameServer, folder: &Path) -> Self {
        let (cert, key) = ca.issue(&["127.0.0.1"]);
        let (address, management) = (free_address(), free_address());
        let config = serde_json::json!({ "pebble": {
            "listenAddress": address.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": cert,
            "privateKey": key,
            "httpPort": 1,
            "tlsPort": 1,
            "certificateValidityPeriod": LIFE.as_secs(),
        }});
        let file = folder.join("pebble.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let (file, server) = (file.display().to_string(), dns.address().to_string());
        let words = ["env", "PEBBLE_VA_NOSLEEP=1", "pebble", "-config", &file];
        let mut words = words.map(str::to_owned).to_vec();
        words.extend(["-dnsserver".to_owned(), server]);
        let log = folder.join("pebble.log");
        let mut process = Process::start(&words, &log);
        eventually("an ACME server", SOON, || {
            assert!(process.is_running(), "it ended:\n{}", process.words());
            std::net::TcpStream::connect(address).is_ok()
        });
        Self { address, management, _process: process }
    }

    fn directory(&self) -> String {
        format!("https://{}/dir", self.address)
    }

    /// The root of the certificates it gives, in a file.
    fn root(&self, folder: &Path) -> String {
        let script = format!(
            "import ssl, urllib.request as u; \
             print(u.urlopen('https://{}/roots/0', \
             context=ssl._create_unverified_context()).read().decode())",
            self.management
        );
        let file = folder.join("pebble-root.pem");
        std::fs::write(&file, output("python3", &["-c", &script])).unwrap();
        file.display().to_string()
    }
}

#[test]
fn names_get_certificates_by_dns_and_senders_find_their_keys() {
    let key = tsig_key("mxfleet");
    let duties = Duties { key: Some(key.clone()), copies: None };
    let authority = NameServer::with(Software::Bind, &[(ZONE, "")], &duties);
    let folder = scratch();
    let ca = Ca::new(folder.path());
    let pebble = Pebble::start(&ca, &authority, folder.path());
    let root = pebble.root(folder.path());
    let setup = |name| Setup {
        tsig_key: Some(key.clone()),
        acme_ca: Some(ca.file().to_owned()),
        ..on_loopback(name)
    };
    let fleet = Fleet::with(&[setup("mx1"), setup("mx2"), setup("mx3")]);
    let (node, server) = (&fleet.nodes[1], authority.address().to_string());
    for (setting, value) in [
        ("rotation.zone", ZONE),
        ("rotation.dns_primary", &server),
        ("rotation.ttl_low", "1s"),
        ("rotation.ttl", "2s"),
        ("rotation.tlsa", "publish"),
        ("rotation.acme_directory", &pebble.directory()),
    ] {
        node.admin(&["settings", "set", setting, value]);
    }
    for (name, (host, address)) in
        NAMES.into_iter().zip([("mx1", "127.0.0.11"), ("mx2", "127.0.0.12")])
    {
        node.admin(&["host", "set", host, "--address", address]);
        node.admin(&["name", "add", name, "--host", host]);
    }
    for name in NAMES {
        for node in &fleet.nodes {
            let what = format!("{name} at {}", node.name());
            eventually(&what, SOON * 2, || shown(node, &root, name).is_some());
        }
        assert_eq!(authority.ask(&format!("_acme-challenge.{name}"), "TXT"), "");
    }
    let (serial, hash) = shown(node, &root, NAMES[0]).unwrap();
    eventually("its key in DNS", SOON, || tlsa(&authority, NAMES[0]) == [hash.as_str()]);
    let zone = node.admin(&["name", "zone"]);
    assert!(zone.contains(&format!("TLSA 3 1 1 {hash}")), "{zone}");
    refused(&node.try_admin(&["name", "cert", "remove", NAMES[0]]), "senders hold TLSA records");
    eventually("a new certificate with the same key", LIFE + SOON, || {
        let now = shown(node, &root, NAMES[0]);
        now.is_some_and(|(now, same)| now != serial && same == hash)
    });
    assert_eq!(tlsa(&authority, NAMES[0]), [hash.as_str()]);
    node.admin(&["settings", "set", "rotation.tlsa", "remove"]);
    eventually("no key in DNS", SOON, || tlsa(&authority, NAMES[0]).is_empty());
}

#[test]
fn an_operator_sees_on_any_node_why_a_name_gets_no_certificate() {
    let key = tsig_key("mxfleet");
    let duties = Duties { key: Some(key.clone()), copies: None };
    let authority = NameServer::with(Software::Bind, &[(ZONE, "")], &duties);
    let folder = scratch();
    let ca = Ca::new(folder.path());
    let setup = |name| Setup {
        tsig_key: Some(key.clone()),
        acme_ca: Some(ca.file().to_owned()),
        ..on_loopback(name)
    };
    let fleet = Fleet::with(&[setup("mx1"), setup("mx2")]);
    let (node, server) = (&fleet.nodes[1], authority.address().to_string());
    let nobody = format!("https://{}/dir", free_address());
    for (setting, value) in [
        ("rotation.zone", ZONE),
        ("rotation.dns_primary", &server),
        ("rotation.acme_directory", &nobody),
    ] {
        node.admin(&["settings", "set", setting, value]);
    }
    node.admin(&["host", "set", "mx1", "--address", "127.0.0.11"]);
    node.admin(&["name", "add", NAMES[0], "--host", "mx1"]);
    for node in &fleet.nodes {
        eventually("the reason", SOON, || {
            let row = node.json(&["name", "show", NAMES[0]]);
            row["certificate_fault"].as_str().is_some_and(|why| why.contains("the ACME server"))
        });
        assert_eq!(node.metric("mxfleet_names_uncertified"), 1.0);
    }
    let row = node.json(&["name", "show", NAMES[0]]);
    assert_eq!((&row["state"], &row["points_at"]), (&"planned".into(), &serde_json::Value::Null));
    let waits = row["waits_for"].as_str().unwrap();
    assert!(waits.contains("its certificate, from the ACME server or by `mxfleet name"), "{waits}");
    assert!(waits.contains("the ACME server: "), "{waits}");
    assert_eq!(authority.ask(NAMES[0], "A"), "", "nobody is sent to a name without a certificate");
    let table = node.admin(&["name", "list"]);
    assert!(table.contains(&format!("{} gets no certificate: ", NAMES[0])), "{table}");
    node.admin(&["name", "add", NAMES[1], "--host", "mx1"]);
    let (cert, key) = ca.issue(&[NAMES[1]]);
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    node.admin(&["name", "cert", "add", "--cert", &cert, "--key", &key]);
    let is_active = |name: &str| node.json(&["name", "show", name])["state"] == "active";
    eventually("one that was brought by hand will do", SOON, || is_active(NAMES[1]));
    assert!(!is_active(NAMES[0]));
    let pebble = Pebble::start(&ca, &authority, folder.path());
    node.admin(&["settings", "set", "rotation.acme_directory", &pebble.directory()]);
    eventually("a certificate, once the directory is right", SOON * 2, || {
        let row = node.json(&["name", "show", NAMES[0]]);
        row["certificate_fault"].is_null() && row["certificate_ends"].is_string()
    });
    assert_eq!(node.metric("mxfleet_names_uncertified"), 0.0);
    eventually("the name goes into DNS", SOON, || is_active(NAMES[0]));
    node.admin(&["settings", "set", "rotation.acme_directory", &nobody]);
    let third = "mx-c.relay.test";
    node.admin(&["name", "add", third, "--host", "mx1"]);
    eventually("it is held back", SOON, || {
        let row = node.json(&["name", "show", third]);
        row["waits_for"].as_str().is_some_and(|waits| waits.contains("its certificate"))
    });
    node.admin(&["settings", "set", "rotation.acme_directory", ""]);
    eventually("it goes on without", SOON, || is_active(third));
}
