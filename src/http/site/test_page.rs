//! Test your MX servers: each of a customer's servers, looked at step by step, shown as it comes.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http_body_util::channel::{Channel, Sender};
use maud::{Markup, html};
use tokio::time::timeout;

use super::board::Level;
use super::layout::{Page, domain_form, mark};
use super::records::{Asked, AskedQuery, asked_domain, wait};
use super::{HTML, Shared, page, refusal};
use crate::client::{Finding, Grade, Step};
use crate::http::visitor::Visitor;
use crate::probe::{Asker, Examined, PROOF_LABEL, Turn, proof};
use crate::system::random::random_u64;

/// Pieces of a page that wait for a slow reader.
const PIECES_MAX: usize = 4;
/// The longest a page may take to be read.
const PAGE: Duration = Duration::from_secs(60);
/// Length of the code that proves control; the visitor may choose another one.
const CODE_OCTETS: usize = 16;

/// `GET /tools/mx`
pub(super) async fn answer(
    State(shared): State<Shared>,
    Extension(Visitor(visitor)): Extension<Visitor>,
    asked: AskedQuery,
) -> Response {
    let look = shared.looks.last();
    let (domain, code) = match asked_domain(&shared, asked) {
        Ok(Asked { domain: Some(domain), code }) => (domain, code),
        Ok(Asked { domain: None, .. }) => {
            return page(StatusCode::OK, whole(&look.board.title, &introduction(None)));
        }
        Err((status, why)) => return refusal(&shared, status, why),
    };
    let Some(code) = code.filter(|code| is_code(code)) else {
        let code = format!("{:016x}", random_u64());
        let content = html! { (introduction(Some(&domain))) (how_to_prove(&domain, &code, None)) };
        return page(StatusCode::OK, whole(&look.board.title, &content));
    };
    let prober = &shared.prober;
    let turn = match prober.turns.use_once(visitor, Instant::now()) {
        Ok(()) => prober.turns.take(&domain),
        Err(busy) => Err(busy),
    };
    let turn = match turn {
        Ok(turn) => turn,
        Err(busy) => return wait(&shared, busy),
    };
    let fault = match prober.is_proven(&domain, &code).await {
        Ok(true) => None,
        Ok(false) => Some("The record is not there yet.".to_owned()),
        Err(error) => Some(error.to_string()),
    };
    if let Some(fault) = fault {
        let proof = how_to_prove(&domain, &code, Some(&fault));
        let content = html! { (introduction(Some(&domain))) (proof) };
        return page(StatusCode::OK, whole(&look.board.title, &content));
    }
    examine(&shared, &domain, &introduction(Some(&domain)), turn).await
}

/// The test of a domain whose owner asks for it, below `head`.
pub(super) async fn examine(shared: &Shared, domain: &str, head: &Markup, turn: Turn) -> Response {
    let look = shared.looks.last();
    let examined = match shared.prober.mx(domain, Asker::Visitor).await {
        Ok(examined) => examined,
        Err(error) => return refusal(shared, StatusCode::BAD_GATEWAY, &error.to_string()),
    };
    let head = html! {
        (head)
        p .aside {
            "From " strong { (look.board.seen.from) } ". Nothing is sent to your servers; each \
             step appears here as it is done. Reload the page to test again."
        }
    };
    let halves = shell(&look.board.title).halves(&head);
    stream(halves, examined, turn)
}

fn is_code(code: &str) -> bool {
    code.len() == CODE_OCTETS && code.bytes().all(|b| b.is_ascii_hexdigit())
}

fn shell(service: &str) -> Page<'_> {
    Page { service, title: "Test your MX servers", place: "/tools/mx" }
}

fn whole(service: &str, content: &Markup) -> Markup {
    shell(service).around(content)
}

fn introduction(domain: Option<&str>) -> Markup {
    html! {
        h1 { "Test your MX servers" }
        p {
            "We look at the servers that we pass your mail on to, as we do when there is mail: \
             the connection, the greeting, encryption, and whether mail for postmaster is taken."
        }
        (domain_form("/tools/mx", "Go on", domain))
    }
}

fn how_to_prove(domain: &str, code: &str, fault: Option<&str>) -> Markup {
    let record = format!("{PROOF_LABEL}.{domain}. IN TXT \"{}\"", proof(code));
    html! {
        section aria-labelledby="prove" {
            h2 #prove { "Show that the domain is yours" }
            @if let Some(fault) = fault {
                p role="status" { (mark(Level::Reduced)) " " (fault) }
            }
            p {
                "Add this record to your DNS. While it is there, whoever looks it up can test the \
                 domain, too; take it away afterwards."
            }
            pre tabindex="0" aria-label="Record" { code { (record) } }
            form action="/tools/mx" method="get" {
                input type="hidden" id="proven" name="domain" value=(domain);
                input type="hidden" id="code" name="code" value=(code);
                button { @if fault.is_some() { "Look again" } @else { "It is there: test now" } }
            }
            p .aside { "It may take a few minutes until we see it." }
        }
    }
}

/// The page as it comes: what is found at one server after the other. All are looked at at once.
fn stream((before, after): (String, String), examined: Vec<Examined>, turn: Turn) -> Response {
    let (sender, body) = Channel::<Bytes>::new(PIECES_MAX);
    tokio::spawn(async move {
        // A reader who has gone, or does not read, ends it, and with it the looking.
        let _ = timeout(PAGE, write(sender, before, examined, after)).await;
        drop(turn);
    });
    let headers = [(header::CONTENT_TYPE, HTML), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::new(body)).into_response()
}

async fn write(
    mut sender: Sender<Bytes>,
    before: String,
    examined: Vec<Examined>,
    after: String,
) -> Result<(), http_body_util::channel::SendError> {
    sender.send_data(before.into()).await?;
    let (mut worst, servers) = (Grade::Good, examined.len());
    for (place, mut one) in examined.into_iter().enumerate() {
        sender.send_data(opening(place, &one).into()).await?;
        while let Some(finding) = one.findings.recv().await {
            worst = worst.max(finding.grade);
            sender.send_data(row(&finding).into_string().into()).await?;
        }
        sender.send_data("</ul></section>".into()).await?;
    }
    sender.send_data(conclusion(worst, servers).into_string().into()).await?;
    sender.send_data(after.into()).await
}

/// Balanced by what follows the findings.
fn opening(place: usize, one: &Examined) -> String {
    let heading = html! {
        h2 id={ "server-" (place) } {
            (one.server)
            @if let Some(address) = one.address { " " small { (address) } }
        }
    };
    let heading = heading.into_string();
    format!("<section aria-labelledby=\"server-{place}\">{heading}<ul class=\"findings\">")
}

fn row(finding: &Finding) -> Markup {
    html! {
        li {
            (mark(level(finding.grade)))
            strong { (step(finding.step)) }
            span .said { (finding.words) }
        }
    }
}

fn conclusion(worst: Grade, servers: usize) -> Markup {
    let words = match (worst, servers) {
        (_, 0) => "There is no server to test.",
        (Grade::Good, _) => "All is well: your mail comes through.",
        (Grade::Fair, _) => "Your mail comes through. Something could be better.",
        (Grade::Bad, _) => "Mail does not come through at some server now.",
    };
    html! {
        section .banner .(super::layout::class(level(worst))) aria-labelledby="result" {
            h2 #result { (mark(level(worst))) " " (words) }
        }
    }
}

fn level(grade: Grade) -> Level {
    match grade {
        Grade::Good => Level::Good,
        Grade::Fair => Level::Reduced,
        Grade::Bad => Level::Issue,
    }
}

fn step(step: Step) -> &'static str {
    match step {
        Step::Resolve => "Address",
        Step::Connect => "Connection",
        Step::Banner => "Greeting",
        Step::Helo => "Extensions",
        Step::StartTls => "Encryption",
        Step::Certificate => "Certificate",
        Step::Mail => "Sender",
        Step::Rcpt => "Postmaster",
        Step::Quit => "Goodbye",
    }
}
