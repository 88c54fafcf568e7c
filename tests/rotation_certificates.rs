//! Certificates follow names: added once, shown by every node at once, also by one that never votes
//! and after a restart.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use support::ca::Ca;
use support::fleet::{Fleet, refused};
use support::node::Node;
use support::process::attempt;
use support::{SOON, eventually, scratch};

const NAMES: [&str; 2] = ["mx-a.relay.example", "mx-b.relay.example"];

/// Whether the node shows a certificate for `name` that the authority has signed.
fn is_verified(ca: &Ca, node: &Node, asks: &[&str], name: &str) -> bool {
    let (server, file) = (node.smtp().to_string(), ca.file().display().to_string());
    let mut words = vec!["s_client", "-starttls", "smtp", "-connect", &server];
    words.extend(["-CAfile", &file, "-verify_return_error", "-verify_hostname", name]);
    words.extend(asks);
    attempt("openssl", &words).status.success()
}

#[test]
fn a_certificate_is_shown_by_every_node_at_once_and_after_a_restart() {
    let mut fleet = Fleet::start(4);
    let folder = scratch();
    let ca = Ca::new(folder.path());
    for node in &fleet.nodes {
        assert!(!is_verified(&ca, node, &["-servername", NAMES[0]], NAMES[0]));
    }
    for name in NAMES {
        let (cert, key) = ca.issue(&[name]);
        let (cert, key) = (cert.display().to_string(), key.display().to_string());
        eventually("a sealed key", SOON, || {
            let words = ["name", "cert", "add", "--cert", &cert, "--key", &key];
            fleet.nodes[3].try_admin(&words).status.success()
        });
    }
    let shown = |node: &Node| {
        NAMES.iter().all(|name| is_verified(&ca, node, &["-servername", name], name))
            && is_verified(&ca, node, &["-noservername"], NAMES[0])
    };
    for node in &fleet.nodes {
        eventually(&format!("both certificates at {}", node.name()), SOON, || shown(node));
    }
    let listed = fleet.nodes[1].json(&["name", "cert", "list"]);
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert!(!listed.to_string().contains("PRIVATE"), "keys are never shown: {listed}");
    // A node that follows keeps the key: it needs nobody to show them again.
    let follower = (0..4)
        .find(|index| fleet.status(0)["members"][*index]["role"] == "learner")
        .expect("three of four vote");
    for index in 0..4 {
        fleet.nodes[index].kill();
    }
    fleet.nodes[follower].restart();
    eventually("certificates without a quorum", SOON, || shown(&fleet.nodes[follower]));
}

#[test]
fn what_is_no_certificate_is_refused_and_a_removed_one_is_not_shown() {
    let fleet = Fleet::start(1);
    let node = &fleet.nodes[0];
    let folder = scratch();
    let ca = Ca::new(folder.path());
    let (cert, key) = ca.issue(&[NAMES[0]]);
    let (_, other_key) = ca.issue(&[NAMES[1]]);
    let words = |cert: &std::path::Path, key: &std::path::Path| {
        let (cert, key) = (cert.display().to_string(), key.display().to_string());
        ["name", "cert", "add", "--cert", &cert, "--key", &key].map(str::to_owned)
    };
    let add = |words: [String; 7]| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        node.try_admin(&words)
    };
    refused(&add(words(&cert, &other_key)), "the key: ");
    refused(&add(words(&key, &key)), "the certificate: ");
    let added = add(words(&cert, &key));
    assert!(added.status.success());
    let said = String::from_utf8_lossy(&added.stderr).into_owned();
    assert!(said.contains("warning: the fleet has no MX name mx-a.relay.example"), "{said}");
    let (old_cert, old_key) = (folder.path().join("cn.pem"), folder.path().join("cn.key"));
    let (out, keyout) = (old_cert.display().to_string(), old_key.display().to_string());
    let make = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let rest = ["-subj", "/CN=mx-a.relay.example", "-out", &out, "-keyout", &keyout];
    assert!(attempt("openssl", &[&make[..], &rest].concat()).status.success());
    refused(&add(words(&old_cert, &old_key)), "also at no CN");
    eventually("the certificate", SOON, || is_verified(&ca, node, &[], NAMES[0]));
    assert!(node.metric("mxfleet_certificate_expiry_timestamp_seconds{kind=\"smtp\"}") > 1e9);
    node.admin(&["name", "cert", "remove", NAMES[0]]);
    eventually("no certificate", SOON, || !is_verified(&ca, node, &[], NAMES[0]));
    refused(&node.try_admin(&["name", "cert", "remove", NAMES[0]]), "no certificate is called by");
}
