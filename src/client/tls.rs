//! TLS towards customers' servers: opportunistic (any certificate), required (valid for the
//! server's name) or pinned (valid for one of the names a domain demands). RFC 3207, RFC 7435.
//! Never below TLS 1.2.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use tokio_rustls::TlsConnector;

use super::{ClientError, Hop, Roots};
use mxfleet_cluster::TlsPolicy;

/// One TLS configuration per policy. Each keeps its own sessions to resume, so that a session
/// which was never verified cannot be resumed where verification is demanded.
pub(crate) struct Tls {
    provider: Arc<CryptoProvider>,
    opportunistic: Arc<ClientConfig>,
    /// Absent when no root certificate is known: then nothing can be verified.
    verified: Option<(Arc<ClientConfig>, Arc<WebPkiServerVerifier>)>,
}

impl Tls {
    pub(crate) fn new(roots: &Roots) -> Result<Self, ClientError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let opportunistic = config(&provider, Asks::Nothing.verifier(&provider))?;
        let roots = load(roots)?;
        let verified = if roots.is_empty() {
            None
        } else {
            let verifier =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                    .build()
                    .map_err(|error| ClientError::Tls(error.to_string()))?;
            Some((config(&provider, verifier.clone())?, verifier))
        };
        Ok(Self { provider, opportunistic, verified })
    }

    /// What to connect with, and the name to ask the server for.
    pub(crate) fn connector(
        &self,
        hop: &Hop,
    ) -> Result<(TlsConnector, ServerName<'static>), String> {
        let no_roots = "no root certificates to verify the server with";
        let config = match (&hop.tls, &self.verified) {
            (TlsPolicy::Opportunistic, _) => Arc::clone(&self.opportunistic),
            (_, None) => return Err(no_roots.to_owned()),
            (TlsPolicy::Require, Some((config, _))) => Arc::clone(config),
            (TlsPolicy::Pinned(names), Some((_, verifier))) => {
                let names = names.iter().filter_map(|n| ServerName::try_from(n.clone()).ok());
                let pinned = Asks::OneOf(names.collect(), Arc::clone(verifier));
                config(&self.provider, pinned.verifier(&self.provider))
                    .map_err(|error| error.to_string())?
            }
        };
        // Without a name there is no SNI; the handshake then carries the address, which rustls
        // does not send (RFC 6066 section 3).
        let name = hop.name.trim_end_matches('.');
        let name = ServerName::try_from(name.to_owned())
            .unwrap_or_else(|_| ServerName::from(hop.address.ip()));
        Ok((TlsConnector::from(config), name))
    }

    /// Whether a certificate would do where one is verified: a chain up to a root that is known,
    /// for this name, at this time. In words, why not.
    pub(crate) fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        name: &str,
        now: UnixTime,
    ) -> Result<(), String> {
        let Some((_, verifier)) = &self.verified else {
            return Err("no root certificates to verify it with".to_owned());
        };
        let (leaf, between) = chain.split_first().ok_or("there is none")?;
        let name = ServerName::try_from(name).map_err(|_| "the server has no name".to_owned())?;
        let judged = verifier.verify_server_cert(leaf, between, &name, &[], now);
        judged.map(drop).map_err(|error| error.to_string())
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("can_verify", &self.verified.is_some()).finish_non_exhaustive()
    }
}

fn config(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<Arc<ClientConfig>, ClientError> {
    let config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| ClientError::Tls(error.to_string()))?
        .dangerous() // every verifier used here is in this file
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// A configuration that demands a valid certificate for the server's name.
pub(crate) fn verified(roots: &Roots) -> Result<Arc<ClientConfig>, ClientError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| ClientError::Tls(error.to_string()))?
        .with_root_certificates(load(roots)?)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn load(roots: &Roots) -> Result<RootCertStore, ClientError> {
    let mut store = RootCertStore::empty();
    match roots {
        Roots::System => {
            let found = rustls_native_certs::load_native_certs();
            for error in &found.errors {
                tracing::warn!(%error, "a root certificate could not be read");
            }
            store.add_parsable_certificates(found.certs);
        }
        Roots::File(path) => read_file(path, &mut store)?,
    }
    Ok(store)
}

/// A file that was named must be usable as a whole: a root that is silently missing would turn
/// into undeliverable mail much later.
fn read_file(path: &Path, store: &mut RootCertStore) -> Result<(), ClientError> {
    let bad = |why: String| ClientError::Roots { path: path.to_owned(), why };
    let certificates =
        CertificateDer::pem_file_iter(path).map_err(|error| bad(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        store.add(certificate).map_err(|error| bad(error.to_string()))?;
    }
    if store.is_empty() { Err(bad("it has no certificate".to_owned())) } else { Ok(()) }
}

/// Whoever holds the key of the certificate shown, as far as `asks` of the certificate goes.
#[derive(Debug)]
struct Verifier {
    asks: Asks,
    provider: Arc<CryptoProvider>,
}

/// What is asked of a certificate.
#[derive(Debug)]
enum Asks {
    /// Opportunistic: nothing, whatever it says.
    Nothing,
    /// A valid chain, for any one of the names.
    OneOf(Vec<ServerName<'static>>, Arc<WebPkiServerVerifier>),
}

impl Asks {
    fn verifier(self, provider: &Arc<CryptoProvider>) -> Arc<Verifier> {
        Arc::new(Verifier { asks: self, provider: Arc::clone(provider) })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Asks::OneOf(names, chain) = &self.asks else {
            return Ok(ServerCertVerified::assertion());
        };
        let mut result = Err(Error::InvalidCertificate(CertificateError::NotValidForName));
        for name in names {
            result = chain.verify_server_cert(end_entity, intermediates, name, ocsp_response, now);
            if result.is_ok() {
                break;
            }
        }
        result
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
