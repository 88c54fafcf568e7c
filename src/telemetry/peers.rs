//! Peers refused on the cluster port, read from the cluster whenever the metrics are read.

use mxfleet_cluster::Cluster;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, Opts, Registry};

struct PeersRefused {
    cluster: Cluster,
    counts: IntCounterVec,
}

impl Collector for PeersRefused {
    fn desc(&self) -> Vec<&Desc> {
        self.counts.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (reason, count) in self.cluster.peers_refused() {
            let counter = self.counts.with_label_values(&[reason]);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        self.counts.collect()
    }
}

/// Show `mxfleet_cluster_peers_refused_total` of this cluster.
pub(super) fn register(registry: &Registry, cluster: Cluster) -> prometheus::Result<()> {
    let opts = Opts::new("cluster_peers_refused_total", "Peers refused on the cluster port");
    let counts = IntCounterVec::new(opts.namespace("mxfleet"), &["reason"])?;
    registry.register(Box::new(PeersRefused { cluster, counts }))
}
