//! What the hosts of a fleet agree on: the tables, and the one way to change them.
//!
//! [`Cluster`] is the whole interface. Reads come from the last applied [`State`] and never wait;
//! changes are proposed and answered with an [`Outcome`].

mod local;
mod state;

pub use local::{Cluster, OpenError, ProposeError};
pub use state::{
    Command, Customer, CustomerStatus, Domain, DomainChange, Outcome, Refusal, Request, Route,
    RouteError, SETTINGS, Server, Setting, SettingKind, Settings, State, TlsPolicy,
    parse_duration_ms, render_duration,
};
