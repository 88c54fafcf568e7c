//! What a decision at RCPT costs: `cargo bench --bench rcpt [-- --keys N]`.
//!
//! A table of ten million recipients with rejections, one in a hundred of them listed, is asked for
//! recipients all over it: listed ones, those with a rejection, and those that nothing is known of.
//! It says what a recipient costs in memory, too.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on should stop")]
#![expect(clippy::cast_precision_loss, reason = "for people")]
#![expect(clippy::print_stdout, reason = "the result")]

use std::hint::black_box;
use std::time::Instant;

use mxfleet::policy::{Decision, Policy};
use mxfleet::smtp::Address;
use mxfleet::system::clock::wall_ms;
use mxfleet_cluster::{
    Cluster, Command, Customer, CustomerStatus, Domain, RecipientEvent, RecipientPolicy, Request,
    Route, TlsPolicy, random_id,
};

/// What the program has.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const DOMAINS: usize = 10_000;
const EVENTS: usize = 5_000;
const LISTED_ONE_IN: usize = 100;
const ASKED: usize = 1_000_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        return; // `cargo test` builds and starts benches too
    }
    let given = arguments.iter().position(|argument| argument == "--keys");
    let keys = given.map_or(10_000_000, |at| arguments[at + 1].parse().unwrap());
    let cluster = Cluster::detached();
    tables(&cluster).await;
    let before = resident_octets();
    let start = Instant::now();
    fill(&cluster, keys).await;
    println!(
        "{keys} recipients: {:.1} s to count them, {:.0} octets each",
        start.elapsed().as_secs_f64(),
        (resident_octets() - before) as f64 / keys as f64
    );
    let policy = Policy::new(cluster, Vec::new());
    ask(&policy, "listed", keys, |n| n / LISTED_ONE_IN * LISTED_ONE_IN);
    ask(&policy, "with a rejection", keys, |n| n / LISTED_ONE_IN * LISTED_ONE_IN + 1);
    ask(&policy, "of which nothing is known", keys, |n| n + keys);
}

fn address(n: usize) -> String {
    format!("someone.{n}@customer-{}.example", n % DOMAINS)
}

async fn propose(cluster: &Cluster, command: Command) {
    let request = Request::new(random_id(), "bench", wall_ms(), command);
    cluster.propose(request).await.unwrap().unwrap();
}

async fn tables(cluster: &Cluster) {
    let (id, name, contacts) = ("acme".to_owned(), "Acme".to_owned(), Vec::new());
    let status = CustomerStatus::Active;
    propose(cluster, Command::CustomerAdd(Customer { id, name, contacts, status })).await;
    let domain = |n| Domain {
        name: format!("customer-{n}.example"),
        customer: "acme".to_owned(),
        route: Route::Mx,
        tls: TlsPolicy::Opportunistic,
        connections_max: None,
        recipients: RecipientPolicy::default(),
    };
    let domains = (0..DOMAINS).map(domain).collect();
    propose(cluster, Command::DomainImport { domains }).await;
}

async fn fill(cluster: &Cluster, keys: usize) {
    let at_ms = wall_ms();
    for (sequence, first) in (1..).zip((0..keys).step_by(EVENTS / 2)) {
        let rejected = |n| RecipientEvent::Rejected {
            address: address(n),
            at_ms,
            reply: "550 5.1.1 User unknown".to_owned(),
        };
        let times = |n| if n % LISTED_ONE_IN == 0 { 10 } else { 1 };
        let events = (first..(first + EVENTS / 2).min(keys))
            .flat_map(|n| std::iter::repeat_n(n, times(n)).map(rejected));
        let events = events.collect();
        let (node, incarnation) = (1, 1);
        propose(cluster, Command::BlacklistReport { node, incarnation, sequence, events }).await;
    }
}

fn ask(policy: &Policy, what: &str, keys: usize, which: impl Fn(usize) -> usize) {
    let asked: Vec<Address> = (0..ASKED)
        .map(|n| Address::parse(&address(which(n * 7919 % keys)), false).unwrap())
        .collect();
    let now_ms = wall_ms();
    let start = Instant::now();
    let refused = asked
        .iter()
        .filter(|address| {
            matches!(black_box(policy.rcpt(&None, address, now_ms)), Decision::Refuse { .. })
        })
        .count();
    let each = start.elapsed() / u32::try_from(ASKED).unwrap();
    println!(
        "a decision about recipients {what}: {} ns, {refused} of {ASKED} refused",
        each.as_nanos()
    );
}

fn resident_octets() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
