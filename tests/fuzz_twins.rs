//! The bodies of the fuzz targets, run on a bounded number of inputs: seeds cut at every place,
//! seeds changed at random, and pieces of the language that each of them reads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

#[path = "../fuzz/bodies.rs"]
mod bodies;
mod support;

use std::panic::catch_unwind;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::Union;
use support::Dice;

/// A fuzz target, as often as a test run has time for it.
struct Target {
    name: &'static str,
    body: fn(&[u8]),
    /// Each so-manieth value of the octet that says how a seed is cut.
    step: usize,
    /// Changed seeds.
    rounds: usize,
}

const TARGETS: [Target; 8] = [
    Target { name: "address", body: bodies::address, step: 1, rounds: 3000 },
    Target { name: "command", body: bodies::command, step: 1, rounds: 3000 },
    Target { name: "header", body: bodies::header, step: 1, rounds: 3000 },
    Target { name: "record", body: bodies::record, step: 1, rounds: 3000 },
    Target { name: "reply", body: bodies::reply, step: 1, rounds: 3000 },
    Target { name: "report", body: bodies::report, step: 1, rounds: 3000 },
    Target { name: "segment", body: bodies::segment, step: 64, rounds: 40 },
    Target { name: "text", body: bodies::text, step: 1, rounds: 3000 },
];

fn files(folder: &str) -> Vec<std::path::PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder);
    let entries = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// What `fuzz/run` begins with, too.
fn seeds(target: &Target) -> Vec<Vec<u8>> {
    let seeds = files(&format!("seeds/{}", target.name));
    seeds.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

#[test]
fn every_target_has_a_twin_here() {
    let stem = |file: &std::path::PathBuf| file.file_stem().unwrap().display().to_string();
    let mut targets: Vec<String> = files("fuzz_targets").iter().map(stem).collect();
    // Those of the fleet have theirs in cluster/src/fuzzing.rs.
    targets.retain(|target| !target.starts_with("cluster_"));
    assert_eq!(targets, TARGETS.map(|target| target.name));
}

#[test]
fn seeds_are_the_same_wherever_they_are_cut() {
    for target in &TARGETS {
        for mut seed in seeds(target) {
            // The first octet is the size of the pieces, so that each place is the end of a first
            // piece once. Where nothing is cut, it is an octet like others.
            assert!(seed.len() <= 256, "{}: a seed too long for that", target.name);
            for octet in (0..=u8::MAX).step_by(target.step) {
                seed[0] = octet;
                (target.body)(&seed);
            }
        }
    }
}

#[test]
fn changed_seeds_break_nothing() {
    let chosen = std::env::var("FUZZ_SEED").map(|text| text.parse().unwrap());
    let number = chosen.unwrap_or_else(|_| mxfleet::system::clock::wall_us());
    println!("FUZZ_SEED={number} repeats this");
    for target in &TARGETS {
        let (seeds, mut dice) = (seeds(target), Dice::new(number));
        for _ in 0..target.rounds {
            let data = changed(&seeds, &mut dice);
            let done = catch_unwind(|| (target.body)(&data));
            let name = target.name;
            assert!(done.is_ok(), "{name}, FUZZ_SEED={number}: \"{}\"", data.escape_ascii());
        }
    }
}

/// One of the seeds, with one to eight changes.
fn changed(seeds: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut data = seeds[dice.below(seeds.len())].clone();
    for _ in 0..=dice.below(8) {
        let (from, to) = (dice.below(data.len() + 1), dice.below(data.len() + 1));
        let range = from.min(to)..from.max(to);
        match dice.below(6) {
            0 => _ = data.drain(range),
            1 => data.insert(from, dice.roll().to_be_bytes()[0]),
            2 => data.insert(from, b"\r\n\0.<>@\"-: 25"[dice.below(13)]),
            3 => data.truncate(from),
            // A piece again, or one of another seed.
            4 => {
                let piece = data[range].to_vec();
                data.splice(to..to, piece);
            }
            _ => {
                let other = &seeds[dice.below(seeds.len())];
                let piece = other[dice.below(other.len())..].to_vec();
                data.splice(from..from, piece);
            }
        }
        data.truncate(4096);
    }
    data
}

/// Failing inputs are printed, not kept in a file: they become tests with a name.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Octets made of these words and of noise, behind one octet for the cutting.
fn words(words: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let mut parts: Vec<BoxedStrategy<Vec<u8>>> =
        words.iter().map(|word| Just(word.as_bytes().to_vec()).boxed()).collect();
    parts.push(vec(any::<u8>(), 0..6).boxed());
    (1..40u8, vec(Union::new(parts), 0..24)).prop_map(|(size, parts)| {
        let mut data = vec![size];
        data.extend(parts.concat());
        data
    })
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn commands_are_the_same_wherever_they_are_cut(data in words(&[
        "\r\n", "\n", "\r", "\0", "EHLO a", "MAIL FROM:<", "RCPT TO:<", "a@b.test", ">", " SIZE=1",
        " BODY=8BITMIME", "BDAT 10", " LAST", "NOOP", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    ])) {
        bodies::command(&data);
    }

    #[test]
    fn an_address_that_is_taken_is_taken_again(data in words(&[
        "a", "@", ".", "b.test", "\"", "\\", "[", "]", "IPv6:::1", "127.0.0.1", "ü", "xn--", "%",
        "!", "postmaster", "<", ">", " ", "\t", "-", "ß", "\u{3002}",
    ])) {
        bodies::address(&data[1..]);
    }

    #[test]
    fn replies_are_the_same_wherever_they_are_cut(data in words(&[
        "250 ok\r\n", "550-5.1.1 a\r\n", "550 5.1.1 b\r\n", "4", "51 ", "\r\n", "\n", "\r", "220-",
        "999 x\r\n", "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy",
    ])) {
        bodies::reply(&data);
    }

    #[test]
    fn a_text_ends_at_the_same_place_wherever_it_is_cut(data in words(&[
        "\r\n", ".", "\r\n.\r\n", "\r\n..", "\n", "\r", "\0", "body", "\r\n.\r", "\n.\r\n",
    ])) {
        bodies::text(&data);
    }

    #[test]
    fn any_octets_are_read_as_a_report_in_bounds(data in words(&[
        "Content-Type: multipart/report; boundary=b", "\n", "\r\n", "--b", "--b--", "\n\n",
        "Content-Type: message/delivery-status\n\n", "Content-Type: message/rfc822\n\n",
        "Final-Recipient: rfc822; a@b.test", "Action: failed\n", "Status: 5.1.1\n", "<a@b.test>",
        "Diagnostic-Code: smtp; 550 5.1.1 no", "Content-Transfer-Encoding: base64\n", "rp-aaaa",
        "host x said: 550 User unknown", "X-Failed-Recipients: a@b.test\n", "Subject: x\n", "\0",
    ])) {
        bodies::report(&data[1..]);
    }

    #[test]
    fn any_octets_are_read_as_a_senders_record(data in words(&[
        " ", " -all", " ~all", "a:", "mx/24", " include:", "exists:%{i}.", "%{l1r-}", "%{d2}",
        "%{ir}.%{v}", "%{h}", "%%", "%_", "%{", "}", "redirect=", "exp=", "ip4:1.2.3.4/33",
        "ip6:::1", "ptr:", "a.test", " k=rsa;", " k=ed25519;", " p=", "MIIB", "==", ";", "t=s:y",
    ])) {
        bodies::record(&data[1..]);
    }

    #[test]
    fn headers_are_the_same_wherever_they_are_cut(data in words(&[
        "Authentication-Results:", " ", "\t", "\r\n", "\r\n ", "mx1.test", "mx2.test", ";", "(",
        ")", "\\", "\"", "From: a@a.test\r\n", "\r\n\r\n", "A", "\r\n..", "body\r\n", "=", "v=1;",
        "DKIM-Signature: v=1; a=rsa-sha256; d=a.test; s=s; c=relaxed/relaxed; h=from; bh=aaaa; \
         b=aaaa\r\n",
        "DKIM-Signature: v=1; a=ed25519-sha256; d=b.test; s=s; c=simple/simple; h=from:to; \
         bh=YWFh; b=YWFh; l=3\r\n",
    ])) {
        bodies::header(&data);
    }
}

proptest! {
    #![proptest_config(cases(80))]

    #[test]
    fn a_damaged_segment_never_gives_out_a_wrong_text(data in vec(any::<u8>(), 1..42)) {
        bodies::segment(&data);
    }
}

#[test]
fn an_undamaged_segment_gives_out_every_text() {
    bodies::segment(&[0]);
}
