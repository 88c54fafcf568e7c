//! Stage 9a: telling a sender what became of the message.

pub mod dsn;
mod field;
mod original;
pub mod policy;
