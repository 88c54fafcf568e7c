//! Requests already applied, so that a retry is answered and not applied again.

use serde::{Deserialize, Serialize};

use super::Outcome;
use super::ring::Ring;
use super::sharded::Sharded;

/// How many request ids are remembered at least: half a minute at the highest rate measured.
pub(crate) const REQUESTS_MAX: usize = 65_536;

/// Request ids with their outcomes, the oldest forgotten first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recent {
    outcomes: Sharded<u128, Outcome>,
    order: Ring<u128, REQUESTS_MAX>,
}

/// One remembered request, as a snapshot holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Remembered {
    id: u128,
    index: u64,
    outcome: Outcome,
}

impl Recent {
    pub(crate) fn outcome(&self, id: u128) -> Option<&Outcome> {
        self.outcomes.get(&id).map(|row| &row.value)
    }

    /// Not called twice with the same id: [`Self::outcome`] is asked first.
    pub(crate) fn remember(&mut self, id: u128, index: u64, outcome: &Outcome) {
        self.outcomes.put(id, index, outcome.clone());
        if let Some(forgotten) = self.order.push(id) {
            for id in forgotten.iter() {
                self.outcomes.remove(id);
            }
        }
    }

    /// Everything, a chunk at a time, oldest first.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = Vec<Remembered>> {
        self.order.chunks().map(|chunk| {
            let rows = chunk.iter().filter_map(|id| self.outcomes.get(id));
            let keep = |row: &super::sharded::Row<u128, Outcome>| Remembered {
                id: row.key,
                index: row.version,
                outcome: row.value.clone(),
            };
            rows.map(keep).collect()
        })
    }

    pub(crate) fn absorb(&mut self, chunk: Vec<Remembered>) {
        self.order.push_chunk(chunk.iter().map(|row| row.id).collect());
        for row in chunk {
            self.outcomes.put(row.id, row.index, row.outcome);
        }
    }
}
