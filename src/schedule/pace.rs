//! How many connections a destination gets, and what happens when it fails.
//!
//! The window starts small, grows by one each time it was used to the full without trouble, and
//! halves on trouble. A destination that fails is not tried by each message: one connection
//! probes it, after pauses that double, and the rest waits. The first success ends that.

use std::time::Duration;

use super::retry;

/// Failed probes after which a destination is called dead. It only changes what is shown: from
/// the first failure on there is one connection at a time.
const DEAD_AFTER: u32 = 3;

/// The bounds a pace keeps to.
#[derive(Debug, Clone, Copy)]
pub(super) struct PaceBounds {
    pub(super) window_start: u32,
    pub(super) probe_pause_min: Duration,
    pub(super) probe_pause_max: Duration,
}

/// The pace of one destination.
#[derive(Debug)]
pub(super) struct Pace {
    /// Connections it may have, before `limit`.
    window: u32,
    /// Successes since the window last moved.
    credit: u32,
    /// What the domain or the fleet allows.
    limit: u32,
    /// Connections it has: being opened, busy and idle.
    pub(super) connections: u32,
    /// Of these, the ones that wait for a job.
    pub(super) idle: u32,
    failing: Option<Failing>,
}

/// A destination that had trouble and no success since.
#[derive(Debug)]
pub(super) struct Failing {
    /// Failures that are no echo of one another.
    count: u32,
    pub(super) since_ms: u64,
    pub(super) probe_ms: u64,
    /// The pause before that.
    pause_ms: u64,
    /// The connection that probes.
    prober: Option<u64>,
    /// Connections up to this serial were there when it last failed.
    last_serial: u64,
    pub(super) error: String,
}

impl Failing {
    pub(super) fn is_dead(&self) -> bool {
        self.count >= DEAD_AFTER
    }

    pub(super) fn is_being_probed(&self) -> bool {
        self.prober.is_some()
    }
}

impl Pace {
    pub(super) fn new(bounds: &PaceBounds, limit: u32) -> Self {
        let window = bounds.window_start.max(1);
        Self { window, credit: 0, limit: limit.max(1), connections: 0, idle: 0, failing: None }
    }

    pub(super) fn failing(&self) -> Option<&Failing> {
        self.failing.as_ref()
    }

    pub(super) fn is_dead(&self) -> bool {
        self.failing().is_some_and(Failing::is_dead)
    }

    /// Connections it may have now, were it well.
    pub(super) fn window(&self) -> u32 {
        self.window.min(self.limit)
    }

    pub(super) fn set_limit(&mut self, limit: u32) {
        self.limit = limit.max(1);
    }

    pub(super) fn may_open(&self, now_ms: u64) -> bool {
        match &self.failing {
            Some(failing) => failing.prober.is_none() && now_ms >= failing.probe_ms,
            None => self.connections < self.window(),
        }
    }

    pub(super) fn open(&mut self, serial: u64) {
        self.connections += 1;
        if let Some(failing) = &mut self.failing {
            failing.prober = Some(serial);
        }
    }

    pub(super) fn close(&mut self, serial: u64, now_ms: u64) {
        self.connections -= 1;
        if let Some(failing) = self.failing.as_mut().filter(|f| f.prober == Some(serial)) {
            // It has shown nothing either way, which is no reason to hurry.
            failing.prober = None;
            failing.probe_ms = now_ms.saturating_add(failing.pause_ms);
        }
    }

    /// An attempt ended, and whatever the answer, the destination works. Whether it failed before.
    pub(super) fn success(&mut self, bounds: &PaceBounds) -> bool {
        self.credit += 1;
        if self.credit >= self.window && self.connections >= self.window() {
            self.credit = 0;
            self.window = (self.window + 1).min(self.limit);
        }
        let came_back = self.failing.take().is_some();
        if came_back {
            self.window = self.window.max(bounds.window_start);
        }
        came_back
    }

    /// The connection `serial` failed in a way that says something of the destination.
    pub(super) fn trouble(&mut self, serial: u64, newest_serial: u64, event: &Trouble<'_>) {
        let Trouble { bounds, error, now_ms, entropy } = *event;
        if let Some(failing) = &self.failing
            && serial <= failing.last_serial
        {
            return; // it was open when the trouble began: the same event
        }
        let (count, since_ms) = match &self.failing {
            Some(failing) => (failing.count.saturating_add(1), failing.since_ms),
            None => (1, now_ms),
        };
        let pause = retry::pause(count, bounds.probe_pause_min, bounds.probe_pause_max, entropy);
        let pause_ms = super::ceil_ms(pause);
        self.window = (self.window.min(self.limit) / 2).max(1);
        self.credit = 0;
        self.failing = Some(Failing {
            count,
            since_ms,
            probe_ms: now_ms.saturating_add(pause_ms),
            pause_ms,
            prober: None,
            last_serial: newest_serial,
            error: error.to_owned(),
        });
    }

    /// Probe at once, whatever the pause.
    pub(super) fn probe_now(&mut self, now_ms: u64) {
        if let Some(failing) = &mut self.failing {
            failing.probe_ms = failing.probe_ms.min(now_ms);
        }
    }
}

/// What went wrong, and when.
pub(super) struct Trouble<'a> {
    pub(super) bounds: &'a PaceBounds,
    pub(super) error: &'a str,
    pub(super) now_ms: u64,
    pub(super) entropy: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: PaceBounds = PaceBounds {
        window_start: 4,
        probe_pause_min: Duration::from_secs(5),
        probe_pause_max: Duration::from_mins(5),
    };

    fn trouble(now_ms: u64) -> Trouble<'static> {
        Trouble { bounds: &BOUNDS, error: "refused", now_ms, entropy: now_ms }
    }

    fn busy(connections: u32, limit: u32) -> Pace {
        let mut pace = Pace::new(&BOUNDS, limit);
        (0..u64::from(connections)).for_each(|serial| pace.open(serial));
        pace
    }

    #[test]
    fn the_window_grows_by_one_when_all_of_it_was_used() {
        let mut pace = busy(4, 20);
        for _ in 0..3 {
            pace.success(&BOUNDS);
        }
        assert_eq!(pace.window(), 4);
        pace.success(&BOUNDS);
        assert_eq!(pace.window(), 5);
        for _ in 0..100 {
            pace.success(&BOUNDS);
        }
        assert_eq!(pace.window(), 5, "four connections do not show that six are welcome");
    }

    #[test]
    fn the_window_never_passes_the_limit_and_follows_it_down() {
        let mut pace = busy(4, 6);
        for serial in 4..100 {
            (0..50).for_each(|_| _ = pace.success(&BOUNDS));
            if pace.may_open(0) {
                pace.open(serial);
            }
        }
        assert_eq!((pace.window(), pace.connections), (6, 6));
        pace.set_limit(2);
        assert_eq!(pace.window(), 2);
    }

    #[test]
    fn connections_that_break_together_are_one_failure() {
        let mut pace = busy(16, 20);
        pace.window = 16;
        for serial in 0..16 {
            pace.trouble(serial, 15, &trouble(1000));
            pace.close(serial, 1000);
        }
        assert_eq!(pace.window(), 8);
        assert_eq!(pace.failing().map(|f| f.count), Some(1));
    }

    #[test]
    fn a_failing_destination_gets_one_connection_after_each_pause() {
        let mut pace = busy(1, 20);
        pace.trouble(0, 0, &trouble(0));
        pace.close(0, 0);
        assert!(!pace.may_open(3999));
        let mut now_ms = 0;
        for serial in 1..12 {
            let probe_ms = pace.failing().unwrap().probe_ms;
            assert!(!pace.may_open(probe_ms - 1));
            assert!(pace.may_open(probe_ms));
            pace.open(serial);
            assert!(!pace.may_open(u64::MAX), "one at a time");
            assert!(probe_ms - now_ms <= 360_000, "the pause has an end");
            now_ms = probe_ms;
            pace.trouble(serial, serial, &trouble(now_ms));
            pace.close(serial, now_ms);
            assert_eq!(pace.is_dead(), serial >= 2);
        }
        assert!(pace.failing().unwrap().probe_ms - now_ms >= 240_000);
    }

    #[test]
    fn a_probe_that_ends_without_a_word_is_followed_by_another_after_a_pause() {
        let mut pace = busy(1, 20);
        pace.trouble(0, 0, &trouble(0));
        pace.close(0, 0);
        pace.open(1);
        pace.close(1, 10_000);
        assert!(!pace.may_open(13_000));
        assert!(pace.may_open(16_000));
    }

    #[test]
    fn the_first_success_opens_the_window_again() {
        let mut pace = busy(1, 20);
        for serial in 0..5 {
            pace.trouble(serial, serial, &trouble(0));
        }
        assert_eq!(pace.window(), 1);
        assert!(pace.success(&BOUNDS));
        assert!(!pace.success(&BOUNDS), "it comes back once");
        assert!(pace.may_open(0));
        assert_eq!(pace.window(), 4);
    }
}
