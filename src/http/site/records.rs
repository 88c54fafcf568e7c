//! Adding MX records: what a customer's domain should have, and what it has.

use axum::extract::{Extension, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use maud::{Markup, html};
use mxfleet_cluster::{NameStatus, State as Tables};
use serde::Deserialize;

use super::board::Level;
use super::layout::{Page, domain_form, mark};
use super::{Shared, page, refusal};
use crate::http::domain_name;
use crate::http::visitor::Visitor;
use crate::probe::Busy;
use crate::rotation::records::preferences;

/// Records of a domain that are shown.
const RECORDS_MAX: usize = 30;

/// What the forms of the tools ask for.
#[derive(Deserialize)]
pub(super) struct Asked {
    pub(super) domain: Option<String>,
    pub(super) code: Option<String>,
}

pub(super) type AskedQuery = Result<Query<Asked>, axum::extract::rejection::QueryRejection>;

/// `GET /help/mx`
pub(super) async fn answer(
    State(shared): State<Shared>,
    Extension(Visitor(visitor)): Extension<Visitor>,
    asked: AskedQuery,
) -> Response {
    let look = shared.looks.last();
    let domain = match asked_domain(&shared, asked) {
        Ok(Asked { domain: Some(domain), .. }) => domain,
        Ok(Asked { domain: None, .. }) => {
            return page(StatusCode::OK, render(&look.board.title, &introduction(None)));
        }
        Err((status, why)) => return refusal(&shared, status, why),
    };
    if let Err(busy) = shared.probes.here().turns.use_once(visitor, std::time::Instant::now()) {
        return wait(&shared, busy);
    }
    let tables = shared.cluster.view();
    let wanted = wanted(&tables, &domain);
    let now = shared.probes.here().records(&domain).await.map_err(|error| error.to_string());
    let content = html! {
        (introduction(Some(&domain)))
        (comparison(&domain, &wanted, now.as_deref().map_err(String::as_str)))
    };
    page(StatusCode::OK, render(&look.board.title, &content))
}

/// Whoever asks too often is told to wait (RFC 6585).
pub(super) fn wait(shared: &Shared, busy: Busy) -> Response {
    refusal(shared, StatusCode::TOO_MANY_REQUESTS, &busy.to_string())
}

/// The customer's domain that somebody asks about, in any case, with or without a final dot, and
/// the code; no domain when the form is still to be filled in. An `Err` is why it is refused.
pub(super) fn asked_domain(
    shared: &Shared,
    asked: AskedQuery,
) -> Result<Asked, (StatusCode, &'static str)> {
    let no_domain = |status| (status, "This is no domain.");
    let Query(Asked { domain, code }) = asked.map_err(|_| no_domain(StatusCode::BAD_REQUEST))?;
    let Some(written) = domain.filter(|written| !written.trim().is_empty()) else {
        return Ok(Asked { domain: None, code });
    };
    let domain =
        domain_name(written.trim()).map_err(|_| no_domain(StatusCode::UNPROCESSABLE_ENTITY))?;
    // That a domain is a customer's is no secret: its MX records say so.
    if shared.cluster.view().domain(&domain).is_none() {
        return Err((StatusCode::NOT_FOUND, "No customer of this service has that domain."));
    }
    Ok(Asked { domain: Some(domain), code })
}

/// The records that the domain should have: the names its customer was given, in order.
pub(super) fn wanted(tables: &Tables, domain: &str) -> Vec<(u16, String)> {
    let names = tables.domain(domain).map(|row| tables.names_of(&row.customer));
    let is_in_use =
        |name: &&String| tables.name(name).is_some_and(|row| row.status() != NameStatus::Removed);
    let names = names.unwrap_or_default().iter().filter(is_in_use);
    preferences().zip(names.cloned()).collect()
}

fn render(service: &str, content: &Markup) -> Markup {
    Page { service, title: "Adding MX records", place: "/help/mx" }.around(content)
}

/// What MX records are for, and the form.
fn introduction(domain: Option<&str>) -> Markup {
    html! {
        h1 { "Adding MX records" }
        p {
            "MX records in your domain's DNS say which servers take its mail. Those servers are \
             ours; they pass the mail on to yours. You add the records where you manage your DNS."
        }
        (domain_form("/help/mx", "Show the records", domain))
    }
}

fn comparison(
    domain: &str,
    wanted: &[(u16, String)],
    now: Result<&[(u16, String)], &str>,
) -> Markup {
    html! {
        section aria-labelledby="wanted" {
            h2 #wanted { "What " (domain) " should have" }
            @if wanted.is_empty() {
                p { "You have not been given names yet. Please ask us for them." }
            } @else {
                p { "In the form of a zone file, to be copied:" }
                pre tabindex="0" aria-label="Records" { code { (zone_file(domain, wanted)) } }
                p .aside {
                    "A form on a web page asks for the same: the preference, also called \
                     priority, and the name. Take away all other MX records, or mail goes there."
                }
            }
        }
        section aria-labelledby="now" {
            h2 #now { "What it has now" }
            @match now {
                Err(why) => p { (mark(Level::Issue)) " " (why) },
                Ok([]) => p { (mark(Level::Issue)) " No MX records." },
                Ok(now) => (present(wanted, now)),
            }
        }
    }
}

fn present(wanted: &[(u16, String)], now: &[(u16, String)]) -> Markup {
    let is_ours = |name: &str| wanted.iter().any(|(_, ours)| ours == name);
    let missing = wanted.iter().filter(|(_, name)| !now.iter().any(|(_, there)| there == name));
    html! {
        ul .findings {
            @for (preference, name) in now.iter().take(RECORDS_MAX) {
                li {
                    @if is_ours(name) {
                        (mark(Level::Good)) code { (preference) " " (name) }
                    } @else {
                        (mark(Level::Reduced)) code { (preference) " " (name) }
                        span { "is none of the names you were given" }
                    }
                }
            }
            @for (_, name) in missing {
                li { (mark(Level::Issue)) code { (name) } span { "is missing" } }
            }
        }
        p .aside { "A change may take as long to be seen as the records' time to live." }
    }
}

fn zone_file(domain: &str, records: &[(u16, String)]) -> String {
    let line = |(preference, name): &(u16, String)| format!("{domain}. IN MX {preference} {name}.");
    records.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(records: &[(u16, &str)]) -> Vec<(u16, String)> {
        records.iter().map(|&(preference, name)| (preference, name.to_owned())).collect()
    }

    #[test]
    fn records_can_be_copied_into_a_zone_file() {
        let wanted = records(&[(10, "mx-a.relay.example"), (20, "mx-b.relay.example")]);
        assert_eq!(
            zone_file("acme.test", &wanted),
            "acme.test. IN MX 10 mx-a.relay.example.\nacme.test. IN MX 20 mx-b.relay.example."
        );
    }

    #[test]
    fn what_is_missing_and_what_is_not_ours_is_said() {
        let wanted = records(&[(10, "mx-a.relay.example"), (20, "mx-b.relay.example")]);
        let now = records(&[(5, "mx-a.relay.example"), (10, "mail.acme.test")]);
        let page = present(&wanted, &now).into_string();
        let said = |name: &str, words: &str| {
            page.split("<li>").any(|line| line.contains(name) && line.contains(words))
        };
        assert!(said("5 mx-a.relay.example", "mark good"), "{page}");
        assert!(said("10 mail.acme.test", "none of the names"), "{page}");
        assert!(said("mx-b.relay.example", "is missing"), "{page}");
    }
}
