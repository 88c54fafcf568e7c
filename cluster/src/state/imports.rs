//! Large imports: rows gather beside the table, part by part, and go in all at once or not at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Outcome, Refusal};

const IMPORTS_MAX: usize = 4;
const ROWS_MAX: usize = 1_000_000;
/// An import nobody went on with for so long is dropped when the next one begins.
const ABANDONED_MS: u64 = 3_600_000;

#[derive(Debug, Clone)]
struct Import<T> {
    touched_ms: u64,
    parts: Vec<Arc<Vec<T>>>,
}

/// Imports of one kind of rows that are not finished.
#[derive(Debug, Clone)]
pub(crate) struct Imports<T> {
    open: Arc<BTreeMap<u128, Import<T>>>,
}

impl<T> Default for Imports<T> {
    fn default() -> Self {
        Self { open: Arc::default() }
    }
}

/// A part of an unfinished import, as a snapshot holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Staged<T> {
    import: u128,
    touched_ms: u64,
    rows: Vec<T>,
}

impl<T: Clone + PartialEq> Imports<T> {
    /// Add part number `part`, counted from 0. The outcome is the number of rows so far.
    pub(crate) fn stage(&mut self, import: u128, part: u32, rows: &[T], now_ms: u64) -> Outcome {
        let open = Arc::make_mut(&mut self.open);
        if !open.contains_key(&import) {
            open.retain(|_, import| import.touched_ms.saturating_add(ABANDONED_MS) > now_ms);
            if open.len() >= IMPORTS_MAX {
                return Err(Refusal::conflict("four imports are under way; try again later"));
            }
        }
        let known = open.get(&import).and_then(|import| import.parts.get(part as usize));
        if let Some(known) = known {
            // Asked again, because the answer was lost or the import was broken off.
            let other = "this import was begun with other rows; begin it again under another id";
            let same = known.as_slice() == rows;
            return if same { Ok(rows.len() as u64) } else { Err(Refusal::conflict(other)) };
        }
        let staged: usize = open.values().flat_map(|i| &i.parts).map(|part| part.len()).sum();
        if staged + rows.len() > ROWS_MAX {
            return Err(Refusal::conflict("more than a million rows are being imported"));
        }
        // Looked at before it is made: a snapshot does not carry an import without parts.
        if open.get(&import).map_or(0, |import| import.parts.len()) != part as usize {
            return Err(Refusal::conflict("a part of the import is missing; begin it again"));
        }
        let import = open.entry(import).or_insert(Import { touched_ms: now_ms, parts: Vec::new() });
        import.touched_ms = now_ms;
        import.parts.push(Arc::new(rows.to_vec()));
        Ok(rows.len() as u64)
    }

    /// Take a finished import out.
    pub(crate) fn finish(&mut self, import: u128, parts: u32) -> Result<Vec<T>, Refusal> {
        let gone = || Refusal::not_found("the import is not there any more; begin it again");
        let import = Arc::make_mut(&mut self.open).remove(&import).ok_or_else(gone)?;
        if import.parts.len() != parts as usize {
            return Err(Refusal::conflict("a part of the import is missing; begin it again"));
        }
        Ok(import.parts.iter().flat_map(|part| part.iter().cloned()).collect())
    }

    pub(crate) fn staged(&self) -> impl Iterator<Item = Staged<T>> {
        self.open.iter().flat_map(|(id, import)| {
            import.parts.iter().map(|part| Staged {
                import: *id,
                touched_ms: import.touched_ms,
                rows: part.to_vec(),
            })
        })
    }

    pub(crate) fn absorb(&mut self, staged: Staged<T>) {
        let Staged { import, touched_ms, .. } = staged;
        let import = Arc::make_mut(&mut self.open).entry(import);
        let import = import.or_insert(Import { touched_ms, parts: Vec::new() });
        import.touched_ms = touched_ms;
        import.parts.push(Arc::new(staged.rows));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_comes_too_early_leaves_nothing_behind() {
        let mut imports = Imports::<u8>::default();
        assert!(imports.stage(7, 1, &[], 1).is_err());
        assert!(imports.open.is_empty(), "a snapshot would not carry it");
        assert_eq!(imports.stage(7, 0, &[], 1), Ok(0));
        assert!(imports.stage(7, 2, &[], 1).is_err());
        assert_eq!(imports.staged().count(), 1);
    }

    #[test]
    fn a_part_may_come_again_but_not_another_in_its_place() {
        let mut imports = Imports::default();
        assert_eq!(imports.stage(7, 0, &["a", "b"], 1), Ok(2));
        assert_eq!(imports.stage(7, 1, &["c"], 1), Ok(1));
        assert_eq!(imports.stage(7, 0, &["a", "b"], 1), Ok(2));
        assert!(imports.stage(7, 0, &["a", "x"], 1).is_err());
        let names = imports.finish(7, 2).unwrap();
        assert_eq!(names, ["a", "b", "c"]);
    }
}
