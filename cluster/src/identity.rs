//! Who this node is: a few files in its folder, written once at joining.
//!
//! ```text
//! identity.json   fleet, node id, name
//! ca.pem          the fleet's authority
//! ca.key          its key; voters only
//! vault.key       the key for replicated secrets, derived from that; the others
//! node.pem node.key   this node's certificate and key; the key never leaves the host
//! raft/ raft.guard snapshots/
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

use crate::raft::NodeId;

const WHO: &str = "identity.json";
const AUTHORITY: &str = "ca.pem";
const AUTHORITY_KEY: &str = "ca.key";
/// For replicated secrets; whoever has the authority's key derives it.
const VAULT_KEY: &str = "vault.key";
const CERTIFICATE: &str = "node.pem";
const KEY: &str = "node.key";
/// A key made before the fleet answered, so that a retried join shows the same one.
const PENDING_KEY: &str = "join.key";

/// Who a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Who {
    /// The fleet, as 32 hexadecimal digits.
    pub(crate) fleet: String,
    pub(crate) node: NodeId,
    pub(crate) name: String,
    /// Whether this node began the fleet; otherwise it joined it.
    pub(crate) founder: bool,
    /// Whether its Raft log was ever in use: then it must be there.
    pub(crate) begun: bool,
    /// When its certificate was made: milliseconds since 1970, UTC.
    pub(crate) certified_ms: u64,
}

impl Who {
    pub(crate) fn fleet_id(&self) -> Option<u128> {
        u128::from_str_radix(&self.fleet, 16).ok()
    }
}

/// A node's folder.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    dir: PathBuf,
}

/// Everything in it that says who the node is.
pub(crate) struct Identity {
    pub(crate) who: Who,
    pub(crate) fleet: u128,
    pub(crate) authority: CertificateDer<'static>,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Home {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("raft")
    }

    /// Beside the log, not in it: one must not go with the other.
    pub(crate) fn guard(&self) -> PathBuf {
        self.dir.join("raft.guard")
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.dir.join("snapshots")
    }

    /// Whether this node belongs to a fleet already.
    pub(crate) fn is_settled(&self) -> bool {
        self.dir.join(WHO).exists()
    }

    /// When the certificate it has now was made.
    pub(crate) fn certified_ms(&self) -> Option<u64> {
        let who: Who = serde_json::from_slice(&fs::read(self.dir.join(WHO)).ok()?).ok()?;
        Some(who.certified_ms)
    }

    /// Write everything; the file that says who comes last, and is what counts.
    pub(crate) fn settle(
        &self,
        who: &Who,
        authority: &CertificateDer<'_>,
        certificate: &CertificateDer<'_>,
        key_pem: &str,
    ) -> io::Result<()> {
        self.write(AUTHORITY, to_pem(authority).as_bytes(), 0o644)?;
        self.write(CERTIFICATE, to_pem(certificate).as_bytes(), 0o644)?;
        self.write(KEY, key_pem.as_bytes(), 0o600)?;
        self.write(WHO, &serde_json::to_vec_pretty(who)?, 0o644)?;
        match fs::remove_file(self.dir.join(PENDING_KEY)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    pub(crate) fn who(&self) -> io::Result<Who> {
        Ok(serde_json::from_slice(&fs::read(self.dir.join(WHO))?)?)
    }

    pub(crate) fn load(&self) -> io::Result<Identity> {
        let who = self.who()?;
        let fleet = who.fleet_id().ok_or_else(|| bad(format!("{WHO}: fleet is not an id")))?;
        let certificate = |name: &str| {
            CertificateDer::from_pem_file(self.dir.join(name))
                .map_err(|error| bad(format!("{name}: {error}")))
        };
        let key = PrivateKeyDer::from_pem_file(self.dir.join(KEY))
            .map_err(|error| bad(format!("{KEY}: {error}")))?;
        let (authority, certificate) = (certificate(AUTHORITY)?, certificate(CERTIFICATE)?);
        Ok(Identity { who, fleet, authority, certificate, key })
    }

    /// Another name for the same fleet after its old quorum was given up.
    pub(crate) fn set_who(&self, who: &Who) -> io::Result<()> {
        self.write(WHO, &serde_json::to_vec_pretty(who)?, 0o644)
    }

    pub(crate) fn set_certificate(&self, certificate: &CertificateDer<'_>) -> io::Result<()> {
        self.write(CERTIFICATE, to_pem(certificate).as_bytes(), 0o644)
    }

    pub(crate) fn node_key_pem(&self) -> io::Result<String> {
        fs::read_to_string(self.dir.join(KEY))
    }

    /// The authority's key, if this node was trusted with it.
    pub(crate) fn authority_key(&self) -> io::Result<Option<String>> {
        optional(fs::read_to_string(self.dir.join(AUTHORITY_KEY)))
    }

    pub(crate) fn keep_authority_key(&self, pem: &str) -> io::Result<()> {
        self.write(AUTHORITY_KEY, pem.as_bytes(), 0o600)
    }

    /// The key for replicated secrets, if this node was given it.
    pub(crate) fn vault_key(&self) -> io::Result<Option<[u8; 32]>> {
        match fs::read(self.dir.join(VAULT_KEY)) {
            Ok(bytes) => Ok(bytes.try_into().ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn keep_vault_key(&self, key: &[u8; 32]) -> io::Result<()> {
        self.write(VAULT_KEY, key, 0o600)
    }

    /// The key a join was begun with.
    pub(crate) fn pending_key(&self) -> io::Result<Option<String>> {
        optional(fs::read_to_string(self.dir.join(PENDING_KEY)))
    }

    pub(crate) fn keep_pending_key(&self, pem: &str) -> io::Result<()> {
        self.write(PENDING_KEY, pem.as_bytes(), 0o600)
    }

    /// Write beside, sync, rename, sync the folder. Secrets are private from the first octet.
    fn write(&self, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let beside = self.dir.join(format!("{name}.new"));
        if let Err(error) = fs::remove_file(&beside)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, self.dir.join(name))?;
        File::open(&self.dir)?.sync_all()
    }
}

fn optional(read: io::Result<String>) -> io::Result<Option<String>> {
    match read {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn bad(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// PEM (RFC 7468) of a certificate.
fn to_pem(certificate: &CertificateDer<'_>) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("-----BEGIN CERTIFICATE-----");
    for (at, three) in certificate.as_ref().chunks(3).enumerate() {
        if at % 16 == 0 {
            text.push('\n');
        }
        let octet = |i: usize| u32::from(three.get(i).copied().unwrap_or(0));
        let bits = octet(0) << 16 | octet(1) << 8 | octet(2);
        for i in 0..4 {
            let index = usize::try_from(bits >> (18 - 6 * i) & 63).unwrap_or(0);
            text.push(if i <= three.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    text.push_str("\n-----END CERTIFICATE-----\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::{self, Authority};

    #[test]
    fn a_node_finds_itself_again_and_its_secrets_are_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let home = Home::new(dir.path().join("cluster"));
        assert!(!home.is_settled());
        let fleet = Authority::found(7, 0).unwrap();
        let key = authority::new_key().unwrap();
        let certificate = fleet.sign(&authority::request(&key).unwrap(), 1, 0).unwrap();
        let who = Who {
            fleet: format!("{:032x}", 7),
            node: 1,
            name: "mx1".to_owned(),
            founder: true,
            begun: false,
            certified_ms: 0,
        };
        home.settle(&who, fleet.certificate(), &certificate, &key.serialize_pem()).unwrap();
        let identity = home.load().unwrap();
        assert_eq!((identity.who, identity.fleet), (who, 7));
        assert_eq!(identity.certificate, certificate);
        assert_eq!(&identity.authority, fleet.certificate());
        let mode = fs::metadata(home.dir().join(KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn pem_of_every_length_reads_back() {
        for length in 0..100_u8 {
            let der = CertificateDer::from((0..length).collect::<Vec<_>>());
            assert_eq!(CertificateDer::from_pem_slice(to_pem(&der).as_bytes()).unwrap(), der);
        }
    }
}
