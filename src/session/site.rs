//! What all sessions of a node have in common: its name, its bounds, and the two long replies made
//! of them, written once.

use std::sync::Arc;

use crate::config::Limits;

/// The server that all sessions speak for.
#[derive(Debug)]
pub struct Site {
    hostname: String,
    limits: Arc<Limits>,
    banner: String,
    helo: String,
    ehlo: String,
    ehlo_with_tls: String,
}

impl Site {
    /// The node called `hostname`.
    pub fn new(hostname: &str, limits: Arc<Limits>) -> Self {
        Self {
            banner: format!("220 {hostname} ESMTP mxfleet\r\n"),
            helo: format!("250 {hostname}\r\n"),
            ehlo: ehlo(hostname, &limits, false),
            ehlo_with_tls: ehlo(hostname, &limits, true),
            hostname: hostname.to_owned(),
            limits,
        }
    }

    /// The name this node goes by.
    pub fn hostname(&self) -> &str {
        &self.hostname
    }

    /// The node's bounds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn banner(&self) -> &str {
        &self.banner
    }

    /// The answer to EHLO or HELO. STARTTLS is not offered twice (RFC 3207 section 4.2).
    pub(super) fn hello(&self, extended: bool, offers_tls: bool) -> &str {
        match (extended, offers_tls) {
            (false, _) => &self.helo,
            (true, false) => &self.ehlo,
            (true, true) => &self.ehlo_with_tls,
        }
    }
}

fn ehlo(hostname: &str, limits: &Limits, starttls: bool) -> String {
    let starttls = if starttls { "250-STARTTLS\r\n" } else { "" };
    // RFC 9422: what would be refused anyway is better known before.
    format!(
        "250-{hostname}\r\n250-PIPELINING\r\n250-SIZE {size}\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n\
         250-ENHANCEDSTATUSCODES\r\n250-DSN\r\n250-CHUNKING\r\n{starttls}\
         250 LIMITS RCPTMAX={recipients} MAILMAX={messages}\r\n",
        size = limits.message_octets_max,
        recipients = limits.recipients_max,
        messages = limits.session_messages_max,
    )
}
