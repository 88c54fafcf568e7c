//! Settings of which one cannot be longer than the other.

use super::{Refusal, Settings};

const WARN_AFTER: &str = "queue.warn_after";

/// The shorter, and the longer.
const ORDERED: [(&str, &str); 3] = [
    ("queue.retry_min", "queue.retry_max"),
    (WARN_AFTER, "queue.lifetime"),
    ("rotation.ttl_low", "rotation.ttl"),
];

/// Refuse settings as they would be once `name` is changed, if it then contradicts another one.
pub(super) fn check(then: &Settings, name: &str) -> Result<(), Refusal> {
    for (shorter, longer) in ORDERED {
        // Who has asked for no warning gets none when mail does not live that long.
        let may_differ = shorter == WARN_AFTER && !then.is_changed(shorter);
        let is_about = name == shorter || name == longer;
        if !is_about || may_differ || then.duration_ms(shorter) <= then.duration_ms(longer) {
            continue;
        }
        let other = if name == shorter { longer } else { shorter };
        let value = |name| then.get(name).unwrap_or_default();
        return Err(Refusal::conflict(format!(
            "{name} cannot be {}: {shorter} must not be longer than {longer}, and {other} is {}; \
             set {other} first",
            value(name),
            value(other)
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_contradicts_another_setting_is_refused_with_its_value_and_the_order_to_do_it_in() {
        for (shorter, longer, short, long) in [
            ("queue.retry_min", "queue.retry_max", "2h", "1s"),
            ("queue.warn_after", "queue.lifetime", "50d", "1m"),
            ("rotation.ttl_low", "rotation.ttl", "2h", "1s"),
        ] {
            let mut settings = Settings::default();
            let (low, high) = (Some("1s"), Some("3h"));
            assert_eq!(settings.set(1, longer, high), Ok(1));
            let why = settings.set(2, shorter, Some("4h")).unwrap_err().to_string();
            let told = format!(
                "{shorter} cannot be 4h: {shorter} must not be longer than {longer}, and {longer} \
                 is 3h; set {longer} first"
            );
            assert_eq!(why, told);
            assert_eq!(settings.set(3, shorter, high), Ok(1), "as long as the other");
            let why = settings.set(4, longer, low).unwrap_err().to_string();
            assert!(why.contains(&format!("and {shorter} is 3h; set {shorter} first")), "{why}");
            assert_eq!(settings.get(longer), high, "nothing was changed");
            assert_eq!(settings.set(5, shorter, low), Ok(1));
            assert_eq!(settings.set(6, longer, low), Ok(1), "in this order");
            let mut both = Settings::default();
            let set = [both.set(1, shorter, Some(short)), both.set(2, longer, Some(long))];
            assert!(set.iter().any(Result::is_err), "{shorter} {short}, {longer} {long}");
        }
    }

    #[test]
    fn a_default_can_contradict_too_but_for_warnings_that_nobody_asked_for() {
        let mut settings = Settings::default();
        settings.set(1, "queue.retry_min", Some("1s")).unwrap();
        settings.set(2, "queue.retry_max", Some("1m")).unwrap();
        let why = settings.set(3, "queue.retry_min", None).unwrap_err().to_string();
        assert!(why.starts_with("queue.retry_min cannot be 5m: "), "{why}");
        assert_eq!(settings.set(4, "queue.lifetime", Some("1m")), Ok(1));
        settings.set(5, "queue.warn_after", Some("4h")).unwrap_err();
    }
}
