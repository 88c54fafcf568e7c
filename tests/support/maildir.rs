//! The maildir that a customer's server delivers into.

use std::path::{Path, PathBuf};

/// Its folder of new mail; it need not be there yet.
#[derive(Debug)]
pub struct Maildir(PathBuf);

impl Maildir {
    /// The maildir at this path.
    pub fn at(path: &Path) -> Self {
        Self(path.join("new"))
    }

    /// All messages that were delivered.
    pub fn mail(&self) -> Vec<Vec<u8>> {
        let Ok(entries) = std::fs::read_dir(&self.0) else { return Vec::new() };
        entries.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect()
    }

    /// How many those are.
    pub fn count(&self) -> usize {
        std::fs::read_dir(&self.0).map_or(0, Iterator::count)
    }
}
