//! What the webhook is told of a message to `trouble`: one JSON object. It waits in the queue as
//! the text of a message of ours, one line. Pure.

use serde::{Deserialize, Serialize};

use super::Mail;
use crate::smtp::is_unprintable;

/// So much of a queued page is read back; [`Page::line`] is shorter.
pub const OCTETS_MAX: usize = 512 * 1024;
/// Subjects of others are cut.
const SUBJECT_OCTETS_MAX: usize = 500;

/// A page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Its own id: a page that comes again, because its answer was lost, has the same.
    pub id: String,
    /// Whom the message was written to.
    pub to: String,
    /// Whom its From field names; empty if that is not one address.
    pub from: String,
    /// Whether SPF or DKIM confirm that.
    pub authenticated: bool,
    /// Its subject.
    pub subject: String,
    /// The first KiB of its text.
    pub text: String,
    /// Its queue id.
    pub queue_id: String,
    /// The host that took it.
    pub node: String,
    /// When it came: RFC 3339, UTC.
    pub time: String,
    /// What operators are told beside it.
    pub diagnostics: String,
}

impl Page {
    /// With what a message says of itself.
    #[must_use]
    pub fn about(self, mail: &Mail) -> Self {
        let subject = &mail.subject[..mail.subject.floor_char_boundary(SUBJECT_OCTETS_MAX)];
        Self {
            from: mail.author.as_ref().map(ToString::to_string).unwrap_or_default(),
            subject: clean(subject),
            text: clean(&mail.excerpt),
            ..self
        }
    }

    /// As it waits in the queue.
    pub fn line(&self) -> String {
        // Texts always have a form as JSON, and JSON escapes line ends.
        format!("{}\r\n", serde_json::to_string(self).unwrap_or_default())
    }
}

/// Nothing that a terminal or a chat obeys.
fn clean(text: &str) -> String {
    text.chars().filter(|c| *c == '\n' || !is_unprintable(*c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_one_bounded_line_that_reads_back() {
        let mail = Mail {
            author: crate::smtp::Address::parse("jane@acme.test", false).ok(),
            subject: format!("Störung\r\n\x1b[2J{}", "x".repeat(100_000)),
            excerpt: "mail is\r\nstuck \u{7}".to_owned(),
            ..Mail::default()
        };
        let page = Page {
            id: "P1".into(),
            to: "trouble@relay.test".into(),
            from: String::new(),
            authenticated: true,
            subject: String::new(),
            text: String::new(),
            queue_id: "Q1".into(),
            node: "mx1".into(),
            time: "2025-11-24T16:00:01Z".into(),
            diagnostics: "ü".repeat(24 * 1024),
        };
        let page = page.about(&mail);
        let line = page.line();
        assert!(line.starts_with('{') && line.ends_with("}\r\n") && line.len() < OCTETS_MAX);
        assert_eq!(line.trim_end().lines().count(), 1);
        let read: Page = serde_json::from_str(&line).unwrap();
        assert_eq!(read, page);
        assert_eq!((&*read.from, &*read.text), ("jane@acme.test", "mail is\nstuck "));
        assert!(read.subject.starts_with("Störung\n[2Jx") && read.subject.len() <= 500);
    }
}
