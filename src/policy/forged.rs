//! What is remembered of return paths that were refused: a line in the journal each, within a
//! bound, so that nobody can fill the disk with guesses.

use std::sync::{Mutex, PoisonError};

use crate::returns::{Forged, Tag};
use crate::smtp::{Address, ReversePath};
use crate::telemetry::journal::{self, Journal, JournalLine};

/// Lines in a minute; what is refused beyond that is only counted.
const LINES_PER_MINUTE: u32 = 60;

/// Writes the lines.
pub(super) struct ForgedReturns {
    journal: Journal,
    /// The minute, and its lines.
    written: Mutex<(u64, u32)>,
}

impl ForgedReturns {
    pub(super) fn new(journal: Journal) -> Self {
        Self { journal, written: Mutex::default() }
    }

    /// Note that `recipient` was refused.
    pub(super) fn note(
        &self,
        sender: &ReversePath,
        recipient: &Address,
        opened: Result<Tag, Forged>,
        now_ms: u64,
    ) {
        if !self.is_room(now_ms / 60_000) {
            return;
        }
        let (id, because) = match opened {
            Ok(tag) => (tag.id.to_string(), "not_from_null_sender"),
            Err(forged) => (String::new(), forged.as_str()),
        };
        self.journal.write(JournalLine {
            at: journal::time(now_ms.saturating_mul(1000)),
            id,
            from: sender.as_ref().map(ToString::to_string).unwrap_or_default(),
            to: recipient.to_string(),
            outcome: "forged".to_owned(),
            because: Some(because.to_owned()),
            report: None,
            dsn: "5.7.1".to_owned(),
            reply: "refused at RCPT".to_owned(),
        });
    }

    fn is_room(&self, minute: u64) -> bool {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.0 != minute {
            *written = (minute, 0);
        }
        written.1 += 1;
        written.1 <= LINES_PER_MINUTE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_fill_a_page_a_minute_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::start(dir.path(), 1000, 1 << 20).unwrap();
        let forged = ForgedReturns::new(journal.clone());
        let address = Address::parse("rp-x@mx1.relay.test", false).unwrap();
        for now_ms in [0, 60_000] {
            for _ in 0..100 {
                forged.note(&None, &address, Err(Forged::Expired), now_ms);
            }
        }
        let lines = journal.search(None, Some("rp-x@mx1.relay.test"), 1000).unwrap();
        assert_eq!(lines.len(), 2 * LINES_PER_MINUTE as usize);
        assert_eq!((&*lines[0].outcome, lines[0].because.as_deref()), ("forged", Some("expired")));
    }
}
