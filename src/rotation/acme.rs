//! Certificates for MX names from an ACME server (RFC 8555), proven by DNS-01: so a name has one
//! before it points anywhere, for it waits for that (`State::awaits_certificate`), and the host
//! that it points at does not matter.
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
    Certificate, CertificateCommand, Cluster, Command, MxName, NameStage, Request, State,
    VaultError, random_id,
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
    #[error(
        "the certificate it has is also for {0}, which is no MX name: renew that by `mxfleet name \
         cert add`, or `mxfleet name cert remove` it"
    )]
    Given(String),
}

/// A certificate to be asked for.
#[derive(Debug, PartialEq)]
struct NewCertificate {
    /// The names it is for; the first is what it will be called by.
    names: Vec<String>,
    /// What the certificate is called by whose key is kept.
    key_of: Option<String>,
    /// A name of the one it would replace that it would not be for.
    would_lose: Option<String>,
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
            let order = NewCertificate::of(&state, name);
            match self.issue(&state, directory, &order).await {
                Ok(()) => tracing::info!(name, "there is a new certificate"),
                Err(error) => {
                    tracing::warn!(name, "there is no certificate: {error}");
                    for name in order.names {
                        self.tell(&name, &error).await;
                        paused.insert(name, Instant::now() + PAUSE);
                    }
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

    async fn issue(
        &self,
        state: &State,
        directory: &str,
        new: &NewCertificate,
    ) -> Result<(), Fault> {
        if let Some(name) = &new.would_lose {
            return Err(Fault::Given(name.clone()));
        }
        let account = self.account(state, directory).await?;
        let identifiers: Vec<_> = new.names.iter().cloned().map(Identifier::Dns).collect();
        let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
        let mut owners = Vec::new();
        let proven = self.prove(&mut order, &mut owners).await;
        for owner in owners {
            // What is left over would only confuse who looks at the zone.
            if let Err(error) = self.dns.publish_text(owner.clone(), None).await {
                tracing::warn!(owner, "the challenge stays in DNS: {error}");
            }
        }
        proven?;
        let key = self.key(state, new)?;
        let mut params = CertificateParams::new(new.names.clone())?;
        params.distinguished_name = DistinguishedName::new();
        order.finalize_csr(params.serialize_request(&key)?.der()).await?;
        let chain_pem = order.poll_certificate(&PATIENCE).await?;
        let key_pem = key.serialize_pem();
        let called = new.names.first().map(String::as_str);
        let row = sealed(&self.cluster, chain_pem, key_pem.as_bytes(), called)?;
        let command = Command::Certificate(CertificateCommand::Put(row));
        match self.cluster.propose(Request::new(random_id(), ACTOR, wall_ms(), command)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(refusal)) => Err(Fault::Refused(refusal.to_string())),
            Err(error) => Err(Fault::Refused(error.to_string())),
        }
    }

    /// Show the server that the names are ours; which texts were put into DNS for that.
    async fn prove(&self, order: &mut Order, owners: &mut Vec<String>) -> Result<(), Fault> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let owner = format!("_acme-challenge.{}", authorization.identifier());
            owners.push(owner.clone());
            let challenge = authorization.challenge(ChallengeType::Dns01);
            let mut challenge = challenge.ok_or(Fault::NoChallenge)?;
            let text = challenge.key_authorization().dns_value();
            self.dns.publish_text(owner, Some(text)).await?;
            challenge.set_ready().await?;
        }
        match order.poll_ready(&PATIENCE).await? {
            OrderStatus::Ready | OrderStatus::Valid => Ok(()),
            other => Err(Fault::Denied(format!("the order is {other:?}"))),
        }
    }

    /// The key the names have already, or a new one.
    fn key(&self, state: &State, new: &NewCertificate) -> Result<KeyPair, Fault> {
        let called_so = |row: &&Certificate| row.names.first() == new.key_of.as_ref();
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
        let waiting = state.waiting_certificates().map(|next| &next.certificate);
        let mut known = state.certificates().chain(waiting).filter(|row| row.covers(name));
        !known.any(|row| renew_ms(row) > now_ms)
    })
}

impl NewCertificate {
    /// What is asked for when `name` is due: all that the certificate is for which it has already,
    /// for others may have brought that one. If some of it is not ours to prove, the name alone.
    fn of(state: &State, name: &str) -> Self {
        let has = |row: &&Certificate| row.names.iter().any(|known| known == name);
        let called_so = |row: &Certificate| row.names.first().is_some_and(|first| first == name);
        let known = state.certificates().filter(has);
        let known = known.max_by_key(|row| (called_so(row), row.ends_ms));
        let wildcard = || {
            let known = state.certificates().filter(|row| row.covers(name));
            known.max_by_key(|row| row.ends_ms)
        };
        let key_of = known.or_else(wildcard).and_then(|row| row.names.first().cloned());
        let is_over = |row: &MxName| matches!(row.stage, NameStage::Removed { .. });
        let stays = |known: &&String| !state.name(known).is_some_and(is_over);
        let names: Vec<String> = known
            .map(|row| row.names.iter().filter(stays).cloned().collect())
            .filter(|names: &Vec<String>| names.iter().all(|known| state.name(known).is_some()))
            .unwrap_or_else(|| vec![name.to_owned()]);
        let replaced = state.certificates().find(|row| row.names.first() == names.first());
        let mut lost = replaced.into_iter().flat_map(|row| row.names.iter().filter(stays));
        let would_lose = lost.find(|known| !names.contains(known)).cloned();
        Self { names, key_of, would_lose }
    }
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
    use mxfleet_cluster::{HostCommand, NameCommand};

    use super::*;
    use crate::fleet::tests::new_host;

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

    /// A fleet with three names, the third of them removed, and certificates for these.
    fn fleet(certificates: &[&[&str]]) -> State {
        let mut state = State::default();
        let host = || "mx1".to_owned();
        let (name, addresses) = (host(), vec!["192.0.2.1".parse().unwrap()]);
        let (setting, zone) = ("rotation.zone".to_owned(), Some("relay.test".to_owned()));
        let mut commands = vec![
            Command::HostFound { host: new_host(1), seed: 1 },
            Command::HostService(HostCommand::Set { name, addresses }),
            Command::SettingSet { name: setting, value: zone },
        ];
        let seen = |name: &str, host: Option<u64>| {
            let name = name.to_owned();
            let addresses = Vec::new();
            Command::Name(NameCommand::Published { name, host, ttl_s: 60, addresses })
        };
        for name in ["mx-a.relay.test", "mx-b.relay.test", "mx-c.relay.test"] {
            let add = NameCommand::Add { name: name.to_owned(), host: host(), from_ms: None };
            commands.extend([Command::Name(add), seen(name, Some(1))]);
        }
        let name = "mx-c.relay.test".to_owned();
        let remove = NameCommand::Remove { name: name.clone(), force: true };
        commands.extend([Command::Name(remove), seen(&name, None)]);
        for names in certificates {
            let names = names.iter().map(ToString::to_string).collect();
            let (chain_pem, sealed_key) = (String::new(), Vec::new());
            let row =
                Certificate { names, chain_pem, sealed_key, key_hash: [1; 32], ends_ms: 1000 };
            commands.push(Command::Certificate(CertificateCommand::Put(row)));
        }
        for (at, command) in (1u64..).zip(commands) {
            state.apply(at, &Request::new(at.into(), "ops", 1, command)).unwrap();
        }
        state
    }

    #[test]
    fn a_certificate_that_was_brought_is_renewed_whole_with_its_key() {
        let (a, b, c) = ("mx-a.relay.test", "mx-b.relay.test", "mx-c.relay.test");
        let foreign = "mx1.else.test";
        let of = |certificates: &[&[&str]], name: &str| {
            let new = NewCertificate::of(&fleet(certificates), name);
            (new.names.join(" "), new.key_of.unwrap_or_default(), new.would_lose)
        };
        let ab = format!("{a} {b}");
        assert_eq!(of(&[], a), (a.into(), String::new(), None));
        for name in [a, b] {
            assert_eq!(of(&[&[a, b]], name), (ab.clone(), a.into(), None));
        }
        assert_eq!(of(&[&[a, b, c]], b), (ab, a.into(), None), "not what is over");
        assert_eq!(of(&[&["*.relay.test"]], a), (a.into(), "*.relay.test".into(), None));
        assert_eq!(of(&[&[foreign, a]], a), (a.into(), foreign.into(), None), "a further one");
        let lost = Some(foreign.to_owned());
        assert_eq!(of(&[&[a, foreign]], a), (a.into(), a.into(), lost), "it would be replaced");
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
