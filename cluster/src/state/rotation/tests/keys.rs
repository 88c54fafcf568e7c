//! What senders know of keys, and what they find.

use super::*;

const HOUR_MS: u64 = 3_600_000;

fn row(names: &[&str], key: u8) -> Certificate {
    Certificate {
        names: names.iter().map(ToString::to_string).collect(),
        chain_pem: "chain".to_owned(),
        sealed_key: vec![1],
        key_hash: [key; 32],
        ends_ms: 1000 * DAY_MS,
    }
}

fn put(names: &[&str], key: u8) -> Command {
    Command::Certificate(CertificateCommand::Put(row(names, key)))
}

fn remove(name: &str) -> Command {
    Command::Certificate(CertificateCommand::Remove { name: name.to_owned() })
}

fn seen(name: &str, key: u8, is_in_dns: bool) -> Command {
    let (name, key_hash) = (name.to_owned(), [key; 32]);
    Command::Certificate(CertificateCommand::KeyInDns { name, key_hash, is_in_dns })
}

fn gone(name: &str) -> Command {
    Command::Certificate(CertificateCommand::KeysOutOfDns { names: vec![name.to_owned()] })
}

fn tlsa(value: &str) -> Command {
    Command::SettingSet { name: "rotation.tlsa".to_owned(), value: Some(value.to_owned()) }
}

const A: &str = "mx-1.relay.test";
const B: &str = "mx-2.relay.test";

/// Two names in DNS, a certificate for each, and senders that know of their keys, 1 and 2.
fn published_keys() -> Bench {
    let mut bench = Bench::new(2, 0);
    bench.must(put(&[A], 1));
    bench.must(put(&[B], 2));
    bench.must(tlsa("publish"));
    bench.settle();
    bench
}

impl Bench {
    /// First octets of the keys that the name's TLSA records have.
    fn keys(&self, name: &str) -> Vec<u8> {
        self.state.keys_of(name, self.now_ms).iter().map(|key| key[0]).collect()
    }

    /// The same of the certificates in place that are for the name.
    fn shown(&self, name: &str) -> Vec<u8> {
        let rows = self.state.certificates().filter(|row| row.covers(name));
        rows.map(|row| row.key_hash[0]).collect()
    }

    fn waits(&self) -> usize {
        self.state.waiting_certificates().count()
    }

    /// What is due by `now_ms` is done.
    pub(super) fn act(&mut self) {
        for command in self.state.due(self.now_ms) {
            self.must(command);
        }
    }
}

#[test]
fn another_key_is_in_dns_for_two_times_to_live_before_it_is_shown() {
    let mut bench = published_keys();
    bench.must(put(&[A], 3));
    assert_eq!((bench.shown(A), bench.keys(A), bench.keys(B)), (vec![1], vec![1, 3], vec![2]));
    bench.now_ms += 10 * HOUR_MS;
    bench.act();
    assert_eq!(bench.shown(A), [1], "no authority was seen to say so");
    bench.must(seen(A, 3, true));
    bench.now_ms += 2 * HOUR_MS - 1;
    bench.act();
    assert_eq!(bench.shown(A), [1], "a resolver may remember what was before");
    bench.now_ms += 1;
    bench.act();
    assert_eq!((bench.shown(A), bench.keys(A), bench.waits()), (vec![3], vec![1, 3], 0));
    bench.now_ms += HOUR_MS;
    assert_eq!(bench.keys(A), [3], "and no host shows the old one any more");
    bench.check().unwrap();
}

#[test]
fn while_one_waits_a_snapshot_has_it_and_it_can_be_taken_back_or_seen_to_be_lost() {
    let mut bench = published_keys();
    bench.must(put(&[A], 3));
    bench.check().unwrap();
    let copy = bench.clone();
    bench.must(remove(A));
    assert_eq!((bench.shown(A), bench.keys(A), bench.waits()), (vec![1], vec![1], 0));
    let mut bench = copy;
    bench.must(seen(A, 3, true));
    assert_eq!(bench.must(seen(A, 3, true)), 0, "the time runs once");
    bench.now_ms += HOUR_MS;
    bench.must(seen(A, 3, false));
    bench.now_ms += 10 * HOUR_MS;
    bench.act();
    assert_eq!(bench.waits(), 1, "somebody took its key out of DNS");
    assert!(bench.why(seen(A, 4, true)).contains("no such certificate"));
    let take = CertificateCommand::TakePlace { name: A.to_owned(), key_hash: [3; 32] };
    assert!(bench.why(Command::Certificate(take)).contains("do not know the new key"));
}

#[test]
fn the_same_key_or_a_name_without_records_needs_no_wait() {
    let mut bench = published_keys();
    bench.must(put(&[A], 1));
    bench.must(put(&["mx-9.relay.test"], 9));
    assert_eq!((bench.waits(), bench.shown("mx-9.relay.test")), (0, vec![9]));
    bench.must(put(&["*.relay.test"], 1));
    assert_eq!(bench.waits(), 1, "the key of one name is not known for the other");
    assert_eq!((bench.keys(A), bench.keys(B)), (vec![1], vec![1, 2]));
    bench.must(add(3, 3));
    bench.publish();
    assert!(bench.keys("mx-3.relay.test").is_empty(), "it does not show what waits");
}

#[test]
fn no_name_with_records_is_left_without_a_key() {
    let mut bench = published_keys();
    let words = "senders hold TLSA records of mx-1.relay.test, and would find no key";
    assert!(bench.why(remove(A)).contains(words));
    bench.must(put(&["*.relay.test"], 3));
    assert!(bench.why(remove(A)).contains(words), "what waits is not shown");
    bench.must(seen("*.relay.test", 3, true));
    bench.now_ms += 3 * HOUR_MS;
    bench.act();
    bench.must(remove(A));
    assert_eq!((bench.shown(A), bench.keys(A)), (vec![3], vec![1, 3]));
}

#[test]
fn fewer_names_under_the_same_key_are_refused_while_senders_know_the_others() {
    let mut bench = Bench::new(2, 0);
    bench.must(put(&[A, B], 1));
    bench.must(tlsa("publish"));
    let why = bench.why(put(&[A], 1));
    assert!(why.contains("senders hold TLSA records of mx-2.relay.test"), "{why}");
    bench.must(put(&[B], 1));
    bench.must(put(&[A], 1));
    assert_eq!((bench.keys(A), bench.keys(B)), (vec![1], vec![1]));
}

#[test]
fn a_name_that_has_ended_keeps_no_certificate() {
    let mut bench = published_keys();
    bench.must(Command::Name(NameCommand::Remove { name: A.to_owned(), force: true }));
    assert!(bench.why(remove(A)).contains("senders hold TLSA records"), "it is in DNS yet");
    bench.publish();
    assert!(bench.why(remove(A)).contains("senders hold TLSA records"), "resolvers know it yet");
    bench.settle();
    bench.must(remove(A));
    assert!(bench.shown(A).is_empty());
}

#[test]
fn switched_off_they_count_until_they_are_out_of_dns_and_forgotten() {
    for off in ["remove", "ignore"] {
        let mut bench = published_keys();
        bench.must(tlsa(off));
        bench.now_ms += 10 * HOUR_MS;
        bench.must(put(&[A], 3));
        bench.act();
        assert_eq!((bench.shown(A), bench.waits()), (vec![1], 1), "{off}: they may be in DNS");
        assert!(bench.why(remove(B)).contains("wait until they are out of DNS"));
        bench.must(gone(A));
        bench.now_ms += HOUR_MS - 1;
        bench.act();
        assert_eq!(bench.waits(), 1, "{off}: resolvers may know them");
        bench.now_ms += 1;
        bench.act();
        assert_eq!((bench.shown(A), bench.waits()), (vec![3], 0));
        assert!(bench.why(remove(B)).contains("wait until"), "{off}: of another name");
        bench.must(gone(B));
        bench.now_ms += HOUR_MS;
        bench.must(remove(B));
    }
}

#[test]
fn what_was_seen_of_a_key_before_they_were_switched_off_is_seen_again() {
    let mut bench = published_keys();
    bench.must(put(&[A], 3));
    bench.must(seen(A, 3, true));
    bench.must(tlsa("remove"));
    bench.now_ms += 3 * HOUR_MS;
    bench.act();
    assert_eq!(bench.waits(), 1);
    bench.must(tlsa("publish"));
    assert!(bench.why(gone(A)).contains("published again"));
    bench.act();
    assert_eq!(bench.waits(), 1, "they may have been published without it meanwhile");
}

#[test]
fn where_they_were_never_published_every_key_is_taken_at_once() {
    let mut bench = Bench::new(2, 0);
    bench.must(put(&[A], 1));
    bench.must(put(&[A], 3));
    assert_eq!((bench.shown(A), bench.waits()), (vec![3], 0));
    bench.must(tlsa("remove"));
    bench.must(put(&[A], 4));
    bench.must(remove(A));
}

#[test]
fn a_certificate_is_stuck_only_while_no_date_is_in_its_way() {
    let mut bench = published_keys();
    let stuck = |bench: &Bench| bench.state.stuck_certificates(bench.now_ms).count();
    bench.must(put(&[A], 3));
    assert_eq!(stuck(&bench), 1, "DNS is to say its key");
    bench.must(seen(A, 3, true));
    assert_eq!(stuck(&bench), 0, "time alone is in its way");
    bench.now_ms += 3 * HOUR_MS;
    assert_eq!(stuck(&bench), 0, "it is due");
    bench.act();
    assert_eq!((bench.shown(A), bench.waits()), (vec![3], 0));

    bench.must(tlsa("remove"));
    bench.must(put(&[A], 4));
    assert_eq!(stuck(&bench), 1, "DNS is to forget the records");
    bench.must(gone(A));
    assert_eq!((stuck(&bench), bench.waits()), (0, 1), "and resolvers are");
}

#[test]
fn a_name_is_uncertified_while_the_acme_server_owes_it_a_certificate() {
    let mut bench = Bench::new(2, 0);
    let names = |bench: &Bench| -> Vec<String> {
        bench.state.uncertified_names(bench.now_ms).map(|row| row.name.clone()).collect()
    };
    assert!(names(&bench).is_empty(), "none is asked");
    let (setting, url) = ("rotation.acme_directory".to_owned(), "https://ca.test/dir".to_owned());
    bench.must(Command::SettingSet { name: setting, value: Some(url) });
    assert_eq!(names(&bench), [A, B], "also before it has refused any");
    bench.must(put(&[A], 1));
    assert_eq!(names(&bench), [B]);
    let fault = CertificateCommand::Fault { name: A.to_owned(), text: Some("no".to_owned()) };
    bench.must(Command::Certificate(fault));
    assert_eq!(names(&bench), [A, B], "nor will it be renewed");
    bench.must(put(&[A, B], 1));
    assert!(names(&bench).is_empty());
    bench.now_ms = 1000 * DAY_MS;
    assert_eq!(names(&bench), [A, B], "it has ended");
}
