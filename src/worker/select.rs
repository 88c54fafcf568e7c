//! Which messages an operator means.

use super::Deliveries;
use crate::spool::EntryId;

/// Ids taken from the schedule in one go, so that its lock is held for a moment only.
const PAGE: usize = 1000;

impl Deliveries {
    /// The messages queued for `domain`, or all of them; oldest first.
    pub fn ids(&self, domain: Option<&str>) -> Vec<EntryId> {
        let mut ids: Vec<EntryId> = Vec::new();
        loop {
            let after = ids.last().copied();
            let page = self.inner.lock().schedule.jobs(domain, after, PAGE);
            let last = page.len() < PAGE;
            ids.extend(page.into_iter().map(|job| job.id));
            ids.dedup();
            if last {
                return ids;
            }
        }
    }
}
