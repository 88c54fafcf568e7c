//! What calls about the blacklist answer.

use serde::{Deserialize, Serialize};

/// A recipient that is refused now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlacklistRow {
    /// Its address, as rejections are counted under.
    pub address: String,
    /// Until when.
    pub until: String,
}

/// What is known of a recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlacklistEntryRow {
    /// Its address, as rejections are counted under.
    pub address: String,
    /// Whether it is refused now.
    pub listed: bool,
    /// Until when.
    pub until: Option<String>,
    /// The newest rejections that counted, the oldest first.
    pub rejections: Vec<RejectionRow>,
    /// Until when it is not listed because its server took mail for it, if that is so.
    pub trusted_until: Option<String>,
    /// Why it is never listed, if so.
    pub exempt: Option<ExemptionRow>,
}

/// A rejection that counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectionRow {
    /// When.
    pub at: String,
    /// The node that saw it, if that is still known.
    pub node: Option<String>,
    /// The start of the reply, if that is still known.
    pub reply: Option<String>,
}

/// Why a recipient is never listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExemptionRow {
    /// In words.
    pub reason: String,
    /// Until when; for ever when absent.
    pub until: Option<String>,
}

/// A recipient that is never listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExemptRow {
    /// Its address, as rejections are counted under.
    pub address: String,
    /// Until when, and why.
    #[serde(flatten)]
    pub exemption: ExemptionRow,
}

/// How many recipients are tracked, listed, exempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlacklistStats {
    /// With rejections that may still count.
    pub tracked: u64,
    /// Refused now.
    pub listed: usize,
    /// That mail was taken for lately, so that they are not listed.
    pub trusted: u64,
    /// Never listed.
    pub exempt: usize,
    /// Domains in which nothing new is listed.
    pub frozen_domains: Vec<FrozenRow>,
    /// Events of this node that the fleet has not counted yet.
    pub waiting: usize,
}

/// A domain in which nothing new is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrozenRow {
    /// Its name.
    pub domain: String,
    /// Since when.
    pub since: String,
    /// Until when, if nothing else happens; until an operator says so when absent.
    pub until: Option<String>,
    /// Why, in words.
    pub why: String,
}
