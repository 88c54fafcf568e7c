//! Certificates of MX names. They follow the names: every node has them all, with their keys
//! sealed, so that whichever host a name points at can show its certificate at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Refusal;
use super::audit::clip;
use super::domains::is_host_name;

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
        cover(&self.names, name)
    }
}

fn cover(names: &[String], name: &str) -> bool {
    let parent = name.split_once('.').map_or("", |(_, parent)| parent);
    let fits = |known: &String| {
        known == name || known.strip_prefix("*.").is_some_and(|known| known == parent)
    };
    names.iter().any(fits)
}

/// A certificate with a key that senders do not know yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextCertificate {
    /// What shall be in place.
    pub certificate: Certificate,
    /// When senders know its key, once every authority was seen to tell them: milliseconds since
    /// 1970, UTC.
    pub from_ms: Option<u64>,
}

/// A key that was shown until a moment ago.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FormerKey {
    /// What it was for.
    pub(super) names: Vec<String>,
    pub(super) key_hash: [u8; 32],
    /// How long it stays in DNS: milliseconds since 1970, UTC.
    pub(super) until_ms: u64,
}

impl FormerKey {
    pub(super) fn covers(&self, name: &str) -> bool {
        cover(&self.names, name)
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
    /// Whether this is what is `known`.
    pub(super) fn is_known(known: Option<&Self>, text: Option<&str>) -> bool {
        known.map(|fault| fault.text.as_str()) == text.map(|text| clip(text, FAULT_OCTETS_MAX))
    }

    /// Put what is the matter now, if anything, in place of what is `known`; whether that is news.
    pub(super) fn tell(known: &mut Option<Self>, text: Option<&str>, now_ms: u64) -> bool {
        let text = text.map(|text| clip(text, FAULT_OCTETS_MAX));
        if Self::is_known(known.as_ref(), text) {
            return false;
        }
        // As long as something is the matter it is the same trouble, whatever is said of it.
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
    /// Whether no authority has TLSA records of its names without the key of a certificate that
    /// waits.
    KeyInDns {
        /// The name it is called by.
        name: String,
        /// Its key.
        key_hash: [u8; 32],
        /// Whether that is so.
        is_in_dns: bool,
    },
    /// No authority has TLSA records of these MX names any more.
    KeysOutOfDns {
        /// Which.
        names: Vec<String>,
    },
    /// A certificate that waits takes its place.
    TakePlace {
        /// The name it is called by.
        name: String,
        /// Its key.
        key_hash: [u8; 32],
    },
}

impl CertificateCommand {
    pub(super) fn summary(&self) -> Option<String> {
        Some(match self {
            Self::Put(certificate) => {
                format!("name cert add for {}", certificate.names.join(","))
            }
            Self::Remove { name } => format!("name cert remove {name}"),
            Self::TakePlace { name, .. } => format!("the next certificate of {name} in its place"),
            Self::Fault { .. } | Self::KeyInDns { .. } | Self::KeysOutOfDns { .. } => return None,
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
    /// What waits, by the name it is called by.
    next: Arc<BTreeMap<String, Arc<NextCertificate>>>,
    former: Arc<Vec<FormerKey>>,
}

impl Certificates {
    /// In order of name.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Certificate> {
        self.rows.values().map(Arc::as_ref)
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// What is in place, if something is called so.
    pub(super) fn get(&self, name: &str) -> Option<&Certificate> {
        self.rows.get(name).map(Arc::as_ref)
    }

    /// What waits, if something is called so.
    pub(super) fn next(&self, name: &str) -> Option<&NextCertificate> {
        self.next.get(name).map(Arc::as_ref)
    }

    pub(super) fn iter_next(&self) -> impl Iterator<Item = &NextCertificate> {
        self.next.values().map(Arc::as_ref)
    }

    pub(super) fn former(&self) -> impl Iterator<Item = &FormerKey> {
        self.former.iter()
    }

    /// Put one in its place, instead of any that is called so, also of one that waits.
    pub(super) fn put(&mut self, at: u64, new: &Certificate) -> Result<(), Refusal> {
        let name = self.room(new)?;
        self.forget_next(&name);
        Arc::make_mut(&mut self.rows).insert(name, Arc::new(new.clone()));
        Arc::make_mut(&mut self.faults).retain(|name, _| !new.covers(name));
        self.version = at;
        Ok(())
    }

    /// Have one wait for its place. What is known of its key stays known.
    pub(super) fn wait(&mut self, new: &Certificate) -> Result<(), Refusal> {
        let name = self.room(new)?;
        let same = |next: &&NextCertificate| {
            let known = &next.certificate;
            (known.key_hash, &known.names) == (new.key_hash, &new.names)
        };
        let from_ms = self.next(&name).filter(same).and_then(|next| next.from_ms);
        let next = NextCertificate { certificate: new.clone(), from_ms };
        Arc::make_mut(&mut self.next).insert(name, Arc::new(next));
        Arc::make_mut(&mut self.faults).retain(|name, _| !new.covers(name));
        Ok(())
    }

    /// The name it is called by, if there is room for it.
    fn room(&self, new: &Certificate) -> Result<String, Refusal> {
        let name = new.names.first().cloned().unwrap_or_default();
        let known = self.rows.contains_key(&name) || self.next.contains_key(&name);
        if !known && self.rows.len() + self.next.len() >= CERTIFICATES_MAX {
            return Err(Refusal::conflict("the fleet has 1000 certificates"));
        }
        Ok(name)
    }

    pub(super) fn remove(&mut self, at: u64, name: &str) -> Result<(), Refusal> {
        if Arc::make_mut(&mut self.rows).remove(name).is_none() {
            let name = name.escape_debug();
            return Err(Refusal::not_found(format!("no certificate is called by {name}")));
        }
        self.version = at;
        Ok(())
    }

    /// Whether one waited.
    pub(super) fn forget_next(&mut self, name: &str) -> bool {
        self.next.contains_key(name) && Arc::make_mut(&mut self.next).remove(name).is_some()
    }

    /// Say when senders know the key of one that waits.
    pub(super) fn set_from(&mut self, name: &str, from_ms: Option<u64>) {
        if let Some(next) = Arc::make_mut(&mut self.next).get_mut(name) {
            Arc::make_mut(next).from_ms = from_ms;
        }
    }

    /// Whether senders know the keys of those that wait is to be seen again.
    pub(super) fn forget_from(&mut self) {
        for next in Arc::make_mut(&mut self.next).values_mut() {
            Arc::make_mut(next).from_ms = None;
        }
    }

    /// Keep a key that was shown until `now_ms`.
    pub(super) fn keep_key(&mut self, key: FormerKey, now_ms: u64) {
        let former = Arc::make_mut(&mut self.former);
        former.retain(|known| known.until_ms > now_ms);
        if former.len() >= CERTIFICATES_MAX {
            former.remove(0);
        }
        former.push(key);
    }

    pub(super) fn set_fault(&mut self, name: &str, text: Option<&str>, now_ms: u64) -> u64 {
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

    pub(super) fn next_rows(&self) -> impl Iterator<Item = NextCertificate> {
        self.next.values().map(|next| NextCertificate::clone(next))
    }

    pub(super) fn absorb_next(&mut self, rows: Vec<NextCertificate>) {
        let table = Arc::make_mut(&mut self.next);
        for next in rows {
            if let Some(name) = next.certificate.names.first() {
                table.insert(name.clone(), Arc::new(next));
            }
        }
    }

    pub(super) fn former_rows(&self) -> impl Iterator<Item = FormerKey> {
        self.former.iter().cloned()
    }

    pub(super) fn absorb_former(&mut self, rows: Vec<FormerKey>) {
        Arc::make_mut(&mut self.former).extend(rows);
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
pub(super) fn check(certificate: &Certificate, now_ms: u64) -> Result<&str, Refusal> {
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

    fn certificate(names: &[&str], ends_ms: u64) -> Certificate {
        Certificate {
            names: names.iter().map(ToString::to_string).collect(),
            chain_pem: "chain".to_owned(),
            sealed_key: vec![1],
            key_hash: [names.len().try_into().unwrap(); 32],
            ends_ms,
        }
    }

    #[test]
    fn a_newer_certificate_replaces_the_one_of_the_same_name() {
        let mut table = Certificates::default();
        table.put(3, &certificate(&["mx-a.relay.test", "*.mx.relay.test"], 10)).unwrap();
        table.put(4, &certificate(&["mx-a.relay.test"], 20)).unwrap();
        let rows: Vec<&Certificate> = table.iter().collect();
        assert_eq!((rows.len(), rows[0].ends_ms, table.version()), (1, 20, 4));
        table.remove(5, "mx-a.relay.test").unwrap();
        table.remove(6, "mx-a.relay.test").unwrap_err();
    }

    #[test]
    fn one_that_waits_is_kept_beside_and_what_is_known_of_its_key_stays() {
        let mut table = Certificates::default();
        table.put(3, &certificate(&["mx-a.relay.test"], 10)).unwrap();
        let next = certificate(&["mx-a.relay.test", "b.test"], 20);
        table.wait(&next).unwrap();
        table.set_from("mx-a.relay.test", Some(7));
        table.wait(&Certificate { ends_ms: 30, ..next.clone() }).unwrap();
        let waits = table.next("mx-a.relay.test").unwrap();
        assert_eq!((waits.from_ms, waits.certificate.ends_ms, table.version()), (Some(7), 30, 3));
        table.wait(&Certificate { key_hash: [9; 32], ..next }).unwrap();
        assert_eq!(table.next("mx-a.relay.test").unwrap().from_ms, None, "another key");
        table.put(4, &certificate(&["mx-a.relay.test"], 40)).unwrap();
        assert_eq!(table.iter_next().count(), 0);
    }

    #[test]
    fn former_keys_are_kept_for_their_time() {
        let mut table = Certificates::default();
        let key = |until_ms| FormerKey { names: Vec::new(), key_hash: [1; 32], until_ms };
        table.keep_key(key(10), 5);
        table.keep_key(key(20), 9);
        table.keep_key(key(30), 10);
        assert_eq!(table.former().map(|key| key.until_ms).collect::<Vec<_>>(), [20, 30]);
    }

    #[test]
    fn why_a_name_has_none_is_known_until_it_has_one() {
        let mut table = Certificates::default();
        let name = "mx-a.relay.test";
        assert_eq!(table.set_fault(name, Some("no such directory"), 5), 1);
        assert_eq!(table.set_fault(name, Some("no such directory"), 6), 0);
        assert_eq!(table.set_fault(name, Some("too many"), 7), 1);
        let known = Fault { text: "too many".to_owned(), since_ms: 5 };
        assert_eq!((table.fault(name), table.version()), (Some(&known), 0));
        table.put(5, &certificate(&["*.relay.test"], 10)).unwrap();
        assert_eq!(table.fault(name), None);
    }

    #[test]
    fn what_is_no_certificate_of_names_is_refused() {
        for (names, ends_ms) in
            [(&[][..], 10), (&["MX.test"], 10), (&["a b"], 10), (&["*"], 10), (&["mx.test"], 5)]
        {
            assert!(check(&certificate(names, ends_ms), 5).is_err(), "{names:?}");
        }
        assert_eq!(check(&certificate(&["*.mx.test"], 10), 5), Ok("*.mx.test"));
    }
}
