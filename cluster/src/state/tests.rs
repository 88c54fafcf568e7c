//! The state as a whole: retries, versions, the trail, taking apart and putting together.

use super::sharded::hash;
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
        recipients: RecipientPolicy::default(),
    })
}

fn populated() -> State {
    let mut state = State::default();
    let (name, value) = ("blacklist.hold".to_owned(), Some("3d".to_owned()));
    state.apply(1, &request(0, Command::SettingSet { name, value })).unwrap();
    state.apply(1, &request(1, customer("acme"))).unwrap();
    for n in 0..3 {
        let customer = "acme".to_owned();
        let issue = LinkCommand::Issue { hash: [n; 32], customer, by_mail: true };
        let request = request(700 + u128::from(n), Command::CustomerLink(issue));
        assert_eq!(state.apply(1, &request), Ok(1));
    }
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
    let taken = |n| RecipientNews::Taken { address: format!("t{n}@d7.test"), at_ms: n };
    let news = Command::RecipientNews { news: (0..500).map(taken).collect() };
    assert_eq!(state.apply(901, &request(901, news)), Ok(500));
    let (version, at_ms) = (state.domain_version("d8.test"), 900);
    let answered = |n: u64| RecipientNews::Answered {
        address: format!("a{n}@d8.test"),
        is_known: n.is_multiple_of(2),
        version,
        at_ms,
    };
    let domain = "d8.test".to_owned();
    let all = RecipientNews::CatchAll { domain, is_catch_all: true, version, at_ms };
    let news = Command::RecipientNews { news: (0..500).map(answered).chain([all]).collect() };
    assert_eq!(state.apply(902, &request(904, news)), Ok(501));
    let entries = (0..500).map(|n| format!("r{n}")).collect();
    let stage = Command::RecipientsStage { upload: 1, part: 0, entries };
    assert_eq!(state.apply(902, &request(902, stage)), Ok(500));
    let commit = Command::RecipientsCommit { domain: "d7.test".to_owned(), upload: 1, parts: 1 };
    assert_eq!(state.apply(903, &request(903, commit)), Ok(500));
    let key = Command::ReturnKeyAdd { number: 1, secret: Secret::new([7; 32]) };
    assert_eq!(state.apply(904, &request(905, key)), Ok(1));
    let tagged = Command::ReturnPathSet { domain: "d7.test".to_owned(), tagged: true };
    assert_eq!(state.apply(905, &request(906, tagged)), Ok(1));
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
fn an_id_is_no_other_changes() {
    let mut state = State::default();
    state.apply(1, &request(8, customer("acme"))).unwrap();
    assert_eq!(state.apply(2, &request(9, customer("other"))), Ok(1));
    let contacts = Some(vec!["new@acme.test".to_owned()]);
    let others = [
        Command::CustomerRemove { id: "acme".to_owned() },
        customer("third"),
        Command::CustomerSet { id: "other".to_owned(), name: None, contacts },
    ];
    for state in [&mut rebuilt(&state), &mut state] {
        for command in &others {
            let refused = state.apply(3, &request(9, command.clone()));
            let told = "this id was used for another change";
            assert!(refused.unwrap_err().to_string().starts_with(told), "{command:?}");
        }
        assert_eq!(state.customers().count(), 2);
        assert_eq!(state.apply(4, &request(9, customer("other"))), Ok(1), "a true repeat");
    }
}

#[test]
fn a_repeat_is_known_by_what_was_asked_and_not_by_what_was_worked_out_for_it() {
    let mut state = populated();
    let exempt = |until_ms| {
        let exemption = Some(Exemption { reason: "vip".to_owned(), until_ms: Some(until_ms) });
        Command::BlacklistExempt { address: "u1@d1.test".to_owned(), exemption }
    };
    let first = state.apply(1000, &request(1000, exempt(90_000)));
    assert_eq!(first, Ok(1));
    assert_eq!(state.apply(1001, &request(1000, exempt(90_500))), first, "5m from now, twice");
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
    let newest: Vec<_> = state.audit().take(3).collect();
    assert!(newest.iter().all(|record| record.actor == "ops"));
    assert_eq!(newest[0].what, "domain set d7.test --return-path tagged");
    assert_eq!(newest[1].what, "domain set d7.test --recipients");
    assert_eq!(newest[2].what, "domain add d599.test --customer acme --route mx");
}

#[test]
fn the_trail_says_what_was_set() {
    let change = DomainChange {
        customer: Some("other".to_owned()),
        connections_max: Some(Some(2)),
        ..Default::default()
    };
    let set = Command::DomainSet { name: "d7.test".to_owned(), change };
    let host = HostCommand::Set {
        name: "mx2".to_owned(),
        addresses: vec!["192.0.2.2".parse().unwrap(), "2001:db8::2".parse().unwrap()],
    };
    let customer = Command::CustomerSet {
        id: "acme".to_owned(),
        name: None,
        contacts: Some(vec!["a@acme.test".to_owned(), "b@acme.test".to_owned()]),
    };
    for (command, what) in [
        (set, "domain set d7.test --customer other --connections-max 2"),
        (Command::HostService(host), "host set mx2 --address 192.0.2.2 --address 2001:db8::2"),
        (customer, "customer set acme --contact a@acme.test --contact b@acme.test"),
    ] {
        assert_eq!(command.summary().as_deref(), Some(what));
    }
}

#[test]
fn answers_about_addresses_chosen_to_share_a_leaf_do_not_share_one() {
    let mut state = State::default();
    state.apply(1, &request(1, customer("acme"))).unwrap();
    state.apply(2, &request(2, domain("x.test", "mx"))).unwrap();
    let addresses = (0..).map(|n| format!("u{n}@x.test"));
    // Whoever does not know the fleet's secret can only take it to be 0.
    let chosen = addresses.filter(|address| hash(0, address.as_bytes()) >> 51 == 7);
    let (is_known, version, at_ms) = (false, state.domain_version("x.test"), 5);
    let answered = |address| RecipientNews::Answered { address, is_known, version, at_ms };
    let news: Vec<RecipientNews> = chosen.take(200).map(answered).collect();
    let host = NewHost {
        name: "mx1".to_owned(),
        address: "192.0.2.1:7946".to_owned(),
        version: "0.1.0".to_owned(),
        key: [0; 32],
        speaks: CLUSTER_VERSION,
    };
    let largest = |seed| {
        let (mut state, news, host) = (state.clone(), news.clone(), host.clone());
        state.apply(3, &request(3, Command::HostFound { host, seed })).unwrap();
        assert_eq!(state.apply(4, &request(4, Command::RecipientNews { news })), Ok(200));
        let copy = rebuilt(&state);
        assert!(copy.parts().eq(state.parts()));
        [state, copy].map(|state| state.answers.leaf_rows_max())
    };
    assert_eq!(largest(0), [200, 200]);
    assert!(largest(7).iter().all(|rows| *rows < 10));
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
    assert_eq!(format!("{:?}", copy.numbers), format!("{:?}", state.numbers));
    assert_eq!(copy.blacklist_counts(), state.blacklist_counts());
    assert_eq!(state.blacklist_counts().tracked, 500);
    assert_eq!(copy.domains().count(), 300);
    assert!(copy.recipient_list("d7.test").is_none(), "a domain's list goes with it");
}

#[test]
fn a_list_is_a_change_of_its_domain() {
    let mut state = populated();
    assert!(state.recipient_list("d7.test").unwrap().has("r499"));
    assert_eq!(state.domain_version("d7.test"), 903);
    let remove = Command::RecipientsRemove { domain: "d7.test".to_owned() };
    let late = state.apply(1000, &request(1000, remove.clone()).expecting(9));
    assert!(matches!(late, Err(Refusal::Conflict(_))), "{late:?}");
    assert_eq!(state.apply(1001, &request(1001, remove).expecting(903)), Ok(1));
    let commit = Command::RecipientsCommit { domain: "x.test".to_owned(), upload: 1, parts: 1 };
    assert!(matches!(state.apply(1002, &request(1002, commit)), Err(Refusal::NotFound(_))));
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
    let host = NewHost { name: name(), address: name(), version: name(), key: [0; 32], speaks: 1 };
    assert_eq!(first(Command::HostFound { host: host.clone(), seed: 0 }), 9);
    assert_eq!(first(Command::HostJoin { token: [0; 32], host }), 11);
    assert_eq!(first(Command::HostRemove { name: name(), force: false }), 14);
    assert_eq!(first(Command::Tick), 15);
    assert_eq!(first(Command::BlacklistFreeze { domain: name(), frozen: true }), 19);
    assert_eq!(first(Command::DomainCommit { import: 0, parts: 0 }), 21);
    assert_eq!(first(Command::ClusterVersion { to: 1 }), 22);
    assert_eq!(first(Command::Name(NameCommand::Keep { name: name() })), 23);
    assert_eq!(first(Command::Traffic { counts: Vec::new() }), 28);
    assert_eq!(first(Command::RecipientNews { news: Vec::new() }), 29);
    assert_eq!(first(Command::RecipientsRemove { domain: name() }), 32);
}

#[test]
fn a_large_import_goes_in_all_at_once_or_not_at_all() {
    const FIRST: u128 = 1 << 64;
    const SECOND: u128 = 2 << 64;
    let mut state = populated();
    let rows = |from: u32, customer: &str| -> Vec<Domain> {
        let row = |n| Domain {
            name: format!("new{n}.test"),
            customer: customer.to_owned(),
            route: Route::Mx,
            tls: TlsPolicy::Opportunistic,
            connections_max: None,
            recipients: RecipientPolicy::default(),
        };
        (from..from + 300).map(row).collect()
    };
    let mut id = 5000;
    let mut ask = |state: &mut State, command| {
        id += 1;
        state.apply(id, &request(u128::from(id), command))
    };
    let stage = |import, part, domains| Command::DomainStage { import, part, domains };
    assert_eq!(ask(&mut state, stage(FIRST, 0, rows(0, "acme"))), Ok(300));
    assert_eq!(ask(&mut state, stage(FIRST, 1, rows(300, "acme"))), Ok(300));
    assert_eq!(state.domains().count(), 600, "nothing changed yet");
    let mut copy = rebuilt(&state);
    for state in [&mut state, &mut copy] {
        assert_eq!(ask(state, Command::DomainCommit { import: FIRST, parts: 2 }), Ok(600));
        assert_eq!(state.domains().count(), 1200);
    }
    assert!(ask(&mut state, Command::DomainCommit { import: FIRST, parts: 2 }).is_err(), "gone");
    ask(&mut state, stage(SECOND, 0, rows(1000, "acme"))).unwrap();
    assert!(ask(&mut state, stage(SECOND, 2, rows(1300, "acme"))).is_err(), "a part is missing");
    ask(&mut state, stage(SECOND, 1, rows(1300, "nobody"))).unwrap();
    assert!(ask(&mut state, Command::DomainCommit { import: SECOND, parts: 2 }).is_err());
    assert_eq!(state.domains().count(), 1200, "not one of them");
}

#[test]
fn every_part_of_a_full_state_fits_a_record_with_room_to_spare() {
    let mut state = State::default();
    let mut index = 0;
    let mut ask = |state: &mut State, command| {
        index += 1;
        state.apply(index, &request(u128::from(index), command))
    };
    let long = "x".repeat(300);
    for n in 0..20_000 {
        let address = format!("{n}{}@example.test", &long[..280]);
        let exemption = Exemption { reason: long[..200].to_owned(), until_ms: None };
        let exempt = Command::BlacklistExempt { address, exemption: Some(exemption) };
        assert_eq!(ask(&mut state, exempt), Ok(1));
        let domain = format!("{n}{}.test", &long[..300]);
        assert_eq!(ask(&mut state, Command::BlacklistFreeze { domain, frozen: true }), Ok(1));
    }
    // Whatever is asked, what is remembered of it is short.
    let endless = "y".repeat(400_000);
    for n in 0..200 {
        let name = format!("{n}{endless}");
        assert!(ask(&mut state, Command::DomainRemove { name: name.clone() }).is_err());
        let value = Some("0".repeat(400_000));
        assert!(ask(&mut state, Command::SettingSet { name: name.clone(), value }).is_err());
        let (name, value) = ("blacklist.threshold".to_owned(), Some("0".repeat(400_000) + "7"));
        assert!(ask(&mut state, Command::SettingSet { name, value }).is_err());
    }
    let mut parts = 0;
    for part in state.parts() {
        let bytes = crate::codec::encode(crate::codec::Kind::SnapshotPart, &part).unwrap();
        assert!(bytes.len() < crate::codec::BODY_OCTETS_MAX / 4, "{} octets", bytes.len());
        parts += 1;
    }
    assert!(parts > 150, "{parts}");
    let copy = rebuilt(&state);
    assert!(state.parts().eq(copy.parts()));
    assert_eq!(copy.blacklist_exempt(copy.clock_ms()).count(), 20_000);
    assert_eq!(copy.blacklist_frozen(copy.clock_ms()).count(), 20_000);
}

#[test]
fn an_import_that_is_asked_for_again_after_it_was_done_is_answered_as_then() {
    let mut state = populated();
    let domains = match domain("new.test", "mx") {
        Command::DomainAdd(domain) => vec![domain],
        other => panic!("{other:?}"),
    };
    let stage = Command::DomainStage { import: 7000, part: 0, domains };
    let commit = request(7000, Command::DomainCommit { import: 7000, parts: 1 });
    state.apply(1001, &request(6001, stage.clone())).unwrap();
    assert_eq!(state.apply(1002, &commit), Ok(1));
    assert_eq!(state.apply(1003, &request(6002, stage)), Ok(0));
    assert_eq!(state.apply(1004, &commit), Ok(1));
    let waiting = state.parts().filter(|part| matches!(part, Part::Import(_))).count();
    assert_eq!(waiting, 0, "nothing is left over");
}

/// A state with a domain whose server is asked, and what is known there of an address.
fn verifying() -> (State, impl Fn(&State, u64) -> Verification) {
    let mut state = State::default();
    state.apply(1, &request(1, customer("acme"))).unwrap();
    state.apply(2, &request(2, domain("acme.test", "mx"))).unwrap();
    verify(&mut state, 3, Verify::Callout);
    (state, |state: &State, now_ms| state.verification("jane@acme.test", now_ms))
}

fn verify(state: &mut State, id: u64, verify: Verify) {
    let recipients = RecipientChange { verify: Some(verify), ..Default::default() };
    let change = DomainChange { recipients, ..DomainChange::default() };
    let name = "acme.test".to_owned();
    state.apply(id, &request(id.into(), Command::DomainSet { name, change })).unwrap();
}

fn tell(state: &mut State, id: u64, at_ms: u64, news: RecipientNews) {
    let command = Command::RecipientNews { news: vec![news] };
    state.apply(id, &Request::new(id.into(), "node", at_ms, command)).unwrap();
}

#[test]
fn an_answer_lasts_for_its_time_and_until_the_domain_is_changed() {
    const HOUR: u64 = 3_600_000;
    let (mut state, ask) = verifying();
    let answered = |is_known, version, at_ms| RecipientNews::Answered {
        address: "jane@acme.test".to_owned(),
        is_known,
        version,
        at_ms,
    };
    assert_eq!(ask(&state, HOUR), Verification::Ask);
    tell(&mut state, 10, HOUR, answered(false, 3, HOUR));
    assert_eq!(ask(&state, 3 * HOUR - 1), Verification::Unknown);
    assert_eq!(ask(&state, 3 * HOUR), Verification::Ask);
    tell(&mut state, 11, HOUR, answered(true, 3, HOUR));
    assert_eq!(ask(&state, 25 * HOUR - 1), Verification::Passes);
    assert_eq!(ask(&state, 25 * HOUR), Verification::Ask);
    let address = "jane@acme.test".to_owned();
    assert_eq!(state.apply(12, &request(12, Command::BlacklistPardon { address })), Ok(1));
    assert_eq!(ask(&state, 2 * HOUR), Verification::Ask);

    tell(&mut state, 13, HOUR, answered(false, 3, HOUR));
    let route = Some("other.test".parse().unwrap());
    let change = DomainChange { route, ..DomainChange::default() };
    let name = "acme.test".to_owned();
    state.apply(14, &request(14, Command::DomainSet { name, change })).unwrap();
    assert_eq!(ask(&state, HOUR), Verification::Ask, "another server may know more");
    tell(&mut state, 15, HOUR, answered(false, 3, HOUR));
    assert_eq!(ask(&state, HOUR), Verification::Ask, "asked before the change, told after it");
}

#[test]
fn nobody_is_asked_where_any_name_is_known_or_mail_was_taken_or_asking_is_off() {
    let (mut state, ask) = verifying();
    let address = "jane@acme.test".to_owned();
    tell(&mut state, 10, 5000, RecipientNews::Taken { address: address.clone(), at_ms: 5000 });
    assert_eq!(ask(&state, 5000), Verification::Passes);
    let rejected = RecipientEvent::Rejected { address, at_ms: 6000, reply: String::new() };
    let (node, incarnation, sequence, events) = (1, 1, 1, vec![rejected]);
    let report = Command::BlacklistReport { node, incarnation, sequence, events };
    state.apply(11, &Request::new(11, "node", 6000, report)).unwrap();
    assert_eq!(ask(&state, 6000), Verification::Ask, "it may have gone since");
    let catch_all = |is_catch_all| RecipientNews::CatchAll {
        domain: "acme.test".to_owned(),
        is_catch_all,
        version: 3,
        at_ms: 6000,
    };
    tell(&mut state, 12, 6000, catch_all(false));
    assert_eq!(state.is_catch_all("acme.test", 6000), Some(false));
    assert_eq!(ask(&state, 6000), Verification::Ask);
    tell(&mut state, 13, 6000, catch_all(true));
    assert_eq!(ask(&state, 6000), Verification::Passes);
    assert_eq!(ask(&state, 6000 + 86_400_000), Verification::Ask);
    verify(&mut state, 14, Verify::Off);
    assert_eq!(ask(&state, 6000 + 86_400_000), Verification::Passes);
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
