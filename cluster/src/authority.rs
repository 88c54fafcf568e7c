//! The fleet's own certificate authority, and the keys it signs for.
//!
//! A node's certificate is good for one name, `n<id>.raft.internal`, and for `fleet.raft.internal`,
//! by which a node that wants to join checks any member. The authority's key is kept by voters
//! only; it reaches a node over a mutually authenticated connection before that node may vote, so
//! whichever voter leads can sign. A removed node's id is refused, and so is any certificate for
//! it; but a host that voted has had the authority's key. If such a host falls into hostile hands,
//! only a fleet begun anew helps: the authority cannot be replaced yet, and a restored backup keeps
//! it.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    date_time_ymd,
};
use ring::digest::{SHA256, digest};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};

use crate::raft::NodeId;
use crate::state::Hash;

const DAY_MS: u64 = 86_400_000;
/// Certificates are good from a month back: a node's clock may be late.
const BACKDATED_MS: u64 = 30 * DAY_MS;
pub(crate) const NODE_LIFE_MS: u64 = 365 * DAY_MS;
/// A node asks for a new certificate when the old one has less than this left.
pub(crate) const RENEW_BEFORE_MS: u64 = 120 * DAY_MS;
const AUTHORITY_LIFE_MS: u64 = 20 * NODE_LIFE_MS;
/// Requests are some 300 octets.
pub(crate) const CSR_OCTETS_MAX: usize = 4096;

/// The name a joining node knows every member by.
pub(crate) const FLEET_NAME: &str = "fleet.raft.internal";

/// The name node `id` is known by in its certificate.
pub(crate) fn node_name(id: NodeId) -> String {
    format!("n{id}.raft.internal")
}

/// The id in such a name, only in the one way it is written.
pub(crate) fn node_of(name: &str) -> Option<NodeId> {
    let id = name.strip_prefix('n')?.strip_suffix(".raft.internal")?.parse().ok()?;
    (node_name(id) == name).then_some(id)
}

/// A key or certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
#[error("certificate: {0}")]
pub(crate) struct AuthorityError(#[from] rcgen::Error);

/// The fleet's certificate authority, with its key.
pub(crate) struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new authority for a new fleet.
    pub(crate) fn found(fleet: u128, now_ms: u64) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = dated(CertificateParams::new(Vec::new())?, now_ms, AUTHORITY_LIFE_MS);
        params.distinguished_name = named(&format!("mxfleet {fleet:032x}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// The authority again, from its certificate and its key in PEM.
    pub(crate) fn load(
        certificate: &CertificateDer<'_>,
        key_pem: &str,
    ) -> Result<Self, AuthorityError> {
        let issuer = Issuer::from_ca_cert_der(certificate, KeyPair::from_pem(key_pem)?)?;
        Ok(Self { certificate: certificate.clone().into_owned(), issuer })
    }

    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(crate) fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A certificate for node `id`. Of the request only the public key counts.
    pub(crate) fn sign(
        &self,
        csr: &[u8],
        id: NodeId,
        now_ms: u64,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let mut request = parse(csr)?;
        let names = vec![node_name(id), FLEET_NAME.to_owned()];
        let mut params = dated(CertificateParams::new(names)?, now_ms, NODE_LIFE_MS);
        params.distinguished_name = named(&node_name(id));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        request.params = params;
        Ok(request.signed_by(&self.issuer)?.der().clone())
    }
}

/// A new key for a node.
pub(crate) fn new_key() -> Result<KeyPair, AuthorityError> {
    Ok(KeyPair::generate()?)
}

/// What a node sends to have its key certified; the key itself stays.
pub(crate) fn request(key: &KeyPair) -> Result<Vec<u8>, AuthorityError> {
    Ok(CertificateParams::new(Vec::new())?.serialize_request(key)?.der().to_vec())
}

/// SHA-256 of the public key in a request, whose signature is checked.
pub(crate) fn key_hash(csr: &[u8]) -> Result<Hash, AuthorityError> {
    Ok(hash(parse(csr)?.public_key.der_bytes()))
}

/// SHA-256 of the public half of a key in PEM.
pub(crate) fn public_hash(key_pem: &str) -> Result<Hash, AuthorityError> {
    Ok(hash(KeyPair::from_pem(key_pem)?.der_bytes()))
}

/// Whether a key in PEM is the one an authority's certificate is for.
pub(crate) fn belongs(certificate: &CertificateDer<'_>, key_pem: &str) -> bool {
    let Ok(key) = KeyPair::from_pem(key_pem) else { return false };
    // The public key stands in the certificate as it is; 65 octets do not occur there by chance.
    certificate.windows(key.der_bytes().len()).any(|window| window == key.der_bytes())
}

/// SHA-256.
pub(crate) fn hash(bytes: &[u8]) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

fn parse(csr: &[u8]) -> Result<CertificateSigningRequestParams, AuthorityError> {
    if csr.len() > CSR_OCTETS_MAX {
        return Err(AuthorityError(rcgen::Error::CouldNotParseCertificationRequest));
    }
    Ok(CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))?)
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn dated(mut params: CertificateParams, now_ms: u64, life_ms: u64) -> CertificateParams {
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_millis(now_ms.saturating_sub(BACKDATED_MS));
    params.not_after = epoch + Duration::from_millis(now_ms.saturating_add(life_ms));
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_holds_an_id_in_one_spelling() {
        assert_eq!(node_of(&node_name(7)), Some(7));
        for name in ["n07.raft.internal", "n+7.raft.internal", "n7.raft.example", FLEET_NAME, ""] {
            assert_eq!(node_of(name), None, "{name}");
        }
    }

    #[test]
    fn an_authority_signs_the_same_after_it_was_loaded_again() {
        let authority = Authority::found(1, 1_700_000_000_000).unwrap();
        let again = Authority::load(authority.certificate(), &authority.key_pem()).unwrap();
        let key = new_key().unwrap();
        let csr = request(&key).unwrap();
        assert!(again.sign(&csr, 3, 1_700_000_000_000).is_ok());
        assert_eq!(key_hash(&csr).unwrap(), hash(key.der_bytes()));
        let mut forged = csr;
        let last = forged.len() - 1;
        forged[last] ^= 1;
        assert!(again.sign(&forged, 3, 0).is_err(), "its signature is wrong");
        assert!(again.sign(b"rubbish", 3, 0).is_err());
    }
}
