//! The state taken apart for snapshots and digests, and put together again.
//!
//! The order and size of the parts follow from the state alone, so equal states give equal parts.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::answers::{Answer, AnswersChunk};
use super::audit::AuditRecord;
use super::blacklist::{NotesChunk, Numbers, RulesPart};
use super::hosts::Hosts;
use super::imports::Staged;
use super::links::LinksPart;
use super::lists::ListPiece;
use super::recent::Remembered;
use super::return_paths::ReturnPaths;
use super::rotation::RotationPart;
use super::{Customer, Domain, Settings, State};
use crate::octets::Octets;

/// Rows in a part. A part must stay far below the codec's limit: a domain is at most some 6 KiB.
const ROWS: usize = 256;
/// A leaf is at most some 8 KiB.
const LEAVES: usize = 256;

/// A piece of the state. Variants are only ever appended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Part {
    Core {
        clock_ms: u64,
        applied_index: u64,
        version: Option<u16>,
        settings: Settings,
        hosts: Hosts,
    },
    Customers(Vec<(u64, Customer)>),
    Domains(Vec<(u64, Domain)>),
    Recent(Vec<Remembered>),
    Audit(Vec<AuditRecord>),
    BlacklistRules(RulesPart),
    BlacklistLeaves(Vec<(u32, Octets)>),
    Import(Staged<Domain>),
    BlacklistNotes(NotesChunk),
    RecipientList(ListPiece),
    RecipientUpload(Staged<String>),
    Rotation(RotationPart),
    Answers(AnswersChunk),
    DomainAnswers(Vec<(Arc<str>, Answer)>),
    ReturnPaths(ReturnPaths),
    Links(LinksPart),
}

impl State {
    /// The parts, small ones first.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Part> {
        let core = Part::Core {
            clock_ms: self.clock_ms,
            applied_index: self.applied_index,
            version: self.version,
            settings: self.settings.clone(),
            hosts: self.hosts.clone(),
        };
        std::iter::once(core)
            .chain(in_pieces(self.customers.rows(), ROWS).map(Part::Customers))
            .chain(in_pieces(self.domains.rows(), ROWS).map(Part::Domains))
            .chain(self.recent.chunks().map(Part::Recent))
            .chain(self.audit.chunks().map(Part::Audit))
            .chain(self.blacklist.rules(ROWS).map(Part::BlacklistRules))
            .chain(self.blacklist.notes_chunks().map(Part::BlacklistNotes))
            .chain(self.imports.staged().map(Part::Import))
            .chain(self.rotation.parts(ROWS).map(Part::Rotation))
            .chain(self.lists.pieces().map(Part::RecipientList))
            .chain(self.lists.staged().map(Part::RecipientUpload))
            .chain(self.answers.chunks().map(Part::Answers))
            .chain(in_pieces(self.answers.domains(), ROWS).map(Part::DomainAnswers))
            .chain(in_pieces(self.blacklist.leaves(), LEAVES).map(Part::BlacklistLeaves))
            .chain(self.return_paths.pieces(ROWS).map(Part::ReturnPaths))
            .chain(self.links.parts(ROWS).map(Part::Links))
    }

    /// Add a part to a state that is being put together.
    pub(crate) fn absorb(&mut self, part: Part) {
        match part {
            Part::Core { clock_ms, applied_index, version, settings, hosts } => {
                self.clock_ms = clock_ms;
                self.applied_index = applied_index;
                self.numbers = Numbers::of(&settings);
                self.version = version;
                self.settings = settings;
                self.hosts = hosts;
            }
            Part::Customers(rows) => self.customers.absorb(rows),
            Part::Domains(rows) => self.domains.absorb(rows),
            Part::Recent(chunk) => self.recent.absorb(chunk),
            Part::Audit(chunk) => self.audit.absorb(chunk),
            Part::BlacklistNotes(chunk) => self.blacklist.absorb_notes(chunk),
            Part::Rotation(part) => self.rotation.absorb(part),
            Part::Import(staged) => self.imports.absorb(staged),
            Part::RecipientList(piece) => self.lists.absorb(piece),
            Part::RecipientUpload(staged) => self.lists.absorb_staged(staged),
            Part::Answers(chunk) => self.answers.absorb(chunk),
            Part::DomainAnswers(rows) => self.answers.absorb_domains(rows),
            Part::BlacklistRules(part) => {
                if let RulesPart::Core { seed, .. } = &part {
                    self.answers.set_seed(*seed);
                }
                self.blacklist.absorb_rules(part);
            }
            Part::BlacklistLeaves(leaves) => self.blacklist.absorb_leaves(leaves),
            Part::ReturnPaths(piece) => self.return_paths.absorb(piece),
            Part::Links(part) => self.links.absorb(part),
        }
    }
}

/// Rows by the `most`, for parts within what a record holds.
pub(super) fn in_pieces<T>(
    mut rows: impl Iterator<Item = T>,
    most: usize,
) -> impl Iterator<Item = Vec<T>> {
    std::iter::from_fn(move || {
        let piece: Vec<T> = rows.by_ref().take(most).collect();
        (!piece.is_empty()).then_some(piece)
    })
}
