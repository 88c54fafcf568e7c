//! The settings that decide what is listed, and until when.

use super::leaf::{History, Times};
use crate::state::domains::Domains;
use crate::state::settings::Settings;

/// The fleet's settings as numbers, so that no lookup has to read their texts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbers {
    policy: Policy,
    thaw_ms: u64,
}

impl Numbers {
    pub(crate) fn of(settings: &Settings) -> Self {
        let threshold = settings.count("blacklist.threshold");
        Self {
            policy: Policy {
                is_off: false,
                threshold: usize::try_from(threshold).unwrap_or(usize::MAX),
                window_ms: settings.duration_ms("blacklist.window"),
                hold_ms: settings.duration_ms("blacklist.hold"),
            },
            thaw_ms: settings.duration_ms("blacklist.thaw_after"),
        }
    }
}

impl Default for Numbers {
    fn default() -> Self {
        Self::of(&Settings::default())
    }
}

/// What is in force, with what domains have of their own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms<'a> {
    pub(crate) numbers: Numbers,
    pub(crate) domains: &'a Domains,
}

impl Terms<'_> {
    /// What is in force for this domain.
    pub(super) fn policy(&self, domain: &str) -> Policy {
        let mut policy = self.numbers.policy;
        if let Some(own) = self.domains.get(domain).map(|row| &row.recipients) {
            let threshold = own.threshold.and_then(|count| usize::try_from(count).ok());
            policy.is_off = own.blacklist_off;
            policy.threshold = threshold.unwrap_or(policy.threshold);
            policy.window_ms = own.window_ms.unwrap_or(policy.window_ms);
            policy.hold_ms = own.hold_ms.unwrap_or(policy.hold_ms);
        }
        policy
    }

    /// A frozen domain thaws after so long without a sign of trouble.
    pub(super) fn thaw_ms(&self) -> u64 {
        self.numbers.thaw_ms
    }
}

/// What is in force for a domain.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    /// Nothing is counted, and nobody listed.
    pub(super) is_off: bool,
    threshold: usize,
    window_ms: u64,
    hold_ms: u64,
}

impl Policy {
    /// Until when an address with this history is listed, whether that is over or not.
    ///
    /// One that was trusted when it was last rejected is not: its server has changed its mind of
    /// a mailbox that works, and may do so again.
    pub(super) fn listed_until(&self, history: &History) -> Option<u64> {
        let newest = history.rejected.newest()?;
        let lists = self.is_over_threshold(&history.rejected) && !self.trusts(history, newest);
        lists.then(|| newest.saturating_add(self.hold_ms))
    }

    /// Whether these rejections would list an address that is not trusted.
    pub(super) fn is_over_threshold(&self, rejected: &Times) -> bool {
        let ends = rejected.newest().zip(rejected.nth_newest(self.threshold));
        !self.is_off && ends.is_some_and(|(newest, nth)| newest - nth < self.window_ms)
    }

    /// Whether the customer's server took mail for it within a window before.
    pub(super) fn trusts(&self, history: &History, at_ms: u64) -> bool {
        self.trusted_until(history).is_some_and(|until| at_ms < until)
    }

    /// Until when an address with this history is trusted, whether that is over or not.
    pub(super) fn trusted_until(&self, history: &History) -> Option<u64> {
        history.taken_ms.map(|taken| taken.saturating_add(self.window_ms))
    }

    /// Whether mail that was taken now is worth telling: the fleet knows of none, or it is long
    /// ago.
    pub(super) fn is_stale(&self, history: &History, now_ms: u64) -> bool {
        history.taken_ms.is_none_or(|taken| taken.saturating_add(self.window_ms / 4) <= now_ms)
    }

    /// For how long a history may matter.
    pub(super) fn keep_ms(&self) -> u64 {
        self.window_ms.max(self.hold_ms)
    }
}
