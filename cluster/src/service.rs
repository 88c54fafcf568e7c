//! What this node answers to others.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use openraft::raft::AppendEntriesResponse;
use openraft::storage::Snapshot;

use crate::authority::{self, Authority};
use crate::identity::Home;
use crate::join::random_id;
use crate::machine::View;
use crate::network::Network;
use crate::peer::Peers;
use crate::propose::{Clock, Forwarder, Proposer};
use crate::raft::{NodeId, Raft};
use crate::state::{Command, Hash, Request};
use crate::transport::wire::{Answer, Ask, Call, Joined, Joining, Progress};
use crate::transport::{BoxFuture, CallError, Handler, Rest, save};
use crate::vault;

/// Requests made on a node's behalf carry this actor.
const ACTOR: &str = "fleet";

/// Answers other nodes.
pub(crate) struct Service {
    pub(crate) raft: Raft,
    pub(crate) view: Arc<View>,
    pub(crate) proposer: Proposer,
    pub(crate) forwarder: Forwarder,
    pub(crate) network: Network,
    pub(crate) home: Home,
    pub(crate) authority: rustls::pki_types::CertificateDer<'static>,
    pub(crate) clock: Clock,
    pub(crate) peers: Arc<Peers>,
}

impl Handler for Service {
    fn admits(&self, from: NodeId) -> bool {
        !self.view.state().was_removed(from)
    }

    fn knows(&self, address: IpAddr) -> bool {
        let at = |text: &str| text.parse::<SocketAddr>().is_ok_and(|host| host.ip() == address);
        self.view.state().hosts().any(|host| at(&host.address))
    }

    fn answer(&self, from: NodeId, call: Call, rest: Rest) -> BoxFuture<'_, Answer> {
        Box::pin(async move {
            match call.ask {
                Ask::Append(rpc) => {
                    let appended = self.raft.append_entries(rpc).await;
                    if !matches!(&appended, Ok(AppendEntriesResponse::HigherVote(_)) | Err(_)) {
                        self.view.hears_leader();
                    }
                    appended.map_or_else(refused, Answer::Append)
                }
                Ask::Vote(rpc) => self.raft.vote(rpc).await.map_or_else(refused, Answer::Vote),
                Ask::Snapshot { vote, meta } => {
                    let place = match self.raft.begin_receiving_snapshot().await {
                        Ok(place) => place,
                        Err(error) => return refused(error),
                    };
                    let path = place.path.clone();
                    if let Err(error) = save(rest, &path).await {
                        let _ = tokio::fs::remove_file(&path).await; // it may not be there
                        return refused(error);
                    }
                    let snapshot = Snapshot { meta, snapshot: place };
                    match self.raft.install_full_snapshot(vote, snapshot).await {
                        Ok(response) => {
                            // What was installed has another name by now; what was not is of no
                            // use.
                            let _ = tokio::fs::remove_file(&path).await;
                            Answer::Snapshot(response)
                        }
                        // The consensus has stopped. The log may count on this file already; the
                        // next start knows.
                        Err(error) => refused(error),
                    }
                }
                Ask::Propose(request) => self.proposer.submit(request).await,
                Ask::Members => self.members(),
                Ask::KeepKey { pem } => self.keep_key(pem).await,
                Ask::Renew { csr } => self.renew(from, csr).await,
                Ask::Join(joining) => self.admit(joining).await,
                Ask::Peer { topic, body } => self.peers.answer(from, topic, body, rest).await,
                Ask::Vault => self.vault_key(),
            }
        })
    }

    fn token_is_good(&self, hash: &Hash) -> bool {
        self.view.state().token_is_good(hash, (self.clock)())
    }

    fn join(&self, joining: Joining) -> BoxFuture<'_, Answer> {
        Box::pin(async move {
            let Some(leader) = self.raft.metrics().borrow().current_leader else {
                return Answer::NotLeader { leader: None };
            };
            if leader == self.network.node {
                return self.admit(joining).await;
            }
            match self.forwarder.ask(leader, Ask::Join(joining)).await {
                Ok(answer) => answer,
                Err(CallError::Unreachable(_) | CallError::Broken(_)) => Answer::Unknown,
            }
        })
    }
}

impl Service {
    /// Admit a newcomer: the fleet decides, then its certificate is signed.
    ///
    /// A newcomer that did not hear the answer asks again with the same key and token, and gets
    /// the same id; with another key the token is used up.
    async fn admit(&self, joining: Joining) -> Answer {
        if let Some(not_now) = self.proposer.not_now() {
            return not_now;
        }
        match authority::key_hash(&joining.csr) {
            Ok(key) if key == joining.host.key => {}
            Ok(_) => return refused("the certificate request is for another key"),
            Err(error) => return refused(error),
        }
        let command = Command::HostJoin { token: joining.token, host: joining.host };
        let request = Request::new(random_id(), ACTOR, (self.clock)(), command);
        match self.proposer.submit(Arc::new(request)).await {
            Answer::Proposed { outcome: Ok(node), .. } => {
                self.sign(node, joining.csr).await.map_or_else(refused, |certificate| {
                    Answer::Joined(Joined {
                        fleet: self.network.fleet,
                        node,
                        authority: self.authority.to_vec(),
                        certificate,
                    })
                })
            }
            Answer::Proposed { outcome: Err(refusal), .. } => refused(refusal),
            other => other,
        }
    }

    async fn renew(&self, from: NodeId, csr: Vec<u8>) -> Answer {
        if let Some(not_now) = self.proposer.not_now() {
            return not_now;
        }
        let signed = self.sign(from, csr).await;
        signed.map_or_else(refused, |certificate| Answer::Signed { certificate })
    }

    async fn sign(&self, node: NodeId, csr: Vec<u8>) -> Result<Vec<u8>, String> {
        let (home, authority, now_ms) = (self.home.clone(), self.authority.clone(), (self.clock)());
        let work = move || {
            let key = home.authority_key().map_err(|error| error.to_string())?;
            let key = key.ok_or("this node does not hold the authority's key")?;
            Authority::load(&authority, &key)
                .and_then(|authority| authority.sign(&csr, node, now_ms))
                .map(|certificate| certificate.to_vec())
                .map_err(|error| error.to_string())
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()))
    }

    async fn keep_key(&self, pem: String) -> Answer {
        let (home, authority) = (self.home.clone(), self.authority.clone());
        let work = move || {
            if !authority::belongs(&authority, &pem) {
                return Err("the key is not the authority's".to_owned());
            }
            home.keep_authority_key(&pem).map_err(|error| error.to_string())
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(())) => Answer::Done,
            Ok(Err(error)) => Answer::Refused(error),
            Err(error) => refused(error),
        }
    }

    /// Whoever asks has shown a certificate of the fleet, and was not removed.
    fn vault_key(&self) -> Answer {
        match self.home.authority_key() {
            Ok(Some(pem)) => vault::derive(&pem).map_or_else(
                || refused("the authority's key is damaged"),
                |key| Answer::Vault { key },
            ),
            Ok(None) => refused("this node does not hold the authority's key"),
            Err(error) => refused(error),
        }
    }

    fn members(&self) -> Answer {
        match self.proposer.not_now() {
            Some(Answer::NotLeader { leader }) => Answer::NotLeader { leader },
            _ => Answer::Members(progress(&self.raft, &self.network)),
        }
    }
}

/// How far every member is, as the leader knows it.
pub(crate) fn progress(raft: &Raft, network: &Network) -> Vec<Progress> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow();
    let matched = metrics.replication.as_ref().map_or_else(BTreeMap::new, |all| {
        all.iter().map(|(id, log)| (*id, log.map_or(0, |log| log.index))).collect()
    });
    let last = metrics.last_log_index.unwrap_or(0);
    let progress_of = |(id, _): (&NodeId, _)| {
        let me = *id == network.node;
        let known = if me { last } else { matched.get(id).copied().unwrap_or(0) };
        let silent_ms = if me { Some(0) } else { network.transport.silent_ms(*id) };
        Progress { node: *id, lag_entries: last.saturating_sub(known), silent_ms }
    };
    metrics.membership_config.membership().nodes().map(progress_of).collect()
}

fn refused(why: impl std::fmt::Display) -> Answer {
    Answer::Refused(why.to_string())
}
