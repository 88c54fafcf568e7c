//! Certificates and their keys (RFC 7671 section 8.1): while senders may hold TLSA records of a
//! name, it shows no key that they do not expect. One with another key waits, and its key is
//! published beside the old one until everybody can know it; only then it takes its place.
//!
//! **Invariant:** a name that has TLSA records, in DNS or in resolvers, shows a key that is in all
//! of them.

use std::collections::BTreeSet;

use super::super::certificates::{
    Certificate, CertificateCommand, FormerKey, NextCertificate, check,
};
use super::super::names::{MxName, NameStage};
use super::super::{Command, Outcome, Refusal, State};

/// How many times to live a key is in DNS before it is shown.
const TTLS_BEFORE_SHOWN: u64 = 2;

impl State {
    pub(super) fn change_certificate(&mut self, at: u64, command: &CertificateCommand) -> Outcome {
        match command {
            CertificateCommand::Put(certificate) => self.put_certificate(at, certificate),
            CertificateCommand::Remove { name } => self.remove_certificate(at, name),
            CertificateCommand::Fault { name, text } => {
                let in_use = |name: &str| {
                    let row = self.rotation.names.get(name);
                    row.is_some_and(|row| !matches!(row.stage, NameStage::Removed { .. }))
                };
                if !in_use(name) {
                    return Err(Refusal::not_found(format!("there is no MX name {name}")));
                }
                self.rotation.certificates.keep_faults(in_use);
                Ok(self.rotation.certificates.set_fault(name, text.as_deref(), self.clock_ms))
            }
            CertificateCommand::KeyInDns { name, key_hash, is_in_dns } => {
                self.key_in_dns(name, key_hash, *is_in_dns)
            }
            CertificateCommand::KeysOutOfDns { names } => self.keys_out_of_dns(names),
            CertificateCommand::TakePlace { name, key_hash } => self.take_place(at, name, key_hash),
        }
    }

    fn put_certificate(&mut self, at: u64, new: &Certificate) -> Outcome {
        let name = check(new, self.clock_ms)?;
        self.check_left(name, Some(new), self.clock_ms)?;
        if self.must_wait(new, self.clock_ms) {
            self.rotation.certificates.wait(new)?;
        } else {
            self.rotation.certificates.put(at, new)?;
        }
        Ok(1)
    }

    /// One that waits is taken back first.
    fn remove_certificate(&mut self, at: u64, name: &str) -> Outcome {
        if self.rotation.certificates.forget_next(name) {
            return Ok(1);
        }
        if self.rotation.certificates.get(name).is_some() {
            self.check_left(name, None, self.clock_ms)?;
            self.keep_key(name);
        }
        self.rotation.certificates.remove(at, name)?;
        Ok(1)
    }

    fn key_in_dns(&mut self, name: &str, key_hash: &[u8; 32], is_in_dns: bool) -> Outcome {
        let next = self.require_next(name, key_hash)?;
        let from_ms = is_in_dns.then(|| {
            let known_ms = self.forgotten_ms(&next.certificate, TTLS_BEFORE_SHOWN);
            next.from_ms.unwrap_or_else(|| known_ms.unwrap_or(self.clock_ms))
        });
        let changed = next.from_ms != from_ms;
        self.rotation.certificates.set_from(name, from_ms);
        Ok(changed.into())
    }

    fn keys_out_of_dns(&mut self, names: &[String]) -> Outcome {
        if self.publishes_keys() {
            return Err(Refusal::conflict("keys are published again"));
        }
        let (mut changed, now_ms) = (0, self.clock_ms);
        for name in names {
            let Some(row) = self.rotation.names.get_mut(name) else { continue };
            if row.keys_until_ms == u64::MAX {
                row.keys_until_ms = row.keys_forgotten_ms(now_ms, 1);
                changed += 1;
            }
        }
        Ok(changed)
    }

    fn take_place(&mut self, at: u64, name: &str, key_hash: &[u8; 32]) -> Outcome {
        let next = self.require_next(name, key_hash)?.clone();
        if let Some(refusal) = self.why_not_in_place(&next, self.clock_ms) {
            return Err(refusal);
        }
        self.keep_key(name);
        self.rotation.certificates.put(at, &next.certificate)?;
        Ok(1)
    }

    fn require_next(&self, name: &str, key_hash: &[u8; 32]) -> Result<&NextCertificate, Refusal> {
        let next = self.rotation.certificates.next(name);
        next.filter(|next| next.certificate.key_hash == *key_hash).ok_or_else(|| {
            Refusal::conflict(format!("no such certificate of {} waits", name.escape_debug()))
        })
    }

    /// Why a certificate that waits does not take its place at `now_ms`, if so.
    pub fn why_not_in_place(&self, next: &NextCertificate, now_ms: u64) -> Option<Refusal> {
        let name = next.certificate.names.first().map_or("", String::as_str);
        let is_known = next.from_ms.is_some_and(|from_ms| from_ms <= now_ms);
        if !is_known && self.must_wait(&next.certificate, now_ms) {
            return Some(Refusal::conflict(format!("senders do not know the new key of {name}")));
        }
        self.check_left(name, Some(&next.certificate), now_ms).err()
    }

    /// Whether a sender may hold TLSA records of a name that the certificate is for, without its
    /// key.
    fn must_wait(&self, certificate: &Certificate, now_ms: u64) -> bool {
        let names = self.names_with_keys(now_ms).filter(|row| certificate.covers(&row.name));
        let mut keys = names.map(|row| self.keys_in_place(&row.name).collect::<Vec<_>>());
        keys.any(|keys| !keys.is_empty() && !keys.contains(&certificate.key_hash))
    }

    /// Refuse to take the certificate called by `name` away, for `new` or for nothing, if that
    /// would leave a name that has TLSA records without a key.
    fn check_left(
        &self,
        name: &str,
        new: Option<&Certificate>,
        now_ms: u64,
    ) -> Result<(), Refusal> {
        let certificates = &self.rotation.certificates;
        let Some(old) = certificates.get(name) else { return Ok(()) };
        let others = || certificates.iter().filter(|row| row.names.first() != old.names.first());
        let is_left = |row: &&MxName| {
            old.covers(&row.name) && !others().chain(new).any(|other| other.covers(&row.name))
        };
        let Some(left) = self.names_with_keys(now_ms).find(is_left) else { return Ok(()) };
        let left = &left.name;
        let how = if self.publishes_keys() {
            "or `mxfleet settings set rotation.tlsa remove` first, and wait for rotation.ttl"
        } else {
            "or wait until they are out of DNS, and rotation.ttl has passed"
        };
        Err(Refusal::conflict(format!(
            "senders hold TLSA records of {left}, and would find no key; add a certificate that is \
             for {left}, {how}"
        )))
    }

    /// The key that the certificate called by `name` leaves behind stays in DNS for a time to live,
    /// for a host that lags may still show it.
    fn keep_key(&mut self, name: &str) {
        let Some(old) = self.rotation.certificates.get(name) else { return };
        let Some(until_ms) = self.forgotten_ms(old, 1) else { return };
        let former = FormerKey { names: old.names.clone(), key_hash: old.key_hash, until_ms };
        self.rotation.certificates.keep_key(former, self.clock_ms);
    }

    /// When resolvers have forgotten the TLSA records that names of the certificate have in DNS
    /// now, with so many times to live; `None` if there are none.
    fn forgotten_ms(&self, certificate: &Certificate, ttls: u64) -> Option<u64> {
        let names = self.names_with_keys(self.clock_ms);
        let names = names.filter(|row| certificate.covers(&row.name));
        names.map(|row| row.keys_forgotten_ms(self.clock_ms, ttls)).max()
    }

    pub(in crate::state) fn publishes_keys(&self) -> bool {
        self.settings.get("rotation.tlsa") == Some("publish")
    }

    /// The setting rotation.tlsa may have changed; the keys were `published` before.
    pub(in crate::state) fn tlsa_was_set(&mut self, published: bool) {
        let publishes = self.publishes_keys();
        if publishes == published {
            return;
        }
        self.rotation.certificates.forget_from();
        if publishes {
            return;
        }
        let now_ms = self.clock_ms;
        let left: Vec<String> = self
            .rotation
            .names
            .iter()
            .filter(|row| row.may_have_keys(true, now_ms))
            .filter(|row| self.keys_in_place(&row.name).next().is_some())
            .map(|row| row.name.clone())
            .collect();
        for name in left {
            if let Some(row) = self.rotation.names.get_mut(&name) {
                row.keys_until_ms = u64::MAX;
                row.keys_ttl_s = row.keys_ttl_s.max(row.longest_ttl_s());
            }
        }
    }

    fn keys_in_place(&self, name: &str) -> impl Iterator<Item = [u8; 32]> {
        let rows = self.rotation.certificates.iter().filter(move |row| row.covers(name));
        rows.map(|row| row.key_hash)
    }

    /// Certificates that take their place.
    pub(super) fn due_certificates(&self, now_ms: u64) -> impl Iterator<Item = Command> {
        let due = move |next: &&NextCertificate| self.why_not_in_place(next, now_ms).is_none();
        self.waiting_certificates().filter(due).filter_map(|next| {
            let (name, key_hash) = (next.certificate.names.first()?, next.certificate.key_hash);
            let command = CertificateCommand::TakePlace { name: name.clone(), key_hash };
            Some(Command::Certificate(command))
        })
    }

    /// Certificates of MX names, in order of the name they are called by.
    pub fn certificates(&self) -> impl Iterator<Item = &Certificate> {
        self.rotation.certificates.iter()
    }

    /// Certificates with a key that senders do not know yet, in the same order.
    pub fn waiting_certificates(&self) -> impl Iterator<Item = &NextCertificate> {
        self.rotation.certificates.iter_next()
    }

    /// Certificates that wait for what may never come about by itself: DNS to say their key, or
    /// somebody to take another one's TLSA records out of it.
    pub fn stuck_certificates(&self, now_ms: u64) -> impl Iterator<Item = &NextCertificate> {
        let is_stuck = move |next: &&NextCertificate| {
            self.why_not_in_place(next, now_ms).is_some() && !self.has_a_date(next, now_ms)
        };
        self.waiting_certificates().filter(is_stuck)
    }

    /// Whether time alone is in the way of a certificate that waits.
    fn has_a_date(&self, next: &NextCertificate, now_ms: u64) -> bool {
        if let Some(from_ms) = next.from_ms {
            return from_ms > now_ms;
        }
        let names = self.names_with_keys(now_ms).filter(|row| next.certificate.covers(&row.name));
        let left_ms = names.map(|row| row.keys_until_ms).max();
        !self.publishes_keys() && left_ms.is_some_and(|until_ms| until_ms < u64::MAX)
    }

    /// Names, in use or to be, that the ACME server is to give a certificate, and that have none
    /// that lasts, or got none when it was last asked.
    pub fn uncertified_names(&self, now_ms: u64) -> impl Iterator<Item = &MxName> {
        let is_asked = self.settings.get("rotation.acme_directory").is_some_and(|d| !d.is_empty());
        self.rotation.names.iter().filter(move |row| {
            let is_removed = matches!(row.stage, NameStage::Removed { .. });
            let is_without = || !self.has_certificate(&row.name, now_ms);
            let is_refused = || self.certificate_fault(&row.name).is_some();
            is_asked && !is_removed && (is_refused() || is_without())
        })
    }

    /// Names that resolvers may have TLSA records of, which the fleet publishes or has published.
    pub fn names_with_keys(&self, now_ms: u64) -> impl Iterator<Item = &MxName> {
        let publishes = self.publishes_keys();
        self.rotation.names.iter().filter(move |row| row.may_have_keys(publishes, now_ms))
    }

    /// Names whose TLSA records shall leave DNS, and have not been seen to.
    pub fn names_left_with_keys(&self) -> impl Iterator<Item = &MxName> {
        let publishes = self.publishes_keys();
        self.rotation.names.iter().filter(move |row| !publishes && row.keys_until_ms == u64::MAX)
    }

    /// Whether a new name is not to go into DNS yet: the ACME server is to give it a certificate
    /// first, and it has none.
    pub fn awaits_certificate(&self, row: &MxName, now_ms: u64) -> bool {
        let directory = self.settings.get("rotation.acme_directory").unwrap_or_default();
        let is_new = row.stage == NameStage::Planned && row.target.is_none();
        let is_coming = row.aim().is_some();
        !directory.is_empty() && is_new && is_coming && !self.has_certificate(&row.name, now_ms)
    }

    /// Whether a certificate for the name has not ended.
    fn has_certificate(&self, name: &str, now_ms: u64) -> bool {
        self.certificates().any(|known| known.ends_ms > now_ms && known.covers(name))
    }

    /// The keys that a name's TLSA records tell of while they are published: what it may be found
    /// with, what it will be, and what it was a moment ago. None while it has no certificate.
    pub fn keys_of(&self, name: &str, now_ms: u64) -> BTreeSet<[u8; 32]> {
        let mut keys: BTreeSet<[u8; 32]> = self.keys_in_place(name).collect();
        if keys.is_empty() {
            return keys;
        }
        let next = self.waiting_certificates().map(|next| &next.certificate);
        keys.extend(next.filter(|next| next.covers(name)).map(|next| next.key_hash));
        let former = self.rotation.certificates.former();
        let former = former.filter(|key| now_ms < key.until_ms && key.covers(name));
        keys.extend(former.map(|key| key.key_hash));
        keys
    }
}
