//! What a connection was refused, for the one line that the log has of it.

use super::canned::{self, Canned};
use super::{Address, Reply, ReversePath};

/// The first recipient that was refused, and what the client was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstRefused {
    /// MAIL FROM; empty is the null reverse-path.
    pub from: String,
    /// RCPT TO.
    pub to: String,
    /// The whole reply, without its CRLF.
    pub reply: String,
}

/// The refusals of one connection, by kind. Empty it has no memory; a kind is known by its name,
/// and there are as many as checks and replies of ours, so it stays small.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusals {
    counts: Vec<(&'static str, u32)>,
    recipient: Option<Box<FirstRefused>>,
    reply: Option<Canned>,
}

impl Refusals {
    /// A recipient was refused by this check of stage 3.
    pub fn recipient(
        &mut self,
        check: &'static str,
        from: &ReversePath,
        to: Option<&Address>,
        reply: &Reply,
    ) {
        self.count(check);
        self.recipient.get_or_insert_with(|| {
            Box::new(FirstRefused {
                from: from.as_ref().map(Address::to_string).unwrap_or_default(),
                to: to.map_or_else(|| "postmaster".to_owned(), Address::to_string),
                reply: reply.to_string(),
            })
        });
    }

    /// This reply was given; nothing to note if it is no refusal.
    pub fn reply(&mut self, reply: Canned) {
        if reply.code() >= 400 {
            self.count(kind(reply));
            self.reply.get_or_insert(reply);
        }
    }

    /// How often there was which kind, in the order they came; empty when nothing was refused.
    pub fn counts(&self) -> &[(&'static str, u32)] {
        &self.counts
    }

    /// The first recipient that was refused.
    pub fn first_recipient(&self) -> Option<&FirstRefused> {
        self.recipient.as_deref()
    }

    /// The first refusal of anything but a recipient.
    pub fn first_reply(&self) -> Option<Canned> {
        self.reply
    }

    fn count(&mut self, kind: &'static str) {
        match self.counts.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, count)) => *count = count.saturating_add(1),
            None => self.counts.push((kind, 1)),
        }
    }
}

/// What the log calls a refusal that no check of stage 3 made.
fn kind(reply: Canned) -> &'static str {
    match reply {
        canned::BARE_LF | canned::BARE_NEWLINE => "bare_newline",
        canned::TALKED_EARLY => "early_talker",
        canned::FOREIGN => "foreign_protocol",
        canned::TOO_MANY_ERRORS => "too_many_errors",
        canned::TIMED_OUT => "timeout",
        canned::STOPPING | canned::RETIRED => "not_serving",
        canned::SPOOL_FULL | canned::NOT_STORED => "storage",
        canned::NO_RECIPIENTS => "no_recipients",
        canned::LITERAL | canned::SOURCE_ROUTE => "relay_syntax",
        canned::TOO_MANY_HOPS | canned::OWN_LOOP => "loop",
        canned::TOO_BIG
        | canned::TOO_MUCH
        | canned::TOO_MANY_COMMANDS
        | canned::TOO_MANY_MESSAGES
        | canned::TOO_MANY_RECIPIENTS => "limit",
        _ if reply.code() == 503 => "sequence",
        _ => "syntax",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::Enhanced;

    #[test]
    fn kinds_are_counted_and_the_first_recipient_is_kept() {
        let mut refusals = Refusals::default();
        refusals.reply(canned::RCPT_OK);
        assert_eq!(refusals, Refusals::default());
        refusals.reply(canned::NEED_HELO);
        for name in ["a", "b", "c"] {
            let to = Address::parse(&format!("{name}@acme.test"), false).unwrap();
            let reply = Reply::new(550, Enhanced(5, 1, 1), format!("<{to}>... no such user here"));
            refusals.recipient("recipient_list", &None, Some(&to), &reply);
        }
        refusals.reply(canned::TOO_MANY_ERRORS);
        let counts = [("sequence", 1), ("recipient_list", 3), ("too_many_errors", 1)];
        assert_eq!(refusals.counts(), counts);
        let first = refusals.first_recipient().unwrap();
        assert_eq!((first.from.as_str(), first.to.as_str()), ("", "a@acme.test"));
        assert_eq!(first.reply, "550 5.1.1 <a@acme.test>... no such user here");
        assert_eq!(refusals.first_reply(), Some(canned::NEED_HELO));
    }
}
