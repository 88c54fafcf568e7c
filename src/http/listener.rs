//! HTTP for anybody: a bounded number of connections, each within bounds of its own.
//!
//! Who says nothing makes room for who has a request: when all places are taken, the connection
//! that was opened first and is not being served is closed.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http_body_util::BodyExt as _;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::STOP_GRACE;
use super::visitor::Visitor;
use crate::config::Limits;

/// A request's header, and what is read ahead of it.
const HEADER_OCTETS_MAX: usize = 16 * 1024;

/// One connection, as the one who accepts knows it.
struct Guest {
    task: AbortHandle,
    /// A request of it is being answered.
    is_served: Arc<AtomicBool>,
}

/// A request is being answered as long as this is there.
struct Served(Arc<AtomicBool>);

impl Served {
    fn new(flag: &Arc<AtomicBool>) -> Self {
        flag.store(true, Ordering::Relaxed);
        Self(Arc::clone(flag))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Serve until told to stop; then let running requests end, but not for ever.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: &Limits,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    stop.run_until_cancelled(accept(&listener, &router, limits, &stop, &mut connections)).await;
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    // What has not ended by then is cut off with the set.
    let _ = tokio::time::timeout(STOP_GRACE, ended).await;
}

async fn accept(
    listener: &TcpListener,
    router: &Router,
    limits: &Limits,
    stop: &CancellationToken,
    connections: &mut JoinSet<()>,
) {
    let header_timeout = Duration::from_millis(limits.http_header_timeout_ms);
    let mut guests: Vec<Guest> = Vec::new();
    loop {
        let (stream, visitor) = match listener.accept().await {
            Ok((stream, peer)) => (stream, Visitor(peer.ip().to_canonical())),
            Err(error) => {
                // Most likely there are no descriptors, which asking again at once does not change.
                tracing::debug!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(limits.accept_pause_ms)).await;
                continue;
            }
        };
        make_room(&mut guests, connections, limits.http_connections_max).await;
        let is_served = Arc::new(AtomicBool::new(false));
        let (router, served, stop) = (router.clone(), Arc::clone(&is_served), stop.clone());
        let service = (router, visitor, served);
        let task = connections.spawn(attend(stream, service, header_timeout, stop));
        guests.push(Guest { task, is_served });
    }
}

/// Wait until fewer than `most` are left, and send away who is not being served.
async fn make_room(guests: &mut Vec<Guest>, connections: &mut JoinSet<()>, most: usize) {
    while connections.try_join_next().is_some() {}
    guests.retain(|guest| !guest.task.is_finished());
    while connections.len() >= most {
        let idle = guests.iter().position(|guest| !guest.is_served.load(Ordering::Relaxed));
        if let Some(idle) = idle {
            guests.remove(idle).task.abort();
        }
        // Only when its task has ended its descriptor is free.
        connections.join_next().await;
    }
}

/// One connection, until it has nothing more to ask.
async fn attend(
    stream: TcpStream,
    (router, visitor, is_served): (Router, Visitor, Arc<AtomicBool>),
    header_timeout: Duration,
    stop: CancellationToken,
) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(|mut request: hyper::Request<hyper::body::Incoming>| {
        let served = Served::new(&is_served);
        request.extensions_mut().insert(visitor);
        let answer = router.call(request);
        async move {
            let answer = answer.await?;
            // A page that comes bit by bit is being served until its end.
            let kept = move |frame| {
                let _ = &served;
                frame
            };
            Ok::<_, Infallible>(answer.map(|body| Body::new(body.map_frame(kept))))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(HEADER_OCTETS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection broke");
    }
}
