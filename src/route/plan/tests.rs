//! Tables of answers and the plans that come of them.

use std::collections::HashSet;

use mxfleet_cluster::State;

use super::*;
use crate::route::Own;

const BOUNDS: PlanBounds = PlanBounds { targets_max: 10, addresses_per_host_max: 4 };

fn records(list: &[(u16, &str)]) -> Vec<(u16, String)> {
    list.iter().map(|(preference, host)| (*preference, (*host).to_owned())).collect()
}

fn own() -> Own {
    Own {
        names: HashSet::from(["mx-a.relay.test".to_owned(), "mx-b.relay.test".to_owned()]),
        addresses: HashSet::from(["192.0.2.2".parse().unwrap()]),
        listeners: vec!["0.0.0.0:25".parse().unwrap()],
        allow_loopback: false,
    }
}

fn is_ours(located: &Located) -> bool {
    is_us(located, Us { own: &own(), fleet: &State::default() })
}

/// The hosts left for `acme.test` after the cut by name.
fn hosts(list: &[(u16, &str)]) -> Result<Vec<String>, RouteFailure> {
    let own = own();
    let found = exchangers("acme.test", records(list), 25)?;
    let mut left = better_than_us(found, |e| e.preference, |e| own.is_named(&e.host))?;
    sort(&mut left, 1);
    Ok(left.into_iter().map(|exchanger| exchanger.host).collect())
}

#[test]
fn only_exchangers_better_than_ourselves_are_left() {
    for (list, left) in [
        (&[(10, "mail.acme.test."), (20, "mx-a.relay.test.")][..], Ok(&["mail.acme.test"][..])),
        (&[(10, "mail.acme.test."), (10, "mx-a.relay.test.")], Err(RouteFailure::LoopsBack)),
        (&[(10, "mx-a.relay.test."), (20, "mail.acme.test.")], Err(RouteFailure::LoopsBack)),
        (
            &[(10, "a.test."), (20, "mx-b.relay.test."), (20, "b.test."), (30, "mx-a.relay.test.")],
            Ok(&["a.test"]),
        ),
        (&[(10, "MX-A.Relay.Test."), (5, "Mail.Acme.Test.")], Ok(&["mail.acme.test"])),
        (&[(30, "c.test."), (10, "a.test."), (20, "b.test.")], Ok(&["a.test", "b.test", "c.test"])),
        (&[], Ok(&["acme.test"])),
        (&[(0, ".")], Err(RouteFailure::NullMx)),
        (&[(0, "."), (10, "mail.acme.test.")], Ok(&["mail.acme.test"])),
    ] {
        let left = left.map(|hosts| hosts.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>());
        assert_eq!(hosts(list), left, "{list:?}");
    }
}

#[test]
fn equal_preferences_are_shuffled_and_others_are_not() {
    let found = exchangers(
        "acme.test",
        records(&[(10, "a.test"), (10, "b.test"), (10, "c.test"), (20, "d.test")]),
        25,
    )
    .unwrap();
    let mut first = HashSet::new();
    for entropy in 0..100 {
        let mut shuffled = found.clone();
        sort(&mut shuffled, entropy);
        first.insert(shuffled[0].host.clone());
        assert_eq!(shuffled[3].host, "d.test");
    }
    assert_eq!(first.len(), 3);
}

fn located(preference: u16, host: &str, addresses: &[&str]) -> Located {
    let exchanger = Exchanger { preference, host: host.to_owned(), port: 25 };
    let addresses = Ok(addresses.iter().map(|ip| ip.parse().unwrap()).collect());
    Located { exchanger, addresses }
}

fn failed(host: &str) -> Located {
    let why = RouteFailure::Dns { name: host.to_owned(), why: "SERVFAIL".to_owned() };
    Located { addresses: Err(why), ..located(10, host, &[]) }
}

fn plan(list: Vec<Located>) -> Result<Vec<Target>, RouteFailure> {
    targets(list, Us { own: &own(), fleet: &State::default() }, BOUNDS)
}

fn addresses(list: Vec<Located>) -> Result<Vec<String>, RouteFailure> {
    Ok(plan(list)?.into_iter().map(|target| target.address.ip().to_string()).collect())
}

#[test]
fn a_record_that_is_us_by_address_cuts_like_one_by_name() {
    let list = vec![
        located(10, "good.test", &["198.51.100.1"]),
        located(20, "other-name-of-ours.test", &["192.0.2.2"]),
        located(30, "worse.test", &["198.51.100.3"]),
    ];
    let left = better_than_us(list, |l| l.exchanger.preference, is_ours).unwrap();
    assert_eq!(addresses(left).unwrap(), ["198.51.100.1"]);
    let loopback = vec![located(10, "localhost.acme.test", &["127.0.0.1"])];
    let left = better_than_us(loopback, |l| l.exchanger.preference, is_ours);
    assert_eq!(left.unwrap_err(), RouteFailure::LoopsBack);
}

#[test]
fn ipv6_and_ipv4_are_tried_in_turn() {
    let list = vec![located(
        10,
        "a.test",
        &["198.51.100.1", "198.51.100.2", "198.51.100.3", "2001:db8::1", "2001:db8::1"],
    )];
    let order = addresses(list).unwrap();
    assert_eq!(order, ["2001:db8::1", "198.51.100.1", "198.51.100.2", "198.51.100.3"]);
}

#[test]
fn a_host_without_addresses_does_not_stop_the_others() {
    let list = vec![failed("a.test"), located(20, "b.test", &["198.51.100.2"])];
    assert_eq!(addresses(list).unwrap(), ["198.51.100.2"]);
}

#[test]
fn without_any_address_the_failure_says_why() {
    let dns = addresses(vec![located(10, "a.test", &[]), failed("b.test")]).unwrap_err();
    assert_eq!(dns, RouteFailure::NoAddress("a.test".to_owned()));
    let multicast = addresses(vec![located(10, "a.test", &["224.0.0.1"])]).unwrap_err();
    assert_eq!(multicast, RouteFailure::NoAddress("a.test".to_owned()));
    let us = addresses(vec![failed("a.test"), located(20, "b.test", &["192.0.2.2"])]).unwrap_err();
    assert_eq!(us, RouteFailure::LoopsBack);
}

#[test]
fn the_plan_is_bounded() {
    let many: Vec<String> = (1..=200).map(|n| format!("198.51.100.{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let list = (0..20).map(|n| located(n, &format!("h{n}.test"), &many)).collect();
    assert_eq!(plan(list).unwrap().len(), 10);
    assert_eq!(plan(vec![located(1, "a.test", &many)]).unwrap().len(), 4);
}
