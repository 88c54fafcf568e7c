//! Deliveries from a real spool to customers' servers on loopback.

mod customer;
mod queue;
mod reports;
mod roles;
mod trouble;

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;

use mxfleet_cluster::{
    Command, Customer, CustomerStatus, Domain, RecipientPolicy, Request, TlsPolicy,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use self::customer::{CustomerServer, Manners};
use super::*;
use crate::blacklist::Reports;
use crate::client::Roots;
use crate::letters::Letters;
use crate::route::{Dns, Own};
use crate::smtp::envelope::Origin;
use crate::smtp::{Address, BodyType, Envelope, Recipient};
use crate::spool::{OsFs, SpoolConfig, SpoolFs};
use crate::telemetry::delivery_log::Format;
use crate::telemetry::journal::Journal;

/// Where the log goes in these tests.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The file in a world's folder that gives it a webhook.
/// Who does what operators do.
const OPERATOR: &str = "jane as root at mx1";
const WEBHOOK_FILE: &str = "webhook";

/// A node's delivering half.
pub(crate) struct World {
    dir: Arc<tempfile::TempDir>,
    pub(crate) cluster: Cluster,
    pub(crate) spool: Spool,
    pub(crate) deliveries: Deliveries,
    lines: Lines,
    log: DeliveryLog,
    stop: CancellationToken,
    running: Option<JoinHandle<()>>,
    requests: u128,
}

pub(crate) fn limits() -> Limits {
    Limits {
        probe_pause_min_ms: 60,
        probe_pause_max_ms: 120,
        connection_idle_ms: 300,
        drain_timeout_ms: 3000,
        reply_timeout_ms: 5000,
        dns_timeout_ms: 300,
        ..Limits::default()
    }
}

fn reports(dir: &tempfile::TempDir, spool: &Spool, limits: &Limits) -> Reports {
    Reports::open(&dir.path().join("outbox"), 1, &spool.ids(), limits).unwrap()
}

impl World {
    async fn new(domains: &[(&str, String)]) -> Self {
        Self::with(domains, limits()).await
    }

    async fn with(domains: &[(&str, String)], limits: Limits) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let mut world = Self::open(dir, Cluster::detached(), limits);
        let customer = Customer {
            id: "acme".into(),
            name: "Acme".into(),
            contacts: vec!["ops@acme.test".into()],
            status: CustomerStatus::Active,
        };
        world.propose(Command::CustomerAdd(customer)).await;
        for (name, route) in domains {
            let domain = Domain {
                name: (*name).into(),
                customer: "acme".into(),
                route: route.parse().unwrap(),
                tls: TlsPolicy::Opportunistic,
                connections_max: None,
                recipients: RecipientPolicy::default(),
            };
            world.propose(Command::DomainAdd(domain)).await;
        }
        world.set("queue.retry_min", "100ms").await;
        world
    }

    /// What a start of the node does.
    fn open(dir: Arc<tempfile::TempDir>, cluster: Cluster, limits: Limits) -> Self {
        Self::on(Arc::new(OsFs), dir, cluster, limits)
    }

    /// The same with the spool on another file system.
    pub(crate) fn on(
        fs: Arc<dyn SpoolFs>,
        dir: Arc<tempfile::TempDir>,
        cluster: Cluster,
        limits: Limits,
    ) -> Self {
        let limits = Arc::new(limits);
        let (spool, recovered) = open_spool(fs, &dir.path().join("spool"), &limits);
        let lines = Lines::default();
        let log = DeliveryLog::start(Format::Text, Box::new(lines.clone()), 10_000).unwrap();
        let own = Own { names: HashSet::new(), allow_loopback: true, ..Own::default() };
        let name_server = "127.0.0.1:1".parse().unwrap();
        let dns = Dns::new(&[name_server], &limits).unwrap();
        let authenticator = Authenticator::new(
            cluster.clone(),
            dns.resolver(),
            "mx1.relay.test",
            Arc::clone(&limits),
        );
        let client =
            Client::new("mx1.relay.test".into(), Arc::clone(&limits), &Roots::System).unwrap();
        let deliveries = Deliveries::new(Parts {
            spool: spool.clone(),
            router: Router::new(cluster.clone(), dns, own, 25, &limits),
            client,
            authenticator,
            hostname: "mx1.relay.test".into(),
            own_names: vec!["mx1.relay.test".into()],
            cluster: cluster.clone(),
            reports: reports(&dir, &spool, &limits),
            journal: Journal::start(&dir.path().join("journal"), 1000, 1 << 20).unwrap(),
            letters: Letters::open(&dir.path().join("letters")).unwrap(),
            webhook: Webhook::open(&dir.path().join(WEBHOOK_FILE), &Roots::System).ok(),
            answered: Answered::open(&dir.path().join("answered"), 0).unwrap(),
            returns: Returns::open(&dir.path().join("returns"), 1000).unwrap(),
            log: log.clone(),
            limits,
        });
        deliveries.recover(recovered);
        let stop = CancellationToken::new();
        let running = {
            let (deliveries, stop) = (deliveries.clone(), stop.clone());
            tokio::spawn(async move { deliveries.run(stop).await })
        };
        let running = Some(running);
        Self { dir, cluster, spool, deliveries, lines, log, stop, running, requests: 0 }
    }

    async fn propose(&mut self, command: Command) {
        self.requests += 1;
        let id = self.requests + u128::from(random_u64());
        let request = Request::new(id, "test", 1, command);
        self.cluster.propose(request).await.unwrap().unwrap();
    }

    async fn set(&mut self, name: &str, value: &str) {
        let (name, value) = (name.to_owned(), Some(value.to_owned()));
        self.propose(Command::SettingSet { name, value }).await;
    }

    async fn send(&self, recipients: &[&str], text: &str) -> EntryId {
        self.send_as(envelope(recipients), text).await
    }

    async fn send_as(&self, envelope: Envelope, text: &str) -> EntryId {
        let queued = self.store(envelope, text).await;
        let id = queued.id;
        self.deliveries.accept(queued);
        id
    }

    /// As if the process had ended right after the message was stored.
    async fn store(&self, envelope: Envelope, text: &str) -> Queued {
        let mut draft = self.spool.begin(0).unwrap();
        draft.push(text.as_bytes()).await.unwrap();
        draft.commit(envelope).await.unwrap()
    }

    /// End this life, and begin the next one with these limits.
    async fn restart(mut self, limits: Limits) -> Self {
        self.stop().await;
        self.spool.close().await.unwrap();
        let (dir, cluster) = (Arc::clone(&self.dir), self.cluster.clone());
        drop(self);
        Self::open(dir, cluster, limits)
    }

    /// Wait until nothing is queued.
    async fn empty(&self) {
        wait_until("the queue is empty", || self.spool.stats().messages == 0).await;
    }

    async fn stop(&mut self) {
        self.stop.cancel();
        self.running.take().unwrap().await.unwrap();
    }

    fn log(&self) -> String {
        self.log.flush(Duration::from_secs(20));
        String::from_utf8(self.lines.0.lock().unwrap().clone()).unwrap()
    }

    fn log_lines(&self, with: &str) -> usize {
        self.log().lines().filter(|line| line.contains(with)).count()
    }
}

fn open_spool(
    fs: Arc<dyn SpoolFs>,
    dir: &Path,
    limits: &Arc<Limits>,
) -> (Spool, crate::spool::Recovered) {
    let usual = Limits::default().disk_reserve_octets;
    let reserve = if limits.disk_reserve_octets == usual { 0 } else { limits.disk_reserve_octets };
    let limits = Limits { disk_reserve_octets: reserve, ..Limits::clone(limits) };
    let config = SpoolConfig { dir: dir.to_owned(), node_id: 1, limits: Arc::new(limits) };
    Spool::open(config, fs).unwrap()
}

pub(crate) fn envelope(recipients: &[&str]) -> Envelope {
    let address = |text: &str| Address::parse(text, false).unwrap();
    let recipient = |text: &&str| Recipient { address: address(text), notify: None, orcpt: None };
    Envelope {
        mail_from: Some(address("sender@elsewhere.test")),
        recipients: recipients.iter().map(recipient).collect(),
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        authentication: None,
        about: None,
        letter: None,
        origin: Origin {
            ip: None,
            helo: "client.test".into(),
            received_at_us: wall_us(),
            mx_name: None,
        },
    }
}

/// Real sockets and threads give no other sign.
pub(crate) async fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..1500 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: not within 15 s");
}

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_delivered_once_and_leaves_the_queue() {
    let server = CustomerServer::start(Manners::default()).await;
    let world = World::new(&[("acme.test", server.address.to_string())]).await;
    let id = world.send(&["a@acme.test"], "Subject: hello\r\n\r\nhello\r\n").await;
    world.empty().await;
    let taken = server.seen.lock().unwrap().taken.clone();
    assert_eq!(taken, [(vec!["a@acme.test".to_owned()], "Subject: hello\n\nhello\n".to_owned())]);
    wait_until("it is logged", || world.log_lines("removed") == 1).await;
    let log = world.log();
    let relay = format!("relay=127.0.0.1[127.0.0.1]:{}", server.address.port());
    for part in [&format!(" {id}: to=<a@acme.test>, {relay}, delay="), "dsn=2.0.0, status=sent"] {
        assert!(log.contains(part), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_come_from_the_disk_in_pieces() {
    let server = CustomerServer::start(Manners::default()).await;
    let world = World::new(&[("acme.test", server.address.to_string())]).await;
    let text = "0123456789abcdef0123456789abcdef\r\n".repeat(10_000);
    world.send(&["a@acme.test"], &text).await;
    world.empty().await;
    assert_eq!(server.seen.lock().unwrap().taken[0].1, text.replace('\r', ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_in_turn_share_a_connection_and_it_is_closed_when_idle() {
    let server = CustomerServer::start(Manners::default()).await;
    let world = World::new(&[("acme.test", server.address.to_string())]).await;
    for n in 1..=20 {
        world.send(&["a@acme.test"], "text\r\n").await;
        wait_until("it is taken", || server.taken() == n).await;
    }
    world.empty().await;
    wait_until("it is closed", || server.seen.lock().unwrap().quits == 1).await;
    assert_eq!(server.seen.lock().unwrap().connections, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_messages_is_delivered_within_the_limit_of_connections() {
    let server = CustomerServer::start(Manners::default()).await;
    let mut world = World::new(&[("acme.test", server.address.to_string())]).await;
    world.set("delivery.connections_max", "7").await;
    for n in 0..500 {
        world.send(&[&format!("u{n:03}@acme.test")], "text\r\n").await;
    }
    world.empty().await;
    let expected: Vec<String> = (0..500).map(|n| format!("u{n:03}@acme.test")).collect();
    assert_eq!(server.recipients(), expected);
    assert!(server.seen.lock().unwrap().open_max <= 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn recipients_of_one_message_get_the_answers_that_are_theirs() {
    let rcpt = BTreeMap::from([("unknown", "550 5.1.1 no such user"), ("busy", "450 4.2.1 busy")]);
    let server = CustomerServer::start(Manners { rcpt, ..Manners::default() }).await;
    let world = World::new(&[("acme.test", server.address.to_string())]).await;
    let to = ["good@acme.test", "unknown@acme.test", "busy@acme.test", "fine@acme.test"];
    let id = world.send(&to, "text\r\n").await;
    wait_until("busy is deferred twice", || world.log_lines("status=deferred") >= 2).await;
    assert_eq!(server.recipients(), ["fine@acme.test", "good@acme.test"]);
    assert_eq!(world.log_lines("to=<unknown@acme.test>"), 1);
    assert_eq!(world.log_lines("dsn=5.1.1, status=bounced (550 5.1.1 no such user)"), 1);
    let entry = world.deliveries.show(id).await.unwrap();
    let states: Vec<&str> = entry.recipients.iter().map(|r| &*r.state).collect();
    assert_eq!((states[0], states[1], states[3]), ("delivered", "suppressed", "delivered"));
    assert!(entry.recipients[2].attempts >= 1, "{entry:?}");
    server.behave(|manners| _ = manners.rcpt.remove("busy"));
    world.empty().await;
    assert_eq!(server.recipients(), ["busy@acme.test", "fine@acme.test", "good@acme.test"]);
    wait_until("it is removed once", || world.log_lines("removed") == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_for_two_domains_goes_to_both_and_is_removed_once() {
    let one = CustomerServer::start(Manners::default()).await;
    let two = CustomerServer::start(Manners::default()).await;
    let routes = [("one.test", one.address.to_string()), ("two.test", two.address.to_string())];
    let world = World::new(&routes).await;
    for _ in 0..50 {
        world.send(&["b@two.test", "a@one.test", "c@two.test"], "text\r\n").await;
    }
    world.empty().await;
    assert_eq!((one.taken(), two.taken()), (50, 50));
    assert_eq!(two.recipients().len(), 100);
    wait_until("each is removed", || world.log_lines("removed") == 50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_destination_is_probed_by_one_connection_and_drains_when_it_comes_back() {
    let away = Manners { greeting: Some("421 4.3.2 away"), ..Manners::default() };
    let server = CustomerServer::start(away).await;
    let fine = CustomerServer::start(Manners::default()).await;
    let routes =
        [("dead.test", server.address.to_string()), ("fine.test", fine.address.to_string())];
    let world = World::new(&routes).await;
    for n in 0..1000 {
        world.send(&[&format!("u{n:04}@dead.test")], "text\r\n").await;
    }
    wait_until("it is dead", || world.deliveries.summary().destinations[0].state == "dead").await;
    {
        let mut seen = server.seen.lock().unwrap();
        assert!(seen.connections < 20, "{seen:?}");
        (seen.connections, seen.open_max) = (0, 0);
    }
    // Long enough for some probes, which come every 100 ms or so.
    tokio::time::sleep(Duration::from_millis(700)).await;
    {
        let seen = server.seen.lock().unwrap();
        assert!((3..=12).contains(&seen.connections) && seen.open_max == 1, "{seen:?}");
    }
    let summary = world.deliveries.summary();
    assert_eq!((summary.messages, summary.destinations[0].messages), (1000, 1000));
    assert!(summary.destinations[0].error.as_deref().unwrap().contains("421 4.3.2 away"));
    world.send(&["a@fine.test"], "text\r\n").await;
    wait_until("others are not delayed", || fine.taken() == 1).await;
    server.behave(|manners| manners.greeting = None);
    world.empty().await;
    assert_eq!(server.taken(), 1000);
    assert!(server.seen.lock().unwrap().open_max <= 20);
    assert_eq!(
        world.deliveries.summary().destinations.iter().filter(|d| d.state != "ok").count(),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_hop_takes_what_the_first_does_not() {
    let busy = Manners { mail: Some("421 4.3.2 too busy"), ..Manners::default() };
    let busy = CustomerServer::start(busy).await;
    let good = CustomerServer::start(Manners::default()).await;
    let route = format!("{},{},{}", nobody().await, busy.address, good.address);
    let world = World::new(&[("acme.test", route)]).await;
    world.send(&["a@acme.test"], "text\r\n").await;
    world.empty().await;
    assert_eq!((busy.taken(), good.taken()), (0, 1));
    assert_eq!(world.log_lines("status=deferred"), 0, "it was one attempt");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_closes_after_each_message_delays_nothing() {
    let once = Manners { messages_max: Some(1), ..Manners::default() };
    let server = CustomerServer::start(once).await;
    let world = World::new(&[("acme.test", server.address.to_string())]).await;
    for _ in 0..50 {
        world.send(&["a@acme.test"], "text\r\n").await;
    }
    world.empty().await;
    assert_eq!((server.taken(), world.log_lines("status=deferred")), (50, 0));
    assert_eq!(server.seen.lock().unwrap().offered["a@acme.test"], 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_queued_is_delivered_after_a_restart() {
    let server = CustomerServer::start(Manners::default()).await;
    let address = server.address;
    server.close();
    let mut world = World::new(&[("acme.test", address.to_string())]).await;
    for n in 0..100 {
        world.send(&[&format!("u{n:02}@acme.test")], "text\r\n").await;
    }
    world.stop().await;
    world.spool.close().await.unwrap();
    let (dir, cluster) = (Arc::clone(&world.dir), world.cluster.clone());
    drop(world);
    let server = CustomerServer::start_at(address, Manners::default()).await;
    let world = World::open(dir, cluster, limits());
    world.empty().await;
    let expected: Vec<String> = (0..100).map(|n| format!("u{n:02}@acme.test")).collect();
    assert_eq!(server.recipients(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_the_running_transaction_end_and_says_goodbye() {
    let slow = Manners { pause: Duration::from_millis(400), ..Manners::default() };
    let server = CustomerServer::start(slow).await;
    let idle = CustomerServer::start(Manners::default()).await;
    let routes =
        [("slow.test", server.address.to_string()), ("idle.test", idle.address.to_string())];
    let mut world = World::with(&routes, Limits { connection_idle_ms: 60_000, ..limits() }).await;
    world.send(&["a@idle.test"], "text\r\n").await;
    wait_until("it is taken", || idle.taken() == 1).await;
    world.send(&["a@slow.test"], "text\r\n").await;
    wait_until("it is offered", || !server.seen.lock().unwrap().offered.is_empty()).await;
    world.stop().await;
    assert_eq!((server.taken(), world.spool.stats().messages), (1, 0));
    let quits = |server: &CustomerServer| server.seen.lock().unwrap().quits;
    assert_eq!((quits(&server), quits(&idle)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_bounded_and_keeps_what_did_not_end() {
    let slow = Manners { pause: Duration::from_secs(60), ..Manners::default() };
    let server = CustomerServer::start(slow).await;
    let bounds = Limits { drain_timeout_ms: 200, ..limits() };
    let mut world = World::with(&[("slow.test", server.address.to_string())], bounds).await;
    world.send(&["a@slow.test"], "text\r\n").await;
    wait_until("it is offered", || !server.seen.lock().unwrap().offered.is_empty()).await;
    let began = Instant::now();
    world.stop().await;
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(world.spool.stats().messages, 1);
}
