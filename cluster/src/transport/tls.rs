//! TLS 1.3 between nodes: both sides show a certificate of the fleet's own authority.
//!
//! No session tickets and no 0-RTT: what is refused once must not be resumed, and nothing is read
//! before the handshake is complete. A joining node, which has no certificate yet, offers another
//! protocol name and gets to speak to `serve.rs` only.

use std::sync::Arc;

use arc_swap::ArcSwap;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme, version::TLS13,
};

use crate::authority::{self, node_of};
use crate::raft::NodeId;
use crate::state::Hash;

/// Node to node.
pub(crate) const NODE_PROTOCOL: &[u8] = b"mxfleet/1";
/// A node that wants to join.
pub(crate) const JOIN_PROTOCOL: &[u8] = b"mxfleet-join/1";

/// TLS could not be set up: the certificates do not fit together.
#[derive(Debug, thiserror::Error)]
#[error("TLS between nodes: {0}")]
pub(crate) struct TlsError(String);

fn err(error: impl std::fmt::Display) -> TlsError {
    TlsError(error.to_string())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// This node's certificate and key; it can be replaced while connections are made.
#[derive(Debug)]
pub(crate) struct Credentials {
    current: ArcSwap<CertifiedKey>,
    authority: CertificateDer<'static>,
}

impl Credentials {
    pub(crate) fn new(
        authority: CertificateDer<'static>,
        certificate: CertificateDer<'static>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Arc<Self>, TlsError> {
        let current = ArcSwap::new(certified(&authority, certificate, key)?);
        Ok(Arc::new(Self { current, authority }))
    }

    /// Show another certificate from now on.
    pub(crate) fn replace(
        &self,
        certificate: CertificateDer<'static>,
        key: PrivateKeyDer<'static>,
    ) -> Result<(), TlsError> {
        self.current.store(certified(&self.authority, certificate, key)?);
        Ok(())
    }

    pub(crate) fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, TlsError> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone()).map_err(err)?;
        Ok(Arc::new(roots))
    }

    pub(crate) fn server(self: &Arc<Self>) -> Result<QuicServerConfig, TlsError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?, provider())
            .allow_unauthenticated() // who has no certificate can only ask to join
            .build()
            .map_err(err)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(err)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![NODE_PROTOCOL.to_vec(), JOIN_PROTOCOL.to_vec()];
        config.max_early_data_size = 0;
        config.send_tls13_tickets = 0;
        QuicServerConfig::try_from(config).map_err(err)
    }

    pub(crate) fn client(self: &Arc<Self>) -> Result<QuicClientConfig, TlsError> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(err)?
            .with_root_certificates(self.roots()?)
            .with_client_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesClientCert>);
        config.alpn_protocols = vec![NODE_PROTOCOL.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        QuicClientConfig::try_from(config).map_err(err)
    }
}

fn certified(
    authority: &CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<CertifiedKey>, TlsError> {
    // The authority goes along: a joining node knows only its fingerprint.
    let chain = vec![certificate, authority.clone()];
    CertifiedKey::from_der(chain, key, &provider()).map(Arc::new).map_err(err)
}

impl ResolvesServerCert for Credentials {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl ResolvesClientCert for Credentials {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The node id in a certificate that the handshake has already checked against the authority.
pub(crate) fn node_in(certificate: &CertificateDer<'_>) -> Option<NodeId> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let mut ids = certificate.valid_dns_names().filter_map(node_of);
    let id = ids.next()?;
    ids.next().is_none().then_some(id)
}

/// What a joining node connects with: it trusts whoever shows the authority its token names.
pub(crate) fn joining(fingerprint: Hash) -> Result<QuicClientConfig, TlsError> {
    nameless(fingerprint, JOIN_PROTOCOL)
}

/// The same for any protocol: no certificate is shown.
pub(super) fn nameless(fingerprint: Hash, protocol: &[u8]) -> Result<QuicClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(err)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Fingerprint(fingerprint)))
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    config.resumption = Resumption::disabled();
    QuicClientConfig::try_from(config).map_err(err)
}

/// Trusts the one authority whose SHA-256 this is, and what it signed.
#[derive(Debug)]
struct Fingerprint(Hash);

impl ServerCertVerifier for Fingerprint {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let unknown = || rustls::Error::from(CertificateError::UnknownIssuer);
        let authority =
            intermediates.iter().find(|c| authority::hash(c) == self.0).ok_or_else(unknown)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|_| unknown())?;
        verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken between nodes".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
