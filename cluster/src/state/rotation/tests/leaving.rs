//! Hosts that leave: what goes with them, and what comes back.

use super::*;

fn left(id: u64, messages: u64) -> Command {
    Command::HostService(HostCommand::MailLeft { id, messages })
}

#[test]
fn only_a_retired_host_is_removed_unless_it_is_lost() {
    let mut bench = Bench::new(0, 0);
    let why = bench.why(remove_host(1, false));
    assert!(why.contains("not retired") && why.contains("host drain mx1"), "{why}");
    bench.must(bench.drain(1));
    bench.must(left(1, 5000));
    assert!(bench.why(remove_host(1, false)).contains("not retired"), "with 5000 messages");
    bench.must(left(1, 0));
    for command in bench.state.due(bench.now_ms) {
        bench.must(command);
    }
    bench.must(remove_host(1, false));
    assert!(bench.state.host_named("mx1").is_none());

    bench.must(remove_host(2, true));
    assert!(bench.state.host_named("mx2").is_none(), "it was lost");
}

#[test]
fn a_lost_host_with_names_is_retired_first_and_its_names_go_elsewhere() {
    let mut bench = Bench::new(4, 0);
    assert!(bench.why(remove_host(1, true)).contains("host retire mx1 --force"));
    let moves = vec![(name(1), host(2))];
    bench.must(Command::HostService(HostCommand::Retire { name: host(1), force: true, moves }));
    bench.must(remove_host(1, false));
    bench.settle();
    let row = bench.state.name(&name(1)).unwrap();
    assert_eq!((row.home, row.target), (2, Some(2)));
}

fn drain_and_resume(bench: &mut Bench, n: usize, days: u64) {
    bench.must(bench.drain(n));
    bench.settle();
    bench.now_ms += days * DAY_MS;
    bench.must(Command::HostService(HostCommand::Resume { name: host(n) }));
    bench.settle();
}

fn row(bench: &Bench, n: usize) -> MxName {
    bench.state.name(&name(n)).unwrap().clone()
}

#[test]
fn a_name_that_was_to_leave_at_a_date_comes_back_until_then() {
    let mut bench = Bench::new(1, 0);
    let date = bench.now_ms + 30 * DAY_MS;
    bench.must(point(1, 2, Some(date), true));
    let before = row(&bench, 1).pointing;
    bench.must(bench.drain(1));
    bench.settle();
    assert_eq!(row(&bench, 1).target, Some(2), "it leaves with its host");
    bench.must(Command::HostService(HostCommand::Resume { name: host(1) }));
    let back = row(&bench, 1);
    assert_eq!(back.wanted(bench.now_ms, bench.state.ttl()), Some((1, 60)));
    bench.settle();
    let back = row(&bench, 1);
    let shown = (back.target, back.home, &back.pointing);
    assert_eq!(shown, (Some(1), 1, &before), "not 30 days early");

    drain_and_resume(&mut bench, 1, 31);
    let gone = row(&bench, 1);
    assert_eq!((gone.target, gone.home, gone.pointing), (Some(2), 2, None), "its date has come");
}

#[test]
fn a_name_that_is_to_come_at_a_date_stays_where_it_is_until_then() {
    for days in [0, 31] {
        let mut bench = Bench::new(3, 0);
        let date = bench.now_ms + 30 * DAY_MS;
        bench.must(point(3, 1, Some(date), false));
        let before = row(&bench, 3).pointing;
        bench.must(bench.drain(1));
        bench.settle();
        assert_eq!(row(&bench, 3).target, Some(3), "it has nothing to leave");
        assert_ne!(row(&bench, 3).aim(), Some(1), "and does not go to a host that is away");
        bench.must(Command::HostService(HostCommand::Resume { name: host(1) }));
        bench.settle();
        let back = row(&bench, 3);
        assert_eq!((back.target, &back.pointing), (Some(3), &before), "nor comes early");
        drain_and_resume(&mut bench, 1, days);
        let back = row(&bench, 3);
        let arrived = if days > 30 { (Some(1), None) } else { (Some(3), before) };
        assert_eq!((back.target, back.pointing), arrived);
    }
}

#[test]
fn a_name_does_not_go_on_to_a_host_that_is_away_by_then() {
    let mut bench = Bench::new(1, 0);
    bench.must(point(1, 2, Some(bench.now_ms + 30 * DAY_MS), false));
    bench.must(bench.drain(1));
    bench.settle();
    bench.must(bench.drain(2));
    bench.settle();
    bench.must(Command::HostService(HostCommand::Resume { name: host(1) }));
    bench.settle();
    let back = row(&bench, 1);
    assert_eq!((back.target, back.pointing), (Some(1), None));
}

#[test]
fn a_host_that_a_planned_name_is_to_point_at_can_leave() {
    for from_ms in [None, Some(31 * DAY_MS)] {
        let mut bench = Bench::new(4, 0);
        let (new, on) = (name(5), host(1));
        bench.must(Command::Name(NameCommand::Add { name: new, host: on, from_ms }));
        let mut lost = bench.clone();
        bench.must(bench.drain(1));
        let moved = row(&bench, 5);
        assert_ne!(moved.aim(), Some(1));
        assert_eq!(
            moved.pointing.map(|pointing| pointing.from_ms > bench.now_ms),
            Some(from_ms.is_some()),
            "a date stays one"
        );
        bench.must(Command::HostService(HostCommand::Resume { name: host(1) }));
        assert_eq!(row(&bench, 5).aim(), Some(1));
        bench.settle();
        bench.now_ms = 40 * DAY_MS;
        bench.settle();
        assert_eq!((row(&bench, 5).target, row(&bench, 5).home), (Some(1), 1));

        let Command::HostService(HostCommand::Drain { name, moves, .. }) = lost.drain(1) else {
            panic!("it is a drain");
        };
        lost.must(Command::HostService(HostCommand::Retire { name, force: true, moves }));
        assert_ne!(row(&lost, 5).aim(), Some(1));
    }
}

#[test]
fn no_name_comes_back_to_a_host_without_an_address() {
    let mut bench = Bench::new(1, 0);
    let set = |addresses: &[&str]| {
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        Command::HostService(HostCommand::Set { name: host(1), addresses })
    };
    bench.must(point(1, 2, Some(bench.now_ms + DAY_MS), false));
    assert!(bench.why(set(&[])).contains("names point at mx1"), "until tomorrow");
    bench.must(bench.drain(1));
    bench.settle();
    bench.must(set(&[]));
    let resume = Command::HostService(HostCommand::Resume { name: host(1) });
    let before = bench.tables();
    assert!(bench.why(resume.clone()).contains("host mx1 has no address"));
    assert!(bench.tables() == before);
    bench.must(set(&["192.0.2.1"]));
    bench.must(resume);
    bench.settle();
    assert_eq!(row(&bench, 1).target, Some(1));
}

#[test]
fn a_drain_does_not_wait_for_the_date_of_a_change_that_is_not_its_hosts() {
    let mut bench = Bench::new(4, 0);
    bench.must(point(1, 2, None, true));
    bench.publish();
    bench.must(point(1, 3, Some(bench.now_ms + 30 * DAY_MS), false));
    bench.must(bench.drain(1));
    assert!(bench.state.accepts_mail(1, bench.now_ms), "resolvers remember it");
    bench.settle();
    assert!(!bench.state.accepts_mail(1, bench.now_ms), "not for 30 days");
    bench.must(left(1, 0));
    let due = bench.state.due(bench.now_ms);
    assert!(matches!(due.as_slice(), [Command::HostService(_)]), "{due:?}");
}

#[test]
fn a_name_is_not_left_at_a_host_that_goes() {
    let stay = || Command::Name(NameCommand::Stay { name: name(1) });
    let mut bench = Bench::new(4, 0);
    bench.must(bench.drain(1));
    let (before, why) = (bench.tables(), bench.why(stay()));
    for part in ["host mx1 is being drained", "host resume mx1", "name point mx-1.relay.test HOST"]
    {
        assert!(why.contains(part), "{why}");
    }
    assert!(bench.tables() == before);
    bench.must(Command::HostService(HostCommand::Resume { name: host(1) }));
    bench.must(point(1, 2, None, false));
    bench.must(stay());
    bench.settle();
    assert_eq!(row(&bench, 1).target, Some(1), "it serves again");

    let moves = vec![(name(1), host(2))];
    bench.must(Command::HostService(HostCommand::Retire { name: host(1), force: true, moves }));
    assert!(bench.why(stay()).contains("host mx1 is retired"));
    bench.must(remove_host(1, false));
    assert!(bench.why(stay()).contains("would stay at host 1, which is gone"));
    bench.must(point(1, 3, None, false));
    bench.settle();
    assert_eq!(row(&bench, 1).target, Some(3));
}

#[test]
fn a_name_that_has_begun_to_end_is_not_kept_at_a_host_that_goes() {
    let mut bench = Bench::new(4, 0);
    bench.must(retire(1, bench.now_ms + DAY_MS));
    bench.now_ms += DAY_MS;
    for command in bench.state.due(bench.now_ms) {
        bench.must(command);
    }
    bench.must(bench.drain(1));
    let keep = || Command::Name(NameCommand::Keep { name: name(1) });
    assert!(bench.why(keep()).contains("host mx1 is being drained; `mxfleet host resume mx1`"));
    bench.must(Command::HostService(HostCommand::Resume { name: host(1) }));
    bench.must(keep());
    bench.settle();
    assert_eq!(row(&bench, 1).status(), NameStatus::Active);
}

#[test]
fn a_date_ahead_does_not_keep_a_name_at_a_host_that_is_drained() {
    let mut bench = Bench::new(4, 0);
    bench.must(bench.drain(1));
    let to = row(&bench, 1).aim().unwrap();
    let other = if to == 3 { 4 } else { 3 };
    let date = bench.now_ms + 30 * DAY_MS;
    bench.must(point(1, other, Some(date), false));
    bench.settle();
    assert_eq!(row(&bench, 1).target, Some(to), "it goes where it was to go, until the date");
    assert!(!bench.state.accepts_mail(1, bench.now_ms));
    bench.now_ms = date;
    bench.settle();
    assert_eq!(row(&bench, 1).target, u64::try_from(other).ok());
}
