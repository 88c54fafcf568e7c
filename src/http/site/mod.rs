//! The site for customers and everybody else: how the service is, what is planned, what was.
//!
//! Pages come from the last applied state, so that they are up even without a quorum, and say then
//! how old they are. No scripts, no cookies, nothing from third parties. Behind a link that was
//! mailed to a customer is that customer's own view.

mod api;
mod badge;
mod board;
mod customer;
mod feed;
mod history;
mod home;
mod layout;
mod records;
mod refresh;
mod side_by_side;
mod test_page;
#[cfg(test)]
mod tests;
mod when;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use maud::{Markup, html};
use mxfleet_cluster::Cluster;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use board::Level;
use layout::{Page, mark};
use refresh::Looks;

use crate::account::Account;
use crate::probe::Probes;

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = include_str!("style.css");
/// Another version of the program may have another style.
const STYLE_PATH: &str = concat!("/style.css?v=", env!("CARGO_PKG_VERSION"));

/// What every answer of the public listener says to browsers.
const SECURITY: &[(&str, &str)] = &[
    (
        "content-security-policy",
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; \
         base-uri 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
];

/// The site of a node.
#[derive(Clone)]
pub struct Site {
    shared: Shared,
}

/// What pages are made of.
#[derive(Clone)]
struct Shared {
    cluster: Cluster,
    looks: Looks,
    probes: Probes,
    account: Account,
    work: customer::Work,
}

impl Site {
    /// The site as the node `name` shows it.
    pub fn new(cluster: Cluster, name: &str, probes: Probes, account: Account) -> Self {
        let looks = Looks::new(cluster.clone(), name);
        let work = customer::Work::default();
        Self { shared: Shared { cluster, looks, probes, account, work } }
    }

    /// Keep what it says true until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        self.shared.looks.run(stop).await;
    }

    /// All pages.
    pub(super) fn router(self) -> Router {
        Router::new()
            .route("/", get(home))
            .route("/history", get(history))
            .route("/notice/{id}", get(notice))
            .route("/feed.atom", get(feed))
            .route("/badge.svg", get(badge))
            .route("/api/v1/status", get(status))
            .route("/help/mx", get(records::answer))
            .merge(test_page::router())
            .merge(customer::router())
            .route("/style.css", get(style))
            .route("/icon.svg", get(icon))
            .method_not_allowed_fallback(not_so)
            .fallback(nothing)
            .with_state(self.shared)
    }
}

/// Tell browsers to load nothing from elsewhere.
pub(super) fn guarded(router: Router) -> Router {
    router.layer(map_response(guard))
}

async fn guard(mut answer: Response) -> Response {
    for (name, value) in SECURITY.iter().copied() {
        let (name, value) = (HeaderName::from_static(name), HeaderValue::from_static(value));
        answer.headers_mut().insert(name, value);
    }
    answer
}

async fn home(State(shared): State<Shared>, asked: HeaderMap) -> Response {
    shared.looks.last().home.answer(&asked)
}

async fn feed(State(shared): State<Shared>, asked: HeaderMap) -> Response {
    shared.looks.last().feed.answer(&asked)
}

async fn badge(State(shared): State<Shared>, asked: HeaderMap) -> Response {
    for_all(shared.looks.last().badge.answer(&asked))
}

async fn status(State(shared): State<Shared>, asked: HeaderMap) -> Response {
    for_all(shared.looks.last().json.answer(&asked))
}

/// Other sites may show it.
fn for_all(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    answer
}

#[derive(Deserialize)]
struct Before {
    before: Option<u64>,
}

async fn history(
    State(shared): State<Shared>,
    asked: Result<Query<Before>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let look = shared.looks.last();
    match asked {
        Ok(Query(Before { before })) => page(StatusCode::OK, history::render(&look.board, before)),
        Err(_) => {
            let why = "The number of a notice is made of digits.";
            refusal(&shared, StatusCode::BAD_REQUEST, why)
        }
    }
}

async fn notice(State(shared): State<Shared>, Path(id): Path<String>) -> Response {
    let look = shared.looks.last();
    let id = id.parse().ok();
    let row = look.board.seen.state.notices().find(|notice| Some(notice.id) == id);
    match row {
        Some(row) => page(StatusCode::OK, history::notice(&look.board, row)),
        None => refusal(&shared, StatusCode::NOT_FOUND, "There is no such notice."),
    }
}

async fn style() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/css; charset=utf-8"),
        (header::CACHE_CONTROL, "public, max-age=86400"),
    ];
    (headers, STYLE).into_response()
}

async fn icon() -> Response {
    let picture = html! {
        svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16" {
            rect width="16" height="16" rx="3" fill="#1f5fae" {}
            path d="M3 5h10v7H3zl5 4 5-4" fill="none" stroke="#fff" {}
        }
    };
    let headers = [
        (header::CONTENT_TYPE, "image/svg+xml; charset=utf-8"),
        (header::CACHE_CONTROL, "public, max-age=86400"),
    ];
    (headers, picture.into_string()).into_response()
}

async fn nothing(State(shared): State<Shared>) -> Response {
    refusal(&shared, StatusCode::NOT_FOUND, "There is no such page.")
}

async fn not_so(State(shared): State<Shared>) -> Response {
    refusal(&shared, StatusCode::METHOD_NOT_ALLOWED, "This page can only be read.")
}

fn page(status: StatusCode, page: Markup) -> Response {
    (status, [(header::CONTENT_TYPE, HTML)], page.0).into_response()
}

/// A page that says in a plain sentence why there is none.
fn refusal(shared: &Shared, status: StatusCode, why: &str) -> Response {
    let look = shared.looks.last();
    let content = html! {
        h1 { (mark(Level::Reduced)) span { (why) } }
        p { a href="/" { "How the service is now" } }
    };
    let whole = Page { service: &look.board.title, title: why, place: "" }.around(&content);
    page(status, whole)
}
