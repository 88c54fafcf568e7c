//! What all pages have in common. Everything is escaped by the templates.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::board::Level;
use super::when::{moment, rfc3339};

/// A page of the site.
pub(super) struct Page<'a> {
    /// What the service is called.
    pub(super) service: &'a str,
    /// What the page is about.
    pub(super) title: &'a str,
    /// The path of the page in the navigation that it belongs to.
    pub(super) place: &'a str,
}

/// Path and word of each place in the navigation.
const PLACES: &[(&str, &str)] = &[
    ("/", "Status"),
    ("/history", "History"),
    ("/help/mx", "MX records"),
    ("/tools/mx", "Test"),
    ("/customer", "Your own view"),
];
/// Where a page is cut that comes piece by piece. Text is escaped, so that no text looks like it.
const CUT: &str = "<!--cut-->";

impl Page<'_> {
    /// The whole page around `content`.
    pub(super) fn around(&self, content: &Markup) -> Markup {
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.title) " – " (self.service) }
                    link rel="stylesheet" href=(super::STYLE_PATH);
                    link rel="icon" type="image/svg+xml" href="/icon.svg";
                    link rel="alternate" type="application/atom+xml" href="/feed.atom"
                        title={ (self.service) ": notices" };
                }
                body {
                    a .skip href="#content" { "Skip to the content" }
                    header .top {
                        a .service href="/" { (self.service) }
                        nav aria-label="Pages" {
                            @for (path, word) in PLACES {
                                a href=(path) aria-current=[self.is_at(path)] { (word) }
                            }
                        }
                    }
                    main #content { (content) }
                    footer {
                        p { "All times are UTC." }
                        nav aria-label="For machines" {
                            a href="/feed.atom" { "Atom feed" }
                            a href="/api/v1/status" { "JSON" }
                            a href="/badge.svg" { "Badge" }
                        }
                    }
                }
            }
        }
    }

    /// The page in two halves: up to what is to come after `content`, and the rest.
    pub(super) fn halves(&self, content: &Markup) -> (String, String) {
        let whole = self.around(&html! { (content) (PreEscaped(CUT)) }).into_string();
        match whole.split_once(CUT) {
            Some((before, after)) => (before.to_owned(), after.to_owned()),
            None => (whole, String::new()),
        }
    }

    fn is_at(&self, path: &str) -> Option<&'static str> {
        (path == self.place).then_some("page")
    }
}

/// A point in time.
pub(super) fn time(at_ms: u64) -> Markup {
    html! { time datetime=(rfc3339(at_ms)) { (moment(at_ms)) } }
}

/// Plain text in paragraphs: an empty line is between two.
pub(super) fn paragraphs(text: &str) -> Markup {
    html! {
        @for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
            p .plain { (paragraph.trim()) }
        }
    }
}

/// A mark that says by its shape, too, how good something is. The words beside it say the same.
pub(super) fn mark(level: Level) -> Markup {
    html! {
        svg .mark .(class(level)) viewBox="0 0 16 16" aria-hidden="true" focusable="false" {
            @match level {
                Level::Good => {
                    circle cx="8" cy="8" r="8" {}
                    path .sign d="M4.5 8.4l2.4 2.4 4.6-5.1" {}
                }
                Level::Planned => {
                    circle cx="8" cy="8" r="8" {}
                    path .sign d="M8 4v4.3l2.8 1.7" {}
                }
                Level::Reduced => {
                    path d="M8 .8 15.8 15H.2z" {}
                    path .sign d="M8 6v4.2M8 12.4v.2" {}
                }
                Level::Issue => {
                    rect width="16" height="16" rx="3" {}
                    path .sign d="M5 5l6 6M11 5l-6 6" {}
                }
            }
        }
    }
}

pub(super) fn class(level: Level) -> &'static str {
    match level {
        Level::Good => "good",
        Level::Planned => "planned",
        Level::Reduced => "reduced",
        Level::Issue => "issue",
    }
}

/// The form that asks for a customer's domain.
pub(super) fn domain_form(action: &str, button: &str, domain: Option<&str>) -> Markup {
    html! {
        form action=(action) method="get" {
            label for="domain" { "Your domain" }
            div .field {
                input #domain name="domain" required maxlength="253" value=[domain]
                    placeholder="example.org" autocapitalize="off" spellcheck="false"
                    inputmode="url";
                button { (button) }
            }
        }
    }
}
