//! What the hosts of a fleet agree on: the tables, and the one way to change them.
//!
//! [`Cluster`] is the whole interface. Reads come from the last applied [`State`] and never wait;
//! changes are proposed and answered with an [`Outcome`].

mod authority;
mod cluster;
mod codec;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gauges;
#[cfg(test)]
mod golden;
mod hex;
mod identity;
mod import;
mod join;
mod log;
mod machine;
mod membership;
mod network;
mod octets;
mod peer;
#[cfg(test)]
#[path = "../tests/support/port.rs"]
mod port;
mod propose;
mod raft;
mod recovery;
mod renewal;
mod service;
#[cfg(test)]
mod simulation;
mod snapshot;
mod start;
mod state;
mod status;
mod takeover;
mod transfer;
mod transport;
mod upkeep;
mod vault;

pub use cluster::{Cluster, ClusterConfig, Detached};
pub use gauges::{Event, Gauges, Observer, PeerGauges, Proposed};
pub use join::{JoinError, ManageError, Token, TokenError, random_id};
pub use membership::votes_missing;
pub use peer::{PeerError, PeerHandler, PeerTail, Topic};
pub use propose::{Clock, ProposeError};
pub use recovery::{Recovered, RecoveryError};
pub use start::StartError;
pub use state::{
    AuditRecord, BlacklistCounts, BlacklistEntry, CLUSTER_VERSION, Certificate, CertificateCommand,
    Command, Customer, CustomerStatus, Domain, DomainChange, Drain, Exemption, Fault, Fleet,
    FleetHost, FleetName, FormerHost, FrozenDomain, Host, HostCommand, HostState, LinkCommand,
    Migration, MigrationCommand, MigrationStage, MigrationStep, Move, MovedName, MxName,
    NameCommand, NameStage, NameStatus, NewHost, NextCertificate, Notice, NoticeCommand,
    NoticeStatus, NoticeUpdate, Outcome, Plan, Pointing, RecipientChange, RecipientEvent,
    RecipientList, RecipientNews, RecipientPolicy, Refusal, RefusedRecipient, RejectionNote,
    Request, ReturnKey, Route, RouteError, SETTINGS, Secret, Server, Setting, SettingKind,
    Settings, State, Survey, TRAFFIC_COUNTS_MAX, TlsPolicy, Told, TrafficCount, Ttl, Verification,
    Verify, domain_of, parse_duration_ms, render_duration, some_of,
};
pub use status::{Member, Status};
pub use vault::VaultError;
