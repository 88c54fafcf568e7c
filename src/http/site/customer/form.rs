//! The form that asks for a link. Whatever is asked, the answer is the same, and comes as fast.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Extension, Form, FromRequest as _, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use http_body_util::Limited;
use maud::{Markup, html};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::super::board::Level;
use super::super::layout::mark;
use super::super::records::wait;
use super::super::{Shared, page, refusal};
use super::around;
use crate::account::Asked;
use crate::http::domain_name;
use crate::http::visitor::Visitor;
use crate::smtp::Address;

/// A form that somebody fills in.
const FORM_OCTETS_MAX: usize = 4096;
/// How long it may take to come.
const FORM: Duration = Duration::from_secs(10);
/// What browsers say of the page that a form was on.
const FETCH_SITE: &str = "sec-fetch-site";

type Refused = (StatusCode, &'static str);

/// The fields of a form, within bounds. An `Err` is why it is refused.
pub(super) async fn fields<T: DeserializeOwned>(request: Request) -> Result<T, Refused> {
    if is_from_elsewhere(request.headers()) {
        return Err((StatusCode::FORBIDDEN, "This form was on a page of another site."));
    }
    let request = request.map(|body| axum::body::Body::new(Limited::new(body, FORM_OCTETS_MAX)));
    match timeout(FORM, Form::<T>::from_request(request, &())).await {
        Ok(Ok(Form(fields))) => Ok(fields),
        Ok(Err(rejection)) => Err(match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => (StatusCode::PAYLOAD_TOO_LARGE, "That is too long."),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "This is no form as browsers send it.")
            }
            _ => (StatusCode::BAD_REQUEST, "The form is not as it should be."),
        }),
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "The form did not come in time.")),
    }
}

fn is_from_elsewhere(headers: &HeaderMap) -> bool {
    headers.get(FETCH_SITE).is_some_and(|site| site.as_bytes() == b"cross-site")
}

#[derive(Deserialize)]
pub(super) struct Sought {
    of: String,
}

/// `GET /customer`
pub(super) async fn show(State(shared): State<Shared>) -> Response {
    let content = match hindrance(&shared) {
        None => introduction(&form()),
        Some((_, why)) => introduction(&html! { p { (mark(Level::Reduced)) " " (why) } }),
    };
    page(StatusCode::OK, around(&shared, "Your own view", &content))
}

/// `POST /customer`
pub(super) async fn ask(
    State(shared): State<Shared>,
    Extension(Visitor(visitor)): Extension<Visitor>,
    request: Request,
) -> Response {
    let Sought { of } = match fields(request).await {
        Ok(fields) => fields,
        Err((status, why)) => return refusal(&shared, status, why),
    };
    let of = of.trim();
    let Some(asked) = asked(of) else {
        let why = "This is neither a domain nor a mail address.";
        return refusal(&shared, StatusCode::UNPROCESSABLE_ENTITY, why);
    };
    if let Some((status, why)) = hindrance(&shared) {
        return refusal(&shared, status, why);
    }
    if let Err(busy) = shared.probes.here().turns.use_once(visitor, Instant::now()) {
        return wait(&shared, busy);
    }
    let Ok(turn) = Arc::clone(&shared.work.letters).try_acquire_owned() else {
        let why = "Many ask for links just now. Please try again in a minute.";
        return refusal(&shared, StatusCode::TOO_MANY_REQUESTS, why);
    };
    let links = shared.account.links.clone();
    // Whether there is anybody to write to must not be told by how long the answer takes.
    tokio::spawn(async move {
        links.mail(&asked).await;
        drop(turn);
    });
    let content = html! {
        h1 { "Look into your mail" }
        p role="status" {
            "If " strong { (of) } " is a contact or a domain of a customer, a link is on its way."
        }
        p {
            "For a domain, it goes to all contacts that we have of its owner. At most three \
             letters within an hour go to one customer; what was asked for before is still good."
        }
        p { a href="/customer" { "Ask for another one" } }
    };
    page(StatusCode::OK, around(&shared, "Your own view", &content))
}

/// A domain, in any case, with or without a final dot, or a mail address.
fn asked(text: &str) -> Option<Asked> {
    if text.contains('@') {
        return Address::parse(text, true).ok().map(Asked::Contact);
    }
    domain_name(text).ok().map(Asked::Domain)
}

/// Why no link can be mailed now, whoever asks.
fn hindrance(shared: &Shared) -> Option<Refused> {
    let tables = shared.cluster.view();
    if tables.settings().get("site.url").is_none_or(str::is_empty) {
        let why = "Links cannot be mailed, because this service has not been told where its site \
                   is reached (site.url). Please ask those who run it.";
        return Some((StatusCode::SERVICE_UNAVAILABLE, why));
    }
    let is_cut_off = shared.looks.last().board.stale().is_some();
    is_cut_off.then_some((
        StatusCode::SERVICE_UNAVAILABLE,
        "This server is cut off from most of the others, so it cannot make links just now. \
         Please try again in a few minutes.",
    ))
}

fn introduction(below: &Markup) -> Markup {
    html! {
        h1 { "Your own view" }
        p {
            "Customers see here what concerns them: their domains and MX names, the mail that \
             waits for them, and recipients that are refused. There is no password: we mail a \
             link to the contacts that we have of you."
        }
        (below)
    }
}

fn form() -> Markup {
    html! {
        form action="/customer" method="post" {
            label for="of" { "Your domain, or your mail address" }
            div .field {
                input #of name="of" required maxlength="320" placeholder="example.org"
                    autocapitalize="off" spellcheck="false" autocomplete="email" inputmode="email";
                button { "Send me a link" }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn request(kind: &str, body: impl Into<Body>) -> Request {
        Request::post("/customer").header("content-type", kind).body(body.into()).unwrap()
    }

    #[test]
    fn a_domain_is_told_from_an_address_and_both_from_nonsense() {
        assert_eq!(asked("ACME.test."), Some(Asked::Domain("acme.test".to_owned())));
        assert!(matches!(asked("ops@acme.test"), Some(Asked::Contact(_))));
        for nonsense in ["", "a b", "@acme.test", "ops@", "a@b@c", "<x@y.test>", "a\r\nb@c.test"] {
            assert_eq!(asked(nonsense), None, "{nonsense}");
        }
    }

    #[tokio::test]
    async fn a_form_is_read_within_bounds() {
        const FORM_TYPE: &str = "application/x-www-form-urlencoded";
        let good = fields::<Sought>(request(FORM_TYPE, "of=a%40b.test&more=x")).await.unwrap();
        assert_eq!(good.of, "a@b.test");
        let status = |request| async { fields::<Sought>(request).await.map(|_| ()).unwrap_err().0 };
        let long = format!("of={}", "x".repeat(FORM_OCTETS_MAX));
        for (kind, body, expected) in [
            (FORM_TYPE, long.as_str(), StatusCode::PAYLOAD_TOO_LARGE),
            ("application/json", "{}", StatusCode::UNSUPPORTED_MEDIA_TYPE),
            (FORM_TYPE, "with=nothing", StatusCode::BAD_REQUEST),
        ] {
            assert_eq!(status(request(kind, body.to_owned())).await, expected, "{kind} {body}");
        }
        let mut foreign = request(FORM_TYPE, "of=acme.test");
        foreign.headers_mut().insert(FETCH_SITE, "cross-site".parse().unwrap());
        assert_eq!(status(foreign).await, StatusCode::FORBIDDEN);
    }
}
