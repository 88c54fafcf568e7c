//! When a name may end: who would lose mail, as far as anybody can see, and what an operator says
//! who looks after DNS by hand.

use super::*;

fn remove(n: usize) -> Command {
    Command::Name(NameCommand::Remove { name: name(n), force: false })
}

fn status(bench: &Bench, n: usize) -> Option<NameStatus> {
    bench.state.name(&name(n)).map(MxName::status)
}

#[test]
fn the_removal_of_a_name_can_be_said_again_whatever_began_it() {
    let mut bench = Bench::new(4, 0);
    bench.must(plan(&[1], &[(5, 1)], bench.now_ms + DAY_MS));
    bench.must(announce());
    bench.settle();
    bench.must(Command::Migration(MigrationCommand::Finish { force: true }));
    bench.must(retire(2, bench.now_ms + 1));
    bench.now_ms += 1;
    bench.must(remove(2));
    bench.must(plan(&[], &[(6, 2)], bench.now_ms + DAY_MS));
    bench.must(announce());
    bench.publish_one(6);
    bench.must(CANCEL);
    for n in [1, 2, 6] {
        assert_ne!(status(&bench, n), Some(NameStatus::Removed), "DNS has {}", name(n));
        assert_eq!(bench.must(remove(n)), 0, "{}", name(n));
        bench.publish_one(n);
    }
    assert_eq!([1, 2].map(|n| status(&bench, n)), [Some(NameStatus::Removed); 2]);
    assert_eq!(status(&bench, 6), None, "its introduction was cancelled");
    assert!(bench.why(remove(1)).contains("was removed already"));
}

impl Bench {
    /// Every name server says what it shall of this name.
    fn publish_one(&mut self, n: usize) {
        let wanted = self.state.name(&name(n)).unwrap().wanted(self.now_ms, self.state.ttl());
        let (host, ttl_s) = (wanted.map(|(host, _)| host), wanted.map_or(0, |(_, ttl)| ttl));
        self.must(published(&name(n), host, ttl_s));
    }
}

/// A customer whose list has, before and after, none of the names that a migration retires.
fn apart(bench: &Bench, retired: usize) -> String {
    let apart = |(_, step): &(&str, &MigrationStep)| {
        step.before == step.after && !step.before.contains(&name(retired))
    };
    bench.state.migration_steps().find(apart).unwrap().0.to_owned()
}

fn broken(bench: &Bench) -> Vec<String> {
    bench.state.migration_breaks().into_iter().map(|(customer, _)| customer).collect()
}

#[test]
fn a_name_that_a_cancelled_migration_left_to_somebody_ends_only_when_it_is_not_used_any_more() {
    let mut bench = Bench::announced();
    let moved = bench.state.assignments().find(|(_, names)| names.contains(&name(5)));
    let moved = moved.unwrap().0.to_owned();
    bench.must(surveyed_with(&moved, Survey::Moved { at_ms: 1 }, &[5]));
    bench.must(CANCEL);
    let ends_ms = bench.now_ms + 30 * DAY_MS;
    bench.must(plan(&[5], &[], ends_ms));
    bench.must(announce());
    assert!(!bench.state.migration_step(&moved).unwrap().before.contains(&name(5)));
    bench.must(surveyed_for(2, &moved, Survey::Old { at_ms: ends_ms }, &[]));
    bench.now_ms = ends_ms;
    assert_eq!(broken(&bench), [moved.as_str()]);
    assert!(!bench.state.due(bench.now_ms).contains(&FINISH), "it would lose mail");
    assert!(bench.why(FINISH).contains(&moved));
    bench.must(surveyed_for(2, &moved, Survey::Moved { at_ms: ends_ms }, &[]));
    assert!(bench.state.due(bench.now_ms).contains(&FINISH));
}

#[test]
fn mail_by_a_name_holds_its_end_up_whatever_names_the_customer_was_given() {
    let mut bench = Bench::new(4, 6);
    let ends_ms = bench.now_ms + DAY_MS;
    bench.must(plan(&[1], &[], ends_ms));
    bench.must(announce());
    let customer = apart(&bench, 1);
    let everybody: Vec<String> = bench.state.customers().map(|known| known.id.clone()).collect();
    for known in &everybody {
        bench.must(surveyed(known, Survey::Moved { at_ms: 1 }));
    }
    bench.now_ms = ends_ms;
    let counts =
        vec![TrafficCount { customer: customer.clone(), name: Some(name(1)), messages: 1 }];
    bench.must(Command::Traffic { counts });
    let why = format!("mail still comes by {}", name(1));
    assert_eq!(bench.state.migration_breaks(), [(customer, why)]);
    bench.now_ms += 4 * DAY_MS;
    bench.ask(Command::Tick).unwrap();
    assert!(broken(&bench).is_empty());
}

#[test]
fn who_came_after_the_announcement_with_an_old_name_holds_its_end_up_too() {
    let mut bench = Bench::new(4, 4);
    bench.must(plan(&[1], &[], bench.now_ms + DAY_MS));
    bench.must(announce());
    for id in ["late", "later"] {
        bench.must(Command::CustomerAdd(Customer {
            id: id.to_owned(),
            name: id.to_owned(),
            contacts: vec![format!("ops@{id}.test")],
            status: CustomerStatus::Active,
        }));
    }
    bench.must(surveyed("late", Survey::Old { at_ms: 1 }));
    bench.must(surveyed("later", Survey::Moved { at_ms: 1 }));
    assert_eq!(bench.must(surveyed("nobody", Survey::Old { at_ms: 1 })), 0);
    assert!(broken(&bench).contains(&"late".to_owned()), "{:?}", broken(&bench));
    assert!(!broken(&bench).contains(&"later".to_owned()));
    let step = bench.state.migration_step("late").unwrap();
    assert_eq!((step.round, &step.after[..]), (0, bench.state.names_of("late")), "it is told");
    assert!(bench.state.migration_step("later").is_none(), "there is nothing to tell");
}

#[test]
fn who_was_seen_to_have_moved_is_not_late_because_a_name_server_does_not_answer() {
    let mut bench = Bench::announced();
    let late = broken(&bench);
    let customer = late[0].clone();
    let other = late[1].clone();
    let seen_ms = bench.now_ms;
    bench.must(surveyed_with(&customer, Survey::Moved { at_ms: seen_ms }, &[5]));
    bench.must(surveyed(&other, Survey::Unknown));
    for (now_ms, expected) in [
        (seen_ms + 2 * DAY_MS, Survey::Moved { at_ms: seen_ms }),
        (seen_ms + 4 * DAY_MS, Survey::Unknown),
    ] {
        bench.now_ms = now_ms;
        bench.must(surveyed(&customer, Survey::Unknown));
        let step = bench.state.migration_step(&customer).unwrap();
        assert_eq!((step.survey, &step.adopted[..]), (expected, &[name(5)][..]));
        assert_eq!(broken(&bench).contains(&customer), expected == Survey::Unknown);
        assert!(broken(&bench).contains(&other), "nobody has ever seen it move");
    }
    bench.must(surveyed(&customer, Survey::Old { at_ms: bench.now_ms }));
    assert!(broken(&bench).contains(&customer), "it went back");
}

#[test]
fn what_was_found_of_another_migrations_names_says_nothing_of_this_ones() {
    let mut bench = Bench::new(4, 6);
    let ends_ms = bench.now_ms + DAY_MS;
    bench.must(plan(&[1], &[], ends_ms));
    bench.must(announce());
    bench.must(CANCEL);
    bench.must(plan(&[2], &[], ends_ms));
    bench.must(announce());
    let late = broken(&bench);
    let moved = Survey::Moved { at_ms: ends_ms };
    for customer in &late {
        assert_eq!(bench.must(surveyed_for(1, customer, moved, &[])), 0, "it came too late");
    }
    assert_eq!(broken(&bench), late);
    assert_eq!(bench.must(surveyed_for(2, &late[0], moved, &[])), 1);
    assert_eq!(broken(&bench), late[1..]);
}

#[test]
fn a_suspended_customer_is_named_and_holds_no_end_up() {
    let mut bench = Bench::announced();
    let ends_ms = bench.state.migrations().next().unwrap().ends_ms;
    let late = broken(&bench);
    let (asleep, others) = late.split_first().unwrap();
    let status = |status| Command::CustomerStatus { id: asleep.clone(), status };
    bench.must(status(CustomerStatus::Suspended));
    assert_eq!(broken(&bench), others);
    bench.must(surveyed(asleep, Survey::Old { at_ms: 1 }));
    for customer in others {
        bench.must(surveyed(customer, Survey::Moved { at_ms: 1 }));
    }
    let why = "its MX records still lead to an old name".to_owned();
    let left_out = [(asleep.clone(), why)];
    assert_eq!(bench.state.migration_left_out(), left_out);
    bench.now_ms = ends_ms;
    bench.must(FINISH);
    assert_eq!(bench.state.migration_left_out(), left_out, "nor is it forgotten then");
    bench.must(status(CustomerStatus::Active));
    assert_eq!(bench.state.migration_breaks(), left_out, "it can be told now");
    assert!(bench.state.migration_left_out().is_empty());
}

#[test]
fn removed_names_make_room_for_new_ones_and_the_oldest_are_forgotten_at_last() {
    let mut bench = Bench::new(0, 0);
    let force = |n| Command::Name(NameCommand::Remove { name: name(n), force: true });
    for n in 1..=1000 {
        bench.must(add(n, 1));
    }
    assert!(bench.why(add(1001, 1)).contains("the fleet has 1000 names"));
    for n in 1..=1005 {
        bench.now_ms += 1;
        bench.publish_one(n);
        bench.must(force(n));
        bench.publish_one(n);
        bench.must(add(n + 1000, 1));
    }
    let rows = bench.state.names().count();
    assert_eq!(rows, 2000, "1000 in use, and 1000 that were");
    assert_eq!([5, 6].map(|n| status(&bench, n)), [None, Some(NameStatus::Removed)]);
    assert!(bench.why(add(6, 1)).contains("take another name"));
}

#[test]
fn a_name_that_customers_use_past_its_end_says_who_they_are() {
    let mut bench = Bench::new(4, 4);
    bench.must(retire(1, bench.now_ms + DAY_MS));
    let users = |bench: &Bench| -> Vec<String> {
        let row = bench.state.name(&name(1)).unwrap();
        bench.state.overdue_users(row, bench.now_ms).into_iter().map(str::to_owned).collect()
    };
    let overdue = |bench: &Bench| bench.state.names_overdue(bench.now_ms).count();
    assert_eq!((users(&bench), overdue(&bench)), (Vec::new(), 0), "its date has not come");
    bench.now_ms += DAY_MS;
    let holders: Vec<String> = users(&bench);
    assert!(!holders.is_empty() && overdue(&bench) == 1);
    for customer in &holders {
        let names = vec![name(2), name(3)];
        bench.must(Command::Assign { customer: customer.clone(), names });
    }
    assert_eq!(overdue(&bench), 0);
    let used = TrafficCount { customer: "c2".to_owned(), name: Some(name(1)), messages: 1 };
    bench.must(Command::Traffic { counts: vec![used] });
    assert_eq!(users(&bench), ["c2"], "mail comes by it");
    bench.now_ms += 4 * DAY_MS;
    bench.ask(Command::Tick).unwrap();
    assert_eq!(overdue(&bench), 0);
    bench.act();
    assert_eq!(bench.state.name(&name(1)).unwrap().aim(), None, "it ends by itself");
}

#[test]
fn a_name_of_a_migration_is_overdue_with_that_and_not_alone() {
    let mut bench = Bench::announced();
    bench.now_ms += 30 * DAY_MS;
    assert!(bench.state.migration_overdue(bench.now_ms) > 0);
    assert_eq!(bench.state.names_overdue(bench.now_ms).count(), 0);
}
