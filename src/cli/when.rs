//! Points in time as people write them.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use mxfleet_cluster::parse_duration_ms;

use crate::system::clock::wall_ms;

/// What is planned for later than this is a slip of the hand: milliseconds from now.
const AHEAD_MAX_MS: u64 = 2 * 365 * 24 * 3600 * 1000;

/// `2010-05-31T12:00:00Z` (or with another offset), `2010-05-31` (the start of that day, UTC), or
/// `48h` from now, at most two years ahead: milliseconds since 1970, UTC.
pub(super) fn when(text: &str) -> Result<u64, String> {
    let now_ms = wall_ms();
    let at_ms = match parse_duration_ms(text) {
        Some(ms) => now_ms.saturating_add(ms),
        None => moment(text)?,
    };
    if at_ms > now_ms.saturating_add(AHEAD_MAX_MS) {
        return Err("is more than two years from now; give an earlier time".to_owned());
    }
    Ok(at_ms)
}

fn moment(text: &str) -> Result<u64, String> {
    let timestamp = match text.parse::<Timestamp>() {
        Ok(timestamp) => timestamp,
        Err(_) => start_of_day(text)?,
    };
    u64::try_from(timestamp.as_millisecond()).map_err(|_| "is before 1970".to_owned())
}

/// A day as it is written here, so that no time of day beside it is overheard.
fn start_of_day(text: &str) -> Result<Timestamp, String> {
    let is_day = text.len() == "2010-05-31".len();
    let zoned = text.parse::<Date>().ok().and_then(|day| day.to_zoned(TimeZone::UTC).ok());
    match zoned {
        Some(zoned) if is_day => Ok(zoned.timestamp()),
        Some(_) => Err("has no offset from UTC; write it such as 2010-05-31T18:00:00Z or \
                        2010-05-31T18:00:00+02:00"
            .to_owned()),
        None => {
            Err("is not a time such as 2010-05-31T12:00:00Z, 2010-05-31, or 48h from now"
                .to_owned())
        }
    }
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
        assert_eq!(when("1970-01-01T01:00+01:00"), Ok(0));
        assert_eq!(when("1970-01-01T01:00+01:00[Europe/Berlin]"), Ok(0));
        for text in ["", "soon", "1969-12-31", "2010-13-01", "-1h"] {
            assert!(when(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_years_away_is_refused() {
        assert!(when("730d").is_ok());
        for text in ["731d", "999999d", "18446744073709551615ms", "4764-01-01"] {
            let why = when(text).unwrap_err();
            assert_eq!(why, "is more than two years from now; give an earlier time", "{text}");
        }
    }

    #[test]
    fn a_time_of_day_without_an_offset_is_refused_and_not_overheard() {
        for text in [
            "2010-05-31T18:00",
            "2010-05-31 23:59",
            "2010-05-31T00:00:00",
            "2010-05-31T12:00[Europe/Berlin]",
            "+002010-05-31",
        ] {
            let why = when(text).unwrap_err();
            assert!(why.contains("no offset from UTC"), "{text}: {why}");
        }
        assert!(when("20100531").is_err(), "days are written in one way");
    }
}
