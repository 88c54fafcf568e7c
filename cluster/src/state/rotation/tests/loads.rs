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
