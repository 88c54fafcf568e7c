//! Points in time as people read them, always in UTC.

use jiff::Timestamp;

use crate::system::clock::timestamp;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// For machines: RFC 3339, in whole seconds.
pub(super) fn rfc3339(at_ms: u64) -> String {
    timestamp(at_ms).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `28 Apr 2010, 14:00 UTC`
pub(super) fn moment(at_ms: u64) -> String {
    timestamp(at_ms).strftime("%-d %b %Y, %H:%M UTC").to_string()
}

/// `April 2010`
pub(super) fn month(at_ms: u64) -> String {
    timestamp(at_ms).strftime("%B %Y").to_string()
}

/// `28 Apr 2010, 14:00 to 16:30 UTC`, or with both days.
pub(super) fn span(starts_ms: u64, ends_ms: u64) -> String {
    let (starts, ends) = (timestamp(starts_ms), timestamp(ends_ms));
    let day = |at: &Timestamp| at.strftime("%-d %b %Y").to_string();
    let from = starts.strftime("%-d %b %Y, %H:%M");
    if day(&starts) == day(&ends) {
        format!("{from} to {}", ends.strftime("%H:%M UTC"))
    } else {
        format!("{from} to {}", moment(ends_ms))
    }
}

/// `3 minutes ago`
pub(super) fn ago(ms: u64) -> String {
    match length(ms) {
        Some(length) => format!("{length} ago"),
        None => "a moment ago".to_owned(),
    }
}

/// `in 2 days`
pub(super) fn ahead(ms: u64) -> String {
    length(ms).map_or_else(|| "any moment".to_owned(), |length| format!("in {length}"))
}

/// In the largest unit that fits at least once, rounded; `None` below a minute.
pub(super) fn length(ms: u64) -> Option<String> {
    let units = [(DAY_MS, "day"), (HOUR_MS, "hour"), (MINUTE_MS, "minute")];
    let (unit_ms, unit) = units.into_iter().find(|(unit_ms, _)| ms >= *unit_ms)?;
    let count = ms.saturating_add(unit_ms / 2) / unit_ms;
    Some(format!("{count} {unit}{}", if count == 1 { "" } else { "s" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_people_write_them() {
        // 28 April 2010, 14:00.
        let at_ms = 1_272_463_200_000;
        assert_eq!(moment(at_ms), "28 Apr 2010, 14:00 UTC");
        assert_eq!(rfc3339(at_ms), "2010-04-28T14:00:00Z");
        assert_eq!(month(at_ms), "April 2010");
        assert_eq!(span(at_ms, at_ms + 2 * HOUR_MS), "28 Apr 2010, 14:00 to 16:00 UTC");
        let two_days = "28 Apr 2010, 14:00 to 30 Apr 2010, 14:00 UTC";
        assert_eq!(span(at_ms, at_ms + 2 * DAY_MS), two_days);
        assert_eq!(moment(u64::MAX), "30 Dec 9999, 22:00 UTC");
    }

    #[test]
    fn lengths_have_one_unit() {
        let lengths = [59_999, MINUTE_MS, 119 * MINUTE_MS, 25 * HOUR_MS, 400 * DAY_MS].map(length);
        let said = lengths.map(|length| length.unwrap_or_default());
        assert_eq!(said, ["", "1 minute", "2 hours", "1 day", "400 days"]);
        assert_eq!((ago(0), ahead(2 * DAY_MS)), ("a moment ago".into(), "in 2 days".into()));
    }
}
