//! What the hosts of a fleet agree on: the tables, and the one way to change them.
//!
//! [`Cluster`] is the whole interface. Reads come from the last applied [`State`] and never wait;
//! changes are proposed and answered with an [`Outcome`].

mod authority;
mod codec;
mod identity;
mod local;
mod log;
mod machine;
mod network;
mod raft;
mod snapshot;
mod state;
mod transport;

pub use local::{Cluster, ProposeError};
pub use state::{
    AuditRecord, Command, Customer, CustomerStatus, Domain, DomainChange, Host, NewHost, Outcome,
    Refusal, Request, Route, RouteError, SETTINGS, Server, Setting, SettingKind, Settings, State,
    TlsPolicy, parse_duration_ms, render_duration,
};
