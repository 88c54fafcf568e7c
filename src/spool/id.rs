//! The name of an entry: when it began, to the microsecond, and at which node.
//!
//! Written like a long queue id of Postfix: 52 digits that are neither vowels nor look like one,
//! so that no id is a word. The length is fixed, hence text order is time order.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const ALPHABET: &[u8; 52] = b"0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz";
const BASE: u64 = 52;
const MICROS_DIGITS: usize = 10;
const NODE_DIGITS: usize = 3;
/// Octets of an id as text.
const ID_OCTETS: usize = MICROS_DIGITS + NODE_DIGITS;
/// The last microsecond that ten digits can say: some 4580 years after 1970.
const MICROS_MAX: u64 = BASE.pow(10) - 1;

/// The id of a spool entry, unique in the fleet for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    micros: u64,
    node: u16,
}

/// Why a text is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a queue id has 13 digits and consonants")]
pub struct IdError;

impl EntryId {
    /// The id of the entry that began `micros` after 1970 at `node`; `None` past the year 6550.
    pub fn new(micros: u64, node: u16) -> Option<Self> {
        (micros <= MICROS_MAX).then_some(Self { micros, node })
    }

    /// Microseconds since 1970, UTC. Made strictly increasing, so it can be ahead of the clock.
    pub fn micros(self) -> u64 {
        self.micros
    }

    /// The node that accepted the message.
    pub fn node(self) -> u16 {
        self.node
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [b'0'; ID_OCTETS];
        let (mut micros, mut node) = (self.micros, u64::from(self.node));
        for place in (0..ID_OCTETS).rev() {
            let rest = if place >= MICROS_DIGITS { &mut node } else { &mut micros };
            let digit = usize::try_from(*rest % BASE).unwrap_or(0);
            text[place] = ALPHABET[digit];
            *rest /= BASE;
        }
        f.pad(str::from_utf8(&text).unwrap_or_default())
    }
}

impl FromStr for EntryId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let digits = text.as_bytes();
        if digits.len() != ID_OCTETS {
            return Err(IdError);
        }
        let (micros, node) = digits.split_at(MICROS_DIGITS);
        let node = u16::try_from(number(node)?).map_err(|_| IdError)?;
        Self::new(number(micros)?, node).ok_or(IdError)
    }
}

fn number(digits: &[u8]) -> Result<u64, IdError> {
    digits.iter().try_fold(0_u64, |number, digit| {
        let value = ALPHABET.binary_search(digit).map_err(|_| IdError)?;
        Ok(number * BASE + value as u64)
    })
}

impl Serialize for EntryId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EntryId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Gives out ids, each later than all before, whatever the clock does.
#[derive(Debug)]
pub(super) struct IdSource {
    last_micros: AtomicU64,
    node: u16,
}

impl IdSource {
    /// Ids of `node` that are all later than `floor_micros`.
    pub(super) fn new(node: u16, floor_micros: u64) -> Self {
        Self { last_micros: AtomicU64::new(floor_micros.min(MICROS_MAX)), node }
    }

    /// The next id, when the wall clock says `wall_us`.
    pub(super) fn next(&self, wall_us: u64) -> EntryId {
        let later = |last: u64| wall_us.max(last.saturating_add(1)).min(MICROS_MAX);
        let last = self
            .last_micros
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(later(last)))
            .unwrap_or_else(|last| last);
        EntryId { micros: later(last), node: self.node }
    }

    /// No id given out so far is later than this.
    pub(super) fn floor(&self) -> u64 {
        self.last_micros.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_thirteen_digits_and_reads_back() {
        for (micros, node) in [(0, 0), (1_780_000_000_000_000, 3), (MICROS_MAX, u16::MAX)] {
            let id = EntryId::new(micros, node).unwrap();
            let text = id.to_string();
            assert_eq!(text.len(), ID_OCTETS);
            assert_eq!(text.parse(), Ok(id));
            let json = serde_json::to_string(&id).unwrap();
            assert_eq!(serde_json::from_str::<EntryId>(&json).unwrap(), id);
        }
        assert_eq!(EntryId::new(MICROS_MAX + 1, 0), None);
    }

    #[test]
    fn text_order_is_time_order() {
        let ids: Vec<EntryId> =
            (0..40).map(|shift| EntryId::new((1 << shift) + 51, 7).unwrap()).collect();
        let mut texts: Vec<String> = ids.iter().map(EntryId::to_string).collect();
        texts.sort();
        let back: Vec<EntryId> = texts.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(back, ids);
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in ["", "0", "A000000000000", "000000000000é", "00000000000000", "0000000000zzz"]
        {
            assert_eq!(text.parse::<EntryId>(), Err(IdError), "{text}");
        }
    }

    #[test]
    fn ids_increase_though_the_clock_stands_or_goes_back() {
        let source = IdSource::new(1, 500);
        let micros: Vec<u64> =
            [100, 1000, 1000, 10, 2000].map(|wall| source.next(wall).micros()).into();
        assert_eq!(micros, [501, 1000, 1001, 1002, 2000]);
        assert_eq!(source.floor(), 2000);
    }
}
