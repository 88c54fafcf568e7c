//! The newest so many things, cheap to clone and to add to.

use std::collections::VecDeque;
use std::sync::Arc;

const CHUNK: usize = 128;

/// Keeps the newest `MAX` items, give or take a chunk: the oldest go a chunk at a time.
#[derive(Debug, Clone)]
pub(crate) struct Ring<T, const MAX: usize> {
    chunks: VecDeque<Arc<Vec<T>>>,
}

impl<T, const MAX: usize> Default for Ring<T, MAX> {
    fn default() -> Self {
        Self { chunks: VecDeque::new() }
    }
}

impl<T: Clone, const MAX: usize> Ring<T, MAX> {
    /// Add the newest; what had to go for it comes back.
    pub(crate) fn push(&mut self, item: T) -> Option<Arc<Vec<T>>> {
        match self.chunks.back_mut() {
            Some(last) if last.len() < CHUNK => Arc::make_mut(last).push(item),
            _ => self.chunks.push_back(Arc::new(vec![item])),
        }
        let full = self.chunks.len() > MAX.div_ceil(CHUNK) + 1;
        if full { self.chunks.pop_front() } else { None }
    }

    /// From the oldest to the newest.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    /// The chunks, so that a copy can be built that drops items at the same moments.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = &Arc<Vec<T>>> {
        self.chunks.iter()
    }

    /// Add a whole chunk, as [`Self::chunks`] gave it.
    pub(crate) fn push_chunk(&mut self, chunk: Vec<T>) {
        self.chunks.push_back(Arc::new(chunk));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_the_newest_and_gives_back_what_goes() {
        let mut ring = Ring::<usize, 1000>::default();
        let mut gone = Vec::new();
        for n in 0..5000 {
            gone.extend(ring.push(n).iter().flat_map(|chunk| chunk.to_vec()));
        }
        let kept: Vec<_> = ring.iter().copied().collect();
        assert!(kept.len() >= 1000 && kept.len() <= 1000 + 2 * CHUNK);
        gone.extend(kept);
        assert_eq!(gone, (0..5000).collect::<Vec<_>>());
    }
}
