//! How long to wait before the next try: doubling, with jitter from a given number.

use std::time::Duration;

/// The pause after `failures` failed tries (1 for the first): `least` doubled each time up to
/// `most`, then spread by a fifth to either side, so that what failed together is not tried
/// together.
pub fn pause(failures: u32, least: Duration, most: Duration, entropy: u64) -> Duration {
    // 2^20 times the least pause is more than any sensible longest one.
    let doublings = failures.saturating_sub(1).min(20);
    let plain = least.saturating_mul(1 << doublings).min(most.max(least));
    let spread = mix(entropy) % 401; // 0 ..= 400, in thousandths
    let thousandths = u32::try_from(800 + spread).unwrap_or(1000);
    plain.saturating_mul(thousandths) / 1000
}

/// Spreads the bits of a number that may be a counter or an id (SplitMix64's finish).
pub fn mix(entropy: u64) -> u64 {
    let z = entropy.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn the_pause_doubles_up_to_the_longest() {
        for (failures, plain) in [(1, 5), (2, 10), (3, 20), (4, 40), (5, 60), (50, 60)] {
            let plain = MINUTE * plain;
            for entropy in 0..200 {
                let pause = pause(failures, MINUTE * 5, MINUTE * 60, entropy);
                assert!(
                    pause >= plain * 8 / 10 && pause <= plain * 12 / 10,
                    "{failures} {pause:?}"
                );
            }
        }
    }

    #[test]
    fn the_jitter_uses_its_whole_range() {
        let pauses: Vec<_> = (0..1000).map(|n| pause(1, MINUTE, MINUTE, n)).collect();
        assert!(pauses.iter().any(|p| *p < MINUTE * 81 / 100));
        assert!(pauses.iter().any(|p| *p > MINUTE * 119 / 100));
        let mean = pauses.iter().sum::<Duration>() / 1000;
        assert!(mean > MINUTE * 98 / 100 && mean < MINUTE * 102 / 100, "{mean:?}");
    }

    #[test]
    fn a_longest_pause_below_the_least_does_not_shorten_it() {
        assert!(pause(9, MINUTE, Duration::ZERO, 1) >= MINUTE * 8 / 10);
    }

    #[test]
    fn extreme_values_do_not_overflow() {
        pause(u32::MAX, Duration::MAX, Duration::MAX, u64::MAX);
        assert_eq!(pause(0, Duration::ZERO, Duration::ZERO, 0), Duration::ZERO);
    }
}
