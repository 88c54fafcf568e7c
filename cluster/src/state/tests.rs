//! The state as a whole: retries, versions, the trail, taking apart and putting together.

use super::*;

fn request(id: u128, command: Command) -> Request {
    Request::new(id, "ops", 1000 + u64::try_from(id).unwrap(), command)
}

fn customer(id: &str) -> Command {
    Command::CustomerAdd(Customer {
        id: id.to_owned(),
        name: id.to_owned(),
        contacts: vec![format!("ops@{id}.test")],
        status: CustomerStatus::Active,
    })
}

fn domain(name: &str, route: &str) -> Command {
    Command::DomainAdd(Domain {
        name: name.to_owned(),
        customer: "acme".to_owned(),
        route: route.parse().unwrap(),
        tls: TlsPolicy::Opportunistic,
        connections_max: None,
    })
}

fn populated() -> State {
    let mut state = State::default();
    state.apply(1, &request(1, customer("acme"))).unwrap();
    for n in 0..600 {
        let index = 2 + n;
        let add = domain(&format!("d{n}.test"), "mx");
        state.apply(index, &request(u128::from(index), add)).unwrap();
    }
    let rejected = |n| RecipientEvent::Rejected {
        address: format!("u{n}@d{n}.test"),
        at_ms: n,
        reply: String::new(),
    };
    let events = (0..500).map(rejected).collect();
    let report = Command::BlacklistReport { node: 1, incarnation: 1, sequence: 1, events };
    assert_eq!(state.apply(900, &request(900, report)), Ok(500));
    let key = Command::ReturnKeyAdd { number: 1, secret: Secret::new([7; 32]) };
    assert_eq!(state.apply(901, &request(901, key)), Ok(1));
    let tagged = Command::ReturnPathSet { domain: "d7.test".to_owned(), tagged: true };
    assert_eq!(state.apply(902, &request(902, tagged)), Ok(1));
    state
}

fn rebuilt(state: &State) -> State {
    let mut copy = State::default();
    for part in state.parts() {
        copy.absorb(part);
    }
    copy
}

#[test]
fn a_retry_is_answered_as_the_first_time_and_changes_nothing() {
    let mut state = State::default();
    let add = request(9, customer("acme"));
    assert_eq!(state.apply(1, &add), Ok(1));
    assert_eq!(state.apply(2, &add), Ok(1));
    let again = request(10, customer("acme"));
    assert!(matches!(state.apply(3, &again), Err(Refusal::Conflict(_))));
    assert_eq!(state.audit().count(), 2);
}

#[test]
fn a_change_made_on_an_old_version_is_refused() {
    let mut state = populated();
    let set = |id, route: &str| {
        let change = DomainChange { route: Some(route.parse().unwrap()), ..Default::default() };
        request(id, Command::DomainSet { name: "d7.test".to_owned(), change })
    };
    let seen = state.domain_version("d7.test");
    assert_eq!(state.apply(1000, &set(1000, "a.test").expecting(seen)), Ok(1));
    let late = state.apply(1001, &set(1001, "b.test").expecting(seen));
    assert!(matches!(late, Err(Refusal::Conflict(_))), "{late:?}");
    assert_eq!(state.domain("d7.test").unwrap().route.to_string(), "a.test:25");
    let new = request(1002, domain("new.test", "mx")).expecting(0);
    assert_eq!(state.apply(1002, &new), Ok(1));
}

#[test]
fn the_trail_says_who_asked_what() {
    let state = populated();
    let newest = state.audit().next().unwrap();
    assert_eq!(newest.actor, "ops");
    assert_eq!(newest.what, "domain set d7.test --return-path tagged");
    let before = state.audit().nth(1).unwrap();
    assert_eq!(before.what, "domain add d599.test --customer acme --route mx");
}

#[test]
fn a_state_put_together_from_its_parts_is_the_same_and_goes_on_the_same() {
    let mut state = populated();
    let mut copy = rebuilt(&state);
    for index in 1000..1300 {
        let remove = Command::DomainRemove { name: format!("d{}.test", index - 1000) };
        let remove = request(u128::from(index), remove);
        assert_eq!(state.apply(index, &remove), copy.apply(index, &remove));
    }
    assert!(state.parts().eq(copy.parts()));
    assert_eq!(copy.blacklist_tracked(), state.blacklist_tracked());
    assert_eq!(copy.domains().count(), 300);
}

#[test]
fn the_fleets_clock_never_goes_back() {
    let mut state = State::default();
    state.apply(1, &Request::new(1, "ops", 5000, Command::Tick)).unwrap();
    state.apply(2, &Request::new(2, "ops", 4000, Command::Tick)).unwrap();
    assert_eq!(state.clock_ms(), 5000);
}

#[test]
fn the_order_of_commands_is_the_format_and_has_not_changed() {
    // A command's place in the enum is what is written to logs. Append; never insert.
    let first = |command: Command| {
        let bytes = crate::codec::encode(crate::codec::Kind::Batch, &command).unwrap();
        bytes[crate::codec::HEAD_OCTETS]
    };
    let name = || "x".to_owned();
    assert_eq!(first(customer("x")), 0);
    assert_eq!(first(Command::CustomerRemove { id: name() }), 3);
    assert_eq!(first(domain("x.test", "mx")), 4);
    assert_eq!(first(Command::DomainImport { domains: Vec::new() }), 7);
    assert_eq!(first(Command::SettingSet { name: name(), value: None }), 8);
    let host = NewHost { name: name(), address: name(), version: name(), key: [0; 32] };
    assert_eq!(first(Command::HostFound { host: host.clone(), seed: 0 }), 9);
    assert_eq!(first(Command::HostJoin { token: [0; 32], host }), 11);
    assert_eq!(first(Command::HostRemove { name: name() }), 14);
    assert_eq!(first(Command::Tick), 15);
    assert_eq!(first(Command::BlacklistFreeze { domain: name(), frozen: true }), 19);
    assert_eq!(first(Command::DomainCommit { import: 0, parts: 0 }), 21);
}

#[test]
fn a_large_import_goes_in_all_at_once_or_not_at_all() {
    let mut state = populated();
    let rows = |from: u32, customer: &str| -> Vec<Domain> {
        let row = |n| Domain {
            name: format!("new{n}.test"),
            customer: customer.to_owned(),
            route: Route::Mx,
            tls: TlsPolicy::Opportunistic,
            connections_max: None,
        };
        (from..from + 300).map(row).collect()
    };
    let mut id = 5000;
    let mut ask = |state: &mut State, command| {
        id += 1;
        state.apply(id, &request(u128::from(id), command))
    };
    let stage = |import, part, domains| Command::DomainStage { import, part, domains };
    assert_eq!(ask(&mut state, stage(1, 0, rows(0, "acme"))), Ok(300));
    assert_eq!(ask(&mut state, stage(1, 1, rows(300, "acme"))), Ok(600));
    assert_eq!(state.domains().count(), 600, "nothing changed yet");
    let mut copy = rebuilt(&state);
    for state in [&mut state, &mut copy] {
        assert_eq!(ask(state, Command::DomainCommit { import: 1, parts: 2 }), Ok(600));
        assert_eq!(state.domains().count(), 1200);
    }
    assert!(ask(&mut state, Command::DomainCommit { import: 1, parts: 2 }).is_err(), "gone");
    ask(&mut state, stage(2, 0, rows(1000, "acme"))).unwrap();
    assert!(ask(&mut state, stage(2, 2, rows(1300, "acme"))).is_err(), "a part is missing");
    ask(&mut state, stage(2, 1, rows(1300, "nobody"))).unwrap();
    assert!(ask(&mut state, Command::DomainCommit { import: 2, parts: 2 }).is_err());
    assert_eq!(state.domains().count(), 1200, "not one of them");
}

#[test]
fn a_domain_that_goes_takes_its_return_path_along() {
    let mut state = populated();
    let set = |domain: &str| Command::ReturnPathSet { domain: domain.to_owned(), tagged: true };
    assert!(state.apply(950, &request(950, set("nobody.test"))).is_err());
    assert!(state.has_tagged_return_path("d7.test") && !state.has_tagged_return_path("d8.test"));
    let remove = Command::DomainRemove { name: "d7.test".to_owned() };
    state.apply(951, &request(951, remove)).unwrap();
    state.apply(952, &request(952, domain("d7.test", "mx"))).unwrap();
    assert!(!state.has_tagged_return_paths() && state.return_keys().len() == 1);
}
