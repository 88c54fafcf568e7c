//! A certificate with another key than senders know from TLSA records (RFC 7671 section 8.1): it is
//! shown only once every name server has told of its key for long enough.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::ca::Ca;
use support::dane::{key_hash, shown, tlsa};
use support::dns::{Duties, NameServer, Software, tsig_key};
use support::fleet::{Fleet, on_loopback, refused};
use support::node::{Node, Setup};
use support::process::said;
use support::{SOON, eventually, scratch};

const ZONE: &str = "relay.test";
const NAME: &str = "mx-a.relay.test";
const TTL: Duration = Duration::from_secs(2);

/// Two nodes that publish keys to these servers.
fn fleet(key: &str, servers: &[&NameServer]) -> Fleet {
    let setup = |name| Setup { tsig_key: Some(key.to_owned()), ..on_loopback(name) };
    let fleet = Fleet::with(&[setup("mx1"), setup("mx2")]);
    let listed: Vec<String> = servers.iter().map(|server| server.address().to_string()).collect();
    let node = &fleet.nodes[0];
    if let Some(primary) = listed.first() {
        node.admin(&["settings", "set", "rotation.dns_primary", primary]);
        node.admin(&["settings", "set", "rotation.dns_servers", &listed.join(",")]);
    }
    for (setting, value) in [
        ("rotation.zone", ZONE),
        ("rotation.ttl", "2s"),
        ("rotation.ttl_low", "2s"),
        ("rotation.tlsa", "publish"),
    ] {
        node.admin(&["settings", "set", setting, value]);
    }
    node.admin(&["host", "set", "mx1", "--address", "127.0.0.11"]);
    fleet
}

/// A new certificate for the name goes to the fleet; what is said, and the hash of its key.
fn bring(node: &Node, ca: &Ca, more: &[&str]) -> (String, String) {
    let (cert, key) = ca.issue(&[NAME]);
    let hash = key_hash(&cert.display().to_string());
    (bring_again(node, &cert, &key, more), hash)
}

fn bring_again(node: &Node, cert: &Path, key: &Path, more: &[&str]) -> String {
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let mut words = vec!["name", "cert", "add", "--cert", &cert, "--key", &key];
    words.extend(more);
    let mut told = String::new();
    // A node that just joined is given the key to seal with in a moment.
    eventually("the certificate is taken", SOON, || {
        let done = node.try_admin(&words);
        told = said(&done);
        done.status.success()
    });
    told
}

fn is_active(node: &Node) -> bool {
    node.json(&["name", "show", NAME])["state"] == "active"
}

/// What the certificate that is not shown yet waits for.
fn waits_for(node: &Node) -> Option<String> {
    let listed = node.json(&["name", "cert", "list"]);
    let row = listed.as_array().unwrap().iter().find(|row| !row["waits_for"].is_null())?;
    let words = row["waits_for"].as_str().unwrap().to_owned();
    let row: Value = node.json(&["name", "show", NAME]);
    assert!(row["certificate_waits_for"].is_string(), "{row}");
    Some(words)
}

fn await_shown(fleet: &Fleet, root: &str, hash: &str) {
    for node in &fleet.nodes {
        eventually(&format!("the key at {}", node.name()), SOON, || {
            shown(node, root, NAME).is_some_and(|(_, key)| key == hash)
        });
    }
}

#[test]
fn another_key_is_told_by_every_server_before_it_is_shown_and_the_old_one_goes_last() {
    let key = tsig_key("mxfleet");
    let duties = Duties { key: Some(key.clone()), copies: None };
    let server = NameServer::with(Software::Bind, &[(ZONE, "")], &duties);
    let copies = Duties { key: None, copies: Some(server.address()) };
    let mut secondary = NameServer::with(Software::Bind, &[(ZONE, "")], &copies);
    let (folder, fleet) = (scratch(), fleet(&key, &[&server, &secondary]));
    let (node, ca) = (&fleet.nodes[1], Ca::new(folder.path()));
    let root = ca.file().display().to_string();
    let (said, old) = bring(node, &ca, &[]);
    assert!(said.contains("every node shows the certificate"), "{said}");
    node.admin(&["name", "add", NAME, "--host", "mx1"]);
    eventually("its key in DNS", SOON, || tlsa(&server, NAME) == [old.as_str()]);
    secondary.restart();
    eventually("the name is in DNS", SOON, || is_active(node));
    await_shown(&fleet, &root, &old);
    refused(&node.try_admin(&["name", "cert", "remove", NAME]), "would find no key");

    let (said, new) = bring(node, &ca, &[]);
    assert!(said.contains("waits for DNS to say its key"), "{said}");
    let mut both = [old.clone(), new.clone()];
    both.sort_unstable();
    eventually("both keys at the primary", SOON, || tlsa(&server, NAME) == both);
    std::thread::sleep(TTL * 4);
    assert_eq!(tlsa(&secondary, NAME), [old.as_str()], "it lags");
    let waits = waits_for(node).unwrap();
    assert!(waits.contains(&secondary.address().to_string()), "{waits}");
    await_shown(&fleet, &root, &old);

    let from = Instant::now();
    secondary.restart();
    eventually("both keys at the other", SOON, || tlsa(&secondary, NAME) == both);
    await_shown(&fleet, &root, &new);
    assert!(from.elapsed() >= TTL * 2, "a resolver may have had the old records until then");
    eventually("the old key is gone", SOON, || tlsa(&server, NAME) == [new.as_str()]);
    assert_eq!(waits_for(node), None);
}

#[test]
fn switched_off_while_dns_is_down_the_old_key_counts_until_its_records_are_gone() {
    let key = tsig_key("mxfleet");
    let duties = Duties { key: Some(key.clone()), copies: None };
    let mut server = NameServer::with(Software::Bind, &[(ZONE, "")], &duties);
    let (folder, fleet) = (scratch(), fleet(&key, &[&server]));
    let (node, ca) = (&fleet.nodes[0], Ca::new(folder.path()));
    let root = ca.file().display().to_string();
    let (_, old) = bring(node, &ca, &[]);
    node.admin(&["name", "add", NAME, "--host", "mx1"]);
    eventually("its key in DNS", SOON, || tlsa(&server, NAME) == [old.as_str()]);
    eventually("the name is in DNS", SOON, || is_active(node));
    server.stop();
    node.admin(&["settings", "set", "rotation.tlsa", "remove"]);
    let (said, new) = bring(node, &ca, &[]);
    assert!(said.contains("waits for DNS to forget the TLSA records"), "{said}");
    std::thread::sleep(TTL * 4);
    await_shown(&fleet, &root, &old);
    server.restart();
    await_shown(&fleet, &root, &new);
    assert!(tlsa(&server, NAME).is_empty());
    node.admin(&["name", "cert", "remove", NAME]);
}

#[test]
fn where_no_server_is_set_an_operator_says_that_the_key_is_published() {
    let (folder, fleet) = (scratch(), fleet(&tsig_key("mxfleet"), &[]));
    let (node, ca) = (&fleet.nodes[0], Ca::new(folder.path()));
    let root = ca.file().display().to_string();
    let (_, old) = bring(node, &ca, &[]);
    node.admin(&["name", "add", NAME, "--host", "mx1", "--published"]);
    assert!(node.admin(&["name", "zone"]).contains(&format!("TLSA 3 1 1 {old}")));
    let (cert, key) = ca.issue(&[NAME]);
    let new = key_hash(&cert.display().to_string());
    let said = bring_again(node, &cert, &key, &[]);
    assert!(said.contains("publish `mxfleet name zone` yourself"), "{said}");
    assert_eq!(node.metric("mxfleet_certificates_stuck"), 1.0);
    let zone = node.admin(&["name", "zone"]);
    for hash in [&old, &new] {
        assert!(zone.contains(&format!("TLSA 3 1 1 {hash}")), "{zone}");
    }
    await_shown(&fleet, &root, &old);
    let said = bring_again(node, &cert, &key, &["--published"]);
    assert!(said.contains("waits for senders to know its key, until 2"), "{said}");
    assert_eq!(node.metric("mxfleet_certificates_stuck"), 0.0, "time alone is in its way");
    await_shown(&fleet, &root, &new);
    let (said, _) = bring(node, &ca, &[]);
    assert!(said.contains("waits for"), "{said}");
    node.admin(&["name", "cert", "remove", NAME]);
    assert_eq!(waits_for(node), None, "it is taken back");
    node.admin(&["settings", "set", "rotation.tlsa", "remove"]);
    let remove = ["name", "cert", "remove", NAME];
    refused(&node.try_admin(&remove), "wait until they are out of DNS");
    eventually("they are out of DNS, and forgotten", SOON, || {
        let words = [&remove[..], &["--published"]].concat();
        node.try_admin(&words).status.success()
    });
}
