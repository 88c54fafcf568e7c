//! The words of SMTP that both directions share: addresses, replies, envelopes. Pure: no I/O, no
//! clock (RFC 5321, 3461, 6531).

pub mod address;
pub mod envelope;
pub mod parse;
pub mod reply;
pub mod response;
pub mod xtext;

pub use address::{Address, AddressError};
pub use envelope::{BodyType, Envelope, Notify, Recipient, Ret, ReversePath};
pub use parse::{Garbage, ReplyParser};
pub use reply::{Enhanced, Reply};
pub use response::{Answer, Response, Stage};
