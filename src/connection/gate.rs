//! How many sessions there may be, in all and from one client network.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use crate::config::Limits;
use crate::system::client_network::client_network;
use crate::telemetry::metrics::METRICS;

/// Why a client does not get in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Busy {
    /// `sessions_max` is reached.
    Everywhere,
    /// `sessions_per_network_max` is reached.
    Network,
}

/// Counts who is in.
#[derive(Debug)]
pub(super) struct Gate {
    sessions_max: usize,
    per_network_max: usize,
    unlimited: Vec<IpNet>,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    all: usize,
    networks: HashMap<IpNet, usize>,
}

/// Leave to be in; dropping it is leaving.
#[derive(Debug)]
pub(super) struct Pass {
    gate: Arc<Gate>,
    /// `None` when its network is not counted.
    network: Option<IpNet>,
}

impl Gate {
    pub(super) fn new(limits: &Limits, unlimited: Vec<IpNet>) -> Self {
        Self {
            sessions_max: limits.sessions_max,
            per_network_max: limits.sessions_per_network_max,
            unlimited,
            inside: Mutex::default(),
        }
    }

    /// Let the client at `ip` in, or say why not.
    pub(super) fn enter(self: &Arc<Self>, ip: IpAddr) -> Result<Pass, Busy> {
        let limited = !self.unlimited.iter().any(|network| network.contains(&ip));
        let network = limited.then(|| client_network(ip));
        let mut inside = self.lock();
        if inside.all >= self.sessions_max {
            return Err(Busy::Everywhere);
        }
        if let Some(network) = network {
            let count = inside.networks.entry(network).or_default();
            if *count >= self.per_network_max {
                return Err(Busy::Network);
            }
            *count += 1;
        }
        inside.all += 1;
        drop(inside);
        METRICS.smtp_sessions.inc();
        Ok(Pass { gate: Arc::clone(self), network })
    }

    /// A panic cannot leave the counts half changed, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut inside = self.gate.lock();
        inside.all -= 1;
        if let Some(network) = self.network
            && let Some(count) = inside.networks.get_mut(&network)
        {
            *count -= 1;
            if *count == 0 {
                inside.networks.remove(&network);
            }
        }
        drop(inside);
        METRICS.smtp_sessions.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(all: usize, network: usize) -> Arc<Gate> {
        let limits =
            Limits { sessions_max: all, sessions_per_network_max: network, ..Limits::default() };
        Arc::new(Gate::new(&limits, vec!["127.0.0.0/8".parse().unwrap()]))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_is_counted_as_one_client() {
        let gate = gate(10, 2);
        let first = gate.enter(ip("192.0.2.1")).unwrap();
        let _second = gate.enter(ip("192.0.2.200")).unwrap();
        assert_eq!(gate.enter(ip("192.0.2.3")).err(), Some(Busy::Network));
        let _other = gate.enter(ip("198.51.100.1")).unwrap();
        let _six = gate.enter(ip("2001:db8::1")).unwrap();
        let _six = gate.enter(ip("2001:db8::2")).unwrap();
        assert_eq!(gate.enter(ip("2001:db8::3")).err(), Some(Busy::Network));
        drop(first);
        assert!(gate.enter(ip("192.0.2.3")).is_ok());
    }

    #[test]
    fn an_unlimited_network_still_counts_in_all() {
        let gate = gate(3, 1);
        let _inside: Vec<_> =
            (1..4).map(|n| gate.enter(ip(&format!("127.0.0.{n}"))).unwrap()).collect();
        assert_eq!(gate.enter(ip("127.0.0.9")).err(), Some(Busy::Everywhere));
    }

    #[test]
    fn those_who_left_are_forgotten() {
        let gate = gate(10, 2);
        drop(gate.enter(ip("192.0.2.1")).unwrap());
        assert!(gate.lock().networks.is_empty());
        assert_eq!(gate.lock().all, 0);
    }
}
