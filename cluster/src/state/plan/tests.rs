//! The planner against exact optima and lower bounds, on a thousand random fleets.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::balance::lower_bound;
use super::*;

/// At most this part above the best, in percent.
const WITHIN_PERCENT: u64 = 110;

fn fleet(hosts: usize, names: std::ops::Range<usize>, pairs: usize) -> BoxedStrategy<Fleet> {
    // Loads as they are: a few large names, many small ones.
    let load = prop_oneof![3 => 1_u64..100, 1 => 100_u64..1000];
    let name = (load, prop::option::weighted(0.95, 0..hosts));
    let usable = prop::collection::vec(prop::bool::weighted(0.9), hosts);
    (
        prop::collection::vec(name, names),
        usable,
        prop::collection::vec((0..100_usize, 0..100_usize), 0..=pairs),
    )
        .prop_map(|(rows, mut usable, pairs)| {
            usable[0] = true;
            let names = rows.len();
            let host = |(n, usable): (usize, bool)| FleetHost { name: format!("mx{n}"), usable };
            let name = |(n, (load, host)): (usize, (u64, Option<usize>))| FleetName {
                name: format!("n{n}"),
                host,
                load,
            };
            let mut apart: Vec<(usize, usize)> = pairs
                .into_iter()
                .map(|(a, b)| ((a % names).min(b % names), (a % names).max(b % names)))
                .filter(|(a, b)| a != b)
                .collect();
            apart.sort_unstable();
            apart.dedup();
            Fleet {
                hosts: usable.into_iter().enumerate().map(host).collect(),
                names: rows.into_iter().enumerate().map(name).collect(),
                apart,
            }
        })
        .boxed()
}

/// Every way to place the names: the fewest clashes, then the lowest peak, and then the fewest
/// moves that reach a tenth above that peak.
fn exact(fleet: &Fleet) -> (usize, u64, usize) {
    let usable: Vec<usize> = (0..fleet.hosts.len()).filter(|h| fleet.hosts[*h].usable).collect();
    let names = fleet.names.len();
    let count = usable.len().pow(u32::try_from(names).unwrap());
    let look = |code: usize| {
        let mut rest = code;
        let bins: Vec<usize> = (0..names)
            .map(|_| {
                let bin = usable[rest % usable.len()];
                rest /= usable.len();
                bin
            })
            .collect();
        let mut loads = vec![0; fleet.hosts.len()];
        for (name, bin) in fleet.names.iter().zip(&bins) {
            loads[*bin] += name.load;
        }
        let clashes = fleet.apart.iter().filter(|(a, b)| bins[*a] == bins[*b]).count();
        let moves = fleet.names.iter().zip(&bins).filter(|(n, b)| n.host != Some(**b)).count();
        (clashes, loads.into_iter().max().unwrap(), moves)
    };
    let (clashes, peak) = (0..count).map(look).map(|(c, p, _)| (c, p)).min().unwrap();
    let good = |(c, p, _): &(usize, u64, usize)| *c == clashes && *p <= peak * WITHIN_PERCENT / 100;
    let moves = (0..count).map(look).filter(good).map(|(_, _, moves)| moves).min().unwrap();
    (clashes, peak, moves)
}

/// Whichever name stayed where it was, some host would have too much, or some customer two names
/// on one host.
fn assert_no_move_is_needless(fleet: &Fleet, plan: &Plan, most: u64) {
    let place = |host: &str| fleet.hosts.iter().position(|row| row.name == host).unwrap();
    let mut hosts: Vec<Option<usize>> = fleet.names.iter().map(|name| name.host).collect();
    let index = |name: &str| fleet.names.iter().position(|row| row.name == name).unwrap();
    for step in &plan.moves {
        hosts[index(&step.name)] = Some(place(&step.to));
    }
    for step in &plan.moves {
        let from = step.from.as_deref().map(place).filter(|at| fleet.hosts[*at].usable);
        let Some(from) = from else { continue };
        let mut hosts = hosts.clone();
        hosts[index(&step.name)] = Some(from);
        let here = (0..hosts.len()).filter(|name| hosts[*name] == Some(from));
        let load: u64 = here.map(|name| fleet.names[name].load).sum();
        let clashes = fleet.apart.iter().any(|(a, b)| hosts[*a] == hosts[*b]);
        assert!(load > most || clashes, "{} need not move: {fleet:?} {plan:?}", step.name);
    }
}

fn peak(plan: &Plan) -> u64 {
    plan.loads.iter().map(|(_, _, after)| *after).max().unwrap()
}

/// The same fleets in every run.
fn runner() -> TestRunner {
    let config = Config { failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

fn samples(strategy: &BoxedStrategy<Fleet>, count: usize) -> Vec<Fleet> {
    let mut runner = runner();
    (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

#[test]
fn small_fleets_are_balanced_as_well_as_can_be_with_the_fewest_moves() {
    let kinds = [(2, 1..9, 3), (3, 1..8, 5), (4, 1..7, 4), (3, 4..8, 12)];
    for (hosts, names, pairs) in kinds {
        for fleet in samples(&fleet(hosts, names, pairs), 125) {
            let (clashes, best, moves) = exact(&fleet);
            let plan = fleet.rebalance().unwrap();
            assert_eq!(plan.clashes, clashes, "{fleet:?} {plan:?}");
            if clashes == 0 {
                assert!(peak(&plan) * 100 <= best * WITHIN_PERCENT, "{fleet:?} {plan:?}");
                assert_eq!(plan.moves.len(), moves, "{fleet:?} {plan:?}");
            }
        }
    }
}

#[test]
fn large_fleets_are_within_a_tenth_of_the_bound_and_need_no_second_plan() {
    let kinds = [(5, 10..30, 10), (8, 20..60, 40), (12, 30..80, 60), (20, 40..100, 100)];
    for (hosts, names, pairs) in kinds {
        for fleet in samples(&fleet(hosts, names, pairs), 125) {
            let plan = fleet.rebalance().unwrap();
            assert_eq!(plan.clashes, 0, "{fleet:?}");
            let usable = fleet.hosts.iter().filter(|host| host.usable).count();
            // The exact search knows what is best where it comes to an end; that it is right is
            // shown on small fleets.
            let found = balance::best(&fleet.items(), usable);
            let bound = if found.proven { found.peak } else { lower_bound(&fleet.items(), usable) };
            assert!(
                peak(&plan) * 100 <= bound * WITHIN_PERCENT,
                "{} is far above {bound}: {fleet:?}",
                peak(&plan)
            );
            assert_no_move_is_needless(&fleet, &plan, found.peak.max(bound * WITHIN_PERCENT / 100));
            let mut after = fleet.clone();
            for step in &plan.moves {
                let to = after.hosts.iter().position(|host| host.name == step.to);
                after.names.iter_mut().find(|name| name.name == step.name).unwrap().host = to;
            }
            assert_eq!(after.rebalance().unwrap().moves, []);
        }
    }
}

#[test]
fn a_host_that_leaves_takes_along_nothing_else() {
    for fleet in samples(&fleet(5, 5..20, 10), 200) {
        let Some(plan) = fleet.evacuate("mx1") else { continue };
        for step in &plan.moves {
            assert_eq!(step.from.as_deref(), Some("mx1"));
            assert!(fleet.hosts.iter().any(|host| host.name == step.to && host.usable));
        }
        let left = plan.loads.iter().find(|(name, ..)| name == "mx1").unwrap();
        assert_eq!(left.2, 0, "{plan:?}");
    }
    let alone = fleet_of_one();
    assert_eq!(alone.evacuate("mx0"), None);
    assert!(alone.rebalance().unwrap().moves.is_empty());
}

fn fleet_of_one() -> Fleet {
    let hosts = vec![FleetHost { name: "mx0".to_owned(), usable: true }];
    let names = vec![FleetName { name: "n0".to_owned(), host: Some(0), load: 5 }];
    Fleet { hosts, names, apart: Vec::new() }
}
