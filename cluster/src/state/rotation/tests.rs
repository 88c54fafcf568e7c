//! Names, hosts, migrations: what is refused, and what that leaves as it was.

mod gate;
mod keys;
mod leaving;
mod letters;
mod loads;
mod places;
mod random;

use proptest::prelude::*;

use super::super::*;

const DAY_MS: u64 = 86_400_000;

/// A fleet with four hosts, a zone, and a clock that the test moves.
#[derive(Clone)]
struct Bench {
    state: State,
    index: u64,
    now_ms: u64,
}

fn name(n: usize) -> String {
    format!("mx-{n}.relay.test")
}

fn host(n: usize) -> String {
    format!("mx{n}")
}

impl Bench {
    fn new(names: usize, customers: usize) -> Self {
        let mut bench = Self { state: State::default(), index: 0, now_ms: DAY_MS };
        let new = |n: usize| NewHost {
            name: host(n),
            address: format!("192.0.2.{n}:7946"),
            version: "0.1.0".to_owned(),
            key: [u8::try_from(n).unwrap(); 32],
            speaks: 1,
        };
        bench.must(Command::HostFound { host: new(1), seed: 1 });
        for n in 2..=4 {
            let (hash, expires_ms) = ([u8::try_from(n).unwrap(); 32], bench.now_ms + 1000);
            bench.must(Command::HostToken { hash, name: host(n), expires_ms });
            bench.must(Command::HostJoin { token: hash, host: new(n) });
        }
        for n in 1..=4 {
            let addresses = vec![format!("192.0.2.{n}").parse().unwrap()];
            bench.must(Command::HostService(HostCommand::Set { name: host(n), addresses }));
        }
        let (setting, zone) = ("rotation.zone".to_owned(), Some("relay.test".to_owned()));
        bench.must(Command::SettingSet { name: setting, value: zone });
        for n in 1..=names {
            bench.must(add(n, (n - 1) % 4 + 1));
        }
        bench.settle();
        for n in 1..=customers {
            bench.must(Command::CustomerAdd(Customer {
                id: format!("c{n}"),
                name: format!("c{n}"),
                contacts: vec![format!("ops@c{n}.test")],
                status: CustomerStatus::Active,
            }));
        }
        bench
    }

    /// A migration of six customers that is announced; nobody was written to.
    fn announced() -> Self {
        let mut bench = Self::new(4, 6);
        bench.must(plan(&[1], &[(5, 1)], bench.now_ms + 30 * DAY_MS));
        bench.must(announce());
        bench.settle();
        bench
    }

    fn ask(&mut self, command: Command) -> Outcome {
        self.index += 1;
        let request = Request::new(self.index.into(), "ops", self.now_ms, command);
        self.state.apply(self.index, &request)
    }

    fn must(&mut self, command: Command) -> u64 {
        let asked = format!("{command:?}");
        self.ask(command).unwrap_or_else(|why| panic!("{asked}: {why}"))
    }

    fn why(&mut self, command: Command) -> String {
        self.ask(command).unwrap_err().to_string()
    }

    /// Every name server says what it shall.
    fn publish(&mut self) {
        let names: Vec<MxName> = self.state.names().cloned().collect();
        for row in names {
            let wanted = row.wanted(self.now_ms, self.state.ttl());
            let (host, ttl_s) = (wanted.map(|(host, _)| host), wanted.map_or(0, |(_, ttl)| ttl));
            if row.pointing.is_some() || wanted.is_some_and(|(_, ttl)| ttl != row.ttl_s) {
                // A change whose date has not come is not in DNS, and so not reported.
                let _ = self.ask(published(&row.name, host, ttl_s));
            }
        }
    }

    /// All that is wanted has come about, and resolvers have forgotten the rest.
    fn settle(&mut self) {
        for _ in 0..3 {
            self.publish();
            self.now_ms += 2 * 3_600_000;
        }
        self.ask(Command::Tick).unwrap();
    }

    /// What a cancelled change must leave as it was.
    fn shape(&self) -> String {
        let names = self.state.names();
        let names = names.map(|n| (&n.name, n.home, &n.pointing, n.target, n.stage));
        let hosts = self.state.hosts().map(|host| (&host.name, &host.state));
        let (names, hosts): (Vec<_>, Vec<_>) = (names.collect(), hosts.collect());
        let assigned: Vec<_> = self.state.assignments().collect();
        format!("{names:?}\n{hosts:?}\n{assigned:?}")
    }

    /// What a refused command must leave as it was.
    fn tables(&self) -> Vec<Part> {
        let kept =
            |part: &Part| !matches!(part, Part::Core { .. } | Part::Audit(_) | Part::Recent(_));
        self.state.parts().filter(kept).collect()
    }

    fn drain(&self, n: usize) -> Command {
        let plan = self.state.fleet_left_by(&host(n), self.now_ms).evacuate(&host(n));
        let moves = plan.map(|plan| plan.moves).unwrap_or_default();
        let moves = moves.into_iter().map(|step| (step.name, step.to)).collect();
        Command::HostService(HostCommand::Drain { name: host(n), deadline_ms: None, moves })
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let stranded: Vec<_> = self.state.stranded(self.now_ms).collect();
        prop_assert!(stranded.is_empty(), "invariant 7: {stranded:?}");
        for (customer, names) in self.state.assignments() {
            for name in names {
                let row = self.state.name(name);
                let good = row.is_some_and(|row| row.aim().is_some());
                prop_assert!(good, "{customer} has {name}: {row:?}");
            }
        }
        let mut copy = State::default();
        self.state.parts().for_each(|part| copy.absorb(part));
        prop_assert!(copy.parts().eq(self.state.parts()));
        Ok(())
    }
}

fn add(n: usize, on: usize) -> Command {
    Command::Name(NameCommand::Add { name: name(n), host: host(on), from_ms: None })
}

fn point(n: usize, to: usize, from_ms: Option<u64>, rehome: bool) -> Command {
    Command::Name(NameCommand::Point { moves: vec![(name(n), host(to))], from_ms, rehome })
}

fn remove_host(n: usize, force: bool) -> Command {
    Command::HostRemove { name: host(n), force }
}

fn published(name: &str, host: Option<u64>, ttl_s: u32) -> Command {
    let addresses = host.map(|n| std::net::IpAddr::from([192, 0, 2, u8::try_from(n).unwrap()]));
    let (name, addresses) = (name.to_owned(), addresses.into_iter().collect());
    Command::Name(NameCommand::Published { name, host, ttl_s, addresses })
}

fn retire(n: usize, at_ms: u64) -> Command {
    Command::Name(NameCommand::Retire { name: name(n), at_ms })
}

fn plan(retire: &[usize], introduce: &[(usize, usize)], ends_ms: u64) -> Command {
    Command::Migration(MigrationCommand::Plan {
        retire: retire.iter().map(|n| name(*n)).collect(),
        introduce: introduce.iter().map(|(n, on)| (name(*n), host(*on))).collect(),
        ends_ms,
        text: "mx1 goes away.".to_owned(),
    })
}

fn announce() -> Command {
    let (title, text) = ("Names change".to_owned(), "See your mail.".to_owned());
    Command::Migration(MigrationCommand::Announce { title, text })
}

const CANCEL: Command = Command::Migration(MigrationCommand::Cancel);
const FINISH: Command = Command::Migration(MigrationCommand::Finish { force: false });

/// A look at MX records for the first migration.
fn surveyed(customer: &str, survey: Survey) -> Command {
    surveyed_with(customer, survey, &[])
}

fn surveyed_with(customer: &str, survey: Survey, adopted: &[usize]) -> Command {
    surveyed_for(1, customer, survey, adopted)
}

fn surveyed_for(migration: u64, customer: &str, survey: Survey, adopted: &[usize]) -> Command {
    let adopted = adopted.iter().map(|n| name(*n)).collect();
    let rows = vec![(customer.to_owned(), survey, adopted)];
    Command::Migration(MigrationCommand::Surveyed { migration, rows })
}

#[test]
fn bad_names_hosts_and_dates_are_refused_with_the_reason() {
    let mut bench = Bench::new(4, 4);
    let add_named = |name: &str, host: &str, from_ms| {
        let (name, host) = (name.to_owned(), host.to_owned());
        Command::Name(NameCommand::Add { name, host, from_ms })
    };
    let before = bench.tables();
    let expect = [
        (add_named("mx.elsewhere.test", "mx1", None), "not below the service's zone"),
        (add_named("relay.test", "mx1", None), "not below the service's zone"),
        (add_named("xrelay.test", "mx1", None), "not below the service's zone"),
        (add_named("a b.relay.test", "mx1", None), "not a host name"),
        (add_named("MX.relay.test", "mx1", None), "not a host name"),
        (add(1, 2), "mx-1.relay.test is in use"),
        (add_named("x.relay.test", "mx9", None), "there is no host mx9"),
        (add_named("x.relay.test", "mx1", Some(5)), "in the past"),
        (point(1, 2, Some(5), false), "in the past"),
        (point(9, 2, None, false), "there is no MX name"),
        (retire(1, 5), "in the past"),
        (plan(&[1], &[], 5), "in the past"),
        (plan(&[1, 1], &[], DAY_MS * 9), "given twice"),
        (plan(&[], &[(1, 2)], DAY_MS * 9), "in use"),
        (plan(&[1, 2, 3, 4], &[], DAY_MS * 9), "would have no name left"),
        (announce(), "no migration is under way"),
        (remove_host(1, false), "mail may come to mx1 by mx-1.relay.test"),
        (remove_host(1, true), "mail may come to mx1 by mx-1.relay.test"),
    ];
    for (command, reason) in expect {
        let why = bench.why(command.clone());
        assert!(why.contains(reason), "{command:?}: {why}");
    }
    assert!(bench.tables() == before, "nothing changed");
}

#[test]
fn a_host_that_is_away_is_no_target_and_one_in_use_cannot_go() {
    let mut bench = Bench::new(4, 4);
    bench.must(bench.drain(1));
    assert!(bench.why(point(2, 1, None, false)).contains("being drained"));
    let retire =
        |force, moves| Command::HostService(HostCommand::Retire { name: host(1), force, moves });
    assert!(bench.why(retire(false, Vec::new())).contains("mail may still come to mx1"));
    assert!(bench.state.accepts_mail(1, bench.now_ms), "names lead to it until DNS is changed");
    bench.settle();
    assert!(!bench.state.accepts_mail(1, bench.now_ms));
    assert!(bench.why(retire(false, Vec::new())).contains("not counted its queue"));
    let left = |messages| Command::HostService(HostCommand::MailLeft { id: 1, messages });
    bench.must(left(7));
    assert!(bench.why(retire(false, Vec::new())).contains("still has 7 messages"));
    bench.must(left(0));
    assert!(matches!(bench.state.due(bench.now_ms).as_slice(), [Command::HostService(_)]));
    bench.must(retire(false, Vec::new()));
    assert!(bench.why(point(2, 1, None, false)).contains("retired"));
    bench.must(Command::HostService(HostCommand::Resume { name: host(1) }));
    bench.settle();
    assert_eq!(bench.state.name(&name(1)).unwrap().status(), NameStatus::Active);
}

#[test]
fn the_last_host_in_service_stays() {
    let mut bench = Bench::new(0, 0);
    for n in 1..=3 {
        bench.must(bench.drain(n));
    }
    assert!(bench.why(bench.drain(4)).contains("the fleet takes no mail"));
}

#[test]
fn a_name_that_customers_use_is_not_removed_and_a_removed_one_never_comes_back() {
    let mut bench = Bench::new(4, 4);
    let remove = |force| Command::Name(NameCommand::Remove { name: name(1), force });
    assert!(bench.why(remove(false)).contains("was not announced"));
    bench.must(retire(1, bench.now_ms + DAY_MS));
    bench.now_ms += DAY_MS;
    assert!(bench.why(remove(false)).contains("would lose mail: c1"));
    assert!(bench.state.due(bench.now_ms).is_empty(), "a date does not break customers");
    bench.must(remove(true));
    assert_ne!(bench.state.name(&name(1)).unwrap().status(), NameStatus::Removed, "DNS has it");
    bench.settle();
    assert_eq!(bench.state.name(&name(1)).unwrap().status(), NameStatus::Removed);
    assert!(bench.why(add(1, 1)).contains("take another name"));
    assert!(!bench.state.names_of("c1").contains(&name(1)));
}

#[test]
fn a_migration_ends_names_only_when_nobody_would_break() {
    let mut bench = Bench::new(4, 6);
    let ends_ms = bench.now_ms + 30 * DAY_MS;
    bench.must(plan(&[1, 2], &[(5, 3), (6, 4)], ends_ms));
    let before: Vec<_> =
        bench.state.assignments().map(|(c, n)| (c.to_owned(), n.to_vec())).collect();
    bench.must(announce());
    for (customer, names) in bench.state.assignments() {
        assert!(!names.contains(&name(1)) && !names.contains(&name(2)), "{customer} {names:?}");
    }
    assert_eq!(bench.state.notices().count(), 1);
    bench.settle();
    bench.accept_letters();
    assert!(bench.why(FINISH).contains("date has not come"));
    bench.now_ms = ends_ms;
    let affected: Vec<_> =
        before.iter().filter(|(_, n)| n.contains(&name(1)) || n.contains(&name(2))).collect();
    let why = bench.why(FINISH);
    assert!(affected.iter().all(|(customer, _)| why.contains(customer)), "{why}");
    bench.tell_overdue();
    assert_eq!(
        bench.must(Command::Migration(MigrationCommand::Remind)),
        u64::try_from(affected.len()).unwrap()
    );
    for (customer, _) in &affected {
        bench.must(surveyed(customer, Survey::Moved { at_ms: ends_ms }));
    }
    let (customer, used) = (affected[0].0.clone(), affected[0].1[0].clone());
    let old = if used == name(1) || used == name(2) { used } else { affected[0].1[1].clone() };
    let counts = vec![TrafficCount { customer, name: Some(old), messages: 3 }];
    bench.must(Command::Traffic { counts });
    assert!(bench.why(FINISH).contains(&affected[0].0), "mail still comes by the old name");
    bench.now_ms += 4 * DAY_MS;
    let due = bench.state.due(bench.now_ms);
    assert_eq!(due, [FINISH]);
    bench.must(FINISH);
    bench.settle();
    assert_eq!(bench.state.name(&name(1)).unwrap().status(), NameStatus::Removed);
    assert_eq!(bench.state.notices().next().unwrap().status(bench.now_ms), NoticeStatus::Resolved);
}

#[test]
fn a_cancelled_migration_leaves_a_new_name_to_those_who_have_moved_to_it() {
    let mut bench = Bench::announced();
    let moved = bench.state.assignments().find(|(_, names)| names.contains(&name(5)));
    let moved = moved.unwrap().0.to_owned();
    // One of its domains has moved, another one has not.
    bench.must(surveyed_with(&moved, Survey::Old { at_ms: 1 }, &[5, 4]));
    assert_eq!(bench.state.migration_step(&moved).unwrap().adopted, [name(5)]);
    bench.must(CANCEL);
    bench.settle();
    assert_eq!(bench.state.name(&name(5)).unwrap().status(), NameStatus::Active);
    assert_eq!(bench.state.name(&name(1)).unwrap().status(), NameStatus::Active);
}

#[test]
fn a_cancelled_migration_leaves_a_new_name_to_those_who_were_told_and_may_have_it() {
    for (survey, expected) in
        [(Survey::Unknown, Some(NameStatus::Active)), (Survey::Old { at_ms: 1 }, None)]
    {
        let mut bench = Bench::announced();
        let rows: Vec<_> = bench.state.migration_steps().map(|(id, _)| id.to_owned()).collect();
        for customer in rows {
            let told = vec![(customer.clone(), 1, Told::Accepted { at_ms: 1 })];
            bench.must(Command::Migration(MigrationCommand::Told { rows: told }));
            bench.must(surveyed(&customer, survey));
        }
        bench.must(CANCEL);
        bench.settle();
        let left = bench.state.name(&name(5)).map(MxName::status);
        assert_eq!(left.filter(|status| *status != NameStatus::Removed), expected);
    }
}

#[test]
fn the_newest_migrations_are_remembered_and_another_can_always_be_planned() {
    let mut bench = Bench::new(4, 1);
    for n in 1..=1002 {
        assert_eq!(bench.must(plan(&[1], &[], bench.now_ms + DAY_MS)), n);
        bench.must(CANCEL);
    }
    let ids: Vec<u64> = bench.state.migrations().map(|migration| migration.id).collect();
    assert_eq!((ids.len(), ids.first(), ids.last()), (1000, Some(&1002), Some(&3)));
}

#[test]
fn one_node_begins_the_mail_of_a_round_and_bounces_are_cleaned() {
    let mut bench = Bench::new(4, 6);
    bench.must(plan(&[1], &[], bench.now_ms + 30 * DAY_MS));
    bench.must(announce());
    let told = |told| {
        Command::Migration(MigrationCommand::Told { rows: vec![("c1".to_owned(), 1, told)] })
    };
    assert_eq!(bench.must(told(Told::Sending { node: 1, message: 1 })), 1);
    assert_eq!(bench.must(told(Told::Sending { node: 2, message: 2 })), 0);
    let why = format!("550 no\r\n{}", "x".repeat(1000));
    assert_eq!(bench.must(told(Told::Bounced { at_ms: 1, why })), 1);
    let Told::Bounced { why, .. } = bench.state.migration_step("c1").unwrap().told.clone() else {
        panic!("it bounced");
    };
    assert!(why.len() <= 300 && !why.contains(['\r', '\n']));
}
