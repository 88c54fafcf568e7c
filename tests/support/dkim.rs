//! DKIM keys and signatures of senders (RFC 6376, RFC 8463).

use mail_auth::common::crypto::Ed25519Key;
use mail_auth::common::headers::HeaderWriter as _;
use mail_auth::dkim::DkimSigner;
use rcgen::{KeyPair, PKCS_ED25519};

/// A key with the selector `s`.
#[derive(Debug)]
pub struct Signer(KeyPair);

impl Signer {
    /// A new key.
    pub fn new() -> Self {
        Self(KeyPair::generate_for(&PKCS_ED25519).unwrap())
    }

    /// The line of a zone that publishes it.
    pub fn record(&self) -> String {
        // In front of the key stand twelve octets, which are sixteen digits of base64.
        let pem = self.0.public_key_pem();
        let key = &pem.lines().find(|line| !line.starts_with('-')).unwrap()[16..];
        format!("s._domainkey TXT \"v=DKIM1; k=ed25519; p={key}\"")
    }

    /// The message with a signature of `domain` above it.
    pub fn sign(&self, domain: &str, message: &str) -> String {
        let key = Ed25519Key::from_pkcs8_maybe_unchecked_der(&self.0.serialize_der()).unwrap();
        let signer = DkimSigner::from_key(key).domain(domain).selector("s");
        let signer = signer.headers(["From", "To", "Subject", "Date"]);
        let mut signed = Vec::new();
        signer.sign(message.as_bytes()).unwrap().write_header(&mut signed);
        String::from_utf8(signed).unwrap() + message
    }
}
