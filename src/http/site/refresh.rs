//! What most people ask for, made ahead, so that many may ask.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use crc32fast::hash;
use mxfleet_cluster::Cluster;
use tokio_util::sync::CancellationToken;

use super::board::{Board, Seen};
use super::{api, badge, feed, home};
use crate::system::clock::wall_ms;

/// How old a page may be.
const EVERY: Duration = Duration::from_secs(2);
/// For how long a browser, or a cache between, may use what it has.
const MAX_AGE: &str = "public, max-age=5";

/// A whole document.
#[derive(Clone)]
pub(super) struct Document {
    kind: &'static str,
    text: Bytes,
    tag: String,
}

impl Document {
    fn new(kind: &'static str, text: String) -> Self {
        let tag = format!("\"{:08x}-{:x}\"", hash(text.as_bytes()), text.len());
        Self { kind, text: text.into(), tag }
    }

    /// The document, unless the asker has it already.
    pub(super) fn answer(&self, asked: &HeaderMap) -> Response {
        let known = asked.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
        let headers = [(header::ETAG, self.tag.as_str()), (header::CACHE_CONTROL, MAX_AGE)];
        if known.is_some_and(|tags| tags.split(',').any(|tag| tag.trim() == self.tag)) {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        (headers, [(header::CONTENT_TYPE, self.kind)], self.text.clone()).into_response()
    }
}

/// What was there to say at the last look.
pub(super) struct Look {
    pub(super) board: Board,
    pub(super) home: Document,
    pub(super) feed: Document,
    pub(super) json: Document,
    pub(super) badge: Document,
}

impl Look {
    fn at(seen: Seen) -> Self {
        let board = Board::judge(seen);
        Self {
            home: Document::new(super::HTML, home::render(&board).into_string()),
            feed: Document::new("application/atom+xml; charset=utf-8", feed::render(&board)),
            json: Document::new("application/json", api::render(&board)),
            badge: Document::new("image/svg+xml; charset=utf-8", badge::render(&board)),
            board,
        }
    }
}

/// The last look, renewed every two seconds. It never waits for other nodes longer than a second,
/// and needs no quorum.
#[derive(Clone)]
pub(super) struct Looks {
    cluster: Cluster,
    last: Arc<ArcSwap<Look>>,
}

impl Looks {
    /// Until the first look it knows nobody, and of no agreement.
    pub(super) fn new(cluster: Cluster, from: &str) -> Self {
        let seen = Seen {
            state: cluster.view(),
            members: Vec::new(),
            from: from.to_owned(),
            agreed_ms_ago: None,
            now_ms: wall_ms(),
        };
        Self { cluster, last: Arc::new(ArcSwap::from_pointee(Look::at(seen))) }
    }

    pub(super) fn last(&self) -> Arc<Look> {
        self.last.load_full()
    }

    pub(super) async fn run(self, stop: CancellationToken) {
        let mut pause = tokio::time::interval(EVERY);
        while stop.run_until_cancelled(pause.tick()).await.is_some() {
            self.look().await;
        }
    }

    async fn look(&self) {
        let from = self.last().board.seen.from.clone();
        // A state that is no part of a fleet has no members; it exists in tests only.
        let members = self.cluster.members().await.unwrap_or_default();
        let agreed = self.cluster.gauges().ok().and_then(|gauges| gauges.agreed_ago);
        let agreed_ms_ago = agreed.map(|ago| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX));
        let state = self.cluster.view();
        let seen = Seen { state, members, from, agreed_ms_ago, now_ms: wall_ms() };
        self.last.store(Arc::new(Look::at(seen)));
    }
}
