//! How many reports one domain has got of late, so that nobody can have us flood it. Pure.
//!
//! Each node counts for itself, and in memory: a restart begins anew.

use std::collections::HashMap;

/// Domains that are counted at one time. When there are more, nobody gets a report.
const DOMAINS_MAX: usize = 100_000;

/// Reports by domain.
#[derive(Debug, Default)]
pub struct Budget {
    spent: HashMap<Box<str>, Spent>,
}

/// Reports in a time that began with the first of them.
#[derive(Debug, Clone, Copy)]
struct Spent {
    since_ms: u64,
    reports: u64,
}

impl Budget {
    /// Spend one report to `domain`, if of `(count, period_ms)` something is left.
    pub fn spend(&mut self, domain: &str, (count, period_ms): (u64, u64), now_ms: u64) -> bool {
        let is_over = |spent: &Spent| now_ms.saturating_sub(spent.since_ms) >= period_ms;
        if self.spent.len() >= DOMAINS_MAX && !self.spent.contains_key(domain) {
            self.spent.retain(|_, spent| !is_over(spent));
            if self.spent.len() >= DOMAINS_MAX {
                return false;
            }
        }
        let fresh = Spent { since_ms: now_ms, reports: 0 };
        let spent = self.spent.entry(domain.into()).or_insert(fresh);
        if is_over(spent) {
            *spent = fresh;
        }
        let is_left = spent.reports < count;
        spent.reports += u64::from(is_left);
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_gets_so_many_in_a_time_and_others_are_not_concerned() {
        let mut budget = Budget::default();
        let mut spend = |domain, now_ms| budget.spend(domain, (2, 1000), now_ms);
        assert!(spend("a.test", 5) && spend("a.test", 900) && !spend("a.test", 1004));
        assert!(spend("b.test", 1004));
        assert!(spend("a.test", 1005) && spend("a.test", 1006) && !spend("a.test", 2004));
        assert!(!budget.spend("c.test", (0, 1000), 0));
    }

    #[test]
    fn a_new_rate_counts_what_was_spent_before() {
        let mut budget = Budget::default();
        assert!(budget.spend("a.test", (1, 1000), 0) && !budget.spend("a.test", (1, 1000), 1));
        assert!(budget.spend("a.test", (2, 1000), 2) && !budget.spend("a.test", (2, 10), 3));
        assert!(budget.spend("a.test", (2, 10), 10));
    }

    #[test]
    fn its_memory_is_bounded() {
        let mut budget = Budget::default();
        for n in 0..DOMAINS_MAX {
            assert!(budget.spend(&format!("{n}.test"), (1, 1000), 0));
        }
        assert!(!budget.spend("late.test", (1, 1000), 999));
        assert!(budget.spend("late.test", (1, 1000), 1000));
        assert_eq!(budget.spent.len(), 1);
    }
}
