//! The router against a table and a name server of its own.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, MX};
use hickory_resolver::proto::rr::{Name, RData};
use mxfleet_cluster::{
    Command, Customer, CustomerStatus, Domain, HostCommand, NameCommand, RecipientPolicy, Request,
};

use super::testing::{Zone, serve};
use super::*;
use crate::fleet::tests::new_host;

fn mx(preference: u16, host: &str) -> RData {
    RData::MX(MX::new(preference, Name::from_ascii(host).unwrap()))
}

fn a(address: &str) -> RData {
    RData::A(A(address.parse().unwrap()))
}

fn aaaa(address: &str) -> RData {
    RData::AAAA(AAAA(address.parse().unwrap()))
}

fn cname(target: &str) -> RData {
    RData::CNAME(CNAME(Name::from_ascii(target).unwrap()))
}

/// A router for one domain, with the given route and zones.
async fn router(
    route: &str,
    zones: &[(&str, Zone)],
) -> (Router, Arc<AtomicUsize>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::detached();
    let customer = Customer {
        id: "acme".into(),
        name: "Acme".into(),
        contacts: vec!["ops@acme.test".into()],
        status: CustomerStatus::Active,
    };
    let domain = Domain {
        name: "acme.test".into(),
        customer: "acme".into(),
        route: route.parse().unwrap(),
        tls: TlsPolicy::Opportunistic,
        connections_max: None,
        recipients: RecipientPolicy::default(),
    };
    let commands = [Command::CustomerAdd(customer), Command::DomainAdd(domain)];
    for (id, command) in (1..).zip(commands) {
        let request = Request::new(id, "test", 1, command);
        cluster.propose(request).await.unwrap().unwrap();
    }
    let zones = zones.iter().map(|(name, zone)| ((*name).to_owned(), zone.clone())).collect();
    let limits = Limits { dns_timeout_ms: 600, ..Limits::default() };
    let (server, asked) = serve(zones).await;
    let dns = Dns::new(&[server], &limits).unwrap();
    let own = Own {
        names: HashSet::from(["mx-a.relay.test".to_owned()]),
        addresses: HashSet::from(["192.0.2.2".parse().unwrap()]),
        listeners: vec!["127.0.0.1:2525".parse().unwrap()],
        allow_loopback: false,
    };
    (Router::new(cluster, dns, own, 25, &limits), asked, dir)
}

async fn hops(route: &str, zones: &[(&str, Zone)]) -> Result<Vec<String>, RouteFailure> {
    let (router, _, _dir) = router(route, zones).await;
    Ok(router.hops("acme.test").await?.iter().map(Hop::relay).collect())
}

#[tokio::test]
async fn mail_goes_to_the_exchangers_better_than_ours_in_order() {
    let zones = [
        (
            "acme.test",
            Zone::Has(vec![
                mx(20, "backup.acme.test."),
                mx(30, "mx-a.relay.test."),
                mx(10, "mail.acme.test."),
            ]),
        ),
        ("mail.acme.test", Zone::Has(vec![a("198.51.100.1"), aaaa("2001:db8::1")])),
        ("backup.acme.test", Zone::Has(vec![a("198.51.100.2")])),
    ];
    let expected = [
        "mail.acme.test[2001:db8::1]:25",
        "mail.acme.test[198.51.100.1]:25",
        "backup.acme.test[198.51.100.2]:25",
    ];
    assert_eq!(hops("mx", &zones).await.unwrap(), expected);
}

#[tokio::test]
async fn an_exchanger_that_is_an_alias_is_followed() {
    let zones = [
        ("acme.test", Zone::Has(vec![mx(10, "mail.acme.test.")])),
        ("mail.acme.test", Zone::Has(vec![cname("real.acme.test.")])),
        ("real.acme.test", Zone::Has(vec![a("198.51.100.1")])),
    ];
    assert_eq!(hops("mx", &zones).await.unwrap(), ["mail.acme.test[198.51.100.1]:25"]);
}

#[tokio::test]
async fn a_domain_that_is_an_alias_has_the_exchangers_of_its_target() {
    let zones = [
        ("acme.test", Zone::Has(vec![cname("other.test.")])),
        ("other.test", Zone::Has(vec![mx(10, "mail.other.test.")])),
        ("mail.other.test", Zone::Has(vec![a("198.51.100.1")])),
    ];
    assert_eq!(hops("mx", &zones).await.unwrap(), ["mail.other.test[198.51.100.1]:25"]);
}

#[tokio::test]
async fn without_mx_records_the_domain_itself_takes_its_mail() {
    let zones = [("acme.test", Zone::Has(vec![a("198.51.100.9")]))];
    assert_eq!(hops("mx", &zones).await.unwrap(), ["acme.test[198.51.100.9]:25"]);
}

#[tokio::test]
async fn failures_say_whether_they_are_for_good() {
    let us_by_address = [
        ("acme.test", Zone::Has(vec![mx(10, "our-other-name.test.")])),
        ("our-other-name.test", Zone::Has(vec![a("192.0.2.2")])),
    ];
    let loopback = [
        ("acme.test", Zone::Has(vec![mx(10, "home.acme.test.")])),
        ("home.acme.test", Zone::Has(vec![a("127.0.0.1")])),
    ];
    let broken_host = [
        ("acme.test", Zone::Has(vec![mx(10, "mail.acme.test.")])),
        ("mail.acme.test", Zone::ServFail),
    ];
    for (zones, dsn) in [
        (&[("acme.test", Zone::Has(vec![mx(0, ".")]))][..], Enhanced(5, 1, 10)),
        (&[("acme.test", Zone::Has(vec![mx(0, "mx-a.relay.test.")]))], Enhanced(5, 4, 6)),
        (&us_by_address, Enhanced(5, 4, 6)),
        (&loopback, Enhanced(5, 4, 6)),
        (&[("acme.test", Zone::ServFail)], Enhanced(4, 4, 3)),
        (&[("acme.test", Zone::Silent)], Enhanced(4, 4, 3)),
        (&broken_host, Enhanced(4, 4, 3)),
        (&[("acme.test", Zone::Has(vec![mx(10, "gone.acme.test.")]))], Enhanced(4, 4, 4)),
        (&[], Enhanced(4, 4, 4)),
    ] {
        let failure = hops("mx", zones).await.unwrap_err();
        assert_eq!(failure.dsn(), dsn, "{failure}");
        assert_eq!(failure.is_permanent(), dsn.0 == 5);
    }
}

#[tokio::test]
async fn a_fixed_route_keeps_its_order_and_its_ports() {
    let zones = [("mail.acme.test", Zone::Has(vec![a("198.51.100.1")]))];
    let route = "mail.acme.test:2526,203.0.113.5:25,[2001:db8::5]:24";
    let expected = [
        "mail.acme.test[198.51.100.1]:2526",
        "203.0.113.5[203.0.113.5]:25",
        "2001:db8::5[2001:db8::5]:24",
    ];
    assert_eq!(hops(route, &zones).await.unwrap(), expected);
}

#[tokio::test]
async fn a_fixed_route_to_ourselves_keeps_the_mail_until_it_is_repaired() {
    let failure = hops("192.0.2.2:25", &[]).await.unwrap_err();
    assert_eq!(failure, RouteFailure::RouteLoopsBack("acme.test".to_owned()));
    assert!(!failure.is_permanent());
    assert_eq!(hops("192.0.2.2:25,198.51.100.1:25", &[]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_domain_that_left_the_table_keeps_its_mail_for_now() {
    let (router, _, _dir) = router("mx", &[]).await;
    let failure = router.hops("gone.test").await.unwrap_err();
    assert_eq!(failure.dsn(), Enhanced(4, 4, 4));
}

#[tokio::test]
async fn answers_are_kept_for_as_long_as_they_say() {
    let zones = [
        ("acme.test", Zone::Has(vec![mx(10, "mail.acme.test.")])),
        ("mail.acme.test", Zone::Has(vec![a("198.51.100.1")])),
    ];
    let (router, asked, _dir) = router("mx", &zones).await;
    for _ in 0..100 {
        router.hops("acme.test").await.unwrap();
    }
    assert_eq!(asked.load(Ordering::Relaxed), 3, "MX, AAAA and A");
}

/// A host `mx9` of the fleet at 192.0.2.9, and an MX name that points at it.
async fn add_host(router: &Router) {
    let host = new_host(9);
    let addresses = vec!["192.0.2.9".parse().unwrap()];
    let (zone, name) = ("relay.test".to_owned(), "mx-c.relay.test".to_owned());
    let commands = [
        Command::HostFound { host, seed: 1 },
        Command::HostService(HostCommand::Set { name: "mx9".to_owned(), addresses }),
        Command::SettingSet { name: "rotation.zone".to_owned(), value: Some(zone) },
        Command::Name(NameCommand::Add { name, host: "mx9".to_owned(), from_ms: None }),
    ];
    for (id, command) in (100..).zip(commands) {
        let request = Request::new(id, "test", 1, command);
        router.cluster.propose(request).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn another_host_of_the_fleet_is_no_better_than_this_one() {
    let zones = [
        (
            "acme.test",
            Zone::Has(vec![
                mx(5, "mail.acme.test."),
                mx(10, "mx-c.relay.test."),
                mx(20, "worse.acme.test."),
            ]),
        ),
        ("mail.acme.test", Zone::Has(vec![a("198.51.100.1")])),
        ("mx-c.relay.test", Zone::Has(vec![a("192.0.2.9")])),
        ("worse.acme.test", Zone::Has(vec![a("198.51.100.2")])),
    ];
    let (router, _, _dir) = router("mx", &zones).await;
    add_host(&router).await;
    let hops = router.hops("acme.test").await.unwrap();
    assert_eq!(hops.iter().map(|hop| hop.name.as_str()).collect::<Vec<_>>(), ["mail.acme.test"]);
}

#[tokio::test]
async fn an_address_of_another_host_of_the_fleet_leads_back_too() {
    let zones = [
        ("acme.test", Zone::Has(vec![mx(5, "alias.acme.test.")])),
        ("alias.acme.test", Zone::Has(vec![a("192.0.2.9")])),
    ];
    for (route, failure) in [
        ("mx", RouteFailure::LoopsBack),
        ("alias.acme.test:25", RouteFailure::RouteLoopsBack("acme.test".to_owned())),
    ] {
        let (router, _, _dir) = router(route, &zones).await;
        add_host(&router).await;
        assert_eq!(router.hops("acme.test").await.unwrap_err(), failure, "{route}");
    }
}
