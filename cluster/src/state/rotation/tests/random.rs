//! Invariant 7, and what cancels, over random commands.

use proptest::collection::vec;

use super::*;

#[derive(Debug, Clone)]
enum Op {
    Add(usize, usize),
    Point(usize, usize, Option<u64>, bool),
    Stay(usize),
    Retire(usize, u64),
    Keep(usize),
    Remove(usize),
    Drain(usize),
    Resume(usize),
    MailLeft(usize, u64),
    RetireHost(usize),
    RemoveHost(usize),
    Assign(usize, usize, usize),
    Plan(Vec<usize>, Vec<(usize, usize)>, u64),
    Announce,
    Finish,
    Cancel,
    Moved(usize),
    Publish,
    Due,
    Later(u64),
}

fn ops() -> impl Strategy<Value = Op> {
    let (n, h) = (1_usize..10, 1_usize..5);
    let later = prop_oneof![Just(60_000_u64), Just(3_600_000), Just(DAY_MS), Just(10 * DAY_MS)];
    let date = prop::option::weighted(0.3, 1_u64..20 * DAY_MS);
    prop_oneof![
        2 => (n.clone(), h.clone()).prop_map(|(n, h)| Op::Add(n, h)),
        4 => (n.clone(), h.clone(), date, any::<bool>())
            .prop_map(|(n, h, d, r)| Op::Point(n, h, d, r)),
        2 => n.clone().prop_map(Op::Stay),
        2 => (n.clone(), 1..20 * DAY_MS).prop_map(|(n, d)| Op::Retire(n, d)),
        1 => n.clone().prop_map(Op::Keep),
        2 => n.clone().prop_map(Op::Remove),
        3 => h.clone().prop_map(Op::Drain),
        3 => h.clone().prop_map(Op::Resume),
        3 => (h.clone(), 0_u64..3).prop_map(|(h, m)| Op::MailLeft(h, m)),
        2 => h.clone().prop_map(Op::RetireHost),
        1 => h.clone().prop_map(Op::RemoveHost),
        2 => (1_usize..6, n.clone(), n.clone()).prop_map(|(c, a, b)| Op::Assign(c, a, b)),
        3 => (vec(n.clone(), 0..3), vec((n, h), 0..3), 1..20 * DAY_MS)
            .prop_map(|(r, i, d)| Op::Plan(r, i, d)),
        3 => Just(Op::Announce),
        1 => Just(Op::Finish),
        2 => Just(Op::Cancel),
        2 => (1_usize..6).prop_map(Op::Moved),
        6 => Just(Op::Publish),
        3 => Just(Op::Due),
        5 => later.prop_map(Op::Later),
    ]
}

/// What may happen between a change and its cancellation.
fn half_way() -> impl Strategy<Value = Op> {
    prop_oneof![Just(Op::Publish), Just(Op::Later(60_000)), Just(Op::Announce)]
}

/// Enough to find what the model finds; more on request by `PROPTEST_CASES`.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: cases.unwrap_or(150),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

impl Bench {
    fn command(&self, op: &Op) -> Option<Command> {
        let service = |command| Some(Command::HostService(command));
        match op {
            Op::Add(n, h) => Some(add(*n, *h)),
            Op::Point(n, h, d, r) => Some(point(*n, *h, d.map(|d| self.now_ms + d), *r)),
            Op::Stay(n) => Some(Command::Name(NameCommand::Stay { name: name(*n) })),
            Op::Retire(n, d) => Some(retire(*n, self.now_ms + d)),
            Op::Keep(n) => Some(Command::Name(NameCommand::Keep { name: name(*n) })),
            Op::Remove(n) => {
                Some(Command::Name(NameCommand::Remove { name: name(*n), force: false }))
            }
            Op::Drain(h) => Some(self.drain(*h)),
            Op::Resume(h) => service(HostCommand::Resume { name: host(*h) }),
            Op::MailLeft(h, messages) => {
                service(HostCommand::MailLeft { id: *h as u64, messages: *messages })
            }
            Op::RetireHost(h) => {
                let (name, force, moves) = (host(*h), false, Vec::new());
                service(HostCommand::Retire { name, force, moves })
            }
            Op::RemoveHost(h) => Some(remove_host(*h, true)),
            Op::Assign(c, a, b) => {
                let names = vec![name(*a), name(*b)];
                Some(Command::Assign { customer: format!("c{c}"), names })
            }
            Op::Plan(r, i, d) => Some(plan(r, i, self.now_ms + d)),
            Op::Announce => Some(announce()),
            Op::Finish => Some(FINISH),
            Op::Cancel => Some(CANCEL),
            Op::Moved(c) => {
                let newest = self.state.migrations().next()?;
                let survey = Survey::Moved { at_ms: self.now_ms };
                Some(surveyed_for(newest.id, &format!("c{c}"), survey, &[]))
            }
            Op::Publish | Op::Due | Op::Later(_) => None,
        }
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Publish => self.publish(),
            Op::Later(ms) => self.now_ms += ms,
            Op::Due => {
                for command in self.state.due(self.now_ms) {
                    self.must(command);
                }
            }
            op => {
                let Some(command) = self.command(op) else { return };
                let before = self.tables();
                let hosts: Vec<Host> = self.state.hosts().cloned().collect();
                if self.ask(command).is_err() {
                    assert!(self.tables() == before, "a refused command changed something");
                    assert!(self.state.hosts().eq(hosts.iter()));
                }
            }
        }
    }

    /// The command that takes `op` back.
    fn undo(&self, op: &Op) -> Option<Op> {
        Some(match op {
            Op::Point(n, ..) => Op::Stay(*n),
            Op::Retire(n, _) => Op::Keep(*n),
            Op::Drain(h) => Op::Resume(*h),
            Op::Plan(..) | Op::Announce => Op::Cancel,
            _ => return None,
        })
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn invariant_7_holds_after_every_command(ops in vec(ops(), 1..60)) {
        let mut bench = Bench::new(5, 5);
        for op in &ops {
            bench.run(op);
            bench.check()?;
        }
    }

    #[test]
    fn cancelling_at_any_step_returns_to_the_state_before(
        ops in vec(ops(), 0..25),
        change in ops(),
        steps in vec(half_way(), 0..6),
    ) {
        let mut bench = Bench::new(5, 5);
        for op in &ops {
            bench.run(op);
        }
        bench.settle();
        let Some(undo) = bench.undo(&change) else { return Ok(()) };
        // A migration under way is cancelled as a whole, so it must begin here.
        let open = bench.state.migrations().next().is_some_and(Migration::is_open);
        if open && matches!(undo, Op::Cancel) {
            return Ok(());
        }
        // A second change of a name takes the place of one that has a date.
        if let Op::Point(n, ..) = &change
            && bench.state.name(&name(*n)).is_none_or(|row| {
                row.target.is_none() || row.pointing.is_some()
            })
        {
            return Ok(());
        }
        if let Op::Retire(n, _) = &change
            && bench.state.name(&name(*n)).is_none_or(|row| row.stage != NameStage::Active)
        {
            return Ok(());
        }
        // What becomes of it without the change: dates come due meanwhile.
        let mut twin = bench.clone();
        let command = bench.command(&change).unwrap();
        let at_once = bench.ask(command);
        if at_once.is_err() || at_once == Ok(0) {
            return Ok(());
        }
        let rehomed_at_once = matches!(&change, Op::Point(n, ..)
            if bench.state.name(&name(*n)).is_some_and(|row| row.pointing.is_none()));
        if rehomed_at_once {
            return Ok(()); // nothing was planned, so there is nothing to cancel
        }
        for step in &steps {
            if matches!(step, Op::Announce) && !matches!(undo, Op::Cancel) {
                continue; // of another migration
            }
            bench.run(step);
            bench.check()?;
            if !matches!(step, Op::Announce) {
                twin.run(step);
            }
        }
        let done = matches!(&change, Op::Point(n, ..)
            if bench.state.name(&name(*n)).is_some_and(|row| row.pointing.is_none()));
        if done {
            return Ok(()); // it has come about
        }
        let undone = bench.command(&undo).unwrap();
        bench.must(undone);
        bench.check()?;
        for bench in [&mut bench, &mut twin] {
            bench.settle();
        }
        prop_assert_eq!(bench.shape(), twin.shape());
    }
}
