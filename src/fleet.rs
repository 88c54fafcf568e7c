//! This node's place in its fleet: from the configuration to a running [`Cluster`].

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use mxfleet_cluster::{CLUSTER_VERSION, Cluster, ClusterConfig, JoinError, StartError};

use crate::config::Config;
use crate::system::clock;
use crate::telemetry;

/// Why a node has no place in a fleet.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// A fleet of one could not be begun.
    #[error(transparent)]
    Begin(#[from] JoinError),
    /// It could not take part.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Queue ids have room for smaller numbers only.
    #[error("this node's id in the fleet is {0}, and queue ids end at 65535")]
    Id(u64),
}

/// A running cluster and this node's number in it.
pub struct Place {
    /// The replicated state.
    pub cluster: Cluster,
    /// This node's id, which is part of every queue id.
    pub node_id: u16,
}

/// How this node takes part, as its configuration says.
pub fn config(config: &Config) -> ClusterConfig {
    ClusterConfig {
        dir: config.node.data_dir.join("cluster"),
        listen: config.cluster.listen.unwrap_or(nobody_else()),
        advertise: config.cluster.advertise,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        speaks: CLUSTER_VERSION,
        clock: Arc::new(clock::wall_ms),
        observer: Arc::new(telemetry::cluster::observe),
        segmentation_offload: config.cluster.segmentation_offload,
    }
}

/// Take part. A node whose configuration has no `cluster.listen` begins a fleet of its own when it
/// is started for the first time.
pub async fn take_part(config: &Config) -> Result<Place, FleetError> {
    let place = self::config(config);
    let started = Cluster::start(place.clone()).await;
    let cluster = match started {
        Err(StartError::NoFleet(_)) if config.cluster.listen.is_none() => {
            Cluster::init(&place, &config.node.name)?;
            Cluster::start(place).await?
        }
        started => started?,
    };
    let id = cluster.node_id().unwrap_or_default();
    let node_id = u16::try_from(id).map_err(|_| FleetError::Id(id))?;
    Ok(Place { cluster, node_id })
}

/// Any free port of the loopback interface.
fn nobody_else() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

#[cfg(test)]
pub(crate) mod tests {
    use mxfleet_cluster::{CLUSTER_VERSION, NewHost};

    /// The host `mx{n}`, as it would join.
    pub(crate) fn new_host(n: u8) -> NewHost {
        NewHost {
            name: format!("mx{n}"),
            address: format!("192.0.2.{n}:7946"),
            version: "0.1.0".to_owned(),
            key: [n; 32],
            speaks: CLUSTER_VERSION,
        }
    }
}
