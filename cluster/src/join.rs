//! Beginning a fleet, and letting nodes into it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use rcgen::KeyPair;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::pki_types::CertificateDer;

use crate::authority::{self, Authority, AuthorityError};
use crate::cluster::{Cluster, ClusterConfig, Detached};
use crate::hex;
use crate::identity::{Home, Who};
use crate::propose::ProposeError;
use crate::state::{Command, Hash, NewHost, Refusal, Request, TOKEN_LIFE_MS_MAX};
use crate::takeover;
use crate::transport;

const PREFIX: &str = "mxfleet1";

/// Lets one host of one name join, once, for a while. Whoever holds it can do that: keep it secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of the authority's certificate: how the newcomer knows the fleet.
    fingerprint: Hash,
    /// How the fleet knows the newcomer.
    secret: [u8; 32],
}

/// Why a text is not a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not a token as `mxfleet cluster token` prints it")]
pub struct TokenError;

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}.{}.{}", hex::encode(&self.fingerprint), hex::encode(&self.secret))
    }
}

impl fmt::Debug for Token {
    /// A secret is never printed by accident.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut fields = text.trim().split('.');
        let fields = [fields.next(), fields.next(), fields.next(), fields.next()];
        let [Some(PREFIX), Some(fingerprint), Some(secret), None] = fields else {
            return Err(TokenError);
        };
        let unhex = |text| hex::decode(text).and_then(|b| b.try_into().ok()).ok_or(TokenError);
        Ok(Self { fingerprint: unhex(fingerprint)?, secret: unhex(secret)? })
    }
}

/// Why a node cannot begin or join a fleet.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// It is in a fleet already.
    #[error("{0} belongs to a fleet already")]
    Settled(PathBuf),
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// Which folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A key or certificate could not be made.
    #[error("{0}")]
    Key(String),
    /// Other nodes could not reach this one.
    #[error("give the address other nodes reach this one at; {0} is none")]
    Address(SocketAddr),
    /// No answer; it may be tried again with the same token.
    #[error("the fleet did not answer, try again with the same token: {0}")]
    Unreachable(String),
    /// The fleet said no.
    #[error("the fleet refused: {0}")]
    Refused(String),
}

impl From<AuthorityError> for JoinError {
    fn from(error: AuthorityError) -> Self {
        Self::Key(error.to_string())
    }
}

/// Why no token was made, or no host changed.
#[derive(Debug, thiserror::Error)]
pub enum ManageError {
    /// This state is not part of a fleet.
    #[error(transparent)]
    Detached(#[from] Detached),
    /// It was not decided.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The fleet said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A file could not be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Cluster {
    /// Begin a fleet with this node, named `name`, as its first. Makes the fleet's certificate
    /// authority. [`Cluster::start`] does the rest.
    pub fn init(config: &ClusterConfig, name: &str) -> Result<(), JoinError> {
        let home = Home::new(config.dir.clone());
        if home.is_settled() || takeover::is_pending(&home) {
            return Err(JoinError::Settled(config.dir.clone()));
        }
        let io = |source| JoinError::Io { path: config.dir.clone(), source };
        let now_ms = (config.clock)();
        let fleet = random_id();
        let authority = Authority::found(fleet, now_ms)?;
        let key = authority::new_key()?;
        let certificate = authority.sign(&authority::request(&key)?, 1, now_ms)?;
        home.keep_authority_key(&authority.key_pem()).map_err(io)?;
        let who = Who {
            fleet: format!("{fleet:032x}"),
            node: 1,
            name: name.to_owned(),
            founder: true,
            begun: false,
            certified_ms: now_ms,
        };
        home.settle(&who, authority.certificate(), &certificate, &key.serialize_pem()).map_err(io)
    }

    /// Whether the folder belongs to a fleet, so that [`Cluster::start`] can take part.
    pub fn is_settled(config: &ClusterConfig) -> bool {
        Home::new(config.dir.clone()).is_settled()
    }

    /// A token that lets one host named `name` join within `life_ms`, an hour at most. That host
    /// may show it again until then, if it missed the answer.
    pub async fn token(&self, name: &str, life_ms: u64, actor: &str) -> Result<Token, ManageError> {
        let node = self.node()?;
        let token = Token {
            fingerprint: authority::hash(&node.home.load()?.authority),
            secret: random_secret(),
        };
        // The fleet's clock never goes back: after one that was ahead, it is what counts.
        let now_ms = (node.config.clock)().max(self.view().clock_ms());
        let expires_ms = now_ms + life_ms.min(TOKEN_LIFE_MS_MAX);
        let hash = authority::hash(&token.secret);
        let command = Command::HostToken { hash, name: name.to_owned(), expires_ms };
        self.propose(Request::new(random_id(), actor, now_ms, command)).await??;
        Ok(token)
    }

    /// Join the fleet that `token` is from, through its node at `peer`. The key made here never
    /// leaves this host. [`Cluster::start`] does the rest.
    pub async fn join(
        config: &ClusterConfig,
        name: &str,
        peer: SocketAddr,
        token: &Token,
    ) -> Result<(), JoinError> {
        let home = Home::new(config.dir.clone());
        if home.is_settled() || takeover::is_pending(&home) {
            return Err(JoinError::Settled(config.dir.clone()));
        }
        let io = |source| JoinError::Io { path: config.dir.clone(), source };
        let address = config.advertise.unwrap_or(config.listen);
        if address.ip().is_unspecified() || address.port() == 0 {
            return Err(JoinError::Address(address));
        }
        // The key is kept before it is shown, so that a retry shows the same one and is the same
        // node to the fleet.
        let key = match home.pending_key().map_err(io)? {
            Some(pem) => KeyPair::from_pem(&pem).map_err(AuthorityError::from)?,
            None => {
                let key = authority::new_key()?;
                home.keep_pending_key(&key.serialize_pem()).map_err(io)?;
                key
            }
        };
        let csr = authority::request(&key)?;
        let host = NewHost {
            name: name.to_owned(),
            address: address.to_string(),
            version: config.version.clone(),
            key: authority::key_hash(&csr)?,
            speaks: config.speaks,
        };
        let joined = transport::join(peer, token.fingerprint, &token.secret, &host, &csr)
            .await
            .map_err(|error| match error {
                transport::JoinError::Refused(why) => JoinError::Refused(why),
                error => JoinError::Unreachable(error.to_string()),
            })?;
        if authority::hash(&joined.authority) != token.fingerprint {
            return Err(JoinError::Refused("it sent another authority than the token's".into()));
        }
        let who = Who {
            fleet: format!("{:032x}", joined.fleet),
            node: joined.node,
            name: name.to_owned(),
            founder: false,
            begun: false,
            certified_ms: (config.clock)(),
        };
        let authority = CertificateDer::from(joined.authority);
        let certificate = CertificateDer::from(joined.certificate);
        home.settle(&who, &authority, &certificate, &key.serialize_pem()).map_err(io)
    }

    /// Remove a host for good: one that is retired, or with `force` one that is lost. Its
    /// certificate is refused from then on; it can come back only as a new host. The leader takes
    /// it out of the consensus.
    pub async fn remove(&self, name: &str, force: bool, actor: &str) -> Result<(), ManageError> {
        self.manage(actor, Command::HostRemove { name: name.to_owned(), force }).await
    }

    /// Let a host vote before others.
    pub async fn promote(&self, name: &str, actor: &str) -> Result<(), ManageError> {
        self.manage(actor, Command::HostPrefer { name: name.to_owned(), preferred: true }).await
    }

    async fn manage(&self, actor: &str, command: Command) -> Result<(), ManageError> {
        let now_ms = (self.node()?.config.clock)();
        self.propose(Request::new(random_id(), actor, now_ms, command)).await??;
        Ok(())
    }
}

/// A new request id, or any other id that is never met twice.
pub fn random_id() -> u128 {
    let secret = random_secret();
    secret.first_chunk().map_or(0, |id| u128::from_be_bytes(*id))
}

fn random_secret() -> [u8; 32] {
    let mut secret = [0; 32];
    #[expect(clippy::expect_used, reason = "without entropy nothing secret can be made at all")]
    SystemRandom::new().fill(&mut secret).expect("the system gives random bytes");
    secret
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_does_not_show_itself() {
        let token = Token { fingerprint: [0xab; 32], secret: [7; 32] };
        assert_eq!(token.to_string().parse(), Ok(token.clone()));
        assert_eq!(format!("{token:?}"), "Token(..)");
        let text = token.to_string();
        for bad in ["", "mxfleet1", &text[1..], &text[..text.len() - 1], &format!("{text}.x")] {
            assert_eq!(bad.parse::<Token>(), Err(TokenError), "{bad}");
        }
    }
}
