//! Jobs: what is left to do of one message at one destination, 40 bytes each, in one slab.
//!
//! A million of them must fit beside the spool's index, so a job is a row that others refer to by
//! its slot, and the recipients of the usual case (one) are kept in the row itself.

use std::collections::HashMap;

/// Indexes of recipients in the message's envelope; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipients {
    /// One recipient.
    One(u32),
    /// Several, in the order of the envelope.
    Many(Box<[u32]>),
}

impl Recipients {
    /// The indexes, in order; `None` when there are none.
    pub fn new(indexes: &[u32]) -> Option<Self> {
        match indexes {
            [] => None,
            [one] => Some(Self::One(*one)),
            many => Some(Self::Many(many.into())),
        }
    }

    /// The indexes, in order.
    pub fn as_slice(&self) -> &[u32] {
        match self {
            Self::One(index) => std::slice::from_ref(index),
            Self::Many(indexes) => indexes,
        }
    }
}

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Due: arrived while its destination was well, never tried.
    Fresh,
    /// Due: recovered after a restart, released, or kept from a destination that failed.
    Backlog,
    /// Due at a time to come.
    Waiting,
    /// Set aside by an operator.
    Held,
    /// With a worker.
    Running,
    /// With a worker, to be held if anything is left of it.
    RunningToHold,
    /// Nowhere: the row is free.
    Vacant,
}

const LANES: [Lane; 7] = [
    Lane::Fresh,
    Lane::Backlog,
    Lane::Waiting,
    Lane::Held,
    Lane::Running,
    Lane::RunningToHold,
    Lane::Vacant,
];
const POSITION_BITS: u32 = 29;

/// A lane and the position in its heap, in four octets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place(u32);

impl Place {
    pub(super) fn new(lane: Lane, position: u32) -> Self {
        debug_assert!(position < 1 << POSITION_BITS, "the slab has at most 2^29 rows");
        Self(((lane as u32) << POSITION_BITS) | position)
    }

    pub(super) fn lane(self) -> Lane {
        LANES[(self.0 >> POSITION_BITS) as usize]
    }

    pub(super) fn position(self) -> u32 {
        self.0 & ((1 << POSITION_BITS) - 1)
    }
}

/// One row.
#[derive(Debug)]
pub(super) struct Job<K> {
    pub(super) id: K,
    /// Since when it is due, or when it will be.
    pub(super) due_ms: u64,
    pub(super) destination: u32,
    /// The recipient's index, or [`MANY`].
    recipient: u32,
    pub(super) place: Place,
    /// Position in the destination's heap by age.
    pub(super) age_position: u32,
}

/// More than one recipient: they are in [`Slab::many`]. No envelope has an index so high.
const MANY: u32 = u32::MAX;

/// All jobs.
#[derive(Debug)]
pub(super) struct Slab<K> {
    rows: Vec<Job<K>>,
    free: Vec<u32>,
    many: HashMap<u32, Box<[u32]>>,
}

impl<K> Slab<K> {
    pub(super) fn new() -> Self {
        Self { rows: Vec::new(), free: Vec::new(), many: HashMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len() - self.free.len()
    }

    /// Slots are lower than this.
    pub(super) fn rows(&self) -> u32 {
        u32::try_from(self.rows.len()).unwrap_or(u32::MAX)
    }

    /// Put a job in; it starts as running, which is to be in no lane.
    pub(super) fn insert(
        &mut self,
        id: K,
        destination: u32,
        recipients: Recipients,
        due_ms: u64,
    ) -> u32 {
        let place = Place::new(Lane::Running, 0);
        let row = Job { id, due_ms, destination, recipient: MANY, place, age_position: 0 };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.rows[slot as usize] = row;
                slot
            }
            None => {
                #[expect(clippy::expect_used, reason = "2^32 rows take 160 GiB")]
                let slot = u32::try_from(self.rows.len()).expect("fewer than 2^32 jobs");
                self.rows.push(row);
                slot
            }
        };
        self.set_recipients(slot, recipients);
        slot
    }

    #[cfg(test)]
    pub(super) fn octets(&self) -> usize {
        self.rows.len() * size_of::<Job<K>>() + self.free.len() * size_of::<u32>()
    }

    /// All jobs with their slots.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Job<K>)> {
        (0..).zip(&self.rows).filter(|(_, job)| job.place.lane() != Lane::Vacant)
    }

    /// Forget a job.
    pub(super) fn remove(&mut self, slot: u32) {
        self.many.remove(&slot);
        self[slot].place = Place::new(Lane::Vacant, 0);
        self.free.push(slot);
        if self.free.len() == self.rows.len() {
            // Give back what a backlog has taken.
            *self = Self::new();
        }
    }

    pub(super) fn recipients(&self, slot: u32) -> Recipients {
        match self[slot].recipient {
            MANY => self.many.get(&slot).cloned().map_or(Recipients::One(MANY), Recipients::Many),
            index => Recipients::One(index),
        }
    }

    pub(super) fn recipient_count(&self, slot: u32) -> u64 {
        match self[slot].recipient {
            MANY => self.many.get(&slot).map_or(1, |indexes| indexes.len() as u64),
            _ => 1,
        }
    }

    pub(super) fn set_recipients(&mut self, slot: u32, recipients: Recipients) {
        match recipients {
            Recipients::One(index) => {
                self[slot].recipient = index;
                self.many.remove(&slot);
            }
            Recipients::Many(indexes) => {
                self[slot].recipient = MANY;
                self.many.insert(slot, indexes);
            }
        }
    }
}

/// A slot comes only from `insert` and is not used after `remove`, so it is always in bounds.
impl<K> std::ops::Index<u32> for Slab<K> {
    type Output = Job<K>;

    fn index(&self, slot: u32) -> &Job<K> {
        &self.rows[slot as usize]
    }
}

impl<K> std::ops::IndexMut<u32> for Slab<K> {
    fn index_mut(&mut self, slot: u32) -> &mut Job<K> {
        &mut self.rows[slot as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_forty_octets_when_its_id_is_sixteen() {
        assert_eq!(size_of::<Job<(u64, u16)>>(), 40);
    }

    #[test]
    fn a_place_keeps_lane_and_position() {
        for lane in LANES {
            let place = Place::new(lane, (1 << POSITION_BITS) - 1);
            assert_eq!((place.lane(), place.position()), (lane, (1 << POSITION_BITS) - 1));
        }
    }

    #[test]
    fn recipients_are_kept_whether_one_or_many() {
        let mut slab = Slab::new();
        let one = slab.insert(1, 0, Recipients::One(7), 0);
        let many = slab.insert(2, 0, Recipients::new(&[1, 2, 3]).unwrap(), 0);
        assert_eq!(slab.recipients(one).as_slice(), [7]);
        assert_eq!(slab.recipients(many).as_slice(), [1, 2, 3]);
        slab.set_recipients(many, Recipients::One(2));
        assert_eq!(slab.recipients(many).as_slice(), [2]);
        assert!(slab.many.is_empty());
        slab.remove(one);
        assert_eq!(slab.insert(3, 0, Recipients::One(0), 0), one, "a slot is used again");
    }
}
