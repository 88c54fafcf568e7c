//! More addresses than the table has room for: a dictionary attack.

use super::*;

const ROOM: Room = Room { records: 160, leaves: 16 };

fn names(domain: &str, count: u64) -> Vec<String> {
    (0..count).map(|n| format!("guess{n}@{domain}")).collect()
}

/// A table with room for few: 32 addresses of a small domain come first, 8 of them twice; then the
/// attack on another one.
fn attacked() -> (Bench, Vec<String>, Vec<String>) {
    let mut bench = Bench::default();
    bench.table.room = ROOM;
    let (small, guesses) = (names("small.test", 32), names("acme.test", 4 * ROOM.records));
    for (at_ms, address) in (0..).zip(small.iter().chain(&small[..8])) {
        bench.reject(address, at_ms);
    }
    for (at_ms, address) in (1000..).zip(&guesses) {
        bench.reject(address, at_ms);
    }
    (bench, small, guesses)
}

#[test]
fn an_attack_takes_room_from_its_own_domain_only_and_from_the_oldest_first() {
    let (bench, small, guesses) = attacked();
    assert_eq!(bench.table.counted().tracked, ROOM.records);
    assert!(small.iter().all(|address| bench.table.is_tracked(address)), "all of the small domain");
    let kept: Vec<bool> = guesses.iter().map(|address| bench.table.is_tracked(address)).collect();
    let (old, new) = kept.split_at(kept.len() / 2);
    let count = |part: &[bool]| part.iter().filter(|kept| **kept).count();
    assert!(count(new) > 3 * count(old), "{} old and {} new ones", count(old), count(new));
    assert!(kept[kept.len() - 1], "the newest has room");
}

#[test]
fn addresses_refused_more_than_once_stay_while_others_go() {
    let (mut bench, _, guesses) = attacked();
    let twice = &guesses[guesses.len() - 20..];
    for address in twice {
        bench.reject(address, 5000);
    }
    for address in names("other.test", 2 * ROOM.records) {
        bench.reject(&address, 6000);
    }
    assert!(twice.iter().all(|address| bench.table.is_tracked(address)));
}

#[test]
fn who_goes_is_the_same_on_every_node() {
    let (one, two) = (attacked().0.table, attacked().0.table);
    assert!(one.leaves().eq(two.leaves()));
}
