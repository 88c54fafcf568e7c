//! A binary heap of job slots that can also remove from its middle: each job knows its position.

use std::cmp::Ordering;

use super::job::{Lane, Place, Slab};

/// What a heap is sorted by, and which of a job's positions is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// One lane: `Waiting` by due time, the others by id.
    Lane(Lane),
    /// Every job of a destination that may expire, by id, which is by age.
    Age,
}

/// Slots, the least first.
#[derive(Debug)]
pub(super) struct Heap {
    order: Order,
    slots: Vec<u32>,
}

impl Heap {
    pub(super) fn new(order: Order) -> Self {
        Self { order, slots: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The least slot.
    pub(super) fn peek(&self) -> Option<u32> {
        self.slots.first().copied()
    }

    /// All slots, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.slots.iter().copied()
    }

    pub(super) fn push<K: Ord>(&mut self, slab: &mut Slab<K>, slot: u32) {
        self.slots.push(slot);
        self.sift_up(slab, self.slots.len() - 1);
    }

    pub(super) fn remove<K: Ord>(&mut self, slab: &mut Slab<K>, slot: u32) {
        let at = match self.order {
            Order::Lane(_) => slab[slot].place.position(),
            Order::Age => slab[slot].age_position,
        } as usize;
        debug_assert_eq!(self.slots.get(at), Some(&slot), "a job knows its position");
        self.slots.swap_remove(at);
        if at < self.slots.len() {
            self.sift_down(slab, at);
            self.sift_up(slab, at);
        } else if self.slots.is_empty() {
            self.slots = Vec::new();
        }
    }

    fn sift_up<K: Ord>(&mut self, slab: &mut Slab<K>, mut at: usize) {
        while at > 0 {
            let parent = (at - 1) / 2;
            if self.compare(slab, at, parent) != Ordering::Less {
                break;
            }
            self.slots.swap(at, parent);
            self.note(slab, at);
            at = parent;
        }
        self.note(slab, at);
    }

    fn sift_down<K: Ord>(&mut self, slab: &mut Slab<K>, mut at: usize) {
        loop {
            let left = 2 * at + 1;
            if left >= self.slots.len() {
                break;
            }
            let right = left + 1;
            let right_is_less =
                right < self.slots.len() && self.compare(slab, right, left) == Ordering::Less;
            let child = if right_is_less { right } else { left };
            if self.compare(slab, child, at) != Ordering::Less {
                break;
            }
            self.slots.swap(at, child);
            self.note(slab, at);
            at = child;
        }
        self.note(slab, at);
    }

    fn compare<K: Ord>(&self, slab: &Slab<K>, a: usize, b: usize) -> Ordering {
        let (a, b) = (&slab[self.slots[a]], &slab[self.slots[b]]);
        match self.order {
            Order::Lane(Lane::Waiting) => a.due_ms.cmp(&b.due_ms).then_with(|| a.id.cmp(&b.id)),
            Order::Lane(_) | Order::Age => a.id.cmp(&b.id),
        }
    }

    /// Tell the job at `at` its position.
    #[expect(clippy::cast_possible_truncation, reason = "a heap has no more entries than the slab")]
    fn note<K>(&self, slab: &mut Slab<K>, at: usize) {
        let job = &mut slab[self.slots[at]];
        match self.order {
            Order::Lane(lane) => job.place = Place::new(lane, at as u32),
            Order::Age => job.age_position = at as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::job::Recipients;
    use super::*;

    /// Numbers that look random and are the same at each run.
    fn numbers(count: u64) -> impl Iterator<Item = u64> {
        (0..count).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) % 1000)
    }

    #[test]
    fn what_is_left_comes_out_in_order_after_removals_from_the_middle() {
        let mut slab = Slab::new();
        let mut heap = Heap::new(Order::Lane(Lane::Waiting));
        let slots: Vec<u32> = numbers(500)
            .enumerate()
            .map(|(id, due_ms)| slab.insert(id, 0, Recipients::One(0), due_ms))
            .collect();
        for slot in &slots {
            heap.push(&mut slab, *slot);
        }
        for slot in slots.iter().step_by(3) {
            heap.remove(&mut slab, *slot);
        }
        let mut last = 0;
        while let Some(slot) = heap.peek() {
            heap.remove(&mut slab, slot);
            assert!(slab[slot].due_ms >= last);
            last = slab[slot].due_ms;
        }
    }
}
