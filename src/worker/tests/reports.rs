//! Who is told of what, once.

use super::*;
use crate::smtp::authentication::{Finding, Signature};
use crate::smtp::{About, Authentication, Notify, ReportKind, Ret, Written};
use crate::telemetry::journal::JournalLine;
use crate::verdict::{Class, classify_dsn};

const TEXT: &str = "Subject: hello\r\n\r\nbody\r\n";

/// A customer who writes (acme.test), and one whose server refuses `unknown...` (bravo.test).
struct Two {
    world: World,
    writer: CustomerServer,
}

impl Two {
    async fn with(refuser: Manners) -> Self {
        let writer = CustomerServer::start(Manners::default()).await;
        let refuser = CustomerServer::start(refuser).await;
        let routes = [
            ("acme.test", writer.address.to_string()),
            ("bravo.test", refuser.address.to_string()),
        ];
        let mut world = World::new(&routes).await;
        world.set("queue.retry_min", "200ms").await;
        Self { world, writer }
    }

    async fn new() -> Self {
        Self::with(Manners { rcpt: refusing(), ..Manners::default() }).await
    }

    fn journal(&self) -> Vec<JournalLine> {
        self.world.deliveries.inner.parts.journal.search(None, None, 1000).unwrap()
    }

    /// The texts of the reports that have arrived.
    fn reports(&self) -> Vec<String> {
        let seen = self.writer.seen.lock().unwrap();
        seen.taken.iter().map(|(_, text)| text.replace('\n', "\r\n")).collect()
    }

    async fn outcome(&self, from: Envelope) -> (String, Option<String>) {
        self.world.send_as(from, TEXT).await;
        self.world.empty().await;
        let line = self.journal().pop().unwrap();
        (line.outcome, line.because)
    }
}

fn refusing() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::from([("unknown", "550 5.1.1 no such user"), ("busy", "450 4.2.1 busy")])
}

fn passed(spf: Finding) -> Authentication {
    let signature = Signature { result: Finding::Pass, domain: "acme.test".into() };
    Authentication { by: "mx1.relay.test".into(), spf, dkim: vec![signature] }
}

/// From a customer, and known to be.
fn authentic(recipients: &[&str]) -> Envelope {
    let mail_from = Some(Address::parse("boss@acme.test", false).unwrap());
    Envelope { mail_from, authentication: Some(passed(Finding::Pass)), ..envelope(recipients) }
}

fn asking(notify: Notify, recipients: &[&str]) -> Envelope {
    let mut envelope = authentic(recipients);
    envelope.recipients.iter_mut().for_each(|recipient| recipient.notify = Some(notify));
    envelope
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authentic_customer_is_told_once_of_all_that_failed() {
    let two = Two::new().await;
    let to = ["unknown1@bravo.test", "good@bravo.test", "unknown2@bravo.test"];
    let id = two.world.send_as(authentic(&to), TEXT).await;
    wait_until("the report", || two.writer.taken() == 1).await;
    two.world.empty().await;
    let seen = two.writer.seen.lock().unwrap().commands.clone();
    assert!(seen[0].starts_with("MAIL FROM:<>"), "{seen:?}");
    assert_eq!(seen[1], "RCPT TO:<boss@acme.test>");
    let report = two.reports().pop().unwrap();
    let found = classify_dsn(report.as_bytes());
    let found: Vec<_> = found.iter().map(|r| (r.recipient.as_str(), r.class)).collect();
    let expected = [to[0], to[2]].map(|address| (address, Class::UnknownUser));
    assert_eq!(found, expected, "{report}");
    assert!(report.contains("Remote-MTA: dns; 127.0.0.1") && report.contains("Subject: hello"));
    assert!(!report.contains("body"), "without RET only the header comes back");
    let lines = two.journal();
    assert_eq!(lines.len(), 2);
    for line in &lines {
        assert_eq!((line.outcome.as_str(), line.id == id.to_string()), ("returned", true));
        let report = line.report.as_ref().unwrap();
        assert!(two.world.log().contains(&format!("{report}: to=<boss@acme.test>")));
    }
    let log = two.world.log();
    assert!(!log.contains("own:"), "an address is an address: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_told_is_journaled_with_the_reason() {
    let two = Two::new().await;
    let to = ["unknown@bravo.test"];
    let own = Some(Address::parse("x@mx1.relay.test", false).unwrap());
    let forged = Authentication { spf: Finding::Fail, dkim: Vec::new(), ..passed(Finding::Fail) };
    for (envelope, because) in [
        (envelope(&to), "not_a_customer"),
        (Envelope { mail_from: None, ..authentic(&to) }, "null_sender"),
        (Envelope { mail_from: own, ..authentic(&to) }, "own_address"),
        (Envelope { authentication: None, ..authentic(&to) }, "not_authentic"),
        (Envelope { authentication: Some(forged), ..authentic(&to) }, "not_authentic"),
        (asking(Notify::NEVER, &to), "not_asked"),
    ] {
        let told = two.outcome(envelope).await;
        assert_eq!(told, ("suppressed".to_owned(), Some(because.to_owned())));
    }
    assert_eq!(two.writer.taken(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parameters_of_rfc_3461_are_honoured_in_a_report() {
    let two = Two::new().await;
    let mut envelope = authentic(&["unknown@bravo.test"]);
    envelope.ret = Some(Ret::Full);
    envelope.envid = Some("id+3D1".into());
    envelope.recipients[0].orcpt = Some("rfc822;first@bravo.test".into());
    two.world.send_as(envelope, TEXT).await;
    wait_until("the report", || two.writer.taken() == 1).await;
    let report = two.reports().pop().unwrap();
    for part in [
        "Original-Envelope-Id: id=1\r\n",
        "Original-Recipient: rfc822; first@bravo.test\r\n",
        "Content-Type: message/rfc822\r\n\r\nSubject: hello\r\n\r\nbody\r\n",
    ] {
        assert!(report.contains(part), "{part} is not in\n{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_alone_is_told_within_the_budget() {
    let mut two = Two::new().await;
    two.world.set("bounce.budget", "1/1h").await;
    let signed = Envelope {
        authentication: Some(passed(Finding::Neutral)),
        ..authentic(&["unknown@bravo.test"])
    };
    assert_eq!(two.outcome(signed.clone()).await, ("returned".to_owned(), None));
    let spent = ("suppressed".to_owned(), Some("budget_spent".to_owned()));
    assert_eq!(two.outcome(signed).await, spent);
    let by_spf = authentic(&["unknown@bravo.test"]);
    assert_eq!(two.outcome(by_spf).await, ("returned".to_owned(), None));
    wait_until("two reports", || two.writer.taken() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_is_reported_if_that_was_asked_for_and_the_server_does_not() {
    let success = Notify { success: true, failure: true, delay: false };
    for (offer, expected) in [("8BITMIME", 1), ("DSN", 0)] {
        let two = Two::with(Manners { offer: Some(offer), ..Manners::default() }).await;
        two.world.send_as(asking(success, &["a@bravo.test", "b@bravo.test"]), TEXT).await;
        two.world.send_as(authentic(&["c@bravo.test"]), TEXT).await;
        two.world.empty().await;
        assert_eq!(two.writer.taken(), expected, "{offer}");
        let lines = two.journal();
        assert_eq!(lines.len(), 2 * expected);
        if let Some(report) = two.reports().pop() {
            assert_eq!(report.matches("Action: relayed\r\n").count(), 2, "{report}");
            assert!(report.contains("a@bravo.test") && !report.contains("c@bravo.test"));
            assert!(lines.iter().all(|line| line.outcome == "relayed"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_message_is_told_of_once_also_across_a_restart() {
    let mut two = Two::new().await;
    two.world.set("queue.warn_after", "1s").await;
    two.world.set("queue.retry_max", "1s").await;
    two.world.send_as(authentic(&["busy@bravo.test", "good@bravo.test"]), TEXT).await;
    two.world.send_as(envelope(&["busy@bravo.test"]), TEXT).await;
    two.world
        .send_as(asking(Notify { delay: false, ..Notify::NEVER }, &["busy@bravo.test"]), TEXT)
        .await;
    wait_until("the warning", || two.writer.taken() == 1).await;
    let report = two.reports().pop().unwrap();
    for part in ["Action: delayed\r\n", "Will-Retry-Until: ", "Status: 4.2.1\r\n", "busy@bravo"] {
        assert!(report.contains(part), "{part} is not in\n{report}");
    }
    assert!(!report.contains("good@bravo.test"));
    let lines = two.journal();
    assert_eq!((lines.len(), lines[0].outcome.as_str()), (1, "delayed"));
    // Passes go on each second, and attempts more often; the next life begins them anew.
    let attempts = two.world.log_lines("status=deferred");
    wait_until("more attempts", || two.world.log_lines("status=deferred") > attempts + 8).await;
    let Two { world, writer } = two;
    let world = world.restart(limits()).await;
    wait_until("more attempts", || world.log_lines("status=deferred") > 8).await;
    assert_eq!(writer.taken(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_is_told_of_with_what_was_said_last() {
    let mut two = Two::new().await;
    two.world.set("queue.lifetime", "1s").await;
    two.world.send_as(authentic(&["busy@bravo.test"]), TEXT).await;
    let held = two.world.send_as(authentic(&["busy2@bravo.test"]), TEXT).await;
    two.world.deliveries.hold(held, OPERATOR).await.unwrap();
    wait_until("the report", || two.writer.taken() == 1).await;
    let report = two.reports().pop().unwrap();
    assert!(report.contains("Status: 5.4.7\r\n"), "{report}");
    assert!(report.contains("x-mxfleet; delivery time expired: 450 4.2.1 busy"), "{report}");
    two.world.deliveries.bounce(held, OPERATOR).await.unwrap();
    wait_until("the other report", || two.writer.taken() == 2).await;
    assert!(two.reports().pop().unwrap().contains("returned by an operator"));
    two.world.empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_the_report_was_stored_makes_no_second_one() {
    let Two { mut world, writer } = Two::new().await;
    world.stop().await;
    let to = ["unknown1@bravo.test", "unknown2@bravo.test"];
    let first = world.store(authentic(&to), TEXT).await.id;
    let second = world.store(authentic(&to), TEXT).await.id;
    // The first was reported, and its marks were lost; of the second, one recipient was.
    for (id, recipients) in [(first, vec![0, 1]), (second, vec![1])] {
        let about =
            About { kind: Written::Report(ReportKind::Failed), id: id.to_string(), recipients };
        let report = Envelope {
            mail_from: None,
            about: Some(about),
            authentication: None,
            ..authentic(&["boss@acme.test"])
        };
        world.store(report, "Subject: the report\r\n\r\n").await;
    }
    world.running = Some(tokio::spawn(async {}));
    let world = world.restart(limits()).await;
    world.empty().await;
    assert_eq!(writer.taken(), 3);
    let seen = writer.seen.lock().unwrap();
    let fresh: Vec<&String> =
        seen.taken.iter().map(|(_, text)| text).filter(|text| text.contains("Action:")).collect();
    assert_eq!(fresh.len(), 1, "only of the second message's other recipient");
    assert!(fresh[0].contains(to[0]) && !fresh[0].contains(to[1]), "{}", fresh[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_cannot_be_reported_is_none_yet() {
    let Two { mut world, writer } = Two::new().await;
    world.stop().await;
    let told = world.store(authentic(&["unknown@bravo.test"]), TEXT).await.id;
    let silent = world.store(envelope(&["unknown@bravo.test"]), TEXT).await.id;
    world.running = Some(tokio::spawn(async {}));
    // A disk that is full: nothing new is taken, and what is queued is delivered.
    let world = world.restart(Limits { disk_reserve_octets: 1 << 60, ..limits() }).await;
    let tried = format!("{told}: to=<unknown@bravo.test>");
    let deferred = || world.log().lines().any(|line| line.contains(&tried));
    wait_until("it was tried", deferred).await;
    let log = world.log();
    let line = log.lines().find(|line| line.contains(&tried)).unwrap();
    assert!(line.contains("status=deferred (550 5.1.1 no such user (not ended yet"), "{line}");
    wait_until("the other one ends", || world.spool.stats().messages == 1).await;
    assert!(world.log().contains(&format!("{silent}: removed")));
    assert_eq!(
        world.deliveries.bounce(told, OPERATOR).await.unwrap_err().to_string().split(": ").next(),
        Some(&*format!(
            "the report to the sender of {told} could not be stored, so nothing was changed"
        ))
    );
    let world = world.restart(limits()).await;
    world.empty().await;
    assert_eq!(writer.taken(), 1);
    let lines = world.deliveries.inner.parts.journal.search(None, None, 10).unwrap();
    let outcomes: Vec<&str> = lines.iter().map(|line| line.outcome.as_str()).collect();
    assert_eq!(outcomes, ["suppressed", "returned"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_given_up_while_the_disk_is_full_is_not_tried_without_a_pause() {
    let Two { mut world, .. } = Two::new().await;
    world.set("queue.lifetime", "1s").await;
    world.stop().await;
    let told = world.store(authentic(&["busy@bravo.test"]), TEXT).await.id;
    world.running = Some(tokio::spawn(async {}));
    let began = Instant::now();
    let world = world.restart(Limits { disk_reserve_octets: 1 << 60, ..limits() }).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let tries = world.log_lines(&format!("{told}: to=<busy@bravo.test>")) as u64;
    let most = 10 * (1 + began.elapsed().as_secs());
    assert!(tries > 1 && tries < most, "{tries} tries, at most {most}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_wait_in_a_queue_of_their_own_and_their_failure_is_not_reported() {
    let two = Two::new().await;
    two.writer.behave(|manners| manners.rcpt = BTreeMap::from([("boss", "450 4.2.1 full")]));
    two.world.send_as(authentic(&["unknown@bravo.test"]), TEXT).await;
    let waits = || {
        let destinations = two.world.deliveries.summary().destinations;
        destinations.iter().map(|d| d.domain.clone()).collect::<Vec<_>>() == ["own:acme.test"]
    };
    wait_until("only the report is queued", waits).await;
    two.writer.behave(|manners| manners.rcpt = BTreeMap::from([("boss", "550 5.1.1 gone")]));
    two.world.empty().await;
    let line = two.journal().pop().unwrap();
    assert_eq!(line.because.as_deref(), Some("null_sender"), "{line:?}");
    assert_eq!(two.writer.taken(), 0);
    assert_eq!(two.world.deliveries.inner.parts.reports.waiting(), 1, "only the first counts");
}
