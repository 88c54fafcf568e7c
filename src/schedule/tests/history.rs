//! Histories in which anything may happen, in any order.

use super::*;

/// A world in which anything may happen.
struct History {
    world: World,
    numbers: u64,
    busy: Vec<(Permit, Ticket<u32>)>,
    idle: Vec<Permit>,
    alive: BTreeSet<u32>,
}

impl History {
    fn new(seed: u64) -> Self {
        let numbers = seed * 1_000_003;
        let world = World::new(12);
        Self { world, numbers, busy: Vec::new(), idle: Vec::new(), alive: BTreeSet::new() }
    }

    fn pick(&mut self, below: usize) -> usize {
        self.numbers += 1;
        usize::try_from(retry::mix(self.numbers) >> 16).unwrap() % below.max(1)
    }

    fn seconds(&mut self, below: usize) -> Duration {
        Duration::from_secs(self.pick(below) as u64)
    }

    fn step(&mut self) {
        let domain = format!("d{}.test", self.pick(8));
        match self.pick(11) {
            0..=2 => _ = self.alive.insert(self.world.add(&domain, Due::Fresh)),
            3 => {
                let later = Due::At(self.world.now + self.seconds(100));
                self.alive.insert(self.world.add(&domain, later));
            }
            4 => {
                let by = self.seconds(20);
                self.world.advance(by);
            }
            5 if !self.idle.is_empty() => {
                let at = self.pick(self.idle.len());
                let permit = self.idle.swap_remove(at);
                self.world.schedule.stop_idling(permit.destination());
                self.world.schedule.closed(permit, self.world.now);
            }
            6 => self.operate(&domain),
            7 => _ = self.world.schedule.retry_domain(&domain, self.world.now),
            8 => self.sweep(),
            _ if !self.busy.is_empty() => self.end_one(),
            _ => {}
        }
        while let Some(start) = self.world.schedule.next(self.world.now) {
            match start {
                Start::Open(permit, ticket) => self.busy.push((permit, ticket)),
                Start::Resume(destination, ticket) => {
                    let at = self.idle.iter().position(|p| p.destination() == destination).unwrap();
                    self.busy.push((self.idle.swap_remove(at), ticket));
                }
            }
        }
    }

    /// Look at some jobs, and let them wait on.
    fn sweep(&mut self) {
        let (rows, most, odd) = (self.pick(20), self.pick(5), self.pick(2));
        let World { schedule, now, .. } = &mut self.world;
        let swept = schedule.sweep(|id| id as usize % 2 == odd, rows, most);
        assert!(swept.taken.len() <= most);
        for (_, ticket) in swept.taken {
            assert_eq!(ticket.id as usize % 2, odd);
            let left = Some((ticket.recipients.clone(), ticket.due));
            schedule.finish(ticket, left, *now);
        }
    }

    fn operate(&mut self, domain: &str) {
        let id = u32::try_from(self.pick(self.world.next_id as usize)).unwrap();
        let choice = self.pick(4);
        let World { schedule, now, .. } = &mut self.world;
        match choice {
            0 => _ = schedule.hold(id, domain),
            1 => _ = schedule.release(id, domain, *now),
            2 => _ = schedule.retry(id, domain, *now),
            _ => {
                if let Removal::Removed(_) = schedule.remove(id, domain, *now) {
                    self.alive.remove(&id);
                }
            }
        }
    }

    fn end_one(&mut self) {
        let at = self.pick(self.busy.len());
        let (permit, ticket) = self.busy.swap_remove(at);
        match self.pick(4) {
            0 => return self.world.unreachable(permit, ticket),
            1 => self.world.deferred(&permit, ticket, Duration::from_secs(30)),
            _ => {
                self.alive.remove(&ticket.id);
                self.world.delivered(&permit, ticket);
            }
        }
        match self.world.schedule.take(&permit, 0, self.world.now) {
            Next::Deliver(ticket) => self.busy.push((permit, ticket)),
            Next::Idle => self.idle.push(permit),
            Next::Close => self.world.schedule.closed(permit, self.world.now),
        }
    }

    fn check(&self) {
        let schedule = &self.world.schedule;
        assert_eq!(schedule.len(), self.alive.len());
        assert_eq!(schedule.connections(), self.busy.len() + self.idle.len());
        let messages: usize = schedule.summary().map(|d| d.messages).sum();
        let recipients: u64 = schedule.summary().map(|d| d.recipients).sum();
        assert_eq!((messages, recipients), (self.alive.len(), self.alive.len() as u64));
    }
}

/// Whatever is done in whatever order, every job is in one place and nothing is lost.
#[test]
fn random_histories_lose_nothing() {
    for seed in 0..30 {
        let mut history = History::new(seed);
        for _ in 0..3000 {
            history.step();
            history.check();
        }
        let History { mut world, busy, idle, alive, .. } = history;
        let jobs = world.schedule.jobs(None, None, usize::MAX);
        assert_eq!(jobs.iter().map(|job| job.id).collect::<BTreeSet<u32>>(), alive);
        settle(&mut world, busy, idle);
    }
}

/// From wherever a history ended, with servers that work again, everything is delivered.
fn settle(world: &mut World, busy: Vec<(Permit, Ticket<u32>)>, idle: Vec<Permit>) {
    for permit in idle {
        world.schedule.stop_idling(permit.destination());
        world.schedule.closed(permit, world.now);
    }
    for (permit, ticket) in busy {
        world.drain(permit, ticket);
    }
    for job in world.schedule.jobs(None, None, usize::MAX) {
        if job.state == JobState::Held {
            world.schedule.release(job.id, &job.domain, world.now);
        }
    }
    for _ in 0..10_000 {
        for (permit, ticket) in world.open() {
            world.drain(permit, ticket);
        }
        match world.schedule.next_wake() {
            Some(wake) => world.now = wake.max(world.now),
            None => break,
        }
    }
    assert!(world.schedule.is_empty());
    assert_eq!((world.schedule.connections(), world.schedule.dead()), (0, 0));
    assert_eq!(world.schedule.summary().count(), 0);
}
