//! Certificates of MX names. They follow the names: every node has them all, with their keys
//! sealed, so that whichever host a name points at can show its certificate at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::audit::clip;
use super::domains::is_host_name;
use super::{Outcome, Refusal};

const CERTIFICATES_MAX: usize = 1000;
const NAMES_MAX: usize = 100;
const CHAIN_OCTETS_MAX: usize = 64 << 10;
const KEY_OCTETS_MAX: usize = 16 << 10;
/// What is kept of the words about a fault.
const FAULT_OCTETS_MAX: usize = 2000;

/// A certificate with its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The names it is for, lowercase, `*.` in front of a wildcard's; the first is what it is
    /// called by.
    pub names: Vec<String>,
    /// The chain, leaf first, as PEM.
    pub chain_pem: String,
    /// The key as PEM, sealed by [`crate::Cluster::seal`] about the first name.
    pub sealed_key: Vec<u8>,
    /// SHA-256 of the public key as the certificate has it: what a TLSA record says (RFC 7671
    /// section 5.1).
    pub key_hash: [u8; 32],
    /// When the first certificate of the chain ends: milliseconds since 1970, UTC.
    pub ends_ms: u64,
}

impl Certificate {
    /// What its key is sealed about.
    pub fn about(&self) -> &[u8] {
        self.names.first().map_or(&[], |name| name.as_bytes())
    }

    /// Whether it is for `name`, itself or by a wildcard of one label.
    pub fn covers(&self, name: &str) -> bool {
        let parent = name.split_once('.').map_or("", |(_, parent)| parent);
        let fits = |known: &String| {
            known == name || known.strip_prefix("*.").is_some_and(|known| known == parent)
        };
        self.names.iter().any(fits)
    }
}

/// Why something the fleet does by itself does not come about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// In plain words.
    pub text: String,
    /// Since when there is one: milliseconds since 1970, UTC.
    pub since_ms: u64,
}

impl Fault {
    /// Put what is the matter now, if anything, in place of what is `known`; whether that is news.
    pub(super) fn tell(known: &mut Option<Self>, text: Option<&str>, now_ms: u64) -> bool {
        let text = text.map(|text| clip(text, FAULT_OCTETS_MAX));
        if known.as_ref().map(|fault| fault.text.as_str()) == text {
            return false;
        }
        let since_ms = known.as_ref().map_or(now_ms, |fault| fault.since_ms);
        *known = text.map(|text| Self { text: text.to_owned(), since_ms });
        true
    }
}

/// What can be done with certificates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CertificateCommand {
    /// Add one, or replace the one called by the same name.
    Put(Certificate),
    /// Remove one.
    Remove {
        /// The name it is called by.
        name: String,
    },
    /// Why an MX name gets no certificate from the ACME server; `None` when it does again.
    Fault {
        /// The MX name.
        name: String,
        /// In plain words.
        text: Option<String>,
    },
}

impl CertificateCommand {
    pub(super) fn summary(&self) -> Option<String> {
        Some(match self {
            Self::Put(certificate) => {
                format!("name cert add for {}", certificate.names.join(","))
            }
            Self::Remove { name } => format!("name cert remove {name}"),
            Self::Fault { .. } => return None,
        })
    }
}

/// The table of certificates.
#[derive(Debug, Clone, Default)]
pub(super) struct Certificates {
    rows: Arc<BTreeMap<String, Arc<Certificate>>>,
    /// The log index of the last change.
    version: u64,
    /// By MX name: why it gets none.
    faults: Arc<BTreeMap<String, Fault>>,
}

impl Certificates {
    /// Refuse what would have senders see another key than DNS tells them to expect.
    pub(super) fn check_keys(&self, command: &CertificateCommand) -> Result<(), Refusal> {
        let (name, other) = match command {
            CertificateCommand::Put(new) => {
                let replaced = self.iter().find(|row| {
                    row.key_hash != new.key_hash
                        && (row.names.iter().any(|name| new.covers(name))
                            || new.names.iter().any(|name| row.covers(name)))
                });
                match replaced {
                    Some(row) => (row.names.first(), "another key"),
                    None => return Ok(()),
                }
            }
            CertificateCommand::Remove { name } => (Some(name), "no key"),
            CertificateCommand::Fault { .. } => return Ok(()),
        };
        Err(Refusal::conflict(format!(
            "senders hold TLSA records of {}, and would find {other}; `mxfleet settings set \
             rotation.tlsa remove`, wait for rotation.ttl, and do it then",
            name.map_or("", String::as_str).escape_debug()
        )))
    }

    /// In order of name.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Certificate> {
        self.rows.values().map(Arc::as_ref)
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn apply(&mut self, at: u64, command: &CertificateCommand, now_ms: u64) -> Outcome {
        match command {
            CertificateCommand::Put(certificate) => {
                let name = check(certificate, now_ms)?;
                let known = self.rows.contains_key(name);
                if !known && self.rows.len() >= CERTIFICATES_MAX {
                    return Err(Refusal::conflict("the fleet has 1000 certificates"));
                }
                let rows = Arc::make_mut(&mut self.rows);
                rows.insert(name.to_owned(), Arc::new(certificate.clone()));
                Arc::make_mut(&mut self.faults).retain(|name, _| !certificate.covers(name));
            }
            CertificateCommand::Remove { name } => {
                if Arc::make_mut(&mut self.rows).remove(name).is_none() {
                    return Err(Refusal::not_found(format!(
                        "no certificate is called by {}",
                        name.escape_debug()
                    )));
                }
            }
            CertificateCommand::Fault { name, text } => {
                return Ok(self.set_fault(name, text.as_deref(), now_ms));
            }
        }
        self.version = at;
        Ok(1)
    }

    fn set_fault(&mut self, name: &str, text: Option<&str>, now_ms: u64) -> u64 {
        let mut fault = self.faults.get(name).cloned();
        if !Fault::tell(&mut fault, text, now_ms) {
            return 0;
        }
        let faults = Arc::make_mut(&mut self.faults);
        match fault {
            Some(fault) => faults.insert(name.to_owned(), fault),
            None => faults.remove(name),
        };
        1
    }

    /// Why a name gets no certificate, if so.
    pub(super) fn fault(&self, name: &str) -> Option<&Fault> {
        self.faults.get(name)
    }

    /// Forget names that there are no more.
    pub(super) fn keep_faults(&mut self, wanted: impl Fn(&str) -> bool) {
        if !self.faults.keys().all(|name| wanted(name)) {
            Arc::make_mut(&mut self.faults).retain(|name, _| wanted(name));
        }
    }

    pub(super) fn faults(&self) -> impl Iterator<Item = (String, Fault)> {
        self.faults.iter().map(|(name, fault)| (name.clone(), fault.clone()))
    }

    pub(super) fn absorb_faults(&mut self, rows: Vec<(String, Fault)>) {
        Arc::make_mut(&mut self.faults).extend(rows);
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = Certificate> {
        self.rows.values().map(|certificate| Certificate::clone(certificate))
    }

    pub(super) fn absorb(&mut self, rows: Vec<Certificate>, version: u64) {
        self.version = version;
        let table = Arc::make_mut(&mut self.rows);
        for certificate in rows {
            if let Some(name) = certificate.names.first() {
                table.insert(name.clone(), Arc::new(certificate));
            }
        }
    }
}

/// Whether it can be kept; the name it is called by.
fn check(certificate: &Certificate, now_ms: u64) -> Result<&str, Refusal> {
    let names = &certificate.names;
    let good = |name: &String| {
        let host = name.strip_prefix("*.").unwrap_or(name);
        is_host_name(host) && !host.bytes().any(|b| b.is_ascii_uppercase())
    };
    let first = names.first().filter(|_| names.len() <= NAMES_MAX && names.iter().all(good));
    let Some(first) = first else {
        return Err(Refusal::invalid("a certificate is for 1 to 100 host names in lowercase"));
    };
    if certificate.chain_pem.len() > CHAIN_OCTETS_MAX
        || certificate.sealed_key.len() > KEY_OCTETS_MAX
    {
        return Err(Refusal::invalid("a chain has at most 64 KiB, a key 16 KiB"));
    }
    if certificate.ends_ms <= now_ms {
        return Err(Refusal::invalid(format!("the certificate for {first} has ended")));
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(names: &[&str], ends_ms: u64) -> CertificateCommand {
        CertificateCommand::Put(Certificate {
            names: names.iter().map(ToString::to_string).collect(),
            chain_pem: "chain".to_owned(),
            sealed_key: vec![1],
            key_hash: [names.len().try_into().unwrap(); 32],
            ends_ms,
        })
    }

    #[test]
    fn a_newer_certificate_replaces_the_one_of_the_same_name() {
        let mut table = Certificates::default();
        table.apply(3, &certificate(&["mx-a.relay.test", "*.mx.relay.test"], 10), 5).unwrap();
        table.apply(4, &certificate(&["mx-a.relay.test"], 20), 5).unwrap();
        let rows: Vec<&Certificate> = table.iter().collect();
        assert_eq!((rows.len(), rows[0].ends_ms, table.version()), (1, 20, 4));
        let remove = CertificateCommand::Remove { name: "mx-a.relay.test".to_owned() };
        assert_eq!(table.apply(5, &remove, 5), Ok(1));
        assert!(table.apply(6, &remove, 5).is_err());
    }

    #[test]
    fn a_key_that_dns_tells_of_stays() {
        let mut table = Certificates::default();
        table.apply(3, &certificate(&["mx-a.relay.test"], 10), 5).unwrap();
        for good in [&["mx-a.relay.test"][..], &["mx-b.relay.test", "mx-c.relay.test"]] {
            table.check_keys(&certificate(good, 20)).unwrap();
        }
        for bad in [&["mx-a.relay.test", "b.test"][..], &["*.relay.test", "b.test"]] {
            table.check_keys(&certificate(bad, 20)).unwrap_err();
        }
        let remove = CertificateCommand::Remove { name: "mx-a.relay.test".to_owned() };
        table.check_keys(&remove).unwrap_err();
    }

    #[test]
    fn why_a_name_has_none_is_known_until_it_has_one() {
        let mut table = Certificates::default();
        let fault = |text: Option<&str>| CertificateCommand::Fault {
            name: "mx-a.relay.test".to_owned(),
            text: text.map(Into::into),
        };
        assert_eq!(table.apply(3, &fault(Some("no such directory")), 5), Ok(1));
        assert_eq!(table.apply(4, &fault(Some("no such directory")), 6), Ok(0));
        assert_eq!(table.apply(4, &fault(Some("too many")), 7), Ok(1));
        let known = Fault { text: "too many".to_owned(), since_ms: 5 };
        assert_eq!((table.fault("mx-a.relay.test"), table.version()), (Some(&known), 0));
        table.apply(5, &certificate(&["*.relay.test"], 10), 8).unwrap();
        assert_eq!(table.fault("mx-a.relay.test"), None);
    }

    #[test]
    fn what_is_no_certificate_of_names_is_refused() {
        let mut table = Certificates::default();
        for (names, ends_ms) in
            [(&[][..], 10), (&["MX.test"], 10), (&["a b"], 10), (&["*"], 10), (&["mx.test"], 5)]
        {
            assert!(table.apply(1, &certificate(names, ends_ms), 5).is_err(), "{names:?}");
        }
        assert_eq!(table.iter().count(), 0);
    }
}
