//! A message's text while it streams through: its end, its size, its hops, and what is wrong with
//! it. Nothing of it is kept here.

use super::site::Site;
use super::trace::Hops;
use crate::smtp::canned::{self, Canned};
use crate::smtp::dots::{DataScanner, Flaws, Scan, Stuffer};

/// The text of one message, by DATA or by chunks.
#[derive(Debug)]
pub struct Text {
    scanner: DataScanner,
    stuffer: Stuffer,
    hops: Hops,
    octets: u64,
    octets_max: u64,
    hops_max: usize,
    own_hops_max: usize,
    failure: Option<Canned>,
}

impl Text {
    /// A text that has not begun.
    pub fn new(site: &Site) -> Self {
        let limits = site.limits();
        Self {
            scanner: DataScanner::default(),
            stuffer: Stuffer::default(),
            hops: Hops::new(site.hostname()),
            octets: 0,
            octets_max: limits.message_octets_max,
            hops_max: limits.hops_max,
            own_hops_max: limits.own_hops_max,
            failure: None,
        }
    }

    /// Look at input inside DATA: which part of it is text, and whether the end was found.
    pub fn scan(&mut self, input: &[u8]) -> Scan {
        let scan = self.scanner.scan(input);
        self.hops.feed(&input[..scan.text]);
        self.octets += scan.text as u64;
        scan
    }

    /// The next slice of text to keep out of a chunk, which is taken off the front of `input`.
    pub fn stuff<'a>(&mut self, input: &mut &'a [u8]) -> Option<&'a [u8]> {
        let before = input.len();
        let piece = self.stuffer.next(input)?;
        self.hops.feed(piece);
        self.octets += (before - input.len()) as u64;
        Some(piece)
    }

    /// The last chunk has ended; gives what is missing at the end of the text.
    pub fn finish_chunks(&mut self) -> &'static [u8] {
        self.stuffer.finish()
    }

    /// It could not be kept.
    pub fn fail(&mut self, failure: Canned) {
        self.failure.get_or_insert(failure);
    }

    /// Why its end in DATA is in doubt: with a CR or LF alone, or a NUL, in the text, the client
    /// may have meant another end than we found. A chunk says its length, so that its end is
    /// certain.
    pub fn doubt(&self) -> Option<Canned> {
        refusal(self.scanner.flaws())
    }

    /// Why it will not be accepted, as far as it is known. The order does not depend on how the
    /// text was cut.
    pub fn fault(&self) -> Option<Canned> {
        let flaw = self.doubt().or_else(|| refusal(self.stuffer.flaws()));
        if flaw.is_some() {
            flaw
        } else if self.octets() > self.octets_max {
            Some(canned::TOO_BIG)
        } else if self.hops.all() > self.hops_max {
            Some(canned::TOO_MANY_HOPS)
        } else if self.hops.own() > self.own_hops_max {
            Some(canned::OWN_LOOP)
        } else {
            self.failure
        }
    }

    /// Octets as the client counts them (RFC 1870 section 3), faulty ones included.
    pub fn octets(&self) -> u64 {
        self.octets - self.scanner.stuffed()
    }
}

fn refusal(flaws: Flaws) -> Option<Canned> {
    match flaws {
        Flaws { nul: true, .. } => Some(canned::HAS_NUL),
        Flaws { bare_newline: true, .. } => Some(canned::BARE_NEWLINE),
        _ => None,
    }
}
