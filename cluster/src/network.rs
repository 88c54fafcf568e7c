//! openraft's network on a [`Transport`].

use std::sync::Arc;
use std::time::Duration;

use openraft::error::{
    Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use openraft::{AnyError, OptionalSend};

use crate::machine::View;
use crate::raft::{NodeId, Peer, Types, Vote};
use crate::transport::wire::{Answer, Ask, Call};
use crate::transport::{CallError, Tail, Transport};

/// A member that does not answer is tried again after this.
const RETRY: Duration = Duration::from_millis(250);

type RpcError = RPCError<NodeId, Peer, RaftError<NodeId>>;

/// Calls nodes of this fleet by id.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) fleet: u128,
    pub(crate) node: NodeId,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) view: Arc<View>,
}

impl Network {
    /// Call `to`. The hosts table knows where a node is now; the fallback is what Raft was told.
    pub(crate) async fn ask(
        &self,
        to: NodeId,
        fallback: &str,
        ask: Ask,
        tail: Tail,
    ) -> Result<Answer, CallError> {
        let state = self.view.state();
        let address = state.host(to).map_or(fallback, |host| host.address.as_str());
        let call = Call { fleet: self.fleet, from: self.node, to, ask };
        let bytes = call.encode().map_err(|e| CallError::Unreachable(e.to_string()))?;
        self.transport.call(to, address, bytes, tail).await
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: NodeId, node: &Peer) -> Link {
        Link { network: self.clone(), to: target, address: node.address.clone() }
    }
}

/// Raft's way to one other node.
pub(crate) struct Link {
    network: Network,
    to: NodeId,
    address: String,
}

impl Link {
    async fn ask(&self, ask: Ask, tail: Tail) -> Result<Answer, CallError> {
        self.network.ask(self.to, &self.address, ask, tail).await
    }

    fn odd(answer: &Answer) -> CallError {
        CallError::Broken(match answer {
            Answer::Refused(why) => why.clone(),
            _ => "it answered something else".to_owned(),
        })
    }
}

fn rpc_error(error: &CallError) -> RpcError {
    match error {
        CallError::Unreachable(_) => Unreachable::new(error).into(),
        CallError::Broken(_) => NetworkError::new(error).into(),
    }
}

impl RaftNetwork<Types> for Link {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, RpcError> {
        match self.ask(Ask::Append(rpc), Tail::Nothing).await {
            Ok(Answer::Append(response)) => Ok(response),
            Ok(answer) => Err(Unreachable::new(&Self::odd(&answer)).into()),
            Err(error) => Err(rpc_error(&error)),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<NodeId>,
        _option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, RpcError> {
        match self.ask(Ask::Vote(rpc), Tail::Nothing).await {
            Ok(Answer::Vote(response)) => Ok(response),
            Ok(answer) => Err(Unreachable::new(&Self::odd(&answer)).into()),
            Err(error) => Err(rpc_error(&error)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<Types>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<NodeId>, StreamingError<Types, Fatal<NodeId>>> {
        let ask = Ask::Snapshot { vote, meta: snapshot.meta };
        let sent = tokio::select! {
            biased; // a simulation must not depend on tokio's own randomness
            closed = cancel => return Err(closed.into()),
            sent = tokio::time::timeout(
                option.hard_ttl(),
                self.ask(ask, Tail::File(snapshot.snapshot.path)),
            ) => sent,
        };
        let error = match sent {
            Ok(Ok(Answer::Snapshot(response))) => return Ok(response),
            Ok(Ok(answer)) => Self::odd(&answer),
            Ok(Err(error)) => error,
            Err(_) => CallError::Broken("the snapshot took too long".to_owned()),
        };
        Err(Unreachable::from(AnyError::new(&error)).into())
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(RETRY))
    }
}
