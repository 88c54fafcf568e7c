//! Points in time as people write them.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use mxfleet_cluster::parse_duration_ms;

use crate::system::clock::wall_ms;

/// `2010-05-31T12:00:00Z`, `2010-05-31` (the start of that day, UTC), or `48h` from now:
/// milliseconds since 1970, UTC.
pub(super) fn when(text: &str) -> Result<u64, String> {
    if let Some(ms) = parse_duration_ms(text) {
        return Ok(wall_ms().saturating_add(ms));
    }
    let timestamp = text.parse::<Timestamp>().or_else(|_| {
        let day = text.parse::<Date>();
        day.and_then(|day| day.to_zoned(TimeZone::UTC)).map(|zoned| zoned.timestamp())
    });
    let timestamp = timestamp.map_err(|_| {
        "is not a time such as 2010-05-31T12:00:00Z, 2010-05-31, or 48h from now".to_owned()
    })?;
    u64::try_from(timestamp.as_millisecond()).map_err(|_| "is before 1970".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_moments_and_spans_are_read() {
        assert_eq!(when("1970-01-02"), Ok(86_400_000));
        assert_eq!(when("1970-01-01T00:00:01Z"), Ok(1000));
        assert_eq!(when("1970-01-01T01:00:01+01:00"), Ok(1000));
        assert!(when("48h").unwrap() > wall_ms() + 47 * 3_600_000);
        for text in ["", "soon", "1969-12-31", "2010-13-01", "-1h"] {
            assert!(when(text).is_err(), "{text:?}");
        }
    }
}
