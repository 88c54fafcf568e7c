//! What customers' servers said when they were asked whether they know a recipient.
//!
//! A cache: bounded, the oldest forgotten first, and what an answer says ends with its time, or
//! when anything in its domain is changed. Recipients that are known have a bound of their own, so
//! that whoever tries names does not push them out.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ring::Ring;
use super::sharded::Sharded;

const KNOWN_MAX: usize = 100_000;
const UNKNOWN_MAX: usize = 100_000;

/// One answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// The server knows the recipient; of a domain: it knows any name.
    pub(crate) is_known: bool,
    /// The version that the domain had.
    pub(crate) version: u64,
    /// When: milliseconds since 1970, UTC.
    pub(crate) at_ms: u64,
}

impl Answer {
    pub(crate) fn new(is_known: bool, version: u64, at_ms: u64) -> Self {
        Self { is_known, version, at_ms }
    }
}

/// Addresses of a chunk of one of the two rings, with their answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct AnswersChunk {
    is_known: bool,
    rows: Vec<(Arc<str>, Option<Answer>)>,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answers {
    rows: Sharded<Arc<str>, Answer>,
    known: Ring<Arc<str>, KNOWN_MAX>,
    unknown: Ring<Arc<str>, UNKNOWN_MAX>,
    /// Whether the server of a domain knows any name.
    domains: Sharded<Arc<str>, Answer>,
}

impl Answers {
    /// The secret of the fleet: who chooses addresses must not be able to choose their leaf too.
    pub(crate) fn set_seed(&mut self, seed: u64) {
        let before = std::mem::replace(&mut self.rows, Sharded::seeded(seed));
        for row in before.sorted() {
            self.rows.put(row.key.clone(), row.version, row.value);
        }
    }

    /// Answers in the largest leaf.
    #[cfg(test)]
    pub(crate) fn leaf_rows_max(&self) -> usize {
        self.rows.leaf_rows_max()
    }

    pub(crate) fn get(&self, address: &str) -> Option<Answer> {
        self.rows.get(address).map(|row| row.value)
    }

    pub(crate) fn of_domain(&self, domain: &str) -> Option<Answer> {
        self.domains.get(domain).map(|row| row.value)
    }

    pub(crate) fn put(&mut self, address: &str, answer: Answer) {
        let address: Arc<str> = address.into();
        let before = self.rows.put(Arc::clone(&address), 0, answer);
        if before.is_some_and(|before| before.value.is_known == answer.is_known) {
            return; // it keeps its place
        }
        let gone = match answer.is_known {
            true => self.known.push(address),
            false => self.unknown.push(address),
        };
        for gone in gone.iter().flat_map(|chunk| chunk.iter()) {
            // One that was answered otherwise meanwhile is in the other ring.
            if self.get(gone.as_ref()).is_some_and(|other| other.is_known == answer.is_known) {
                self.rows.remove(gone);
            }
        }
    }

    pub(crate) fn put_domain(&mut self, domain: &str, answer: Answer) {
        self.domains.put(domain.into(), 0, answer);
    }

    /// Whether there was one.
    pub(crate) fn forget(&mut self, address: &str) -> bool {
        self.rows.remove(address).is_some()
    }

    pub(crate) fn forget_domain(&mut self, domain: &str) {
        self.domains.remove(domain);
    }

    pub(crate) fn chunks(&self) -> impl Iterator<Item = AnswersChunk> {
        let chunk = |is_known, chunk: &[Arc<str>]| {
            let rows = chunk.iter().map(|each| (each.clone(), self.get(each)));
            AnswersChunk { is_known, rows: rows.collect() }
        };
        let known = self.known.chunks().map(move |each| chunk(true, each));
        known.chain(self.unknown.chunks().map(move |each| chunk(false, each)))
    }

    pub(crate) fn absorb(&mut self, chunk: AnswersChunk) {
        let addresses = chunk.rows.iter().map(|(address, _)| address.clone()).collect();
        match chunk.is_known {
            true => self.known.push_chunk(addresses),
            false => self.unknown.push_chunk(addresses),
        }
        for (address, answer) in chunk.rows {
            if let Some(answer) = answer {
                self.rows.put(address, 0, answer);
            }
        }
    }

    /// The answers for domains, in order.
    pub(crate) fn domains(&self) -> impl Iterator<Item = (Arc<str>, Answer)> {
        self.domains.sorted().into_iter().map(|row| (row.key.clone(), row.value))
    }

    pub(crate) fn absorb_domains(&mut self, rows: Vec<(Arc<str>, Answer)>) {
        for (domain, answer) in rows {
            self.put_domain(&domain, answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(is_known: bool) -> Answer {
        Answer::new(is_known, 1, 1)
    }

    #[test]
    fn names_that_are_tried_do_not_push_out_those_that_are_known() {
        let mut answers = Answers::default();
        answers.put("jane@x.test", answer(true));
        answers.put("u0@x.test", answer(true));
        for n in 0..UNKNOWN_MAX + 1000 {
            answers.put(&format!("u{n}@x.test"), answer(false));
        }
        assert_eq!(answers.get("jane@x.test"), Some(answer(true)));
        assert_eq!(answers.get("u0@x.test"), None, "the first of them is forgotten");
        assert!(answers.forget("u9000@x.test") && !answers.forget("u9000@x.test"));
        let mut copy = Answers::default();
        answers.chunks().for_each(|chunk| copy.absorb(chunk));
        assert!(copy.chunks().eq(answers.chunks()));
        for n in 0..1000 {
            let again = format!("u{}@x.test", n * 7);
            answers.put(&again, answer(n % 2 == 0));
            copy.put(&again, answer(n % 2 == 0));
        }
        assert!(copy.chunks().eq(answers.chunks()));
    }
}
