//! The state taken apart for snapshots and digests, and put together again.
//!
//! The order and size of the parts follow from the state alone, so equal states give equal parts.

use serde::{Deserialize, Serialize};

use super::audit::AuditRecord;
use super::blacklist::{NotesChunk, Rules};
use super::hosts::Hosts;
use super::imports::Staged;
use super::recent::Remembered;
use super::return_paths::ReturnPaths;
use super::{Customer, Domain, Settings, State};
use crate::octets::Octets;

/// Rows in a part. A part must stay far below the codec's limit: a domain is at most some 6 KiB.
const ROWS: usize = 256;
/// A leaf is at most some 50 KiB.
const LEAVES: usize = 64;

/// A piece of the state. Variants are only ever appended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Part {
    Core { clock_ms: u64, applied_index: u64, settings: Settings, hosts: Hosts },
    Customers(Vec<(u64, Customer)>),
    Domains(Vec<(u64, Domain)>),
    Recent(Vec<Remembered>),
    Audit(Vec<AuditRecord>),
    BlacklistRules(Rules),
    BlacklistLeaves(Vec<(u32, Octets)>),
    Import(Staged),
    BlacklistNotes(NotesChunk),
    ReturnPaths(ReturnPaths),
}

impl State {
    /// The parts, small ones first.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Part> {
        let core = Part::Core {
            clock_ms: self.clock_ms,
            applied_index: self.applied_index,
            settings: self.settings.clone(),
            hosts: self.hosts.clone(),
        };
        std::iter::once(core)
            .chain(in_pieces(self.customers.rows(), ROWS).map(Part::Customers))
            .chain(in_pieces(self.domains.rows(), ROWS).map(Part::Domains))
            .chain(self.recent.chunks().map(Part::Recent))
            .chain(self.audit.chunks().map(Part::Audit))
            .chain(std::iter::once(Part::BlacklistRules(self.blacklist.rules())))
            .chain(self.blacklist.notes_chunks().map(Part::BlacklistNotes))
            .chain(self.imports.staged().map(Part::Import))
            .chain(in_pieces(self.blacklist.leaves(), LEAVES).map(Part::BlacklistLeaves))
            .chain(self.return_paths.iter().map(Part::ReturnPaths))
    }

    /// Add a part to a state that is being put together.
    pub(crate) fn absorb(&mut self, part: Part) {
        match part {
            Part::Core { clock_ms, applied_index, settings, hosts } => {
                self.clock_ms = clock_ms;
                self.applied_index = applied_index;
                self.settings = settings;
                self.hosts = hosts;
            }
            Part::Customers(rows) => self.customers.absorb(rows),
            Part::Domains(rows) => self.domains.absorb(rows),
            Part::Recent(chunk) => self.recent.absorb(chunk),
            Part::Audit(chunk) => self.audit.absorb(chunk),
            Part::BlacklistNotes(chunk) => self.blacklist.absorb_notes(chunk),
            Part::Import(staged) => self.imports.absorb(staged),
            Part::BlacklistRules(rules) => self.blacklist.absorb_rules(rules),
            Part::BlacklistLeaves(leaves) => self.blacklist.absorb_leaves(leaves),
            Part::ReturnPaths(paths) => self.return_paths = paths,
        }
    }
}

fn in_pieces<T>(mut rows: impl Iterator<Item = T>, most: usize) -> impl Iterator<Item = Vec<T>> {
    std::iter::from_fn(move || {
        let piece: Vec<T> = rows.by_ref().take(most).collect();
        (!piece.is_empty()).then_some(piece)
    })
}
