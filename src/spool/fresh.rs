//! Texts of fresh messages, kept in memory until they are delivered, within a bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// Counts the texts that are out.
#[derive(Debug)]
pub(super) struct FreshCache {
    octets: AtomicUsize,
    octets_max: usize,
}

impl FreshCache {
    pub(super) fn new(octets_max: usize) -> Arc<Self> {
        Arc::new(Self { octets: AtomicUsize::new(0), octets_max })
    }

    /// The text as shared bytes, and whether there is room to keep it. It counts until the last
    /// copy of the bytes is dropped.
    pub(super) fn wrap(self: &Arc<Self>, text: Vec<u8>) -> (Bytes, bool) {
        let counted = text.capacity();
        let kept = self.octets.fetch_add(counted, Ordering::Relaxed) + counted <= self.octets_max;
        (Bytes::from_owner(Fresh { cache: Arc::clone(self), counted, text }), kept)
    }

    #[cfg(test)]
    fn octets(&self) -> usize {
        self.octets.load(Ordering::Relaxed)
    }
}

struct Fresh {
    cache: Arc<FreshCache>,
    counted: usize,
    text: Vec<u8>,
}

impl AsRef<[u8]> for Fresh {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        self.cache.octets.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_counts_until_its_last_copy_is_dropped() {
        let cache = FreshCache::new(10);
        let (first, kept) = cache.wrap(vec![1; 8]);
        assert!(kept);
        let copy = first.slice(2..4);
        drop(first);
        assert_eq!(cache.octets(), 8);
        let (second, kept) = cache.wrap(vec![2; 8]);
        assert!(!kept && second[..] == [2; 8]);
        drop((copy, second));
        assert_eq!(cache.octets(), 0);
    }
}
