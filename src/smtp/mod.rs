//! The words of SMTP that both directions share: addresses, replies, envelopes. Pure: no I/O, no
//! clock (RFC 5321, 3461, 6531).

pub mod about;
pub mod address;
pub mod authentication;
pub mod canned;
pub mod command;
pub mod date;
pub mod dots;
pub mod envelope;
pub mod parameters;
pub mod parse;
pub mod refusals;
pub mod reply;
pub mod response;
pub mod role;
pub mod xtext;

pub use about::{About, Letter, MigrationLetter, ReportKind, RolePart, Written};
pub use address::{Address, AddressError};
pub use authentication::Authentication;
pub use canned::Canned;
pub use command::Command;
pub use date::date;
pub use envelope::{BodyType, Envelope, Notify, Origin, Recipient, Ret, ReversePath};
pub use parse::{Garbage, ReplyParser};
pub use refusals::{FirstRefused, Refusals};
pub use reply::{Enhanced, Reply, is_unprintable};
pub use response::{Answer, Response, Stage};
pub use role::Role;
