//! Our certificates: chosen by the name a client asks for, replaced without a restart.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

/// One certificate on disk, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate and what leads to its root, in that order.
    pub chain: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or has no PEM section of the kind it should have.
    #[error("{}: {source}", path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// The certificate is damaged.
    #[error("{}: not a certificate: {source}", path.display())]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: webpki::Error,
    },
    /// The key is of no use, or not the certificate's.
    #[error("{}: {}", path.display(), key_fault(source))]
    Key {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// The TLS library refuses our settings.
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

fn key_fault(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InconsistentKeys(_) => "the key is not that of the certificate".to_owned(),
        other => other.to_string(),
    }
}

/// The certificates in force: those in this host's files, and those of the fleet's MX names.
pub struct TlsIdentity {
    shelf: Arc<Shelf>,
    acceptor: TlsAcceptor,
}

/// What a handshake takes its certificate from.
#[derive(Debug)]
struct Shelf {
    /// The operator of the host knows best: these come first.
    files: ArcSwap<Certificates>,
    fleet: ArcSwap<Certificates>,
}

/// Certificates that were read and are sound.
#[derive(Debug, Default)]
pub struct Certificates {
    /// For clients that ask for no name, or for one we do not have. Most senders ask for none.
    default: Option<Arc<CertifiedKey>>,
    /// By name, lowercase; `*.` in front of what a wildcard covers.
    by_name: HashMap<String, Arc<CertifiedKey>>,
    /// When the first of them ends: seconds since 1970, UTC.
    first_end: Option<i64>,
}

/// A certificate with its key, as it was read.
#[derive(Debug, Clone)]
pub struct CertificatePair {
    key: Arc<CertifiedKey>,
    /// The names it is for, lowercase.
    pub names: Vec<String>,
    /// When the first certificate of its chain ends: seconds since 1970, UTC.
    pub ends: Option<i64>,
    /// SHA-256 of the public key, as TLSA records have it.
    pub key_hash: [u8; 32],
}

impl CertificatePair {
    /// Read a chain, leaf first, and its key from PEM.
    pub fn parse(chain_pem: &[u8], key_pem: &[u8]) -> Result<Self, TlsError> {
        let (chain, key) = (Path::new("the certificate"), Path::new("the key"));
        parse(Source::Text(chain, chain_pem), Source::Text(key, key_pem))
    }
}

impl TlsIdentity {
    /// Load certificates from files; the first is the default. There may be none.
    pub fn load(files: &[CertificateFiles]) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let files = ArcSwap::from_pointee(Self::read(files)?);
        let shelf = Arc::new(Shelf { files, fleet: ArcSwap::default() });
        // TLS 1.2 and 1.3 (RFC 8996 ends the older ones).
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&shelf) as Arc<dyn ResolvesServerCert>);
        Ok(Self { shelf, acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    /// Read certificates, for [`TlsIdentity::replace`]. Those in force stay for now.
    pub fn read(files: &[CertificateFiles]) -> Result<Certificates, TlsError> {
        let read =
            |pair: &CertificateFiles| parse(Source::File(&pair.chain), Source::File(&pair.key));
        Ok(Certificates::of(files.iter().map(read).collect::<Result<Vec<_>, _>>()?))
    }

    /// Put these in force, for handshakes that begin from now on.
    pub fn replace(&self, certificates: Certificates) {
        self.shelf.files.store(Arc::new(certificates));
    }

    /// Put the fleet's in force, for handshakes that begin from now on; the first is shown to who
    /// asks for no name, if the host has none of its own.
    pub fn replace_fleets(&self, pairs: Vec<CertificatePair>) {
        self.shelf.fleet.store(Arc::new(Certificates::of(pairs)));
    }

    /// Whether there is a certificate to show.
    pub fn is_ready(&self) -> bool {
        self.shelf.files.load().default.is_some() || self.shelf.fleet.load().default.is_some()
    }

    /// Whether a certificate of ours is for `name` (lowercase).
    pub fn has_name(&self, name: &str) -> bool {
        self.shelf.find(name).is_some()
    }

    /// When the first certificate ends: seconds since 1970, UTC.
    pub fn first_end(&self) -> Option<i64> {
        let (files, fleet) = (self.shelf.files.load(), self.shelf.fleet.load());
        files.first_end.into_iter().chain(fleet.first_end).min()
    }

    pub(super) fn acceptor(&self) -> &TlsAcceptor {
        &self.acceptor
    }
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentity").field("shelf", &self.shelf).finish_non_exhaustive()
    }
}

impl Certificates {
    fn of(pairs: Vec<CertificatePair>) -> Self {
        let mut certificates = Self::default();
        for CertificatePair { key, names, ends, .. } in pairs {
            certificates.first_end = certificates.first_end.into_iter().chain(ends).min();
            for name in names {
                certificates.by_name.entry(name).or_insert_with(|| Arc::clone(&key));
            }
            certificates.default.get_or_insert(key);
        }
        certificates
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        self.by_name.get(name).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.by_name.get(&format!("*.{parent}"))
        })
    }
}

impl Shelf {
    fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let (files, fleet) = (self.files.load(), self.fleet.load());
        files.find(name).or_else(|| fleet.find(name)).cloned()
    }
}

impl ResolvesServerCert for Shelf {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.find(name));
        let own = || self.files.load().default.clone();
        named.or_else(own).or_else(|| self.fleet.load().default.clone())
    }
}

/// When a certificate ends, or the first of those that lead to its root.
fn end(key: &CertifiedKey) -> Option<i64> {
    let ends = key.cert.iter().filter_map(|der| {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        Some(certificate.validity().not_after.timestamp())
    });
    ends.min()
}

/// SHA-256 of the leaf's public key. A leaf that was read before is one here.
fn key_hash(key: &CertifiedKey) -> [u8; 32] {
    let leaf = key.cert.first().and_then(|der| x509_parser::parse_x509_certificate(der).ok());
    let public = leaf.map(|(_, certificate)| certificate.public_key().raw.to_vec());
    let digest = ring::digest::digest(&ring::digest::SHA256, &public.unwrap_or_default());
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.as_ref());
    hash
}

/// Where PEM comes from.
#[derive(Clone, Copy)]
enum Source<'a> {
    File(&'a Path),
    /// A text, and what it is called.
    Text(&'a Path, &'a [u8]),
}

impl Source<'_> {
    fn path(self) -> PathBuf {
        match self {
            Self::File(path) | Self::Text(path, _) => path.to_owned(),
        }
    }

    fn chain(self) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
        match self {
            Self::File(path) => CertificateDer::pem_file_iter(path)?.collect(),
            Self::Text(_, text) => CertificateDer::pem_slice_iter(text).collect(),
        }
    }

    fn key(self) -> Result<PrivateKeyDer<'static>, pem::Error> {
        match self {
            Self::File(path) => PrivateKeyDer::from_pem_file(path),
            Self::Text(_, text) => PrivateKeyDer::from_pem_slice(text),
        }
    }
}

/// One certificate with its key, and the names it is for.
fn parse(chain_from: Source<'_>, key_from: Source<'_>) -> Result<CertificatePair, TlsError> {
    let provider = rustls::crypto::ring::default_provider();
    let pem_error = |from: Source<'_>| {
        let path = from.path();
        move |source| TlsError::Pem { path, source }
    };
    let chain = chain_from.chain().map_err(pem_error(chain_from))?;
    let first = chain.first().ok_or(pem::Error::NoItemsFound).map_err(pem_error(chain_from))?;
    let names = webpki::EndEntityCert::try_from(first)
        .map_err(|source| TlsError::Certificate { path: chain_from.path(), source })?
        .valid_dns_names()
        .map(str::to_ascii_lowercase)
        .collect();
    let key = key_from.key().map_err(pem_error(key_from))?;
    let key = CertifiedKey::from_der(chain, key, &provider)
        .map_err(|source| TlsError::Key { path: key_from.path(), source })?;
    let (ends, key_hash) = (end(&key), key_hash(&key));
    Ok(CertificatePair { key: Arc::new(key), names, ends, key_hash })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, names: &[&str]) -> CertificateFiles {
        let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let files = CertificateFiles {
            chain: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}.key")),
        };
        std::fs::write(&files.chain, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        files
    }

    #[test]
    fn a_certificate_is_found_by_each_of_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let first = write(dir.path(), "a", &["mx-a.relay.example"]);
        let second = write(dir.path(), "b", &["MX-B.relay.example", "*.wild.example"]);
        let identity = TlsIdentity::load(&[first, second]).unwrap();
        for name in ["mx-a.relay.example", "mx-b.relay.example", "any.wild.example"] {
            assert!(identity.has_name(name), "{name}");
        }
        assert!(identity.first_end().is_some());
        for name in ["mx-c.relay.example", "wild.example", "a.b.wild.example", ""] {
            assert!(!identity.has_name(name), "{name}");
        }
    }

    #[test]
    fn a_bad_file_is_named_and_what_was_good_stays() {
        let dir = tempfile::tempdir().unwrap();
        let files = write(dir.path(), "a", &["mx-a.relay.example"]);
        let files = [files];
        let identity = TlsIdentity::load(&files).unwrap();

        std::fs::write(&files[0].chain, "nothing").unwrap();
        let error = TlsIdentity::read(&files).unwrap_err();
        assert!(error.to_string().contains("a.pem"), "{error}");
        assert!(identity.has_name("mx-a.relay.example"));

        write(dir.path(), "a", &["mx-new.relay.example"]);
        let certificates = TlsIdentity::read(&files).unwrap();
        assert!(identity.has_name("mx-a.relay.example"));
        identity.replace(certificates);
        assert!(identity.has_name("mx-new.relay.example"));
        assert!(!identity.has_name("mx-a.relay.example"));
    }

    #[test]
    fn the_fleets_certificates_stand_in_where_the_host_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let identity = TlsIdentity::load(&[]).unwrap();
        assert!(!identity.is_ready());
        let files = write(dir.path(), "a", &["mx-a.relay.example"]);
        let (chain, key) = (std::fs::read(&files.chain), std::fs::read(&files.key));
        let pair = CertificatePair::parse(&chain.unwrap(), &key.unwrap()).unwrap();
        assert_eq!(pair.names, ["mx-a.relay.example"]);
        identity.replace_fleets(vec![pair]);
        assert!(identity.is_ready() && identity.has_name("mx-a.relay.example"));
        let own = write(dir.path(), "b", &["mx1.relay.example"]);
        identity.replace(TlsIdentity::read(&[own]).unwrap());
        assert!(identity.has_name("mx-a.relay.example") && identity.has_name("mx1.relay.example"));
        identity.replace_fleets(Vec::new());
        assert!(!identity.has_name("mx-a.relay.example") && identity.is_ready());
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = write(dir.path(), "a", &["a.example"]);
        let second = write(dir.path(), "b", &["b.example"]);
        let mixed = CertificateFiles { chain: first.chain, key: second.key };
        assert!(matches!(TlsIdentity::load(&[mixed]), Err(TlsError::Key { .. })));
    }
}
