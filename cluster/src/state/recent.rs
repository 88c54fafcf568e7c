//! Requests already applied, so that a retry is answered and not applied again.

use serde::{Deserialize, Serialize};

use super::ring::Ring;
use super::sharded::{self, Sharded};
use super::{Command, Outcome, Refusal, Request};

/// How many request ids are remembered at least: half a minute at the highest rate measured.
pub(crate) const REQUESTS_MAX: usize = 65_536;

/// Request ids with their outcomes, the oldest forgotten first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recent {
    outcomes: Sharded<u128, Decided>,
    order: Ring<u128, REQUESTS_MAX>,
}

/// What was asked, as [`asked`] has it, and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Decided {
    asked: u64,
    outcome: Outcome,
}

/// One remembered request, as a snapshot holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Remembered {
    id: u128,
    index: u64,
    decided: Decided,
}

impl Recent {
    /// What came of the request with this id, whatever it was.
    pub(crate) fn outcome(&self, id: u128) -> Option<&Outcome> {
        self.outcomes.get(&id).map(|row| &row.value.outcome)
    }

    /// What a request is answered that was decided before: what it was answered then, unless its
    /// id was another's.
    pub(crate) fn answer(&self, request: &Request) -> Option<Outcome> {
        let decided = &self.outcomes.get(&request.id)?.value;
        if decided.asked == asked(&request.command) {
            return Some(decided.outcome.clone());
        }
        Some(Err(Refusal::conflict(
            "this id was used for another change; nothing was changed now: ask without \
             --request-id, or with another",
        )))
    }

    /// Not called twice with the same id: [`Self::answer`] is asked first.
    pub(crate) fn remember(&mut self, request: &Request, index: u64, outcome: &Outcome) {
        let (id, asked) = (request.id, asked(&request.command));
        self.outcomes.put(id, index, Decided { asked, outcome: outcome.clone() });
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
            let keep = |row: &sharded::Row<u128, Decided>| Remembered {
                id: row.key,
                index: row.version,
                decided: row.value.clone(),
            };
            rows.map(keep).collect()
        })
    }

    pub(crate) fn absorb(&mut self, chunk: Vec<Remembered>) {
        self.order.push_chunk(chunk.iter().map(|row| row.id).collect());
        for row in chunk {
            self.outcomes.put(row.id, row.index, row.decided);
        }
    }
}

/// A number that tells what is asked from other things. What is worked out anew each time that
/// something is asked (a time so long from now, the hosts that take a host's names) is no part of
/// it: a repeat must be known. What nodes ask by themselves has ids of its own, and 0 here.
fn asked(command: &Command) -> u64 {
    let Some(mut asked) = command.summary() else { return 0 };
    match command {
        // They are no more than what the operator said.
        Command::CustomerAdd(_)
        | Command::CustomerSet { .. }
        | Command::DomainAdd(_)
        | Command::DomainSet { .. }
        | Command::DomainImport { .. }
        | Command::DomainCommit { .. } => {
            // Numbers and texts can always be written so.
            asked += &serde_json::to_string(command).unwrap_or_default();
        }
        Command::Notice(command) => asked += command.text(),
        Command::Migration(command) => asked += command.text(),
        _ => {}
    }
    sharded::hash(0, asked.as_bytes())
}
