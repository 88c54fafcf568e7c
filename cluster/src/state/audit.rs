//! Who changed what, and when.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ring::Ring;
use super::{Outcome, Request};

/// How many records are kept at least.
pub(crate) const RECORDS_MAX: usize = 10_000;
const ACTOR_OCTETS_MAX: usize = 128;
const WHAT_OCTETS_MAX: usize = 512;

/// One change somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// The log index it was decided at.
    pub index: u64,
    /// When it was proposed: milliseconds since 1970, UTC.
    pub at_ms: u64,
    /// Who asked.
    pub actor: String,
    /// What was asked, as a command line would say it.
    pub what: String,
    /// Why it was refused; `None` when it was done.
    pub refused: Option<String>,
}

/// The newest records.
#[derive(Debug, Clone, Default)]
pub(crate) struct Audit {
    records: Ring<Arc<AuditRecord>, RECORDS_MAX>,
}

impl Audit {
    pub(crate) fn note(&mut self, index: u64, at_ms: u64, request: &Request, outcome: &Outcome) {
        let Some(what) = request.command.summary() else { return };
        let actor = clip(&request.actor, ACTOR_OCTETS_MAX).to_owned();
        let what = clip(&what, WHAT_OCTETS_MAX).to_owned();
        let refused = outcome.as_ref().err().map(ToString::to_string);
        self.records.push(Arc::new(AuditRecord { index, at_ms, actor, what, refused }));
    }

    /// From the newest to the oldest.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &AuditRecord> {
        self.records.iter().rev().map(Arc::as_ref)
    }

    pub(crate) fn chunks(&self) -> impl Iterator<Item = Vec<AuditRecord>> {
        self.records.chunks().map(|chunk| chunk.iter().map(|r| AuditRecord::clone(r)).collect())
    }

    pub(crate) fn absorb(&mut self, chunk: Vec<AuditRecord>) {
        self.records.push_chunk(chunk.into_iter().map(Arc::new).collect());
    }
}

/// The start of `text`, at most `max` octets, cut between characters.
pub(crate) fn clip(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}
