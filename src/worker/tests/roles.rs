//! Mail to those who run the service is handed on once, whatever is in the way.

use std::collections::BTreeSet;

use super::*;
use crate::smtp::authentication::Finding;
use crate::smtp::{About, Authentication, RolePart, Written};
use crate::spool::sim_fs::{EIO, ENOSPC, Fault, SimFs};
use crate::verdict::Verdict;
use crate::worker::attempt::Loaded;

const TEXT: &str = "From: jane@elsewhere.test\r\nSubject: help\r\n\r\nhelp\r\n";

/// Operators whose server is this one.
async fn operators(server: &CustomerServer) -> World {
    let mut world = World::new(&[]).await;
    employ(&mut world, server).await;
    world
}

async fn employ(world: &mut World, server: &CustomerServer) {
    world.set("service.operators", "ops@ops.test").await;
    // A route for it is easier to have here than exchangers.
    let domain = Domain {
        name: "ops.test".into(),
        customer: "acme".into(),
        route: server.address.to_string().parse().unwrap(),
        tls: TlsPolicy::Opportunistic,
        connections_max: None,
        recipients: RecipientPolicy::default(),
    };
    world.propose(Command::DomainAdd(domain)).await;
}

fn taken(server: &CustomerServer) -> Vec<String> {
    server.seen.lock().unwrap().taken.iter().map(|(_, text)| text.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_of_one_message_share_a_copy_and_others_are_not_concerned() {
    let server = CustomerServer::start(Manners::default()).await;
    let world = operators(&server).await;
    world.send(&["noc@mx1.relay.test", "Support@mx1.relay.test", "a@ops.test"], TEXT).await;
    world.empty().await;
    let mut taken = taken(&server);
    taken.sort_by_key(String::len);
    assert_eq!(taken.len(), 2, "{taken:?}");
    assert_eq!(taken[0], TEXT.replace("\r\n", "\n"));
    assert!(taken[1].contains("Subject: [noc, support] help\n"), "{}", taken[1]);
    assert!(taken[1].contains(&taken[0]), "{}", taken[1]);
    wait_until("it is logged", || world.log_lines("handed to operators: 1") == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_the_copy_was_stored_makes_no_second_one() {
    let server = CustomerServer::start(Manners::default()).await;
    let mut world = operators(&server).await;
    world.stop().await;
    let id = world.store(envelope(&["abuse@mx1.relay.test"]), TEXT).await.id;
    let kind = Written::Role(RolePart::Copy);
    let about = About { kind, id: id.to_string(), recipients: vec![0] };
    let copy = Envelope { mail_from: None, about: Some(about), ..envelope(&["ops@ops.test"]) };
    world.store(copy, "Subject: the copy\r\n\r\n").await;
    world.running = Some(tokio::spawn(async {}));
    let world = world.restart(limits()).await;
    world.empty().await;
    assert_eq!(taken(&server), ["Subject: the copy\n\n"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_because_of_a_message_is_known_until_both_have_left_the_queue() {
    let rcpt = BTreeMap::from([("busy", "450 4.2.1 busy")]);
    let server = CustomerServer::start(Manners { rcpt, ..Manners::default() }).await;
    let mut world = operators(&server).await;
    world.set("queue.retry_min", "1h").await;
    let gone = world.send(&["a@ops.test"], TEXT).await;
    let waits = world.send(&["busy@ops.test"], TEXT).await;
    wait_until("one waits", || world.log_lines("status=deferred") == 1).await;
    wait_until("one is gone", || world.spool.stats().messages == 1).await;
    world.stop().await;
    for id in [gone, waits] {
        let kind = Written::Report(crate::smtp::ReportKind::Failed);
        let about = About { kind, id: id.to_string(), recipients: vec![0] };
        let report = Envelope { mail_from: None, about: Some(about), ..envelope(&["b@ops.test"]) };
        world.store(report, TEXT).await;
    }
    world.running = Some(tokio::spawn(async {}));
    let world = world.restart(limits()).await;
    let known = || world.deliveries.inner.lock().told.keys().copied().collect::<Vec<_>>();
    wait_until("the reports are gone", || taken(&server).len() == 3).await;
    wait_until("one is forgotten", || known() == [waits]).await;
    world.deliveries.delete(waits, OPERATOR).await.unwrap();
    assert!(known().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_and_missing_operators_keep_the_message() {
    let server = CustomerServer::start(Manners::default()).await;
    let mut world = operators(&server).await;
    world.stop().await;
    world.store(envelope(&["abuse@mx1.relay.test"]), TEXT).await;
    world.running = Some(tokio::spawn(async {}));
    let full = Limits { disk_reserve_octets: 1 << 60, ..limits() };
    let mut world = world.restart(full).await;
    let deferred = "status=deferred (the spool takes no mail now)";
    wait_until("a full disk", || world.log_lines(deferred) > 0).await;
    world.set("service.operators", "").await;
    let mut world = world.restart(limits()).await;
    let deferred = "status=deferred (nobody is set to read this";
    wait_until("nobody to read it", || world.log_lines(deferred) > 0).await;
    assert!(taken(&server).is_empty());
    world.propose(Command::DomainRemove { name: "ops.test".into() }).await;
    employ(&mut world, &server).await;
    world.deliveries.retry_all(OPERATOR);
    wait_until("the copy", || taken(&server).len() == 1).await;
}

/// A message to `trouble`, in a spool on a disk whose calls may fail.
struct Trouble {
    fs: SimFs,
    world: World,
    id: EntryId,
    message: Loaded,
}

impl Trouble {
    /// Nothing is delivered: the parts are written by hand.
    async fn arrives(recipients: &[&str]) -> Self {
        let fs = SimFs::new();
        let dir = Arc::new(tempfile::tempdir().unwrap());
        std::fs::write(dir.path().join(WEBHOOK_FILE), "http://127.0.0.1:1/").unwrap();
        let mut world = World::on(Arc::new(fs.clone()), dir, Cluster::detached(), limits());
        world.set("service.operators", "ops@ops.test").await;
        world.stop().await;
        let by = "mx1.relay.test".to_owned();
        let authentication = Authentication { by, spf: Finding::Pass, dkim: Vec::new() };
        let envelope = Envelope { authentication: Some(authentication), ..envelope(recipients) };
        let id = world.store(envelope, TEXT).await.id;
        let message = Loaded::from_spool(world.spool.load(id).unwrap().unwrap());
        Self { fs, world, id, message }
    }

    async fn hand_on(&self, written: &mut Vec<Queued>) -> Verdict {
        let recipients: Vec<u32> = (0..).take(self.message.states.len()).collect();
        self.world.deliveries.inner.hand_on(self.id, &self.message, &recipients, written).await
    }

    /// The parts that the next life finds.
    fn kept(&self) -> Vec<RolePart> {
        let dir = self.world.dir.path().join("spool");
        let (_spool, entries) = open_spool(Arc::new(self.fs.kill()), &dir, &limits().into());
        let about = entries.filter_map(|entry| entry.unwrap().about);
        let part = |about: About| match about.kind {
            Written::Role(part) => part,
            Written::Report(_) => panic!("{about:?}"),
        };
        about.map(part).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_call_may_fail_between_the_parts_and_none_is_written_twice() {
    let whole = Trouble::arrives(&["trouble@mx1.relay.test"]).await;
    let before = whole.fs.calls();
    whole.hand_on(&mut Vec::new()).await;
    let calls = whole.fs.calls() - before;
    let mut first_lives = BTreeSet::new();
    for fault in [Fault::Errno(EIO), Fault::Short(ENOSPC)] {
        for nth in 1..=calls {
            let trouble = Trouble::arrives(&["trouble@mx1.relay.test"]).await;
            trouble.fs.fail_nth(nth, fault);
            let mut written = Vec::new();
            let mut verdict = trouble.hand_on(&mut written).await;
            first_lives.insert(written.len());
            for _ in 0..100 {
                if matches!(verdict, Verdict::Delivered { .. }) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await; // the spool makes a new file
                verdict = trouble.hand_on(&mut written).await;
            }
            let context = format!("{fault:?} at call {nth}: {verdict:?}");
            assert!(matches!(verdict, Verdict::Delivered { .. }), "{context}");
            let kept = trouble.kept();
            let count = |part| kept.iter().filter(|kept| **kept == part).count();
            assert_eq!(count(RolePart::Copy), 1, "{context}: {kept:?}");
            assert_eq!(count(RolePart::Page), 1, "{context}: {kept:?}");
            assert!(count(RolePart::Acknowledgement) <= 1, "{context}: {kept:?}");
            assert_eq!(kept.len(), written.len(), "{context}: {kept:?}");
        }
    }
    // So there were failures before, between and behind them.
    assert!(first_lives.is_superset(&[0, 1, 2].into()), "{first_lives:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_writes_to_trouble_and_others_is_answered_as_trouble() {
    let trouble = Trouble::arrives(&["support@mx1.relay.test", "trouble@mx1.relay.test"]).await;
    let mut written = Vec::new();
    trouble.hand_on(&mut written).await;
    assert_eq!(written.len(), 3, "{written:?}");
    let answer = String::from_utf8(written[2].text.as_ref().unwrap().to_vec()).unwrap();
    assert!(answer.contains("From: <trouble@mx1.relay.test>\r\n"), "{answer}");
    assert!(answer.contains("It is marked as urgent."), "{answer}");
}
