//! Secrets that are replicated: sealed in the state, and opened by members only.
//!
//! The key is derived from that of the fleet's authority, so it is there as long as the fleet is,
//! also in a backup. Whoever votes holds that one; the others are given the derived key by the
//! leader and keep it, so that they open what is theirs without anybody's help later.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;

use crate::cluster::Cluster;
use crate::transport::wire::{Answer, Ask};

/// What the key is derived for; another purpose would be another key.
const PURPOSE: &[u8] = b"mxfleet vault 1";

pub(crate) type VaultKey = [u8; 32];

/// Why a secret cannot be sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// This node has not been given the key yet, or is in no fleet.
    #[error("this node does not have the fleet's key for secrets yet; try again")]
    NoKey,
    /// It was sealed for something else, by another fleet, or is damaged.
    #[error("the secret cannot be opened: it is damaged, or another fleet's")]
    Damaged,
}

/// The key, from the authority's.
pub(crate) fn derive(authority_key_pem: &str) -> Option<VaultKey> {
    let key = PrivateKeyDer::from_pem_slice(authority_key_pem.as_bytes()).ok()?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.secret_der());
    hmac::sign(&key, PURPOSE).as_ref().try_into().ok()
}

fn seal(key: &VaultKey, about: &[u8], secret: &[u8]) -> Result<Vec<u8>, VaultError> {
    let mut sealed = vec![0; NONCE_LEN];
    SystemRandom::new().fill(&mut sealed).map_err(|_| VaultError::NoKey)?;
    let nonce = Nonce::try_assume_unique_for_key(&sealed).map_err(|_| VaultError::NoKey)?;
    let mut text = secret.to_vec();
    let tag = cipher(key)?.seal_in_place_separate_tag(nonce, Aad::from(about), &mut text);
    sealed.extend(text);
    sealed.extend_from_slice(tag.map_err(|_| VaultError::Damaged)?.as_ref());
    Ok(sealed)
}

fn open(key: &VaultKey, about: &[u8], sealed: &[u8]) -> Result<Vec<u8>, VaultError> {
    let (nonce, text) = sealed.split_at_checked(NONCE_LEN).ok_or(VaultError::Damaged)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| VaultError::Damaged)?;
    let mut text = text.to_vec();
    let opened = cipher(key)?.open_in_place(nonce, Aad::from(about), &mut text);
    opened.map(|secret| secret.to_vec()).map_err(|_| VaultError::Damaged)
}

fn cipher(key: &VaultKey) -> Result<LessSafeKey, VaultError> {
    let key = UnboundKey::new(&CHACHA20_POLY1305, key).map_err(|_| VaultError::NoKey)?;
    Ok(LessSafeKey::new(key))
}

impl Cluster {
    /// Seal a secret so that members of the fleet can open it; `about` must be the same then.
    pub fn seal(&self, about: &[u8], secret: &[u8]) -> Result<Vec<u8>, VaultError> {
        seal(&self.vault_key()?, about, secret)
    }

    /// Open what a member has sealed.
    pub fn open_sealed(&self, about: &[u8], sealed: &[u8]) -> Result<Vec<u8>, VaultError> {
        open(&self.vault_key()?, about, sealed)
    }

    fn vault_key(&self) -> Result<VaultKey, VaultError> {
        let node = self.node().map_err(|_| VaultError::NoKey)?;
        node.vault.get().copied().ok_or(VaultError::NoKey)
    }
}

/// Get the key, if it is not here yet: from the authority's, from the folder, or from the leader.
pub(crate) async fn fetch(cluster: &Cluster) {
    let Ok(node) = cluster.node() else { return };
    if node.vault.get().is_some() {
        return;
    }
    let local = match node.home.authority_key() {
        Ok(Some(pem)) => derive(&pem),
        _ => node.home.vault_key().ok().flatten(),
    };
    let key = match local {
        Some(key) => key,
        None => {
            let leader = node.raft.metrics().borrow().current_leader;
            let Some(leader) = leader.filter(|leader| *leader != node.who.node) else { return };
            let Ok(Answer::Vault { key }) = node.forwarder.ask(leader, Ask::Vault).await else {
                return; // it is asked again
            };
            if let Err(error) = node.home.keep_vault_key(&key) {
                return tracing::warn!(%error, "the fleet's key for secrets cannot be kept");
            }
            key
        }
    };
    let _ = node.vault.set(key); // whoever was quicker set the same
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority;

    #[test]
    fn what_is_sealed_opens_for_the_same_fleet_and_purpose_only() {
        let pem = authority::new_key().unwrap().serialize_pem();
        let key = derive(&pem).unwrap();
        assert_eq!(derive(&pem), Some(key), "the same on every node");
        let sealed = seal(&key, b"mx-a", b"secret").unwrap();
        assert_ne!(seal(&key, b"mx-a", b"secret").unwrap(), sealed, "never twice the same");
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_eq!(open(&key, b"mx-a", &sealed).unwrap(), b"secret");
        assert_eq!(open(&key, b"mx-b", &sealed), Err(VaultError::Damaged));
        let other = derive(&authority::new_key().unwrap().serialize_pem()).unwrap();
        assert_eq!(open(&other, b"mx-a", &sealed), Err(VaultError::Damaged));
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert_eq!(open(&key, b"mx-a", &bad), Err(VaultError::Damaged), "octet {at}");
            assert_eq!(open(&key, b"mx-a", &sealed[..at]), Err(VaultError::Damaged), "cut at {at}");
        }
    }
}
