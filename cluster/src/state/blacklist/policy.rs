//! The settings that decide what is listed, and until when.

use super::leaf::Times;
use crate::state::domains::Domains;
use crate::state::settings::Settings;

/// The settings in force, with what domains have of their own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) domains: &'a Domains,
}

impl Terms<'_> {
    /// What is in force for this domain.
    pub(super) fn policy(&self, domain: &str) -> Policy {
        let own = self.domains.get(domain).map(|row| &row.recipients);
        let fleet = |name| self.settings.duration_ms(name);
        let threshold = own.and_then(|own| own.threshold);
        let threshold = threshold.unwrap_or_else(|| self.settings.count("blacklist.threshold"));
        Policy {
            is_off: own.is_some_and(|own| own.blacklist_off),
            threshold: usize::try_from(threshold).unwrap_or(usize::MAX),
            window_ms: own
                .and_then(|own| own.window_ms)
                .unwrap_or_else(|| fleet("blacklist.window")),
            hold_ms: own.and_then(|own| own.hold_ms).unwrap_or_else(|| fleet("blacklist.hold")),
        }
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
    /// Until when these times list an address, whether that is over or not.
    pub(super) fn listed_until(&self, times: &Times) -> Option<u64> {
        let (newest, nth) = (times.newest()?, times.nth_newest(self.threshold)?);
        let lists = newest - nth < self.window_ms && !self.is_off;
        lists.then(|| newest.saturating_add(self.hold_ms))
    }

    /// For how long a rejection may matter.
    pub(super) fn keep_ms(&self) -> u64 {
        self.window_ms.max(self.hold_ms)
    }
}
