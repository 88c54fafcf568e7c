//! Certificates of MX names. They follow the names: every node has them all, with their keys
//! sealed, so that whichever host a name points at can show its certificate at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::domains::is_host_name;
use super::{Outcome, Refusal};

const CERTIFICATES_MAX: usize = 1000;
const NAMES_MAX: usize = 100;
const CHAIN_OCTETS_MAX: usize = 64 << 10;
const KEY_OCTETS_MAX: usize = 16 << 10;

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
    /// When the first certificate of the chain ends: milliseconds since 1970, UTC.
    pub ends_ms: u64,
}

impl Certificate {
    /// What its key is sealed about.
    pub fn about(&self) -> &[u8] {
        self.names.first().map_or(&[], |name| name.as_bytes())
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
}

impl CertificateCommand {
    pub(super) fn summary(&self) -> String {
        match self {
            Self::Put(certificate) => {
                format!("name cert add for {}", certificate.names.join(","))
            }
            Self::Remove { name } => format!("name cert remove {name}"),
        }
    }
}

/// The table of certificates.
#[derive(Debug, Clone, Default)]
pub(super) struct Certificates {
    rows: Arc<BTreeMap<String, Arc<Certificate>>>,
    /// The log index of the last change.
    version: u64,
}

impl Certificates {
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
            }
            CertificateCommand::Remove { name } => {
                if Arc::make_mut(&mut self.rows).remove(name).is_none() {
                    return Err(Refusal::not_found(format!(
                        "no certificate is called by {}",
                        name.escape_debug()
                    )));
                }
            }
        }
        self.version = at;
        Ok(1)
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
