//! A map whose clone costs nothing and whose change copies little, for tables of millions of rows.
//!
//! Readers hold a clone of the whole table while the next batch is applied to another: what a
//! change touches is copied (two small nodes and one leaf of a hundred rows), the rest is
//! shared. Layout: 64 branches of 128 leaves, chosen by the key's hash; a leaf is sorted by hash.
//! Hashes spread evenly, so a lookup guesses the place in the leaf and is off by a few rows.
//!
//! Rows lie in the leaf itself, so that a lookup waits for memory once. What is copied with a leaf
//! must be small and cheap to clone: large values are behind an `Arc`, and so are keys, or they are
//! so short that they lie in the row.
//!
//! **Invariant:** nothing that leaves this type is in the order of hashes.

use std::borrow::Borrow;
use std::sync::Arc;

use compact_str::CompactString;

const BRANCH_BITS: u32 = 6;
const LEAF_BITS: u32 = 7;
const REST_BITS: u32 = 64 - BRANCH_BITS - LEAF_BITS;

/// What a [`Sharded`] map can be keyed by.
pub(crate) trait ShardKey: Ord {
    /// The same on every node, for ever: where a row is found does not depend on the process.
    fn shard_hash(&self, seed: u64) -> u64;
}

impl ShardKey for str {
    fn shard_hash(&self, seed: u64) -> u64 {
        hash(seed, self.as_bytes())
    }
}

impl ShardKey for Arc<str> {
    fn shard_hash(&self, seed: u64) -> u64 {
        str::shard_hash(self, seed)
    }
}

impl ShardKey for CompactString {
    fn shard_hash(&self, seed: u64) -> u64 {
        str::shard_hash(self, seed)
    }
}

/// A key that is a hash itself.
impl ShardKey for u64 {
    fn shard_hash(&self, _seed: u64) -> u64 {
        *self
    }
}

impl ShardKey for u128 {
    #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
    fn shard_hash(&self, _seed: u64) -> u64 {
        mix((*self as u64) ^ ((*self >> 64) as u64).rotate_left(23))
    }
}

/// The finalizer of splitmix64: every bit of the input changes half of the output.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A hash of octets, keyed by a seed; the same on every node, for ever.
#[expect(clippy::cast_possible_truncation, reason = "both halves of the product are used")]
pub(crate) fn hash(seed: u64, octets: &[u8]) -> u64 {
    let key = u128::from(seed.rotate_left(32) | 0x9e37_79b9_7f4a_7c15);
    let fold = |hash: u64, word: u64| {
        let product = u128::from(hash ^ word) * key;
        (product as u64) ^ (product >> 64) as u64
    };
    let (words, rest) = octets.as_chunks::<8>();
    let hash = words.iter().fold(seed, |hash, word| fold(hash, u64::from_le_bytes(*word)));
    let last = match octets.last_chunk::<8>() {
        Some(last) => u64::from_le_bytes(*last), // some of it a second time, which does no harm
        None => rest.iter().fold(0, |word, octet| (word << 8) | u64::from(*octet)),
    };
    mix(fold(hash, last) ^ octets.len() as u64)
}

/// One row: its key, the log index of its last change, and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row<K, V> {
    pub(crate) key: K,
    pub(crate) version: u64,
    pub(crate) value: V,
}

type Slot<K, V> = (u64, Row<K, V>);
type Leaf<K, V> = Arc<[Slot<K, V>]>;
type Branch<K, V> = Arc<Vec<Leaf<K, V>>>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Sharded<K, V> {
    root: Arc<Vec<Branch<K, V>>>,
    len: usize,
    seed: u64,
}

impl<K, V> Clone for Sharded<K, V> {
    fn clone(&self) -> Self {
        Self { root: Arc::clone(&self.root), len: self.len, seed: self.seed }
    }
}

impl<K, V> Default for Sharded<K, V> {
    fn default() -> Self {
        let leaf: Leaf<K, V> = Arc::new([]);
        let branch: Branch<K, V> = Arc::new(vec![leaf; 1 << LEAF_BITS]);
        Self { root: Arc::new(vec![branch; 1 << BRANCH_BITS]), len: 0, seed: 0 }
    }
}

impl<K: ShardKey + Clone, V: Clone> Sharded<K, V> {
    /// An empty map for keys that strangers choose. Who has not got the seed finds no two of one
    /// leaf: each change copies the whole of it.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    pub(crate) fn get<Q>(&self, key: &Q) -> Option<&Row<K, V>>
    where
        K: Borrow<Q>,
        Q: ShardKey + ?Sized,
    {
        let hash = key.shard_hash(self.seed);
        let (branch, leaf) = place(hash);
        let leaf = self.root.get(branch)?.get(leaf)?;
        let at = find(leaf, hash, key).ok()?;
        leaf.get(at).map(|(_, row)| row)
    }

    /// Put a row in; the one it replaces comes back.
    pub(crate) fn put(&mut self, key: K, version: u64, value: V) -> Option<Row<K, V>> {
        let hash = key.shard_hash(self.seed);
        let leaf = self.leaf_mut(hash)?;
        let found = find::<K, V, K>(leaf, hash, &key);
        let slot = (hash, Row { key, version, value });
        match found {
            Ok(at) => Arc::make_mut(leaf).get_mut(at).map(|old| std::mem::replace(old, slot).1),
            Err(at) => {
                let (before, after) = leaf.split_at_checked(at)?;
                let slots = before.iter().cloned().chain([slot]).chain(after.iter().cloned());
                *leaf = slots.collect();
                self.len += 1;
                None
            }
        }
    }

    pub(crate) fn remove<Q>(&mut self, key: &Q) -> Option<Row<K, V>>
    where
        K: Borrow<Q>,
        Q: ShardKey + ?Sized,
    {
        self.get(key)?; // nothing is copied for a row that is not there
        let hash = key.shard_hash(self.seed);
        let leaf = self.leaf_mut(hash)?;
        let at = find(leaf, hash, key).ok()?;
        let (_, row) = leaf.get(at)?.clone();
        let (before, after) = (leaf.get(..at)?, leaf.get(at + 1..)?);
        *leaf = before.iter().chain(after).cloned().collect();
        self.len -= 1;
        Some(row)
    }

    /// Change a row's value where it is; whether there is one. Its version stays.
    pub(crate) fn change<Q>(&mut self, key: &Q, change: impl FnOnce(&mut V)) -> bool
    where
        K: Borrow<Q>,
        Q: ShardKey + ?Sized,
    {
        let hash = key.shard_hash(self.seed);
        let Some(leaf) = self.leaf_mut(hash) else { return false };
        let found = find(leaf, hash, key).ok();
        let found = found.and_then(|at| Arc::make_mut(leaf).get_mut(at));
        let Some((_, row)) = found else { return false };
        change(&mut row.value);
        true
    }

    /// All rows in order of key. Sorts, so it is for lists and snapshots.
    pub(crate) fn sorted(&self) -> Vec<&Row<K, V>> {
        let mut rows = Vec::with_capacity(self.len);
        rows.extend(self.root.iter().flat_map(|b| b.iter()).flat_map(|l| l.iter()).map(|s| &s.1));
        rows.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        rows
    }

    /// Rows of the largest leaf.
    #[cfg(test)]
    pub(crate) fn leaf_rows_max(&self) -> usize {
        self.root.iter().flat_map(|b| b.iter()).map(|leaf| leaf.len()).max().unwrap_or(0)
    }

    fn leaf_mut(&mut self, hash: u64) -> Option<&mut Leaf<K, V>> {
        let (branch, leaf) = place(hash);
        let branch = Arc::make_mut(&mut self.root).get_mut(branch)?;
        Arc::make_mut(branch).get_mut(leaf)
    }
}

fn place(hash: u64) -> (usize, usize) {
    let branch = hash >> (64 - BRANCH_BITS);
    let leaf = (hash >> REST_BITS) & ((1 << LEAF_BITS) - 1);
    (branch as usize, leaf as usize)
}

/// Where the key is, or where it would go.
fn find<K, V, Q>(leaf: &[Slot<K, V>], hash: u64, key: &Q) -> Result<usize, usize>
where
    K: Borrow<Q>,
    Q: Ord + ?Sized,
{
    let rest = u128::from(hash & ((1 << REST_BITS) - 1));
    let mut at = ((rest * leaf.len() as u128) >> REST_BITS) as usize;
    while leaf.get(at).is_some_and(|slot| slot.0 < hash) {
        at += 1;
    }
    while at > 0 && leaf.get(at - 1).is_some_and(|slot| slot.0 >= hash) {
        at -= 1;
    }
    while let Some((found, row)) = leaf.get(at)
        && *found == hash
    {
        match row.key.borrow().cmp(key) {
            std::cmp::Ordering::Less => at += 1,
            std::cmp::Ordering::Equal => return Ok(at),
            std::cmp::Ordering::Greater => return Err(at),
        }
    }
    Err(at)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_behaves_as_an_ordered_map_and_a_clone_stays_as_it_was(
            steps in proptest::collection::vec((0_u128..60, any::<Option<u8>>()), 1..300)
        ) {
            let mut model = BTreeMap::new();
            let mut map = Sharded::<u128, u8>::default();
            let mut past = Vec::new();
            for (key, value) in steps {
                past.push((map.clone(), model.clone()));
                match value {
                    Some(value) => {
                        let old = map.put(key, 1, value).map(|row| row.value);
                        prop_assert_eq!(old, model.insert(key, value));
                    }
                    None => {
                        let old = map.remove(&key).map(|row| row.value);
                        prop_assert_eq!(old, model.remove(&key));
                        let next = model.get_mut(&(key + 1)).map(|value| *value = 7);
                        prop_assert_eq!(map.change(&(key + 1), |value| *value = 7), next.is_some());
                    }
                }
            }
            past.push((map, model));
            for (map, model) in past {
                let rows: Vec<_> = map.sorted().iter().map(|r| (r.key, r.value)).collect();
                prop_assert_eq!(rows, model.iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>());
                prop_assert_eq!(map.len, model.len());
                for key in 0..60 {
                    prop_assert_eq!(map.get(&key).map(|r| r.value), model.get(&key).copied());
                }
            }
        }
    }

    #[test]
    fn many_names_are_all_found() {
        let mut map = Sharded::<CompactString, usize>::default();
        for n in 0..50_000 {
            map.put(format!("d{n}.example").into(), 0, n);
        }
        for n in 0..50_000 {
            assert_eq!(map.get(format!("d{n}.example").as_str()).map(|row| row.value), Some(n));
        }
        assert!(map.get("d50000.example").is_none());
    }
}
