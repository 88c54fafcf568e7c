//! Wall time. Durations and deadlines use `Instant`, which no operator can turn back.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since 1970, UTC; 0 if the clock stands before that.
pub fn wall_us() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the one place that asks for wall time")]
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970, UTC.
pub fn wall_ms() -> u64 {
    wall_us() / 1000
}
