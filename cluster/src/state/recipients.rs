//! How a domain's recipients are judged: what differs from the fleet's settings.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Refusal;
use super::settings::{check_number, render_duration};

/// What a domain has of its own; `None` is the fleet's setting.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RecipientPolicy {
    /// Rejections in this domain are not counted, and nobody in it is listed.
    pub blacklist_off: bool,
    /// As the setting `blacklist.threshold`.
    pub threshold: Option<u64>,
    /// As the setting `blacklist.window`, in milliseconds.
    pub window_ms: Option<u64>,
    /// As the setting `blacklist.hold`, in milliseconds.
    pub hold_ms: Option<u64>,
    /// Whether its server is asked while the client waits.
    pub verify: Verify,
}

/// How a recipient is verified before it is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Verify {
    /// Not at all.
    #[default]
    Off,
    /// The domain's server is asked at RCPT time, while it is up.
    Callout,
}

impl FromStr for Verify {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        match text {
            "off" => Ok(Self::Off),
            "callout" => Ok(Self::Callout),
            _ => Err(Refusal::invalid("recipients are verified by callout, or verify is off")),
        }
    }
}

impl fmt::Display for Verify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Callout => "callout",
        })
    }
}

/// What is to change in a [`RecipientPolicy`]; `None` leaves it as it is, `Some(None)` goes back
/// to the fleet's setting.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RecipientChange {
    /// Whether rejections are counted no more.
    pub blacklist_off: Option<bool>,
    /// A new threshold.
    pub threshold: Option<Option<u64>>,
    /// A new window, in milliseconds.
    pub window_ms: Option<Option<u64>>,
    /// A new hold, in milliseconds.
    pub hold_ms: Option<Option<u64>>,
    /// Whether its server is asked from now on.
    pub verify: Option<Verify>,
}

impl RecipientChange {
    pub(super) fn apply(&self, policy: &mut RecipientPolicy) {
        policy.blacklist_off = self.blacklist_off.unwrap_or(policy.blacklist_off);
        policy.threshold = self.threshold.unwrap_or(policy.threshold);
        policy.window_ms = self.window_ms.unwrap_or(policy.window_ms);
        policy.hold_ms = self.hold_ms.unwrap_or(policy.hold_ms);
        policy.verify = self.verify.unwrap_or(policy.verify);
    }
}

/// As a command line would say it, each option with a blank before it.
impl fmt::Display for RecipientChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(is_off) = self.blacklist_off {
            write!(f, " --blacklist {}", if is_off { "off" } else { "on" })?;
        }
        if let Some(count) = self.threshold {
            write!(f, " --blacklist-threshold {}", count.unwrap_or(0))?;
        }
        for (name, ms) in [("window", self.window_ms), ("hold", self.hold_ms)] {
            if let Some(ms) = ms {
                write!(f, " --blacklist-{name} {}", render_duration(ms.unwrap_or(0)))?;
            }
        }
        self.verify.map_or(Ok(()), |verify| write!(f, " --verify {verify}"))
    }
}

impl RecipientPolicy {
    /// Within the bounds of the fleet's settings of the same names.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        for (name, value) in [
            ("blacklist.threshold", self.threshold),
            ("blacklist.window", self.window_ms),
            ("blacklist.hold", self.hold_ms),
        ] {
            value.map_or(Ok(()), |value| check_number(name, value))?;
        }
        Ok(())
    }
}
