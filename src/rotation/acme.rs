//! Certificates for MX names from an ACME server (RFC 8555), proven by DNS-01: a name has one
//! before it points anywhere, and the host that it points at does not matter.
//!
//! The leader asks. A certificate is renewed with its key, so that what TLSA records say stays
//! true.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, NewAccount,
    NewOrder, Order, OrderStatus, RetryPolicy,
};
use mxfleet_cluster::{
    Certificate, CertificateCommand, Cluster, Command, NameStage, Request, State, VaultError,
    random_id,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::certificates::{self, sealed};
use super::dns::{self, DnsPublisher};
use crate::system::clock::wall_ms;

const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A name that failed is left alone for this: servers allow few failures an hour.
const PAUSE: Duration = Duration::from_mins(15);
/// How long the server may take to look at DNS, and to sign.
const PATIENCE: RetryPolicy = RetryPolicy::new().timeout(Duration::from_mins(5));
/// Who asks, for the audit trail.
const ACTOR: &str = "acme";

/// How an ACME server is asked.
#[derive(Debug, Clone)]
pub struct Acme {
    /// Roots its own certificate is checked by; `None` means the system's.
    pub ca_file: Option<PathBuf>,
    /// Where this host keeps its account.
    pub account_file: PathBuf,
}

/// Gets certificates for the fleet while this node leads.
#[derive(Clone)]
pub(super) struct CertificateIssuer {
    cluster: Cluster,
    dns: DnsPublisher,
    acme: Acme,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("the ACME server: {0}")]
    Acme(#[from] instant_acme::Error),
    #[error("the ACME server does not offer DNS-01 for the name")]
    NoChallenge,
    #[error("the ACME server did not find the name ours: {0}")]
    Denied(String),
    #[error("the challenge is not in DNS: {0}")]
    Dns(#[from] dns::Fault),
    #[error("the key: {0}")]
    Key(#[from] rcgen::Error),
    #[error("the account file {}: {source}", path.display())]
    Account { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Certificate(#[from] certificates::Fault),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("the fleet did not take it: {0}")]
    Refused(String),
}

/// An account, and where it is.
#[derive(Serialize, Deserialize)]
struct StoredAccount {
    directory: String,
    credentials: AccountCredentials,
}

impl CertificateIssuer {
    pub(super) fn new(cluster: Cluster, dns: DnsPublisher, acme: Acme) -> Self {
        Self { cluster, dns, acme }
    }

    /// Never ends.
    pub(super) async fn run(self) {
        let mut paused: HashMap<String, Instant> = HashMap::new();
        let mut asked = String::new();
        loop {
            sleep(LOOK_EVERY).await;
            let state = self.cluster.view();
            let directory = state.settings().get("rotation.acme_directory").unwrap_or_default();
            if directory.is_empty() || !self.cluster.leads() {
                continue;
            }
            let primary = state.settings().get("rotation.dns_primary").unwrap_or_default();
            let asks = format!("{directory} {primary}");
            if asks != asked {
                (paused, asked) = (HashMap::new(), asks); // it may be right now
            }
            paused.retain(|_, until| *until > Instant::now());
            let now_ms = wall_ms();
            let due = due(&state, now_ms).find(|name| !paused.contains_key(*name));
            let Some(name) = due else { continue };
            match self.issue(&state, directory, name).await {
                Ok(()) => tracing::info!(name, "there is a new certificate"),
                Err(error) => {
                    tracing::warn!(name, "there is no certificate: {error}");
                    self.tell(name, &error).await;
                    paused.insert(name.to_owned(), Instant::now() + PAUSE);
                }
            }
        }
    }

    /// Tell the fleet why a name gets none, so that an operator sees it on any node.
    async fn tell(&self, name: &str, fault: &Fault) {
        let (name, text) = (name.to_owned(), Some(fault.to_string()));
        let command = Command::Certificate(CertificateCommand::Fault { name, text });
        let request = Request::new(random_id(), ACTOR, wall_ms(), command);
        match self.cluster.propose(request).await {
            Ok(Ok(_)) => {}
            // It was removed meanwhile; or the next failure is told.
            Ok(Err(refusal)) => tracing::debug!(%refusal, "a name without a certificate is gone"),
            Err(error) => tracing::debug!(%error, "that a certificate is missing is not told"),
        }
    }

    async fn issue(&self, state: &State, directory: &str, name: &str) -> Result<(), Fault> {
        let account = self.account(state, directory).await?;
        let identifiers = [Identifier::Dns(name.to_owned())];
        let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
        let owner = format!("_acme-challenge.{name}");
        let proven = self.prove(&mut order, &owner).await;
        // What is left over would only confuse who looks at the zone.
        if let Err(error) = self.dns.publish_text(owner, None).await {
            tracing::warn!(name, "the challenge stays in DNS: {error}");
        }
        proven?;
        let key = self.key(state, name)?;
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        order.finalize_csr(params.serialize_request(&key)?.der()).await?;
        let chain_pem = order.poll_certificate(&PATIENCE).await?;
        let row = sealed(&self.cluster, chain_pem, key.serialize_pem().as_bytes())?;
        let command = Command::Certificate(CertificateCommand::Put(row));
        match self.cluster.propose(Request::new(random_id(), ACTOR, wall_ms(), command)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(refusal)) => Err(Fault::Refused(refusal.to_string())),
            Err(error) => Err(Fault::Refused(error.to_string())),
        }
    }

    /// Show the server that the name is ours.
    async fn prove(&self, order: &mut Order, owner: &str) -> Result<(), Fault> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let challenge = authorization.challenge(ChallengeType::Dns01);
            let mut challenge = challenge.ok_or(Fault::NoChallenge)?;
            let text = challenge.key_authorization().dns_value();
            self.dns.publish_text(owner.to_owned(), Some(text)).await?;
            challenge.set_ready().await?;
        }
        match order.poll_ready(&PATIENCE).await? {
            OrderStatus::Ready | OrderStatus::Valid => Ok(()),
            other => Err(Fault::Denied(format!("the order is {other:?}"))),
        }
    }

    /// The key the name has already, or a new one.
    fn key(&self, state: &State, name: &str) -> Result<KeyPair, Fault> {
        let called_so = |row: &&Certificate| row.names.first().is_some_and(|first| first == name);
        let Some(row) = state.certificates().find(called_so) else {
            return Ok(KeyPair::generate()?);
        };
        let pem = self.cluster.open_sealed(row.about(), &row.sealed_key)?;
        Ok(KeyPair::from_pem(&String::from_utf8_lossy(&pem))?)
    }

    /// This host's account at the server; made when there is none.
    async fn account(&self, state: &State, directory: &str) -> Result<Account, Fault> {
        let builder = || match &self.acme.ca_file {
            Some(file) => Account::builder_with_root(file),
            None => Account::builder(),
        };
        let path = &self.acme.account_file;
        let failed = |source| Fault::Account { path: path.clone(), source };
        match read(path) {
            Ok(stored) if stored.directory == directory => {
                return Ok(builder()?.from_credentials(stored.credentials).await?);
            }
            Ok(_) => {} // it is another server's
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let address = state.settings().get("service.address").unwrap_or_default();
        let address = format!("mailto:{address}");
        let contact = [address.as_str()];
        let contact = if address == "mailto:" { &[][..] } else { &contact[..] };
        let wanted =
            NewAccount { contact, terms_of_service_agreed: true, only_return_existing: false };
        let made = builder()?.create(&wanted, directory.to_owned(), None).await?;
        let (account, credentials) = made;
        let stored = StoredAccount { directory: directory.to_owned(), credentials };
        write(path, &stored).map_err(failed)?;
        Ok(account)
    }
}

fn read(path: &Path) -> io::Result<StoredAccount> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

fn write(path: &Path, stored: &StoredAccount) -> io::Result<()> {
    let draft = path.with_extension("draft");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(&serde_json::to_vec(stored)?)?;
    file.sync_all()?;
    std::fs::rename(draft, path)
}

/// Names in use, or to be, that have no certificate that will last.
fn due(state: &State, now_ms: u64) -> impl Iterator<Item = &str> {
    let names = state.names().filter(|row| !matches!(row.stage, NameStage::Removed { .. }));
    names.map(|row| row.name.as_str()).filter(move |name| {
        let mut known = state.certificates().filter(|row| row.covers(name));
        !known.any(|row| renew_ms(row) > now_ms)
    })
}

/// When a certificate is to be renewed: after two thirds of its life.
fn renew_ms(row: &Certificate) -> u64 {
    let leaf = CertificateDer::from_pem_slice(row.chain_pem.as_bytes()).ok();
    let begins = leaf.and_then(|leaf| {
        let (_, certificate) = x509_parser::parse_x509_certificate(&leaf).ok()?;
        u64::try_from(certificate.validity().not_before.timestamp()).ok()
    });
    let begins_ms = begins.map_or(row.ends_ms, |begins_s| begins_s * 1000);
    row.ends_ms - row.ends_ms.saturating_sub(begins_ms) / 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_after_two_thirds_of_its_life() {
        let mut params = CertificateParams::new(vec!["mx.test".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 4, 1);
        let chain_pem = params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
        let (names, sealed_key, key_hash) = (vec!["mx.test".to_owned()], Vec::new(), [0; 32]);
        let ends_ms = 1_775_001_600_000;
        let row = Certificate { names, chain_pem, sealed_key, key_hash, ends_ms };
        // The 2nd of March 2026.
        let day = jiff::Timestamp::from_millisecond(i64::try_from(renew_ms(&row)).unwrap());
        assert!(day.unwrap().to_string().starts_with("2026-03-02"), "{}", renew_ms(&row));
        let broken = Certificate { chain_pem: "no".to_owned(), ..row };
        assert_eq!(renew_ms(&broken), ends_ms);
    }

    #[test]
    fn an_account_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acme-account.json");
        assert_eq!(read(&path).err().unwrap().kind(), io::ErrorKind::NotFound);
        let credentials = serde_json::from_value(serde_json::json!({
            "id": "https://acme.test/1", "key_pkcs8": "AAAA", "directory": "https://acme.test/dir"
        }));
        let directory = "https://acme.test/dir".to_owned();
        write(&path, &StoredAccount { directory, credentials: credentials.unwrap() }).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&path).unwrap().directory, "https://acme.test/dir");
    }
}
