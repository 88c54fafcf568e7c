//! What stage 3 lets pass, and which check objects.

use mxfleet_cluster::{
    Command, Customer, CustomerStatus, Domain, RecipientEvent, RecipientPolicy, Request, Route,
    TlsPolicy,
};

use super::*;

/// A year after 1970.
const NOW_MS: u64 = 31_536_000_000;

async fn policy() -> Policy {
    let cluster = Cluster::detached();
    let customer = |id: &str, status| {
        let (name, contacts) = (String::new(), Vec::new());
        Command::CustomerAdd(Customer { id: id.into(), name, contacts, status })
    };
    let domain = |name: &str, customer: &str| {
        Command::DomainAdd(Domain {
            name: name.into(),
            customer: customer.into(),
            route: Route::Mx,
            tls: TlsPolicy::Opportunistic,
            connections_max: None,
            recipients: RecipientPolicy::default(),
        })
    };
    let commands = [
        customer("acme", CustomerStatus::Active),
        customer("late", CustomerStatus::Suspended),
        domain("acme.test", "acme"),
        domain("late.test", "late"),
    ];
    for (id, command) in commands.into_iter().enumerate() {
        let request = Request::new(id as u128, "test", 0, command);
        cluster.propose(request).await.unwrap().unwrap();
    }
    let hostnames = vec!["mx1.relay.test".to_owned()];
    Policy::new(cluster, hostnames)
}

fn address(text: &str) -> Address {
    Address::parse(text, true).unwrap()
}

fn decided(policy: &Policy, recipient: &str) -> String {
    match policy.rcpt(&None, &address(recipient), NOW_MS) {
        Decision::Accept => "accept".to_owned(),
        Decision::Ask => "ask".to_owned(),
        Decision::Operators => "operators".to_owned(),
        Decision::Refuse { reply, check } => format!("{check}: {reply}"),
    }
}

#[tokio::test]
async fn a_decision_names_its_check() {
    let policy = policy().await;
    for (recipient, expected) in [
        ("user@acme.test", "accept"),
        ("USER@ACME.TEST", "accept"),
        ("user@ACME。test", "accept"),
        ("postmaster@acme.test", "accept"),
        ("user@other.test", "served_domain: 550 5.7.1 <user@other.test>: relaying denied"),
        ("user@sub.acme.test", "served_domain: 550 5.7.1 <user@sub.acme.test>: relaying denied"),
        ("user@xacme.test", "served_domain: 550 5.7.1 <user@xacme.test>: relaying denied"),
        ("a%b@acme.test", "relay_syntax: 550 5.7.1 <a%b@acme.test>: no source routing"),
        ("b!a@acme.test", "relay_syntax: 550 5.7.1 <b!a@acme.test>: no source routing"),
        ("\"a@b\"@acme.test", "relay_syntax: 550 5.7.1 <\"a@b\"@acme.test>: no source routing"),
        (
            "user@late.test",
            "customer_active: 450 4.2.1 <user@late.test>: mail for this domain is suspended",
        ),
    ] {
        assert_eq!(decided(&policy, recipient), expected, "{recipient}");
    }
}

/// What a recipient is answered, `None` being `<Postmaster>`: whom it means, then the checks.
fn answered(policy: &Policy, given: Option<&str>) -> String {
    let target = policy.target(given.map(address)).unwrap();
    decided(policy, &target.to_string())
}

#[tokio::test]
async fn our_own_postmaster_is_always_taken_and_never_a_customers() {
    let policy = policy().await;
    let means = |policy: &Policy, given: Option<&str>| {
        assert_eq!(answered(policy, given), "operators", "{given:?}");
        policy.target(given.map(address)).unwrap().to_string()
    };
    let own = ["Postmaster@MX1.relay.test", "postmaster@mx-a.relay.test"];
    name(&policy, "mx-a.relay.test").await;
    for given in own {
        assert!(means(&policy, Some(given)).eq_ignore_ascii_case(given), "it waits for operators");
    }
    assert_eq!(means(&policy, None), "postmaster@mx1.relay.test");
    set(&policy, "service.domain", "relay.test").await;
    assert_eq!(means(&policy, None), "postmaster@relay.test");
    set(&policy, "service.operators", "ops@off.test").await;
    for given in own.map(Some).into_iter().chain([None]) {
        assert_eq!(means(&policy, given), "postmaster@relay.test", "{given:?}");
    }
    let user = address("user@mx1.relay.test");
    assert_eq!(policy.target(Some(user.clone())), Ok(user));
}

#[tokio::test]
async fn without_any_name_there_is_no_postmaster() {
    let policy = Policy::new(Cluster::detached(), Vec::new());
    assert_eq!(policy.target(None).unwrap_err().to_string(), "550 5.1.1 No postmaster here yet");
}

#[tokio::test]
async fn a_listed_recipient_is_refused_by_the_exact_words_and_a_postmaster_never() {
    let policy = policy().await;
    let report = |sequence: u64, address: &str| {
        let (address, reply) = (address.to_owned(), "550 5.1.1 no".to_owned());
        let event = RecipientEvent::Rejected { address, at_ms: NOW_MS, reply };
        let (node, incarnation, events) = (1, 1, vec![event; 10]);
        let command = Command::BlacklistReport { node, incarnation, sequence, events };
        policy.cluster.propose(Request::new(u128::from(sequence) + 99, "test", NOW_MS, command))
    };
    report(1, "jürgen.x@acme.test").await.unwrap().unwrap();
    report(2, "postmaster@acme.test").await.unwrap().unwrap();
    let expected =
        "blacklist: 550 5.7.1 <JÜRGEN.X@Acme.Test>... too many failures for this recipient";
    assert_eq!(decided(&policy, "JÜRGEN.X@Acme.Test"), expected);
    assert_eq!(decided(&policy, "jürgen.x+tag@acme.test"), "accept");
    assert_eq!(decided(&policy, "Postmaster@acme.test"), "accept");
    let explained = policy.explain(&None, &address("jürgen.x@acme.test"), NOW_MS);
    assert!(matches!(explained, Decision::Refuse { check: "blacklist", .. }));
    let later = policy.rcpt(&None, &address("jürgen.x@acme.test"), NOW_MS + 5 * 86_400_000);
    assert_eq!(later, Decision::Accept);
}

#[tokio::test]
async fn whoever_is_not_on_the_customers_list_is_unknown_and_a_postmaster_always_known() {
    let policy = policy().await;
    let clock: mxfleet_cluster::Clock = std::sync::Arc::new(|| NOW_MS);
    let entries = ["jürgen.x", "sales-*"].map(str::to_owned);
    let request = |command| Request::new(77, "test", NOW_MS, command);
    let done = policy.cluster.set_recipients("acme.test", &entries, &clock, request).await;
    assert_eq!(done.unwrap(), Ok(2));
    for (recipient, expected) in [
        ("JÜRGEN.X@Acme.Test", "accept"),
        ("sales-eu@acme.test", "accept"),
        ("Postmaster@acme.test", "accept"),
        ("Jane@acme.test", "recipient_list: 550 5.1.1 <Jane@acme.test>... no such user here"),
        ("sales@acme.test", "recipient_list: 550 5.1.1 <sales@acme.test>... no such user here"),
    ] {
        assert_eq!(decided(&policy, recipient), expected, "{recipient}");
    }
    let domain = "acme.test".to_owned();
    let remove = request(Command::RecipientsRemove { domain });
    policy.cluster.propose(Request { id: 78, ..remove }).await.unwrap().unwrap();
    assert_eq!(decided(&policy, "Jane@acme.test"), "accept");
}

async fn set(policy: &Policy, name: &str, value: &str) {
    let command = Command::SettingSet { name: name.to_owned(), value: Some(value.to_owned()) };
    let id = crate::system::random::random_u64();
    policy.cluster.propose(Request::new(id.into(), "test", 0, command)).await.unwrap().unwrap();
}

#[tokio::test]
async fn mail_to_those_who_run_the_service_is_theirs_once_somebody_reads_it() {
    let policy = policy().await;
    set(&policy, "service.domain", "relay.test").await;
    let unread = "role_address: 450 4.3.5 <support@relay.test>: nobody is set to read this yet";
    assert_eq!(decided(&policy, "support@relay.test"), unread);
    assert!(decided(&policy, "abuse@mx1.relay.test").starts_with("role_address: 450"));
    set(&policy, "service.operators", "ops@off.test").await;
    for (recipient, expected) in [
        ("Support@relay.test", "operators"),
        ("TROUBLE@RELAY.TEST", "operators"),
        ("security@mx1.relay.test", "operators"),
        // What is a customer's stays the customer's.
        ("support@acme.test", "accept"),
        ("postmaster@acme.test", "accept"),
    ] {
        assert_eq!(decided(&policy, recipient), expected, "{recipient}");
    }
    for recipient in [
        "user@relay.test",
        "support+x@relay.test",
        "support@sub.relay.test",
        "support@mx9.relay.test",
        "\"support\"@relay.test",
        "support%other.test@relay.test",
        "other.test!support@relay.test",
    ] {
        assert!(decided(&policy, recipient).contains("served_domain: 550 5.7.1"), "{recipient}");
    }
}

#[tokio::test]
async fn a_role_at_a_host_is_the_same_at_the_services_domain() {
    let policy = policy().await;
    set(&policy, "service.operators", "ops@off.test").await;
    let at_host = address("postmaster@mx1.relay.test");
    assert_eq!(policy.target(None), Ok(at_host.clone()));
    set(&policy, "service.domain", "relay.test").await;
    assert_eq!(policy.target(None), Ok(address("postmaster@relay.test")));
    assert_eq!(policy.target(Some(at_host)), Ok(address("postmaster@relay.test")));
    let customers = address("postmaster@acme.test");
    assert_eq!(policy.target(Some(customers.clone())), Ok(customers));
    name(&policy, "mx-a.relay.test").await;
    let abuse = policy.target(Some(address("abuse@mx-a.relay.test")));
    assert_eq!(abuse, Ok(address("abuse@relay.test")), "at an MX name, too");
    let noc = policy.target(Some(address("NOC@mx1.relay.test")));
    assert_eq!(noc, Ok(address("noc@relay.test")));
}

#[tokio::test]
async fn a_webhook_alone_reads_what_is_in_trouble_and_nothing_else() {
    let policy = policy().await.with_webhook(true);
    assert_eq!(decided(&policy, "trouble@mx1.relay.test"), "operators");
    assert!(decided(&policy, "support@mx1.relay.test").contains("450 4.3.5"));
    assert!(decided(&policy, "abuse@mx1.relay.test").contains("450 4.3.5"));
}

/// An MX name of a host that is in the fleet.
async fn name(policy: &Policy, name: &str) {
    use mxfleet_cluster::{HostCommand, NameCommand};
    set(policy, "rotation.zone", "relay.test").await;
    let host = crate::fleet::tests::new_host(1);
    let addresses = vec!["192.0.2.1".parse().unwrap()];
    let home = "mx1".to_owned();
    for (id, command) in [
        Command::HostFound { host, seed: 1 },
        Command::HostService(HostCommand::Set { name: home.clone(), addresses }),
        Command::Name(NameCommand::Add { name: name.to_owned(), host: home, from_ms: None }),
    ]
    .into_iter()
    .enumerate()
    {
        let request = Request::new(id as u128 + 700, "test", 0, command);
        policy.cluster.propose(request).await.unwrap().unwrap();
    }
}
