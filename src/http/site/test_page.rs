//! The tools: a customer's servers looked at from every node, shown side by side as it comes.

use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use bytes::Bytes;
use http_body_util::channel::{Channel, Sender};
use maud::{Markup, html};
use tokio::time::timeout;

use super::board::Level;
use super::layout::{Page, domain_form, mark};
use super::records::{Asked, AskedQuery, asked_domain, wait};
use super::side_by_side::{OPENING, conclusion, section};
use super::{HTML, Shared, page, refusal};
use crate::fleet_wide::{self, PATIENCE};
use crate::http::visitor::Visitor;
use crate::probe::{Asker, PROOF_LABEL, Question, Report, Tool, Turn, proof};
use crate::system::random::random_u64;

/// Pieces of a page that wait for a slow reader.
const PIECES_MAX: usize = 4;
/// The longest a page may take to be read.
const PAGE: Duration = Duration::from_secs(60);
/// Length of the code that proves control; the visitor may choose another one.
const CODE_OCTETS: usize = 16;
/// Beside this list the pages of all tools are the same.
const TOOLS: [Tool; 4] = [Tool::Mx, Tool::Smtp, Tool::Ping, Tool::Traceroute];

type Asking = fleet_wide::Asked<Report>;

/// `GET /tools/...`
pub(super) fn router() -> Router<Shared> {
    TOOLS.into_iter().fold(Router::new(), |router, tool| {
        let answer = move |shared, visitor, asked| answer(tool, shared, visitor, asked);
        router.route(path(tool), get(answer))
    })
}

async fn answer(
    tool: Tool,
    State(shared): State<Shared>,
    Extension(Visitor(visitor)): Extension<Visitor>,
    asked: AskedQuery,
) -> Response {
    let look = shared.looks.last();
    let service = &look.board.title;
    let (domain, code) = match asked_domain(&shared, asked) {
        Ok(Asked { domain: Some(domain), code }) => (domain, code),
        Ok(Asked { domain: None, .. }) => {
            let content = introduction(tool, None, None);
            return page(StatusCode::OK, shell(service, tool).around(&content));
        }
        Err((status, why)) => return refusal(&shared, status, why),
    };
    let Some(code) = code.filter(|code| is_code(code)) else {
        let code = format!("{:016x}", random_u64());
        let proof = how_to_prove(tool, &domain, &code, None);
        let content = html! { (introduction(tool, Some(&domain), None)) (proof) };
        return page(StatusCode::OK, shell(service, tool).around(&content));
    };
    let prober = shared.probes.here();
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
        let proof = how_to_prove(tool, &domain, &code, Some(&fault));
        let content = html! { (introduction(tool, Some(&domain), None)) (proof) };
        return page(StatusCode::OK, shell(service, tool).around(&content));
    }
    examine(&shared, tool, domain.clone(), &introduction(tool, Some(&domain), Some(&code)), turn)
}

/// The tool on a domain whose owner asks for it, below `head`.
pub(super) fn examine(
    shared: &Shared,
    tool: Tool,
    domain: String,
    head: &Markup,
    turn: Turn,
) -> Response {
    let head = html! {
        (head)
        p .aside {
            "Nothing is sent to your servers. What each of ours sees appears here as it comes, \
             within " (PATIENCE.as_secs()) " seconds. Reload the page to look again."
        }
    };
    let halves = shell(&shared.looks.last().board.title, tool).halves(&head);
    let asking = shared.probes.ask(&Question { tool, domain, asker: Asker::Visitor }, PATIENCE);
    stream(tool, halves, asking, turn)
}

fn is_code(code: &str) -> bool {
    code.len() == CODE_OCTETS && code.bytes().all(|b| b.is_ascii_hexdigit())
}

pub(super) fn path(tool: Tool) -> &'static str {
    match tool {
        Tool::Mx => "/tools/mx",
        Tool::Smtp => "/tools/smtp",
        Tool::Ping => "/tools/ping",
        Tool::Traceroute => "/tools/traceroute",
    }
}

fn title(tool: Tool) -> &'static str {
    match tool {
        Tool::Mx => "Test your MX servers",
        Tool::Smtp => "Talk with your servers",
        Tool::Ping => "Ping your servers",
        Tool::Traceroute => "The way to your servers",
    }
}

fn word(tool: Tool) -> &'static str {
    match tool {
        Tool::Mx => "MX test",
        Tool::Smtp => "SMTP",
        Tool::Ping => "Ping",
        Tool::Traceroute => "Traceroute",
    }
}

fn about(tool: Tool) -> &'static str {
    match tool {
        Tool::Mx => {
            "Each of our servers looks at those that we pass your mail on to, as it does when \
             there is mail: the connection, the greeting, encryption, and whether mail for \
             postmaster is taken."
        }
        Tool::Smtp => {
            "Each of our servers greets those that we pass your mail on to, and asks whether mail \
             for postmaster is taken. Here is what was said, line by line."
        }
        Tool::Ping => {
            "Each of our servers sends echoes to those that we pass your mail on to, and measures \
             how long a connection takes."
        }
        Tool::Traceroute => {
            "Each of our servers finds the routers on the way to those that we pass your mail on \
             to, and whether a connection can be made at its end."
        }
    }
}

fn shell(service: &str, tool: Tool) -> Page<'_> {
    Page { service, title: title(tool), place: path(Tool::Mx) }
}

fn introduction(tool: Tool, domain: Option<&str>, code: Option<&str>) -> Markup {
    // What was shown to one tool is good for the others.
    let query = match (domain, code) {
        (Some(domain), Some(code)) => format!("?domain={domain}&code={code}"),
        (Some(domain), None) => format!("?domain={domain}"),
        (None, _) => String::new(),
    };
    html! {
        (heading(tool, |other| format!("{}{query}", path(other))))
        (domain_form(path(tool), "Go on", domain))
    }
}

/// What the tool is, and ways to the others.
pub(super) fn heading(tool: Tool, href: impl Fn(Tool) -> String) -> Markup {
    html! {
        h1 { (title(tool)) }
        nav .tools aria-label="Tools" {
            @for other in TOOLS {
                a href=(href(other)) aria-current=[(other == tool).then_some("page")] {
                    (word(other))
                }
            }
        }
        p { (about(tool)) }
    }
}

/// The tool whose page is at this path.
pub(super) fn tool_at(wanted: &str) -> Option<Tool> {
    TOOLS.into_iter().find(|tool| path(*tool) == wanted)
}

fn how_to_prove(tool: Tool, domain: &str, code: &str, fault: Option<&str>) -> Markup {
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
            form action=(path(tool)) method="get" {
                input type="hidden" id="proven" name="domain" value=(domain);
                input type="hidden" id="code" name="code" value=(code);
                button { @if fault.is_some() { "Look again" } @else { "It is there: test now" } }
            }
            p .aside { "It may take a few minutes until we see it." }
        }
    }
}

/// The page as it comes: what each node answers, in the order they do.
fn stream(tool: Tool, halves: (String, String), asking: Asking, turn: Turn) -> Response {
    let (sender, body) = Channel::<Bytes>::new(PIECES_MAX);
    tokio::spawn(async move {
        // A reader who has gone, or does not read, ends it, and with it the looking.
        let _ = timeout(PAGE, write(tool, sender, halves, asking)).await;
        drop(turn);
    });
    let headers = [(header::CONTENT_TYPE, HTML), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::new(body)).into_response()
}

async fn write(
    tool: Tool,
    mut sender: Sender<Bytes>,
    (before, after): (String, String),
    mut asking: Asking,
) -> Result<(), http_body_util::channel::SendError> {
    sender.send_data(before.into()).await?;
    sender.send_data(OPENING.into()).await?;
    let mut heard = Vec::new();
    while let Some(one) = asking.answers.recv().await {
        sender.send_data(section(&asking.nodes, &one).into_string().into()).await?;
        heard.push(one);
    }
    sender.send_data("</div>".into()).await?;
    let conclusion = conclusion(tool, asking.nodes, &heard);
    sender.send_data(conclusion.into_string().into()).await?;
    sender.send_data(after.into()).await
}
