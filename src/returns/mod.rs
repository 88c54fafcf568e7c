//! Return paths of our own, for domains that want them (`domain set NAME --return-path tagged`).
//!
//! Some servers take every recipient and report later who is unknown. Their reports go to MAIL
//! FROM, which is mostly forged, and never to us. For such a domain MAIL FROM is written anew at
//! delivery, one recipient a transaction: to an address at this host that carries a [`Tag`]. So
//! the reports come to us, and here they are
//!
//! 1. accepted at RCPT only with a good signature, in time, and from the null sender (`policy`),
//! 2. put into the spool as any other message, and from there handed to this stage (`worker`),
//! 3. classified (`verdict`), and counted as a rejection if they say that the recipient is unknown:
//!    this recipient, and once ([`Returns`]),
//! 4. told to the original sender, if the policy of stage 9a is for it. Who that is stands in a
//!    record that was made before the delivery; where the policy was against it, there is none, and
//!    the tag says why.

mod keys;
mod records;
mod tag;

pub use keys::{ensure, rotate};
pub use records::{Before, Returns, Sent};
pub use tag::{Forged, Tag, is_tag};
