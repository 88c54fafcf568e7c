//! A table of a million domains.

use std::hint::black_box;
use std::time::Instant;

use mxfleet_cluster::{Cluster, Command, Domain, RecipientPolicy, Route, TlsPolicy};

use crate::support::{customer, request};

const DOMAINS: usize = 1_000_000;
const PART: usize = 2000;
/// Domains that have nearly all the mail of a day.
const BUSY: usize = 10_000;

fn name(n: usize) -> String {
    format!("customer-{n}.example")
}

pub(crate) async fn lookups() {
    let cluster = Cluster::detached();
    cluster.propose(customer("acme")).await.unwrap().unwrap();
    let begun = Instant::now();
    for first in (0..DOMAINS).step_by(PART) {
        let domain = |n| Domain {
            name: name(n),
            customer: "acme".to_owned(),
            route: Route::Mx,
            tls: TlsPolicy::Opportunistic,
            connections_max: None,
            recipients: RecipientPolicy::default(),
        };
        let domains = (first..first + PART).map(domain).collect();
        cluster.propose(request(Command::DomainImport { domains })).await.unwrap().unwrap();
    }
    println!("{DOMAINS} domains imported in {:.2?}", begun.elapsed());
    let view = cluster.view();
    let names: Vec<_> = (0..DOMAINS).map(|n| name(n * 7919 % DOMAINS)).collect();
    let begun = Instant::now();
    let found = names.iter().filter(|name| black_box(view.domain(name)).is_some()).count();
    let each = begun.elapsed() / u32::try_from(DOMAINS).unwrap();
    println!("{found} lookups of domains, {each:.0?} each, all over the table");
    // Few customers have most of the mail.
    let busy: Vec<_> = (0..DOMAINS).map(|n| name(n * 7919 % BUSY * (DOMAINS / BUSY))).collect();
    let begun = Instant::now();
    let found = busy.iter().filter(|name| black_box(view.domain(name)).is_some()).count();
    let each = begun.elapsed() / u32::try_from(DOMAINS).unwrap();
    println!("{found} lookups of {BUSY} busy ones, {each:.0?} each");
    let begun = Instant::now();
    let change = Command::DomainRemove { name: name(1) };
    cluster.propose(request(change)).await.unwrap().unwrap();
    println!("one change beside a view in use: {:.1?}", begun.elapsed());
}
