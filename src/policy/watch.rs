//! Watches for domains whose mail is suddenly refused here.
//!
//! Most of what is sent to customers is refused, and rightly: to recipients that do not exist. So
//! refusals say nothing by themselves. What tells is that a domain's accepted recipients go away
//! while refusals do not: in number (which a flood of refusals leaves alone) and in share (which a
//! quiet night leaves alone). Memory is bounded: only domains that had a recipient accepted are
//! known, and those that have no traffic are forgotten.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Locks, so that sessions do not wait for one another.
const SHARDS: usize = 16;
/// Domains of one shard; more are not watched.
const DOMAINS_MAX: usize = 8192;
/// A domain without traffic in so many windows is forgotten: a day at the default window.
const IDLE_WINDOWS_MAX: u16 = 288;
/// Windows with traffic after which a domain's usual is known.
const LEARNT_WINDOWS: u32 = 3;
/// A domain usually has so many recipients accepted in a window, or is too small to judge.
const ACCEPTED_USUALLY: f64 = 5.0;
/// Refusals in a window below which nothing is said.
const REFUSED_LEAST: u32 = 10;
/// Accepted recipients are gone below this part of the usual.
const COLLAPSED: f64 = 0.25;
/// How much of a window goes into what is usual: of a normal one, and of an abnormal one, so that
/// what lasts for a day becomes usual.
const WEIGHT: f64 = 0.2;
const WEIGHT_ABNORMAL: f64 = 0.005;

/// Counts by domain.
#[derive(Debug)]
pub struct Watch {
    shards: [Mutex<HashMap<Box<str>, Domain>>; SHARDS],
    window: Duration,
    window_began: Mutex<Instant>,
}

/// A domain whose refusals have become abnormal, or normal again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The domain.
    pub domain: String,
    /// It has become abnormal.
    pub is_abnormal: bool,
    /// Recipients accepted in the last window.
    pub accepted: u32,
    /// Recipients refused in the last window.
    pub refused: u32,
}

#[derive(Debug, Default)]
struct Domain {
    accepted: u32,
    refused: u32,
    idle_windows: u16,
    learnt_windows: u32,
    accepted_usually: f64,
    share_usually: f64,
    is_abnormal: bool,
}

impl Watch {
    /// A watch that compares once in a `window`, the first of which begins at `now`.
    pub fn new(window: Duration, now: Instant) -> Self {
        let shards = std::array::from_fn(|_| Mutex::default());
        Self { shards, window, window_began: Mutex::new(now) }
    }

    /// Count a recipient of this domain.
    pub fn count(&self, domain: &str, accepted: bool) {
        let mut shard = self.shard(domain);
        if let Some(known) = shard.get_mut(domain) {
            let counter = if accepted { &mut known.accepted } else { &mut known.refused };
            *counter = counter.saturating_add(1);
        } else if accepted && shard.len() < DOMAINS_MAX {
            shard.insert(domain.into(), Domain { accepted: 1, ..Domain::default() });
        }
    }

    /// If a window is over, compare it with the usual; what has changed.
    pub fn compare(&self, now: Instant) -> Vec<Change> {
        {
            let mut began = self.window_began.lock().unwrap_or_else(PoisonError::into_inner);
            if now.saturating_duration_since(*began) < self.window {
                return Vec::new();
            }
            *began = now;
        }
        let mut changes = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|name, domain| {
                let (accepted, refused) = (domain.accepted, domain.refused);
                if domain.close_window() {
                    let (domain, is_abnormal) = (name.to_string(), domain.is_abnormal);
                    changes.push(Change { domain, is_abnormal, accepted, refused });
                }
                domain.idle_windows < IDLE_WINDOWS_MAX
            });
        }
        changes
    }

    /// Domains whose refusals are abnormal.
    pub fn abnormal(&self) -> usize {
        let count = |shard: &Mutex<HashMap<_, Domain>>| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.values().filter(|domain| domain.is_abnormal).count()
        };
        self.shards.iter().map(count).sum()
    }

    fn shard(&self, domain: &str) -> MutexGuard<'_, HashMap<Box<str>, Domain>> {
        // Names end alike, so every octet counts.
        let sum = domain.bytes().fold(0_usize, |sum, b| sum.wrapping_mul(31) ^ usize::from(b));
        self.shards[sum % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Domain {
    /// Judge the window, learn from it, and begin the next; whether the judgement has changed.
    fn close_window(&mut self) -> bool {
        let (accepted, refused) = (std::mem::take(&mut self.accepted), self.refused);
        self.refused = 0;
        if accepted == 0 && refused == 0 {
            self.idle_windows += 1;
            return false;
        }
        self.idle_windows = 0;
        let share = f64::from(accepted) / (f64::from(accepted) + f64::from(refused));
        let is_known = self.learnt_windows >= LEARNT_WINDOWS;
        let is_abnormal = is_known
            && refused >= REFUSED_LEAST
            && self.accepted_usually >= ACCEPTED_USUALLY
            && f64::from(accepted) < COLLAPSED * self.accepted_usually
            && share < COLLAPSED * self.share_usually;
        let weight = match (self.learnt_windows, is_abnormal) {
            (0, _) => 1.0,
            (_, true) => WEIGHT_ABNORMAL,
            (_, false) => WEIGHT,
        };
        self.learnt_windows = self.learnt_windows.saturating_add(1);
        self.accepted_usually += weight * (f64::from(accepted) - self.accepted_usually);
        self.share_usually += weight * (share - self.share_usually);
        std::mem::replace(&mut self.is_abnormal, is_abnormal) != is_abnormal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_mins(5);

    struct Story {
        watch: Watch,
        now: Instant,
    }

    impl Story {
        /// A domain with 20 accepted and 80 refused recipients a window.
        fn usual() -> Self {
            let now = Instant::now();
            let mut story = Self { watch: Watch::new(WINDOW, now), now };
            for _ in 0..4 {
                assert_eq!(story.window(20, 80), None);
            }
            story
        }

        fn window(&mut self, accepted: u32, refused: u32) -> Option<bool> {
            (0..accepted).for_each(|_| self.watch.count("acme.test", true));
            (0..refused).for_each(|_| self.watch.count("acme.test", false));
            self.now += WINDOW;
            self.watch.compare(self.now).first().map(|change| change.is_abnormal)
        }
    }

    #[test]
    fn mail_that_is_suddenly_refused_is_abnormal_until_it_is_taken_again() {
        let mut story = Story::usual();
        assert_eq!(story.window(1, 100), Some(true));
        assert_eq!(story.watch.abnormal(), 1);
        assert_eq!(story.window(0, 100), None, "told once");
        assert_eq!(story.window(20, 80), Some(false));
        assert_eq!(story.watch.abnormal(), 0);
    }

    #[test]
    fn neither_a_flood_of_refusals_nor_a_quiet_night_is_abnormal() {
        let mut story = Story::usual();
        assert_eq!(story.window(20, 100_000), None);
        let mut story = Story::usual();
        assert_eq!(story.window(3, 12), None);
        assert_eq!(story.window(0, 0), None);
        assert_eq!(story.window(0, 9), None, "too few to say anything");
    }

    #[test]
    fn what_lasts_becomes_usual_and_what_is_silent_is_forgotten() {
        let mut story = Story::usual();
        let told: Vec<bool> = (0..600).filter_map(|_| story.window(0, 100)).collect();
        assert_eq!(told, [true, false]);
        for _ in 0..IDLE_WINDOWS_MAX {
            story.window(0, 0);
        }
        assert!(story.watch.shard("acme.test").is_empty());
    }

    #[test]
    fn only_domains_that_had_mail_accepted_take_memory() {
        let watch = Watch::new(WINDOW, Instant::now());
        (0..1000).for_each(|n| watch.count(&format!("d{n}.test"), false));
        assert!(watch.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }

    #[test]
    fn before_a_window_is_over_nothing_is_compared() {
        let mut story = Story::usual();
        story.watch.count("acme.test", true);
        assert!(story.watch.compare(story.now + WINDOW / 2).is_empty());
        assert_eq!(story.watch.shard("acme.test")["acme.test"].accepted, 1);
        assert_eq!(story.window(0, 100), Some(true));
    }
}
