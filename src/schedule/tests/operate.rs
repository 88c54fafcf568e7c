//! What an operator does to jobs.

use super::*;

#[test]
fn a_held_job_is_neither_tried_nor_expired_until_it_is_released() {
    let mut world = World::new(100);
    let id = world.fresh("a.test", 1)[0];
    assert!(!world.schedule.release(id, "a.test", world.now), "it is not held");
    assert!(world.schedule.hold(id, "a.test"));
    assert!(!world.schedule.hold(id, "a.test"), "it is held already");
    assert!(world.open().is_empty());
    assert!(world.schedule.expired(|_| true, 10).is_empty());
    assert!(!world.schedule.retry(id, "a.test", world.now), "retry does not release");
    assert_eq!(world.schedule.retry_domain("a.test", world.now), (0, 1));
    assert_eq!(world.schedule.retry_all(world.now), (0, 1), "neither does that");
    assert_eq!(world.schedule.state(id, "a.test"), Some(JobState::Held));
    assert!(world.schedule.release(id, "a.test", world.now));
    assert_eq!(world.open_one().1.id, id);
}

#[test]
fn a_running_job_is_held_when_it_comes_back() {
    let mut world = World::new(100);
    let id = world.fresh("a.test", 1)[0];
    let (permit, ticket) = world.open_one();
    assert!(world.schedule.hold(id, "a.test"));
    world.deferred(&permit, ticket, Duration::ZERO);
    assert_eq!(world.schedule.state(id, "a.test"), Some(JobState::Held));
}

#[test]
fn a_job_can_be_removed_unless_it_runs() {
    let mut world = World::new(100);
    let ids = world.fresh("a.test", 6);
    let _opened = world.open();
    assert_eq!(world.schedule.remove(ids[0], "a.test", world.now), Removal::Running);
    let removed = world.schedule.remove(ids[5], "a.test", world.now);
    assert_eq!(removed, Removal::Removed(Recipients::One(0)));
    assert_eq!(world.schedule.remove(ids[5], "a.test", world.now), Removal::Absent);
    assert_eq!(world.schedule.remove(ids[0], "b.test", world.now), Removal::Absent);
    assert_eq!(world.schedule.len(), 5);
}

#[test]
fn an_operator_can_have_a_message_or_a_destination_tried_now() {
    let mut world = World::new(100);
    let ids = world.fresh("a.test", 3);
    for (permit, ticket) in world.open() {
        world.deferred(&permit, ticket, Duration::from_hours(1));
        world.schedule.closed(permit, world.now);
    }
    assert!(world.schedule.retry(ids[1], "a.test", world.now));
    let (permit, ticket) = world.open_one();
    assert_eq!(ticket.id, ids[1]);
    world.unreachable(permit, ticket);
    assert!(world.open().is_empty());
    assert_eq!(world.schedule.retry_domain("a.test", world.now), (3, 0));
    let (permit, ticket) = world.open_one();
    world.unreachable(permit, ticket);
    assert_eq!(world.schedule.retry_all(world.now), (3, 0));
    assert_eq!(world.open().len(), 1, "a failing destination is probed, not stormed");
}
