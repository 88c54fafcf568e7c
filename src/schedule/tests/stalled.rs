//! Mail has stalled when it does not move although its server answers.

use super::*;

const AFTER: Duration = Duration::from_mins(15);
const LATER: Duration = Duration::from_hours(10);

impl World {
    fn stalled(&self) -> usize {
        self.schedule.census(self.now, AFTER).stalled
    }

    /// The server puts off so many messages without a word about any of them.
    fn put_off(&mut self, count: usize) -> Permit {
        self.fresh("a.test", count);
        let mut last = None;
        for (permit, ticket) in self.open() {
            self.schedule.puts_off(&permit, self.now);
            let left = ticket.recipients.clone();
            self.schedule.finish(ticket, Some((left, self.now + LATER)), self.now);
            last = Some(permit);
        }
        last.unwrap()
    }
}

#[test]
fn due_mail_that_nobody_takes_has_stalled_and_mail_that_waits_for_its_time_has_not() {
    let mut world = World::new(1);
    world.fresh("hangs.test", 1);
    let (permit, ticket) = world.open_one();
    world.fresh("due.test", 1);
    world.add("waits.test", Due::At(world.now + LATER));
    world.advance(AFTER - Duration::from_secs(1));
    assert_eq!(world.stalled(), 0);
    world.advance(Duration::from_secs(1));
    let census = world.schedule.census(world.now, AFTER);
    assert_eq!(census, Census { all: 3, throttled: 0, dead: 0, stalled: 1 });
    world.drain(permit, ticket);
    let (permit, ticket) = world.open_one();
    assert_eq!(world.stalled(), 0, "it was taken");
    world.drain(permit, ticket);
}

#[test]
fn a_server_that_answers_and_takes_nothing_has_stalled_until_it_says_something_of_use() {
    let mut world = World::new(10);
    let permit = world.put_off(3);
    world.advance(AFTER);
    assert_eq!(world.stalled(), 1);
    assert!(world.destination("a.test").stuck_since.is_some());
    world.schedule.works(&permit, world.now);
    assert_eq!(world.stalled(), 0);
}

#[test]
fn neither_one_message_that_is_put_off_nor_a_server_that_fails_has_stalled() {
    let mut world = World::new(10);
    let _permit = world.put_off(2);
    world.advance(AFTER);
    assert_eq!(world.stalled(), 0);
    let mut world = World::new(10);
    let permit = world.put_off(3);
    world.advance(AFTER);
    world.schedule.fails(&permit, "refused", world.now);
    let census = world.schedule.census(world.now, AFTER);
    assert_eq!(census, Census { all: 1, throttled: 1, dead: 0, stalled: 0 });
}
