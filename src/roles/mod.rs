//! Mail to those who run the service: `support@`, `trouble@` and the mailboxes of RFC 2142.
//!
//! It is accepted by every node and handed on by the node that took it, from the last applied state
//! alone, through the ordinary queue (`worker/roles.rs`):
//!
//! 1. a *copy* goes to the operators, addresses that do not depend on this fleet. It is a message
//!    of ours ([`copy`]): in front what is known of the author and its customer ([`diagnostics`]),
//!    below it the message as it came. Its return path is the null one: an alias would keep the
//!    author's (RFC 5321 section 3.9.1), but then the operators' server would find mail of others
//!    from our address (SPF), and its refusals would go to customers. What becomes of a copy is
//!    counted here instead.
//! 2. what came to `trouble` is also a *page*: one POST to a webhook ([`page`], [`webhook`]).
//! 3. an *acknowledgement* goes to the author, if RFC 3834 lets it ([`acknowledgement`]).

pub mod acknowledgement;
pub mod answered;
pub mod copy;
pub mod diagnostics;
pub mod mail;
pub mod page;
pub mod webhook;
mod words;

pub use answered::Answered;
pub use mail::Mail;
pub use webhook::Webhook;
