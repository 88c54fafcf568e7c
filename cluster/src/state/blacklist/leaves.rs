//! A million leaves in a tree whose clone costs nothing and whose change copies little.
//!
//! Readers hold a clone of the whole tree while the next batch is applied to another: what a change
//! touches is copied (three nodes of some hundred pointers and one leaf), the rest is shared. A
//! leaf is one allocation, its count of owners in front of its bytes, so that a lookup meets as
//! few cold cache lines as can be: that is what its time goes to.

use std::sync::Arc;

/// Leaves in all: ten addresses in each when there are ten million.
pub(super) const LEAVES: usize = ROOT * BRANCHES * TWIGS;
const ROOT: usize = 128;
const BRANCHES: usize = 128;
const TWIGS: usize = 64;

type Leaf = Option<Arc<[u8]>>;
type Twig = Arc<Vec<Leaf>>;
type Branch = Arc<Vec<Twig>>;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Leaves {
    root: Arc<Vec<Branch>>,
    /// The nodes all start as, known by their address: most of a small tree is skipped by that.
    empty: (Branch, Twig),
}

impl Default for Leaves {
    fn default() -> Self {
        let twig: Twig = Arc::new(vec![None; TWIGS]);
        let branch: Branch = Arc::new(vec![Arc::clone(&twig); BRANCHES]);
        Self { root: Arc::new(vec![Arc::clone(&branch); ROOT]), empty: (branch, twig) }
    }
}

impl Leaves {
    /// The bytes of a leaf; none if there is no such leaf.
    pub(super) fn get(&self, at: usize) -> &[u8] {
        self.find(at).map(|leaf| &**leaf).unwrap_or_default()
    }

    /// The same, to be kept while the tree changes.
    pub(super) fn shared(&self, at: usize) -> Option<Arc<[u8]>> {
        self.find(at).cloned()
    }

    fn find(&self, at: usize) -> Option<&Arc<[u8]>> {
        let (branch, twig, leaf) = path(at);
        self.root.get(branch)?.get(twig)?.get(leaf)?.as_ref()
    }

    /// Give a leaf these bytes.
    pub(super) fn put(&mut self, at: usize, bytes: &[u8]) {
        let (branch, twig, leaf) = path(at);
        let Some(branch) = Arc::make_mut(&mut self.root).get_mut(branch) else { return };
        let Some(twig) = Arc::make_mut(branch).get_mut(twig) else { return };
        let Some(leaf) = Arc::make_mut(twig).get_mut(leaf) else { return };
        *leaf = (!bytes.is_empty()).then(|| Arc::from(bytes));
    }

    /// Leaves that hold something, with their numbers, in order.
    pub(super) fn used(&self) -> impl Iterator<Item = (usize, &Arc<[u8]>)> {
        let branches = self.root.iter().enumerate();
        let twigs = branches.filter(|(_, branch)| !Arc::ptr_eq(branch, &self.empty.0)).flat_map(
            |(b, branch)| branch.iter().enumerate().map(move |(t, twig)| (b * BRANCHES + t, twig)),
        );
        twigs.filter(|(_, twig)| !Arc::ptr_eq(twig, &self.empty.1)).flat_map(|(t, twig)| {
            let leaves = twig.iter().enumerate();
            leaves.filter_map(move |(l, leaf)| Some((t * TWIGS + l, leaf.as_ref()?)))
        })
    }
}

fn path(at: usize) -> (usize, usize, usize) {
    (at / TWIGS / BRANCHES, at / TWIGS % BRANCHES, at % TWIGS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_are_found_in_order_and_a_clone_stays_as_it_was() {
        let mut leaves = Leaves::default();
        let places = [0, 1, TWIGS, BRANCHES * TWIGS + 5, 77_777, LEAVES - 1];
        for at in places {
            leaves.put(at, &at.to_le_bytes());
        }
        let past = leaves.clone();
        leaves.put(77_777, b"new");
        leaves.put(1, b"");
        leaves.put(LEAVES, b"nowhere");
        assert_eq!(
            (leaves.get(77_777), leaves.get(1), leaves.get(2)),
            (&b"new"[..], &[][..], &[][..])
        );
        assert_eq!(leaves.get(LEAVES), b"");
        let used = |leaves: &Leaves| leaves.used().map(|(at, _)| at).collect::<Vec<_>>();
        assert_eq!(used(&past), places);
        assert_eq!(used(&leaves), [0, TWIGS, BRANCHES * TWIGS + 5, 77_777, LEAVES - 1]);
        assert_eq!(past.get(77_777), 77_777_usize.to_le_bytes());
    }
}
