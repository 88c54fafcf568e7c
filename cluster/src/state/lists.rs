//! The recipients that a customer has named: for their domain, everybody else is unknown.
//!
//! A list comes in parts, which gather beside the table and take the place of the list before all
//! at once. It is never changed afterwards, so it is kept as one text with an index.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::imports::{Imports, Staged};
use super::sharded::Sharded;
use super::{Outcome, Refusal};

/// Entries of one list; a list of so many takes some 4 MiB.
const ENTRIES_MAX: usize = 300_000;
/// Each of them is held against a recipient, in turn.
const PATTERNS_MAX: usize = 200;
/// Octets of one list.
const OCTETS_MAX: usize = 16 << 20;
/// Octets of all lists.
const ALL_OCTETS_MAX: usize = 512 << 20;
const ENTRY_OCTETS_MAX: usize = 255;
/// Octets of a piece in a snapshot.
const PIECE_OCTETS: usize = 64 << 10;

/// The recipients of one domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecipientList {
    version: u64,
    /// Local parts in order, one after the other.
    text: String,
    /// Where each of them ends.
    ends: Vec<u32>,
    patterns: Vec<String>,
}

/// A piece of a list, as a snapshot holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ListPiece {
    domain: String,
    version: u64,
    exact: Vec<String>,
    patterns: Vec<String>,
}

impl RecipientList {
    /// Whether a recipient with this local part (NFC, case-folded) is one of them.
    pub fn has(&self, local: &str) -> bool {
        self.find(local) || self.patterns.iter().any(|pattern| matches(pattern, local))
    }

    /// How many are named.
    pub fn exact_len(&self) -> usize {
        self.ends.len()
    }

    /// How many patterns there are.
    pub fn patterns_len(&self) -> usize {
        self.patterns.len()
    }

    /// The log index at which it was uploaded.
    pub fn version(&self) -> u64 {
        self.version
    }

    fn find(&self, local: &str) -> bool {
        let (mut low, mut high) = (0, self.ends.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.get(middle).cmp(local) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return true,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        false
    }

    fn get(&self, at: usize) -> &str {
        let end = |at: usize| self.ends.get(at).map_or(0, |end| *end as usize);
        let start = at.checked_sub(1).map_or(0, end);
        self.text.get(start..end(at)).unwrap_or_default()
    }

    fn octets(&self) -> usize {
        self.text.len() + 4 * self.ends.len() + self.patterns.iter().map(String::len).sum::<usize>()
    }

    /// Add what comes after all that is there.
    fn push(&mut self, local: &str) {
        self.text.push_str(local);
        // The text of a whole list is bounded far below.
        self.ends.push(u32::try_from(self.text.len()).unwrap_or(u32::MAX));
    }

    fn of(version: u64, mut entries: Vec<&str>) -> Self {
        entries.sort_unstable();
        entries.dedup();
        let mut list = Self { version, ..Self::default() };
        for entry in entries {
            if entry.contains('*') {
                list.patterns.push(entry.to_owned());
            } else {
                list.push(entry);
            }
        }
        list.text.shrink_to_fit();
        list.ends.shrink_to_fit();
        list
    }
}

/// Whether the pattern, in which `*` stands for anything, is all of the text.
fn matches(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(pieces.next().unwrap_or_default()) else { return false };
    let Some(last) = pieces.next_back() else { return rest.is_empty() };
    for piece in pieces {
        match rest.find(piece) {
            Some(at) => rest = rest.get(at + piece.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// The table of lists, and the uploads that are not finished.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lists {
    lists: Sharded<Arc<str>, Arc<RecipientList>>,
    octets: usize,
    uploads: Imports<String>,
}

impl Lists {
    pub(crate) fn get(&self, domain: &str) -> Option<&RecipientList> {
        self.lists.get(domain).map(|row| row.value.as_ref())
    }

    pub(crate) fn stage(
        &mut self,
        upload: u128,
        part: u32,
        entries: &[String],
        now_ms: u64,
    ) -> Outcome {
        for entry in entries {
            let is_one = (1..=ENTRY_OCTETS_MAX).contains(&entry.len())
                && !entry.contains(|c: char| c.is_control());
            if !is_one {
                let entry = entry.escape_debug();
                return Err(Refusal::invalid(format!(
                    "{entry} is not the local part of an address"
                )));
            }
        }
        self.uploads.stage(upload, part, entries, now_ms)
    }

    /// The uploaded list takes the place of the domain's. The outcome is its number of entries.
    pub(crate) fn commit(&mut self, at: u64, domain: &str, upload: u128, parts: u32) -> Outcome {
        let entries = self.uploads.finish(upload, parts)?;
        let list = RecipientList::of(at, entries.iter().map(String::as_str).collect());
        let count = list.exact_len() + list.patterns_len();
        if count > ENTRIES_MAX || list.octets() > OCTETS_MAX {
            return Err(Refusal::invalid(format!(
                "a list has at most {ENTRIES_MAX} recipients and {OCTETS_MAX} octets"
            )));
        }
        if list.patterns_len() > PATTERNS_MAX {
            return Err(Refusal::invalid(format!("a list has at most {PATTERNS_MAX} patterns")));
        }
        let before = self.get(domain).map_or(0, RecipientList::octets);
        let octets = self.octets - before + list.octets();
        if octets > ALL_OCTETS_MAX {
            return Err(Refusal::conflict("the lists of all domains take too much memory"));
        }
        self.octets = octets;
        self.lists.put(domain.into(), at, Arc::new(list));
        Ok(count as u64)
    }

    pub(crate) fn remove(&mut self, domain: &str) -> Outcome {
        let Some(row) = self.lists.remove(domain) else { return Ok(0) };
        self.octets -= row.value.octets();
        Ok(1)
    }

    /// The lists in pieces, in order.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = ListPiece> {
        self.lists.sorted().into_iter().flat_map(|row| {
            let list = &row.value;
            let mut at = 0;
            std::iter::from_fn(move || {
                let is_first = at == 0;
                let mut piece = ListPiece {
                    domain: row.key.to_string(),
                    version: list.version,
                    exact: Vec::new(),
                    patterns: if is_first { list.patterns.clone() } else { Vec::new() },
                };
                let mut octets = 0;
                while at < list.exact_len() && octets < PIECE_OCTETS {
                    octets += list.get(at).len();
                    piece.exact.push(list.get(at).to_owned());
                    at += 1;
                }
                let more = is_first || !piece.exact.is_empty();
                at = at.max(1);
                more.then_some(piece)
            })
        })
    }

    pub(crate) fn absorb(&mut self, piece: ListPiece) {
        let known = self.lists.remove(piece.domain.as_str()).map(|row| Arc::clone(&row.value));
        let mut list = known.map_or_else(RecipientList::default, Arc::unwrap_or_clone);
        self.octets -= list.octets();
        list.version = piece.version;
        list.patterns.extend(piece.patterns);
        piece.exact.iter().for_each(|local| list.push(local));
        self.octets += list.octets();
        self.lists.put(piece.domain.as_str().into(), piece.version, Arc::new(list));
    }

    pub(crate) fn staged(&self) -> impl Iterator<Item = Staged<String>> {
        self.uploads.staged()
    }

    pub(crate) fn absorb_staged(&mut self, staged: Staged<String>) {
        self.uploads.absorb(staged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn upload(lists: &mut Lists, at: u64, texts: &[&str]) -> Outcome {
        lists.stage(u128::from(at), 0, &entries(texts), 1)?;
        lists.commit(at, "acme.test", u128::from(at), 1)
    }

    #[test]
    fn a_list_knows_whom_it_names_and_whom_a_pattern_means() {
        let mut lists = Lists::default();
        assert_eq!(upload(&mut lists, 7, &["jane", "sales-*", "bob", "jane", "*+news"]), Ok(4));
        let list = lists.get("acme.test").unwrap();
        assert_eq!((list.exact_len(), list.patterns_len(), list.version()), (2, 2, 7));
        for local in ["jane", "bob", "sales-", "sales-eu", "x+news", "+news"] {
            assert!(list.has(local), "{local}");
        }
        for local in ["", "jan", "janes", "bobjane", "sales", "xsales-eu", "x+new", "x+newsy"] {
            assert!(!list.has(local), "{local}");
        }
        assert!(lists.get("other.test").is_none());
        assert_eq!(upload(&mut lists, 8, &[]), Ok(0), "an empty list: nobody is here");
        assert!(!lists.get("acme.test").unwrap().has("jane"));
        assert_eq!((lists.remove("acme.test"), lists.remove("acme.test")), (Ok(1), Ok(0)));
        assert_eq!(lists.octets, 0);
    }

    #[test]
    fn a_star_stands_for_anything() {
        let cases = [
            ("*", "", true),
            ("*", "anything", true),
            ("a*", "a", true),
            ("a*b", "ab", true),
            ("a*b", "axxb", true),
            ("a*a", "a", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("*é*", "café au lait", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_large_list_comes_back_from_its_pieces() {
        let mut lists = Lists::default();
        let names: Vec<String> = (0..100_000).map(|n| format!("user{n:06}")).collect();
        for (part, names) in (0..).zip(names.chunks(3000)) {
            lists.stage(1, part, names, 1).unwrap();
        }
        lists.stage(2, 0, &entries(&["unfinished"]), 1).unwrap();
        let parts = u32::try_from(names.len().div_ceil(3000)).unwrap();
        assert_eq!(lists.commit(5, "acme.test", 1, parts), Ok(100_000));
        let mut copy = Lists::default();
        lists.pieces().for_each(|piece| copy.absorb(piece));
        lists.staged().for_each(|staged| copy.absorb_staged(staged));
        assert_eq!(copy.get("acme.test"), lists.get("acme.test"));
        assert_eq!(copy.octets, lists.octets);
        assert!(copy.pieces().eq(lists.pieces()) && copy.staged().eq(lists.staged()));
        let list = copy.get("acme.test").unwrap();
        assert!(names.iter().all(|name| list.has(name)) && !list.has("user1"));
        assert!(list.octets() < 100_000 * 16);
    }

    #[test]
    fn what_is_too_much_or_no_local_part_is_refused_and_changes_nothing() {
        let mut lists = Lists::default();
        upload(&mut lists, 1, &["jane"]).unwrap();
        assert!(lists.stage(2, 0, &entries(&["a\nb"]), 1).is_err());
        assert!(lists.stage(2, 0, &entries(&[""]), 1).is_err());
        assert!(lists.stage(2, 0, &[String::from_utf8(vec![b'x'; 256]).unwrap()], 1).is_err());
        let many: Vec<String> = (0..=PATTERNS_MAX).map(|n| format!("p{n}*")).collect();
        lists.stage(3, 0, &many, 1).unwrap();
        assert!(lists.commit(3, "acme.test", 3, 1).is_err());
        assert!(lists.commit(4, "acme.test", 99, 1).is_err());
        assert!(lists.get("acme.test").unwrap().has("jane"));
    }
}
