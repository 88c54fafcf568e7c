//! Wall time. Durations and deadlines use `Instant`, which no operator can turn back.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

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

/// A time in milliseconds since 1970 as a point in time; what is later than that can say is the
/// latest it can.
pub fn timestamp(at_ms: u64) -> Timestamp {
    let at_ms = i64::try_from(at_ms).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(at_ms).unwrap_or(Timestamp::MAX)
}
