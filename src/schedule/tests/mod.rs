//! The schedule under simulated time: a worker that never sleeps, and servers that are scripted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::*;

mod history;
mod stalled;
mod sweep;

const BOUNDS: Bounds = Bounds {
    connections_max: 100,
    window_start: 5,
    probe_pause_min: Duration::from_secs(5),
    probe_pause_max: Duration::from_mins(5),
};

/// A schedule with a clock that only a test moves.
struct World {
    schedule: Schedule<u32>,
    now: Instant,
    next_id: u32,
}

impl World {
    fn new(connections_max: usize) -> Self {
        let now = Instant::now();
        let bounds = Bounds { connections_max, ..BOUNDS };
        Self { schedule: Schedule::new(&bounds, now, 1), now, next_id: 0 }
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
    }

    fn add(&mut self, domain: &str, due: Due) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        let recipients = Recipients::One(0);
        let arrival = Arrival { id, domain, recipients, due, connections_max: 20 };
        assert!(self.schedule.add(arrival, self.now));
        id
    }

    fn fresh(&mut self, domain: &str, count: usize) -> Vec<u32> {
        (0..count).map(|_| self.add(domain, Due::Fresh)).collect()
    }

    /// All connections that may be opened now.
    fn open(&mut self) -> Vec<(Permit, Ticket<u32>)> {
        let mut opened = Vec::new();
        while let Some(start) = self.schedule.next(self.now) {
            match start {
                Start::Open(permit, ticket) => opened.push((permit, ticket)),
                Start::Resume(..) => panic!("nothing is idle"),
            }
        }
        opened
    }

    fn open_one(&mut self) -> (Permit, Ticket<u32>) {
        let mut opened = self.open();
        assert_eq!(opened.len(), 1);
        opened.remove(0)
    }

    fn delivered(&mut self, permit: &Permit, ticket: Ticket<u32>) {
        self.schedule.works(permit, self.now);
        self.schedule.finish(ticket, None, self.now);
    }

    fn unreachable(&mut self, permit: Permit, ticket: Ticket<u32>) {
        self.schedule.fails(&permit, "refused", self.now);
        self.schedule.give_back(ticket, self.now);
        self.schedule.closed(permit, self.now);
    }

    fn deferred(&mut self, permit: &Permit, ticket: Ticket<u32>, pause: Duration) {
        self.schedule.works(permit, self.now);
        let left = ticket.recipients.clone();
        self.schedule.finish(ticket, Some((left, self.now + pause)), self.now);
    }

    /// Deliver everything this connection is given, then close it.
    fn drain(&mut self, permit: Permit, ticket: Ticket<u32>) -> Vec<u32> {
        let mut order = vec![ticket.id];
        self.delivered(&permit, ticket);
        while let Next::Deliver(ticket) = self.schedule.take(&permit, 0, self.now) {
            order.push(ticket.id);
            self.delivered(&permit, ticket);
        }
        self.schedule.stop_idling(permit.destination());
        self.schedule.closed(permit, self.now);
        order
    }

    fn destination(&self, domain: &str) -> DestinationSummary<u32> {
        self.schedule.summary().find(|d| &*d.domain == domain).expect("it is known")
    }
}

#[test]
fn a_fresh_message_starts_at_once_and_leaves_nothing_behind() {
    let mut world = World::new(100);
    world.fresh("a.test", 1);
    let (permit, ticket) = world.open_one();
    assert_eq!(&**permit.domain(), "a.test");
    world.delivered(&permit, ticket);
    assert!(matches!(world.schedule.take(&permit, 1, world.now), Next::Idle));
    world.schedule.stop_idling(permit.destination());
    world.schedule.closed(permit, world.now);
    assert!(world.schedule.is_empty());
    assert_eq!(world.schedule.summary().count(), 0);
    assert_eq!(world.schedule.next_wake(), None);
}

#[test]
fn a_fresh_message_goes_to_an_idle_connection_before_a_new_one_is_opened() {
    let mut world = World::new(100);
    world.fresh("a.test", 1);
    let (permit, ticket) = world.open_one();
    world.delivered(&permit, ticket);
    assert!(matches!(world.schedule.take(&permit, 1, world.now), Next::Idle));
    let id = world.fresh("a.test", 1)[0];
    let Some(Start::Resume(destination, ticket)) = world.schedule.next(world.now) else {
        panic!("an idle connection is there");
    };
    assert_eq!((destination, ticket.id), (permit.destination(), id));
    world.fresh("a.test", 1);
    assert!(matches!(world.schedule.next(world.now), Some(Start::Open(..))));
}

#[test]
fn the_window_limits_connections_and_grows_with_success() {
    let mut world = World::new(100);
    world.fresh("a.test", 1000);
    let mut opened = world.open();
    assert_eq!(opened.len(), 5);
    for _ in 0..100 {
        let mut busy = Vec::new();
        for (permit, ticket) in opened {
            world.delivered(&permit, ticket);
            if let Next::Deliver(ticket) = world.schedule.take(&permit, 1, world.now) {
                busy.push((permit, ticket));
            }
        }
        busy.extend(world.open());
        opened = busy;
        if opened.len() == 20 {
            break;
        }
    }
    assert_eq!(opened.len(), 20, "the domain's limit");
    assert!(world.schedule.len() > 500, "and it got there soon");
}

#[test]
fn a_lower_limit_closes_connections_at_once() {
    let mut world = World::new(100);
    world.fresh("a.test", 100);
    let opened = world.open();
    world.schedule.set_limits(|_| 2, world.now);
    let mut open = opened.len();
    for (permit, ticket) in opened {
        world.delivered(&permit, ticket);
        if matches!(world.schedule.take(&permit, 1, world.now), Next::Close) {
            world.schedule.closed(permit, world.now);
            open -= 1;
        }
    }
    assert_eq!(open, 2);
    assert!(world.open().is_empty());
}

#[test]
fn a_dead_destination_is_probed_by_one_connection_while_a_thousand_messages_wait() {
    let mut world = World::new(100);
    world.fresh("dead.test", 1000);
    for (permit, ticket) in world.open() {
        world.unreachable(permit, ticket);
    }
    let start = world.now;
    let mut probes = Vec::new();
    while world.now < start + Duration::from_hours(1) {
        for (permit, ticket) in world.open() {
            probes.push((world.now - start).as_secs());
            world.unreachable(permit, ticket);
        }
        let wake = world.schedule.next_wake().expect("it will be probed");
        assert!(wake > world.now, "never a busy loop");
        world.now = wake;
    }
    assert!((12..25).contains(&probes.len()), "{probes:?}");
    assert_eq!(world.schedule.dead(), 1);
    let summary = world.destination("dead.test");
    assert_eq!((summary.messages, summary.due), (1000, 1000));
    assert_eq!(summary.failing.map(|f| f.error), Some("refused".to_owned()));
}

#[test]
fn fresh_mail_for_a_dead_destination_does_not_probe_it() {
    let mut world = World::new(100);
    world.fresh("dead.test", 1);
    let (permit, ticket) = world.open_one();
    world.unreachable(permit, ticket);
    world.fresh("dead.test", 100);
    assert!(world.open().is_empty());
}

#[test]
fn when_a_destination_comes_back_all_is_due_at_once_within_the_window() {
    let mut world = World::new(100);
    world.fresh("back.test", 50);
    // Ten are deferred for an hour by the server; then it dies.
    let mut opened = world.open();
    for _ in 0..2 {
        for (permit, ticket) in opened {
            world.deferred(&permit, ticket, Duration::from_hours(1));
            world.schedule.closed(permit, world.now);
        }
        opened = world.open();
    }
    for (permit, ticket) in opened {
        world.unreachable(permit, ticket);
    }
    assert_eq!(world.destination("back.test").messages, 50);
    world.now = world.schedule.next_wake().unwrap();
    let (permit, ticket) = world.open_one();
    world.delivered(&permit, ticket);
    let opened = world.open();
    assert_eq!(opened.len(), 4, "the probe's connection and four more make the window");
    assert_eq!(world.destination("back.test").due, 45);
    for (other, ticket) in opened {
        world.drain(other, ticket);
    }
    world.schedule.closed(permit, world.now);
    assert!(world.schedule.is_empty(), "what was deferred for an hour went too");
}

#[test]
fn a_message_deferred_after_the_comeback_waits_for_its_time() {
    let mut world = World::new(100);
    world.fresh("a.test", 1);
    let (permit, ticket) = world.open_one();
    world.deferred(&permit, ticket, Duration::from_secs(300));
    assert!(matches!(world.schedule.take(&permit, 1, world.now), Next::Idle));
    world.advance(Duration::from_millis(299_999));
    assert!(world.schedule.next(world.now).is_none());
    assert_eq!(world.schedule.next_wake(), Some(world.now + Duration::from_millis(1)));
    world.advance(Duration::from_millis(1));
    assert!(matches!(world.schedule.next(world.now), Some(Start::Resume(..))));
}

#[test]
fn one_slow_destination_among_a_thousand_delays_no_other() {
    let mut world = World::new(100);
    let mut slow = Vec::new();
    world.fresh("slow.test", 5000);
    for domain in 0..1000 {
        world.fresh(&format!("d{domain}.test"), 3);
    }
    // Each round is one transaction; the slow ones never end theirs.
    let mut done = 0;
    for _ in 0..40 {
        for (permit, ticket) in world.open() {
            if &**permit.domain() == "slow.test" {
                slow.push((permit, ticket));
            } else {
                done += world.drain(permit, ticket).len();
            }
        }
    }
    assert_eq!(done, 3000);
    assert_eq!(slow.len(), 5, "the window of a destination of which nothing is known");
}

#[test]
fn when_all_connections_are_taken_each_destination_gets_its_share() {
    let mut world = World::new(40);
    world.schedule.set_limits(|_| 1000, world.now);
    for domain in ["a.test", "b.test"] {
        world.fresh(domain, 100_000);
    }
    let mut busy = world.open();
    let mut served: BTreeMap<String, usize> = BTreeMap::new();
    for round in 0..400 {
        if round == 100 {
            for domain in 0..18 {
                world.fresh(&format!("late{domain}.test"), 20_000);
            }
        }
        let mut next_round = Vec::new();
        for (permit, ticket) in busy {
            if round >= 200 {
                *served.entry(permit.domain().to_string()).or_default() += 1;
            }
            world.delivered(&permit, ticket);
            match world.schedule.take(&permit, 1, world.now) {
                Next::Deliver(ticket) => next_round.push((permit, ticket)),
                _ => world.schedule.closed(permit, world.now),
            }
        }
        next_round.extend(world.open());
        assert!(next_round.len() <= 40);
        busy = next_round;
    }
    assert_eq!(served.len(), 20);
    let (least, most) = (served.values().min().unwrap(), served.values().max().unwrap());
    assert!(*most <= least * 2, "{served:?}");
}

#[test]
fn more_destinations_than_connections_take_turns() {
    let mut world = World::new(10);
    for domain in 0..100 {
        world.fresh(&format!("d{domain}.test"), 1000);
    }
    let mut busy: Vec<_> = world.open().into_iter().map(|(p, t)| (p, t, 0)).collect();
    let mut seen = BTreeSet::new();
    for _ in 0..400 {
        let mut next_round = Vec::new();
        for (permit, ticket, carried) in busy {
            seen.insert(permit.domain().to_string());
            world.delivered(&permit, ticket);
            match world.schedule.take(&permit, carried + 1, world.now) {
                Next::Deliver(ticket) => next_round.push((permit, ticket, carried + 1)),
                _ => world.schedule.closed(permit, world.now),
            }
        }
        next_round.extend(world.open().into_iter().map(|(p, t)| (p, t, 0)));
        busy = next_round;
    }
    assert_eq!(seen.len(), 100);
}

#[test]
fn an_idle_connection_is_missed_when_others_wait() {
    let mut world = World::new(1);
    world.fresh("a.test", 1);
    let (permit, ticket) = world.open_one();
    world.delivered(&permit, ticket);
    assert!(matches!(world.schedule.take(&permit, 1, world.now), Next::Idle));
    assert!(!world.schedule.is_short_of_connections());
    world.fresh("b.test", 1);
    assert!(world.schedule.next(world.now).is_none());
    assert!(world.schedule.is_short_of_connections());
    world.schedule.stop_idling(permit.destination());
    world.schedule.closed(permit, world.now);
    let (permit, _ticket) = world.open_one();
    assert_eq!(&**permit.domain(), "b.test");
}

#[test]
fn fresh_mail_goes_first_and_the_backlog_does_not_starve() {
    let mut world = World::new(100);
    let backlog: BTreeSet<u32> =
        (0..100).map(|_| world.add("a.test", Due::At(world.now))).collect();
    world.schedule.set_limits(|_| 1, world.now);
    let fresh: BTreeSet<u32> = world.fresh("a.test", 100).into_iter().collect();
    let (permit, ticket) = world.open_one();
    let order = world.drain(permit, ticket);
    assert_eq!(order.len(), 200);
    assert!(fresh.contains(&order[0]));
    let fresh_served = order[..90].iter().filter(|id| fresh.contains(id)).count();
    assert_eq!(fresh_served, 60, "two of three while both are there");
    let old: Vec<u32> = order.iter().copied().filter(|id| backlog.contains(id)).collect();
    assert!(old.is_sorted(), "the oldest of the backlog goes first");
}

#[test]
fn recovered_jobs_keep_their_time_unless_it_is_past() {
    let mut world = World::new(100);
    world.advance(Duration::from_hours(1));
    let later = world.add("a.test", Due::At(world.now + Duration::from_mins(10)));
    let past = world.add("a.test", Due::At(world.now - Duration::from_mins(10)));
    let (permit, ticket) = world.open_one();
    assert_eq!(world.drain(permit, ticket), [past]);
    world.advance(Duration::from_mins(10));
    let (permit, ticket) = world.open_one();
    assert_eq!(world.drain(permit, ticket), [later]);
}

#[test]
fn jobs_expire_while_their_destination_is_dead_and_while_they_wait() {
    let mut world = World::new(100);
    world.fresh("dead.test", 10);
    for (permit, ticket) in world.open() {
        world.unreachable(permit, ticket);
    }
    world.fresh("greylisted.test", 1);
    let (permit, ticket) = world.open_one();
    world.deferred(&permit, ticket, Duration::from_hours(1));
    world.schedule.closed(permit, world.now);
    let due = world.fresh("well.test", 1)[0];
    assert!(world.schedule.expired(|_| false, 1000).is_empty());
    let expired = world.schedule.expired(|id| !(5..10).contains(&id), 1000);
    let mut ids: Vec<u32> = expired.iter().map(|(_, ticket)| ticket.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [0, 1, 2, 3, 4, 10], "not {due}, which is about to be tried");
    for (_, ticket) in expired {
        world.schedule.finish(ticket, None, world.now);
    }
    assert_eq!(world.schedule.len(), 6);
}

#[test]
fn the_search_for_expired_jobs_is_bounded_and_goes_round() {
    let mut world = World::new(1);
    for domain in 0..100 {
        let later = Due::At(world.now + Duration::from_hours(1));
        world.add(&format!("d{domain}.test"), later);
    }
    let mut found = 0;
    for _ in 0..30 {
        for (_, ticket) in world.schedule.expired(|_| true, 10) {
            found += 1;
            world.schedule.finish(ticket, None, world.now);
        }
    }
    assert_eq!(found, 100);
    // What cannot be ended now comes back, and does not stand before all others.
    let later = world.now + Duration::from_hours(1);
    let names = ["b.test", "c.test"].into_iter().chain(["a.test"; 20]).chain(["d.test"]);
    names.for_each(|name| _ = world.add(name, Due::At(later)));
    let mut seen = BTreeSet::new();
    for _ in 0..40 {
        for (name, ticket) in world.schedule.expired(|_| true, 10) {
            seen.insert(name);
            let left = Some((ticket.recipients.clone(), later));
            world.schedule.finish(ticket, left, world.now);
        }
    }
    assert_eq!(seen.len(), 4);
}

#[test]
fn a_held_job_is_neither_tried_nor_expired_until_it_is_released() {
    let mut world = World::new(100);
    let id = world.fresh("a.test", 1)[0];
    assert!(world.schedule.hold(id, "a.test"));
    assert!(world.open().is_empty());
    assert!(world.schedule.expired(|_| true, 10).is_empty());
    assert!(!world.schedule.retry(id, "a.test", world.now), "retry does not release");
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
    assert_eq!(world.schedule.retry_domain("a.test", world.now), 3);
    let (permit, ticket) = world.open_one();
    world.unreachable(permit, ticket);
    assert_eq!(world.schedule.retry_all(world.now), 3);
    assert_eq!(world.open().len(), 1, "a failing destination is probed, not stormed");
}

#[test]
fn a_message_is_queued_once_for_each_of_its_destinations() {
    let mut world = World::new(100);
    let id = world.fresh("a.test", 1)[0];
    let mut add = |domain| {
        let recipients = Recipients::One(1);
        let arrival = Arrival { id, domain, recipients, due: Due::Fresh, connections_max: 1 };
        world.schedule.add(arrival, world.now)
    };
    assert!(add("b.test"));
    assert!(!add("b.test"));
    assert!(!add("a.test"));
    assert_eq!(world.schedule.len(), 2);
}

#[test]
fn what_is_left_of_a_job_keeps_only_its_recipients() {
    let mut world = World::new(100);
    let recipients = Recipients::new(&[0, 1, 2]).unwrap();
    let arrival =
        Arrival { id: 9, domain: "a.test", recipients, due: Due::Fresh, connections_max: 1 };
    world.schedule.add(arrival, world.now);
    let (permit, ticket) = world.open_one();
    assert_eq!(ticket.recipients.as_slice(), [0, 1, 2]);
    world.schedule.works(&permit, world.now);
    world.schedule.finish(ticket, Some((Recipients::One(1), world.now)), world.now);
    assert_eq!(world.destination("a.test").recipients, 1);
    let Next::Deliver(ticket) = world.schedule.take(&permit, 1, world.now) else { panic!("due") };
    assert_eq!(ticket.recipients.as_slice(), [1]);
}

#[test]
fn jobs_are_listed_page_by_page_in_order_of_id() {
    let mut world = World::new(100);
    for n in 0..10 {
        world.fresh(if n % 2 == 0 { "even.test" } else { "odd.test" }, 1);
    }
    let ids = |jobs: Vec<JobSummary<u32>>| jobs.iter().map(|j| j.id).collect::<Vec<_>>();
    assert_eq!(ids(world.schedule.jobs(None, None, 3)), [0, 1, 2]);
    assert_eq!(ids(world.schedule.jobs(None, Some(2), 3)), [3, 4, 5]);
    assert_eq!(ids(world.schedule.jobs(Some("odd.test"), Some(2), 9)), [3, 5, 7, 9]);
    assert!(world.schedule.jobs(Some("other.test"), None, 9).is_empty());
}

/// A server that breaks over each message without ever refusing a connection.
#[test]
fn a_probe_that_proves_nothing_is_not_repeated_at_once() {
    let mut world = World::new(100);
    world.fresh("odd.test", 20);
    for (permit, ticket) in world.open() {
        world.unreachable(permit, ticket);
    }
    let start = world.now;
    let mut attempts = 0;
    while world.now < start + Duration::from_mins(1) {
        for (permit, ticket) in world.open() {
            attempts += 1;
            let left = Some((ticket.recipients.clone(), world.now + Duration::from_hours(1)));
            world.schedule.finish(ticket, left, world.now);
            world.schedule.closed(permit, world.now);
        }
        let wake = world.schedule.next_wake().expect("it will be probed");
        assert!(wake > world.now, "never a busy loop");
        world.now = wake;
    }
    assert!(attempts <= 20, "{attempts}");
}

/// An old connection that still works while new ones fail.
#[test]
fn only_a_probe_carries_what_is_not_due() {
    let mut world = World::new(100);
    world.fresh("a.test", 2);
    let mut opened = world.open();
    let (old, ticket) = opened.remove(0);
    let (new, second) = opened.remove(0);
    world.schedule.fails(&new, "refused", world.now);
    let later = Some((Recipients::One(0), world.now + Duration::from_hours(1)));
    world.schedule.finish(second, later.clone(), world.now);
    world.schedule.closed(new, world.now);
    world.schedule.finish(ticket, later, world.now);
    assert!(matches!(world.schedule.take(&old, 1, world.now), Next::Idle));
    assert!(world.schedule.next(world.now).is_none());
    world.now = world.schedule.next_wake().unwrap();
    assert!(matches!(world.schedule.next(world.now), Some(Start::Open(..))));
    assert!(world.schedule.next(world.now).is_none());
}

#[test]
fn a_job_takes_sixty_octets_at_most() {
    // One more than fits in the index before it doubles.
    const JOBS: u32 = (1 << 18) / 5 * 4 + 1;
    let now = Instant::now();
    let mut schedule = Schedule::new(&BOUNDS, now, 1);
    for n in 0..JOBS {
        let arrival = Arrival {
            id: (u64::from(n), 1_u16),
            domain: "a.test",
            recipients: Recipients::One(0),
            due: Due::At(now + Duration::from_secs(u64::from(n) % 3600)),
            connections_max: 20,
        };
        schedule.add(arrival, now);
    }
    let octets = schedule.octets() / JOBS as usize;
    assert!((50..60).contains(&octets), "{octets}");
}
