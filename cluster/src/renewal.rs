//! A node's certificate is renewed long before it ends, and the new one is in use at once.

use std::sync::atomic::Ordering;

use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::authority::{self, Authority, NODE_LIFE_MS, RENEW_BEFORE_MS};
use crate::cluster::{Cluster, Node};
use crate::identity::Who;
use crate::transport::wire::{Answer, Ask};

/// Get a new certificate if it is time; whether one was gotten.
pub(crate) async fn renew(cluster: &Cluster) -> bool {
    let Ok(node) = cluster.node() else { return false };
    let now_ms = (node.config.clock)();
    let ends_ms = node.certified_ms.load(Ordering::Relaxed).saturating_add(NODE_LIFE_MS);
    if now_ms.saturating_add(RENEW_BEFORE_MS) < ends_ms {
        return false;
    }
    match renewed(node, now_ms).await {
        Ok(()) => {
            node.certified_ms.store(now_ms, Ordering::Relaxed);
            tracing::info!("this node has a new certificate");
            true
        }
        Err(error) => {
            tracing::warn!(%error, "the certificate was not renewed; tried again");
            false
        }
    }
}

async fn renewed(node: &Node, now_ms: u64) -> Result<(), String> {
    fn text(error: impl std::fmt::Display) -> String {
        error.to_string()
    }
    let key = KeyPair::from_pem(&node.home.node_key_pem().map_err(text)?).map_err(text)?;
    let csr = authority::request(&key).map_err(text)?;
    let leader = node.raft.metrics().borrow().current_leader.ok_or("there is no leader")?;
    let answer = if leader == node.who.node {
        let pem = node.home.authority_key().map_err(text)?.ok_or("the key is not here")?;
        let authority = Authority::load(node.credentials.authority(), &pem).map_err(text)?;
        let certificate = authority.sign(&csr, node.who.node, now_ms).map_err(text)?;
        Answer::Signed { certificate: certificate.to_vec() }
    } else {
        node.forwarder.ask(leader, Ask::Renew { csr }).await.map_err(text)?
    };
    let Answer::Signed { certificate } = answer else {
        return Err("the leader did not sign".to_owned());
    };
    let certificate = CertificateDer::from(certificate);
    node.credentials.replace(certificate.clone(), PrivateKeyDer::from(key)).map_err(text)?;
    node.home.set_certificate(&certificate).map_err(text)?;
    node.home.set_who(&Who { certified_ms: now_ms, ..node.who.clone() }).map_err(text)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    use quinn::{ClientConfig, Endpoint};

    use super::*;
    use crate::cluster::ClusterConfig;
    use crate::identity::Home;
    use crate::port::Port;
    use crate::transport::Credentials;

    const DAY_MS: u64 = 86_400_000;

    fn system_ms() -> u64 {
        #[expect(clippy::disallowed_methods, reason = "rustls asks the system, too")]
        let now = std::time::SystemTime::now();
        u64::try_from(now.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis()).unwrap()
    }

    fn config(dir: &Path, clock: &Arc<AtomicU64>, port: &Port) -> ClusterConfig {
        let clock = Arc::clone(clock);
        ClusterConfig {
            dir: dir.to_owned(),
            listen: port.address,
            advertise: None,
            version: String::new(),
            speaks: crate::CLUSTER_VERSION,
            clock: Arc::new(move || clock.load(Ordering::Relaxed)),
            segmentation_offload: true,
            observer: Arc::new(|_| ()),
        }
    }

    fn credentials(config: &ClusterConfig) -> Arc<Credentials> {
        let identity = Home::new(config.dir.clone()).load().unwrap();
        Credentials::new(identity.authority, identity.certificate, identity.key).unwrap()
    }

    /// The certificate that is shown to whoever connects.
    async fn shown(by: SocketAddr, name: &str, to: &Arc<Credentials>) -> CertificateDer<'static> {
        let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let client = ClientConfig::new(Arc::new(to.client().unwrap()));
        let connection = endpoint.connect_with(client, by, name).unwrap().await.unwrap();
        let chain = connection.peer_identity().unwrap();
        chain.downcast::<Vec<CertificateDer<'static>>>().unwrap()[0].clone()
    }

    #[tokio::test]
    async fn a_certificate_that_nears_its_end_is_renewed_once_and_shown_from_then_on() {
        let dir = tempfile::tempdir().unwrap();
        let now_ms = system_ms();
        let clock = Arc::new(AtomicU64::new(now_ms - 240 * DAY_MS));
        let ports = [Port::reserve(), Port::reserve()];
        let leading = config(&dir.path().join("mx1"), &clock, &ports[0]);
        Cluster::init(&leading, "mx1").unwrap();
        let leader = Cluster::start(leading.clone()).await.unwrap();
        let following = config(&dir.path().join("mx2"), &clock, &ports[1]);
        let token = leader.token("mx2", 60_000, "ops").await.unwrap();
        Cluster::join(&following, "mx2", leading.listen, &token).await.unwrap();
        let follower = Cluster::start(following.clone()).await.unwrap();
        follower.settled().await;
        let found = tokio::time::timeout(Duration::from_secs(20), async {
            while follower.status().await.unwrap().leader.as_deref() != Some("mx1") {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        found.await.unwrap();

        for (cluster, config, name) in
            [(&leader, &leading, "n1.raft.internal"), (&follower, &following, "n2.raft.internal")]
        {
            let caller = credentials(&leading);
            clock.store(now_ms - 240 * DAY_MS, Ordering::Relaxed);
            let old = shown(config.listen, name, &caller).await;
            assert!(!renew(cluster).await, "not yet");
            clock.store(now_ms + 6 * DAY_MS, Ordering::Relaxed);
            assert!(renew(cluster).await);
            assert!(!renew(cluster).await, "and not again");
            let new = shown(config.listen, name, &caller).await;
            assert_ne!(new, old);
            let kept = Home::new(config.dir.clone()).load().unwrap();
            assert_eq!((kept.certificate, kept.who.certified_ms), (new, now_ms + 6 * DAY_MS));
        }
        follower.shutdown().await;
        leader.shutdown().await;
    }
}
