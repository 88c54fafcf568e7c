//! The rules of the blacklist, one by one.

use super::*;
use crate::state::domains::Domains;
use crate::state::{Domain, RecipientPolicy, Route, Settings, TlsPolicy};

mod crowd;
mod directory;

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;
const NAME: &str = "nobody@acme.test";

#[derive(Default)]
struct Bench {
    table: Blacklist,
    settings: Settings,
    domains: Domains,
    sequence: u64,
}

impl Bench {
    fn reject(&mut self, address: &str, at_ms: u64) -> u64 {
        let event =
            RecipientEvent::Rejected { address: address.to_owned(), at_ms, reply: String::new() };
        self.event(event, at_ms)
    }

    fn event(&mut self, event: RecipientEvent, now_ms: u64) -> u64 {
        self.sequence += 1;
        let id = (1, 1, self.sequence);
        let terms = Terms { numbers: Numbers::of(&self.settings), domains: &self.domains };
        self.table.report(terms, now_ms, id, &[event]).unwrap()
    }

    fn terms(&self) -> Terms<'_> {
        Terms { numbers: Numbers::of(&self.settings), domains: &self.domains }
    }

    fn listed(&self, now_ms: u64) -> bool {
        self.table.is_listed(self.terms(), NAME, now_ms)
    }

    fn entry(&self, now_ms: u64) -> BlacklistEntry {
        self.table.entry(self.terms(), NAME, now_ms).unwrap()
    }

    fn is_listed(&self, address: &str, now_ms: u64) -> bool {
        self.table.is_listed(self.terms(), address, now_ms)
    }

    /// Mail is taken, and told of by a node that does as nodes do.
    fn take(&mut self, address: &str, now_ms: u64) {
        let terms = Terms { numbers: Numbers::of(&self.settings), domains: &self.domains };
        if self.table.is_tracked(address) {
            self.event(RecipientEvent::Accepted { address: address.to_owned() }, now_ms);
        } else if self.table.is_taken_news(terms, address, now_ms) {
            self.table.taken(terms, address, now_ms, now_ms);
        }
    }

    fn freeze(&mut self, frozen: bool, now_ms: u64) -> Outcome {
        let terms = Terms { numbers: Numbers::of(&self.settings), domains: &self.domains };
        self.table.set_frozen(terms, "acme.test", frozen, now_ms)
    }

    fn is_frozen(&self, now_ms: u64) -> bool {
        self.table.frozen(self.terms(), now_ms).next().is_some()
    }

    fn sweep(&mut self, now_ms: u64) {
        let terms = Terms { numbers: Numbers::of(&self.settings), domains: &self.domains };
        self.table.sweep(terms, now_ms);
    }

    /// Give the domain of `NAME` these differences.
    fn domain(&mut self, recipients: RecipientPolicy) {
        let (name, customer) = ("acme.test".to_owned(), "acme".to_owned());
        let (route, tls, connections_max) = (Route::Mx, TlsPolicy::Opportunistic, None);
        let domain = Domain { name, customer, route, tls, connections_max, recipients };
        self.domains.import(1, &[domain]).unwrap();
    }

    fn list(&mut self, start: u64) -> u64 {
        (0..10).for_each(|n| {
            self.reject(NAME, start + n * HOUR);
        });
        start + 9 * HOUR
    }
}

#[test]
fn the_tenth_rejection_within_the_window_lists_and_the_ninth_does_not() {
    let mut bench = Bench::default();
    for n in 0..9 {
        bench.reject(NAME, n * HOUR);
        assert!(!bench.listed(n * HOUR));
    }
    bench.reject(NAME, 9 * HOUR);
    assert!(bench.listed(9 * HOUR));
    let listed: Vec<_> = bench.table.listed(bench.terms(), 9 * HOUR).collect();
    assert_eq!(listed, [(NAME, 9 * HOUR + 5 * DAY)]);
}

#[test]
fn ten_rejections_a_window_apart_do_not_list() {
    let mut bench = Bench::default();
    bench.reject(NAME, 0);
    for n in 0..9 {
        bench.reject(NAME, 5 * DAY + n);
    }
    assert!(!bench.listed(5 * DAY + 9), "the oldest is exactly a window old, or more");
    bench.reject(NAME, 5 * DAY + 10);
    assert!(bench.listed(5 * DAY + 10));
}

#[test]
fn being_refused_while_listed_neither_counts_nor_extends() {
    let mut bench = Bench::default();
    let listed = bench.list(0);
    assert_eq!(bench.reject(NAME, listed + DAY), 0);
    assert!(bench.listed(listed + 5 * DAY - 1));
    assert!(!bench.listed(listed + 5 * DAY));
}

#[test]
fn after_the_hold_it_takes_the_whole_threshold_again() {
    let mut bench = Bench::default();
    let free = bench.list(0) + 5 * DAY;
    for n in 0..9 {
        bench.reject(NAME, free + n);
        assert!(!bench.listed(free + n), "{n}");
    }
    bench.reject(NAME, free + 9);
    assert!(bench.listed(free + 9));
}

#[test]
fn a_report_is_counted_once_and_an_old_incarnation_not_at_all() {
    let mut bench = Bench::default();
    let event =
        [RecipientEvent::Rejected { address: NAME.to_owned(), at_ms: 5, reply: String::new() }];
    let domains = Domains::default();
    let terms = Terms { numbers: Numbers::default(), domains: &domains };
    let mut report = |id| bench.table.report(terms, 10, id, &event).unwrap();
    assert_eq!(report((1, 2, 1)), 1);
    assert_eq!(report((1, 2, 1)), 0, "the same again");
    assert_eq!(report((1, 1, 9)), 0, "before a restart");
    assert_eq!(report((1, 3, 1)), 1, "after a restart");
    assert_eq!(report((2, 1, 1)), 1, "another node");
    assert_eq!(bench.entry(10).rejections_ms.len(), 3);
}

#[test]
fn an_accepted_or_pardoned_address_starts_from_nothing() {
    let mut bench = Bench::default();
    let at = bench.list(0);
    bench.event(RecipientEvent::Accepted { address: NAME.to_owned() }, at);
    assert!(!bench.listed(at) && bench.table.counted().tracked == 0);
    let at = bench.list(at);
    assert_eq!(bench.table.pardon(NAME), Ok(1));
    assert!(!bench.listed(at));
}

#[test]
fn postmaster_and_exempt_addresses_are_never_listed() {
    let mut bench = Bench::default();
    for n in 0..20 {
        bench.reject("postmaster@acme.test", n);
    }
    assert_eq!(bench.table.counted().tracked, 0);
    let exemption = Exemption { reason: "the boss".to_owned(), until_ms: Some(DAY) };
    bench.table.set_exempt(NAME, Some(&exemption), 0).unwrap();
    let at = bench.list(0);
    assert_eq!(bench.entry(at).exemption, Some(exemption));
    assert!(!bench.listed(at));
    for n in 0..9 {
        bench.reject(NAME, DAY + n);
        assert!(!bench.listed(DAY + n), "what happened while it was exempt does not count");
    }
    bench.reject(NAME, DAY + 9);
    assert!(bench.listed(DAY + 9), "the exemption is over");
}

#[test]
fn what_happened_before_the_end_of_an_exemption_may_be_reported_after_it() {
    let mut bench = Bench::default();
    let exemption = Exemption { reason: String::new(), until_ms: None };
    bench.table.set_exempt(NAME, Some(&exemption), 0).unwrap();
    assert_eq!(bench.table.set_exempt(NAME, None, HOUR), Ok(1));
    assert_eq!(bench.table.set_exempt(NAME, None, HOUR), Ok(0), "it is over already");
    let late = |at_ms| {
        let (address, reply) = (NAME.to_owned(), String::new());
        RecipientEvent::Rejected { address, at_ms, reply }
    };
    assert_eq!(bench.event(late(HOUR - 1), HOUR + 1), 0);
    assert_eq!(bench.event(late(HOUR), HOUR + 1), 1);
    assert_eq!(bench.table.exempt(HOUR).count(), 0);
    bench.sweep(7 * DAY);
    assert_eq!(bench.table.exempt(0).count(), 0, "and is forgotten in the end");
}

#[test]
fn a_changed_setting_is_true_for_what_was_counted_before() {
    let mut bench = Bench::default();
    for n in 0..5 {
        bench.reject(NAME, n);
    }
    assert!(!bench.listed(5));
    bench.settings.set(1, "blacklist.threshold", Some("3")).unwrap();
    assert!(bench.listed(5));
    bench.settings.set(2, "blacklist.hold", Some("1s")).unwrap();
    assert!(!bench.listed(5000));
}

#[test]
fn a_domain_has_its_own_numbers_which_are_true_for_what_was_counted_before() {
    let mut bench = Bench::default();
    for n in 0..5 {
        bench.reject(NAME, n * HOUR);
    }
    assert!(!bench.listed(5 * HOUR));
    let own = RecipientPolicy { threshold: Some(3), ..RecipientPolicy::default() };
    bench.domain(own.clone());
    assert!(bench.listed(5 * HOUR));
    bench.domain(RecipientPolicy { hold_ms: Some(HOUR), ..own });
    assert!(!bench.listed(5 * HOUR));
    bench.domain(RecipientPolicy { window_ms: Some(2 * HOUR), ..own });
    assert!(!bench.listed(5 * HOUR), "the third newest is two hours older than the newest");
    bench.domain(RecipientPolicy { blacklist_off: true, ..own });
    assert!(!bench.listed(5 * HOUR));
    assert_eq!(bench.reject(NAME, 6 * HOUR), 0);
    bench.domain(RecipientPolicy::default());
    assert_eq!(bench.entry(7 * HOUR).rejections_ms.len(), 5);
}

#[test]
fn numbers_that_the_fleet_could_not_have_are_refused_for_a_domain_too() {
    let refused = |policy: RecipientPolicy| policy.check().unwrap_err().to_string();
    let policy = RecipientPolicy { threshold: Some(11), ..RecipientPolicy::default() };
    assert_eq!(refused(policy), "blacklist.threshold must be 1 to 10");
    let policy = RecipientPolicy { window_ms: Some(1), ..RecipientPolicy::default() };
    assert_eq!(refused(policy), "blacklist.window must be 1s to 60d");
}

#[test]
fn sweeping_forgets_what_cannot_matter_any_more() {
    let mut bench = Bench::default();
    for n in 0..2000 {
        bench.reject(&format!("u{n}@acme.test"), n);
    }
    bench.reject(NAME, 4 * DAY);
    for _ in 0..=240 {
        bench.sweep(6 * DAY);
    }
    assert_eq!(bench.table.counted().tracked, 1);
    assert_eq!(bench.table.counts("acme.test").records, 1);
}

#[test]
fn a_stamp_from_the_future_or_the_past_is_put_in_its_place() {
    let mut bench = Bench::default();
    let event = |at_ms| {
        [RecipientEvent::Rejected { address: NAME.to_owned(), at_ms, reply: String::new() }]
    };
    let domains = Domains::default();
    let terms = Terms { numbers: Numbers::default(), domains: &domains };
    bench.table.report(terms, 100, (1, 1, 1), &event(90)).unwrap();
    bench.table.report(terms, 100, (1, 1, 2), &event(5 * DAY)).unwrap();
    bench.table.report(terms, 110, (1, 1, 3), &event(3)).unwrap();
    assert_eq!(bench.entry(110).rejections_ms, [3, 90, 100]);
}

#[test]
fn what_a_node_that_was_cut_off_tells_late_counts_for_when_it_was() {
    let mut bench = Bench::default();
    let late = |at_ms| {
        let (address, reply) = (NAME.to_owned(), String::new());
        RecipientEvent::Rejected { address, at_ms, reply }
    };
    bench.reject(NAME, 7 * DAY);
    for n in 0..9 {
        assert_eq!(bench.event(late(DAY + n), 7 * DAY + n), 1);
    }
    assert!(!bench.listed(7 * DAY + 9), "nine of the ten are six days old");
    for n in 0..9 {
        assert!(!bench.listed(7 * DAY + HOUR + n));
        bench.event(late(7 * DAY - HOUR - n), 7 * DAY + HOUR + n);
    }
    assert!(bench.listed(7 * DAY + 2 * HOUR), "ten within a window, in whatever order");
    let entry = bench.entry(7 * DAY + 2 * HOUR);
    assert!(entry.rejections_ms.is_sorted());
    assert_eq!(entry.listed_until_ms, Some(12 * DAY));
}
