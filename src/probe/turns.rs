//! Who may use the tools when: some uses a minute for each client network, and one at a time for
//! each domain.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::system::client_network::client_network;

/// Uses of one client network within [`PERIOD`].
const USES_MAX: usize = 6;
const PERIOD: Duration = Duration::from_mins(1);
/// Client networks that are remembered; of more the one that has been away the longest is not.
const NETWORKS_MAX: usize = 10_000;
/// Domains that are looked at at the same time.
const DOMAINS_MAX: usize = 20;

/// Why somebody has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// They, or their neighbours, have used it often.
    #[error("You have used this often. Please wait a minute.")]
    Visitor,
    /// It is looked at already.
    #[error("This domain is being tested already. Please wait until that has ended.")]
    Domain,
    /// Many are at it.
    #[error("Many tests are running. Please wait a minute.")]
    Everybody,
}

/// Gives turns. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Turns {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    uses: HashMap<IpNet, VecDeque<Instant>>,
    domains: HashSet<String>,
}

/// Somebody's turn; over when it is dropped.
#[derive(Debug)]
pub struct Turn {
    turns: Turns,
    domain: String,
}

impl Turns {
    /// One use of the tools by `visitor`, such as a question to name servers.
    pub fn use_once(&self, visitor: IpAddr, now: Instant) -> Result<(), Busy> {
        let network = client_network(visitor);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = |at: &Instant| now.saturating_duration_since(*at) >= PERIOD;
        if inner.uses.len() >= NETWORKS_MAX {
            inner.uses.retain(|_, uses| uses.back().is_some_and(|at| !is_old(at)));
        }
        if inner.uses.len() >= NETWORKS_MAX && !inner.uses.contains_key(&network) {
            // Whoever has many networks would lock everybody out; how much is done at a time is
            // bounded by the domains.
            let oldest = inner.uses.iter().min_by_key(|(_, uses)| uses.back());
            if let Some(network) = oldest.map(|(network, _)| *network) {
                inner.uses.remove(&network);
            }
        }
        let uses = inner.uses.entry(network).or_default();
        while uses.front().is_some_and(is_old) {
            uses.pop_front();
        }
        if uses.len() >= USES_MAX {
            return Err(Busy::Visitor);
        }
        uses.push_back(now);
        Ok(())
    }

    /// The only one who looks at `domain`.
    pub fn take(&self, domain: &str) -> Result<Turn, Busy> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.domains.len() >= DOMAINS_MAX {
            return Err(Busy::Everybody);
        }
        if !inner.domains.insert(domain.to_owned()) {
            return Err(Busy::Domain);
        }
        Ok(Turn { turns: self.clone(), domain: domain.to_owned() })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut inner = self.turns.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.domains.remove(&self.domain);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_six_uses_a_minute() {
        let (turns, now) = (Turns::default(), Instant::now());
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for host in 1..=6 {
            assert_eq!(turns.use_once(ip(&format!("192.0.2.{host}")), now), Ok(()));
        }
        let again = now + PERIOD / 2;
        assert_eq!(turns.use_once(ip("192.0.2.200"), again), Err(Busy::Visitor));
        assert_eq!(turns.use_once(ip("::ffff:192.0.2.7"), again), Err(Busy::Visitor));
        assert_eq!(turns.use_once(ip("192.0.3.1"), again), Ok(()));
        assert_eq!(turns.use_once(ip("192.0.2.1"), now + PERIOD), Ok(()));
        for host in 1..=6 {
            assert_eq!(turns.use_once(ip(&format!("2001:db8::{host}")), now), Ok(()));
        }
        assert_eq!(turns.use_once(ip("2001:db8::ffff"), now), Err(Busy::Visitor));
        assert_eq!(turns.use_once(ip("2001:db8:0:1::1"), now), Ok(()));
    }

    #[test]
    fn memory_is_bounded_and_freed() {
        let (turns, now) = (Turns::default(), Instant::now());
        let ip = |n: usize| -> IpAddr { format!("10.{}.{}.1", n / 256, n % 256).parse().unwrap() };
        let remembered = || turns.inner.lock().unwrap().uses.len();
        for n in 0..NETWORKS_MAX {
            let at = now + Duration::from_micros(n as u64);
            assert_eq!(turns.use_once(ip(n), at), Ok(()));
        }
        let late = now + PERIOD / 2;
        assert_eq!(turns.use_once(ip(NETWORKS_MAX), late), Ok(()));
        assert_eq!(remembered(), NETWORKS_MAX);
        let (first, second) = (client_network(ip(0)), client_network(ip(1)));
        let known = |network| turns.inner.lock().unwrap().uses.contains_key(network);
        assert!(!known(&first) && known(&second));
        assert_eq!(turns.use_once(ip(2), late + PERIOD), Ok(()));
        assert_eq!(remembered(), 1);
    }

    #[test]
    fn a_domain_is_looked_at_by_one_at_a_time() {
        let turns = Turns::default();
        let turn = turns.take("acme.test").unwrap();
        assert_eq!(turns.take("acme.test").unwrap_err(), Busy::Domain);
        let others: Vec<_> = (1..DOMAINS_MAX).map(|n| turns.take(&n.to_string())).collect();
        assert!(others.iter().all(Result::is_ok));
        assert_eq!(turns.take("other.test").unwrap_err(), Busy::Everybody);
        drop(turn);
        assert!(turns.take("acme.test").is_ok());
    }
}
