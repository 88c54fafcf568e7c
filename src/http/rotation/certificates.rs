//! Calls about certificates of MX names.

use mxfleet_cluster::{Certificate, CertificateCommand, Command, MxName, NextCertificate, State};

use super::super::call::{Refused, Terms};
use super::call::{CertAdded, CertRow, KeyPem};
use super::names::{spelling, until_in_dns};
use super::{Answer, RotationAdmin, also, time};
use crate::rotation::certificates;
use crate::system::clock::wall_ms;

impl RotationAdmin {
    pub(super) fn cert_list(&self) -> Answer {
        let (state, now_ms) = (self.view(), wall_ms());
        let row = |row: &Certificate, waits_for| CertRow {
            names: row.names.clone(),
            ends: time(row.ends_ms),
            waits_for,
        };
        let in_place = state.certificates().map(|known| row(known, None));
        let waits = |next| Some(waits_for(&state, next, now_ms));
        let waiting = state.waiting_certificates().map(|next| row(&next.certificate, waits(next)));
        let mut rows: Vec<CertRow> = in_place.chain(waiting).collect();
        rows.sort_by(|a, b| a.names.first().cmp(&b.names.first()));
        Ok(serde_json::json!(rows))
    }

    pub(super) async fn cert_add(
        &self,
        chain_pem: String,
        key_pem: &KeyPem,
        published: bool,
        terms: &Terms,
    ) -> Answer {
        let row = certificates::sealed(&self.cluster, chain_pem, key_pem.0.as_bytes(), None);
        let row = row.map_err(|fault| match fault {
            certificates::Fault::Vault(error) => Refused::unavailable(error.to_string()),
            certificates::Fault::Tls(error) => Refused::invalid(error.to_string()),
        })?;
        let (name, key_hash) = (row.names.first().cloned().unwrap_or_default(), row.key_hash);
        let put = Command::Certificate(CertificateCommand::Put(row));
        let changed = self.propose(put, terms).await?["changed"].as_u64().unwrap_or_default();
        let same = |next: &&NextCertificate| {
            next.certificate.names.first() == Some(&name) && next.certificate.key_hash == key_hash
        };
        if published && self.view().waiting_certificates().any(|next| same(&next)) {
            let name = name.clone();
            let seen = CertificateCommand::KeyInDns { name, key_hash, is_in_dns: true };
            self.propose(Command::Certificate(seen), &also(terms)).await?;
        }
        let state = self.view();
        let next = state.waiting_certificates().find(same);
        let waits_for = next.map(|next| waits_for(&state, next, wall_ms()));
        Ok(serde_json::json!(CertAdded { changed, waits_for }))
    }

    pub(super) async fn cert_remove(&self, name: &str, published: bool, terms: &Terms) -> Answer {
        let (name, state) = (spelling(name)?, self.view());
        if published {
            let row = state.certificates().find(|row| row.names.first() == Some(&name));
            let left = state.names_left_with_keys().map(|left| left.name.clone());
            let names: Vec<String> =
                left.filter(|left| row.is_some_and(|row| row.covers(left))).collect();
            let gone = Command::Certificate(CertificateCommand::KeysOutOfDns { names });
            self.propose(gone, &also(terms)).await?;
        }
        let remove = CertificateCommand::Remove { name };
        self.propose(Command::Certificate(remove), terms).await
    }
}

/// What a certificate waits for, in words.
pub(super) fn waits_for(state: &State, next: &NextCertificate, now_ms: u64) -> String {
    let Some(refusal) = state.why_not_in_place(next, now_ms) else { return "its turn".to_owned() };
    match next.from_ms {
        Some(from_ms) if from_ms > now_ms => {
            return format!("senders to know its key, until {}", time(from_ms));
        }
        Some(_) => return refusal.to_string(),
        None => {}
    }
    let tlsa = state.settings().get("rotation.tlsa").unwrap_or_default();
    let names = state.names_with_keys(now_ms);
    let names = names.filter(|row| next.certificate.covers(&row.name));
    // What is in DNS still is waited for longest.
    let left = names.max_by_key(|row| row.keys_until_ms).filter(|_| tlsa != "publish");
    let by_hand = "say it again with --published";
    let Some(row) = left else {
        let mut names = state.names_with_keys(now_ms);
        let is_faulty =
            |row: &&MxName| next.certificate.covers(&row.name) && row.dns_fault.is_some();
        let row = names.find(is_faulty);
        return until_in_dns(state, row, "DNS to say its key".to_owned(), by_hand);
    };
    if row.keys_until_ms < u64::MAX {
        let until = time(row.keys_until_ms);
        return format!("resolvers to forget the TLSA records of {}, until {until}", row.name);
    }
    let what = format!("DNS to forget the TLSA records of {}", row.name);
    if tlsa == "ignore" {
        return format!(
            "{what}: rotation.tlsa is ignore; take them out yourself, or set it to remove"
        );
    }
    until_in_dns(state, Some(row), what, by_hand)
}
