//! April 2010 again: a server has to go within two days, its name is pointed at another one
//! meanwhile, two new names share out the traffic anew, the four old ones end at a date, and every
//! active customer is told by mail. All of it under steady mail, of which none may be lost, refused
//! for good or doubled.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::ca::Ca;
use support::dns::{Duties, NameServer, Software, tsig_key};
use support::fleet::{Fleet, on_loopback};
use support::load::tally;
use support::node::{Node, Setup};
use support::senders::{Senders, World};
use support::sink::{Act, Sink, Step};
use support::{SOON, eventually, scratch};

const ZONE: &str = "relay.test";
/// Customers' domains are below it.
const CUSTOMERS: &str = "customers.test";
/// The hosts; the first one has to go.
const HOSTS: [&str; 5] = ["ash", "birch", "cedar", "elm", "fir"];
const OLD: [&str; 4] = ["mx1.relay.test", "mx2.relay.test", "mx3.relay.test", "mx4.relay.test"];
const NEW: [&str; 2] = ["mx5.relay.test", "mx6.relay.test"];
/// Customers whose contact addresses do not work.
const BROKEN: [usize; 3] = [3, 20, 31];
/// The customer that does not change its records in time.
const LATE: usize = 7;
/// From the plan to the end of the old names.
const ENDS: Duration = Duration::from_secs(90);
/// How long any step may take on a loaded machine.
const LONG: Duration = Duration::from_secs(180);

/// Active ones; a tenth as many are suspended. The scenario has 200.
fn customers() -> usize {
    std::env::var("MXFLEET_2010_CUSTOMERS").map_or(60, |count| count.parse().unwrap())
}

fn octets(_: u64) -> usize {
    700
}

fn address(host: &str) -> Ipv4Addr {
    let place = HOSTS.iter().position(|name| *name == host).unwrap();
    Ipv4Addr::new(127, 20, 10, u8::try_from(place + 1).unwrap())
}

/// Everything that is there on the day before.
struct Service {
    fleet: Fleet,
    authority: Arc<NameServer>,
    /// Customers' own name server.
    zones: NameServer,
    /// Customers' servers; the first few put mail off while `slow`.
    mailboxes: Sink,
    slow: Arc<AtomicBool>,
    /// Where customers' people read their mail.
    people: Sink,
    ca: Ca,
    _folder: tempfile::TempDir,
}

impl Service {
    /// A node on a host that stays.
    fn node(&self) -> &Node {
        &self.fleet.nodes[1]
    }

    fn start() -> Self {
        let key = tsig_key("mxfleet");
        let duties = Duties { key: Some(key.clone()), copies: None };
        let authority = NameServer::with(Software::Knot, &[(ZONE, "")], &duties);
        let zones = NameServer::start(Software::Bind, &[(CUSTOMERS, "")]);
        let setups = HOSTS.map(|name| Setup {
            ip: Some(address(name)),
            dns: Some(zones.address()),
            tsig_key: Some(key.clone()),
            ..on_loopback(name)
        });
        let fleet = Fleet::with(&setups);
        let folder = scratch();
        let ca = Ca::new(folder.path());
        let slow = Arc::new(AtomicBool::new(true));
        let is_slow = Arc::clone(&slow);
        let mailboxes = Sink::scripted(move |step| match step {
            Step::Rcpt(to) if to.contains("@c1") && is_slow.load(Ordering::SeqCst) => {
                Act::Say("450 4.2.1 busy".into())
            }
            _ => Act::Usual,
        });
        let broken = BROKEN.map(|customer| format!("<c{customer}@"));
        let people = Sink::scripted(move |step| match step {
            Step::Rcpt(to) if broken.iter().any(|who| to.starts_with(who)) => {
                Act::Say("550 5.1.1 nobody here".into())
            }
            _ => Act::Usual,
        });
        let authority = Arc::new(authority);
        let service =
            Self { fleet, authority, zones, mailboxes, slow, people, ca, _folder: folder };
        service.set_up();
        service
    }

    fn set_up(&self) {
        let node = self.node();
        let server = self.authority.address().to_string();
        for (setting, value) in [
            ("rotation.zone", ZONE),
            ("rotation.dns_primary", &server),
            ("rotation.dns_servers", &server),
            ("rotation.ttl_low", "1s"),
            ("rotation.ttl", "2s"),
            ("rotation.survey_every", "1s"),
            ("rotation.report_every", "1s"),
            ("rotation.quiet", "3s"),
            ("service.address", "support@relay.test"),
        ] {
            node.admin(&["settings", "set", setting, value]);
        }
        let names = [&OLD[..], &NEW[..]].concat();
        let (cert, key) = self.ca.issue(&names);
        let (cert, key) = (cert.display().to_string(), key.display().to_string());
        node.admin(&["name", "cert", "add", "--cert", &cert, "--key", &key]);
        for host in HOSTS {
            node.admin(&["host", "set", host, "--address", &address(host).to_string()]);
        }
        for (name, host) in OLD.into_iter().zip(HOSTS) {
            node.admin(&["name", "add", name, "--host", host]);
        }
        for name in OLD {
            self.await_name(name, "active");
        }
        node.admin(&["customer", "add", "people", "--contact", "c0@people.test"]);
        let route = self.people.route();
        node.admin(&["domain", "add", "people.test", "--customer", "people", "--route", &route]);
        // The office is not a customer that anything is told.
        node.admin(&["customer", "suspend", "people"]);
        for number in 0..customers() {
            self.add_customer(&format!("c{number}"));
        }
        for number in 0..customers() / 10 {
            let id = format!("gone{number}");
            self.add_customer(&id);
            node.admin(&["customer", "suspend", &id]);
        }
    }

    fn add_customer(&self, id: &str) {
        let (domain, contact) = (domain(id), format!("{id}@people.test"));
        let node = self.node();
        node.admin(&["customer", "add", id, "--contact", &contact]);
        let route = self.mailboxes.route();
        node.admin(&["domain", "add", &domain, "--customer", id, "--route", &route]);
    }

    fn name(&self, name: &str) -> Value {
        self.node().json(&["name", "show", name])
    }

    fn await_name(&self, name: &str, state: &str) {
        eventually(&format!("{name} is {state}"), LONG, || self.name(name)["state"] == state);
    }

    /// Rows of the migration, by customer.
    fn steps(&self) -> BTreeMap<String, Value> {
        let status = self.node().json(&["migration", "status"]);
        let rows = status["customers"].as_array().unwrap();
        rows.iter().map(|row| (row["customer"].as_str().unwrap().to_owned(), row.clone())).collect()
    }

    /// Customers write these names into their zones, and senders see that.
    fn set_records(&mut self, names: &BTreeMap<String, Vec<String>>, world: &World) {
        let mut records = String::new();
        for (customer, names) in names {
            for (place, name) in names.iter().enumerate() {
                writeln!(records, "{customer} MX {} {name}.", (place + 1) * 10).unwrap();
            }
        }
        self.zones.replace(CUSTOMERS, &records);
        for (customer, names) in names {
            world.set_exchangers(&domain(customer), names);
        }
    }

    /// Each customer's names, as it is shown them.
    fn assigned(&self) -> BTreeMap<String, Vec<String>> {
        let customers = self.node().json(&["customer", "list"]);
        let active = customers.as_array().unwrap().iter().filter(|row| row["status"] == "active");
        active.map(|row| (row["id"].as_str().unwrap().to_owned(), strings(&row["names"]))).collect()
    }

    fn stage(&self) -> Value {
        self.node().json(&["migration", "status"])["state"].clone()
    }
}

fn domain(customer: &str) -> String {
    format!("{customer}.{CUSTOMERS}")
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

#[test]
fn april_2010() {
    let mut service = Service::start();
    let world = Arc::new(World::new(&service.ca, &[&OLD[..], &NEW[..]].concat()));
    let before = service.assigned();
    assert!(before.values().all(|names| names.len() == 2 && names[0] != names[1]));
    service.set_records(&before, &world);
    let senders = Senders::start(&world, &service.authority, octets);
    eventually("mail flows", LONG, || senders.count() > 300);
    the_host_leaves(&service);
    everybody_is_told(&service);
    customers_move(&mut service, &world);
    old_names_end(&mut service, &world);
    new_names_carry_their_share(&service, &senders);
    let (acked, refused) = senders.stop();
    assert!(refused.is_empty(), "refused for good: {:?}", &refused[..refused.len().min(5)]);
    for node in &service.fleet.nodes[1..] {
        node.admin(&["queue", "retry", "--all"]);
        node.await_empty_queue(LONG);
    }
    println!("{} messages", acked.len());
    let tally = tally(&acked, &service.mailboxes, octets);
    assert!(tally.lost.is_empty(), "lost: {:?}", tally.lost);
    assert!(tally.doubled.is_empty(), "doubled: {:?}", tally.doubled);
}

/// Its name resolves to another host, which answers for it with a valid certificate; its queue is
/// others'; then it is switched off.
fn the_host_leaves(service: &Service) {
    let node = service.node();
    eventually("something to hand over", LONG, || service.fleet.nodes[0].queued() > 0);
    let start = Instant::now();
    node.admin(&["host", "drain", HOSTS[0], "--deadline", "2d"]);
    let state = || node.json(&["host", "show", HOSTS[0]])["state"].clone();
    eventually("the host has left", LONG, || state() == "retired");
    println!("left in {:?}", start.elapsed());
    assert_eq!(service.fleet.nodes[0].queued(), 0);
    let row = service.name(OLD[0]);
    let target = row["points_at"].as_str().unwrap();
    assert_eq!((row["state"].as_str(), row["home"].as_str()), (Some("redirected"), Some(HOSTS[0])));
    assert_ne!(target, HOSTS[0]);
    assert_eq!(service.authority.ask(OLD[0], "A"), address(target).to_string());
    // Panics unless the certificate is this name's.
    let place = std::net::SocketAddr::from((address(target), 25));
    let mut client = support::smtp::Smtp::greeted(place).starttls(&service.ca, OLD[0]);
    assert_eq!(client.command("EHLO client.test").code, 250);
    service.slow.store(false, Ordering::SeqCst);
}

/// One mail each, with the customer's own names; broken contacts are listed as such.
fn everybody_is_told(service: &Service) {
    let node = service.node();
    let mut words = vec!["migration", "plan", "--text", "ash has left; we share out anew."];
    OLD.iter().for_each(|name| words.extend(["--retire", name]));
    let introduced = [format!("{}=fir", NEW[0]), format!("{}=birch", NEW[1])];
    introduced.iter().for_each(|name| words.extend(["--introduce", name]));
    let ends = format!("{}s", ENDS.as_secs());
    node.admin(&[&words[..], &["--ends", &ends]].concat());
    node.admin(&["migration", "announce"]);
    eventually("everybody is told", LONG, || {
        service.steps().iter().all(|(id, row)| {
            let is_active = id.strip_prefix('c').is_some();
            !is_active || matches!(row["told"].as_str(), Some("accepted" | "bounced"))
        })
    });
    let steps = service.steps();
    for (id, row) in &steps {
        let number = id.strip_prefix('c').and_then(|number| number.parse().ok());
        let expected = match number {
            None => "not yet",
            Some(number) if BROKEN.contains(&number) => "bounced",
            Some(_) => "accepted",
        };
        assert_eq!(row["told"], expected, "{id}: {row}");
    }
    let letters = service.people.received();
    let mut readers: Vec<String> = letters.iter().map(|letter| letter.to()[0].to_owned()).collect();
    readers.sort();
    readers.dedup();
    assert_eq!((readers.len(), letters.len()), (customers() - BROKEN.len(), readers.len()));
    for letter in &letters {
        let text = String::from_utf8(letter.text.clone()).unwrap();
        let (id, _) = letter.to()[0].split_once('@').unwrap();
        for (place, name) in strings(&steps[id]["after"]).iter().enumerate() {
            let record = format!("    {}.  IN MX {} {name}.\r\n", domain(id), (place + 1) * 10);
            assert!(text.contains(&record), "{record} is not in\n{text}");
        }
    }
    assert_eq!(node.json(&["notice", "list"])[0]["state"], "open");
}

/// All but one change their records, as each was told.
fn customers_move(service: &mut Service, world: &World) {
    let steps = service.steps();
    let late = format!("c{LATE}");
    let mut records = service.assigned();
    for (customer, names) in &mut records {
        let key = if *customer == late { "before" } else { "after" };
        *names = strings(&steps[customer][key]);
        assert!(*customer == late || names.iter().all(|name| NEW.contains(&name.as_str())));
    }
    service.set_records(&records, world);
    eventually("only the late one would break", LONG, || {
        let steps = service.steps();
        let breaks: Vec<_> = steps.iter().filter(|(_, row)| row["would_break"] == true).collect();
        breaks.len() == 1 && *breaks[0].0 == late
    });
}

/// The date comes; nobody is broken; once the late one has moved, the old names are gone.
fn old_names_end(service: &mut Service, world: &World) {
    let words = format!("1 customer would lose mail: c{LATE}");
    eventually("the date has come", ENDS + LONG, || {
        let finish = service.node().try_admin(&["migration", "finish"]);
        String::from_utf8_lossy(&finish.stderr).contains(&words)
    });
    assert_eq!(service.stage(), "announced");
    let mut records = service.assigned();
    let steps = service.steps();
    for (customer, names) in &mut records {
        *names = strings(&steps[customer]["after"]);
    }
    service.set_records(&records, world);
    eventually("the migration ends by itself", LONG, || service.stage() == "finished");
    for name in OLD {
        service.await_name(name, "removed");
        assert_eq!(service.authority.ask(name, "A"), "", "{name}");
    }
    assert_eq!(service.node().json(&["notice", "list"])[0]["state"], "resolved");
}

fn new_names_carry_their_share(service: &Service, senders: &Senders) {
    let start = senders.by_name();
    eventually("mail by the new names", SOON, || {
        let now = senders.by_name();
        let fresh = |name: &str| now.get(name).unwrap_or(&0) - start.get(name).unwrap_or(&0);
        let counts = NEW.map(fresh);
        assert!(OLD.iter().all(|name| fresh(name) == 0), "by an old name: {now:?}");
        let all = counts.iter().sum::<u64>();
        all > 200 && counts.iter().all(|count| *count * 4 > all)
    });
    for (name, host) in NEW.into_iter().zip(["fir", "birch"]) {
        let row = service.name(name);
        assert_eq!(
            (row["state"].as_str(), row["points_at"].as_str()),
            (Some("active"), Some(host))
        );
    }
}
