//! Stage 9a: telling a sender what became of the message. Decided by `policy`, within `budget`;
//! composed by `dsn`.

pub mod budget;
pub mod dsn;
pub(crate) mod field;
mod original;
pub mod policy;

pub use original::FULL_OCTETS_MAX;
