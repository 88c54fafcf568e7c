//! What an operator does, and what settings do.

use super::*;
use crate::smtp::Enhanced;
use crate::spool::Outcome;
use crate::worker::ending::final_mark;
use crate::worker::hand_over::TakeError;

#[tokio::test(flavor = "multi_thread")]
async fn mail_for_a_dead_destination_expires_with_its_last_error() {
    let mut world = World::new(&[("dead.test", nobody().await.to_string())]).await;
    world.send(&["a@dead.test"], "text\r\n").await;
    wait_until("it was tried", || world.log_lines("status=deferred") > 0).await;
    world.set("queue.lifetime", "1s").await;
    world.empty().await;
    let log = world.log();
    assert!(log.contains("dsn=5.4.7, status=bounced (delivery time expired: 127.0.0.1["), "{log}");
    wait_until("it is removed", || world.log_lines("removed") == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_that_is_refused_for_now_expires_with_the_servers_words() {
    let rcpt = BTreeMap::from([("busy", "450 4.2.1 mailbox busy")]);
    let server = CustomerServer::start(Manners { rcpt, ..Manners::default() }).await;
    let mut world = World::new(&[("acme.test", server.address.to_string())]).await;
    world.set("queue.lifetime", "1s").await;
    world.send(&["busy@acme.test"], "text\r\n").await;
    world.empty().await;
    let log = world.log();
    assert!(log.contains("status=bounced (delivery time expired: 450 4.2.1 mailbox busy"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_message_waits_for_its_release_also_after_a_restart() {
    let server = CustomerServer::start(Manners::default()).await;
    let address = server.address;
    server.close();
    let mut world = World::new(&[("acme.test", address.to_string())]).await;
    let id = world.send(&["a@acme.test"], "text\r\n").await;
    wait_until("it was tried", || world.log_lines("status=deferred") > 0).await;
    assert!(!world.deliveries.release(id, OPERATOR).await.unwrap(), "it is not held");
    assert!(world.deliveries.hold(id, OPERATOR).await.unwrap());
    assert!(!world.deliveries.hold(id, OPERATOR).await.unwrap(), "it is held already");
    assert!(!world.deliveries.retry(id, OPERATOR).await.unwrap(), "it stays held");
    world.stop().await;
    world.spool.close().await.unwrap();
    let (dir, cluster) = (Arc::clone(&world.dir), world.cluster.clone());
    drop(world);
    let server = CustomerServer::start_at(address, Manners::default()).await;
    let world = World::open(dir, cluster, limits());
    world.send(&["b@acme.test"], "text\r\n").await;
    wait_until("the other is taken", || server.taken() == 1).await;
    let entry = world.deliveries.show(id).await.unwrap();
    assert!(entry.held && entry.recipients[0].state == "held");
    assert!(world.deliveries.release(id, OPERATOR).await.unwrap());
    let line = format!("{id}: released by an operator: jane as root at mx1");
    wait_until(&line, || world.log_lines(&line) == 1).await;
    world.empty().await;
    assert_eq!(server.recipients(), ["a@acme.test", "b@acme.test"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_deletes_and_bounces_what_waits() {
    let world = World::new(&[("dead.test", nobody().await.to_string())]).await;
    let deleted = world.send(&["a@dead.test", "b@dead.test"], "text\r\n").await;
    let bounced = world.send(&["c@dead.test"], "text\r\n").await;
    wait_until("both were tried", || world.log_lines("status=deferred") >= 3).await;
    for id in [deleted, bounced] {
        // A probe may be carrying it at this moment, which is what the answer then says.
        let mut result = Err(OperateError::Running(id));
        while let Err(OperateError::Running(_)) = result {
            result = match id == deleted {
                true => world.deliveries.delete(id, OPERATOR).await,
                false => world.deliveries.bounce(id, OPERATOR).await,
            };
        }
        result.unwrap();
    }
    world.empty().await;
    assert_eq!(world.log_lines("status=removed (removed by an operator: jane as root at mx1)"), 2);
    let returned = "status=bounced (returned by an operator: jane as root at mx1)";
    assert_eq!(world.log_lines(returned), 1);
    wait_until("the schedule has none", || world.deliveries.summary().destinations.is_empty())
        .await;
    let gone = world.deliveries.delete(deleted, OPERATOR).await.unwrap_err();
    assert!(matches!(gone, OperateError::NotFound(id) if id == deleted));
}

/// What the log says of how each recipient ended: its id and address, and `status=` or `removed`.
fn endings(log: &str) -> BTreeMap<(String, String), Vec<String>> {
    let mut endings: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for line in log.lines().filter(|line| !line.contains("status=deferred")) {
        let Some((head, rest)) = line.split_once(": to=<") else { continue };
        let (id, to) = (head.rsplit_once(' ').unwrap().1, rest.split_once('>').unwrap().0);
        let status = rest.split_once("status=").unwrap().1.to_owned();
        endings.entry((id.to_owned(), to.to_owned())).or_default().push(status);
    }
    endings
}

#[tokio::test(flavor = "multi_thread")]
async fn two_operators_and_a_delivery_give_each_recipient_one_ending() {
    let rcpt = BTreeMap::from([("busy", "450 4.2.1 busy")]);
    let server = CustomerServer::start(Manners { rcpt, ..Manners::default() }).await;
    let world = World::new(&[("acme.test", server.address.to_string())]).await;
    let to = ["good@acme.test", "busy@acme.test", "busy2@acme.test"];
    let mut ids = Vec::new();
    for _ in 0..200 {
        ids.push(world.send(&to, "text\r\n").await);
    }
    // Some are waiting, some on their way, some in the middle of what the other operator does.
    for id in ids {
        let (mut deleted, mut bounced) = (None, None);
        while world.spool.load(id).unwrap().is_some() {
            let both = tokio::join!(
                world.deliveries.delete(id, OPERATOR),
                world.deliveries.bounce(id, OPERATOR)
            );
            deleted = deleted.or(both.0.ok());
            bounced = bounced.or(both.1.ok());
        }
        assert!(deleted.is_some() != bounced.is_some(), "{id}: {deleted:?} {bounced:?}");
    }
    world.empty().await;
    wait_until("all are gone", || world.log_lines(": removed") >= 200).await;
    let log = world.log();
    let endings = endings(&log);
    assert_eq!(endings.len(), 600, "{log}");
    for ((id, to), statuses) in &endings {
        assert_eq!(statuses.len(), 1, "{id} {to}: {statuses:?}");
    }
    assert_eq!(world.log_lines(": removed"), 200);
    // What the log says is what the server knows.
    let sent = endings.values().filter(|statuses| statuses[0].starts_with("sent")).count();
    assert_eq!(sent, server.taken());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_has_waiting_mail_tried_now() {
    let rcpt = BTreeMap::from([("busy", "450 4.2.1 busy")]);
    let server = CustomerServer::start(Manners { rcpt, ..Manners::default() }).await;
    let mut world = World::new(&[("acme.test", server.address.to_string())]).await;
    world.set("queue.retry_min", "1h").await;
    let first = world.send(&["busy1@acme.test"], "text\r\n").await;
    world.send(&["busy2@acme.test"], "text\r\n").await;
    wait_until("both are deferred", || world.log_lines("status=deferred") == 2).await;
    let entries = world.deliveries.list(Some("acme.test"), None, 10).await.unwrap();
    let waiting = |entry: &EntryView| entry.recipients[0].state == "waiting";
    assert!(entries.len() == 2 && entries.iter().all(waiting), "{entries:?}");
    let summary = world.deliveries.summary_with_replies(10).await.unwrap();
    let [destination] = summary.destinations.as_slice() else { panic!("{summary:?}") };
    assert_eq!(destination.error, None, "the server answers");
    let reply = destination.last_reply.as_deref().unwrap_or_default();
    assert!(reply.contains("450 4.2.1 busy"), "{reply}");
    assert!(destination.next_due_seconds.is_some());
    server.behave(|manners| manners.rcpt.clear());
    world.deliveries.retry(first, OPERATOR).await.unwrap();
    wait_until("the first is taken", || server.taken() == 1).await;
    assert_eq!(world.deliveries.retry_domain("acme.test", OPERATOR), (1, 0));
    world.empty().await;
    assert_eq!(server.recipients(), ["busy1@acme.test", "busy2@acme.test"]);
    assert_eq!(world.deliveries.retry_all(OPERATOR), (0, 0));
    for line in [
        format!("{first}: made due by an operator: jane as root at mx1"),
        "NOQUEUE: retry of acme.test by an operator: jane as root at mx1".to_owned(),
        "NOQUEUE: retry of everything by an operator: jane as root at mx1".to_owned(),
    ] {
        wait_until(&line, || world.log_lines(&line) == 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_route_takes_effect_on_connections_that_are_open() {
    let old = CustomerServer::start(Manners::default()).await;
    let new = CustomerServer::start(Manners::default()).await;
    let bounds = Limits { connection_idle_ms: 60_000, ..limits() };
    let mut world = World::with(&[("acme.test", old.address.to_string())], bounds).await;
    world.send(&["a@acme.test"], "text\r\n").await;
    wait_until("the old one takes it", || old.taken() == 1).await;
    let route = Some(new.address.to_string().parse().unwrap());
    let change = mxfleet_cluster::DomainChange { route, ..Default::default() };
    world.propose(Command::DomainSet { name: "acme.test".into(), change }).await;
    for _ in 0..5 {
        world.send(&["b@acme.test"], "text\r\n").await;
    }
    world.empty().await;
    assert_eq!((old.taken(), new.taken()), (1, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_is_listed_page_by_page() {
    let world = World::new(&[("dead.test", nobody().await.to_string())]).await;
    let mut sent = Vec::new();
    for n in 0..7 {
        sent.push(world.send(&[&format!("u{n}@dead.test")], "text\r\n").await);
    }
    let mut listed = Vec::new();
    loop {
        let page = world.deliveries.list(None, listed.last().copied(), 3).await.unwrap();
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 3);
        listed.extend(page.iter().map(|entry| entry.id));
    }
    assert_eq!(listed, sent);
    assert!(world.deliveries.list(Some("other.test"), None, 3).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_vanish_behind_a_dead_destination_take_no_other_with_them() {
    let server = CustomerServer::start(Manners::default()).await;
    let address = server.address;
    server.close();
    let bounds = Limits { fresh_cache_octets_max: 0, ..limits() };
    let world = World::with(&[("acme.test", address.to_string())], bounds).await;
    let mut gone = Vec::new();
    for n in 0..20 {
        let id = world.send(&[&format!("u{n:02}@acme.test")], "text\r\n").await;
        gone.extend((n % 2 == 0).then_some(id));
    }
    for id in gone {
        let text = "gone".to_owned();
        let mark = final_mark(0, Outcome::Removed, Enhanced(5, 0, 0), text);
        world.spool.record(id, vec![mark]);
    }
    // The probes must meet those that are gone; nothing else shows that they did.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let server = CustomerServer::start_at(address, Manners::default()).await;
    world.empty().await;
    let mut taken = server.recipients();
    taken.sort();
    let expected: Vec<String> = (0..10).map(|n| format!("u{:02}@acme.test", 2 * n + 1)).collect();
    assert_eq!(taken, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_not_scheduled_yet_is_no_other_hosts_to_take() {
    let server = CustomerServer::start(Manners::default()).await;
    let world = World::new(&[("acme.test", server.address.to_string())]).await;
    // Whoever empties this host goes by the spool, which knows of it before the schedule.
    let queued = world.store(envelope(&["a@acme.test"]), "text\r\n").await;
    let taken = world.deliveries.take(queued.id).await;
    let on_its_way = |taken| matches!(taken, Err(TakeError::Busy(OperateError::OnItsWay(_))));
    assert!(on_its_way(taken), "two would deliver it");
    world.deliveries.accept(queued);
    world.empty().await;
    assert_eq!(server.taken(), 1);
}
