//! A customer's own view: the links that lead to it, the letters that bring them, and what each
//! node knows of the customer's mail.
//!
//! **Invariant:** the secret in a link is in the letter and in the address of the page, and nowhere
//! else: the replicated state has its hash, logs and metrics have nothing of it.

mod here;
mod letter;
mod links;
mod secret;

use mxfleet_cluster::Cluster;

pub use self::here::{Found, Here, Question, Suppressed, Waiting};
pub use self::links::{Asked, LinkError, Links, url};
pub use self::secret::LinkSecret;
use crate::fleet_wide::FleetWide;
use crate::post::Post;
use crate::telemetry::journal::Journal;

/// What customers' own views are made of. Clones are handles to the same.
#[derive(Debug, Clone)]
pub struct Account {
    /// The links that lead there.
    pub links: Links,
    /// What all nodes know of a customer's mail.
    pub everywhere: FleetWide<Here>,
}

impl Account {
    /// As the node `name` shows and answers them.
    pub fn new(cluster: Cluster, name: &str, post: Post, journal: Journal) -> Self {
        let here = Here::new(cluster.clone(), post.deliveries.clone(), journal);
        let everywhere = FleetWide::new(cluster.clone(), name, here);
        Self { links: Links::new(cluster, post), everywhere }
    }
}
