//! Who sees what with which link, until when, and how many letters anybody can have sent.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::{Domain, RecipientEvent, RecipientPolicy, Request, TlsPolicy};
use super::*;

const DAY_MS: u64 = 24 * PERIOD_MS;

/// Two customers with a domain each, and a recipient in each that has been refused once.
struct Bench {
    state: State,
    index: u64,
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self { state: State::default(), index: 0 };
        for id in ["acme", "bolt"] {
            bench
                .ask(
                    0,
                    Command::CustomerAdd(Customer {
                        id: id.to_owned(),
                        name: id.to_owned(),
                        contacts: vec![format!("ops@{id}.test")],
                        status: CustomerStatus::Active,
                    }),
                )
                .unwrap();
            let domain = Domain {
                name: format!("{id}.test"),
                customer: id.to_owned(),
                route: "mx".parse().unwrap(),
                tls: TlsPolicy::Opportunistic,
                connections_max: None,
                recipients: RecipientPolicy::default(),
            };
            bench.ask(0, Command::DomainAdd(domain)).unwrap();
        }
        let rejected = |id: &str| RecipientEvent::Rejected {
            address: format!("gone@{id}.test"),
            at_ms: 0,
            reply: "550 5.1.1 no".to_owned(),
        };
        let events = vec![rejected("acme"), rejected("bolt")];
        let report = Command::BlacklistReport { node: 1, incarnation: 1, sequence: 1, events };
        assert_eq!(bench.ask(0, report), Ok(2));
        bench
    }

    fn ask(&mut self, at_ms: u64, command: Command) -> Outcome {
        self.index += 1;
        self.state.apply(self.index, &Request::new(self.index.into(), "test", at_ms, command))
    }

    fn issue(&mut self, at_ms: u64, number: u8, customer: &str, by_mail: bool) -> Outcome {
        let (hash, customer) = ([number; 32], customer.to_owned());
        self.ask(at_ms, Command::CustomerLink(LinkCommand::Issue { hash, customer, by_mail }))
    }

    fn pardon(&mut self, at_ms: u64, number: u8, address: &str) -> Outcome {
        let (hash, address) = ([number; 32], address.to_owned());
        self.ask(at_ms, Command::CustomerLink(LinkCommand::Pardon { hash, address }))
    }

    fn set(&mut self, name: &str, value: &str) {
        let (name, value) = (name.to_owned(), Some(value.to_owned()));
        self.ask(0, Command::SettingSet { name, value }).unwrap();
    }

    fn whose(&self, number: u8, now_ms: u64) -> Option<&str> {
        self.state.customer_of_link(&[number; 32], now_ms).map(|(customer, _)| &*customer.id)
    }

    fn refused(&self, domain: &str) -> usize {
        self.state.refused_in(&BTreeSet::from([domain]), 1).count()
    }
}

#[test]
fn a_link_is_good_for_its_customer_and_its_time() {
    let mut bench = Bench::new();
    bench.issue(0, 1, "nobody", false).unwrap_err();
    assert_eq!(bench.issue(0, 1, "acme", false), Ok(1));
    assert_eq!(bench.issue(0, 2, "bolt", false), Ok(1));
    bench.issue(0, 2, "acme", false).unwrap_err();
    assert_eq!((bench.whose(1, 5), bench.whose(2, 5)), (Some("acme"), Some("bolt")));
    assert_eq!((bench.whose(3, 5), bench.whose(1, DAY_MS)), (None, None));
    // A life that has become shorter holds for old links, a longer one does not revive them.
    bench.set("customer.link_life", "1h");
    assert_eq!((bench.whose(1, PERIOD_MS - 1), bench.whose(1, PERIOD_MS)), (Some("acme"), None));
    bench.set("customer.link_life", "2d");
    assert_eq!((bench.whose(1, DAY_MS - 1), bench.whose(1, DAY_MS)), (Some("acme"), None));
    // The fleet's clock counts when a host's is behind.
    bench.ask(DAY_MS, Command::Tick).unwrap();
    assert_eq!(bench.whose(1, 5), None);
    assert!(bench.state.links.rows.is_empty(), "nothing is kept of what has ended");
}

#[test]
fn links_go_with_their_customer_its_contacts_and_when_they_are_ended() {
    let mut bench = Bench::new();
    for number in 1..=4 {
        bench.issue(0, number, if number == 4 { "bolt" } else { "acme" }, false).unwrap();
    }
    let end = |number| Command::CustomerLink(LinkCommand::End { hash: [number; 32] });
    assert_eq!(bench.ask(1, end(1)), Ok(1));
    bench.ask(1, end(1)).unwrap_err();
    assert_eq!((bench.whose(1, 1), bench.whose(2, 1)), (None, Some("acme")));
    let rename = |contacts| Command::CustomerSet { id: "acme".to_owned(), name: None, contacts };
    bench.ask(1, rename(None)).unwrap();
    assert_eq!(bench.whose(2, 1), Some("acme"));
    bench.ask(1, rename(Some(vec!["new@acme.test".to_owned()]))).unwrap();
    assert_eq!((bench.whose(2, 1), bench.whose(3, 1)), (None, None));
    assert_eq!(bench.issue(1, 5, "acme", false), Ok(1));
    bench.ask(1, Command::DomainRemove { name: "acme.test".to_owned() }).unwrap();
    bench.ask(1, Command::CustomerRemove { id: "acme".to_owned() }).unwrap();
    assert_eq!((bench.whose(5, 1), bench.whose(4, 1)), (None, Some("bolt")));
}

#[test]
fn a_link_pardons_its_customers_recipients_and_no_others() {
    let mut bench = Bench::new();
    bench.issue(0, 1, "acme", false).unwrap();
    assert_eq!((bench.refused("acme.test"), bench.refused("bolt.test")), (1, 1));
    for address in ["gone@bolt.test", "gone@elsewhere.test", "gone", "gone@"] {
        bench.pardon(1, 1, address).unwrap_err();
    }
    bench.pardon(1, 9, "gone@acme.test").unwrap_err();
    let status = |status| Command::CustomerStatus { id: "acme".to_owned(), status };
    bench.ask(1, status(CustomerStatus::Suspended)).unwrap();
    let why = bench.pardon(1, 1, "gone@acme.test").unwrap_err().to_string();
    assert!(why.contains("suspended"), "{why}");
    assert_eq!(bench.refused("acme.test"), 1);
    bench.ask(1, status(CustomerStatus::Active)).unwrap();
    assert_eq!(bench.pardon(1, 1, "gone@acme.test"), Ok(1));
    assert_eq!((bench.refused("acme.test"), bench.refused("bolt.test")), (0, 1));
    bench.pardon(DAY_MS, 1, "gone@acme.test").unwrap_err();
    let said: Vec<&str> = bench.state.audit().map(|record| record.what.as_str()).collect();
    assert!(said.contains(&"blacklist pardon gone@acme.test, by a link"), "{said:?}");
    assert!(said.contains(&"customer link acme"), "{said:?}");
}

#[test]
fn a_customer_is_written_to_three_times_an_hour_whoever_asks() {
    let mut bench = Bench::new();
    for number in 1..=3 {
        assert!(bench.state.may_mail_link("acme", 0));
        assert_eq!(bench.issue(0, number, "acme", true), Ok(1));
    }
    assert!(!bench.state.may_mail_link("acme", PERIOD_MS - 1));
    bench.issue(PERIOD_MS - 1, 4, "acme", true).unwrap_err();
    assert_eq!(bench.issue(PERIOD_MS - 1, 5, "acme", false), Ok(1), "operators may");
    assert_eq!(bench.issue(PERIOD_MS - 1, 6, "bolt", true), Ok(1), "others may");
    // New contacts are no way around it.
    let contacts = Some(vec!["new@acme.test".to_owned()]);
    let set = Command::CustomerSet { id: "acme".to_owned(), name: None, contacts };
    bench.ask(PERIOD_MS - 1, set).unwrap();
    bench.issue(PERIOD_MS - 1, 7, "acme", true).unwrap_err();
    assert!(bench.state.may_mail_link("acme", PERIOD_MS));
    assert_eq!(bench.issue(PERIOD_MS, 8, "acme", true), Ok(1));
}

#[test]
fn all_customers_together_are_written_to_a_hundred_times_an_hour() {
    let mut links = Links::default();
    let link = |n: usize| Link { customer: n.to_string(), made_ms: 0, ends_ms: DAY_MS };
    let hash = |n: usize| {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&n.to_le_bytes());
        hash
    };
    for n in 0..MAILED_BY_FLEET_MAX {
        links.issue(hash(n), link(n), true, (DAY_MS, 0)).unwrap();
    }
    links.issue(hash(500), link(500), true, (DAY_MS, 0)).unwrap_err();
    assert_eq!(links.issue(hash(500), link(500), true, (DAY_MS, PERIOD_MS)), Ok(1));
    assert_eq!(links.mailed.len(), 1, "old times go");
}

fn step() -> impl Strategy<Value = (u8, u8, bool, u64)> {
    (0_u8..60, 0_u8..4, any::<bool>(), 0..PERIOD_MS / 4)
}

proptest! {
    #[test]
    fn whatever_is_asked_bounds_hold_and_a_copy_is_the_same(
        steps in proptest::collection::vec(step(), 1..120)
    ) {
        let (mut links, mut now_ms) = (Links::default(), 0);
        let mut mailed: Vec<(u64, String)> = Vec::new();
        for (number, customer, by_mail, pause_ms) in steps {
            now_ms += pause_ms;
            let customer = customer.to_string();
            let link = Link { customer: customer.clone(), made_ms: now_ms, ends_ms: now_ms + 1000 };
            let taken = links.issue([number; 32], link, by_mail, (DAY_MS, now_ms));
            if taken.is_ok() {
                prop_assert!(links.good(&[number; 32], DAY_MS, now_ms).is_some());
                if by_mail {
                    mailed.push((now_ms, customer.clone()));
                }
            }
            let theirs = links.rows.values().filter(|link| link.customer == customer).count();
            prop_assert!(theirs <= OF_CUSTOMER_MAX);
            let lately = mailed.iter().filter(|(at_ms, whom)| {
                *whom == customer && now_ms < at_ms + PERIOD_MS
            });
            prop_assert!(lately.count() <= MAILED_MAX);
        }
        let mut copy = Links::default();
        links.parts(7).for_each(|part| copy.absorb(part));
        prop_assert_eq!((&copy.rows, &copy.mailed), (&links.rows, &links.mailed));
        links.sweep(DAY_MS, now_ms + 1000);
        prop_assert!(links.rows.is_empty());
    }
}

#[test]
fn whoever_asks_for_letters_ends_no_link() {
    let mut links = Links::default();
    let link =
        |made_ms: u64| Link { customer: "acme".to_owned(), made_ms, ends_ms: made_ms + DAY_MS };
    links.issue([0; 32], link(0), false, (DAY_MS, 0)).unwrap();
    for n in 1..=50_u8 {
        let now_ms = u64::from(n) * PERIOD_MS / 3;
        let _ = links.issue([n; 32], link(now_ms), true, (DAY_MS, now_ms));
    }
    assert_eq!(links.rows.len(), OF_CUSTOMER_MAX);
    assert!(links.good(&[0; 32], DAY_MS, DAY_MS - 1).is_some(), "the operator's is still good");
    links.issue([99; 32], link(1), false, (DAY_MS, 1)).unwrap();
    assert!(links.good(&[0; 32], DAY_MS, 1).is_none(), "an operator's takes the first's place");
}
