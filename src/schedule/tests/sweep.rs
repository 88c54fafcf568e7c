//! Looking at every job, a few at a time.

use super::*;

/// Sweep until the end is reached; the ids that were taken, in order, and put back.
fn pass(world: &mut World, rows: usize, most: usize, wanted: impl Fn(u32) -> bool) -> Vec<u32> {
    let mut ids = Vec::new();
    for _ in 0..1000 {
        let swept = world.schedule.sweep(&wanted, rows, most);
        assert!(swept.taken.len() <= most);
        for (_, ticket) in swept.taken {
            ids.push(ticket.id);
            let left = Some((ticket.recipients.clone(), ticket.due));
            world.schedule.finish(ticket, left, world.now);
        }
        if swept.is_end {
            return ids;
        }
    }
    panic!("no end");
}

#[test]
fn each_job_is_seen_once_in_a_pass_whatever_the_steps() {
    let mut world = World::new(0);
    let later = Due::At(world.now + Duration::from_hours(1));
    let ids: Vec<u32> = (0..50).map(|n| world.add(&format!("d{}.test", n % 7), later)).collect();
    for (rows, most) in [(1, 1), (3, 1), (7, 100), (100, 3), (1000, 1000)] {
        assert_eq!(pass(&mut world, rows, most, |_| true), ids, "{rows} {most}");
        assert_eq!(pass(&mut world, rows, most, |id| id % 10 == 3), [3, 13, 23, 33, 43]);
    }
    assert_eq!(world.schedule.len(), 50);
}

#[test]
fn what_was_due_stays_due_and_what_waits_keeps_its_time() {
    let mut world = World::new(100);
    let waits = world.add("a.test", Due::At(world.now + Duration::from_mins(1)));
    let due = world.add("b.test", Due::Fresh);
    assert_eq!(pass(&mut world, 10, 10, |_| true), [waits, due]);
    assert_eq!(world.open_one().1.id, due);
    let wake = world.schedule.next_wake().unwrap();
    assert_eq!(wake, world.now + Duration::from_mins(1));
}

#[test]
fn held_jobs_are_passed_over_and_running_ones_are_named() {
    let mut world = World::new(100);
    let held = world.fresh("a.test", 1)[0];
    assert!(world.schedule.hold(held, "a.test"));
    let running = world.fresh("b.test", 1)[0];
    let (permit, ticket) = world.open_one();
    let swept = world.schedule.sweep(|_| true, 10, 10);
    assert!(swept.taken.is_empty() && swept.is_end);
    assert_eq!(swept.running, [running]);
    world.drain(permit, ticket);
}
