//! Looking at every job once in a while, a few at a time.

use std::sync::Arc;

use super::job::Lane;
use super::{Id, Schedule, Ticket};

/// What a look has found.
#[derive(Debug)]
pub struct Swept<I> {
    /// Jobs that were wanted, with their destinations, taken out as for an attempt.
    pub taken: Vec<(Arc<str>, Ticket<I>)>,
    /// Those that were wanted and are with a worker now.
    pub running: Vec<I>,
    /// All jobs have been looked at since the last time this was so.
    pub is_end: bool,
}

impl<I: Id> Schedule<I> {
    /// Look at the next `rows` jobs, or fewer when `most` of them are `wanted`. What an operator
    /// holds back is passed over.
    pub fn sweep(&mut self, wanted: impl Fn(I) -> bool, rows: usize, most: usize) -> Swept<I> {
        let mut swept = Swept { taken: Vec::new(), running: Vec::new(), is_end: false };
        for _ in 0..rows {
            if swept.taken.len() >= most {
                return swept;
            }
            if self.sweep_cursor >= self.slab.rows() {
                self.sweep_cursor = 0;
                swept.is_end = true;
                return swept;
            }
            let slot = self.sweep_cursor;
            self.sweep_cursor += 1;
            let job = &self.slab[slot];
            if matches!(job.place.lane(), Lane::Vacant | Lane::Held) || !wanted(job.id) {
                continue;
            }
            if matches!(job.place.lane(), Lane::Running | Lane::RunningToHold) {
                swept.running.push(job.id);
                continue;
            }
            let number = job.destination as usize;
            let Some(destination) = self.destinations[number].as_mut() else { continue };
            destination.leave(&mut self.slab, slot);
            destination.enter(&mut self.slab, slot, Lane::Running);
            let name = Arc::clone(&destination.name);
            swept.taken.push((name, self.ticket(slot)));
        }
        swept
    }
}
