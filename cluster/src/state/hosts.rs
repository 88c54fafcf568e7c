//! The hosts of the fleet, and the tokens that let new ones in.
//!
//! This table says who belongs to the fleet; Raft's membership follows it (see `membership.rs`).
//! **Invariant:** an id is given out once. An id below the next one that is not in the table was
//! removed, and its certificate is refused everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::service::HostState;
use super::{Outcome, Refusal};

const NAME_OCTETS_MAX: usize = 63;
const VERSION_OCTETS_MAX: usize = 64;
/// Queue ids carry the node's id in 16 bits.
const ID_MAX: u64 = u16::MAX as u64;
const HOSTS_MAX: usize = 1000;
const TOKENS_MAX: usize = 100;
/// The longest a token may be good for.
pub(crate) const TOKEN_LIFE_MS_MAX: u64 = 3_600_000;

/// SHA-256 of something that is not kept itself.
pub(crate) type Hash = [u8; 32];

/// A machine of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Given at joining, never used again.
    pub id: u64,
    /// How people call it, for example `mx1`.
    pub name: String,
    /// Where other nodes reach it: `address:port`.
    pub address: String,
    /// The version of the program it runs.
    pub version: String,
    /// When it joined: milliseconds since 1970, UTC.
    pub joined_ms: u64,
    /// Whether an operator wants it to vote before others.
    pub preferred: bool,
    /// The newest cluster version it speaks.
    pub speaks: u16,
    /// Where mail reaches it: what DNS says of the names that point at it.
    pub addresses: Vec<IpAddr>,
    /// Whether it serves.
    pub state: HostState,
    /// SHA-256 of the public key its first certificate was made for.
    pub(crate) key: Hash,
}

/// What a host says when it joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewHost {
    /// The name it was given a token for.
    pub name: String,
    /// Where other nodes reach it: `address:port`.
    pub address: String,
    /// The version of the program it runs.
    pub version: String,
    /// SHA-256 of its public key.
    pub key: [u8; 32],
    /// The newest cluster version it speaks.
    pub speaks: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Token {
    name: String,
    expires_ms: u64,
    /// Who joined with it: it may have missed the answer, and ask again until the token expires.
    used: Option<Used>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Used {
    /// SHA-256 of its public key.
    key: Hash,
    id: u64,
}

/// Hosts and tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Hosts {
    rows: Arc<BTreeMap<u64, Host>>,
    tokens: Arc<BTreeMap<Hash, Token>>,
    last_id: u64,
    /// Ids of hosts that were removed when others had taken their queues.
    emptied: Arc<BTreeSet<u64>>,
}

impl Hosts {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Host> {
        self.rows.values()
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Host> {
        self.rows.get(&id)
    }

    pub(crate) fn named(&self, name: &str) -> Option<&Host> {
        self.iter().find(|host| host.name == name)
    }

    pub(crate) fn was_removed(&self, id: u64) -> bool {
        id <= self.last_id && !self.rows.contains_key(&id)
    }

    /// Whether the host has left, or may leave, with nothing in its queue.
    pub(crate) fn left_empty(&self, id: u64) -> bool {
        let is_empty = |host: &Host| matches!(host.state, HostState::Retired { empty: true, .. });
        self.get(id).map_or_else(|| self.emptied.contains(&id), is_empty)
    }

    /// Whether a token lets somebody in, or tells again who was let in with it.
    pub(crate) fn token_is_good(&self, hash: &Hash, now_ms: u64) -> bool {
        self.tokens.get(hash).is_some_and(|token| token.expires_ms > now_ms)
    }

    /// The first host of a new fleet, or the only one of a recovered fleet.
    pub(crate) fn found(&mut self, new: &NewHost, now_ms: u64) -> Outcome {
        check(new)?;
        if !self.rows.is_empty() {
            return Err(Refusal::conflict("the fleet already has a host"));
        }
        self.admit(new, now_ms)
    }

    pub(crate) fn issue(&mut self, hash: Hash, name: &str, expires_ms: u64, now: u64) -> Outcome {
        check_name(name)?;
        if self.named(name).is_some() {
            return Err(Refusal::conflict(format!(
                "host {name} is in the fleet; `mxfleet cluster remove {name}` first if it is lost"
            )));
        }
        if expires_ms <= now || expires_ms - now > TOKEN_LIFE_MS_MAX {
            return Err(Refusal::invalid("a token is good for at most an hour"));
        }
        let tokens = Arc::make_mut(&mut self.tokens);
        // A new token for a name replaces the old one.
        tokens.retain(|_, token| token.expires_ms > now && token.name != name);
        if tokens.len() >= TOKENS_MAX {
            let used = tokens.iter().filter(|(_, token)| token.used.is_some());
            let oldest = used.min_by_key(|(_, token)| token.expires_ms).map(|(hash, _)| *hash);
            let full = || Refusal::conflict("100 tokens are waiting to be used; let some expire");
            tokens.remove(&oldest.ok_or_else(full)?);
        }
        tokens.insert(hash, Token { name: name.to_owned(), expires_ms, used: None });
        Ok(1)
    }

    /// Admit a host that shows a token; the outcome is its id. The same host may ask again.
    pub(crate) fn join(&mut self, token: &Hash, new: &NewHost, now_ms: u64) -> Outcome {
        let bad = || Refusal::invalid("the token is unknown, used, expired or for another name");
        let found = self.tokens.get(token).ok_or_else(bad)?;
        if found.expires_ms <= now_ms || found.name != new.name {
            return Err(bad());
        }
        if let Some(used) = found.used {
            let again = used.key == new.key && self.rows.contains_key(&used.id);
            return if again { Ok(used.id) } else { Err(bad()) };
        }
        check(new)?;
        if self.named(&new.name).is_some() {
            return Err(Refusal::conflict(format!("host {} is in the fleet", new.name)));
        }
        let id = self.admit(new, now_ms)?;
        if let Some(found) = Arc::make_mut(&mut self.tokens).get_mut(token) {
            found.used = Some(Used { key: new.key, id });
        }
        Ok(id)
    }

    fn admit(&mut self, new: &NewHost, now_ms: u64) -> Outcome {
        if self.rows.len() >= HOSTS_MAX || self.last_id >= ID_MAX {
            return Err(Refusal::conflict("the fleet has no room for another host"));
        }
        self.last_id += 1;
        let host = Host {
            id: self.last_id,
            name: new.name.clone(),
            address: new.address.clone(),
            version: new.version.clone(),
            joined_ms: now_ms,
            preferred: false,
            speaks: new.speaks,
            addresses: Vec::new(),
            state: HostState::InService,
            key: new.key,
        };
        Arc::make_mut(&mut self.rows).insert(host.id, host);
        Ok(self.last_id)
    }

    pub(crate) fn announce(
        &mut self,
        id: u64,
        address: &str,
        version: &str,
        speaks: u16,
    ) -> Outcome {
        check_address(address)?;
        check_version(version)?;
        let host =
            self.get(id).ok_or_else(|| Refusal::not_found(format!("no host has id {id}")))?;
        if host.address == address && host.version == version && host.speaks == speaks {
            return Ok(0);
        }
        if let Some(host) = Arc::make_mut(&mut self.rows).get_mut(&id) {
            address.clone_into(&mut host.address);
            version.clone_into(&mut host.version);
            host.speaks = speaks;
        }
        Ok(1)
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut Host> {
        Arc::make_mut(&mut self.rows).get_mut(&id)
    }

    pub(crate) fn prefer(&mut self, name: &str, preferred: bool) -> Outcome {
        let id = self.require(name)?;
        if let Some(host) = Arc::make_mut(&mut self.rows).get_mut(&id) {
            host.preferred = preferred;
        }
        Ok(1)
    }

    pub(crate) fn remove(&mut self, name: &str) -> Outcome {
        let id = self.require(name)?;
        if self.rows.len() == 1 {
            return Err(Refusal::conflict(format!("{name} is the only host of the fleet")));
        }
        if self.left_empty(id) {
            Arc::make_mut(&mut self.emptied).insert(id);
        }
        Arc::make_mut(&mut self.rows).remove(&id);
        Ok(1)
    }

    /// Leave only host `id`: the others are lost for good.
    pub(crate) fn keep_only(&mut self, id: u64) {
        Arc::make_mut(&mut self.rows).retain(|row, _| *row == id);
        self.tokens = Arc::default();
    }

    pub(super) fn require(&self, name: &str) -> Result<u64, Refusal> {
        let host = self.named(name);
        host.map(|host| host.id)
            .ok_or_else(|| Refusal::not_found(format!("there is no host {name}")))
    }
}

fn check(new: &NewHost) -> Result<(), Refusal> {
    check_name(&new.name)?;
    check_address(&new.address)?;
    check_version(&new.version)
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let ok = (1..=NAME_OCTETS_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if ok {
        return Ok(());
    }
    Err(Refusal::invalid("a host's name is 1 to 63 lowercase letters, digits and hyphens"))
}

fn check_address(address: &str) -> Result<(), Refusal> {
    match address.parse::<SocketAddr>() {
        Ok(parsed) if parsed.port() != 0 && !parsed.ip().is_unspecified() => Ok(()),
        _ => Err(Refusal::invalid(format!(
            "{} is not an address other nodes can reach, such as 192.0.2.1:7946",
            address.escape_debug()
        ))),
    }
}

fn check_version(version: &str) -> Result<(), Refusal> {
    if version.len() > VERSION_OCTETS_MAX || version.chars().any(char::is_control) {
        return Err(Refusal::invalid("a version is at most 64 octets of plain text"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(name: &str, key: u8) -> NewHost {
        NewHost {
            name: name.to_owned(),
            address: "192.0.2.1:7946".to_owned(),
            version: "0.1.0".to_owned(),
            key: [key; 32],
            speaks: 1,
        }
    }

    #[test]
    fn a_token_admits_one_host_of_its_name_in_time() {
        let mut hosts = Hosts::default();
        assert_eq!(hosts.found(&new("mx1", 1), 0), Ok(1));
        assert_eq!(hosts.issue([7; 32], "mx2", 1000, 0), Ok(1));
        assert!(hosts.join(&[8; 32], &new("mx2", 2), 1).is_err(), "another secret");
        assert!(hosts.join(&[7; 32], &new("mx3", 2), 1).is_err(), "another name");
        assert!(hosts.join(&[7; 32], &new("mx2", 2), 1000).is_err(), "too late");
        assert_eq!(hosts.join(&[7; 32], &new("mx2", 2), 999), Ok(2));
        assert!(hosts.join(&[7; 32], &new("mx2", 3), 999).is_err(), "used");
    }

    #[test]
    fn a_host_that_missed_the_answer_hears_it_again() {
        let mut hosts = Hosts::default();
        hosts.found(&new("mx1", 1), 0).unwrap();
        hosts.issue([7; 32], "mx2", 1000, 0).unwrap();
        assert_eq!(hosts.join(&[7; 32], &new("mx2", 2), 1), Ok(2));
        assert_eq!(hosts.join(&[7; 32], &new("mx2", 2), 2), Ok(2));
        assert!(hosts.token_is_good(&[7; 32], 999) && !hosts.token_is_good(&[7; 32], 1000));
        assert!(hosts.join(&[7; 32], &new("mx2", 2), 1000).is_err(), "too late");
        hosts.remove("mx2").unwrap();
        assert!(hosts.join(&[7; 32], &new("mx2", 2), 3).is_err(), "removed meanwhile");
    }

    #[test]
    fn used_tokens_do_not_keep_new_ones_out() {
        let mut hosts = Hosts::default();
        hosts.found(&new("mx1", 1), 0).unwrap();
        let token = |n: usize| [u8::try_from(n).unwrap(); 32];
        for n in 0..TOKENS_MAX {
            hosts.issue(token(n), &format!("h{n}"), 1000, 0).unwrap();
        }
        assert!(hosts.issue(token(200), "late", 1000, 0).is_err());
        hosts.join(&token(5), &new("h5", 5), 1).unwrap();
        assert_eq!(hosts.issue(token(200), "late", 1000, 1), Ok(1));
        assert!(!hosts.token_is_good(&token(5), 1) && hosts.token_is_good(&token(6), 1));
    }

    #[test]
    fn an_id_is_never_given_out_again() {
        let mut hosts = Hosts::default();
        hosts.found(&new("mx1", 1), 0).unwrap();
        hosts.issue([7; 32], "mx2", 1000, 0).unwrap();
        hosts.join(&[7; 32], &new("mx2", 2), 1).unwrap();
        hosts.remove("mx2").unwrap();
        assert!(hosts.was_removed(2) && !hosts.was_removed(3));
        hosts.issue([9; 32], "mx2", 1000, 0).unwrap();
        assert_eq!(hosts.join(&[9; 32], &new("mx2", 2), 1), Ok(3));
    }

    #[test]
    fn the_last_host_stays_and_long_tokens_are_refused() {
        let mut hosts = Hosts::default();
        hosts.found(&new("mx1", 1), 0).unwrap();
        assert!(hosts.remove("mx1").is_err());
        assert!(hosts.issue([1; 32], "mx2", TOKEN_LIFE_MS_MAX + 1, 0).is_err());
        assert!(hosts.issue([1; 32], "MX2", 10, 0).is_err());
    }
}
