//! Stage 6: from a domain to the servers that take its mail, in order.
//!
//! A fixed route is the table's; an `mx` route is what DNS says, cut down to the exchangers that
//! are better than ourselves. What to do with the answers is in `plan`, which is pure.
//!
//! **Invariant:** no plan holds an address that ends at this node, or where mail reaches another
//! host of the fleet.
//!
//! **Invariant:** only mail that we wrote ourselves has a route to a domain that is no customer's.

mod dns;
mod own;
mod plan;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

use mxfleet_cluster::{Cluster, Route, Server, State, TlsPolicy};
use tokio::task::JoinSet;

use crate::client::Hop;
use crate::config::Limits;
use crate::smtp::Enhanced;
use crate::smtp::about::domain_of;
use crate::system::random::random_u64;

pub use dns::{Dns, ResolverError};
pub use own::{Own, Us, interface_addresses};
use plan::{Exchanger, Located, PlanBounds, Target};

/// Why there is no server to try.
///
/// A customer's mail is kept where a human can still repair it: a domain whose zone has vanished
/// or that is no longer in the table is tried until `queue.lifetime`, where a relay for strangers
/// would give up at once (RFC 5321 section 5.1 allows both; 5.1.2 is for domains nobody vouches
/// for).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteFailure {
    /// No customer has this domain any more.
    #[error("no customer has domain {0}")]
    NotServed(String),
    /// The domain says that it takes no mail (RFC 7505).
    #[error("the domain does not accept mail (null MX)")]
    NullMx,
    /// The best exchanger is this fleet.
    #[error("mail loops back to myself")]
    LoopsBack,
    /// All servers of a fixed route are the fleet's: a mistake in the table, which can be repaired.
    #[error("the route of {0} leads back to this fleet")]
    RouteLoopsBack(String),
    /// The name servers gave no answer, or a failure.
    #[error("lookup of {name} failed: {why}")]
    Dns {
        /// What was looked up.
        name: String,
        /// What happened.
        why: String,
    },
    /// No exchanger has an address that can be used.
    #[error("{0} has no address that mail can be sent to")]
    NoAddress(String),
}

impl RouteFailure {
    /// The status code for the recipients; 5.x.x is for good.
    pub fn dsn(&self) -> Enhanced {
        match self {
            // RFC 7505 section 4.
            Self::NullMx => Enhanced(5, 1, 10),
            Self::LoopsBack => Enhanced(5, 4, 6),
            Self::RouteLoopsBack(_) => Enhanced(4, 3, 5),
            Self::Dns { .. } => Enhanced(4, 4, 3),
            Self::NotServed(_) | Self::NoAddress(_) => Enhanced(4, 4, 4),
        }
    }

    /// Whether trying again is of no use.
    pub fn is_permanent(&self) -> bool {
        self.dsn().0 == 5
    }
}

/// A customer's server, and where it is.
#[derive(Debug, Clone)]
pub struct ServerAt {
    /// Its name, or its address where the route has none.
    pub name: String,
    /// Addresses that a connection may be made to; none of them ends at the fleet.
    pub addresses: Result<Vec<SocketAddr>, RouteFailure>,
}

/// Finds the servers of a domain.
#[derive(Clone)]
pub struct Router {
    cluster: Cluster,
    dns: Dns,
    own: Arc<Own>,
    mx_port: u16,
    bounds: PlanBounds,
}

impl Router {
    /// A router. `mx_port` is where exchangers listen: 25, except in tests.
    pub fn new(cluster: Cluster, dns: Dns, own: Own, mx_port: u16, limits: &Limits) -> Self {
        let bounds = PlanBounds {
            targets_max: limits.hops_tried_max,
            addresses_per_host_max: limits.addresses_per_host_max,
        };
        Self { cluster, dns, own: Arc::new(own), mx_port, bounds }
    }

    /// The servers to try for a destination, in order; never empty. Mail that we wrote ourselves
    /// goes also to domains that are no customer's.
    pub async fn hops(&self, destination: &str) -> Result<Vec<Hop>, RouteFailure> {
        let view = self.cluster.view();
        let (domain, is_ours) = domain_of(destination);
        let Some(row) = view.domain(domain) else {
            if !is_ours {
                return Err(RouteFailure::NotServed(domain.to_owned()));
            }
            let targets = self.by_mx(domain, &view).await?;
            let tls = TlsPolicy::Opportunistic;
            return Ok(targets.into_iter().map(|target| hop(target, &tls)).collect());
        };
        let targets = match &row.route {
            Route::Servers(servers) => self.fixed(domain, servers, &view).await?,
            Route::Mx => self.by_mx(domain, &view).await?,
        };
        Ok(targets.into_iter().map(|target| hop(target, &row.tls)).collect())
    }

    /// All servers of a customer's domain, also those without an address, in order.
    pub async fn servers(&self, domain: &str) -> Result<Vec<ServerAt>, RouteFailure> {
        let view = self.cluster.view();
        let row = view.domain(domain);
        let row = row.ok_or_else(|| RouteFailure::NotServed(domain.to_owned()))?;
        let mut located = match &row.route {
            Route::Servers(servers) => {
                let mut exchangers: Vec<Exchanger> = servers.iter().map(exchanger).collect();
                exchangers.sort_by_key(|exchanger| exchanger.preference);
                self.locate(exchangers).await
            }
            Route::Mx => self.located_by_mx(domain, self.us(&view)).await?,
        };
        located.truncate(self.bounds.targets_max);
        Ok(located.into_iter().map(|located| self.server_at(located, self.us(&view))).collect())
    }

    fn us<'a>(&'a self, fleet: &'a State) -> Us<'a> {
        Us { own: &self.own, fleet }
    }

    fn server_at(&self, located: Located, us: Us<'_>) -> ServerAt {
        let Exchanger { host, port, .. } = located.exchanger;
        let most = self.bounds.addresses_per_host_max;
        let addresses = located.addresses.and_then(|found| {
            let tried = plan::interleave(&found, most).into_iter();
            let addresses: Vec<_> = tried
                .map(|ip| SocketAddr::new(ip, port))
                .filter(|at| us.may_send_to(*at))
                .collect();
            match addresses[..] {
                [] => Err(RouteFailure::NoAddress(host.clone())),
                _ => Ok(addresses),
            }
        });
        ServerAt { name: host, addresses }
    }

    async fn fixed(
        &self,
        domain: &str,
        servers: &[Server],
        fleet: &State,
    ) -> Result<Vec<Target>, RouteFailure> {
        let mut exchangers: Vec<Exchanger> = servers.iter().map(exchanger).collect();
        plan::sort(&mut exchangers, random_u64());
        let located = self.locate(exchangers).await;
        plan::targets(located, self.us(fleet), self.bounds).map_err(|failure| match failure {
            RouteFailure::LoopsBack => RouteFailure::RouteLoopsBack(domain.to_owned()),
            other => other,
        })
    }

    async fn by_mx(&self, domain: &str, fleet: &State) -> Result<Vec<Target>, RouteFailure> {
        let us = self.us(fleet);
        plan::targets(self.located_by_mx(domain, us).await?, us, self.bounds)
    }

    /// The exchangers that are better than ourselves, by name and by address, in order.
    async fn located_by_mx(&self, domain: &str, us: Us<'_>) -> Result<Vec<Located>, RouteFailure> {
        let records = self.dns.exchangers(domain).await?;
        let named = plan::exchangers(domain, records, self.mx_port)?;
        let mut better = plan::better_than_us(named, |e| e.preference, |e| us.is_named(&e.host))?;
        plan::sort(&mut better, random_u64());
        // More hosts than will be tried: one further down may be us, or the first may have gone.
        better.truncate(2 * self.bounds.targets_max);
        let located = self.locate(better).await;
        let is_us = |located: &Located| plan::is_us(located, us);
        plan::better_than_us(located, |l| l.exchanger.preference, is_us)
    }

    /// Look up all of them at once; the order stays.
    async fn locate(&self, exchangers: Vec<Exchanger>) -> Vec<Located> {
        let mut lookups = JoinSet::new();
        for (place, exchanger) in exchangers.into_iter().enumerate() {
            let dns = self.dns.clone();
            lookups.spawn(async move {
                let addresses = dns.addresses(&exchanger.host).await;
                (place, Located { exchanger, addresses })
            });
        }
        let mut located = lookups.join_all().await;
        located.sort_by_key(|(place, _)| *place);
        located.into_iter().map(|(_, located)| located).collect()
    }
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Router").field("own", &self.own).finish_non_exhaustive()
    }
}

fn exchanger(server: &Server) -> Exchanger {
    Exchanger { preference: server.preference, host: server.host.clone(), port: server.port }
}

fn hop(target: Target, tls: &TlsPolicy) -> Hop {
    Hop { name: target.host, address: target.address, tls: tls.clone() }
}
