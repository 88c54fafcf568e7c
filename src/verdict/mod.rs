//! Stage 8: what a far server's answer means for one recipient. Pure.
//!
//! [`judge`] turns stage 7's [`Response`] into a [`Verdict`]; [`classify`] decides whether a
//! refusal says that the mailbox does not exist.

pub mod classify;
pub mod dsn;
mod judge;
mod patterns;
mod words;

pub use classify::{Class, Judgement, classify, classify_text};
pub use dsn::{DsnRecipient, classify_dsn};
pub use judge::{Reason, Scope, Verdict, judge};
