//! mxfleet: a fleet of MX hosts that behaves as one mail relay.
//!
//! The life of a message:
//!
//! 1. [`connection`] accepts a client and moves bytes between its socket and a session.
//! 2. [`session`] is the server side of SMTP, pure: a line goes in, a reply and a step come out.
//! 3. [`policy`] decides about each recipient, from the last applied state of the fleet; where a
//!    domain wants it, [`callout`] asks the customer's server.
//! 4. [`spool`] makes the message durable; only then the client reads `250`. Whether the message is
//!    its sender's, [`authentication`] has looked before, if that may matter.
//! 5. [`schedule`] knows what is due, for each destination apart.
//! 6. [`route`] finds the servers of a domain.
//! 7. [`client`] offers the message to them.
//! 8. [`verdict`] judges what they answer, for each recipient.
//! 9. [`bounce`] decides who is told of what failed, and [`blacklist`] tells the fleet of it.
//!
//! [`worker`] joins 5 to 9 for one message; [`node`] puts all stages together. What nodes agree on
//! is in the `mxfleet_cluster` crate; [`fleet`] gives this node its place there, and [`fleet_wide`]
//! asks all nodes the same. [`rotation`] moves names and hosts, [`probe`] looks at customers'
//! servers for them, [`roles`] is for mail to those who run the service, and [`account`] is what
//! customers see of their own mail.

pub mod account;
pub mod authentication;
pub mod blacklist;
pub mod bounce;
pub mod callout;
pub mod cli;
pub mod client;
pub mod config;
pub mod connection;
pub mod contacts;
pub mod dev;
pub mod fleet;
pub mod fleet_wide;
pub mod http;
pub mod letters;
pub mod node;
pub mod policy;
pub mod post;
pub mod probe;
pub mod returns;
pub mod roles;
pub mod rotation;
pub mod route;
pub mod schedule;
pub mod session;
pub mod smtp;
pub mod spool;
pub mod system;
pub mod telemetry;
pub mod verdict;
pub mod worker;
