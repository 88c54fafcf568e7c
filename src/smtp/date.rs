//! Dates as header fields have them.

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use jiff::tz::TimeZone;

/// A time in microseconds since 1970 in the form of RFC 5322 section 3.3, in UTC.
pub fn date(at_us: u64) -> String {
    let at = i64::try_from(at_us).ok().and_then(|us| Timestamp::from_microsecond(us).ok());
    let at = at.unwrap_or_default().to_zoned(TimeZone::UTC);
    // Years beyond 9999 have no such form; the clock is that wrong only in tests.
    DateTimePrinter::new().zoned_to_string(&at).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_has_its_day_its_time_and_its_zone() {
        assert_eq!(date(0), "Thu, 1 Jan 1970 00:00:00 +0000");
        assert_eq!(date(1_272_463_200_999_999), "Wed, 28 Apr 2010 14:00:00 +0000");
        assert_eq!(date(u64::MAX), "Thu, 1 Jan 1970 00:00:00 +0000", "no such time");
    }
}
