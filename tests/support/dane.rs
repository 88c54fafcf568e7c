//! What a sender sees of keys: the certificate a node shows, and the TLSA records of its name.

use super::dns::NameServer;
use super::node::Node;
use super::process::{attempt, output};
use super::scratch;

/// The certificate that the node shows for `name`, if `root` has signed it: its serial number and
/// the hash of its key.
pub fn shown(node: &Node, root: &str, name: &str) -> Option<(String, String)> {
    let server = node.smtp().to_string();
    let mut words = vec!["s_client", "-starttls", "smtp", "-connect", &server, "-CAfile", root];
    words.extend(["-servername", name, "-verify_hostname", name, "-verify_return_error"]);
    let shown = attempt("openssl", &words);
    if !shown.status.success() {
        return None;
    }
    let folder = scratch();
    let file = folder.path().join("shown.pem");
    std::fs::write(&file, &shown.stdout).unwrap();
    let file = file.display().to_string();
    Some((output("openssl", &["x509", "-in", &file, "-noout", "-serial"]), key_hash(&file)))
}

/// The hash of the key of the certificate in this file, as TLSA records have it.
pub fn key_hash(file: &str) -> String {
    let script = format!(
        "openssl x509 -in {file} -noout -pubkey | openssl pkey -pubin -outform der | \
         openssl dgst -sha256 -r"
    );
    output("sh", &["-c", &script]).split(' ').next().unwrap().to_owned()
}

/// As a sender reads it: the keys of TLSA 3 1 1, in lowercase and in order.
pub fn tlsa(server: &NameServer, name: &str) -> Vec<String> {
    let text = server.ask(&format!("_25._tcp.{name}"), "TLSA").to_lowercase();
    let keys = text.lines().map(|line| line.replace(' ', ""));
    let mut keys: Vec<String> =
        keys.map(|key| key.strip_prefix("311").expect("ours").to_owned()).collect();
    keys.sort_unstable();
    keys
}
