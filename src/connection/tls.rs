//! Our certificates: chosen by the name a client asks for, replaced without a restart.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
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
    /// None was given.
    #[error("no certificate is given")]
    None,
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
    #[error("{}: {source}", path.display())]
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

/// The certificates in force.
pub struct TlsIdentity {
    shelf: Arc<Shelf>,
    acceptor: TlsAcceptor,
}

/// What a handshake takes its certificate from.
#[derive(Debug)]
struct Shelf(ArcSwap<Certificates>);

/// Certificates that were read and are sound.
#[derive(Debug)]
pub struct Certificates {
    /// For clients that ask for no name, or for one we do not have. Most senders ask for none.
    default: Arc<CertifiedKey>,
    /// By name, lowercase; `*.` in front of what a wildcard covers.
    by_name: HashMap<String, Arc<CertifiedKey>>,
    /// When the first of them ends: seconds since 1970, UTC.
    first_end: Option<i64>,
}

impl TlsIdentity {
    /// Load certificates; the first is the default.
    pub fn load(files: &[CertificateFiles]) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let shelf = Arc::new(Shelf(ArcSwap::from_pointee(Certificates::load(files, &provider)?)));
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
        Certificates::load(files, &rustls::crypto::ring::default_provider())
    }

    /// Put these in force, for handshakes that begin from now on.
    pub fn replace(&self, certificates: Certificates) {
        self.shelf.0.store(Arc::new(certificates));
    }

    /// Whether a certificate of ours is for `name` (lowercase).
    pub fn has_name(&self, name: &str) -> bool {
        self.shelf.0.load().find(name).is_some()
    }

    /// When the first certificate ends: seconds since 1970, UTC.
    pub fn first_end(&self) -> Option<i64> {
        self.shelf.0.load().first_end
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
    fn load(files: &[CertificateFiles], provider: &CryptoProvider) -> Result<Self, TlsError> {
        let mut default = None;
        let mut by_name = HashMap::new();
        let mut first_end = None;
        for pair in files {
            let (key, names) = load_pair(pair, provider)?;
            first_end = first_end.into_iter().chain(end(&key)).min();
            for name in names {
                by_name.entry(name).or_insert_with(|| Arc::clone(&key));
            }
            default.get_or_insert(key);
        }
        Ok(Self { default: default.ok_or(TlsError::None)?, by_name, first_end })
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        self.by_name.get(name).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.by_name.get(&format!("*.{parent}"))
        })
    }
}

impl ResolvesServerCert for Shelf {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let certificates = self.0.load();
        let named = hello.server_name().and_then(|name| certificates.find(name));
        Some(Arc::clone(named.unwrap_or(&certificates.default)))
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

/// One certificate with its key, and the names it is for.
fn load_pair(
    files: &CertificateFiles,
    provider: &CryptoProvider,
) -> Result<(Arc<CertifiedKey>, Vec<String>), TlsError> {
    let pem_error = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Pem { path, source }
    };
    let chain = CertificateDer::pem_file_iter(&files.chain)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(pem_error(&files.chain))?;
    let first = chain.first().ok_or(pem::Error::NoItemsFound).map_err(pem_error(&files.chain))?;
    let names = webpki::EndEntityCert::try_from(first)
        .map_err(|source| TlsError::Certificate { path: files.chain.clone(), source })?
        .valid_dns_names()
        .map(str::to_ascii_lowercase)
        .collect();
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(pem_error(&files.key))?;
    let certified = CertifiedKey::from_der(chain, key, provider)
        .map_err(|source| TlsError::Key { path: files.key.clone(), source })?;
    Ok((Arc::new(certified), names))
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
    fn a_key_of_another_certificate_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = write(dir.path(), "a", &["a.example"]);
        let second = write(dir.path(), "b", &["b.example"]);
        let mixed = CertificateFiles { chain: first.chain, key: second.key };
        assert!(matches!(TlsIdentity::load(&[mixed]), Err(TlsError::Key { .. })));
        assert!(matches!(TlsIdentity::load(&[]), Err(TlsError::None)));
    }
}
