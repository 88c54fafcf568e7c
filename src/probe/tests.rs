//! What a node does at another's word.

use std::collections::HashSet;
use std::net::TcpListener;

use mxfleet_cluster::{
    Command, Customer, CustomerStatus, Domain, RecipientPolicy, Request, TlsPolicy,
};

use super::*;
use crate::route::Own;

/// A node in whose tables `acme.test` has this route, as production has it.
async fn prober(route: &str) -> Prober {
    let cluster = Cluster::detached();
    let customer = Customer {
        id: "acme".to_owned(),
        name: "Acme".to_owned(),
        contacts: vec!["ops@acme.test".to_owned()],
        status: CustomerStatus::Active,
    };
    let domain = Domain {
        name: "acme.test".to_owned(),
        customer: "acme".to_owned(),
        route: route.parse().unwrap(),
        tls: TlsPolicy::Opportunistic,
        connections_max: None,
        recipients: RecipientPolicy::default(),
    };
    for (id, command) in (1..).zip([Command::CustomerAdd(customer), Command::DomainAdd(domain)]) {
        cluster.propose(Request::new(id, "test", 1, command)).await.unwrap().unwrap();
    }
    let limits = Limits::default();
    let dns = Dns::new(&["127.0.0.1:9".parse().unwrap()], &limits).unwrap();
    let own = Own {
        names: HashSet::new(),
        addresses: HashSet::new(),
        listeners: Vec::new(),
        // That a route may lead here does not mean that visitors may follow it.
        allow_loopback: true,
    };
    let parts = Parts {
        router: Router::new(cluster.clone(), dns.clone(), own, 25, &limits),
        cluster,
        dns,
        hostname: "mx1.relay.test",
        limits: &limits,
        roots: &Roots::System,
        allow_loopback: false,
    };
    Prober::new(parts).unwrap()
}

fn question(tool: Tool, domain: &str) -> Question {
    Question { tool, domain: domain.to_owned(), asker: Asker::Visitor }
}

#[tokio::test]
async fn no_word_of_another_node_leads_to_private_addresses_or_strangers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let prober = prober(&format!("{},10.1.2.3:25", listener.local_addr().unwrap())).await;
    for tool in [Tool::Mx, Tool::Smtp, Tool::Ping, Tool::Traceroute] {
        let report = prober.answer(question(tool, "acme.test")).await.unwrap();
        assert_eq!(report.servers.len(), 2);
        for seen in report.servers {
            assert_eq!((seen.address, seen.findings.len()), (None, 1), "{seen:?}");
            assert!(seen.findings[0].words.contains("not a public one"), "{seen:?}");
        }
        let stranger = prober.answer(question(tool, "elsewhere.test")).await;
        assert_eq!(stranger.unwrap_err(), "no customer has domain elsewhere.test");
    }
    assert!(listener.accept().is_err(), "somebody was led to a private address");
}

#[tokio::test]
async fn so_many_looks_are_under_way_at_a_time_whoever_asks() {
    let prober = prober("10.1.2.3:25").await;
    let _all = prober.looks.acquire_many(u32::try_from(LOOKS_MAX).unwrap()).await.unwrap();
    let refused = prober.answer(question(Tool::Ping, "acme.test")).await.unwrap_err();
    assert!(refused.contains("many tests are running"), "{refused}");
}
