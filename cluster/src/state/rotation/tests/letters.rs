//! Letters to customers about a migration: who begins them, who is still to get one.

use super::*;

const REMIND: Command = Command::Migration(MigrationCommand::Remind);

fn told(customer: &str, round: u32, told: Told) -> Command {
    let rows = vec![(customer.to_owned(), round, told)];
    Command::Migration(MigrationCommand::Told { rows })
}

fn sending(node: u64, message: u128) -> Told {
    Told::Sending { node, message }
}

impl Bench {
    /// A server took the newest letter to every customer.
    pub(super) fn accept_letters(&mut self) {
        let round = self.state.migrations().next().unwrap().rounds;
        let customers: Vec<String> =
            self.state.migration_steps().map(|(customer, _)| customer.to_owned()).collect();
        for customer in customers {
            self.must(told(&customer, round, sending(1, u128::from(round))));
            self.must(told(&customer, round, Told::Accepted { at_ms: 1 }));
        }
    }

    /// The date has come and customers are in the way: that is said once.
    pub(super) fn tell_overdue(&mut self) {
        let overdue = Command::Migration(MigrationCommand::Overdue);
        for command in self.state.due(self.now_ms) {
            assert_eq!(command, overdue);
            self.must(command);
        }
        assert!(self.state.due(self.now_ms).is_empty());
        assert!(self.ask(overdue).is_err());
        let notice = self.state.notices().next().unwrap();
        assert!(notice.updates.last().unwrap().text.contains("still use the old names"));
        assert!(self.state.migration_overdue(self.now_ms) > 0);
    }

    fn step(&self, customer: &str) -> &MigrationStep {
        self.state.migration_step(customer).unwrap()
    }
}

#[test]
fn nobody_is_reminded_before_everybody_was_told() {
    let mut bench = Bench::announced();
    let why = bench.why(REMIND);
    assert!(why.contains("has not gone to 6 customers yet: c1, c2"), "{why}");
    for n in 1..=5 {
        bench.must(told(&format!("c{n}"), 1, sending(1, n)));
    }
    assert!(bench.why(REMIND).contains("has not gone to 1 customer yet: c6"));
    let status = CustomerStatus::Suspended;
    bench.must(Command::CustomerStatus { id: "c6".to_owned(), status });
    let late = bench.must(REMIND);
    let why = bench.why(REMIND);
    assert!(why.contains(&format!("the last letter has not gone to {late} customer")), "{why}");
}

#[test]
fn who_had_no_contact_is_told_in_the_same_round_once_there_is_one() {
    let mut bench = Bench::announced();
    bench.must(told("c1", 1, Told::NoContact));
    assert_eq!(bench.step("c1").first_round, 0);
    assert_eq!(bench.must(told("c1", 1, sending(2, 7))), 1);
    assert_eq!(bench.must(told("c1", 1, sending(3, 8))), 0, "one node begins it");
    assert_eq!(bench.must(told("c1", 1, Told::NoContact)), 0);
    assert_eq!((&bench.step("c1").told, bench.step("c1").first_round), (&sending(2, 7), 1));
}

#[test]
fn a_first_letter_that_was_lost_with_its_host_is_followed_by_a_first_letter() {
    let mut bench = Bench::announced();
    bench.must(told("c1", 1, sending(99, 7)));
    for n in 2..=6 {
        bench.must(told(&format!("c{n}"), 1, sending(1, n)));
    }
    bench.must(REMIND);
    bench.must(told("c1", 2, sending(2, 17)));
    bench.must(told("c2", 2, sending(2, 18)));
    assert_eq!([bench.step("c1").first_round, bench.step("c2").first_round], [2, 1]);
}

#[test]
fn another_migration_waits_until_who_was_told_to_move_has_heard_of_the_cancellation() {
    let mut bench = Bench::announced();
    let moves = |(_, step): &(&str, &MigrationStep)| step.before != step.after;
    let moving: Vec<String> =
        bench.state.migration_steps().filter(moves).map(|(id, _)| id.to_owned()).collect();
    assert!(moving.len() >= 2, "{moving:?}");
    for customer in &moving {
        bench.must(told(customer, 1, sending(1, 7)));
    }
    bench.must(told(&moving[0], 1, Told::Bounced { at_ms: 1, why: "550".to_owned() }));
    bench.must(CANCEL);
    bench.settle();
    let next = plan(&[1], &[], bench.now_ms + 30 * DAY_MS);
    for (at, customer) in moving.iter().enumerate().skip(1) {
        let why = bench.why(next.clone());
        let left = super::super::names::counted(moving.len() - at);
        assert!(why.contains(&format!("{left} must hear first that migration 1 is")), "{why}");
        bench.must(told(customer, 2, sending(1, 8)));
    }
    bench.must(next);
}

#[test]
fn another_migration_waits_for_a_cancellation_a_day_at_most() {
    let mut bench = Bench::announced();
    bench.accept_letters();
    bench.must(CANCEL);
    let next = plan(&[1], &[], bench.now_ms + 30 * DAY_MS);
    assert!(bench.why(next.clone()).contains("must hear first"));
    bench.now_ms += DAY_MS;
    bench.must(next);
}

#[test]
fn a_letter_that_was_handed_over_is_not_begun_again_when_its_first_host_is_gone() {
    let mut bench = Bench::announced();
    bench.must(told("c1", 1, sending(99, 7)));
    assert_eq!(bench.must(told("c1", 1, sending(2, 7))), 1, "it is host 2's");
    assert_eq!(bench.must(told("c1", 1, sending(3, 8))), 0);
    assert_eq!(bench.step("c1").told, sending(2, 7));
    assert_eq!(bench.must(told("c1", 1, sending(3, 7))), 1, "and on it goes");
}

#[test]
fn who_was_told_to_move_stays_told_when_a_reminder_comes_back() {
    let mut bench = Bench::announced();
    bench.accept_letters();
    bench.must(REMIND);
    let has_new = |(_, names): &(&str, &[String])| names.contains(&name(5));
    let customer = bench.state.assignments().find(has_new).unwrap().0.to_owned();
    bench.must(told(&customer, 2, sending(1, 7)));
    bench.must(told(&customer, 2, Told::Bounced { at_ms: 1, why: "550".to_owned() }));
    bench.must(CANCEL);
    let migration = bench.state.migrations().next().unwrap();
    assert!(migration.concerns(bench.step(&customer)), "it hears of the cancellation");
    bench.settle();
    assert_eq!(bench.state.name(&name(5)).unwrap().status(), NameStatus::Active, "and may use it");
}

#[test]
fn a_name_that_only_begins_takes_its_part_of_customers_and_only_they_are_told() {
    let mut bench = Bench::new(3, 40);
    bench.must(plan(&[], &[(5, 4)], bench.now_ms + 30 * DAY_MS));
    let after = bench.state.fleet_after(bench.now_ms);
    let load = |host: usize| -> u64 {
        after.names.iter().filter(|name| name.host == Some(host)).map(|name| name.load).sum()
    };
    let loads: Vec<u64> = (0..4).map(load).collect();
    let most = loads.iter().sum::<u64>().div_ceil(4) * 110 / 100;
    assert!(loads.iter().all(|load| (1..=most).contains(load)), "{loads:?}");
    bench.must(announce());
    bench.settle();
    let migration = bench.state.migrations().next().unwrap();
    let (moving, others): (Vec<_>, Vec<_>) =
        bench.state.migration_steps().partition(|(_, step)| migration.concerns(step));
    assert!(!moving.is_empty() && moving.len() < others.len(), "{} of 40", moving.len());
    assert!(moving.iter().all(|(_, step)| step.after.contains(&name(5))));
    let moving: Vec<String> = moving.into_iter().map(|(id, _)| id.to_owned()).collect();
    for customer in moving {
        assert!(bench.why(REMIND).contains("has not gone to"));
        bench.must(told(&customer, 1, sending(1, 7)));
    }
    assert!(bench.why(REMIND).contains("none is reminded"), "old names do not end");
}

#[test]
fn nothing_is_overdue_before_the_date_or_when_nobody_is_in_the_way() {
    let mut bench = Bench::announced();
    let overdue = Command::Migration(MigrationCommand::Overdue);
    assert!(bench.ask(overdue.clone()).is_err());
    assert_eq!(bench.state.migration_overdue(bench.now_ms), 0);
    let customers: Vec<String> =
        bench.state.migration_steps().map(|(customer, _)| customer.to_owned()).collect();
    for customer in customers {
        bench.must(surveyed(&customer, Survey::Moved { at_ms: 1 }));
    }
    bench.now_ms += 30 * DAY_MS;
    assert!(bench.ask(overdue).is_err());
    assert_eq!(bench.state.due(bench.now_ms), [FINISH]);
}

#[test]
fn a_migration_that_is_too_long_for_its_notice_is_refused_when_it_is_planned() {
    let mut bench = Bench::new(1, 0);
    let plan = |octets: usize| {
        let name = |n| (format!("{}{n:03}.relay.test", "x".repeat(57)), host(1));
        let (introduce, text) = ((0..100).map(name).collect(), "x".repeat(octets));
        let ends_ms = 90 * DAY_MS;
        Command::Migration(MigrationCommand::Plan { retire: Vec::new(), introduce, ends_ms, text })
    };
    assert!(bench.why(plan(4000)).contains("too long for one notice"));
    bench.must(plan(2000));
    let names: Vec<String> = bench.state.migrations().next().unwrap().introduce.clone();
    let text = format!("{}\n{}{}", "x".repeat(2000), names.join(", "), "x".repeat(499));
    let title = "New MX names".to_owned();
    bench.must(Command::Migration(MigrationCommand::Announce { title, text }));
}
