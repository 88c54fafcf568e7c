//! A mailer with a real queue, on a fleet of one host whose state changes at a word.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mxfleet_cluster::{
    Cluster, Command, Customer, CustomerStatus, HostCommand, MigrationCommand, NameCommand,
    Request, Survey, Told, random_id,
};

use super::due;
use super::mailer::{Mailer, message_number};
use crate::fleet::tests::new_host;
use crate::letters::Letters;
use crate::post::Post;
use crate::spool::EntryId;
use crate::spool::sim_fs::SimFs;
use crate::system::clock::{wall_ms, wall_us};
use crate::worker::tests::{World, envelope, limits, wait_until};

const NODE: u64 = 1;
const OLD: &str = "mx-a.relay.test";
const STAYS: &str = "mx-b.relay.test";
const NEW: &str = "mx-c.relay.test";

struct Bench {
    world: World,
    mailer: Mailer,
}

async fn must(cluster: &Cluster, command: Command) {
    let asked = format!("{command:?}");
    let request = Request::new(random_id(), "test", wall_ms(), command);
    let outcome = cluster.propose(request).await.unwrap();
    outcome.unwrap_or_else(|why| panic!("{asked}: {why}"));
}

impl Bench {
    /// A migration is announced and its new name not in DNS, so that no letter is due.
    async fn announced() -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let letters = Letters::open(&dir.path().join("letters")).unwrap();
        let world = World::on(Arc::new(SimFs::new()), dir, Cluster::detached(), limits());
        let post = Post {
            spool: world.spool.clone(),
            deliveries: world.deliveries.clone(),
            hostname: "mx1.relay.test".to_owned(),
        };
        let mailer = Mailer { cluster: world.cluster.clone(), post, letters, node: NODE };
        let bench = Self { world, mailer };
        for n in 1..=2_u8 {
            bench.host(n).await;
        }
        for (name, host) in [(OLD, "mx1"), (STAYS, "mx2")] {
            let (name, host) = (name.to_owned(), host.to_owned());
            bench.must(Command::Name(NameCommand::Add { name, host, from_ms: None })).await;
        }
        bench.published(OLD, 1).await;
        bench.published(STAYS, 2).await;
        for id in ["acme", "bolt"] {
            bench.customer(id, &[&format!("ops@{id}.test")]).await;
        }
        let (retire, text) = (vec![OLD.to_owned()], String::new());
        let introduce = vec![(NEW.to_owned(), "mx1".to_owned())];
        let ends_ms = wall_ms() + 86_400_000;
        bench.change(MigrationCommand::Plan { retire, introduce, ends_ms, text }).await;
        let (title, text) = ("Names change".to_owned(), "See your mail.".to_owned());
        bench.change(MigrationCommand::Announce { title, text }).await;
        bench
    }

    async fn must(&self, command: Command) {
        must(&self.world.cluster, command).await;
    }

    async fn change(&self, command: MigrationCommand) {
        self.must(Command::Migration(command)).await;
    }

    async fn host(&self, n: u8) {
        let host = new_host(n);
        let name = host.name.clone();
        if n == 1 {
            self.must(Command::HostFound { host, seed: 1 }).await;
        } else {
            let (hash, expires_ms) = ([n; 32], wall_ms() + 60_000);
            let token = Command::HostToken { hash, name: name.clone(), expires_ms };
            self.must(token).await;
            self.must(Command::HostJoin { token: hash, host }).await;
        }
        let addresses = vec![IpAddr::from([192, 0, 2, n])];
        self.must(Command::HostService(HostCommand::Set { name, addresses })).await;
        let (name, value) = ("rotation.zone".to_owned(), Some("relay.test".to_owned()));
        self.must(Command::SettingSet { name, value }).await;
    }

    async fn customer(&self, id: &str, contacts: &[&str]) {
        let contacts = contacts.iter().map(ToString::to_string).collect();
        let (name, status) = (id.to_owned(), CustomerStatus::Active);
        let customer = Customer { id: id.to_owned(), name, contacts, status };
        self.must(Command::CustomerAdd(customer)).await;
    }

    async fn published(&self, name: &str, host: u64) {
        let (name, host, addresses) = (name.to_owned(), Some(host), Vec::new());
        let published = NameCommand::Published { name, host, ttl_s: 60, addresses };
        self.must(Command::Name(published)).await;
    }

    async fn told(&self, customer: &str, round: u32, told: Told) {
        let rows = vec![(customer.to_owned(), round, told)];
        self.change(MigrationCommand::Told { rows }).await;
    }

    fn state_of(&self, customer: &str) -> Told {
        self.world.cluster.view().migration_step(customer).unwrap().told.clone()
    }

    fn due(&self) -> Vec<String> {
        let state = self.world.cluster.view();
        let migration = state.migrations().next().unwrap();
        due::due(&state, migration, wall_ms()).map(|customer| customer.id.clone()).collect()
    }

    fn queued(&self) -> usize {
        self.world.spool.ids().len()
    }
}

/// The id of a letter that `node` has or will have.
fn letter_of(node: u16) -> EntryId {
    EntryId::new(wall_us(), node).unwrap()
}

fn sending(node: u64, id: EntryId) -> Told {
    Told::Sending { node, message: message_number(id) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_is_decided_late_is_queued_without_a_restart() {
    let bench = Bench::announced().await;
    let running = tokio::spawn(bench.mailer.clone().run());
    tokio::time::sleep(Duration::from_millis(200)).await;
    let id = letter_of(1);
    bench.told("acme", 1, sending(NODE, id)).await;
    wait_until("the letter is queued", || bench.world.spool.hold_of(id).is_some()).await;
    assert_eq!(bench.queued(), 1, "and no other one");
    running.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reminder_goes_to_who_is_late_and_a_first_letter_to_who_has_none() {
    let bench = Bench::announced().await;
    let moved = ("acme".to_owned(), Survey::Moved { at_ms: 1 }, Vec::new());
    bench.change(MigrationCommand::Surveyed { migration: 1, rows: vec![moved] }).await;
    bench.told("acme", 1, Told::NoContact).await;
    bench.told("bolt", 1, Told::NoContact).await;
    bench.change(MigrationCommand::Remind).await;
    assert_eq!(bench.due(), ["acme", "bolt"]);
    for (customer, message) in [("acme", 1), ("bolt", 2)] {
        bench.told(customer, 2, Told::Sending { node: NODE, message }).await;
        bench.told(customer, 2, Told::Accepted { at_ms: 1 }).await;
    }
    assert!(bench.due().is_empty());
    bench.change(MigrationCommand::Remind).await;
    assert_eq!(bench.due(), ["bolt"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_no_server_has_is_withdrawn_when_its_migration_is_cancelled() {
    let bench = Bench::announced().await;
    let running = tokio::spawn(bench.mailer.clone().run());
    bench.published(NEW, 1).await;
    // No server takes them: neither contact's domain is in DNS.
    wait_until("both letters are queued", || bench.queued() == 2).await;
    bench.change(MigrationCommand::Cancel).await;
    wait_until("they are withdrawn", || bench.queued() == 0).await;
    let is_withdrawn = |told: &Told| match told {
        Told::Bounced { why, .. } => why.contains("withdrawn"),
        _ => false,
    };
    wait_until("the fleet knows it", || {
        ["acme", "bolt"].iter().all(|customer| is_withdrawn(&bench.state_of(customer)))
    })
    .await;
    assert!(bench.due().is_empty(), "who was told nothing is told of no cancellation");
    running.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_nobody_counts_on_any_more_is_not_sent_by_who_comes_back() {
    let bench = Bench::announced().await;
    let id = letter_of(1);
    bench.told("acme", 1, sending(NODE, id)).await;
    let running = tokio::spawn(bench.mailer.clone().run());
    wait_until("the letter is queued", || bench.world.spool.hold_of(id).is_some()).await;
    running.abort();
    // While this host was away, the customer was told of the cancellation by another.
    bench.change(MigrationCommand::Cancel).await;
    bench.told("acme", 2, sending(2, letter_of(2))).await;
    wait_until("it is withdrawn", || {
        bench.world.deliveries.retry_all("root at mx1");
        bench.queued() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_was_handed_over_is_its_new_hosts() {
    let bench = Bench::announced().await;
    let id = letter_of(7);
    let mut draft = bench.world.spool.begin_copy(id, 8).unwrap();
    draft.push(b"hello\r\n").await.unwrap();
    draft.commit(envelope(&["ops@acme.test"])).await.unwrap();
    bench.told("acme", 1, sending(7, id)).await;
    let running = tokio::spawn(bench.mailer.clone().run());
    wait_until("it is known whose it is", || bench.state_of("acme") == sending(NODE, id)).await;
    assert!(bench.due().iter().all(|customer| customer != "acme"), "nobody writes it again");
    running.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_has_the_names_that_its_customer_has_when_it_is_written() {
    let bench = Bench::announced().await;
    bench.must(Command::Assign { customer: "acme".into(), names: vec![STAYS.into()] }).await;
    let id = letter_of(1);
    bench.told("acme", 1, sending(NODE, id)).await;
    let running = tokio::spawn(bench.mailer.clone().run());
    wait_until("the letter is queued", || bench.world.spool.hold_of(id).is_some()).await;
    let (message, mut text) = (bench.world.spool.load(id).unwrap().unwrap(), Vec::new());
    let mut reader = message.text();
    while let Some(piece) = reader.next_chunk().await.unwrap() {
        text.extend_from_slice(&piece);
    }
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains(STAYS) && !text.contains(NEW), "{text}");
    running.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_suspended_until_after_the_end_is_told_when_it_is_resumed() {
    let bench = Bench::announced().await;
    let status = |id: &str, status| Command::CustomerStatus { id: id.to_owned(), status };
    for id in ["acme", "bolt"] {
        bench.must(status(id, CustomerStatus::Suspended)).await;
    }
    let rows = [("acme", Survey::Old { at_ms: 1 }), ("bolt", Survey::Moved { at_ms: 1 })];
    let rows = rows.map(|(id, survey)| (id.to_owned(), survey, Vec::new())).to_vec();
    bench.change(MigrationCommand::Surveyed { migration: 1, rows }).await;
    bench.change(MigrationCommand::Finish { force: true }).await;
    let running = tokio::spawn(bench.mailer.clone().run());
    for id in ["acme", "bolt"] {
        bench.must(status(id, CustomerStatus::Active)).await;
    }
    wait_until("the letter is queued", || bench.queued() == 1).await;
    assert!(matches!(bench.state_of("acme"), Told::Sending { .. }));
    assert_eq!(bench.state_of("bolt"), Told::NotYet, "it has moved");
    assert!(bench.due().is_empty());
    running.abort();
}
