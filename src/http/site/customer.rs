//! A customer's own view: the form that asks for a link, and what a link leads to.
//!
//! The secret is in the path and nowhere else: no cookie, no script, nothing that leaves the page.
//! A link that is no good, whyever, is answered in one way.

mod form;
mod gather;
mod parts;
mod records;
#[cfg(test)]
mod tests;
mod view;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Extension, Path, Query, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{get, post};
use maud::{Markup, html};
use mxfleet_cluster::{Customer, ProposeError, State as Tables, domain_of};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use self::form::fields;
use super::board::Level;
use super::layout::{Page, mark};
use super::{Shared, not_so, page, refusal, test_page};
use crate::account::{LinkError, LinkSecret};
use crate::http::domain_name;
use crate::http::visitor::Visitor;
use crate::system::clock::wall_ms;

/// Views that are put together at one time: each asks all nodes and looks at every address.
const VIEWS_MAX: usize = 4;
/// Changes on their way at one time.
const CHANGES_MAX: usize = 4;
/// Letters that are being written at one time.
const LETTERS_MAX: usize = 16;
/// How long somebody waits for their turn.
const TURN: Duration = Duration::from_secs(5);

/// What goes on at a time. Clones are the same.
#[derive(Clone)]
pub(super) struct Work {
    views: Arc<Semaphore>,
    changes: Arc<Semaphore>,
    letters: Arc<Semaphore>,
    /// Links whose view is being put together: one at a time, so that no customer keeps the others
    /// from theirs.
    open: Arc<Mutex<HashSet<[u8; 32]>>>,
}

/// One link's place among the views.
struct Open {
    all: Arc<Mutex<HashSet<[u8; 32]>>>,
    link: [u8; 32],
}

impl Drop for Open {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.link);
    }
}

impl Work {
    /// A place for this link, if it has none.
    fn open(&self, secret: &LinkSecret) -> Option<Open> {
        let (all, link) = (Arc::clone(&self.open), secret.hash());
        let is_new = all.lock().unwrap_or_else(PoisonError::into_inner).insert(link);
        is_new.then_some(Open { all, link })
    }
}

impl Default for Work {
    fn default() -> Self {
        let places = |most| Arc::new(Semaphore::new(most));
        Self {
            views: places(VIEWS_MAX),
            changes: places(CHANGES_MAX),
            letters: places(LETTERS_MAX),
            open: Arc::default(),
        }
    }
}

/// What a link leads to.
struct Known {
    secret: LinkSecret,
    tables: Arc<Tables>,
    customer: Customer,
    ends_ms: u64,
}

pub(super) fn router() -> Router<Shared> {
    Router::new()
        .route("/customer", get(form::show).post(form::ask))
        .route("/customer/{secret}", get(show))
        .route("/customer/{secret}/pardon", post(pardon).get(back))
        .route("/customer/{secret}/end", post(end).get(back))
        .route("/customer/{secret}/tools/{tool}", get(tools))
        .method_not_allowed_fallback(not_so)
        .layer(map_response(private))
}

/// Nobody keeps it, and no search engine finds it.
async fn private(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let robots = HeaderName::from_static("x-robots-tag");
    headers.insert(robots, HeaderValue::from_static("noindex, nofollow"));
    answer
}

/// The customer whose view the link leads to, as this node knows it.
fn known(shared: &Shared, secret: &str) -> Option<Known> {
    let secret: LinkSecret = secret.parse().ok()?;
    let tables = shared.cluster.view();
    let (customer, ends_ms) = tables.customer_of_link(&secret.hash(), wall_ms())?;
    let customer = customer.clone();
    Some(Known { secret, customer, ends_ms, tables })
}

/// `GET /customer/SECRET`
async fn show(State(shared): State<Shared>, Path(secret): Path<String>) -> Response {
    let Some(known) = known(&shared, &secret) else { return no_link(&shared) };
    let Some(_one) = shared.work.open(&known.secret) else { return busy(&shared) };
    let Some(_turn) = turn(&shared.work.views).await else { return busy(&shared) };
    let Some(gathered) = gather::gather(&shared, &known).await else {
        let why = "Your view could not be put together. Please try again in a minute.";
        return refusal(&shared, StatusCode::INTERNAL_SERVER_ERROR, why);
    };
    let look = shared.looks.last();
    page(StatusCode::OK, view::render(&look.board, &known, &gathered))
}

#[derive(Deserialize)]
struct Pardoned {
    address: String,
}

/// `POST /customer/SECRET/pardon`
async fn pardon(
    State(shared): State<Shared>,
    Path(secret): Path<String>,
    request: Request,
) -> Response {
    let Some(known) = known(&shared, &secret) else { return no_link(&shared) };
    let Pardoned { address } = match fields(request).await {
        Ok(fields) => fields,
        Err((status, why)) => return refusal(&shared, status, why),
    };
    let row = known.tables.domain(domain_of(&address));
    if row.is_none_or(|row| row.customer != known.customer.id) {
        let why = "That is no recipient in one of your domains.";
        return refusal(&shared, StatusCode::NOT_FOUND, why);
    }
    // What is not refused needs no change of the tables, however often it is asked for.
    if !known.tables.is_blacklist_tracked(&address) {
        return done(&shared, &known, &format!("{address} was not refused any more."));
    }
    let Some(_turn) = turn(&shared.work.changes).await else { return busy(&shared) };
    match shared.account.links.pardon(&known.secret, &known.customer, address.clone()).await {
        Ok(true) => done(&shared, &known, &format!("{address} gets mail again.")),
        Ok(false) => done(&shared, &known, &format!("{address} was not refused any more.")),
        Err(error) => not_done(&shared, &error),
    }
}

/// `POST /customer/SECRET/end`
async fn end(State(shared): State<Shared>, Path(secret): Path<String>) -> Response {
    let Some(known) = known(&shared, &secret) else { return no_link(&shared) };
    let Some(_turn) = turn(&shared.work.changes).await else { return busy(&shared) };
    match shared.account.links.end(&known.secret, &known.customer).await {
        Ok(()) => {
            let content = html! {
                h1 { (mark(Level::Good)) span { "The link leads nowhere any more." } }
                p { a href="/customer" { "Ask for a new one" } }
            };
            page(StatusCode::OK, around(&shared, "Link ended", &content))
        }
        Err(error) => not_done(&shared, &error),
    }
}

/// A form that was sent is asked for again by a browser that starts anew.
async fn back(State(shared): State<Shared>, Path(secret): Path<String>) -> Response {
    match known(&shared, &secret) {
        Some(known) => Redirect::to(&known.secret.path()).into_response(),
        None => no_link(&shared),
    }
}

#[derive(Deserialize)]
struct Tested {
    domain: String,
}

/// `GET /customer/SECRET/tools/...`: the tools on a domain. The link has come to a contact of the
/// customer, so that nothing more is to be proven.
async fn tools(
    State(shared): State<Shared>,
    Path((secret, tool)): Path<(String, String)>,
    Extension(Visitor(visitor)): Extension<Visitor>,
    asked: Result<Query<Tested>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let Some(known) = known(&shared, &secret) else { return no_link(&shared) };
    let Some(tool) = test_page::tool_at(&format!("/tools/{tool}")) else {
        return refusal(&shared, StatusCode::NOT_FOUND, "There is no such tool.");
    };
    let domain = asked.ok().and_then(|Query(Tested { domain })| domain_name(domain.trim()).ok());
    let is_theirs = |domain: &String| {
        known.tables.domain(domain).is_some_and(|row| row.customer == known.customer.id)
    };
    let Some(domain) = domain.filter(is_theirs) else {
        return refusal(&shared, StatusCode::NOT_FOUND, "That is none of your domains.");
    };
    let turns = &shared.probes.here().turns;
    let turn = match turns.use_once(visitor, Instant::now()).and_then(|()| turns.take(&domain)) {
        Ok(turn) => turn,
        Err(busy) => return super::records::wait(&shared, busy),
    };
    let view = known.secret.path();
    let href = |tool| format!("{view}{}?domain={domain}", test_page::path(tool));
    let head = html! {
        (test_page::heading(tool, href))
        p { strong { (domain) } ". " a href=(view) { "Back to your view" } }
    };
    test_page::examine(&shared, tool, domain, &head, turn)
}

async fn turn(places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    timeout(TURN, Arc::clone(places).acquire_owned()).await.ok()?.ok()
}

/// One answer for links that never were, that have ended, and that are another's.
fn no_link(shared: &Shared) -> Response {
    let content = html! {
        h1 { (mark(Level::Reduced)) span { "This link leads nowhere, or no longer." } }
        p { "A link is good for a short time only. " a href="/customer" { "Ask for a new one" } }
    };
    page(StatusCode::NOT_FOUND, around(shared, "No such link", &content))
}

fn busy(shared: &Shared) -> Response {
    let why = "Too much is asked for at the same time just now. Please try again in a minute.";
    refusal(shared, StatusCode::SERVICE_UNAVAILABLE, why)
}

fn done(shared: &Shared, known: &Known, words: &str) -> Response {
    let content = html! {
        h1 { (mark(Level::Good)) span { (words) } }
        p { a href=(known.secret.path()) { "Back to your view" } }
    };
    page(StatusCode::OK, around(shared, "Pardoned", &content))
}

/// Why nothing was changed, or that it is not known whether something was.
fn not_done(shared: &Shared, error: &LinkError) -> Response {
    let (status, why) = match error {
        LinkError::Refused(refusal) => {
            (StatusCode::CONFLICT, format!("Nothing was changed: {refusal}."))
        }
        LinkError::Propose(ProposeError::Unknown { .. }) => {
            let why = "It is not known whether this was done. Please look, and try again.";
            (StatusCode::SERVICE_UNAVAILABLE, why.to_owned())
        }
        error => {
            tracing::warn!(%error, "a customer's change was not made");
            let why = "Nothing was changed: the servers cannot agree on it just now. Please try \
                       again in a few minutes.";
            (StatusCode::SERVICE_UNAVAILABLE, why.to_owned())
        }
    };
    refusal(shared, status, &why)
}

fn around(shared: &Shared, title: &str, content: &Markup) -> Markup {
    Page { service: &shared.looks.last().board.title, title, place: "/customer" }.around(content)
}
