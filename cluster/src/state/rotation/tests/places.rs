//! Which host and which customer a name goes to, beyond what one command and its opposite show.

use super::*;

fn drained(bench: &mut Bench, n: usize) {
    bench.must(bench.drain(n));
    bench.settle();
}

fn resumed(bench: &mut Bench, n: usize) {
    bench.must(Command::HostService(HostCommand::Resume { name: host(n) }));
    bench.settle();
}

fn place(bench: &Bench, n: usize) -> (String, NameStatus) {
    let row = bench.state.name(&name(n)).unwrap();
    (bench.state.host(row.target.unwrap()).unwrap().name.clone(), row.status())
}

#[test]
fn a_name_that_is_back_at_its_home_is_not_taken_away_by_a_host_it_was_at_meanwhile() {
    let mut bench = Bench::new(1, 0);
    drained(&mut bench, 1);
    let meanwhile = place(&bench, 1).0;
    let meanwhile: usize = meanwhile.strip_prefix("mx").unwrap().parse().unwrap();
    drained(&mut bench, meanwhile);
    resumed(&mut bench, 1);
    assert_eq!(place(&bench, 1), (host(1), NameStatus::Active), "home, by way of two others");
    resumed(&mut bench, meanwhile);
    assert_eq!(place(&bench, 1), (host(1), NameStatus::Active));
}

#[test]
fn a_name_that_was_given_another_home_while_its_host_was_away_stays_there() {
    let mut bench = Bench::new(1, 0);
    drained(&mut bench, 1);
    bench.must(point(1, 4, None, true));
    bench.settle();
    resumed(&mut bench, 1);
    assert_eq!(place(&bench, 1), (host(4), NameStatus::Active));
}

#[test]
fn nobody_is_given_a_name_whose_end_is_announced() {
    let mut bench = Bench::new(4, 2);
    bench.must(plan(&[1], &[(5, 2)], bench.now_ms + 30 * DAY_MS));
    bench.must(announce());
    bench.settle();
    let assign = |names: &[usize]| {
        let names = names.iter().map(|n| name(*n)).collect();
        Command::Assign { customer: "c1".to_owned(), names }
    };
    let why = bench.why(assign(&[1, 3]));
    assert!(why.contains("the end of mx-1.relay.test is announced"), "{why}");
    bench.must(assign(&[3, 4]));
}

#[test]
fn new_customers_bring_every_name_as_much_as_the_others() {
    let bench = Bench::new(4, 40);
    for n in 1..=4 {
        let place =
            |(_, names): (&str, &[String])| names.iter().position(|known| *known == name(n));
        let places: Vec<usize> = bench.state.assignments().filter_map(place).collect();
        let firsts = places.iter().filter(|place| **place == 0).count();
        assert_eq!(firsts, 10, "of 40 first places for {}", name(n));
        assert!((18..=22).contains(&places.len()), "{} of 80 for {}", places.len(), name(n));
    }
}

#[test]
fn customers_that_get_their_names_together_share_out_first_places_too() {
    let mut bench = Bench::new(0, 40);
    for n in 1..=4 {
        bench.must(add(n, n));
    }
    bench.settle();
    bench.must(Command::Name(NameCommand::Spread));
    let firsts = |n: usize| {
        bench.state.assignments().filter(|(_, names)| names.first() == Some(&name(n))).count()
    };
    assert_eq!([1, 2, 3, 4].map(firsts), [10; 4]);
}

#[test]
fn who_has_no_name_of_ours_keeps_no_new_name_alive_and_is_told_of_a_cancellation() {
    let mut bench = Bench::announced();
    let has_new = |(_, names): &(&str, &[String])| names.contains(&name(5));
    let customer = bench.state.assignments().find(has_new).unwrap().0.to_owned();
    bench.must(surveyed(&customer, Survey::Elsewhere { at_ms: 1 }));
    assert!(bench.state.migration_breaks().iter().all(|(id, _)| *id != customer));
    bench.must(CANCEL);
    assert_eq!(bench.state.migrations().next().unwrap().rounds, 2, "the cancellation is one");
    bench.settle();
    assert!(bench.state.name(&name(5)).is_none(), "nobody uses it");
}

#[test]
fn why_a_name_gets_no_certificate_is_forgotten_with_the_name() {
    let mut bench = Bench::new(2, 0);
    let fault = |n| {
        let text = Some("denied".to_owned());
        Command::Certificate(CertificateCommand::Fault { name: name(n), text })
    };
    assert!(bench.why(fault(3)).contains("there is no MX name"));
    bench.must(fault(1));
    assert_eq!(bench.state.certificate_fault(&name(1)).unwrap().text, "denied");
    bench.must(Command::Name(NameCommand::Remove { name: name(1), force: true }));
    bench.settle();
    bench.must(fault(2));
    assert!(bench.state.certificate_fault(&name(1)).is_none());
}

#[test]
fn what_is_the_matter_with_one_name_in_dns_is_said_of_no_other() {
    let mut bench = Bench::new(3, 0);
    let tell = |bench: &mut Bench, all: Option<&str>, names: &[(usize, &str)]| {
        let all = all.map(str::to_owned);
        let names = names.iter().map(|(n, text)| (name(*n), (*text).to_owned())).collect();
        bench.must(Command::Name(NameCommand::DnsFaults { all, names }))
    };
    let said = |bench: &Bench, n: usize| {
        let fault = bench.state.name(&name(n)).unwrap().dns_fault.clone();
        fault.map(|fault| (fault.text, fault.since_ms))
    };
    let began_ms = bench.now_ms;
    assert_eq!(tell(&mut bench, None, &[(1, "taken"), (2, "refused")]), 2);
    bench.now_ms += 1000;
    assert_eq!(tell(&mut bench, None, &[(2, "refused by two")]), 2, "one is well, one is worse");
    assert_eq!(said(&bench, 1), None);
    assert_eq!(said(&bench, 2), Some(("refused by two".to_owned(), began_ms)), "the same trouble");
    assert_eq!(said(&bench, 3), None);
    assert!(bench.state.dns_fault().is_none());
    let known = |bench: &Bench, text: &str| {
        bench.state.knows_dns_faults(None, &[(name(2), text.to_owned())].into())
    };
    assert!(known(&bench, "refused by two") && !known(&bench, "refused"));
    assert_eq!(tell(&mut bench, Some("no key"), &[]), 2);
    assert_eq!(bench.state.dns_fault().unwrap().text, "no key");
    assert_eq!(said(&bench, 2), None);
}

#[test]
fn a_migration_is_no_trouble_on_the_status_page() {
    let bench = Bench::announced();
    let notice = bench.state.notices().next().unwrap();
    assert_eq!(notice.status(bench.now_ms), NoticeStatus::Open);
    assert!(notice.is_planned());
}
