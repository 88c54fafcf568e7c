//! Certificates follow the names: each node opens those in the replicated state and shows them.

use std::sync::Arc;
use std::time::Duration;

use mxfleet_cluster::{Certificate, Cluster, State, VaultError};
use tokio::time::sleep;

use crate::connection::{CertificatePair, TlsError, TlsIdentity};

/// How often it is looked whether the key to open them has come.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Keeps the certificates that are shown as the state has them.
#[derive(Clone)]
pub(super) struct CertificateKeeper {
    pub(super) cluster: Cluster,
    pub(super) tls: Arc<TlsIdentity>,
    pub(super) node: u64,
}

/// Why a certificate of the state cannot be shown.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl CertificateKeeper {
    /// Never ends.
    pub(super) async fn run(self) {
        let (mut shown, mut moved) = (None, self.cluster.watch());
        loop {
            let state = self.cluster.view();
            let wanted = (state.certificates_version(), self.names_here(&state));
            if shown.as_ref() != Some(&wanted) && self.show(&state, &wanted.1) {
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
    fn show(&self, state: &State, here: &[String]) -> bool {
        let mut certificates: Vec<&Certificate> = state.certificates().collect();
        certificates.sort_by_key(|row| !row.names.iter().any(|name| here.contains(name)));
        let mut pairs = Vec::new();
        for row in certificates {
            match self.open(row) {
                Ok(pair) => pairs.push(pair),
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
