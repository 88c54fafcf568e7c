//! Finds a job by message and destination: a hash table of nothing but slots.
//!
//! The keys are in the slab already; a map that holds them again would cost more than the job.

use std::hash::{DefaultHasher, Hash, Hasher as _};

use super::job::Slab;

const EMPTY: u32 = u32::MAX;
const LEAST: usize = 16;

/// Open addressing with linear probing; removal shifts back, so there are no tombstones.
#[derive(Debug)]
pub(super) struct Index {
    table: Vec<u32>,
    len: usize,
}

impl Index {
    pub(super) fn new() -> Self {
        Self { table: vec![EMPTY; LEAST], len: 0 }
    }

    pub(super) fn find<K: Copy + Eq + Hash>(
        &self,
        slab: &Slab<K>,
        id: K,
        destination: u32,
    ) -> Option<u32> {
        let mut at = self.home(id, destination);
        loop {
            let slot = self.table[at];
            if slot == EMPTY {
                return None;
            }
            if slab[slot].id == id && slab[slot].destination == destination {
                return Some(slot);
            }
            at = self.after(at);
        }
    }

    /// The job must not be in the table yet.
    pub(super) fn insert<K: Copy + Eq + Hash>(&mut self, slab: &Slab<K>, slot: u32) {
        if (self.len + 1) * 5 > self.table.len() * 4 {
            self.resize(slab, self.table.len() * 2);
        }
        self.place(slab, slot);
        self.len += 1;
    }

    /// The job must be in the table, and still in the slab.
    pub(super) fn remove<K: Copy + Eq + Hash>(&mut self, slab: &Slab<K>, slot: u32) {
        let mut hole = self.home(slab[slot].id, slab[slot].destination);
        while self.table[hole] != slot {
            if self.table[hole] == EMPTY {
                return;
            }
            hole = self.after(hole);
        }
        let mut at = self.after(hole);
        while self.table[at] != EMPTY {
            let moved = self.table[at];
            let home = self.home(slab[moved].id, slab[moved].destination);
            // An entry may move back to the hole unless that is before its home.
            let mask = self.table.len() - 1;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.table[hole] = moved;
                hole = at;
            }
            at = self.after(at);
        }
        self.table[hole] = EMPTY;
        self.len -= 1;
        if self.table.len() > LEAST && self.len * 8 < self.table.len() {
            self.resize(slab, self.table.len() / 2);
        }
    }

    #[cfg(test)]
    pub(super) fn octets(&self) -> usize {
        self.table.len() * size_of::<u32>()
    }

    fn resize<K: Copy + Eq + Hash>(&mut self, slab: &Slab<K>, len: usize) {
        let old = std::mem::replace(&mut self.table, vec![EMPTY; len]);
        for slot in old.into_iter().filter(|slot| *slot != EMPTY) {
            self.place(slab, slot);
        }
    }

    fn place<K: Copy + Eq + Hash>(&mut self, slab: &Slab<K>, slot: u32) {
        let mut at = self.home(slab[slot].id, slab[slot].destination);
        while self.table[at] != EMPTY {
            at = self.after(at);
        }
        self.table[at] = slot;
    }

    /// The table's length is a power of two.
    #[expect(clippy::cast_possible_truncation, reason = "only low bits are used")]
    fn home<K: Hash>(&self, id: K, destination: u32) -> usize {
        let mut hasher = DefaultHasher::new();
        (id, destination).hash(&mut hasher);
        hasher.finish() as usize & (self.table.len() - 1)
    }

    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.table.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::job::Recipients;
    use super::*;

    #[test]
    fn everything_put_in_is_found_and_nothing_removed_is() {
        let mut slab = Slab::new();
        let mut index = Index::new();
        let mut slots = Vec::new();
        for id in 0..2000_u32 {
            let slot = slab.insert(id / 2, id % 2, Recipients::One(0), 0);
            index.insert(&slab, slot);
            slots.push(slot);
        }
        for slot in slots.iter().filter(|slot| *slot % 3 == 0) {
            index.remove(&slab, *slot);
        }
        for (id, slot) in (0..2000).zip(&slots) {
            let found = (slot % 3 != 0).then_some(*slot);
            assert_eq!(index.find(&slab, id / 2, id % 2), found, "{id}");
        }
        for slot in slots.iter().filter(|slot| *slot % 3 != 0) {
            index.remove(&slab, *slot);
        }
        assert_eq!((index.len, index.table.len()), (0, LEAST));
    }
}
