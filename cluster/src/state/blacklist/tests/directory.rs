//! A customer's directory breaks, and what is no such thing.

use proptest::prelude::*;

use super::*;

const MINUTE: u64 = 60_000;

fn user(n: impl std::fmt::Display) -> String {
    format!("user{n}@acme.test")
}

/// So many users have got mail a moment before `now_ms`.
fn with_users(count: u64, now_ms: u64) -> Bench {
    let mut bench = Bench::default();
    for n in 0..count {
        bench.take(&user(n), now_ms);
    }
    bench
}

#[test]
fn an_address_that_mail_was_taken_for_is_not_listed_for_a_window() {
    let mut bench = with_users(100, 0);
    let to = user(7);
    for n in 1..=30 {
        assert_eq!(bench.reject(&to, n * HOUR), 1, "it counts");
        assert!(!bench.is_listed(&to, n * HOUR));
    }
    assert_eq!(bench.table.counted().withheld, 21);
    assert!(!bench.is_frozen(30 * HOUR), "one mailbox that was removed is no broken directory");
    assert!(!bench.is_listed(&to, 5 * DAY), "the end of its trust alone lists nobody");
    for n in 0..10 {
        bench.reject(&to, 5 * DAY + n);
    }
    assert!(bench.is_listed(&to, 5 * DAY + 10));
}

#[test]
fn mail_that_clears_rejections_makes_nobody_trusted() {
    let mut bench = Bench::default();
    for round in 0..2 {
        let start = round * HOUR;
        for n in 0..9 {
            bench.reject(NAME, start + n);
        }
        assert!(!bench.listed(start + 9));
        bench.take(NAME, start + 10);
    }
    for n in 0..10 {
        assert!(!bench.listed(2 * HOUR + n));
        bench.reject(NAME, 2 * HOUR + n);
    }
    assert!(bench.listed(2 * HOUR + 10));
}

#[test]
fn a_directory_that_breaks_lists_nobody_new() {
    let mut bench = with_users(50, 0);
    let old = bench.list(MINUTE);
    let start = old + MINUTE;
    // One user after the other, which is the worst order.
    for n in 0..50 {
        for time in 0..12 {
            bench.reject(&user(n), start + n * 100 + time);
        }
    }
    assert!(bench.is_frozen(start + 5000));
    let frozen: Vec<_> = bench.table.frozen(bench.terms(), start + 5000).collect();
    assert_eq!(frozen[0].since_ms, start + 200, "the third of them froze it");
    assert_eq!(bench.table.counted().freezes, 1);
    for n in 0..12 {
        bench.reject("seldom@acme.test", start + 5000 + n);
        bench.reject("seldom@other.test", start + 5000 + n);
    }
    let now_ms = start + 6000;
    assert!(!bench.is_listed("seldom@acme.test", now_ms), "nothing is counted");
    assert!(bench.is_listed("seldom@other.test", now_ms), "in other domains all goes on");
    assert!((0..50).all(|n| !bench.is_listed(&user(n), now_ms)));
    assert!(bench.listed(now_ms), "what was listed before stays");
    // Repaired. The users get mail again; unknown ones are counted after a quiet hour.
    for n in 0..50 {
        bench.take(&user(n), now_ms);
    }
    let thawed = now_ms + HOUR;
    assert!(!bench.is_frozen(thawed));
    assert!((0..50).all(|n| !bench.is_listed(&user(n), thawed)));
    for n in 0..10 {
        bench.reject("seldom@acme.test", thawed + n);
    }
    assert!(bench.is_listed("seldom@acme.test", thawed + 10));
}

#[test]
fn what_a_broken_directory_said_of_good_recipients_lists_nobody_after_their_trust() {
    let mut bench = with_users(20, 0);
    let start = 4 * DAY + 12 * HOUR;
    for round in 0..12 {
        (0..20).for_each(|n| _ = bench.reject(&user(n), start + round * MINUTE + n));
    }
    assert!(bench.is_frozen(start + 12 * MINUTE));
    // Nobody wrote to them while it worked again. It breaks once more, and their trust is over.
    let again = 5 * DAY + HOUR;
    assert!(!bench.is_frozen(again));
    for n in 0..20 {
        bench.reject(&user(n), again + n);
        assert!(!bench.is_listed(&user(n), again + n), "one refusal lists nobody");
    }
}

#[test]
fn a_dictionary_attack_freezes_nothing() {
    let mut bench = with_users(3, 0);
    for round in 1..=10 {
        for n in 0..300 {
            bench.reject(&format!("guess{n}@acme.test"), round * MINUTE + n);
        }
        (0..3).for_each(|n| bench.take(&user(n), round * MINUTE));
    }
    let now_ms = 11 * MINUTE;
    assert_eq!(bench.table.listed(bench.terms(), now_ms).count(), 300);
    assert!(!bench.is_frozen(now_ms) && bench.table.counted().freezes == 0);
}

#[test]
fn several_mailboxes_that_are_removed_freeze_it_once_and_not_for_long() {
    let mut bench = with_users(20, 0);
    for minute in 1..200 {
        for gone in 0..3 {
            bench.reject(&user(gone), minute * MINUTE);
        }
        bench.take(&user(5), minute * MINUTE + 1);
        assert_eq!(bench.is_frozen(minute * MINUTE + 2), minute <= 60, "minute {minute}");
    }
    assert_eq!(bench.table.counted().freezes, 1);
}

#[test]
fn a_domain_that_takes_nothing_at_all_stays_frozen() {
    let mut bench = with_users(20, 0);
    for minute in 1..200 {
        bench.reject(&user(minute % 3), minute * MINUTE);
        assert_eq!(bench.is_frozen(minute * MINUTE), minute >= 3, "minute {minute}");
    }
    assert!(bench.is_frozen(259 * MINUTE - 1) && bench.is_frozen(258 * MINUTE));
    assert!(!bench.is_frozen(259 * MINUTE + 1));
}

#[test]
fn a_lone_mailbox_is_half_the_directory() {
    let mut bench = with_users(1, 0);
    bench.reject(&user(0), MINUTE);
    assert!(bench.is_frozen(MINUTE));
}

#[test]
fn an_operator_freezes_and_thaws() {
    let mut bench = with_users(20, 0);
    assert_eq!(bench.freeze(true, MINUTE), Ok(1));
    assert_eq!(bench.freeze(true, MINUTE), Ok(0));
    bench.list(HOUR);
    assert!(!bench.listed(10 * HOUR) && bench.is_frozen(99 * DAY), "until somebody says so");
    let frozen: Vec<_> = bench.table.frozen(bench.terms(), 10 * HOUR).collect();
    assert_eq!((frozen[0].since_ms, frozen[0].until_ms, frozen[0].signs), (MINUTE, None, 0));
    assert_eq!(bench.freeze(false, 10 * HOUR), Ok(1));
    assert_eq!(bench.freeze(false, 10 * HOUR), Ok(0));
    let at = bench.list(10 * HOUR);
    assert!(bench.listed(at));
    // What froze it is not held against it again.
    (0..3).for_each(|n| _ = bench.reject(&user(n), 20 * HOUR));
    assert!(bench.is_frozen(20 * HOUR));
    assert_eq!(bench.freeze(false, 20 * HOUR), Ok(1));
    (0..3).for_each(|n| _ = bench.reject(&user(n), 20 * HOUR + 1));
    assert!(!bench.is_frozen(20 * HOUR + 1));
    let domains = Domains::default();
    let terms = Terms { numbers: Numbers::default(), domains: &domains };
    assert!(bench.table.set_frozen(terms, "", true, 1).is_err());
}

#[test]
fn a_server_that_takes_any_name_does_not_fill_the_table() {
    let mut bench = Bench::default();
    for n in 0..TRUSTED_MAX + 100 {
        bench.take(&user(n), n);
    }
    assert_eq!(bench.table.counted().trusted, TRUSTED_MAX);
    assert!(!bench.table.is_taken_news(bench.terms(), "another@acme.test", TRUSTED_MAX));
    bench.sweep(20 * DAY);
    (0..240).for_each(|_| bench.sweep(20 * DAY));
    assert_eq!(bench.table.counted().trusted, 0);
}

/// What happens next, after so many seconds.
#[derive(Debug, Clone)]
enum Step {
    Mail { to: usize },
    Guess { name: u64 },
    Break,
    Repair,
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let step = prop_oneof![
        8 => (0_usize..5).prop_map(|to| Step::Mail { to }),
        8 => (0_u64..6).prop_map(|name| Step::Guess { name }),
        1 => Just(Step::Break),
        1 => Just(Step::Repair),
    ];
    proptest::collection::vec((0_u64..4 * 3600, step), 1..600)
}

proptest! {
    /// Whatever happens in whatever order: nobody is listed that mail was taken for three
    /// quarters of a window before or later (what is told may be a quarter old), unless its server
    /// said no before that too.
    #[test]
    fn nobody_is_listed_that_got_mail_lately(steps in steps()) {
        let mut bench = Bench::default();
        bench.settings.set(1, "blacklist.threshold", Some("3")).unwrap();
        let (mut now_ms, mut broken) = (1, false);
        let mut quiet = [0_u64; 5];
        for (seconds, step) in steps {
            now_ms += seconds * 1000 + 1;
            match step {
                Step::Mail { to } if broken => _ = bench.reject(&user(to), now_ms),
                Step::Mail { to } => {
                    if !bench.table.is_tracked(&user(to)) {
                        quiet[to] = now_ms;
                    }
                    bench.take(&user(to), now_ms);
                }
                Step::Guess { name } => _ = bench.reject(&format!("guess{name}@acme.test"), now_ms),
                Step::Break => broken = true,
                Step::Repair => broken = false,
            }
            for (n, quiet_ms) in quiet.into_iter().enumerate() {
                let lately = quiet_ms > 0 && now_ms < quiet_ms + 5 * DAY / 4 * 3;
                prop_assert!(!(lately && bench.is_listed(&user(n), now_ms)), "user {n}");
            }
        }
    }
}
