//! Entropy, from the operating system; where it is no secret, by way of the standard library's
//! keyed hasher.

use std::hash::{BuildHasher as _, RandomState};

use ring::rand::{SecureRandom as _, SystemRandom};

/// 64 random bits, for jitter and for choosing among equals. Not for secrets.
pub fn random_u64() -> u64 {
    RandomState::new().hash_one(super::clock::wall_us())
}

/// Random octets for a secret; `None` if the system gives none.
pub fn secret() -> Option<[u8; 32]> {
    let mut secret = [0; 32];
    SystemRandom::new().fill(&mut secret).ok()?;
    Some(secret)
}
