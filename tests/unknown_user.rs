//! Labelled replies and reports from public sources, judged and scored; `tests/data/SOURCES.md`
//! says where they come from.

use std::path::PathBuf;

use mxfleet::smtp::Stage;
use mxfleet::verdict::{Class, Judgement, classify_dsn, classify_text};

/// True and false positives, and what was missed.
#[derive(Debug, Default)]
struct Score {
    hits: usize,
    false_positives: Vec<String>,
    missed: Vec<String>,
}

impl Score {
    fn add(&mut self, expected: &str, class: Class, what: String) {
        match (expected == "unknown_user", class == Class::UnknownUser) {
            (true, true) => self.hits += 1,
            (true, false) => self.missed.push(what),
            (false, true) => self.false_positives.push(what),
            (false, false) => {}
        }
    }

    fn check(&self, recall_min: f64) {
        let wanted = self.hits + self.missed.len();
        println!("{} of {wanted} found; missed: {:#?}", self.hits, self.missed);
        assert!(self.false_positives.is_empty(), "{:#?}", self.false_positives);
        assert!(self.hits as f64 >= recall_min * wanted as f64, "{:#?}", self.missed);
    }
}

#[test]
fn labelled_replies_give_no_false_positive_and_few_misses() {
    let mut score = Score::default();
    for row in include_str!("data/replies.tsv").lines().skip(1) {
        let columns: Vec<&str> = row.split('\t').collect();
        let [code, enhanced, text, expected, _source] = columns[..] else { panic!("{row}") };
        if expected == "ambiguous" {
            continue;
        }
        let raw = format!("{code} {enhanced} {}", text.replace("\\n", "\n"));
        let judgement = classify_text(Stage::Rcpt, &raw);
        score.add(expected, judgement.class, format!("{raw} ({})", judgement.why));
    }
    score.check(0.95);
}

#[test]
fn written_replies_give_no_false_positive_and_few_misses() {
    let mut score = Score::default();
    for row in include_str!("data/written.tsv").lines().skip(1) {
        let (expected, reply) = row.split_once('\t').unwrap_or_else(|| panic!("{row}"));
        let judgement = classify_text(Stage::Rcpt, reply);
        let why = judgement.why;
        assert_eq!(expected == "temporary", judgement.class == Class::Temporary, "{reply} ({why})");
        score.add(expected, judgement.class, format!("{reply} ({why})"));
    }
    score.check(0.95);
}

#[test]
fn found_replies_give_no_false_positive_and_few_misses() {
    let mut score = Score::default();
    for row in include_str!("data/found.tsv").lines().skip(1) {
        let columns: Vec<&str> = row.split('\t').collect();
        let [_batch, expected, reply, _source] = columns[..] else { panic!("{row}") };
        if expected == "ambiguous" {
            continue;
        }
        let Judgement { class, why } = classify_text(Stage::Rcpt, reply);
        assert_eq!(expected == "temporary", class == Class::Temporary, "{reply} ({why})");
        score.add(expected, class, format!("{reply} ({why})"));
    }
    score.check(0.95);
}

#[test]
fn labelled_notifications_give_no_false_positive_and_few_misses() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/dsn");
    let mut score = Score::default();
    for row in include_str!("data/dsn.tsv").lines().skip(1) {
        let columns: Vec<&str> = row.split('\t').collect();
        let [file, expected, recipient, ..] = columns[..] else { panic!("{row}") };
        if expected == "ambiguous" {
            continue;
        }
        let found = classify_dsn(&std::fs::read(folder.join(file)).unwrap());
        let ours = found.iter().find(|found| found.recipient.eq_ignore_ascii_case(recipient));
        let class = ours.map_or(Class::OtherPermanent, |found| found.class);
        score.add(expected, class, format!("{file} {recipient}: {found:?}"));
        // Nor may a recipient be made up that the labels do not know.
        let labels = include_str!("data/dsn.tsv").lines().filter(|row| row.starts_with(file));
        let labels: Vec<&str> = labels.collect();
        for other in found.iter().filter(|found| found.class == Class::UnknownUser) {
            let name = other.recipient.to_lowercase();
            assert!(labels.iter().any(|row| row.to_lowercase().contains(&name)), "{file} {name}");
        }
    }
    score.check(0.85);
}
