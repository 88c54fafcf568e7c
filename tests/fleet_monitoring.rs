//! A real Prometheus watches a real fleet: everything is seen, nothing alarms without a reason,
//! and what is urgent alarms.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::eventually;
use support::fleet::{Fleet, on_loopback};
use support::message;
use support::node::{Setup, http_get};
use support::prometheus::{Pace, Prometheus};
use support::sink::{Act, Sink, Step};
use support::smtp::Smtp;

/// How long Prometheus may take to see, and then to be sure: scrapes, rules and waits together.
const SEEN: Duration = Duration::from_secs(120);

/// Three nodes, two customers' servers, and senders that never stop.
struct Site {
    fleet: Fleet,
    senders: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    /// The customer's server of `stuck.test` puts off whatever it is offered.
    stuck: Arc<AtomicBool>,
    _customers: [Sink; 2],
}

impl Site {
    fn new() -> Self {
        let limits = vec![
            ("stalled_after_ms", "\"3s\"".to_owned()),
            ("refusals_window_ms", "\"3s\"".to_owned()),
        ];
        let setup = |name: &str| Setup { limits: limits.clone(), ..on_loopback(name) };
        let fleet = Fleet::with(&["mx1", "mx2", "mx3"].map(setup));
        let customer = Sink::scripted(|step| match step {
            Step::Rcpt(to) if to.contains("unknown") => Act::Say("550 5.1.1 no such user".into()),
            Step::Rcpt(to) if to.contains("busy") => Act::Say("450 4.2.1 later".into()),
            _ => Act::Usual,
        });
        let stuck = Arc::new(AtomicBool::new(false));
        let is_stuck = Arc::clone(&stuck);
        let other = Sink::scripted(move |step| match step {
            Step::Mail(_) if is_stuck.load(Ordering::SeqCst) => Act::Say("451 4.3.0 later".into()),
            _ => Act::Usual,
        });
        fleet.nodes[0].serve("acme.test", &customer.route());
        fleet.nodes[0].serve("stuck.test", &other.route());
        let stop = Arc::new(AtomicBool::new(false));
        let mut site =
            Self { fleet, senders: Vec::new(), stop, stuck, _customers: [customer, other] };
        site.fleet.await_same_state();
        site.send();
        site
    }

    /// To every node about ten recipients a second, as senders are: most do not exist.
    fn send(&mut self) {
        for (n, node) in (0_u64..).zip(&self.fleet.nodes) {
            let (server, stop) = (node.smtp(), Arc::clone(&self.stop));
            self.senders.push(std::thread::spawn(move || {
                let mut number = n * 1_000_000;
                while !stop.load(Ordering::SeqCst) {
                    // A server that is away is tried again, as senders do.
                    if Smtp::open(server).is_ok() {
                        round(server, number);
                    }
                    number += 1;
                    std::thread::sleep(Duration::from_millis(500)); // a moderate load
                }
            }));
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for sender in self.senders.drain(..) {
            // One that found its server gone has ended with a panic of its own.
            let _ = sender.join();
        }
    }
}

fn round(server: std::net::SocketAddr, number: u64) {
    let Ok(mut client) = Smtp::open(server) else { return };
    let mut say = |line: &str| {
        client.send(line.as_bytes());
        client.try_reply().is_ok_and(|reply| [250, 354].contains(&reply.code))
    };
    say("");
    say("EHLO sender.test\r\n");
    for to in [
        "user@acme.test",
        "user@stuck.test",
        "other@stuck.test",
        "busy@acme.test",
        "unknown-1@acme.test",
        "unknown-2@acme.test",
        "nobody@elsewhere.test",
    ] {
        if say(&format!("MAIL FROM:<{}>\r\n", message::sender(number)))
            && say(&format!("RCPT TO:<{to}>\r\n"))
            && say("DATA\r\n")
        {
            say("Subject: x\r\n\r\nx\r\n.\r\n");
        } else {
            say("RSET\r\n");
        }
    }
    say("QUIT\r\n");
}

#[test]
fn a_healthy_fleet_is_seen_whole_and_alarms_nobody() {
    let site = Site::new();
    let prometheus = Prometheus::watching(&site.fleet, Pace::Usual);
    eventually("all targets up: three nodes, and port 25 of each", SEEN, || {
        prometheus.targets().0 == 6
    });
    // A minute of health is what is tested.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_secs(5));
        let alerts = prometheus.alerts();
        assert!(alerts.iter().all(|(_, state)| state != "firing"), "{alerts:?}");
    }
    assert_eq!(prometheus.targets(), (6, Vec::new()));
    let (rules, sick) = prometheus.rule_health();
    assert!(rules > 50 && sick.is_empty(), "{rules} rules, {sick:?}");
    assert_eq!(prometheus.query(r#"probe_success{job="mxfleet-smtp"} == 1"#).len(), 3);
    let mut alerts = prometheus.alerts();
    alerts.retain(|(name, _)| !OF_THE_MACHINE.contains(&name.as_str()));
    assert!(alerts.is_empty(), "nothing is even suspected: {alerts:?}");

    every_panel_answers(&prometheus);
    for node in &site.fleet.nodes {
        let (_, text) = http_get(node.metrics(), "/metrics").unwrap();
        series_are_few_and_name_nobody(&text);
    }
}

/// Every query of every dashboard has an answer.
fn every_panel_answers(prometheus: &Prometheus) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("ops/grafana/dashboards");
    let mut empty = Vec::new();
    let mut asked = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let dashboard: Value = serde_json::from_str(&text).unwrap();
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().unwrap() {
                let query = target["expr"].as_str().unwrap();
                let query = query
                    .replace("$cluster", "main")
                    .replace("$node", ".*")
                    .replace("$__rate_interval", "30s");
                asked += 1;
                if prometheus.query(&query).is_empty() {
                    empty.push(format!("{}: {}: {query}", dashboard["title"], panel["title"]));
                }
            }
        }
    }
    assert!(asked > 80, "{asked} queries");
    assert!(empty.is_empty(), "no answer to {empty:#?}");
}

/// Fewer than 3,000 series, and no label that looks like a domain, an address or an IP.
fn series_are_few_and_name_nobody(metrics: &str) {
    let series: Vec<&str> = metrics.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(series.len() > 300 && series.len() < 3000, "{} series", series.len());
    for line in series {
        let Some((_, labels)) = line.split_once('{') else { continue };
        let labels = labels.split_once('}').unwrap().0;
        for value in labels.split('"').skip(1).step_by(2) {
            // The numbers of a version or a bucket are neither.
            let is_number = value.parse::<f64>().is_ok();
            let is_version = line.starts_with("mxfleet_build_info");
            let dotted = value.contains('.') && !is_number && !is_version;
            let named = ["acme", "stuck", "elsewhere", "test"].iter().any(|n| value.contains(n));
            let addressed = value.contains(['@', '[', ':']) || value.len() > 40;
            assert!(!dotted && !named && !addressed, "{line}");
        }
    }
}

/// Alerts that tell of a machine that is slow, or whose disk others fill: the one that runs the
/// tests may be such a one.
const OF_THE_MACHINE: &[&str] = &[
    "AcceptSlow",
    "PeerSlow",
    "RaftSyncSlow",
    "RuntimeSaturated",
    "SpoolGrowing",
    "SpoolSyncSlow",
];

#[test]
fn an_hour_of_health_is_quiet_and_what_is_urgent_alarms() {
    let mut site = Site::new();
    let prometheus = Prometheus::watching(&site.fleet, Pace::SixtyTimes);
    eventually("all targets up", SEEN, || prometheus.targets().0 == 6);
    // In these rules a minute is an hour.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_secs(2));
        let mut alerts = prometheus.alerts();
        alerts
            .retain(|(name, state)| state == "firing" && !OF_THE_MACHINE.contains(&name.as_str()));
        assert!(alerts.is_empty(), "{alerts:?}");
    }

    // That somebody reads it is of no concern here: that it was written alarms.
    site.fleet.nodes[2].admin(&["settings", "set", "service.domain", "relay.example"]);
    site.fleet.nodes[2].admin(&["settings", "set", "service.operators", "ops@off.test"]);
    site.fleet.await_same_state();
    assert!(!prometheus.fires("TroubleReported"));
    let reply = site.fleet.nodes[1].client().deliver("", &["trouble@relay.example"], b"help\r\n");
    assert_eq!(reply.code, 250, "{reply:?}");
    eventually("the alert TroubleReported", SEEN, || prometheus.fires("TroubleReported"));
    eventually("its end", SEEN, || !prometheus.fires("TroubleReported"));

    site.stuck.store(true, Ordering::SeqCst);
    eventually("the alert MailNotMoving", SEEN, || prometheus.fires("MailNotMoving"));
    let summary = site.fleet.nodes[0].json(&["queue", "summary"]);
    let destinations = summary["destinations"].as_array().unwrap();
    let stuck = destinations.iter().find(|d| d["domain"] == "stuck.test").unwrap();
    assert_eq!(stuck["state"], "stalled", "{summary:#}");
    site.stuck.store(false, Ordering::SeqCst);
    eventually("its end", SEEN, || !prometheus.fires("MailNotMoving"));

    site.fleet.nodes[1].admin(&["domain", "remove", "stuck.test"]);
    eventually("the alert DomainRefusalsAbnormal", SEEN, || {
        prometheus.fires("DomainRefusalsAbnormal")
    });
    let log = std::fs::read_to_string(site.fleet.nodes[0].log()).unwrap();
    assert!(log.contains("mail that was taken is refused now domain=\"stuck.test\""), "{log}");

    assert!(!prometheus.fires("NoServerReachable"));
    let leader = site.fleet.await_leader();
    site.fleet.nodes[leader].kill();
    eventually("the alert NodeDown", SEEN, || prometheus.fires("NodeDown"));
    assert!(!prometheus.fires("NoServerReachable"), "two are left");
    let other = (leader + 1) % 3;
    site.fleet.nodes[other].kill();
    eventually("the alert ClusterNoQuorum", SEEN, || prometheus.fires("ClusterNoQuorum"));
    assert!(!prometheus.fires("NoServerReachable"), "one is left, and takes mail");
    site.fleet.nodes[(leader + 2) % 3].kill();
    eventually("the alert NoServerReachable", SEEN, || prometheus.fires("NoServerReachable"));
}
