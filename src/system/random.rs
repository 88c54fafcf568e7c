//! Entropy, from the operating system by way of the standard library's keyed hasher.

use std::hash::{BuildHasher as _, RandomState};

/// 64 random bits, for jitter and for choosing among equals. Not for secrets.
pub fn random_u64() -> u64 {
    RandomState::new().hash_one(super::clock::wall_us())
}
