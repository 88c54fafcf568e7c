//! Certificates follow the names: each node opens those in the replicated state and shows them.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use mxfleet_cluster::{Certificate, Cluster, State, VaultError};
use tokio::time::sleep;

use crate::connection::{CertificatePair, TlsError, TlsIdentity};
use crate::system::clock::wall_ms;

/// How often it is looked whether the key to open them has come.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Keeps the certificates that are shown as the state has them.
#[derive(Clone)]
pub(super) struct CertificateKeeper {
    pub(super) cluster: Cluster,
    pub(super) tls: Arc<TlsIdentity>,
    pub(super) node: u64,
}

/// Why a certificate cannot go into the state, or be shown from it.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Its key cannot be sealed or opened.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// It is of no use.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A certificate that is sound, with its key sealed. Both are PEM. It is `called` by one of its
/// names, or by the first it has.
pub fn sealed(
    cluster: &Cluster,
    chain_pem: String,
    key_pem: &[u8],
    called: Option<&str>,
) -> Result<Certificate, Fault> {
    let pair = CertificatePair::parse(chain_pem.as_bytes(), key_pem)?;
    let ends_s = pair.ends.and_then(|ends| u64::try_from(ends).ok()).unwrap_or_default();
    let (mut names, key_hash, ends_ms) = (pair.names, pair.key_hash, ends_s * 1000);
    names.sort_by_key(|name| called.is_some_and(|called| called != name));
    let mut row = Certificate { names, chain_pem, sealed_key: Vec::new(), key_hash, ends_ms };
    row.sealed_key = cluster.seal(row.about(), key_pem)?;
    Ok(row)
}

impl CertificateKeeper {
    /// Never ends.
    pub(super) async fn run(self) {
        let (mut shown, mut moved) = (None, self.cluster.watch());
        loop {
            let (state, now_ms) = (self.cluster.view(), wall_ms());
            let ended = state.certificates().filter(|row| row.ends_ms <= now_ms).count();
            let wanted = (state.certificates_version(), ended, self.names_here(&state));
            if shown.as_ref() != Some(&wanted) && self.show(&state, &wanted.2, now_ms) {
                shown = Some(wanted);
            }
            tokio::select! {
                _ = moved.changed() => {}
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Names by which mail comes here: who asks for none gets a certificate of one of them.
    fn names_here(&self, state: &State) -> Vec<String> {
        let here = state.aimed_at(self.node);
        here.map(|row| row.name.clone()).collect()
    }

    /// Show what there is. False if it must be tried again.
    fn show(&self, state: &State, here: &[String], now_ms: u64) -> bool {
        let mut pairs = Vec::new();
        for (row, names) in shown(state.certificates(), here, now_ms) {
            match self.open(row) {
                Ok(mut pair) => {
                    pair.names = names;
                    pairs.push(pair);
                }
                Err(Fault::Vault(VaultError::NoKey)) => return false,
                Err(error) => {
                    let name = row.names.first().map_or("", String::as_str);
                    tracing::error!(%error, name, "a certificate of the fleet is of no use");
                }
            }
        }
        tracing::info!("{} certificates of the fleet are shown", pairs.len());
        self.tls.replace_fleets(pairs);
        true
    }

    fn open(&self, row: &Certificate) -> Result<CertificatePair, Fault> {
        let key = self.cluster.open_sealed(row.about(), &row.sealed_key)?;
        Ok(CertificatePair::parse(row.chain_pem.as_bytes(), &key)?)
    }
}

/// What is shown, and for which names: first what is for a name by which mail comes here, and of
/// those what lasts longest. A certificate that has ended is shown only for names that no other is
/// for: so it does not hide a wildcard's.
fn shown<'a>(
    rows: impl Iterator<Item = &'a Certificate>,
    here: &[String],
    now_ms: u64,
) -> Vec<(&'a Certificate, Vec<String>)> {
    let mut rows: Vec<&Certificate> = rows.collect();
    let is_here = |row: &Certificate| here.iter().any(|name| row.covers(name));
    rows.sort_by_key(|row| (!is_here(row), row.ends_ms <= now_ms, Reverse(row.ends_ms)));
    let lasts = |row: &Certificate| row.ends_ms > now_ms;
    let is_needed = |name: &str| !rows.iter().any(|other| lasts(other) && other.covers(name));
    let names_of = |row: &Certificate| -> Vec<String> {
        let names = row.names.iter();
        names.filter(|name| lasts(row) || is_needed(name)).cloned().collect()
    };
    let shown = rows.iter().map(|row| (*row, names_of(row)));
    shown.filter(|(_, names)| !names.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(names: &[&str], ends_ms: u64) -> Certificate {
        let names = names.iter().map(ToString::to_string).collect();
        let (chain_pem, sealed_key, key_hash) = (String::new(), Vec::new(), [0; 32]);
        Certificate { names, chain_pem, sealed_key, key_hash, ends_ms }
    }

    /// End and names of what is shown at 50 where mail comes by mx-b.
    fn shown_at_50(rows: &[Certificate]) -> Vec<(u64, String)> {
        let here = ["mx-b.relay.test".to_owned()];
        let shown = shown(rows.iter(), &here, 50).into_iter();
        shown.map(|(row, names)| (row.ends_ms, names.join(" "))).collect()
    }

    #[test]
    fn one_that_has_ended_does_not_hide_another() {
        let (a, b, all) = ("mx-a.relay.test", "mx-b.relay.test", "*.relay.test");
        let rows = [row(&[a, "mx.else.test"], 50), row(&[b], 40), row(&[all], 90)];
        assert_eq!(shown_at_50(&rows), [(90, all.to_owned()), (50, "mx.else.test".to_owned())]);
        let rows = [row(&[a], 40), row(&[b], 30)];
        assert_eq!(
            shown_at_50(&rows),
            [(30, b.to_owned()), (40, a.to_owned())],
            "for want of more"
        );
    }

    #[test]
    fn of_two_for_a_name_the_one_is_shown_that_lasts_longer() {
        let (a, b) = ("mx-a.relay.test", "mx-b.relay.test");
        let rows = [row(&[a, b], 60), row(&[b, a], 80), row(&[a], 90)];
        assert_eq!(
            shown_at_50(&rows).iter().map(|(ends, _)| *ends).collect::<Vec<_>>(),
            [80, 60, 90]
        );
    }
}
