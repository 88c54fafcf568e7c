//! How names and loads are spread, and how they are told.

use super::*;

fn names_of(bench: &Bench, customer: &str) -> usize {
    bench.state.names_of(customer).len()
}

#[test]
fn customers_who_lost_a_name_are_short_and_get_another() {
    let mut bench = Bench::new(4, 6);
    assert_eq!(bench.state.customers_short_of_names().count(), 0);
    bench.must(Command::Name(NameCommand::Remove { name: name(1), force: true }));
    bench.settle();
    let short: Vec<String> = bench.state.customers_short_of_names().map(Into::into).collect();
    assert!(!short.is_empty());
    let kept: Vec<String> = bench.state.names_of(&short[0]).to_vec();
    let changed = bench.must(Command::Name(NameCommand::Spread));
    assert_eq!(usize::try_from(changed), Ok(short.len()));
    assert!((1..=6).all(|n| names_of(&bench, &format!("c{n}")) == 2));
    assert_eq!(bench.state.names_of(&short[0])[0], kept[0], "what it had stays in its place");
    assert_eq!(bench.must(Command::Name(NameCommand::Spread)), 0);
}

#[test]
fn nobody_is_short_of_names_that_no_further_host_could_give() {
    let mut bench = Bench::new(1, 2);
    assert_eq!((names_of(&bench, "c1"), bench.state.customers_short_of_names().count()), (1, 0));
    bench.must(add(2, 2));
    bench.settle();
    assert_eq!(bench.state.customers_short_of_names().count(), 2);
    bench.must(plan(&[], &[(5, 3)], bench.now_ms + 30 * DAY_MS));
    assert_eq!(bench.state.customers_short_of_names().count(), 0, "the plan says who has which");
}

/// What each host has.
fn loads(fleet: &Fleet) -> [u64; 4] {
    [0, 1, 2, 3].map(|at| {
        let here = fleet.names.iter().filter(|name| name.host == Some(at));
        here.map(|name| name.load).sum()
    })
}

#[test]
fn loads_are_told_where_they_are_until_customers_and_names_have_moved() {
    let mut bench = Bench::new(4, 8);
    let seen = |bench: &Bench| loads(&bench.state.fleet_as_seen(bench.now_ms));
    let before = seen(&bench);
    bench.must(plan(&[1], &[(5, 2)], bench.now_ms + 30 * DAY_MS));
    bench.must(announce());
    bench.settle();
    assert_eq!(seen(&bench), before, "nobody has moved");
    assert_eq!(loads(&bench.state.fleet(bench.now_ms))[0], 0, "the planner looks ahead");
    for n in 1..=8 {
        let survey = Survey::Moved { at_ms: bench.now_ms };
        bench.must(surveyed(&format!("c{n}"), survey));
    }
    let after = seen(&bench);
    assert_eq!((after[0], after), (0, loads(&bench.state.fleet_after(bench.now_ms))));
    bench.must(point(3, 4, Some(bench.now_ms + DAY_MS), false));
    assert_eq!(seen(&bench), after, "its date has not come");
}
